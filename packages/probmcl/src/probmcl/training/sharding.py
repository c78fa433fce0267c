"""A batch that several processes share, treated as one: normalised, dropped out and augmented as in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from sextet_common.batch_norm import WholeBatchNorm
from sextet_common.processes import Processes
from torch import Tensor
from torch.nn import functional

from probmcl.losses.gather import gather
from probmcl.training.batches import Rows

_DRAWS: tuple[Callable[..., Any], ...] = (torch.rand, torch.randn, torch.randint)
_DROPOUTS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)


class WholeBatch(WholeBatchNorm):
    """Let the rows of this process be rows of the whole batch, in torch's functions.

    Inside the block, batch normalisation takes its statistics from the rows of all processes, on any device, with
    gradients. Random numbers with one row for each of this process's images (or views) are drawn for the whole batch,
    and this process keeps its own: `torch.rand`, `torch.randn`, `torch.randint`, dropout, and ``Tensor.bernoulli_``, by
    which stochastic depth draws. All processes must have seeded alike, and must have equally many rows.
    """

    def __init__(self, rows: Rows, processes: Processes, device: torch.device) -> None:
        super().__init__(processes)
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
        return super().__torch_function__(function, types, args, kwargs)


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
