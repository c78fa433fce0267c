"""A batch that several processes share, treated as one: normalised, dropped out and augmented as in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from sextet_common.processes import Processes
from torch import Tensor, distributed
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from probmcl.losses.gather import gather
from probmcl.training.batches import Rows

_DRAWS: tuple[Callable[..., Any], ...] = (torch.rand, torch.randn, torch.randint)
_DROPOUTS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)


class WholeBatch(TorchFunctionMode):
    """Let the rows of this process be rows of the whole batch, in torch's functions.

    Inside the block, batch normalisation takes its statistics from the rows of all processes, on any device, with
    gradients. Random numbers with one row for each of this process's images (or views) are drawn for the whole batch,
    and this process keeps its own: `torch.rand`, `torch.randn`, `torch.randint`, dropout, and ``Tensor.bernoulli_``, by
    which stochastic depth draws. All processes must have seeded alike, and must have equally many rows.
    """

    def __init__(self, rows: Rows, processes: Processes, device: torch.device) -> None:
        super().__init__()
        self.processes = processes
        own, whole = len(rows.places), len(rows.whole)
        images = torch.from_numpy(rows.places)
        views = torch.cat([images, whole + images])
        self.places = {own: (images.to(device), whole), 2 * own: (views.to(device), 2 * whole)}
        self.order = _order(rows, processes.world).to(device)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, two views of every image, in the order of one process."""
        return gather(rows)[self.order]

    def __torch_function__(
        self, function: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Replace the functions that mix rows or draw for them."""
        kwargs = kwargs or {}
        if function is functional.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if function in _DRAWS:
            shape = next((value for value in args if isinstance(value, tuple | list)), ())
            if shape and shape[0] in self.places:
                places, whole = self.places[shape[0]]
                larger = [(whole, *shape[1:]) if value is shape else value for value in args]
                return function(*larger, **kwargs)[places]
        if function in _DROPOUTS or function is Tensor.bernoulli_:
            rows: Tensor = args[0] if args else kwargs["input"]
            if rows.ndim and len(rows) in self.places:
                places, whole = self.places[len(rows)]
                if function is Tensor.bernoulli_:
                    return rows.copy_(rows.new_empty((whole, *rows.shape[1:])).bernoulli_(*args[1:], **kwargs)[places])
                ones = torch.ones((whole, *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
                options = {**kwargs, "inplace": False}
                options.pop("input", None)
                return rows * function(ones, *args[1:3], **options)[places]
        return function(*args, **kwargs)

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
        mean = _sum(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = _sum(centred.square().sum(dims)) / count
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


def _order(rows: Rows, world: int) -> Tensor:
    """Return, for every row of the whole batch of views, its place among the gathered rows."""
    whole, parts = len(rows.whole), []
    sizes = (rows.n_labelled // world, (whole - rows.n_labelled) // world)
    for rank in range(world):
        images = np.concatenate(
            [first + rank * size + np.arange(size) for first, size in zip((0, rows.n_labelled), sizes, strict=True)]
        )
        parts += [images, whole + images]
    return torch.from_numpy(np.argsort(np.concatenate(parts)))


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


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total
