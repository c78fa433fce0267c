"""Pictures of reductions and of comparisons between methods."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sextet_common.errors import InputError
from sextet_common.figures import COLOURS, figure_file

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.api import Reduction

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = COLOURS[5]
_COLOURS = COLOURS[:5]
_DASHES = ("-", "--", ":", "-.")  # one for each repetition of the colours
_PIXELS = 160
_SIGMAS = 4  # extent of a component in one dimension, in standard deviations from its mean


class Ellipse(NamedTuple):
    """A component's one-sigma ellipse: centre (2,), half axes (the longer first), and the longer one's angle.

    The half axes are the square roots of the covariance's eigenvalues; the angle is in degrees, from -90 to 90.
    """

    centre: np.ndarray
    axes: tuple[float, float]
    angle: float


def ellipses(mixture: GaussianMixture) -> list[Ellipse]:
    """Return the one-sigma ellipses of a mixture in two dimensions.

    Examples
    --------
    >>> [ellipse] = ellipses(GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 4.0]]]))
    >>> ellipse.axes, abs(ellipse.angle)
    ((2.0, 1.0), 90.0)
    """
    if mixture.dim != 2:
        raise InputError(f"a mixture of {mixture.dim} dimensions", "two dimensions")
    values, vectors = np.linalg.eigh(mixture.convert("full").covariances)
    angles = np.degrees(np.arctan2(vectors[:, 1, 1], vectors[:, 0, 1]))
    return [
        Ellipse(mean, (float(long), float(short)), float((angle + 90) % 180 - 90))
        for mean, (short, long), angle in zip(mixture.means, np.sqrt(values), angles, strict=True)
    ]


def plot_reduction(reduction: Reduction, path: str | os.PathLike[str], names: Sequence[str] = ()) -> None:
    """Draw a reduction as one PNG file, with the ``names`` of its one or two dimensions, units included.

    In one dimension this shows both densities and their components; in two the original's density, the reduced
    components as ellipses of one and two sigma with a dot for the weight, and the original ones faintly in the colour
    of their group. More dimensions are projected onto the original's two principal axes. Colours repeat after five
    components, with another dash.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from gmr_metric import reduce
    >>> path = Path(tempfile.mkdtemp()) / "reduction.png"
    >>> mixture = GaussianMixture([0.4, 0.1, 0.5], [[0.0], [0.5], [9.0]], np.ones((3, 1, 1)))
    >>> plot_reduction(reduce(mixture, 2), path)
    >>> path.read_bytes()[1:4]
    b'PNG'
    """
    original, reduced = reduction.original, reduction.mixture
    if names and (len(names) != original.dim or len(names) > 2):
        raise InputError(f"{len(names)} names of {original.dim} dimensions", "one of each, of at most two")
    title = f"{len(original)} components to {len(reduced)}, angle {reduction.distance:.3g}"
    if original.dim == 1:
        with figure_file(path, (6.5, 3.6), title=title) as figure:
            axis = figure.subplots()
            _draw_line(axis, original, reduced)
            axis.set_xlabel(names[0] if names else "")
        return
    names = names or ("dimension 0", "dimension 1")
    if original.dim > 2:
        values, vectors = np.linalg.eigh(original.covariance())
        plane = vectors[:, ::-1][:, :2].T
        original, reduced = original.affine(plane), reduced.affine(plane)
        share = values[-2:].sum() / values.sum()
        title += f"\nprojected onto two principal axes, {share:.0%} of the variance"
        names = ("first principal axis", "second principal axis")
    with figure_file(path, (6.5, 5.6), title=title) as figure:
        axis = figure.subplots()
        _draw_plane(axis, original, reduced, reduction.assignment)
        axis.set_xlabel(names[0])
        axis.set_ylabel(names[1])


def plot_comparison(rows: Mapping[str, tuple[float, float]], path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw methods' angles and seconds side by side as one PNG file.

    ``rows`` maps each method to (angle in radians, seconds), from top to bottom.
    """
    if not rows:
        raise InputError("no method to draw", "at least one")
    with figure_file(path, (7.0, 1.0 + 0.3 * len(rows)), title=title) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        _draw_comparison(left, right, rows)


