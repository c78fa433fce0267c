"""Real images as network inputs, computed batch by batch: no second copy of a data set in floats."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from sextet_common import data as image_data
from torch import Tensor

from attention_matching.images.preprocess import Preprocessing

# Whitening a batch of 640 CIFAR-10 images takes 0.24 s on one core, a step of a ConvNet of width 32 0.48 s, of width
# 128 2.4 s. So on a CPU whitened images are kept up to this size: CIFAR-10's 50,000 take 0.57 GiB. Without whitening,
# a batch takes 0.01 s.
_WHITENED_BYTES = 2**30
_BLOCK = 2048  # images that are copied or whitened at once


class RealInputs:
    """Images of a data set as network inputs: it is indexed and split like the tensor of them all.

    Every access copies some images and preprocesses them on the ``device``. The images stay what they are: bytes or
    floats in memory, or a memory map on disk. On an accelerator they are placed there unconverted if they fill at most
    half of its free memory; otherwise each access copies from the host, and waits for it. On a CPU, whitened images
    are computed once and kept, if they take at most 1 GiB.

    ``rows`` selects images; by default all, in their order.

    Examples
    --------
    >>> pixels = np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2)
    >>> inputs = RealInputs(pixels, Preprocessing(torch.zeros(1), torch.tensor([1 / 255])))
    >>> inputs[torch.tensor([2, 0])].flatten(1).round().tolist()
    [[8.0, 9.0, 10.0, 11.0], [0.0, 1.0, 2.0, 3.0]]
    """

    def __init__(
        self,
        images: Float[np.ndarray, "n channels height width"] | UInt8[np.ndarray, "n channels height width"],
        preprocessing: Preprocessing,
        rows: Integer[np.ndarray, " chosen"] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        preprocessing.check(images.shape)
        self._images, self._preprocessing = images, preprocessing
        self._rows = np.arange(len(images)) if rows is None else rows
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> torch.Size:
        """Images, channels, height and width."""
        return torch.Size((len(self._rows), *self._images.shape[1:]))

    @property
    def resident(self) -> bool:
        """Whether all images are in the memory of the device, so that no access waits for the host."""
        return self._placed is not None or (self.device.type == "cpu" and not isinstance(self._images, np.memmap))

    def to(self, device: torch.device | str) -> RealInputs:
        """Return the same images on another device."""
        if torch.device(device) == self.device:
            return self
        return RealInputs(self._images, self._preprocessing, self._rows, device)

    def __getitem__(self, index: Tensor | slice) -> Float[Tensor, "*batch channels height width"]:
        if self._placed is not None:
            batch = self._placed[index]
            if self._whitened:
                return batch
        else:
            rows = self._rows[index if isinstance(index, slice) else index.cpu().numpy()]
            batch = torch.from_numpy(image_data.take(self._images, rows)).to(self.device)
        return self._preprocessing(batch.reshape(-1, *batch.shape[-3:])).view(batch.shape)

    def split(self, size: int) -> Iterator[Float[Tensor, "batch channels height width"]]:
        """Yield all inputs in batches."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    @property
    def _whitened(self) -> bool:
        return self.device.type == "cpu" and self._preprocessing.zca is not None

    @cached_property
    def _placed(self) -> Tensor | None:
        """The images on the device: whitened on a CPU, unconverted on an accelerator; None where they stay."""
        values = math.prod(self.shape)
        if self._whitened:
            if 4 * values > _WHITENED_BYTES:
                return None
            placed = torch.empty(self.shape)
        elif self.device.type == "cpu" or values * self._images.itemsize > _room(self.device):
            return None
        else:
            kind = torch.uint8 if self._images.dtype == np.uint8 else torch.float32
            placed = torch.empty(self.shape, dtype=kind, device=self.device)
        for target, rows in zip(placed.split(_BLOCK), range(0, len(self), _BLOCK), strict=True):
            block = image_data.take(self._images, self._rows[rows : rows + _BLOCK])
            target.copy_(self._preprocessing(block) if self._whitened else torch.from_numpy(block))
        return placed


Inputs: TypeAlias = Float[Tensor, "images channels height width"] | RealInputs
"""Network inputs: a tensor, or the images of a data set."""


def _room(device: torch.device) -> int:
    """Return how many bytes of images an accelerator takes."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else _WHITENED_BYTES
