"""Figures: gains with their intervals, confusion of subclasses, label bits beside gain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer
from sextet_common import figures, text
from sextet_common.errors import InputError

from subclass_kd.comparison import NAMES, Comparison, check_points
from subclass_kd.hierarchy import Hierarchy


def save_gains(comparison: Comparison, path: str | os.PathLike[str], *, title: str = "") -> Path:
    """Plot every method's F1 over the student alone, with 95 % intervals of the paired differences, as a PNG file."""
    methods = [name for name in comparison.scores if name not in ("teacher", "alone")]
    if "alone" not in comparison.scores or not methods:
        raise InputError(f"methods {', '.join(comparison.scores)}", "alone and at least one more")
    gains = [comparison.difference(name, "alone") for name in methods]
    with figures.figure_file(path, (6.4, 0.5 * len(methods) + 1.4), title=title) as figure:
        axis = figure.subplots()
        for y, (name, gain) in enumerate(zip(methods, gains, strict=True)):
            color = figures.COLOURS[y % len(figures.COLOURS)]
            if np.isfinite(gain.low):
                axis.plot([gain.low, gain.high], [y, y], color=color, linewidth=2)
            axis.plot([gain.mean], [y], "o", color=color, label=name)
        axis.axvline(0, color="0.6", linewidth=1)
        axis.set_yticks(range(len(methods)), [NAMES.get(name, name) for name in methods])
        axis.set_ylim(-0.6, len(methods) - 0.4)
        axis.invert_yaxis()
        axis.set_xlabel("F1 over the student alone, points")
    return Path(path)


def save_confusion(
    predicted: Integer[np.ndarray, " images"],
    labels: Integer[np.ndarray, " images"],
    hierarchy: Hierarchy,
    path: str | os.PathLike[str],
    *,
    title: str = "",
) -> Path:
    """Plot the confusion matrix of subclasses as a PNG file, sorted by class; lines separate the classes.

    Entries outside the squares on the diagonal are errors of the class. Images whose subclass is not known are left
    out.
    """
    p, y = hierarchy.check_labels(np.asarray(predicted)), hierarchy.check_labels(np.asarray(labels), all_known=False)
    if p.shape != y.shape or p.ndim != 1:
        raise InputError(f"predictions and labels have shapes {p.shape} and {y.shape}", "(images,) for both")
    count, known = hierarchy.n_subclasses, y >= 0
    table = np.zeros((count, count))
    np.add.at(table, (y[known], p[known]), 1)
    order = np.argsort(hierarchy.class_of, kind="stable")
    share = (table / np.maximum(table.sum(axis=1, keepdims=True), 1))[order][:, order]
    names = [text.label(hierarchy.subclass_names[s], 40) for s in order]
    side = max(3.5, 0.42 * count + 1.5)
    with figures.figure_file(path, (side + 0.8, side), title=title) as figure:
        axis = figure.subplots()
        image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for edge in np.cumsum(hierarchy.sizes)[:-1] - 0.5:
            axis.axhline(edge, color="0.3", linewidth=1)
            axis.axvline(edge, color="0.3", linewidth=1)
        axis.set_xticks(range(count), names, rotation=90)
        axis.set_yticks(range(count), names)
        axis.set_xlabel("predicted")
        axis.set_ylabel("true")
        figure.colorbar(image, ax=axis, shrink=0.8, label="share of the true subclass")
    return Path(path)


def save_bits(
    points: Sequence[tuple[str, Comparison]],
    path: str | os.PathLike[str],
    *,
    reading: int = 0,
    method: str = "skd",
    to: str = "kd",
) -> Path:
    """Plot label bits beside the gain from subclass distillation as a PNG file, one row per data set, most bits first.

    Parameters
    ----------
    points
        Names and comparisons, such as of several data sets or shares of labels: one row each.
    path
        The PNG file.
    reading
        Index of the reading in the comparisons' bits: 0 label entropy, 1 the teacher's, 2 mutual information.
    method, to
        The methods whose F1 are compared.
    """
    check_points(points, method, to)
    rows = sorted(points, key=lambda point: -point[1].bits[reading].value)
    with figures.figure_file(path, (8.0, 0.45 * len(rows) + 1.2)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for y, (_, comparison) in enumerate(rows):
            bits, gain = comparison.bits[reading], comparison.difference(method, to)
            for axis, value, shown in ((left, bits.value, bits), (right, gain.mean, gain)):
                if np.isfinite(shown.low):
                    axis.plot([shown.low, shown.high], [y, y], color=figures.COLOURS[0], linewidth=2)
                axis.plot([value], [y], "o", color=figures.COLOURS[0])
        right.axvline(0, color="0.6", linewidth=1)
        left.set_yticks(range(len(rows)), [text.label(name, 60) for name, _ in rows])
        left.set_ylim(len(rows) - 0.4, -0.6)
        left.set_xlabel(f"{rows[0][1].bits[reading].name}, bits per sample")
        right.set_xlabel(f"F1 of {NAMES.get(method, method)}\nover {NAMES.get(to, to)}, points")
    return Path(path)
