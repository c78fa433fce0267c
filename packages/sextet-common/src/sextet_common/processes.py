"""The processes that torchrun started for a job, or one alone: a thin layer over torch.distributed.

Lightning Fabric and Accelerate neither gather blocks of different sizes without padding, nor end a job with one line
when another process is lost.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from sextet_common import device as devices
from sextet_common.errors import InputError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
_joined = itertools.count()
TIMEOUT = timedelta(minutes=10)  # that a process waits for the others before it gives them up


@dataclass(frozen=True)
class Processes:
    """One of the processes of a job, and its ways to the others; made by :func:`join`.

    Every method is collective: all processes call it, in the same order.

    Examples
    --------
    >>> import torch
    >>> alone = Processes(torch.device("cpu"))
    >>> alone.is_first, alone.broadcast({"epoch": 3}), alone.any(False)
    (True, {'epoch': 3}, False)
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def shares(self, count: int) -> list[range]:
        """Divide numbers from 0 among the processes: the range of each, in the order of their ranks.

        Examples
        --------
        >>> import torch
        >>> Processes(torch.device("cpu"), 0, 3).shares(7)
        [range(0, 3), range(3, 5), range(5, 7)]
        """
        size, rest = divmod(count, self.world)
        starts = [rank * size + min(rank, rest) for rank in range(self.world + 1)]
        return [range(start, stop) for start, stop in itertools.pairwise(starts)]

    def broadcast(self, value: T) -> T:
        """Return the value of the first process in all of them; tensors arrive on the CPU."""
        if self.world == 1:
            return value
        from torch import distributed

        values = [value]
        distributed.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        import torch

        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over the processes, in place."""
        if self.world > 1:
            from torch import distributed

            distributed.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace gradients by their sums over the processes, which have gradients of the same parameters."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.world == 1 or not gradients:
            return
        import torch

        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def all_gather(self, rows: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """Concatenate the rows of all processes, in the order of their ranks.

        ``rows`` has shape (counts[rank], ...): the processes may have different numbers of rows.
        """
        if self.world == 1:
            return rows
        from torch import distributed

        gathered = rows.new_empty((sum(counts), *rows.shape[1:]))
        for rank, block in enumerate(gathered.split(list(counts))):
            if rank == self.rank:
                block.copy_(rows)
            distributed.broadcast(block, src=rank)
        return gathered


def is_first() -> bool:
    """Return whether this process writes and prints: the only one, or the first of torchrun's."""
    return os.environ.get("RANK", "0") == "0"


def refuse_several(job: str) -> None:
    """Raise InputError where torchrun started several processes for a job that does not share its work out."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1":
        raise InputError(f"{job} runs in one process, got {world}", "the command without torchrun")


@contextmanager
def join(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that torchrun started; alone, where it did not.

    A process that is lost ends the others with an InputError of one line; the job resumes from its last checkpoint.
    ``device`` is as for `sextet_common.device.pick`; with several processes on CUDA each takes its own.
    """
    chosen = devices.pick(device)
    if os.environ.get("WORLD_SIZE", "1") == "1" or "RANK" not in os.environ:
        yield Processes(chosen)
        return
    import torch
    from torch import distributed

    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(chosen)
    ours = not distributed.is_initialized()
    if ours:
        from torch.distributed.rendezvous import rendezvous

        store, rank, world = next(rendezvous("env://", timeout=TIMEOUT))
        # The addresses of the job before are still in the store.
        store = distributed.PrefixStore(f"join {next(_joined)}", store)  # type: ignore[attr-defined]  # torch's own name
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    rank, world = distributed.get_rank(), distributed.get_world_size()
    try:
        yield Processes(chosen, rank, world)
        if ours:  # torch 2.6 can wait for ever for a thread that still holds a tensor: let all of them come to an end
            with suppress(RuntimeError):
                distributed.barrier()
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        lost = f"process {rank} of {world} has lost another one: {str(error).splitlines()[0]}"
        expected = "all processes to stay alive: the same command resumes from the last checkpoint"
        raise InputError(lost, expected) from error
    finally:
        if ours:
            distributed.destroy_process_group()
