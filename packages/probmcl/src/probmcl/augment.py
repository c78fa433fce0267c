"""Two views of a batch: random changes that leave the labels true, drawn on the batch's device from one generator."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from sextet_common.errors import InputError
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """How far a view may be from its image. What is 0 is not done.

    Parameters
    ----------
    shift
        Largest shift, as a share of height and width.
    scale
        Largest growth or shrinkage, as a share.
    contrast
        Largest change of contrast, as a share, about the image's mean.
    brightness
        Largest amount added to every pixel.
    noise
        Standard deviation of the noise on every pixel or feature.
    cutout
        Side of a square that is blanked, as a share of height and width.
    flip
        Mirror every other image, on average. Not for digits.
    dropout
        Share of plain features that are set to 0, their mean.

    Raises
    ------
    InputError
        For a number outside [0, 1].
    """

    shift: float = 0.08
    scale: float = 0.1
    contrast: float = 0.3
    brightness: float = 0.1
    noise: float = 0.05
    cutout: float = 0.0
    flip: bool = False
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise InputError(f"the augmentation's {field.name} is {value}", "a number in [0, 1]")

    def __call__(self, batch: Float[Tensor, "batch ..."], draw: torch.Generator) -> Float[Tensor, "batch ..."]:
        """Return one view of a batch.

        Parameters
        ----------
        batch
            Images in [0, 1], shape (batch, channels, height, width), or features, shape (batch, features).
        draw
            Where the randomness comes from, on the batch's device.

        Returns
        -------
        Tensor
            Of the same shape.
        """
        return self._images(batch, draw) if batch.ndim == 4 else self._features(batch, draw)

    def views(self, batch: Float[Tensor, "batch ..."], draw: torch.Generator) -> Float[Tensor, "views ..."]:
        """Return two views of a batch, all first ones and then all second ones.

        Parameters
        ----------
        batch, draw
            As for a single view.

        Returns
        -------
        Tensor
            Twice as many rows.

        Examples
        --------
        >>> Augmentation().views(torch.rand(3, 1, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([6, 1, 8, 8])
        """
        return torch.cat([self(batch, draw), self(batch, draw)])

    def _features(self, batch: Tensor, draw: torch.Generator) -> Tensor:
        if self.noise:
            batch = batch + self.noise * _normal(batch.shape, draw)
        if self.dropout:
            batch = batch * (_uniform(batch.shape, draw) >= self.dropout)
        return batch

    def _images(self, batch: Tensor, draw: torch.Generator) -> Tensor:
        count, _, height, width = batch.shape
        if self.shift or self.scale or self.flip:
            moved = 2 * self.shift * (2 * _uniform((count, 2), draw) - 1)
            grown = 1 + self.scale * (2 * _uniform((count,), draw) - 1)
            mirrored = torch.where(_uniform((count,), draw) < 0.5, -1.0, 1.0) if self.flip else torch.ones_like(grown)
            zero = torch.zeros_like(grown)
            rows = [torch.stack([grown * mirrored, zero, moved[:, 0]], 1), torch.stack([zero, grown, moved[:, 1]], 1)]
            where = functional.affine_grid(torch.stack(rows, 1), list(batch.shape), align_corners=False)
            batch = functional.grid_sample(batch, where, align_corners=False)
        if self.contrast or self.brightness:
            mean = batch.mean(dim=(1, 2, 3), keepdim=True)
            factor = 1 + self.contrast * (2 * _uniform((count, 1, 1, 1), draw) - 1)
            added = self.brightness * (2 * _uniform((count, 1, 1, 1), draw) - 1)
            batch = (batch - mean) * factor + mean + added
        if self.noise:
            batch = batch + self.noise * _normal(batch.shape, draw)
        if self.cutout:
            batch = batch * ~self._squares(count, height, width, draw)
        return batch.clamp(0, 1)

    def _squares(self, count: int, height: int, width: int, draw: torch.Generator) -> Tensor:
        """Draw a square for every image, (count, 1, height, width), whole or cut by the image's edge."""
        masks = []
        for size, shape in ((height, (1, 1, height, 1)), (width, (1, 1, 1, width))):
            side = max(1, math.floor(self.cutout * size))
            centre = (_uniform((count, 1, 1, 1), draw) * size).floor()
            place = torch.arange(size, device=draw.device).reshape(shape)
            masks.append((place >= centre - side // 2) & (place < centre - side // 2 + side))
        return masks[0] & masks[1]


def _uniform(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=draw, device=draw.device)


def _normal(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=draw, device=draw.device)
