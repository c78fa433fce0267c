"""From pixels to a network's input and back: each channel standardised, or ZCA whitening."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import Tensor

Whitening = Literal["none", "zca"]

# Added to the covariance's eigenvalues: what MTT and DD-Ranking hand to kornia, whose own default is 1e-6.
EPSILON = 0.1
MAX_SIZE = 64 * 64 * 3
_BLOCK = 2048  # images in double precision at a time


@dataclass(frozen=True, eq=False)
class ZCA:
    """A whitening that leaves images looking like images, with its inverse.

    With the eigendecomposition V diag(s) V^T of the pixels' covariance (unbiased), the
    matrix is V diag(s + eps)^(-1/2) V^T and the inverse V diag(s + eps)^(1/2) V^T.

    Parameters
    ----------
    mean
        The mean image, float32, shape (size,), size = channels * height * width.
    matrix, inverse
        Symmetric, float32, shape (size, size).

    Raises
    ------
    InputError
        Where the shapes disagree.

    References
    ----------
    Kessy, Lewin, Strimmer, Optimal whitening and decorrelation, 2018, section 3.1 (ZCA).
    """

    mean: Float[Tensor, " size"]
    matrix: Float[Tensor, "size size"]
    inverse: Float[Tensor, "size size"]

    def __post_init__(self) -> None:
        size = self.mean.numel()
        shapes = [tuple(array.shape) for array in (self.mean, self.matrix, self.inverse)]
        if shapes != [(size,), (size, size), (size, size)]:
            raise InputError(f"a ZCA of shapes {shapes}", "(size,), (size, size) and (size, size)")
        check_numbers(mean=self.mean, matrix=self.matrix, inverse=self.inverse)

    @classmethod
    def fit(cls, pixels: Float[np.ndarray, "images channels height width"]) -> ZCA:
        """Find the whitening of images. Fit it on real training images, once.

        Parameters
        ----------
        pixels
            In [0, 1], not standardised, at least two images.

        Returns
        -------
        ZCA
            The whitening.

        Raises
        ------
        InputError
            Where an image has more than 64 x 64 x 3 values, or there is one image only.

        Examples
        --------
        >>> generator = np.random.default_rng(0)
        >>> zca = ZCA.fit(generator.random((50, 1, 2, 2), dtype=np.float32))
        >>> torch.allclose(zca.matrix @ zca.inverse, torch.eye(4), atol=1e-5)
        True
        """
        count, size = len(pixels), math.prod(pixels.shape[1:])
        if size > MAX_SIZE:
            # In double precision the covariance, its eigenvectors and twice as much for the solver to work in,
            # then the two matrices in single precision.
            memory = (4 * 8 + 2 * 4) * size**2 / 2**30
            raise InputError(
                f"ZCA whitening of {size} values per image, which needs matrices of {size} x {size} "
                f"and about {memory:.0f} GiB of memory",
                f"at most {MAX_SIZE} (64 x 64 x 3), or no whitening, as in the papers above 32 x 32",
            )
        if count < 2:
            raise InputError(f"ZCA whitening of {count} image", "at least 2 images")
        mean = np.mean(pixels, axis=0, dtype=np.float64).reshape(-1)
        covariance = np.zeros((size, size))
        for start in range(0, count, _BLOCK):
            centred = pixels[start : start + _BLOCK].reshape(-1, size) - mean
            covariance += centred.T @ centred
        values, vectors = np.linalg.eigh(covariance / (count - 1))
        # Rounding may put an eigenvalue of 0 a little below it.
        root = np.sqrt(values.clip(min=0) + EPSILON)
        matrix, inverse = ((vectors * scale) @ vectors.T for scale in (1 / root, root))
        return cls(*(torch.tensor(array, dtype=torch.float32) for array in (mean, matrix, inverse)))


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """How pixels in [0, 1] become the input of a network.

    Without whitening, ``(pixel - mean) / std`` per channel. With it, the whitened pixels and
    nothing after, as MTT and DD-Ranking do: ``mean`` and ``std`` then only describe the pixels.

    Parameters
    ----------
    mean, std
        Per channel over the training images, float32, shape (channels,).
    zca
        The whitening; None for none.

    Raises
    ------
    InputError
        Where the shapes disagree or a std is not above 0.

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
            raise InputError(
                f"a mean of shape {tuple(self.mean.shape)} and a std of {tuple(self.std.shape)}", "one per channel"
            )
        if not bool((self.std > 0).all()):
            raise InputError(f"a std of {self.std.min().item():g}", "numbers > 0")

    @classmethod
    def fit(cls, data: ImageSet, whitening: Whitening = "none") -> Preprocessing:
        """Take the statistics of the training images; the test images play no part.

        Parameters
        ----------
        data
            The images.
        whitening
            ``"zca"`` whitens; images of at most 64 x 64 x 3 values.

        Returns
        -------
        Preprocessing
            What training, test and distilled images all go through.

        Raises
        ------
        InputError
            Where the whitening is unknown or too large for memory.

        Examples
        --------
        >>> from sextet_common.data import load
        >>> digits = load("digits")
        >>> tuple(Preprocessing.fit(digits, "zca")(digits.test_images).shape)
        (360, 1, 8, 8)
        """
        if whitening not in get_args(Whitening):
            raise InputError(f"whitening {whitening!r} is unknown", " or ".join(get_args(Whitening)))
        zca = ZCA.fit(data.train_images) if whitening == "zca" else None
        return cls(torch.tensor(data.mean), torch.tensor(data.std), zca)

    @property
    def whitening(self) -> Whitening:
        """``"none"`` or ``"zca"``."""
        return "none" if self.zca is None else "zca"

    def __call__(
        self, pixels: Float[np.ndarray, "images channels height width"]
    ) -> Float[Tensor, "images channels height width"]:
        """Turn pixels into a network's input.

        Parameters
        ----------
        pixels
            In [0, 1].

        Returns
        -------
        torch.Tensor
            Float32, the same shape, on the CPU.

        Raises
        ------
        InputError
            Where the images are not of the shape that this was made for.
        """
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
        """Turn a network's input back into pixels.

        Parameters
        ----------
        inputs
            What :meth:`__call__` returns, or synthetic images of its kind, on any device.

        Returns
        -------
        numpy.ndarray
            Float32, the same shape, not clipped: synthetic images may leave [0, 1].

        Raises
        ------
        InputError
            Where the images are not of the shape that this was made for.
        """
        self.check(inputs.shape)
        x = inputs.detach().to("cpu", torch.float32, copy=True)
        if self.zca is None:
            return (x * self.std[:, None, None] + self.mean[:, None, None]).numpy()
        for block in _blocks(x):
            block.copy_(block @ self.zca.inverse + self.zca.mean)
        return x.numpy()

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse images that this was not made for.

        Parameters
        ----------
        shape
            The images' shape, (images, channels, height, width).

        Raises
        ------
        InputError
            Where the channels, or with whitening the values per image, are others.
        """
        if len(shape) != 4 or shape[1] != len(self.mean):
            raise InputError(f"images of shape {tuple(shape)}", f"(n, {len(self.mean)}, height, width)")
        if self.zca is not None and math.prod(shape[1:]) != len(self.zca.mean):
            raise InputError(f"images of shape {tuple(shape)}", f"{len(self.zca.mean)} values each, as whitened")


def check_numbers(**tensors: Tensor) -> None:
    """Refuse tensors that are not of finite float32 numbers.

    Parameters
    ----------
    tensors
        By the names that an error tells.

    Raises
    ------
    InputError
        Where one is of another type, or has a number that is not finite.
    """
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise InputError(f"{name} of {tensor.dtype}", "float32")
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{name} with a number that is not finite", "finite numbers")


def _blocks(images: Tensor) -> Iterator[Tensor]:
    """Give the images as flat rows, some at a time: views that can be written to."""
    yield from images.view(len(images), -1).split(_BLOCK)
