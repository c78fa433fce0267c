"""Preprocessing of pixels into network inputs and back: standardisation per channel, or ZCA whitening."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from sextet_common.checks import check
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import Tensor

Whitening = Literal["none", "zca"]

# Added to the covariance's eigenvalues: the value that MTT and DD-Ranking pass to kornia, whose default is 1e-6.
EPSILON = 0.1
MAX_SIZE = 64 * 64 * 3
_BLOCK = 2048  # images in double precision at once


@dataclass(frozen=True, eq=False)
class ZCA:
    """A whitening whose results still look like images, with its inverse; all tensors are float32.

    With the eigendecomposition V diag(s) V^T of the pixels' covariance (unbiased), the symmetric ``matrix`` is ``V
    diag(s+eps)^(-1/2) V^T`` and ``inverse`` has exponent +1/2 (Kessy, Lewin, Strimmer, Optimal whitening and
    decorrelation, 2018, section 3.1). The mean image is flat: size = channels * height * width.
    """

    mean: Float[Tensor, " size"]
    matrix: Float[Tensor, "size size"]
    inverse: Float[Tensor, "size size"]

    def __post_init__(self) -> None:
        size = self.mean.numel()
        shapes = [tuple(array.shape) for array in (self.mean, self.matrix, self.inverse)]
        if shapes != [(size,), (size, size), (size, size)]:
            raise InputError(f"a ZCA must have shapes (size,), (size, size) and (size, size), got {shapes}")
        check_numbers(mean=self.mean, matrix=self.matrix, inverse=self.inverse)

    @classmethod
    def fit(cls, pixels: Float[np.ndarray, "images channels height width"]) -> ZCA:
        """Fit the whitening to at least two real training images, in [0, 1], not standardised.

        Examples
        --------
        >>> generator = np.random.default_rng(0)
        >>> zca = ZCA.fit(generator.random((50, 1, 2, 2), dtype=np.float32))
        >>> torch.allclose(zca.matrix @ zca.inverse, torch.eye(4), atol=1e-5)
        True
        """
        count, size = len(pixels), math.prod(pixels.shape[1:])
        if size > MAX_SIZE:
            # In double precision the covariance, its eigenvectors and twice as much workspace for the solver, then
            # the two matrices in single precision.
            memory = (4 * 8 + 2 * 4) * size**2 / 2**30
            raise InputError(
                f"ZCA whitening must have at most {MAX_SIZE} values per image (64 x 64 x 3), got {size}, "
                f"which need about {memory:.0f} GiB of memory",
                "smaller images, or no whitening, as in the papers above 32 x 32",
            )
        if count < 2:
            raise InputError(f"ZCA whitening needs at least 2 images, got {count}")
        mean = np.mean(pixels, axis=0, dtype=np.float64).reshape(-1)
        covariance = np.zeros((size, size))
        for start in range(0, count, _BLOCK):
            centred = pixels[start : start + _BLOCK].reshape(-1, size) - mean
            covariance += centred.T @ centred
        values, vectors = np.linalg.eigh(covariance / (count - 1))
        # Rounding may make an eigenvalue of 0 slightly negative.
        root = np.sqrt(values.clip(min=0) + EPSILON)
        matrix, inverse = ((vectors * scale) @ vectors.T for scale in (1 / root, root))
        return cls(*(torch.tensor(array, dtype=torch.float32) for array in (mean, matrix, inverse)))


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """The map from pixels in [0, 1] to network inputs.

    Without whitening, ``(pixel - mean) / std`` per channel, float32, over the training images. With it, the whitened
    pixels and nothing after, as in MTT and DD-Ranking: ``mean`` and ``std`` then only describe the pixels.

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
    def fit(cls, data: ImageSet, whitening: Whitening = "none") -> Preprocessing:
        """Fit to the training images only; ``"zca"`` is for images of at most 64 x 64 x 3 values.

        Examples
        --------
        >>> from sextet_common.data import load
        >>> digits = load("digits")
        >>> tuple(Preprocessing.fit(digits, "zca")(digits.test_images).shape)
        (360, 1, 8, 8)
        """
        check("whitening", whitening, Whitening)
        zca = ZCA.fit(data.train_images) if whitening == "zca" else None
        return cls(torch.tensor(data.mean), torch.tensor(data.std), zca)

    @property
    def whitening(self) -> Whitening:
        """``"none"`` or ``"zca"``."""
        return "none" if self.zca is None else "zca"

    def __call__(
        self, pixels: Float[np.ndarray, "images channels height width"]
    ) -> Float[Tensor, "images channels height width"]:
        """Turn pixels in [0, 1] into network inputs, float32 on the CPU."""
        self.check(pixels.shape)
        x = torch.tensor(np.asarray(pixels, dtype=np.float32))
        if self.zca is None:
            return (x - self.mean[:, None, None]) / self.std[:, None, None]
        for block in _blocks(x):
            block.copy_((block - self.zca.mean) @ self.zca.matrix)
        return x

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

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse images of a shape, (images, channels, height, width), that this was not fitted to."""
        if len(shape) != 4 or shape[1] != len(self.mean):
            raise InputError(f"images must have shape (n, {len(self.mean)}, height, width), got {tuple(shape)}")
        if self.zca is not None and math.prod(shape[1:]) != len(self.zca.mean):
            size = len(self.zca.mean)
            raise InputError(f"images must have {size} values each, as fitted with ZCA, got shape {tuple(shape)}")


def check_numbers(**tensors: Tensor) -> None:
    """Refuse tensors, by name, that are not float32 or hold non-finite numbers."""
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise InputError(f"{name} must be float32, got {tensor.dtype}")
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{name} must be finite, got NaN or infinity")


def _blocks(images: Tensor) -> Iterator[Tensor]:
    """Yield the images as flat rows, some at a time: views that can be written to."""
    yield from images.view(len(images), -1).split(_BLOCK)
