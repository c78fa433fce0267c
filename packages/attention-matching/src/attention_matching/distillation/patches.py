"""Patches of real images that a teacher recognises, and images composed of them (RDED, arXiv 2312.03526)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from sextet_common import data as image_data
from torch import Tensor
from torch.nn import functional

from attention_matching.images import keyed

_BLOCK = 32  # images that are cropped at once

Losses = Callable[[Float[Tensor, "n channels height width"]], Float[Tensor, " n"]]
"""From pixels in [0, 1] to the teacher's loss of each image."""


@dataclasses.dataclass(frozen=True, eq=False)
class Patches:
    """Regions of real images: rows of the images, (top, left, height, width) in pixels, and the teacher's losses."""

    rows: Int[Tensor, " n"]
    boxes: Int[Tensor, "n 4"]
    losses: Float[Tensor, " n"]


def draw_boxes(
    seed: int, rows: Int[Tensor, " n"], crops: int, smallest: float, height: int, width: int
) -> Int[Tensor, "n crops 4"]:
    """Draw random regions of images, keyed by (seed, row): (top, left, height, width), with the image's aspect ratio.

    A region's share of the area is uniform in [``smallest``, 1], as in a random resized crop.

    Examples
    --------
    >>> draw_boxes(0, torch.tensor([5]), crops=2, smallest=1.0, height=8, width=8).tolist()
    [[[0, 0, 8, 8], [0, 0, 8, 8]]]
    """
    drawn = keyed.uniform(keyed.fold(keyed.key(seed, "crops"), rows), 3 * crops).view(len(rows), crops, 3)
    side = (smallest + (1 - smallest) * drawn[..., 0]).sqrt()
    corners, sizes = [], []
    for share, length in ((drawn[..., 1], height), (drawn[..., 2], width)):
        size = (side * length).round().clamp(min=1)
        sizes.append(size)
        corners.append((share * (length - size + 1)).floor())
    return torch.stack([*corners, *sizes], dim=-1).long()


def best_patches(
    images: np.ndarray, rows: np.ndarray, boxes: Int[Tensor, "n crops 4"], count: int, losses_of: Losses
) -> Patches:
    """Choose the regions of smallest loss: one of each image first, then the second best of each, and so on.

    Regions are enlarged to the size of an image for the teacher; images are read in blocks.
    """
    height, width = images.shape[2:]
    losses = []
    for start in range(0, len(rows), _BLOCK):
        block = _pixels(images, rows[start : start + _BLOCK])
        regions = [
            _cropped(image, box, height, width)
            for image, each in zip(block, boxes[start : start + _BLOCK].tolist(), strict=True)
            for box in each
        ]
        losses.append(losses_of(torch.stack(regions)).view(len(block), -1))
    ranked, order = torch.cat(losses).sort(dim=1, stable=True)
    # Column by column: the best region of every image, by its loss, comes before the second best of any.
    chosen = torch.cat(
        [torch.stack([by := ranked[:, k].argsort(stable=True), order[by, k]], dim=1) for k in range(boxes.shape[1])]
    )[:count]
    image, crop = chosen.unbind(1)
    return Patches(torch.from_numpy(rows)[image], boxes[image, crop], torch.cat(losses)[image, crop])


def compose(images: np.ndarray, patches: Patches, side: int) -> UInt8[np.ndarray, "ipc channels height width"]:
    """Compose images of ``side`` x ``side`` patches each, scaled down, and rounded to bytes.

    Patch k of n images lies in image k modulo n, so that each has patches of all ranks.

    Examples
    --------
    >>> grey = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1).repeat(4, 2).repeat(4, 3)
    >>> whole = Patches(torch.arange(4), torch.tensor([0, 0, 4, 4]).repeat(4, 1), torch.zeros(4))
    >>> compose(grey, whole, side=2)[0, 0, ::2, ::2].tolist()
    [[0, 1], [2, 3]]
    """
    count = len(patches.rows) // side**2
    channels, height, width = images.shape[1:]
    composed = np.empty((count, channels, height, width), dtype=np.uint8)
    downs, acrosses = _cells(height, side), _cells(width, side)
    for k, (row, box) in enumerate(zip(patches.rows.tolist(), patches.boxes.tolist(), strict=True)):
        cell, number = divmod(k, count)
        down, across = downs[cell // side], acrosses[cell % side]
        image = _pixels(images, np.array([row]))[0]
        patch = _cropped(image, box, down.stop - down.start, across.stop - across.start)
        composed[number, :, down, across] = (patch * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return composed


def _cells(length: int, parts: int) -> list[slice]:
    """Divide a length into parts that differ by at most a pixel, the longer ones first."""
    sizes = [length // parts + (part < length % parts) for part in range(parts)]
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _pixels(images: np.ndarray, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(image_data.to_float(image_data.take(images, rows)))


def _cropped(image: Tensor, box: list[int], height: int, width: int) -> Tensor:
    """Return a region in another size, bilinear; reduced ones are averaged (antialiased)."""
    top, left, down, across = box
    region = image[None, :, top : top + down, left : left + across]
    if (down, across) == (height, width):
        return region[0]
    return functional.interpolate(region, (height, width), mode="bilinear", antialias=True)[0]
