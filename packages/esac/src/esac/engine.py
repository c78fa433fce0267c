"""Who evaluates a generation: this process, or a pool of processes that may be killed at any moment.

A task is a few numbers: which base, which noise, which sign, how strong. Bases go to all workers once a generation,
through shared memory; a worker draws the noise itself. So a task's result does not depend on who does it, in what
order, or how often: a dead worker's task is done again, to the same result.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, reduction
from typing import Any

import numpy as np
from jaxtyping import Float
from sextet_common.errors import InputError

from esac import rollout
from esac.ledger import STARTING, Ledger, WorkerError
from esac.memory import Block
from esac.rollout import Episode
from esac.worker import ONE_THREAD, Evaluator, Job, Task, work

_GUARD = (
    'what it said is above: a script that starts workers needs `if __name__ == "__main__":` around its code, and a'
    " function that makes an environment must be in a file that can be imported"
)


class Engine(ABC):
    """Evaluates generations: `start`, then `finish`, which gives the episodes in the order of the tasks."""

    @abstractmethod
    def start(self, bases: Float[np.ndarray, "bases size"], tasks: Sequence[Task]) -> None:
        """Begin with a generation; one that is still under way is given up."""

    @abstractmethod
    def finish(self) -> list[Episode]:
        """Wait for the generation's end."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the engine holds."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class SerialEngine(Engine):
    """Everything in this process, when the results are asked for.

    Parameters
    ----------
    job
        What is evaluated.
    task_tries
        How often an episode that raises is run before it counts as failed.
    """

    def __init__(self, job: Job, *, task_tries: int = 3) -> None:
        self.evaluator = Evaluator(job, task_tries)
        self._bases: np.ndarray = np.empty((0, self.evaluator.policy.shape.size), dtype=np.float32)
        self._tasks: Sequence[Task] = ()

    def start(self, bases: Float[np.ndarray, "bases size"], tasks: Sequence[Task]) -> None:
        """Remember the generation."""
        self._bases, self._tasks = bases.copy(), tasks

    def finish(self) -> list[Episode]:
        """Evaluate it."""
        return [self.evaluator(task, self._bases) for task in self._tasks]

    def close(self) -> None:
        """Close the environment."""
        self.evaluator.close()


@dataclass(eq=False)
class _Worker:
    process: Any
    pipe: connection.Connection
    task: int | None = None
    began: float = 0.0
    ready: bool = False


