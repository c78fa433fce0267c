"""Batch normalisation over the rows of several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sextet_common.processes import Processes


class WholeBatchNorm(TorchFunctionMode):
    """Let batch normalisation take its statistics from the rows of all processes, on any device, with gradients.

    It replaces `torch.nn.functional.batch_norm` inside the block, and so the layers that call it. All processes must
    have equally many rows. `torch.nn.SyncBatchNorm` needs CUDA and other modules.

    Examples
    --------
    >>> layer, rows = torch.nn.BatchNorm1d(2), torch.randn(8, 2)
    >>> with WholeBatchNorm(Processes(torch.device("cpu"))):
    ...     alone = layer(rows)
    >>> torch.allclose(alone, layer(rows), atol=1e-6)
    True
    """

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.processes = processes

    def __torch_function__(
        self, function: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Replace the normalisation of a training step."""
        if function is functional.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        rows: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return functional.batch_norm(rows, running_mean, running_var, weight, bias, False, momentum, eps)
        wide = rows if rows.dtype == torch.float64 else rows.float()
        dims = [0, *range(2, rows.ndim)]
        shape = [1, -1] + [1] * (rows.ndim - 2)
        count = rows.numel() // rows.shape[1] * self.processes.world
        mean = self._sum(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = self._sum(centred.square().sum(dims)) / count
        result = centred * (variance + eps).rsqrt().view(shape)
        if weight is not None:
            result = result * weight.view(shape)
        if bias is not None:
            result = result + bias.view(shape)
        with torch.no_grad():
            if running_mean is not None:
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            if running_var is not None:
                running_var.lerp_((variance * count / max(1, count - 1)).to(running_var.dtype), momentum)
        return result.to(rows.dtype)

    def _sum(self, values: Tensor) -> Tensor:
        if self.processes.world == 1:
            return values
        total: Tensor = _Sum.apply(values)
        return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total
