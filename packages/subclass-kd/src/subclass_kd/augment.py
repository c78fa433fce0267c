"""Fixed views of every image: the same number of an image's view is the same picture for teacher and student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Float, Integer
from sextet_common.errors import InputError
from sextet_common.seeding import generator
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Views:
    """How views are made: view 0 of an image is the image, the others are shifted, scaled and perhaps mirrored.

    A view depends on (seed, view, image) alone, so that a teacher's logits on it can be computed once and kept.

    Parameters
    ----------
    count
        Views of every image; 1 is the image alone.
    shift
        Largest shift, as a share of height and width.
    scale
        Largest growth or shrinkage, as a share.
    flip
        Mirror every other view, on average. Not for digits.
    seed
        Of the views.

    Raises
    ------
    InputError
        For a count below 1 or a share outside [0, 1).
    """

    count: Annotated[int, tyro.conf.arg(name="views")] = 8
    shift: float = 0.1
    scale: float = 0.1
    flip: bool = False
    seed: Annotated[int, tyro.conf.arg(name="views-seed")] = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"the number of views is {self.count}", "a whole number >= 1")
        for name in ("shift", "scale"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"the views' {name} is {getattr(self, name)}", "a number in [0, 1)")

    def table(self, view: int, images: int) -> Float[np.ndarray, "images 4"]:
        """Return the numbers that make a view of every image: growth, mirror, and two shifts, shape (images, 4)."""
        drawn = generator(self.seed, "view", view).random((images, 4))
        found = np.ones((images, 4), dtype=np.float32)
        found[:, 2:] = 0
        if view:
            found[:, 0] = 1 + self.scale * (2 * drawn[:, 0] - 1)
            found[:, 1] = np.where(self.flip & (drawn[:, 1] < 0.5), -1, 1)
            found[:, 2:] = 2 * self.shift * (2 * drawn[:, 2:] - 1)  # a grid is two wide
        return found

    def apply(
        self, batch: Float[Tensor, "batch c h w"], view: int, rows: Integer[np.ndarray, " batch"], images: int
    ) -> Float[Tensor, "batch c h w"]:
        """Return a view of some images.

        Parameters
        ----------
        batch
            The images.
        view
            Which view, from 0.
        rows
            The images' numbers in their part.
        images
            How many images the part has.

        Returns
        -------
        Tensor
            Of the same shape.
        """
        if view == 0:
            return batch
        numbers = torch.from_numpy(self.table(view, images)[rows]).to(batch.device, batch.dtype)
        grown, mirrored, across, down = numbers.unbind(dim=1)
        zero = torch.zeros_like(grown)
        lines = [torch.stack([grown * mirrored, zero, across], 1), torch.stack([zero, grown, down], 1)]
        grid = functional.affine_grid(torch.stack(lines, 1), list(batch.shape), align_corners=False)
        return functional.grid_sample(batch, grid, align_corners=False)
