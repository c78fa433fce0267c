"""The choice of how to compute the inner products of all pairs of mixtures: closed-form blocks, Triton or autograd."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmr_metric.batched import blocks, general
from gmr_metric.batched.batch import Batch, pairs_per_block

_LARGEST_PAIR = 2**22  # pairs of components of two mixtures; larger ones need the general way, which splits a mixture


def all_pairs(f: Batch, g: Batch, chunk_size: int | None) -> Tensor:
    """Compute log <f, g> of all pairs; for one batch with itself from the upper triangle."""
    way = _way(f, g, chunk_size) if f.covariances.ndim <= f.means.ndim else None
    if way is None:
        return general.log_inner_products(f, g, pairs_per_block(f, chunk_size))
    inner: Tensor = InnerProducts.apply(way, chunk_size, *f, *(g if g is not f else ()))
    return inner


class InnerProducts(torch.autograd.Function):
    """log <f, g> of isotropic or diagonal batches with closed-form gradients, by blocks or Triton kernels."""

    @staticmethod
    def forward(ctx: Any, way: Blocks | Kernels, chunk_size: int | None, *tensors: Tensor) -> Tensor:
        """Compute the inner products, and save them for the backward pass."""
        inner = way.forward(*_batches(tensors))
        ctx.save_for_backward(inner, *tensors)
        ctx.way, ctx.chunk_size = way, chunk_size
        return inner

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the tensors."""
        inner, *tensors = ctx.saved_tensors
        f, g = _batches(tensors)
        if torch.is_grad_enabled():  # create_graph: the gradients must have derivatives themselves
            again = general.log_inner_products(f, g, pairs_per_block(f, ctx.chunk_size))
            inputs = [tensor for tensor in tensors if tensor.requires_grad]
            gradients = iter(torch.autograd.grad(again, inputs, gradient, create_graph=True))
            return (None, None, *(next(gradients) if tensor.requires_grad else None for tensor in tensors))
        return (None, None, *ctx.way.backward(f, g, inner, gradient))


class Blocks(NamedTuple):
    """Computation by `gmr_metric.batched.blocks`."""

    pairs: int
    products: torch.dtype | None

    def forward(self, f: Batch, g: Batch) -> Tensor:
        """Compute the inner products."""
        left = blocks.Flat.of(*f)
        return blocks.forward(left, left if g is f else blocks.Flat.of(*g), self.pairs, self.products)

    def backward(self, f: Batch, g: Batch, inner: Tensor, gradient: Tensor) -> list[Tensor]:
        """Compute the gradients of f's tensors, and of g's if it is another batch."""
        left = blocks.Flat.of(*f)
        right = left if g is f else blocks.Flat.of(*g)
        of_f, of_g = blocks.backward(left, right, inner, gradient, self.pairs, self.products)
        flat = [x + y for x, y in zip(of_f, of_g, strict=True)] if g is f else [*of_f, *of_g]
        return [part.reshape(like.shape) for part, like in zip(flat, (*f, *g), strict=False)]


class Kernels(NamedTuple):
    """Computation by `gmr_metric.batched.triton`."""

    chunk_size: int | None

    def forward(self, f: Batch, g: Batch) -> Tensor:
        """Compute the inner products."""
        inner: Tensor = _triton().forward(f, g)
        return inner

    def backward(self, f: Batch, g: Batch, inner: Tensor, gradient: Tensor) -> list[Tensor]:
        """Compute the gradients of f's tensors, and of g's if it is another batch."""
        gradients: list[Tensor] = _triton().backward(f, g, inner, gradient, self.chunk_size)
        return gradients


def _batches(tensors: Sequence[Tensor]) -> tuple[Batch, Batch]:
    f = Batch(*tensors[:3])
    return f, (Batch(*tensors[3:]) if len(tensors) > 3 else f)


def _way(f: Batch, g: Batch, chunk_size: int | None) -> Blocks | Kernels | None:
    """Choose how to compute isotropic or diagonal batches; None for the general way.

    Values are inspected on a CPU only, so that a GPU never waits.
    """
    device, isotropic = f.means.device.type, f.covariances.ndim < f.means.ndim
    if device == "cuda":
        return Kernels(chunk_size) if _triton() is not None else None
    pair = f.means.shape[1] * g.means.shape[1]
    default = blocks.ISOTROPIC_PAIRS if isotropic else blocks.DIAGONAL_PAIRS
    pairs = chunk_size or max(pair, default)
    if device != "cpu" or pairs < pair or pair > _LARGEST_PAIR:
        return None
    if not isotropic:
        return Blocks(pairs, None)
    left = blocks.Flat.of(*f)
    products = blocks.product_dtype(left, left if g is f else blocks.Flat.of(*g))
    return Blocks(pairs, products) if products is not None else None


@cache
def _triton() -> Any:
    """Return the module of Triton kernels, or None if Triton is not installed or does not support this machine."""
    try:
        from gmr_metric.batched import triton
    except ImportError:
        return None
    return triton
