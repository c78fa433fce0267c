"""Fixed views of every image: view v of image i is the same picture for teacher and student."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Integer
from sextet_common.checks import Count, Natural, ShareBelowOne, check_fields
from sextet_common.seeding import generator
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Views:
    """Views of images: view 0 is the image itself, the others are shifted, scaled and optionally mirrored.

    A view depends on (seed, view, image) only, so that a teacher's logits on it can be computed once and kept.

    Parameters
    ----------
    count
        Views of every image; 1 is the image alone.
    shift
        Largest shift, as a share of height and width.
    scale
        Largest enlargement or reduction, as a share.
    flip
        Mirror half of the views, at random. Not for digits.
    seed
        Seed of the views.
    """

    count: Count = 8
    shift: ShareBelowOne = 0.1
    scale: ShareBelowOne = 0.1
    flip: bool = False
    seed: Natural = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def table(self, view: int, images: int) -> Float[np.ndarray, "images 4"]:
        """Return the parameters of a view of every image: scale, mirror (1 or -1), horizontal and vertical shift."""
        return _table(self, view, images)

    def apply(
        self, batch: Float[Tensor, "batch c h w"], view: int, rows: Integer[np.ndarray, " batch"], images: int
    ) -> Float[Tensor, "batch c h w"]:
        """Return a view of a batch, whose images have these row numbers in a part of so many images."""
        if view == 0:
            return batch
        table = torch.from_numpy(self.table(view, images)[rows]).to(batch.device, batch.dtype)
        scale, mirror, across, down = table.unbind(dim=1)
        zero = torch.zeros_like(scale)
        lines = [torch.stack([scale * mirror, zero, across], 1), torch.stack([zero, scale, down], 1)]
        grid = functional.affine_grid(torch.stack(lines, 1), list(batch.shape), align_corners=False)
        return functional.grid_sample(batch, grid, align_corners=False)


@lru_cache(maxsize=4)
def _table(views: Views, view: int, images: int) -> Float[np.ndarray, "images 4"]:
    """Compute the read-only table of a view, which all batches of an epoch need."""
    drawn = generator(views.seed, "view", view).random((images, 4))
    table = np.ones((images, 4), dtype=np.float32)
    table[:, 2:] = 0
    if view:
        table[:, 0] = 1 + views.scale * (2 * drawn[:, 0] - 1)
        table[:, 1] = np.where(views.flip & (drawn[:, 1] < 0.5), -1, 1)
        table[:, 2:] = 2 * views.shift * (2 * drawn[:, 2:] - 1)  # a sampling grid is two wide
    table.setflags(write=False)
    return table
