"""Pictures of reductions and of comparisons between methods."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sextet_common.errors import InputError
from sextet_common.figures import COLOURS, figure_file

from gmr_metric.mixture import GaussianMixture
from gmr_metric.reduction import Reduction

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FAINT = "#8d99ae"


class Ellipse(NamedTuple):
    """A component's one-sigma ellipse in the plane.

    Attributes
    ----------
    centre
        Shape (2,).
    axes
        The half axes, square roots of the covariance's eigenvalues, the longer first.
    angle
        The direction of the longer one in degrees, from -90 to 90.
    """

    centre: np.ndarray
    axes: tuple[float, float]
    angle: float


def ellipses(mixture: GaussianMixture) -> list[Ellipse]:
    """Return the one-sigma ellipses of a mixture in two dimensions.

    Raises
    ------
    InputError
        Where the mixture has another number of dimensions.

    Examples
    --------
    >>> [found] = ellipses(GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 4.0]]]))
    >>> found.axes, abs(found.angle)
    ((2.0, 1.0), 90.0)
    """
    if mixture.dim != 2:
        raise InputError(f"a mixture of {mixture.dim} dimensions", "two dimensions")
    values, vectors = np.linalg.eigh(mixture.covariances)
    found = []
    for mean, (short, long), vector in zip(mixture.means, np.sqrt(values), vectors[:, :, 1], strict=True):
        angle = math.degrees(math.atan2(vector[1], vector[0]))
        found.append(Ellipse(mean, (float(long), float(short)), (angle + 90) % 180 - 90))
    return found


def plot_reduction(reduction: Reduction, path: str | os.PathLike[str]) -> None:
    """Draw a reduction as one PNG.

    In one dimension both densities and the reduced components are drawn; in two the original's density, its
    components as faint ellipses and the reduced ones as coloured ellipses of one and two sigma; more dimensions
    are projected onto the original's two principal axes.

    Parameters
    ----------
    reduction
        The reduction.
    path
        The PNG file.

    Raises
    ------
    InputError
        Where the extra ``plot`` is missing.

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
    title = f"{len(original)} components to {len(reduced)}, angle {reduction.distance:.3g}"
    if original.dim == 1:
        with figure_file(path, (6.5, 3.6), title=title) as figure:
            _draw_line(figure.subplots(), original, reduced)
        return
    if original.dim > 2:
        values, vectors = np.linalg.eigh(original.covariance())
        plane = vectors[:, ::-1][:, :2].T
        original, reduced = original.affine(plane), reduced.affine(plane)
        share = values[-2:].sum() / values.sum()
        title += f"\nprojected onto two principal axes, {share:.0%} of the variance"
    with figure_file(path, (6.5, 5.2), title=title) as figure:
        _draw_plane(figure.subplots(), original, reduced, reduction.assignment)


def plot_comparison(rows: Mapping[str, tuple[float, float]], path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw methods' angles and seconds beside one another as one PNG.

    Parameters
    ----------
    rows
        Method to (angle in radians, seconds), from top to bottom.
    path
        The PNG file.
    title
        The picture's title.

    Raises
    ------
    InputError
        Where there are no rows, or the extra ``plot`` is missing.
    """
    if not rows:
        raise InputError("no method to draw", "at least one")
    names = list(rows)
    with figure_file(path, (7.0, 1.0 + 0.3 * len(names)), title=title) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        places = np.arange(len(names))[::-1]
        for axis, column, label, colour in (
            (left, 0, "angle to the original (radians)", COLOURS[0]),
            (right, 1, "seconds", COLOURS[1]),
        ):
            values = [rows[name][column] for name in names]
            axis.hlines(places, min(values), values, color=colour, alpha=0.3, linewidth=2)
            axis.plot(values, places, "o", color=colour)
            axis.set_xscale("log")
            axis.set_xlabel(label)
        left.set_yticks(places, names)


def _draw_line(axis: Axes, original: GaussianMixture, reduced: GaussianMixture) -> None:
    """Draw two densities over the line, and the reduced components under theirs."""
    spread = np.sqrt(np.concatenate([m.covariances[:, 0, 0] for m in (original, reduced)]))
    centres = np.concatenate([original.means[:, 0], reduced.means[:, 0]])
    points = np.linspace((centres - 4 * spread).min(), (centres + 4 * spread).max(), 1000)[:, None]
    axis.fill_between(points[:, 0], original.pdf(points), color=_FAINT, alpha=0.35, linewidth=0, label="original")
    axis.plot(points, reduced.pdf(points), color=COLOURS[1], linewidth=1.6, label="reduced")
    for i in range(len(reduced)):
        single = GaussianMixture(np.ones(1), reduced.means[[i]], reduced.covariances[[i]])
        label = "its components" if i == 0 else None
        axis.plot(points, reduced.weights[i] * single.pdf(points), "--", color=COLOURS[0], linewidth=0.9, label=label)
    axis.set_xlabel("x")
    axis.set_ylabel("density")
    axis.legend(frameon=False)


def _draw_plane(axis: Axes, original: GaussianMixture, reduced: GaussianMixture, assignment: np.ndarray) -> None:
    """Draw the original's density, its components faintly and the reduced ones, in their groups' colours."""
    from matplotlib.patches import Ellipse as Patch

    spread = np.sqrt(np.diagonal(original.covariances, axis1=1, axis2=2))
    low = np.quantile(original.means - 2.5 * spread, 0.02, axis=0)
    high = np.quantile(original.means + 2.5 * spread, 0.98, axis=0)
    x, y = (np.linspace(a, b, 160) for a, b in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    density = original.pdf(grid).reshape(160, 160)
    extent = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    root = np.sqrt(density)  # shows the tails too
    axis.imshow(root, cmap="Greys", alpha=0.55, origin="lower", extent=extent, aspect="auto", interpolation="bilinear")
    colours = list(itertools.islice(itertools.cycle(COLOURS[:5]), len(reduced)))
    for part, group in zip(ellipses(original), assignment.tolist(), strict=True):
        size = {"width": 2 * part.axes[0], "height": 2 * part.axes[1]}
        axis.add_patch(
            Patch(tuple(part.centre), **size, angle=part.angle, fill=False, color=colours[group], alpha=0.35, lw=0.5)
        )
    for part, weight, colour in zip(ellipses(reduced), reduced.weights, colours, strict=True):
        for sigmas, width in ((1, 2.0), (2, 1.0)):
            size = {"width": 2 * sigmas * part.axes[0], "height": 2 * sigmas * part.axes[1]}
            patch = Patch(tuple(part.centre), **size, angle=part.angle, fill=False, color=colour, lw=width)
            axis.add_patch(patch)
        axis.plot(*part.centre, "o", color=colour, markersize=2 + 12 * math.sqrt(weight), markeredgecolor="white")
    axis.set_xlim(low[0], high[0])
    axis.set_ylim(low[1], high[1])
    axis.grid(visible=False)
