"""Classes shared out among processes: each distills its own, and only numbers to report travel.

Given the network, a class's images learn from that class alone, and all draws are keyed by
(seed, step, class). So processes that each hold a block of the classes draw the same networks
and arrive at the images of one process, without gradient traffic. Started by ``torchrun``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
from sextet_common import device
from sextet_common.errors import InputError
from torch import Tensor, distributed

TIMEOUT = timedelta(minutes=10)  # that a process waits for the others before it gives them up


@dataclass(frozen=True)
class Shard:
    """The classes of one process, and its ways to the other processes.

    Parameters
    ----------
    n_classes
        Classes in all.
    rank, world
        Which process of how many.
    where
        The device that this process computes on.

    Examples
    --------
    >>> [Shard(10, rank, 3, torch.device("cpu")).classes for rank in range(3)]
    [range(0, 4), range(4, 7), range(7, 10)]
    """

    n_classes: int
    rank: int
    world: int
    where: torch.device

    @property
    def classes(self) -> range:
        """The numbers of this process's classes."""
        return self._block(self.rank)

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def _block(self, rank: int) -> range:
        size, rest = divmod(self.n_classes, self.world)
        start = rank * size + min(rank, rest)
        return range(start, start + size + (rank < rest))

    def gathered(self, block: Tensor) -> Tensor:
        """Put every process's rows together: shape (classes of this one, ...) becomes (classes, ...) in all of them.

        Parameters
        ----------
        block
            A row per class of this process.

        Returns
        -------
        Tensor
            A row per class.

        Raises
        ------
        InputError
            Where another process is gone.
        """
        if self.world == 1:
            return block
        whole = block.new_empty((self.n_classes, *block.shape[1:]))
        for rank in range(self.world):
            theirs = self._block(rank)
            rows = whole[theirs.start : theirs.stop]
            if rank == self.rank:
                rows.copy_(block)
            with self._others():
                distributed.broadcast(rows, src=rank)
        return whole

    def told(self, numbers: Tensor) -> Tensor:
        """Return the first process's numbers in all processes.

        Parameters
        ----------
        numbers
            The first process's; any others of the same shape and type elsewhere.

        Returns
        -------
        Tensor
            A new tensor on this process's device.
        """
        numbers = numbers.to(self.where, copy=True)
        if self.world > 1:
            with self._others():
                distributed.broadcast(numbers, src=0)
        return numbers

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is up in any process."""
        if self.world == 1:
            return flag
        number = torch.tensor(float(flag), device=self.where)
        with self._others():
            distributed.all_reduce(number, op=distributed.ReduceOp.MAX)
        return bool(number.item())

    @contextmanager
    def _others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise InputError(
                f"process {self.rank} of {self.world} has lost another one: {str(error).splitlines()[0]}",
                "all processes to live: the same command goes on from the last checkpoint",
            ) from error


def is_first() -> bool:
    """Tell whether this process is the one that writes and prints: the only one, or torchrun's first.

    Returns
    -------
    bool
        Whether it is.

    Examples
    --------
    >>> is_first()
    True
    """
    return os.environ.get("RANK", "0") == "0"


def refuse_several(job: str) -> None:
    """Refuse to run in several processes what has no use for them.

    Parameters
    ----------
    job
        What is run.

    Raises
    ------
    InputError
        Where torchrun started more than one process.

    Examples
    --------
    >>> refuse_several("evaluate")
    """
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1":
        raise InputError(f"{job} in {world} processes", "one process: only distill shares its work out")


@contextmanager
def shard(n_classes: int, device_name: str) -> Iterator[Shard]:
    """Join the processes that torchrun started; alone, where it did not.

    Parameters
    ----------
    n_classes
        How many classes are shared out.
    device_name
        As for ``sextet_common.device.pick``; with several processes on GPUs, each takes its own.

    Yields
    ------
    Shard
        This process's part.

    Raises
    ------
    InputError
        Where there are more processes than classes.
    """
    where = device.pick(device_name)
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world > n_classes:
        raise InputError(f"{world} processes for {n_classes} classes", "at most one process per class")
    if world > 1 and where.type == "cuda":
        where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    ours = world > 1 and not distributed.is_initialized()
    if ours:
        distributed.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Shard(n_classes, rank, world, where)
        if ours:  # torch 2.6 can wait for ever for a thread that still holds a tensor: let all of them come to an end
            with suppress(RuntimeError):
                distributed.barrier()
    finally:
        if ours:
            distributed.destroy_process_group()
