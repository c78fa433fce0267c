"""The processes that torchrun started, which share out every batch; or one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import torch
from sextet_common import device
from sextet_common.errors import InputError
from torch import Tensor, distributed

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Processes:
    """One of the processes of a job.

    Parameters
    ----------
    where
        Its device.
    rank
        Which it is; the first one, 0, writes.
    world
        How many there are.

    Examples
    --------
    >>> alone = Processes(torch.device("cpu"))
    >>> alone.is_first, alone.told({"epoch": 3}), alone.any(False)
    (True, {'epoch': 3}, False)
    """

    where: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def told(self, value: _Value) -> _Value:
        """Return the first process's value in all of them."""
        if self.world == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, device=self.where)
        return values[0]

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is up in any process, so that all do the same."""
        return float(self.summed(torch.tensor(float(flag), device=self.where))) > 0

    def summed(self, number: Tensor) -> Tensor:
        """Return the sum over the processes, in all of them; the tensor is changed."""
        if self.world > 1:
            distributed.all_reduce(number)
        return number


@contextmanager
def joined(name: str) -> Iterator[Processes]:
    """Join the processes that torchrun started; alone, where it did not.

    Parameters
    ----------
    name
        The device: auto, cpu, cuda, cuda:N or mps. On cuda every process of a machine has one of its own.

    Raises
    ------
    InputError
        Where the device is not there, or another process is lost in the block.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" or "RANK" not in os.environ:
        yield Processes(device.pick(name))
        return
    where = device.pick(name)
    if where.type == "cuda":
        where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(where)
    mine = not distributed.is_initialized()
    if mine:
        distributed.init_process_group("nccl" if where.type == "cuda" else "gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    try:
        yield Processes(where, rank, world)
        if mine:  # torch 2.6 can wait for ever for a thread that still holds a tensor: let all of them come to an end
            with suppress(RuntimeError):
                distributed.barrier()
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            raise InputError(
                f"process {rank} of {world} has lost another one: {str(error).splitlines()[0]}",
                "all processes to live: the same command goes on from the last checkpoint",
            ) from error
        raise
    finally:
        if mine:
            distributed.destroy_process_group()
