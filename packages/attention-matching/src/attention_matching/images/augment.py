"""Differentiable siamese augmentation (DSA): the same random transform for real and synthetic images.

A transform is a row of uniform random numbers, so drawing and applying are separate: a row gives the same transform
on any images, and gradients flow through it into the pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float
from sextet_common.checks import check_fields
from sextet_common.errors import InputError
from torch import Tensor
from torch.nn import functional

from attention_matching.kinds import Operation

OPERATIONS: tuple[Operation, ...] = get_args(Operation)
N_RANDOM = 4  # numbers per row: which operation, and up to three amounts


@dataclass(frozen=True)
class SiameseAugmentation:
    """The papers' set of transforms, of which each row draws one.

    Strengths as in DataDAM's table and code, after DSA (arXiv 2102.08259).

    Parameters
    ----------
    operations
        The transforms; without any, images pass unchanged.
    brightness, saturation, contrast
        Strengths of ``color``: brightness adds up to half of its value in either direction, saturation scales colours
        by up to its value, contrast scales by up to 0.5 around 1 (its value is the smallest factor).
        Colours are differences from the mean over the channels, however many there are; one channel has none.
    crop, cutout
        Largest shift (zeros move in), and side of the square that is blanked, as shares of the side.
    flip
        Probability of mirroring when ``flip`` is drawn.
    scale, rotate
        Largest factor, independently for each axis, and largest angle in degrees.

    Examples
    --------
    >>> augment = SiameseAugmentation(("flip",), flip=1.0)
    >>> augment(torch.tensor([[[[1.0, 2.0]]]]), torch.zeros(1, N_RANDOM)).tolist()
    [[[[2.0, 1.0]]]]
    """

    operations: tuple[Operation, ...] = OPERATIONS
    brightness: float = 1.0
    saturation: float = 2.0
    contrast: float = 0.5
    crop: float = 0.125
    cutout: float = 0.5
    flip: float = 0.5
    scale: float = 1.2
    rotate: float = 15.0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(
        self, images: Float[Tensor, "batch channels height width"], rows: Float[Tensor, "rows random"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Transform images; each row of random numbers transforms an equal share of them, in order.

        The number of images is a multiple of the rows': one row per image, or one per class for images that lie class
        after class. Rows hold 4 uniform numbers in [0, 1), on the CPU or the images' device.
        """
        if not self.operations:
            return images
        if len(images) % len(rows):
            raise InputError(f"the number of images must be a multiple of {len(rows)} transforms, got {len(images)}")
        # Images of one row side by side: (rows, share, channels, height, width), so that a row's numbers broadcast.
        x = images.reshape(len(rows), -1, *images.shape[1:])
        kind, u, v, w = rows.to(device=x.device, dtype=x.dtype)[:, :, None, None, None, None].unbind(1)
        kind = (kind * len(self.operations)).long().clamp_(max=len(self.operations) - 1)
        # Every row passes through every operation and keeps the result of its own, which only the device knows. In this
        # order of operations an image is resampled at most once, with its row's map.
        drawn = {name: kind == number for number, name in enumerate(self.operations)}
        maps = [
            (drawn[name], getattr(self, f"_{name}")(x, u, v)) for name in ("crop", "scale", "rotate") if name in drawn
        ]
        if maps:
            x = _resampled(x, maps)
        if "flip" in drawn:
            x = torch.where(drawn["flip"] & (u < self.flip), x.flip(4), x)
        if "cutout" in drawn:
            x = x.masked_fill(drawn["cutout"] & self._hole(x, u, v), 0.0)
        if "color" in drawn:
            x = torch.where(drawn["color"], self._color(x, u, v, w), x)
        return x.reshape(images.shape)

    def _color(self, x: Tensor, u: Tensor, v: Tensor, w: Tensor) -> Tensor:
        x = x + (u - 0.5) * self.brightness
        grey = x.mean(dim=2, keepdim=True)
        x = (x - grey) * (v * self.saturation) + grey
        middle = x.mean(dim=(2, 3, 4), keepdim=True)
        return (x - middle) * (w + self.contrast) + middle

    def _hole(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        inside = []
        for t, axis in ((v, 3), (u, 4)):
            side = x.shape[axis]
            size = int(side * self.cutout + 0.5)
            # The square's centre may be any pixel, so at the border part of it lies outside.
            start = (t * (side + 1 - size % 2)).floor() - size // 2
            place = torch.arange(side, device=x.device).view(-1, *(1,) * (4 - axis)) - start
            inside.append((place >= 0) & (place < size))
        return inside[0] & inside[1]

    def _crop(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor | float, ...]:
        shifts = []
        for t, side in ((u, x.shape[4]), (v, x.shape[3])):
            reach = int(side * self.crop + 0.5)
            pixels = (t * (2 * reach + 1)).floor() - reach
            shifts.append(2 * pixels / side)  # in the units of affine_grid, where the image spans [-1, 1]
        return 1.0, 0.0, shifts[0], 0.0, 1.0, shifts[1]

    def _scale(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor | float, ...]:
        smallest = 1 / self.scale
        return smallest + u * (self.scale - smallest), 0.0, 0.0, 0.0, smallest + v * (self.scale - smallest), 0.0

    def _rotate(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor | float, ...]:
        angle = (2 * u - 1) * math.radians(self.rotate)
        return angle.cos(), -angle.sin(), 0.0, angle.sin(), angle.cos(), 0.0


def augmentation_for(classes: tuple[str, ...], operations: tuple[Operation, ...] | None = None) -> SiameseAugmentation:
    """Return the augmentation for a data set's class names, with the papers' strengths.

    By default it has all six operations, but no ``flip`` if the classes are the ten digits, because a mirrored 2 is not
    a digit.

    Examples
    --------
    >>> augmentation_for(tuple("0123456789")).operations
    ('color', 'crop', 'cutout', 'scale', 'rotate')
    """
    if operations is None:
        digits = {name[0] for name in classes} == set("0123456789") and len(classes) == 10
        operations = tuple(name for name in OPERATIONS if not (digits and name == "flip"))
    return SiameseAugmentation(operations)


def _resampled(x: Tensor, maps: list[tuple[Tensor, tuple[Tensor | float, ...]]]) -> Tensor:
    """Resample the rows that drew one of these affine maps: bilinear, zeros outside."""
    rows, share, channels, height, width = x.shape
    moved = torch.zeros(rows, dtype=torch.bool, device=x.device)
    chosen = torch.eye(2, 3, dtype=x.dtype, device=x.device).expand(rows, 2, 3)
    for drawn, numbers in maps:
        # Constants are filled on the device: a transfer would make it wait, and a CUDA graph refuses one.
        columns = [t if isinstance(t, Tensor) else x.new_full((rows, 1, 1, 1, 1), t) for t in numbers]
        chosen = torch.where(drawn.view(rows, 1, 1), torch.cat(columns, dim=1).view(rows, 2, 3), chosen)
        moved = moved | drawn.view(rows)
    points = functional.affine_grid(chosen, [rows, share * channels, height, width], align_corners=False)
    resampled = functional.grid_sample(x.reshape(rows, share * channels, height, width), points, align_corners=False)
    return torch.where(moved.view(rows, 1, 1, 1, 1), resampled.view_as(x), x)