def _draw_comparison(left: Axes, right: Axes, rows: Mapping[str, tuple[float, float]]) -> None:
    """Draw the angles as bars from zero and the seconds as points on a logarithmic axis, each with its number."""
    places = np.arange(len(rows))[::-1]
    angles, seconds = zip(*rows.values(), strict=True)
    bars = left.barh(places, angles, height=0.6, color=COLOURS[0])
    left.bar_label(bars, labels=[f"{angle:.3g}" for angle in angles], padding=3, fontsize=8)
    left.margins(x=0.2)  # room for the numbers
    left.set_xlabel("angle to the original (radians)")
    left.set_yticks(places, list(rows))
    left.set_xlim(left=0)
    right.plot(seconds, places, "o", color=COLOURS[1])
    for second, place in zip(seconds, places, strict=True):
        right.annotate(
            f"{second:.2g}", (second, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8
        )
    right.set_xscale("log")
    right.margins(x=0.2)
    right.set_xlabel("seconds")
    for axis in (left, right):
        axis.tick_params(axis="y", length=0)
        axis.grid(visible=False, axis="y")
        axis.set_axisbelow(True)


def _style(group: int) -> tuple[str, str]:
    """Return the colour and the dash of a reduced component."""
    return _COLOURS[group % len(_COLOURS)], _DASHES[group // len(_COLOURS) % len(_DASHES)]


def _draw_line(axis: Axes, original: GaussianMixture, reduced: GaussianMixture) -> None:
    """Draw two densities in one dimension, and the components of both."""
    own = [_component_points(mixture) for mixture in (original, reduced)]
    low, high = min(x.min() for x in own), max(x.max() for x in own)
    even = np.linspace(low, high, 1000)
    # An even grid could miss a narrow peak: narrow components add their own points.
    narrow = [x[np.ptp(x, axis=1) < 20 * (even[1] - even[0])].ravel() for x in own]
    points = np.unique(np.concatenate([even, *narrow]))
    axis.fill_between(
        points, original.pdf(points[:, None]), color=_GREY, alpha=0.35, linewidth=0, label="original density"
    )
    axis.plot(points, reduced.pdf(points[:, None]), color=COLOURS[1], linewidth=1.6, label="reduced density")
    for mixture, x, dash, colour, width, label in (
        (original, own[0], "-", _GREY, 0.6, "original components"),
        (reduced, own[1], "--", COLOURS[0], 1.0, "reduced components"),
    ):
        deviation = mixture.cholesky.reshape(-1, 1)
        peak = mixture.weights[:, None] / (math.sqrt(2 * math.pi) * deviation)
        y = peak * np.exp(-0.5 * ((x - mixture.means) / deviation) ** 2)
        # One line for all components, separated by gaps.
        x, y = (np.pad(a, ((0, 0), (0, 1)), constant_values=np.nan).ravel() for a in (x, y))
        axis.plot(x, y, dash, color=colour, linewidth=width, label=label)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("x")
    axis.set_ylabel("density")
    axis.legend(frameon=False)


def _component_points(mixture: GaussianMixture) -> np.ndarray:
    """Return points where each component has its weight, shape (components, 81)."""
    points: np.ndarray = mixture.means + mixture.cholesky.reshape(-1, 1) * np.linspace(-_SIGMAS, _SIGMAS, 81)
    return points


def _draw_plane(axis: Axes, original: GaussianMixture, reduced: GaussianMixture, assignment: np.ndarray) -> None:
    """Draw the original's density, its components faintly, and the reduced ones, in the colours of their groups."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    low, high = _window(original, reduced)
    x, y = (np.linspace(a, b, _PIXELS) for a, b in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    root = np.sqrt(original.pdf(grid)).reshape(_PIXELS, _PIXELS)  # to show the tails too
    extent = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    axis.imshow(root, cmap="Greys", alpha=0.55, origin="lower", extent=extent, aspect="auto", interpolation="bilinear")
    for part, group in zip(ellipses(original), assignment.tolist(), strict=True):
        colour, dash = _style(group)
        _add_ellipse(axis, part, 1, color=colour, linestyle=dash, alpha=0.5, linewidth=0.6)
    for group, (part, weight) in enumerate(zip(ellipses(reduced), reduced.weights, strict=True)):
        colour, dash = _style(group)
        for sigmas, width in ((1, 2.0), (2, 1.0)):
            _add_ellipse(axis, part, sigmas, color=colour, linestyle=dash, linewidth=width)
        axis.plot(*part.centre, "o", color=colour, markersize=2 + 12 * math.sqrt(weight), markeredgecolor="white")
    keys = [
        Patch(color="#bbbbbb", label="original density"),
        Line2D([], [], color=_GREY, linewidth=0.8, label="its components, 1 sigma"),
        Line2D([], [], color="black", linewidth=2.0, label="reduced, 1 sigma"),
        Line2D([], [], color="black", linewidth=1.0, label="2 sigma"),
        Line2D([], [], color="black", marker="o", linestyle="", markersize=5, label="its weight"),
    ]
    axis.legend(
        handles=keys,
        frameon=False,
        ncols=len(keys),
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0.2,
        fontsize=8,
        columnspacing=1.2,
        handlelength=1.4,
    )
    axis.set_xlim(low[0], high[0])
    axis.set_ylim(low[1], high[1])
    axis.grid(visible=False)


def _window(original: GaussianMixture, reduced: GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of a window with the whole reduced ellipses, and all but the original's outliers."""
    spread, wide = (np.sqrt(m.convert("diag").covariances) for m in (original, reduced))
    low = np.quantile(original.means - 2.5 * spread, 0.02, axis=0)
    high = np.quantile(original.means + 2.5 * spread, 0.98, axis=0)
    return np.minimum(low, (reduced.means - 2.2 * wide).min(axis=0)), np.maximum(
        high, (reduced.means + 2.2 * wide).max(axis=0)
    )


def _add_ellipse(axis: Axes, part: Ellipse, sigmas: int, **style: Any) -> None:
    from matplotlib.patches import Ellipse as Patch

    width, height = (2 * sigmas * half for half in part.axes)
    axis.add_patch(Patch(tuple(part.centre), width, height, angle=part.angle, fill=False, **style))
