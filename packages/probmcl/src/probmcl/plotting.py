"""Two pictures: the map of labels and images, and the images with the highest uncertainty."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from sextet_common import figures, text
from sextet_common.checks import check
from sextet_common.errors import InputError
from sextet_common.seeding import derive

from probmcl.data.sets import Split
from probmcl.model import ProbMCL

Projection = Literal["tsne", "pca"]


def prototypes(model: ProbMCL, data: Split) -> tuple[Float[np.ndarray, "rows dims"], Float[np.ndarray, "labels dims"]]:
    """Compute a point for every image and one for every label, in one space.

    An image's point is its mixture's mean, or its features if the model has no mixtures. A label's point is the mean
    over its images, weighted by 1 / number of labels, so that an image with few labels counts more. Every label needs
    an image.
    """
    labels = np.array(data.labels, dtype=np.float64)
    absent = np.flatnonzero(labels.sum(axis=0) == 0)
    if len(absent):
        raise InputError(f"label {model.label_names[absent[0]]!r} has no image", "an image of every label")
    if model.config.has_mixtures:
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
    with figures.figure_file(path, (7.0, 6.0), title="Labels, and the images that carry them") as figure:
        axis = figure.subplots()
        axis.scatter(
            images[~single, 0],
            images[~single, 1],
            s=7,
            color="0.8",
            label="images of several labels, or none",
            linewidths=0,
        )
        colour_of = [figures.COLOURS[label % len(figures.COLOURS)] for label in range(len(labels))]
        if single.any():
            colours = [colour_of[label] for label in table[single].argmax(axis=1)]
            named = "images of one label, in its colour"
            axis.scatter(images[single, 0], images[single, 1], s=9, c=colours, label=named, linewidths=0)
        axis.scatter(labels[:, 0], labels[:, 1], s=260, c=colour_of, edgecolors="white", linewidths=1.5, zorder=3)
        for name, (x, y) in zip(model.label_names, labels, strict=True):
            axis.annotate(
                text.label(name, 24),
                (x, y),
                ha="center",
                va="center",
                fontsize=9,
                color="white",
                weight="bold",
                zorder=4,
            )
        axis.set_xticks([])
        axis.set_yticks([])
        axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, fontsize=8)
    return Path(path)


def save_uncertain(
    model: ProbMCL, data: Split, path: str | os.PathLike[str], *, count: int = 20, surest: bool = True
) -> list[int]:
    """Draw the images whose components disagree most, and for comparison those whose components agree most.

    The images have one or three channels; ``count`` of each kind are drawn, those with the lowest uncertainty only if
    ``surest``. Return the rows of those with the highest, in falling order.
    """
    if len(model.input_shape) != 3 or model.input_shape[0] not in (1, 3):
        raise InputError(f"inputs of shape {model.input_shape}", "images of one or three channels")
    if not 1 <= count <= len(data):
        raise InputError(f"count is {count} of {len(data)} images", f"a whole number from 1 to {len(data)}")
    between = model.uncertainty(data).between.numpy()
    order = np.argsort(-between, kind="stable")
    panels = {f"the {count} least sure, the least sure first": data.batch(order[:count]).numpy()}
    if surest:
        panels[f"the {count} surest, the surest first"] = data.batch(order[::-1][:count]).numpy()
    figures.save_panels(panels, path, columns=min(10, count), title="By the variance between the mixture's components")
    return [int(row) for row in order[:count]]


def _flattened(points: np.ndarray, projection: Projection, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    points = (points - points.mean(axis=0)) / max(float(points.std()), 1e-12)
    if projection == "pca":
        return np.asarray(PCA(2, random_state=0).fit_transform(points))
    perplexity = min(30.0, (len(points) - 1) / 3)
    chosen = TSNE(perplexity=perplexity, init="pca", random_state=derive(seed, "t-SNE") % 2**32)
    return np.asarray(chosen.fit_transform(points.astype(np.float32)))
