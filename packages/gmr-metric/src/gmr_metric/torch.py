"""Inner products and similarities of batches of Gaussian mixtures in PyTorch: differentiable, in bounded memory.

A batch is three tensors: log weights (batch, components), means (batch, components, dims) and covariances, whose rank
says their kind: (batch, components) isotropic variances, (batch, components, dims) diagonal variances, or
(batch, components, dims, dims) full symmetric matrices. A log weight of -inf is a component that is not there; its
mean and covariance must be valid all the same, any will do.

Only shapes and dtypes are checked: to look at values would make a GPU wait for the host. A variance that is not
positive gives NaN or infinity; a full matrix that is not positive definite makes ``torch.linalg.cholesky`` raise,
for which alone the host waits: isotropic and diagonal batches never make it wait.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from sextet_common.errors import InputError
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gmr_metric.batched import blocks as torch_blocks

BLOCK_NUMBERS = 2**23  # entries in the largest tensor of a block, where no chunk size is given: 64 MiB in float64
_LARGEST_PAIR = 2**22  # pairs of components of two mixtures; more of them go the general way, which splits a mixture


def log_inner_products(
    log_weights: Float[Tensor, "batch components"],
    means: Float[Tensor, "batch components dims"],
    covariances: Float[Tensor, "batch components *covariance"],
    other_log_weights: Float[Tensor, "others other_components"] | None = None,
    other_means: Float[Tensor, "others other_components dims"] | None = None,
    other_covariances: Float[Tensor, "others other_components *covariance"] | None = None,
    *,
    chunk_size: int | None = None,
) -> Float[Tensor, "batch others"]:
    """Log of the L2 inner product of every mixture of one batch with every mixture of another.

    ``<f, g> = sum_ij w_i v_j N(m_i; n_j, P_i + Q_j)``, in log space throughout. Weights need not sum to one.

    Parameters
    ----------
    log_weights, means, covariances
        The first batch, shapes (batch, components), (batch, components, dims) and one of the three kinds of
        covariances that the module names. Half precision is computed in float32.
    other_log_weights, other_means, other_covariances
        The second batch, of the same kind and dims; the first with itself where omitted.
    chunk_size
        How many pairs of components are evaluated at once. Larger problems go in blocks, which the backward pass
        computes anew instead of storing; a block is never smaller than one component against one mixture. Forward
        and backward hold about 4 (isotropic), 5 (diagonal) or 6 dims**2 (full) numbers a pair, measured on a CPU;
        None is 2**19, 2**17 or 2**23 / dims**2 pairs. On a GPU with Triton isotropic and diagonal batches hold one
        number a pair and only in the backward pass; None is 2**27 pairs. The result depends on it by rounding only.

    Returns
    -------
    Tensor
        Shape (batch, others), float32 or float64; exactly symmetric for one batch with itself. A mixture whose
        weights are all zero has -inf, and gradients of zero. Second derivatives are right too, but for isotropic
        variances where two means are equal (`torch.cdist` has a kink there), and with torch 2.6, whose cdist has none.

    Raises
    ------
    InputError
        Where shapes or dtypes do not fit, or the chunk size is below 1. Values are not checked.

    References
    ----------
    The integral of a product of Gaussians is ``N(m; n, P + Q)``; a metric of mixtures from it: arXiv 2306.07309.

    Examples
    --------
    Two mixtures of one component in one dimension, N(0, 1) and N(2, 1):

    >>> log_weights, means, variances = torch.zeros(2, 1), torch.tensor([[[0.0]], [[2.0]]]), torch.ones(2, 1)
    >>> log_inner_products(log_weights, means, variances)
    tensor([[-1.2655, -2.2655],
            [-2.2655, -1.2655]])
    """
    f = _checked(log_weights, means, covariances)
    g = _checked_other(f, other_log_weights, other_means, other_covariances)
    _chunk(f, chunk_size)
    return _all_pairs(f, g, chunk_size)


def log_similarity_matrix(
    log_weights: Float[Tensor, "batch components"],
    means: Float[Tensor, "batch components dims"],
    covariances: Float[Tensor, "batch components *covariance"],
    other_log_weights: Float[Tensor, "others other_components"] | None = None,
    other_means: Float[Tensor, "others other_components dims"] | None = None,
    other_covariances: Float[Tensor, "others other_components *covariance"] | None = None,
    *,
    chunk_size: int | None = None,
) -> Float[Tensor, "batch others"]:
    """Log cosine of every mixture of one batch with every mixture of another; stays finite where the cosine underflows.

    ``log <f, g> - (log <f, f> + log <g, g>) / 2``, minus the Cauchy-Schwarz divergence. Weights' scale drops out.

    Parameters
    ----------
    log_weights, means, covariances, other_log_weights, other_means, other_covariances, chunk_size
        As for `log_inner_products`.

    Returns
    -------
    Tensor
        Shape (batch, others), at most 0; for one batch with itself symmetric with a diagonal of exactly 0. What
        rounding lifts above 0 reads 0, yet keeps the gradient of the formula. A mixture whose weights are all zero
        has no direction: -inf, its diagonal included.

    Raises
    ------
    InputError
        As for `log_inner_products`.

    References
    ----------
    The cosine of the angle between densities in L2, after arXiv 2306.07309.

    Examples
    --------
    >>> log_weights, means, variances = torch.zeros(2, 1), torch.tensor([[[0.0]], [[2.0]]]), torch.ones(2, 1)
    >>> log_similarity_matrix(log_weights, means, variances)
    tensor([[ 0.0000, -1.0000],
            [-1.0000,  0.0000]])
    """
    f = _checked(log_weights, means, covariances)
    g = _checked_other(f, other_log_weights, other_means, other_covariances)
    chunk = _chunk(f, chunk_size)
    inner = _all_pairs(f, g, chunk_size)
    norms = inner.diagonal() if g is f else _own(f, chunk)  # its own entries, so that the diagonal cancels exactly
    other_norms = norms if g is f else _own(g, chunk)
    norms, other_norms = (n.masked_fill(torch.isneginf(n), 0.0) for n in (norms, other_norms))  # -inf + inf is NaN
    cosine = inner - (norms[:, None] + other_norms) / 2
    return cosine - cosine.detach().clamp(min=0.0)  # a clamp of the value alone: clamp() would cut the gradient


def similarity_matrix(
    log_weights: Float[Tensor, "batch components"],
    means: Float[Tensor, "batch components dims"],
    covariances: Float[Tensor, "batch components *covariance"],
    other_log_weights: Float[Tensor, "others other_components"] | None = None,
    other_means: Float[Tensor, "others other_components dims"] | None = None,
    other_covariances: Float[Tensor, "others other_components *covariance"] | None = None,
    *,
    chunk_size: int | None = None,
) -> Float[Tensor, "batch others"]:
    """Cosine of every mixture of one batch with every mixture of another: 1 for equal densities, towards 0 far apart.

    Far apart it underflows to 0 and its gradient with it; a loss should take `log_similarity_matrix`.

    Parameters
    ----------
    log_weights, means, covariances, other_log_weights, other_means, other_covariances, chunk_size
        As for `log_inner_products`.

    Returns
    -------
    Tensor
        Shape (batch, others), in [0, 1]; for one batch with itself symmetric with a diagonal of exactly 1. What
        rounding lifts above 1 reads 1, as in `log_similarity_matrix`. A mixture whose weights are all zero has 0.

    Raises
    ------
    InputError
        As for `log_inner_products`.

    References
    ----------
    The cosine of the angle between densities in L2, after arXiv 2306.07309.

    Examples
    --------
    >>> log_weights, means, variances = torch.zeros(2, 1), torch.tensor([[[0.0]], [[2.0]]]), torch.ones(2, 1)
    >>> similarity_matrix(log_weights, means, variances)
    tensor([[1.0000, 0.3679],
            [0.3679, 1.0000]])
    """
    other = (other_log_weights, other_means, other_covariances)
    return log_similarity_matrix(log_weights, means, covariances, *other, chunk_size=chunk_size).exp()


class _Batch(NamedTuple):
    """The three tensors of a batch; a tuple, so that `checkpoint` sees the tensors and their device."""

    log_weights: Tensor  # (..., mixtures, components), and so the others
    means: Tensor
    covariances: Tensor

    def split(self, size: int, dim: int) -> Iterator[_Batch]:
        # split, not slices: the backward pass of a slice fills a whole tensor with zeros for every block
        pieces = (tensor.split(size, dim) for tensor in self)
        return (_Batch(*piece) for piece in zip(*pieces, strict=True))

    def flat(self) -> _Batch:
        """All components of all mixtures in one row."""
        first = self.log_weights.ndim - 2
        return _Batch(*(tensor.flatten(first, first + 1) for tensor in self))


def _all_pairs(f: _Batch, g: _Batch, chunk_size: int | None) -> Tensor:
    """Compute log <f, g> of all pairs; of one batch with itself the upper triangle decides."""
    way = _way(f, g, chunk_size) if f.covariances.ndim <= f.means.ndim else None
    if way is not None:
        inner: Tensor = _Inner.apply(way, chunk_size, *f, *(g if g is not f else ()))
        return inner
    return _general(f, g, _chunk(f, chunk_size))


class _Inner(torch.autograd.Function):
    """log <f, g> of isotropic or diagonal batches with gradients in closed form, by blocks or by Triton kernels."""

    @staticmethod
    def forward(ctx: Any, way: _Blocks | _Kernels, chunk_size: int | None, *tensors: Tensor) -> Tensor:
        inner = way.forward(*_two(tensors))
        ctx.save_for_backward(inner, *tensors)
        ctx.way, ctx.chunk_size = way, chunk_size
        return inner

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inner, *tensors = ctx.saved_tensors
        f, g = _two(tensors)
        if torch.is_grad_enabled():  # create_graph: what is returned must have derivatives itself
            again = _general(f, g, _chunk(f, ctx.chunk_size))
            wanted = [tensor for tensor in tensors if tensor.requires_grad]
            found = iter(torch.autograd.grad(again, wanted, gradient, create_graph=True))
            return (None, None, *(next(found) if tensor.requires_grad else None for tensor in tensors))
        return (None, None, *ctx.way.backward(f, g, inner, gradient))


def _two(tensors: Sequence[Tensor]) -> tuple[_Batch, _Batch]:
    f = _Batch(*tensors[:3])
    return f, (_Batch(*tensors[3:]) if len(tensors) > 3 else f)


class _Blocks(NamedTuple):
    """The way of `gmr_metric.batched.blocks`."""

    pairs: int
    products: torch.dtype | None

    def forward(self, f: _Batch, g: _Batch) -> Tensor:
        left = torch_blocks.Flat.of(*f)
        return torch_blocks.forward(left, left if g is f else torch_blocks.Flat.of(*g), self.pairs, self.products)

    def backward(self, f: _Batch, g: _Batch, inner: Tensor, gradient: Tensor) -> list[Tensor]:
        left = torch_blocks.Flat.of(*f)
        right = left if g is f else torch_blocks.Flat.of(*g)
        of_f, of_g = torch_blocks.backward(left, right, inner, gradient, self.pairs, self.products)
        flat = [x + y for x, y in zip(of_f, of_g, strict=True)] if g is f else [*of_f, *of_g]
        return [part.reshape(like.shape) for part, like in zip(flat, (*f, *g), strict=False)]


class _Kernels(NamedTuple):
    """The way of `gmr_metric.batched.triton`."""

    chunk_size: int | None

    def forward(self, f: _Batch, g: _Batch) -> Tensor:
        inner: Tensor = _kernels().forward(f, g)
        return inner

    def backward(self, f: _Batch, g: _Batch, inner: Tensor, gradient: Tensor) -> list[Tensor]:
        found: list[Tensor] = _kernels().backward(f, g, inner, gradient, self.chunk_size)
        return found


def _way(f: _Batch, g: _Batch, chunk_size: int | None) -> _Blocks | _Kernels | None:
    """Choose how to compute isotropic or diagonal batches; None where only the general way will do.

    Nothing here waits for a GPU: values are looked at on a CPU alone.
    """
    device, isotropic = f.means.device.type, f.covariances.ndim < f.means.ndim
    if device == "cuda":
        return _Kernels(chunk_size) if _kernels() is not None else None
    pair = f.means.shape[1] * g.means.shape[1]
    default = torch_blocks.ISOTROPIC_PAIRS if isotropic else torch_blocks.DIAGONAL_PAIRS
    pairs = chunk_size or max(pair, default)
    if device != "cpu" or pairs < pair or pair > _LARGEST_PAIR:
        return None
    if not isotropic:
        return _Blocks(pairs, None)
    left = torch_blocks.Flat.of(*f)
    products = torch_blocks.product_dtype(left, left if g is f else torch_blocks.Flat.of(*g))
    return _Blocks(pairs, products) if products is not None else None


@cache
def _kernels() -> Any:
    """Return the module of Triton kernels, or None where Triton is not installed or does not know this machine."""
    try:
        from gmr_metric.batched import triton as torch_kernels
    except ImportError:
        return None
    return torch_kernels


def _general(f: _Batch, g: _Batch, chunk: int) -> Tensor:
    """Compute log <f, g> of all pairs by PyTorch's own derivatives, in tiles that the backward pass computes anew."""
    (batch, components), (others, other_components) = f.log_weights.shape, g.log_weights.shape
    pairs = max(1, chunk // (components * other_components))
    rows = min(batch, max(math.isqrt(pairs), pairs // others))
    columns = min(others, pairs // rows)
    parts = min(components, max(1, chunk // (rows * columns * other_components)))
    recompute = rows < batch or columns < others
    lines = []
    for i, f_rows in enumerate(f.split(rows, 0)):
        line = []
        for j, g_rows in enumerate(g.split(columns, 0)):
            if g is f and (j + 1) * columns <= i * rows:  # below the diagonal
                line.append(f.means.new_zeros(len(f_rows.means), len(g_rows.means)))
            else:
                line.append(_tile(f_rows, g_rows, parts, recompute))
        lines.append(torch.cat(line, dim=1))
    inner = torch.cat(lines)
    return inner.triu() + inner.triu(1).mT if g is f else inner


def _own(f: _Batch, chunk: int) -> Tensor:
    """Compute log <f, f> of each mixture, shape (batch,)."""
    batch, components = f.log_weights.shape
    rows = min(batch, max(1, chunk // components**2))
    parts = min(components, max(1, chunk // (rows * components)))
    singles = _Batch(*(tensor.unsqueeze(1) for tensor in f))
    return torch.cat([_tile(part, part, parts, rows < batch).flatten() for part in singles.split(rows, 0)])


def _tile(f: _Batch, g: _Batch, parts: int, recompute: bool) -> Tensor:
    """Compute log <f, g> of a block of pairs, with `parts` components of each f at a time."""
    dim = f.log_weights.ndim - 1
    if not recompute and parts == f.log_weights.shape[dim]:
        return _log_inner(f, g)
    anew = partial(checkpoint, _log_inner, use_reentrant=False, preserve_rng_state=False)  # nothing here is random
    return torch.logsumexp(torch.stack([anew(piece, g) for piece in f.split(parts, dim)]), dim=0)


def _log_inner(f: _Batch, g: _Batch) -> Tensor:
    """Compute log <f, g> of all pairs: (..., rows, components) and (..., columns, others) give (..., rows, columns)."""
    f_empty, g_empty = (torch.isneginf(batch.log_weights).all(dim=-1) for batch in (f, g))
    v = f.log_weights.masked_fill(f_empty[..., None], 0.0)  # logsumexp of nothing but -inf has NaN gradients
    w = g.log_weights.masked_fill(g_empty[..., None], 0.0)
    kernel = _log_kernel(f.flat(), g.flat()).unflatten(-1, w.shape[-2:]).unflatten(-3, v.shape[-2:])
    inner = torch.logsumexp(v[..., None, None] + kernel + w[..., None, None, :, :], dim=(-3, -1))
    return inner.masked_fill(f_empty[..., :, None] | g_empty[..., None, :], -math.inf)


def _log_kernel(f: _Batch, g: _Batch) -> Tensor:
    """Compute log N(m_i; n_j, P_i + Q_j) for components (..., n) and (..., m): shape (..., n, m)."""
    constant = f.means.shape[-1] * math.log(2 * math.pi)
    if f.covariances.ndim < f.means.ndim:  # isotropic: distances from differences, as |m|^2 + |n|^2 - 2mn cancels
        total = f.covariances[..., :, None] + g.covariances[..., None, :]
        squared = torch.cdist(f.means, g.means, compute_mode="donot_use_mm_for_euclid_dist").square()
        return -0.5 * (squared / total + f.means.shape[-1] * total.log() + constant)
    difference = f.means[..., :, None, :] - g.means[..., None, :, :]
    if f.covariances.ndim == f.means.ndim:
        total = f.covariances[..., :, None, :] + g.covariances[..., None, :, :]
        return -0.5 * (torch.sum(difference.square() / total + total.log(), dim=-1) + constant)
    factor = torch.linalg.cholesky(f.covariances[..., :, None, :, :] + g.covariances[..., None, :, :, :])
    white = torch.linalg.solve_triangular(factor, difference[..., None], upper=False)[..., 0]
    return -0.5 * (torch.sum(white.square() + 2 * factor.diagonal(dim1=-2, dim2=-1).log(), dim=-1) + constant)


def _checked(log_weights: Tensor, means: Tensor, covariances: Tensor) -> _Batch:
    """Check shapes and dtypes, and bring the batch to one dtype, float32 at least."""
    if means.ndim != 3 or log_weights.shape != means.shape[:2] or not means.numel():
        given = f"log_weights have shape {tuple(log_weights.shape)}, means {tuple(means.shape)}"
        raise InputError(given, "(batch, components) and (batch, components, dims), none of them zero")
    if covariances.shape not in (means.shape[:2], means.shape, (*means.shape, means.shape[-1])):
        given = f"covariances have shape {tuple(covariances.shape)} beside means of {tuple(means.shape)}"
        raise InputError(given, "(batch, components), (batch, components, dims) or (batch, components, dims, dims)")
    batch = _Batch(log_weights, means, covariances)
    dtypes = [tensor.dtype for tensor in batch]
    if not all(dtype.is_floating_point for dtype in dtypes):
        raise InputError(f"log_weights, means, covariances have dtypes {dtypes}", "floating-point tensors")
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    return _Batch(*(tensor.to(wide) for tensor in batch))


def _checked_other(f: _Batch, *other: Tensor | None) -> _Batch:
    """Check the second batch, of the kind and dims of `f`; `f` itself where there is none."""
    present = [tensor for tensor in other if tensor is not None]
    if not present:
        return f
    if len(present) < 3:
        raise InputError(f"{len(present)} of the other batch's three tensors are given", "all of them or none")
    g = _checked(*present)
    (dims, rank, dtype), other_traits = ((b.means.shape[2], b.covariances.ndim, b.means.dtype) for b in (f, g))
    if (dims, rank, dtype) != other_traits:
        given = "the other batch has {} dims, covariances of rank {}, computed in {}".format(*other_traits)
        raise InputError(given, f"those of the first, {dims}, {rank} and {dtype}")
    return g


def _chunk(f: _Batch, chunk_size: int | None) -> int:
    if chunk_size is not None and chunk_size < 1:
        raise InputError(f"chunk_size is {chunk_size}", "a whole number >= 1, or None")
    # dims for isotropic ones too: the backward pass of cdist on CUDA holds the differences
    return chunk_size or max(1, BLOCK_NUMBERS // math.prod(f.covariances.shape[2:] or f.means.shape[2:]))
