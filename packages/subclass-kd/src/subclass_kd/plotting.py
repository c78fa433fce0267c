"""Pictures of a comparison: gains with their intervals, confusion of subclasses, bits beside gain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer
from sextet_common import figures
from sextet_common.errors import InputError

from subclass_kd.compare import NAMES, Comparison, check_points
from subclass_kd.hierarchy import Hierarchy


def save_gains(comparison: Comparison, path: str | os.PathLike[str], *, title: str = "") -> Path:
    """Draw every method's F1 over the student alone, with 95 % intervals of the paired differences.

    Parameters
    ----------
    comparison
        What `compare` returned, the student alone among its methods.
    path
        The PNG file.
    title
        The picture's title.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        Where the student alone was not trained, or nothing else was.
    """
    methods = [name for name in comparison.scores if name not in ("teacher", "alone")]
    if "alone" not in comparison.scores or not methods:
        raise InputError(f"methods {', '.join(comparison.scores)}", "alone, and one more at least")
    gains = [comparison.difference(name, "alone") for name in methods]
    with figures.figure_file(path, (6.4, 0.5 * len(methods) + 1.4), title=title) as figure:
        axis = figure.subplots()
        for place, (name, gain) in enumerate(zip(methods, gains, strict=True)):
            colour = figures.COLOURS[place % len(figures.COLOURS)]
            if np.isfinite(gain.low):
                axis.plot([gain.low, gain.high], [place, place], color=colour, linewidth=2)
            axis.plot([gain.mean], [place], "o", color=colour, label=name)
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
    """Draw which subclasses are taken for which, class by class: what lies outside a class's square is a wrong class.

    Parameters
    ----------
    predicted, labels
        Subclasses, shape (images,).
    hierarchy
        Their classes.
    path
        The PNG file.
    title
        The picture's title.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        Where a label is out of range or there are not as many of both.
    """
    p, y = hierarchy.check_labels(np.asarray(predicted)), hierarchy.check_labels(np.asarray(labels))
    if p.shape != y.shape or p.ndim != 1:
        raise InputError(f"predictions and labels have shapes {p.shape} and {y.shape}", "(images,) both")
    count = hierarchy.n_subclasses
    table = np.zeros((count, count))
    np.add.at(table, (y, p), 1)
    order = np.argsort(hierarchy.class_of, kind="stable")
    share = (table / np.maximum(table.sum(axis=1, keepdims=True), 1))[order][:, order]
    names = [hierarchy.subclass_names[s] for s in order]
    edges = np.cumsum(hierarchy.sizes)[:-1] - 0.5
    side = max(3.5, 0.42 * count + 1.5)
    with figures.figure_file(path, (side + 0.8, side), title=title) as figure:
        axis = figure.subplots()
        picture = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for edge in edges:
            axis.axhline(edge, color="0.3", linewidth=1)
            axis.axvline(edge, color="0.3", linewidth=1)
        axis.set_xticks(range(count), names, rotation=90)
        axis.set_yticks(range(count), names)
        axis.set_xlabel("predicted")
        axis.set_ylabel("true")
        figure.colorbar(picture, ax=axis, shrink=0.8, label="share of the true subclass")
    return Path(path)


def save_bits(
    points: Sequence[tuple[str, Comparison]], path: str | os.PathLike[str], *, reading: int = 0, to: str = "kd"
) -> Path:
    """Draw label bits beside the gain of subclass distillation, a point for each comparison.

    Parameters
    ----------
    points
        Names and comparisons, such as of several data sets or shares of labels.
    path
        The PNG file.
    reading
        Which of the comparisons' bits: 0 label entropy, 1 the teacher's, 2 mutual information.
    to
        What the gain of "skd" is over.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        Where there is no point, or one lacks a method.
    """
    check_points(points, "skd", to)
    with figures.figure_file(path, (5.4, 3.8)) as figure:
        axis = figure.subplots()
        for place, (name, comparison) in enumerate(points):
            bits, gain = comparison.bits[reading], comparison.difference("skd", to)
            colour = figures.COLOURS[place % len(figures.COLOURS)]
            axis.plot([bits.low, bits.high], [gain.mean, gain.mean], color=colour, linewidth=1.5)
            if np.isfinite(gain.low):
                axis.plot([bits.value, bits.value], [gain.low, gain.high], color=colour, linewidth=1.5)
            axis.plot([bits.value], [gain.mean], "o", color=colour, label=name)
        axis.axhline(0, color="0.6", linewidth=1)
        axis.set_xlabel(f"{points[0][1].bits[reading].name}, bits a sample")
        axis.set_ylabel(f"F1 of SKD over {NAMES.get(to, to)}, points")
        axis.legend(frameon=False, fontsize=8)
    return Path(path)
