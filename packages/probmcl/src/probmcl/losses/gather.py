"""Rows of all processes with gradients, for a contrastive loss over the global batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from probmcl.mixtures.parameters import MixtureParameters


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes in the order of their ranks; gradients flow back to the process they belong to.

    Every process then computes the same loss over the global batch. The gradient of a process's rows is the sum over
    all processes, and DistributedDataParallel divides by their number: the result is the gradient of that one loss.

    All processes must have equally many rows; without a process group the rows are returned unchanged.

    Examples
    --------
    >>> gather(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


def gather_mixtures(mixtures: MixtureParameters) -> MixtureParameters:
    """Return the mixtures of all processes, as `gather` does with rows."""
    return MixtureParameters(*(gather(tensor) for tensor in mixtures))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.batch = len(rows)
        world = distributed.get_world_size()
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world)]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        first = distributed.get_rank() * ctx.batch
        return total[first : first + ctx.batch]
