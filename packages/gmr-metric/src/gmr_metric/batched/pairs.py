"""The inner products of all pairs of mixtures as one differentiable operation, computed in the way that is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmr_metric.batched import blocks, choice, direct, general
from gmr_metric.batched.batch import Batch, pairs_per_block


def all_pairs(f: Batch, g: Batch, chunk_size: int | None, *, cosine: bool = False) -> Tensor:
    """Compute log <f, g> of all pairs, or for one batch with itself the log cosines."""
    way = _way(f, g, chunk_size) if f.covariances.ndim <= f.means.ndim else None
    if way is None:
        inner = general.log_inner_products(f, g, pairs_per_block(f, chunk_size))
        return log_cosines(inner) if cosine else inner
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*f, *g))):
        inner, _, cosines = way.forward(f, g)
        return _chosen(inner, cosines, cosine)
    result: Tensor = InnerProducts.apply(way, chunk_size, cosine, *f, *(g if g is not f else ()))
    return result


def log_cosines(inner: Tensor, norms: Tensor | None = None, other_norms: Tensor | None = None) -> Tensor:
    """Divide inner products by norms, all as logarithms; without norms the diagonal has their squares."""
    least = torch.finfo(inner.dtype).min / 4  # -inf + inf is NaN
    norms = (inner.diagonal() if norms is None else norms).clamp(min=least)
    other_norms = norms if other_norms is None else other_norms.clamp(min=least)
    cosine = torch.add(inner, norms[:, None] + other_norms, alpha=-0.5)
    if not cosine.requires_grad:
        return cosine.clamp_(max=0.0)
    return cosine - cosine.detach().clamp(min=0.0)  # clamps the value alone: clamp() would cut the gradient


class InnerProducts(torch.autograd.Function):
    """log <f, g> of isotropic or diagonal batches, or one batch's log cosines, with closed-form gradients."""

    @staticmethod
    def forward(
        ctx: Any, way: Direct | Blocks | Kernels, chunk_size: int | None, cosine: bool, *tensors: Tensor
    ) -> Tensor:
        """Compute the inner products, and save them for the backward pass."""
        inner, saved, cosines = way.forward(*_batches(tensors))
        ctx.save_for_backward(inner, *tensors, *saved)
        ctx.way, ctx.chunk_size, ctx.cosine, ctx.inputs = way, chunk_size, cosine, len(tensors)
        return _chosen(inner, cosines, cosine)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the tensors."""
        inner, *tensors = ctx.saved_tensors
        tensors, saved = tensors[: ctx.inputs], tensors[ctx.inputs :]
        f, g = _batches(tensors)
        if torch.is_grad_enabled():  # create_graph: the gradients must have derivatives themselves
            again = general.log_inner_products(f, g, pairs_per_block(f, ctx.chunk_size))
            again = log_cosines(again) if ctx.cosine else again
            inputs = [tensor for tensor in tensors if tensor.requires_grad]
            gradients = iter(torch.autograd.grad(again, inputs, gradient, create_graph=True))
            return (None, None, None, *(next(gradients) if tensor.requires_grad else None for tensor in tensors))
        return (None, None, None, *ctx.way.backward(f, g, inner, gradient, saved, ctx.cosine))


class Direct(NamedTuple):
    """Computation by `gmr_metric.batched.direct`."""

    def forward(self, f: Batch, g: Batch) -> tuple[Tensor, Sequence[Tensor], Tensor | None]:
        """Compute the inner products, what the backward pass needs, and maybe a batch's own log cosines."""
        return direct.forward(f, g)

    def backward(self, f: Batch, g: Batch, inner: Tensor, gradient: Tensor, saved: Any, cosine: bool) -> list[Tensor]:
        """Compute the gradients of f's tensors, and of g's if it is another batch."""
        return direct.backward(f, g, gradient, saved, cosine)


class Blocks(NamedTuple):
    """Computation by `gmr_metric.batched.blocks`."""

    pairs: int
    products: torch.dtype | None

    def forward(self, f: Batch, g: Batch) -> tuple[Tensor, Sequence[Tensor], Tensor | None]:
        """Compute the inner products, what the backward pass needs, and maybe a batch's own log cosines."""
        left = blocks.Flat.of(*f)
        return blocks.forward(left, left if g is f else blocks.Flat.of(*g), self.pairs, self.products), (), None

    def backward(self, f: Batch, g: Batch, inner: Tensor, gradient: Tensor, saved: Any, cosine: bool) -> list[Tensor]:
        """Compute the gradients of f's tensors, and of g's if it is another batch."""
        left = blocks.Flat.of(*f)
        right = left if g is f else blocks.Flat.of(*g)
        gradient = _of_inner(gradient) if cosine else gradient
        of_f, of_g = blocks.backward(left, right, inner, gradient, self.pairs, self.products)
        flat = [x + y for x, y in zip(of_f, of_g, strict=True)] if g is f else [*of_f, *of_g]
        return [part.reshape(like.shape) for part, like in zip(flat, (*f, *g), strict=False)]


class Kernels(NamedTuple):
    """Computation by `gmr_metric.batched.triton`."""

    chunk_size: int | None

    def forward(self, f: Batch, g: Batch) -> tuple[Tensor, Sequence[Tensor], Tensor | None]:
        """Compute the inner products, what the backward pass needs, and maybe a batch's own log cosines."""
        return choice.triton().forward(f, g), (), None

    def backward(self, f: Batch, g: Batch, inner: Tensor, gradient: Tensor, saved: Any, cosine: bool) -> list[Tensor]:
        """Compute the gradients of f's tensors, and of g's if it is another batch."""
        gradient = _of_inner(gradient) if cosine else gradient
        products = choice.mean_products(f, g)
        gradients: list[Tensor] = choice.triton().backward(f, g, inner, gradient, self.chunk_size, products)
        return gradients


def _chosen(inner: Tensor, cosines: Tensor | None, cosine: bool) -> Tensor:
    if not cosine:
        return inner
    return log_cosines(inner) if cosines is None else cosines


def _of_inner(gradient: Tensor) -> Tensor:
    """Return the gradient of a batch's own inner products from that of its log cosines."""
    norms = gradient.sum(dim=0).add_(gradient.sum(dim=1))
    gradient = gradient.clone()
    gradient.diagonal().sub_(norms, alpha=0.5)
    return gradient


def _batches(tensors: Sequence[Tensor]) -> tuple[Batch, Batch]:
    f = Batch(*tensors[:3])
    return f, (Batch(*tensors[3:]) if len(tensors) > 3 else f)


def _way(f: Batch, g: Batch, chunk_size: int | None) -> Direct | Blocks | Kernels | None:
    """Choose how to compute isotropic or diagonal batches; None for the general way."""
    if f.means.device.type == "cuda":
        return Kernels(chunk_size) if choice.triton() is not None else None
    if f.means.device.type != "cpu":
        return None
    if choice.at_once(f, g, chunk_size):
        return Direct()
    block = choice.block(f, g, chunk_size)
    return Blocks(*block) if block is not None else None
