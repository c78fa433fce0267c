"""A batch of Gaussian mixtures as three tensors, and its checks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from sextet_common.checks import Count, check
from sextet_common.errors import InputError
from torch import Tensor

BLOCK_NUMBERS = 2**23  # entries in the largest tensor of a block by default: 64 MiB in float64


class Batch(NamedTuple):
    """The three tensors of a batch; a tuple, so that `checkpoint` sees the tensors and their device."""

    log_weights: Tensor  # (..., mixtures, components), and so the others
    means: Tensor
    covariances: Tensor

    def split(self, size: int, dim: int) -> Iterator[Batch]:
        """Split along a dimension; unlike a slice, its backward pass does not fill a whole tensor for every block."""
        pieces = (tensor.split(size, dim) for tensor in self)
        return (Batch(*piece) for piece in zip(*pieces, strict=True))

    def flat(self) -> Batch:
        """Return all components of all mixtures in one row."""
        first = self.log_weights.ndim - 2
        return Batch(*(tensor.flatten(first, first + 1) for tensor in self))


def checked(log_weights: Tensor, means: Tensor, covariances: Tensor) -> Batch:
    """Check shapes and dtypes, and convert to one dtype, float32 or float64."""
    if means.ndim != 3 or log_weights.shape != means.shape[:2] or not means.numel():
        given = f"log_weights have shape {tuple(log_weights.shape)}, means {tuple(means.shape)}"
        raise InputError(given, "(batch, components) and (batch, components, dims), none of them zero")
    if covariances.shape not in (means.shape[:2], means.shape, (*means.shape, means.shape[-1])):
        given = f"covariances have shape {tuple(covariances.shape)} with means of {tuple(means.shape)}"
        raise InputError(given, "(batch, components), (batch, components, dims) or (batch, components, dims, dims)")
    batch = Batch(log_weights, means, covariances)
    dtypes = {tensor.dtype for tensor in batch}
    if len(dtypes) == 1 and dtypes <= {torch.float32, torch.float64}:
        return batch
    if not all(dtype.is_floating_point for dtype in dtypes):
        raise InputError(
            f"log_weights, means, covariances have dtypes {[x.dtype for x in batch]}", "floating-point tensors"
        )
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    return Batch(*(tensor.to(wide) for tensor in batch))


def checked_other(f: Batch, *other: Tensor | None) -> Batch:
    """Check the second batch, of the same kind and dims; return ``f`` itself if there is none."""
    present = [tensor for tensor in other if tensor is not None]
    if not present:
        return f
    if len(present) < 3:
        raise InputError(f"{len(present)} of the other batch's three tensors are given", "all of them or none")
    g = checked(*present)
    (dims, rank, dtype), other_traits = ((b.means.shape[2], b.covariances.ndim, b.means.dtype) for b in (f, g))
    if (dims, rank, dtype) != other_traits:
        given = "the other batch has {} dims, covariances of rank {}, computed in {}".format(*other_traits)
        raise InputError(given, f"those of the first, {dims}, {rank} and {dtype}")
    return g


def pairs_per_block(f: Batch, chunk_size: int | None) -> int:
    """Return how many pairs of components the general computation evaluates at once."""
    if chunk_size is not None:
        check("chunk_size", chunk_size, Count)
    # dims for isotropic variances too: the backward pass of cdist on CUDA holds the differences
    return chunk_size or max(1, BLOCK_NUMBERS // math.prod(f.covariances.shape[2:] or f.means.shape[2:]))
