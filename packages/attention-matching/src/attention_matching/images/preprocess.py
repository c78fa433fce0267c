"""Preprocessing of pixels into network inputs and back: standardisation per channel, or ZCA whitening."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, UInt8
from sextet_common import data as image_data, runs
from sextet_common.checks import check
from sextet_common.errors import InputError
from torch import Tensor

from attention_matching.images.zca import ZCA as ZCA, check_numbers as check_numbers
from attention_matching.kinds import Whitening

Pixels = (
    Float[np.ndarray, "images channels height width"]
    | UInt8[np.ndarray, "images channels height width"]
    | Float[Tensor, "images channels height width"]
    | UInt8[Tensor, "images channels height width"]
)

_BLOCK = 2048  # images that are converted at once


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """The map from pixels, uint8 in 0..255 or floats in [0, 1], to network inputs.

    Without whitening, ``(pixel - mean) / std`` per channel, float32, over the training images. With it, the whitened
    pixels and nothing after, as in MTT and DD-Ranking: ``mean`` and ``std`` then only describe the pixels in [0, 1].

    Examples
    --------
    >>> half = Preprocessing(torch.tensor([0.5]), torch.tensor([0.25]))
    >>> half(np.ones((1, 1, 1, 1), dtype=np.float32)).item()
    2.0
    """

    mean: Float[Tensor, " channels"]
    std: Float[Tensor, " channels"]
    zca: ZCA | None = None

    def __post_init__(self) -> None:
        check_numbers(mean=self.mean, std=self.std)
        if self.mean.ndim != 1 or self.mean.shape != self.std.shape:
            shapes = f"{tuple(self.mean.shape)} and {tuple(self.std.shape)}"
            raise InputError(f"mean and std must have one number per channel, got shapes {shapes}")
        if not bool((self.std > 0).all()):
            raise InputError(f"std must be > 0, got {self.std.min().item():g}")

    @classmethod
    def fit(cls, data: image_data.Source, whitening: Whitening = "none") -> Preprocessing:
        """Fit to the training images only; ``"zca"`` is for images of at most 64 x 64 x 3 values.

        Examples
        --------
        >>> from sextet_common.data import load
        >>> digits = load("digits")
        >>> tuple(Preprocessing.fit(digits, "zca")(digits.test_images).shape)
        (360, 1, 8, 8)
        """
        check("whitening", whitening, Whitening)
        data = image_data.load(data)
        zca = ZCA.fit(data.train_images) if whitening == "zca" else None
        return cls(torch.tensor(data.mean), torch.tensor(data.std), zca)

    @property
    def whitening(self) -> Whitening:
        """``"none"`` or ``"zca"``."""
        return "none" if self.zca is None else "zca"

    @property
    def sha256(self) -> str:
        """SHA-256 of the numbers, by which run folders recognise them."""
        zca = [] if self.zca is None else [self.zca.mean, self.zca.matrix]
        return runs.fingerprint(self.mean, self.std, *zca)

    def __call__(self, pixels: Pixels) -> Float[Tensor, "images channels height width"]:
        """Turn pixels into network inputs, float32 on the device of the pixels; of an array, on the CPU.

        The pixels are left as they are. uint8 and float32 pixels of the same values give the same inputs.
        """
        self.check(pixels.shape)
        is_float = pixels.dtype.kind == "f" if isinstance(pixels, np.ndarray) else pixels.is_floating_point()
        if not is_float and pixels.dtype not in (np.uint8, torch.uint8):
            raise InputError(f"pixels must be uint8 in 0..255 or floats in [0, 1], got {pixels.dtype}")
        blocks = (self._inputs(_on_device(pixels[start : start + _BLOCK])) for start in range(0, len(pixels), _BLOCK))
        if 0 < len(pixels) <= _BLOCK:
            return next(blocks)
        device = pixels.device if isinstance(pixels, Tensor) else "cpu"
        inputs = torch.empty(tuple(pixels.shape), device=device)
        for target, block in zip(inputs.split(_BLOCK), blocks, strict=False):
            target.copy_(block)
        return inputs

    def _inputs(self, x: Tensor) -> Tensor:
        mean, std, zca_mean, matrix, _ = self._constants(x.device)
        if x.dtype == torch.uint8:
            # By a number on the device: CUDA would multiply by the rounded reciprocal of one on the host.
            x = x.float().div_(torch.full((), 255.0, device=x.device))
        else:
            x = x.to(torch.float32, copy=True)
        if self.zca is None:
            return x.sub_(mean).div_(std)
        return ((x.flatten(1) - zca_mean) @ matrix).view_as(x)

    def _constants(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return mean, std and the whitening's mean, matrix and inverse on a device, where they stay."""
        if device not in self._placed:
            mean, std = self.mean[:, None, None], self.std[:, None, None]
            zca = (mean,) * 3 if self.zca is None else (self.zca.mean, self.zca.matrix, self.zca.inverse)
            self._placed[device] = tuple(tensor.to(device) for tensor in (mean, std, *zca))
        return self._placed[device]

    @cached_property
    def _placed(self) -> dict[torch.device, tuple[Tensor, ...]]:
        return {}

    def invert(
        self, inputs: Float[Tensor, "images channels height width"]
    ) -> Float[np.ndarray, "images channels height width"]:
        """Turn network inputs, on any device, into float32 pixels; synthetic images may leave [0, 1]."""
        self.check(inputs.shape)
        x = inputs.detach().to("cpu", torch.float32, copy=True)
        if self.zca is None:
            return (x * self.std[:, None, None] + self.mean[:, None, None]).numpy()
        for block in _blocks(x):
            block.copy_(block @ self.zca.inverse + self.zca.mean)
        return x.numpy()

    def clamp(
        self, inputs: Float[Tensor, "images channels height width"]
    ) -> Float[Tensor, "images channels height width"]:
        """Return the inputs of the same images with their pixels clamped to [0, 1], on the same device.

        Examples
        --------
        >>> Preprocessing(torch.tensor([0.5]), torch.tensor([0.25])).clamp(torch.tensor([[[[1.0, 3.0]]]]))
        tensor([[[[1., 2.]]]])
        """
        mean, std, zca_mean, matrix, inverse = self._constants(inputs.device)
        # The difference is added, exactly 0 for images whose pixels are valid: nothing drifts by rounding.
        if self.zca is None:
            pixels = inputs * std + mean
            return inputs + (pixels.clamp(0, 1) - pixels) / std
        pixels = inputs.flatten(1) @ inverse + zca_mean
        return inputs + ((pixels.clamp(0, 1) - pixels) @ matrix).view_as(inputs)

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse images of a shape, (images, channels, height, width), that this was not fitted to."""
        if len(shape) != 4 or shape[1] != len(self.mean):
            raise InputError(f"images must have shape (n, {len(self.mean)}, height, width), got {tuple(shape)}")
        if self.zca is not None and math.prod(shape[1:]) != len(self.zca.mean):
            size = len(self.zca.mean)
            raise InputError(f"images must have {size} values each, as fitted with ZCA, got shape {tuple(shape)}")


def _on_device(pixels: np.ndarray | Tensor) -> Tensor:
    """Return a tensor, of an array a copy: torch does not take a read-only one."""
    if isinstance(pixels, Tensor):
        return pixels
    copy = image_data.take(pixels, slice(None))
    return torch.from_numpy(copy if copy.dtype == np.uint8 else copy.astype(np.float32, copy=False))


def _blocks(images: Tensor) -> Iterator[Tensor]:
    """Yield the images as flat rows, some at a time: views that can be written to."""
    yield from images.view(len(images), -1).split(_BLOCK)