class ProcessEngine(Engine):
    """A pool of processes that import no torch, with one thread each.

    Workers that die are replaced, and their tasks done again. Those that take too long too: such a task is done once
    more, then its episode has failed. So has an episode whose environment raises at every try.

    Parameters
    ----------
    job
        What they evaluate.
    workers
        How many there are.
    restarts
        How often workers may be replaced in a row, without a finished task between.
    timeout
        Seconds that an episode may take.
    task_tries
        How often an episode that raises is run before it counts as failed.

    Raises
    ------
    InputError
        Where the environment cannot be made or sent to workers, or a number is out of range.
    """

    def __init__(
        self, job: Job, workers: int = 2, *, restarts: int = 5, timeout: float = 600.0, task_tries: int = 3
    ) -> None:
        if workers < 1:
            raise InputError(f"workers is {workers}", "a whole number >= 1")
        self.job, self.task_tries = job, task_tries
        self._ledger = Ledger(restarts, timeout)
        try:
            reduction.ForkingPickler.dumps(job)
        except Exception as error:  # pickle has several for this
            raise InputError(
                f"the environment {job.env!r} or its options cannot be sent to workers: {error}",
                "a function at the top of a module that can be imported (no lambda), or workers=0",
            ) from error
        probe = Evaluator(job, task_tries)  # a bad name fails here, in one line, and not in every worker
        self._size = probe.policy.shape.size
        probe.close()
        self._context = mp.get_context("spawn")
        self._shared: Block | None = None
        self._bases = 0
        self._met = False  # whether a worker has ever got as far as its environment
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._hire()
        except BaseException:
            self.close()
            raise

    def start(self, bases: Float[np.ndarray, "bases size"], tasks: Sequence[Task]) -> None:
        """Hand the bases to all workers, and every free one a task; a generation under way is given up."""
        for worker in [worker for worker in self._workers if worker.task is not None]:
            self._dismiss(worker)
            self._hire()
        needed = max(1, len(bases) * self._size * 4)
        if self._shared is None or self._shared.size < needed:
            self._release()
            self._shared = Block(needed)
        block: np.ndarray = np.ndarray((len(bases), self._size), dtype=np.float32, buffer=self._shared.buf)
        block[:] = bases
        del block  # a view would keep the memory open
        self._bases = len(bases)
        self._ledger.begin(tasks)
        for worker in self._workers:
            self._give(worker)

    def finish(self) -> list[Episode]:
        """Wait for all tasks.

        Raises
        ------
        WorkerError
            Where workers fail too often in a row.
        NotANumber
            Where an episode's numbers are not finite, and the job says "raise".
        """
        while not self._ledger.done:
            if not self._workers:
                raise WorkerError("no worker is left")
            waits = {worker.pipe: worker for worker in self._workers if worker.task is not None}
            sentinels = {worker.process.sentinel: worker for worker in self._workers}
            for thing in connection.wait([*waits, *sentinels], timeout=1.0):
                worker = waits.get(thing) or sentinels.get(thing)  # type: ignore[call-overload]
                if worker is not None and worker in self._workers:
                    self._hear(worker)
            for worker in list(self._workers):
                self._check_time(worker)
        return self._ledger.episodes()

    def close(self) -> None:
        """Stop all workers, and give the shared memory back."""
        for worker in self._workers:
            with contextlib.suppress(OSError, ValueError):
                worker.pipe.send(None)
        until = time.monotonic() + 1.0
        for worker in self._workers:
            worker.process.join(max(0.0, until - time.monotonic()) if worker.task is None else 0.0)
        for worker in list(self._workers):
            self._dismiss(worker)
        self._release()

    def processes(self) -> list[int]:
        """Return the workers' process numbers."""
        return [worker.process.pid for worker in self._workers]

    def _hear(self, worker: _Worker) -> None:
        try:
            if not worker.pipe.poll():
                if not worker.process.is_alive():
                    self._replace(worker, _last_words(worker))
                return
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(1.0)
            self._replace(worker, _last_words(worker))
            return
        if kind == "ready":
            worker.ready = self._met = True
            worker.began = time.monotonic()  # a task that waited for the start has its whole time
        elif kind == "error":
            self._replace(worker, value)
        elif kind == "nan":
            worker.task = None
            raise rollout.NotANumber(value)
        elif worker.task is not None:
            self._ledger.took(worker.task, value)
            worker.task = None
            self._give(worker)

    def _check_time(self, worker: _Worker) -> None:
        took = time.monotonic() - worker.began
        if worker.ready:
            if worker.task is not None and took > self._ledger.timeout:
                self._replace(worker, self._ledger.overslept(worker.task))
        elif took > max(self._ledger.timeout, STARTING):
            self._replace(worker, f"a worker took more than {took:.0f} s to start")

    def _give(self, worker: _Worker) -> None:
        if worker.task is not None or not self._ledger.queue or self._shared is None:
            return
        worker.task = self._ledger.queue.pop()
        if worker.ready:
            worker.began = time.monotonic()
        with contextlib.suppress(OSError):  # a dead worker is met by its sentinel
            worker.pipe.send((self._ledger.tasks[worker.task], self._shared.address, self._bases))

    def _replace(self, worker: _Worker, reason: str) -> None:
        self._dismiss(worker)
        if not self._met and worker.process.exitcode == 1:
            raise WorkerError(reason)  # it did not get through its imports, and no other one will
        self._ledger.lost(worker.task, reason)
        self._hire()
        for other in self._workers:  # the lost task goes to whoever is free: the new worker has still to start
            self._give(other)

    def _hire(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(theirs, self.job, self.task_tries), daemon=True)
        with _for_a_child():
            process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours, began=time.monotonic()))

    def _dismiss(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)

    def _release(self) -> None:
        if self._shared is not None:
            self._shared.close()
            self._shared = None


@contextlib.contextmanager
def _for_a_child() -> Iterator[None]:
    """Have a child start with one thread, and deaf to Ctrl-C, which goes to it as to this process."""
    if hasattr(signal, "pthread_sigmask"):
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # where it starts by itself, it ends the blocking
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # read by the child before NumPy is there
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _last_words(worker: _Worker) -> str:
    """Say how a worker ended."""
    code = worker.process.exitcode
    if code is not None and code < 0:
        ended = f"was killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -9 else "")
    else:
        ended = f"ended with exit code {code}"
    return f"a worker {ended}" if worker.ready else f"a worker {ended} while it started; {_GUARD}"
