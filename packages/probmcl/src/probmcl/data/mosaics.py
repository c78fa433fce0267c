"""Mosaics of photographs of one label each: multi-label data from any set of images with classes.

A mosaic is a grid of 2 x 2 cells with 1 to 4 photographs; its labels are their classes. A matrix says which classes
come together, so labels are correlated on purpose. Mosaic i of a part is drawn from (seed, part, i), and the parts use
different photographs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from sextet_common import checks
from sextet_common.data import ImageSet, to_float
from sextet_common.errors import InputError
from sextet_common.seeding import generator
from torch.nn import functional

from probmcl.data.sets import MultiLabelSet

Background = Literal["blurred", "grey"]
_CELLS = 2  # a side
_COARSE = 4  # pixels a side to which a background is reduced


def ring(n_classes: int) -> Float[np.ndarray, "classes classes"]:
    """Return the default matrix of co-occurrence: 0.5 ** d for classes d apart on the ring of their numbers.

    The diagonal is 0: the further photographs of a mosaic are of other classes than its first.

    Examples
    --------
    >>> ring(4)
    array([[0.  , 0.5 , 0.25, 0.5 ],
           [0.5 , 0.  , 0.5 , 0.25],
           [0.25, 0.5 , 0.  , 0.5 ],
           [0.5 , 0.25, 0.5 , 0.  ]])
    """
    apart = np.abs(np.subtract.outer(np.arange(n_classes), np.arange(n_classes)))
    return np.where(apart == 0, 0.0, 0.5 ** np.minimum(apart, n_classes - apart))


def mosaics(
    photographs: ImageSet,
    *,
    sizes: tuple[int, int, int] = (2000, 500, 1000),
    cooccurrence: Float[np.ndarray, "classes classes"] | None = None,
    background: Background = "blurred",
    seed: int = 0,
    source: str = "mosaics",
) -> MultiLabelSet:
    """Compose mosaics, twice as high and wide as the photographs, with a label for every class.

    Parameters
    ----------
    photographs
        Images with classes, such as `sextet_common.data.load` or ``ImageSet.of`` returns. Test mosaics use the test
        images; a fifth of each class's training images is kept for validation mosaics.
    sizes
        Numbers of training, validation and test mosaics, each at least 2.
    cooccurrence
        Row a has the relative frequencies of the classes of the further photographs where the first is of class a. The
        first photograph's class, the number of photographs (1 to 4) and their cells are uniform. Default: `ring`.
    background
        What empty cells show: the first photograph enlarged to the whole mosaic and ``blurred``, or plain ``grey``.
    source
        Name of the data in error messages.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> few = mosaics(load("digits"), sizes=(8, 4, 4))
    >>> few.input_shape, bool((few.train.labels.sum(axis=1) >= 1).all())
    ((1, 16, 16), True)
    """
    if len(sizes) != 3 or min(sizes) < 2:
        raise InputError(f"sizes are {sizes}", "at least 2 mosaics in each of three parts")
    checks.check("background", background, Background)
    chances = _chances(ring(photographs.n_classes) if cooccurrence is None else cooccurrence, photographs.n_classes)
    images, labels = photographs.train_images, photographs.train_labels
    order = generator(seed, "photographs of the parts").permutation(len(labels))
    mixed = [order[labels[order] == number] for number in range(photographs.n_classes)]
    cuts = [max(1, len(rows) // 5) for rows in mixed]
    train = [rows[cut:] for rows, cut in zip(mixed, cuts, strict=True)]
    validation = [rows[:cut] for rows, cut in zip(mixed, cuts, strict=True)]
    test = [np.flatnonzero(photographs.test_labels == number) for number in range(photographs.n_classes)]
    for part, by_class in (("train", train), ("test", test)):
        empty = [name for name, rows in zip(photographs.classes, by_class, strict=True) if not len(rows)]
        if empty:
            raise InputError(
                f"{source}: no photograph of {empty[0]!r} is left for the {part} part", "one of each class"
            )
    return MultiLabelSet.of(
        _part(images, train, chances, sizes[0], background, (seed, "train")),
        _part(images, validation, chances, sizes[1], background, (seed, "validation")),
        _part(photographs.test_images, test, chances, sizes[2], background, (seed, "test")),
        photographs.classes,
        source=source,
        notes=photographs.notes,
    )


def _chances(matrix: np.ndarray, n_classes: int) -> np.ndarray:
    """Return a matrix of co-occurrence with rows that sum to 1."""
    table = np.asarray(matrix, dtype=np.float64)
    if table.shape != (n_classes, n_classes):
        raise InputError(f"cooccurrence has shape {table.shape}", f"({n_classes}, {n_classes}), a row for every class")
    if not (np.isfinite(table).all() and (table >= 0).all() and (table.sum(axis=1) > 0).all()):
        raise InputError("cooccurrence has a negative or non-finite value, or a row of zeros", "frequencies >= 0")
    return np.asarray(table / table.sum(axis=1, keepdims=True))


def _part(
    images: np.ndarray,
    by_class: list[np.ndarray],
    chances: np.ndarray,
    count: int,
    background: Background,
    key: tuple[int, str],
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the mosaics of one part: images (count, channels, 2 height, 2 width) and labels (count, classes)."""
    _, channels, height, width = images.shape
    mosaics = np.empty((count, channels, _CELLS * height, _CELLS * width), dtype=images.dtype)
    labels = np.zeros((count, len(by_class)), dtype=np.uint8)
    for number in range(count):
        draw = generator(key[0], "mosaic", key[1], number)
        first = int(draw.integers(len(by_class)))
        further = draw.choice(len(by_class), size=int(draw.integers(_CELLS**2)), p=chances[first])
        classes = [first, *further.tolist()]
        chosen = [images[int(draw.choice(by_class[label]))] for label in classes]
        mosaics[number] = _background(chosen[0], background)
        for photograph, cell in zip(chosen, draw.permutation(_CELLS**2).tolist(), strict=False):
            top, left = (place * side for place, side in zip(divmod(cell, _CELLS), (height, width), strict=True))
            mosaics[number, :, top : top + height, left : left + width] = photograph
        labels[number, classes] = 1
    return mosaics, labels


def _background(photograph: np.ndarray, background: Background) -> np.ndarray:
    """Return the canvas that photographs are pasted on, in their type."""
    channels, height, width = photograph.shape
    if background == "grey":
        canvas = np.full((channels, _CELLS * height, _CELLS * width), 0.5, dtype=np.float32)
    else:
        coarse = functional.adaptive_avg_pool2d(torch.tensor(to_float(photograph))[None], _COARSE)
        size = [_CELLS * height, _CELLS * width]
        canvas = functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)[0].numpy()
    return np.rint(255 * canvas).astype(np.uint8) if photograph.dtype == np.uint8 else canvas
