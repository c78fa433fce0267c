"""Log cosines of Gaussians with diagonal covariances, in chunks that are computed anew for the gradient."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK = {"cpu": 2**18}  # numbers that a processor's cache holds
_LARGE_CHUNK = 2**24


def diagonal_log_cosines(
    own_means: Float[Tensor, "rows dims"],
    own_log_std: Float[Tensor, "rows dims"],
    means: Float[Tensor, "groups others dims"],
    log_std: Float[Tensor, "groups others dims"],
    group: Int[Tensor, " rows"],
    chunk_size: int | None = None,
) -> Float[Tensor, "rows others"]:
    """Compute the log cosine of every Gaussian with all of its group.

    With v and w for the variances it is the sum over dimensions of
    ``(log(2 s t) - log(v + w) - (m - n)^2 / (v + w)) / 2``. ``chunk_size`` is the number of pairs evaluated at once.
    """
    _, others, dims = means.shape
    rows = max(1, (chunk_size or _CHUNK.get(means.device.type, _LARGE_CHUNK) // dims) // others)
    sums = _HalfSums.apply(own_means, (2 * own_log_std).exp(), means, (2 * log_std).exp(), group, rows)
    constant = (dims * math.log(2) + own_log_std.sum(dim=1, keepdim=True) + log_std.sum(dim=2)[group]) / 2
    return cast(Tensor, constant - sums)


class _HalfSums(torch.autograd.Function):
    """Half the sum over dimensions of log(v + w) + (m - n)^2 / (v + w), for m, v of a row and n, w of its group."""

    @staticmethod
    def forward(ctx: Any, m: Tensor, v: Tensor, n: Tensor, w: Tensor, group: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(m, v, n, w, group)
        ctx.rows = rows
        sums = m.new_empty(len(m), n.shape[1])
        for chunk, g in _chunks(group, rows):
            total = v[chunk, None] + w[g]
            sums[chunk] = (total.log() + (m[chunk, None] - n[g]).square_().div_(total)).sum(dim=2) / 2
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        m, v, n, w, group = ctx.saved_tensors
        of_m, of_v, of_n, of_w = (torch.zeros_like(each) for each in (m, v, n, w))
        for chunk, g in _chunks(group, ctx.rows):
            total = v[chunk, None] + w[g]
            quotient = (m[chunk, None] - n[g]).div_(total)
            by_mean = gradient[chunk, :, None] * quotient
            by_variance = total.reciprocal_().sub_(quotient.square_()).mul_(gradient[chunk, :, None] / 2)
            of_m[chunk], of_v[chunk] = by_mean.sum(dim=1), by_variance.sum(dim=1)
            of_n.index_add_(0, g, by_mean, alpha=-1)
            of_w.index_add_(0, g, by_variance)
        return of_m, of_v, of_n, of_w, None, None


def _chunks(group: Tensor, rows: int) -> list[tuple[slice, Tensor]]:
    """Return slices of so many rows, with their groups."""
    parts = group.split(rows)
    return [(slice(rows * number, rows * number + len(part)), part) for number, part in enumerate(parts)]
