"""Two views of a batch: random changes that leave the labels valid, drawn on the batch's device from one generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from sextet_common.checks import Bounds, Natural, Share, check_fields
from sextet_common.seeding import torch_seed
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """How far a view may differ from its image; zero disables a change."""

    shift: Share = 0.08
    """Largest shift, as a share of height and width."""
    scale: Share = 0.1
    """Largest change of size, as a share."""
    contrast: Share = 0.3
    """Largest change of contrast about the image's mean, as a share."""
    brightness: Share = 0.1
    """Largest amount added to every pixel."""
    noise: Share = 0.05
    """Standard deviation of the noise on every pixel or feature."""
    cutout: Share = 0.0
    """Side of a square that is set to 0, as a share of height and width."""
    flip: bool = False
    """Mirror every image with probability one half. Not suitable for digits."""
    randaugment: Natural = 0
    """Operations of RandAugment (arXiv 1909.13719) on every image, each image with its own: 2 is usual for photographs.
    They include rotations and changes of colour; about 1 ms an image of 64 x 64 pixels."""
    randaugment_magnitude: Annotated[int, Bounds(0, 30)] = 9
    """Strength of these operations, from 0 to 30."""
    dropout: Share = 0.1
    """Share of plain features that are set to 0, their mean."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, batch: Float[Tensor, "batch ..."], draw: torch.Generator) -> Float[Tensor, "batch ..."]:
        """Return one view of a batch.

        Rows are images in [0, 1], shape (batch, channels, height, width), or features, shape (batch, features).
        ``draw`` is a random generator on their device.
        """
        return self._images(batch, draw) if batch.ndim == 4 else self._features(batch, draw)

    def views(self, batch: Float[Tensor, "batch ..."], draw: torch.Generator) -> Float[Tensor, "views ..."]:
        """Return two views of a batch, all first ones and then all second ones.

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
            batch = self._moved(batch, draw)
        if self.randaugment:
            batch = self._randaugmented(batch, draw)
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

    def _moved(self, batch: Tensor, draw: torch.Generator) -> Tensor:
        """Shift, scale and mirror every image by one affine map."""
        count = len(batch)
        shifts = 2 * self.shift * (2 * _uniform((count, 2), draw) - 1)
        scales = 1 + self.scale * (2 * _uniform((count,), draw) - 1)
        mirrored = torch.where(_uniform((count,), draw) < 0.5, -1.0, 1.0) if self.flip else torch.ones_like(scales)
        zero = torch.zeros_like(scales)
        rows = [torch.stack([scales * mirrored, zero, shifts[:, 0]], 1), torch.stack([zero, scales, shifts[:, 1]], 1)]
        grid = functional.affine_grid(torch.stack(rows, 1), list(batch.shape), align_corners=False)
        return functional.grid_sample(batch, grid, align_corners=False)

    def _randaugmented(self, batch: Tensor, draw: torch.Generator) -> Tensor:
        """Apply torchvision's RandAugment, which draws from torch's global generator, here seeded by ours."""
        from torchvision.transforms import v2

        transform = v2.RandAugment(self.randaugment, self.randaugment_magnitude)
        views, seeds = [], torch.randint(2**31, (len(batch),), generator=draw, device=draw.device)
        for image, seed in zip(batch, seeds.tolist(), strict=True):
            with torch_seed(seed, "randaugment"):
                views.append(transform(image))
        return torch.stack(views)

    def _squares(self, count: int, height: int, width: int, draw: torch.Generator) -> Tensor:
        """Draw a square mask for every image, (count, 1, height, width), possibly cut by the edge."""
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
