"""Classes divided among processes: each distills its own, and only results travel.

Given the network, a class's images depend on that class only, and all draws are keyed by (seed, step, class). So
processes that each hold a block of the classes draw the same networks and reach the images of a single process,
without gradient traffic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from sextet_common import processes
from sextet_common.errors import InputError
from sextet_common.processes import Processes
from torch import Tensor


@dataclass(frozen=True)
class Shard:
    """The classes of one process, of ``n_classes`` in all.

    Examples
    --------
    >>> cpu = torch.device("cpu")
    >>> [Shard(10, Processes(cpu, rank, 3)).classes for rank in range(3)]
    [range(0, 4), range(4, 7), range(7, 10)]
    """

    n_classes: int
    processes: Processes

    @property
    def classes(self) -> range:
        """The numbers of this process's classes."""
        counts = self._counts()
        start = sum(counts[: self.processes.rank])
        return range(start, start + counts[self.processes.rank])

    @property
    def device(self) -> torch.device:
        """The device that this process computes on."""
        return self.processes.device

    def all_gather(self, rows: Tensor) -> Tensor:
        """Concatenate one row per class: (classes of this process, ...) becomes (n_classes, ...) in all processes."""
        return self.processes.all_gather(rows, self._counts())

    def _counts(self) -> list[int]:
        size, rest = divmod(self.n_classes, self.processes.world)
        return [size + (rank < rest) for rank in range(self.processes.world)]


@contextmanager
def join_shards(n_classes: int, device: str) -> Iterator[Shard]:
    """Join the processes that torchrun started and divide the classes among them; see `sextet_common.processes`."""
    with processes.join(device) as joined:
        if joined.world > n_classes:
            raise InputError(f"at most one process per class: got {joined.world} processes for {n_classes} classes")
        yield Shard(n_classes, joined)
