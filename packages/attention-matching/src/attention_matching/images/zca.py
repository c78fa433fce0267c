"""ZCA whitening, fitted to pixels in blocks: to their covariance, or to the Gram matrix of few images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from sextet_common import data as image_data
from sextet_common.errors import InputError
from torch import Tensor

# Added to the covariance's eigenvalues: the value that MTT and DD-Ranking pass to kornia, whose default is 1e-6.
EPSILON = 0.1
MAX_SIZE = 64 * 64 * 3
_VALUES = 2**24  # of the pixels in single precision at once: 64 MiB


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
    def fit(
        cls,
        pixels: Float[np.ndarray, "images channels height width"] | UInt8[np.ndarray, "images channels height width"],
    ) -> ZCA:
        """Fit the whitening to at least two real training images, uint8 or in [0, 1], not standardised.

        Images are read in blocks, also from a memory map. Products are computed in single precision and summed in
        double; the eigendecomposition is in double precision, because in single precision whitened CIFAR-10 images are
        wrong by up to 2e-4 instead of 2e-6. The peak is about 28 size^2 bytes beside the images.

        Examples
        --------
        >>> generator = np.random.default_rng(0)
        >>> zca = ZCA.fit(generator.random((50, 1, 2, 2), dtype=np.float32))
        >>> torch.allclose(zca.matrix @ zca.inverse, torch.eye(4), atol=1e-5)
        True
        """
        count, size = len(pixels), math.prod(pixels.shape[1:])
        if size > MAX_SIZE:
            # The covariance or the Gram matrix in double precision with the solver's workspace, and the centred images
            # of the Gram side.
            raise InputError(
                f"ZCA whitening must have at most {MAX_SIZE} values per image (64 x 64 x 3), got {size}, "
                f"which need about {28 * size**2 / 2**30:.0f} GiB of memory",
                "smaller images, or no whitening, as in the papers above 32 x 32",
            )
        if count < 2:
            raise InputError(f"ZCA whitening needs at least 2 images, got {count}")
        total = np.zeros(size)
        for block in _blocks(pixels):
            total += block.sum(axis=0, dtype=np.float64)
        mean = total / count
        matrix, inverse = _of_gram(pixels, mean) if count < size else _of_covariance(pixels, mean)
        return cls(torch.tensor(mean, dtype=torch.float32), matrix, inverse)


def check_numbers(**tensors: Tensor) -> None:
    """Refuse tensors, by name, that are not float32 or hold non-finite numbers."""
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise InputError(f"{name} must be float32, got {tensor.dtype}")
        # The extremes of numbers with a NaN are NaN; unlike a mask of all numbers they need no memory.
        if tensor.numel() and not all(extreme.isfinite() for extreme in torch.aminmax(tensor.detach())):
            raise InputError(f"{name} must be finite, got NaN or infinity")


def _of_covariance(pixels: np.ndarray, mean: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return matrix and inverse by the eigenvectors of the covariance."""
    from scipy.linalg import blas, eigh

    size = len(mean)
    covariance = np.zeros((size, size), order="F")  # its upper triangle
    for block in _blocks(pixels):
        centred = np.subtract(block, mean.astype(np.float32), out=block)
        covariance += blas.ssyrk(1.0, centred.T)
    covariance /= len(pixels) - 1
    values, vectors = eigh(covariance, lower=False, overwrite_a=True, check_finite=False, driver="evd")
    del covariance
    # Rounding may make an eigenvalue of 0 slightly negative.
    root = np.sqrt(values.clip(min=0) + EPSILON)
    axes = torch.from_numpy(vectors.astype(np.float32))
    del vectors
    return _product(axes, 1 / root), _product(axes, root)


def _of_gram(pixels: np.ndarray, mean: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return matrix and inverse by the Gram matrix of fewer images than pixels.

    The centred images X = U diag(n-1)^(1/2) diag(s)^(1/2) V^T span the eigenvectors with s > 0, and all others have the
    eigenvalue eps. So a function f of the covariance is f(eps) I + X^T U diag(g(s) / (n-1)) U^T X with g(s) = (f(s +
    eps) - f(eps)) / s, written without differences, which would cancel at small s.
    """
    from scipy.linalg import blas, eigh

    count, size = len(pixels), len(mean)
    centred = np.empty((count, size), dtype=np.float32)
    start = 0
    for block in _blocks(pixels):
        np.subtract(block, mean.astype(np.float32), out=centred[start : start + len(block)])
        start += len(block)
    gram = blas.ssyrk(1.0, centred.T, trans=1).astype(np.float64) / (count - 1)
    values, vectors = eigh(gram, lower=False, overwrite_a=True, check_finite=False, driver="evd")
    axes = torch.from_numpy(centred).T @ torch.from_numpy((vectors / math.sqrt(count - 1)).astype(np.float32))
    del centred, gram, vectors
    least = math.sqrt(EPSILON)
    root = np.sqrt(values.clip(min=0) + EPSILON)
    matrix = _product(axes, -1 / (least * root * (least + root)), 1 / least)
    return matrix, _product(axes, 1 / (root + least), least)


def _product(axes: Tensor, scale: np.ndarray, diagonal: float = 0.0) -> Float[Tensor, "size size"]:
    """Return axes diag(scale) axes^T + diagonal I."""
    # Memory from NumPy, which asks for huge pages: with torch's, half of the time goes into page faults.
    product = torch.from_numpy(np.empty((len(axes), len(axes)), dtype=np.float32))
    torch.mm(axes * torch.from_numpy(scale.astype(np.float32)), axes.T, out=product)
    product.diagonal().add_(diagonal)
    return product


def _blocks(pixels: np.ndarray) -> Iterator[Float[np.ndarray, "images size"]]:
    """Yield copies of the images as flat rows in [0, 1], some at a time."""
    rows = max(1, _VALUES // math.prod(pixels.shape[1:]))
    for start in range(0, len(pixels), rows):
        block = image_data.to_float(image_data.take(pixels, slice(start, start + rows)))
        yield block.reshape(len(block), -1)
