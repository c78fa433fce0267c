"""The cost rules that choose how a batch's inner products are computed, by shape and device.

On a CPU small problems are computed directly, all pairs at once, and others in blocks. On a GPU the Triton kernels
compute the forward pass and the weights of the backward pass; the sums of the mean's gradients of isotropic batches are
a matrix product where that is estimated to be faster. Diagonal batches have no such form: their quotients
``d^2 / (p + q)`` do not separate into factors of the two components.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from gmr_metric.batched import blocks
from gmr_metric.batched.batch import Batch

# CPU, in units of one call of PyTorch: what a block costs beyond the direct way, and one number of one tensor.
_CALL, _NUMBER = 1.0, 1e-4
_LARGEST_DIRECT = 2**21  # numbers in the largest tensor of the direct way
_LARGEST_PAIR = 2**22  # pairs of components of two mixtures; larger ones need the general way, which splits a mixture
# GPU: multiply-adds per second of the kernel that sums gradients, from its 370 ms on an H100 with 512 mixtures of 80
# components in 128 dims, and of a float32 product; seconds that a product's extra calls take. Of these only the first
# is from a measurement.
_SUM_RATE, _PRODUCT_RATE, _PRODUCT_START = 7e11, 1e13, 5e-5


def at_once(f: Batch, g: Batch, chunk_size: int | None) -> bool:
    """Whether the direct way is estimated to be the fastest on a CPU, and its tables are small."""
    pairs, dims = f.log_weights.numel() * g.log_weights.numel(), f.means.shape[2]
    if (chunk_size is not None and 3 * pairs * dims > chunk_size) or pairs * dims > _LARGEST_DIRECT:
        return False
    if f.covariances.ndim < f.means.ndim:  # differences in three passes, against a fixed number of calls
        return 3 * _NUMBER * pairs * dims < 60 * _CALL + 10 * _NUMBER * pairs
    # Blocks take a dozen calls for every dimension; their temporary tensors stay in the cache.
    return 2 * _NUMBER * pairs * dims < 30 * _CALL + 12 * _CALL * dims


def block(f: Batch, g: Batch, chunk_size: int | None) -> tuple[int, torch.dtype | None] | None:
    """Return the pairs of components in a block on a CPU and the dtype of its products; None if blocks do not serve.

    The values are inspected, which on a GPU would make the host wait.
    """
    isotropic, pair = f.covariances.ndim < f.means.ndim, f.means.shape[1] * g.means.shape[1]
    pairs = chunk_size or max(pair, blocks.ISOTROPIC_PAIRS if isotropic else blocks.DIAGONAL_PAIRS)
    if pairs < pair or pair > _LARGEST_PAIR:
        return None
    if not isotropic:
        return pairs, None
    left = blocks.Flat.of(*f)
    products = blocks.product_dtype(left, left if g is f else blocks.Flat.of(*g))
    return None if products is None else (pairs, products)


def mean_products(f: Batch, g: Batch) -> bool:
    """Whether a matrix product should sum the mean's gradients on a GPU: isotropic, in full float32, and faster."""
    if f.covariances.ndim == f.means.ndim or (f.means.dtype == torch.float32 and not _full_precision()):
        return False
    sums = f.log_weights.numel() * g.log_weights.numel() * max(f.means.shape[2], 16)  # the kernel pads to 16
    return sums / _SUM_RATE > _PRODUCT_START + sums / _PRODUCT_RATE


def _full_precision() -> bool:
    """Whether float32 products keep float32's digits: TF32 keeps eleven bits."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # the setting was made by a newer interface
        return False


@cache
def triton() -> Any:
    """Return the module of Triton kernels, or None if Triton is not installed or does not support this machine."""
    try:
        from gmr_metric.batched import triton
    except ImportError:
        return None
    return triton
