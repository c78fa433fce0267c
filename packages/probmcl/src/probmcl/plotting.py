"""Two pictures: the map of labels and images, and the images with the highest uncertainty."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from sextet_common import figures, text
from sextet_common.checks import check
from sextet_common.errors import InputError
from sextet_common.seeding import derive

from probmcl.data.sets import Split
from probmcl.model import ProbMCL
from probmcl.reliability import kinds
from probmcl.reliability.kinds import Kind

Projection = Literal["tsne", "pca"]
_MARKER = 9.0  # points across a label's mark in the map


def prototypes(model: ProbMCL, data: Split) -> tuple[Float[np.ndarray, "rows dims"], Float[np.ndarray, "labels dims"]]:
    """Compute a point for every image and one for every label, in one space.

    An image's point is its mixture's mean, or its features if the model's mixtures have no trained weights. A label's
    point is the mean over its images, weighted by 1 / number of labels, so that an image with few labels counts more.
    Every label needs an image.
    """
    labels = np.array(data.labels, dtype=np.float64)
    absent = np.flatnonzero(labels.sum(axis=0) == 0)
    if len(absent):
        raise InputError(f"label {model.label_names[absent[0]]!r} has no image", "an image of every label")
    if model.config.trains_weights:
        mixtures = model.mixtures(data)
        points = (mixtures.log_weights.exp()[..., None] * mixtures.means).sum(dim=1).double().numpy()
    else:
        points = model.embed(data).double().numpy()
    share = labels / labels.sum(axis=1, keepdims=True).clip(min=1)
    return points, (share.T @ points) / share.sum(axis=0)[:, None]


def save_map(
    model: ProbMCL, data: Split, path: str | os.PathLike[str], *, projection: Projection = "tsne", seed: int = 0
) -> Path:
    """Draw labels and images in two dimensions and return the file; labels that are seen together lie close.

    ``data`` holds at least 10 images, with every label. The projection "tsne" (scikit-learn's) keeps neighbours; "pca"
    is linear, so that distances are comparable.
    """
    check("projection", projection, Projection)
    if len(data) < 10:
        raise InputError(f"a map of {len(data)} images", "at least 10")
    points, centres = prototypes(model, data)
    flat = _flattened(np.concatenate([points, centres]), projection, seed)
    images, labels = flat[: len(points)], flat[len(points) :]
    table = np.array(data.labels)
    single = table.sum(axis=1) == 1
    grown = max(1.0, (len(labels) / 25) ** 0.5)  # room for many names
    with figures.figure_file(path, (7.0 * grown, 6.0 * grown)) as figure:
        axis = figure.subplots()
        axis.set_title("Labels, and the images that carry them")
        named = "images of several labels, or none"
        axis.scatter(images[~single, 0], images[~single, 1], s=7, color="0.8", label=named, linewidths=0)
        colour_of = [figures.COLOURS[label % len(figures.COLOURS)] for label in range(len(labels))]
        if single.any():
            colours = [colour_of[label] for label in table[single].argmax(axis=1)]
            named = "images of one label, in its colour"
            axis.scatter(images[single, 0], images[single, 1], s=9, c=colours, label=named, linewidths=0)
        axis.scatter(labels[:, 0], labels[:, 1], s=_MARKER**2, c=colour_of, edgecolors="white", zorder=3)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)  # the axes of a map have no meaning
        axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, fontsize=8, markerscale=2)
        _write_names(axis, model.label_names, labels, colour_of)
    return Path(path)


def _write_names(
    axis: Any, names: Sequence[str], points: Float[np.ndarray, "names 2"], colours: Sequence[str]
) -> list[Any]:
    """Write a name near each point, inside the axes, so that no two names overlap, and join those that are far away."""
    figure = axis.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the axes stay where they are from here on
    area, scale = axis.get_window_extent(), figure.dpi / 72  # pixels a point
    anchors = axis.transData.transform(points)
    texts = [
        axis.text(0, 0, text.label(name, 24), transform=None, ha="center", va="center", fontsize=9, zorder=5)
        for name in names
    ]
    while True:
        boxes = [shown.get_window_extent() for shown in texts]
        sizes = np.array([(box.width, box.height) for box in boxes]) + 4 * scale
        places = _free_places(anchors, sizes, (area.x0, area.y0, area.x1, area.y1), _MARKER * scale)
        if places is not None:
            break
        for shown in texts:
            shown.set_fontsize(0.85 * float(shown.get_fontsize()))
    inside = axis.transAxes.inverted()
    for shown, place, anchor, size, colour in zip(texts, places, anchors, sizes, colours, strict=True):
        shown.set(position=inside.transform(place), transform=axis.transAxes)
        shown.set_bbox({"facecolor": "white", "edgecolor": colour, "alpha": 0.85, "linewidth": 0.8, "pad": 1})
        if np.any(np.abs(place - anchor) > size / 2 + _MARKER * scale):
            ends = inside.transform([anchor, place])
            axis.plot(
                ends[:, 0], ends[:, 1], color=colour, linewidth=0.7, alpha=0.6, zorder=2, transform=axis.transAxes
            )
    return texts


def _free_places(
    anchors: Float[np.ndarray, "boxes 2"],
    sizes: Float[np.ndarray, "boxes 2"],
    area: tuple[float, float, float, float],
    marker: float,
) -> Float[np.ndarray, "boxes 2"] | None:
    """Find centres for boxes inside an area, each the free one nearest to its anchor; None if one finds no place.

    The innermost boxes choose first, so that the others move outwards. No box covers another one, or the square with
    the side ``marker`` about an anchor.
    """
    centres, taken = np.zeros_like(anchors), np.pad(anchors, ((0, 0), (0, 2)), constant_values=marker)
    for number in np.argsort(np.hypot(*(anchors - anchors.mean(axis=0)).T), kind="stable"):
        size = sizes[number]
        columns, rows = (np.arange(area[k] + size[k] / 2, area[k + 2] - size[k] / 2, size[1] / 2) for k in (0, 1))
        candidates = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        apart = np.abs(candidates - anchors[number])
        gaps = np.hypot(*np.maximum(apart - size / 2, 0).T) + 0.1 * np.hypot(*apart.T)
        candidates = candidates[np.argsort(gaps, kind="stable")]
        for first in range(0, len(candidates), 200):  # the first ones are free nearly always
            some = candidates[first : first + 200]
            away = np.abs(some[:, None] - taken[:, :2]) >= (taken[:, 2:] + size) / 2
            free = some[away.any(axis=-1).all(axis=1)]
            if len(free):
                break
        else:
            return None
        centres[number] = free[0]
        taken = np.vstack([taken, (*free[0], *size)])
    return centres


def save_uncertain(
    model: ProbMCL,
    data: Split,
    path: str | os.PathLike[str],
    *,
    count: int = 20,
    surest: bool = True,
    kind: Kind = kinds.DEFAULT,
) -> list[int]:
    """Draw the images with the highest uncertainty of a kind, and for comparison those with the lowest.

    The images have one or three channels; ``count`` of each are drawn, those with the lowest only if ``surest``. Return
    the rows of those with the highest, in falling order.
    """
    if len(model.input_shape) != 3 or model.input_shape[0] not in (1, 3):
        raise InputError(f"inputs of shape {model.input_shape}", "images of one or three channels")
    if not 1 <= count <= len(data):
        raise InputError(f"count is {count} of {len(data)} images", f"a whole number from 1 to {len(data)}")
    values = model.uncertainty(data, kind).numpy()
    order = np.argsort(-values, kind="stable")

    def title(name: str, rows: np.ndarray) -> str:
        return f"the {count} {name} first: {values[rows[0]]:.3g} to {values[rows[-1]]:.3g}"

    highest, lowest = order[:count], order[::-1][:count]
    panels = {title("least sure, the least sure", highest): data.batch(highest).numpy()}
    if surest:
        panels[title("surest, the surest", lowest)] = data.batch(lowest).numpy()
    named = f"By {kind}: {kinds.UNITS[kind]}"
    figures.save_panels(panels, path, columns=min(10, count), title=named)
    return [int(row) for row in highest]


def _flattened(points: np.ndarray, projection: Projection, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    points = (points - points.mean(axis=0)) / max(float(points.std()), 1e-12)
    if projection == "pca":
        return np.asarray(PCA(2, random_state=0).fit_transform(points))
    perplexity = min(30.0, (len(points) - 1) / 3)
    chosen = TSNE(perplexity=perplexity, init="pca", random_state=derive(seed, "t-SNE") % 2**32)
    return np.asarray(chosen.fit_transform(points.astype(np.float32)))
