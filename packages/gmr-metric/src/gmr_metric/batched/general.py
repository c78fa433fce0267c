"""Inner products of batches of any kind by autograd, in tiles that the backward pass recomputes."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gmr_metric.batched.batch import Batch


def log_inner_products(f: Batch, g: Batch, chunk: int) -> Tensor:
    """Compute log <f, g> of all pairs of mixtures, with ``chunk`` pairs of components at a time."""
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


def log_squared_norms(f: Batch, chunk: int) -> Tensor:
    """Compute log <f, f> of each mixture, shape (batch,)."""
    batch, components = f.log_weights.shape
    rows = min(batch, max(1, chunk // components**2))
    parts = min(components, max(1, chunk // (rows * components)))
    singles = Batch(*(tensor.unsqueeze(1) for tensor in f))
    return torch.cat([_tile(part, part, parts, rows < batch).flatten() for part in singles.split(rows, 0)])


def _tile(f: Batch, g: Batch, parts: int, recompute: bool) -> Tensor:
    """Compute log <f, g> of a block of pairs, with ``parts`` components of each f at a time."""
    dim = f.log_weights.ndim - 1
    if not recompute and parts == f.log_weights.shape[dim]:
        return _log_inner(f, g)
    again = partial(checkpoint, _log_inner, use_reentrant=False, preserve_rng_state=False)  # nothing is random
    return torch.logsumexp(torch.stack([again(piece, g) for piece in f.split(parts, dim)]), dim=0)


def _log_inner(f: Batch, g: Batch) -> Tensor:
    """Compute log <f, g> of all pairs: (..., rows, components) and (..., columns, others) give (..., rows, columns)."""
    f_empty, g_empty = (torch.isneginf(batch.log_weights).all(dim=-1) for batch in (f, g))
    v = f.log_weights.masked_fill(f_empty[..., None], 0.0)  # logsumexp of -inf alone has NaN gradients
    w = g.log_weights.masked_fill(g_empty[..., None], 0.0)
    kernel = _log_kernel(f.flat(), g.flat()).unflatten(-1, w.shape[-2:]).unflatten(-3, v.shape[-2:])
    inner = torch.logsumexp(v[..., None, None] + kernel + w[..., None, None, :, :], dim=(-3, -1))
    return inner.masked_fill(f_empty[..., :, None] | g_empty[..., None, :], -math.inf)


def _log_kernel(f: Batch, g: Batch) -> Tensor:
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
