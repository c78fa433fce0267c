"""Evaluation by a pool of worker processes, any of which may be killed at any moment."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import sys
import time
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, reduction
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float
from sextet_common import checks
from sextet_common.checks import Count, Natural
from sextet_common.errors import InputError

from esac.engines.ledger import START_TIMEOUT, Ledger, WorkerError
from esac.engines.memory import Block
from esac.engines.serial import Engine
from esac.engines.worker import ONE_THREAD, work
from esac.play.rollout import Episode, NonFiniteError
from esac.play.task import Evaluator, Job, Task

_START_HINT = (
    'its own message is above: a script that starts workers needs `if __name__ == "__main__":` around its code, and a'
    " function that makes an environment must be in a module that can be imported"
)


@dataclass(eq=False)
class _Worker:
    process: Any
    pipe: connection.Connection
    task: int | None = None
    done: int = 0
    began: float = 0.0
    ready: bool = False


class ProcessEngine(Engine):
    """A pool of processes with one thread each and without torch.

    A worker that dies or takes too long is replaced and its task repeated, with the same result. A task that takes too
    long twice has failed, as has an episode whose environment raises in each of `task_tries` attempts. A worker is also
    replaced after ``recycle`` tasks, if that is not 0. See `Ledger` for `restarts` and `timeout`.
    """

    def __init__(
        self, job: Job, workers: int = 2, *, restarts: int = 5, timeout: float = 600.0, task_tries: int = 3,
        recycle: int = 0,
    ) -> None:  # fmt: skip
        checks.check("workers", workers, Count)
        checks.check("recycle", recycle, Natural)
        self.job, self.task_tries, self.recycle = job, task_tries, recycle
        self._ledger = Ledger(restarts, timeout)
        try:
            sent = bytes(reduction.ForkingPickler.dumps(job))
        except Exception as error:  # pickle raises several types
            raise InputError(
                f"the environment {job.env!r} or its options cannot be sent to workers: {error}",
                "a function at the top level of a module that can be imported (no lambda), or workers=0",
            ) from error
        self._spec = gymnasium.registry.get(job.env) if isinstance(job.env, str) else None
        try:
            sent += bytes(reduction.ForkingPickler.dumps(self._spec))
        except Exception:  # an entry point that only the main script can make
            self._spec, sent = None, b"__main__"
        self._needs_main = b"__main__" in sent
        probe = Evaluator(job, task_tries)  # a bad name fails here once, not in every worker
        self._width = probe.width
        probe.close()
        self._context = mp.get_context("spawn")
        self._shared: Block | None = None
        self._base_count = 0
        self._any_ready = False  # whether a worker has ever made its environment
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._add_worker()
        except BaseException:
            self.close()
            raise

    def start(self, bases: Float[np.ndarray, "bases width"], tasks: Sequence[Task]) -> None:
        """Share the bases with all workers and give each a task; workers of an unfinished generation are replaced."""
        for worker in [worker for worker in self._workers if worker.task is not None]:
            self._remove(worker)
            self._add_worker()
        needed = max(1, len(bases) * self._width * 4)
        if self._shared is None or self._shared.size < needed:
            self._free_memory()
            self._shared = Block(needed)
        block: np.ndarray = np.ndarray((len(bases), self._width), dtype=np.float32, buffer=self._shared.buf)
        block[:] = bases
        del block  # a view would keep the memory open
        self._base_count = len(bases)
        self._ledger.begin(tasks)
        for worker in self._workers:
            self._assign(worker)

    def finish(self) -> list[Episode]:
        """Wait for all tasks.

        Raises
        ------
        WorkerError
            If workers fail too often in a row.
        NonFiniteError
            If an episode has non-finite numbers and ``job.on_nan`` is "raise".
        """
        while not self._ledger.done:
            if not self._workers:
                raise WorkerError("no worker is left")
            waits = {worker.pipe: worker for worker in self._workers if worker.task is not None}
            sentinels = {worker.process.sentinel: worker for worker in self._workers}
            for ready in connection.wait([*waits, *sentinels], timeout=1.0):
                worker = waits.get(ready) or sentinels.get(ready)  # type: ignore[call-overload]
                if worker is not None and worker in self._workers:
                    self._receive(worker)
            for worker in list(self._workers):
                self._check_time(worker)
        return self._ledger.in_order()

    def close(self) -> None:
        """Stop all workers and free the shared memory."""
        for worker in self._workers:
            with contextlib.suppress(OSError, ValueError):
                worker.pipe.send(None)
        deadline = time.monotonic() + 1.0
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()) if worker.task is None else 0.0)
        for worker in list(self._workers):
            self._remove(worker)
        self._free_memory()

    def processes(self) -> list[int]:
        """Return the process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def _receive(self, worker: _Worker) -> None:
        try:
            if not worker.pipe.poll():
                if not worker.process.is_alive():
                    self._replace(worker, _exit_reason(worker))
                return
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(1.0)
            self._replace(worker, _exit_reason(worker))
            return
        if kind == "ready":
            worker.ready = self._any_ready = True
            worker.began = time.monotonic()  # a task sent before the start has its full time
        elif kind == "error":
            self._replace(worker, value)
        elif kind in ("nan", "input"):
            worker.task = None
            raise (NonFiniteError if kind == "nan" else InputError)(value)
        elif worker.task is not None:
            self._ledger.record(worker.task, value)
            worker.task = None
            worker.done += 1
            if worker.done == self.recycle:
                self._remove(worker)
                worker = self._add_worker()
            self._assign(worker)

    def _check_time(self, worker: _Worker) -> None:
        elapsed = time.monotonic() - worker.began
        if worker.ready:
            if worker.task is not None and elapsed > self._ledger.timeout:
                self._replace(worker, self._ledger.record_timeout(worker.task))
        elif elapsed > max(self._ledger.timeout, START_TIMEOUT):
            self._replace(worker, f"a worker took more than {elapsed:.0f} s to start")

    def _assign(self, worker: _Worker) -> None:
        if worker.task is not None or not self._ledger.queue or self._shared is None:
            return
        worker.task = self._ledger.queue.pop()
        if worker.ready:
            worker.began = time.monotonic()
        with contextlib.suppress(OSError):  # a dead worker is noticed by its sentinel
            worker.pipe.send((self._ledger.tasks[worker.task], self._shared.address, self._base_count))

    def _replace(self, worker: _Worker, reason: str) -> None:
        self._remove(worker)
        if not self._any_ready and worker.process.exitcode == 1:
            raise WorkerError(reason)  # its imports failed, and those of any other worker would
        self._ledger.record_failure(worker.task, reason)
        self._add_worker()
        for other in self._workers:  # a free worker takes the lost task: the new one has yet to start
            self._assign(other)

    def _add_worker(self) -> _Worker:
        pipe, child_pipe = self._context.Pipe()
        arguments = (child_pipe, self.job, self.task_tries, self._spec)
        process = self._context.Process(target=work, args=arguments, daemon=True)
        with _child_environment(), contextlib.nullcontext() if self._needs_main else _hidden_main():
            process.start()
        child_pipe.close()
        self._workers.append(_Worker(process, pipe, began=time.monotonic()))
        return self._workers[-1]

    def _remove(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)

    def _free_memory(self) -> None:
        if self._shared is not None:
            self._shared.close()
            self._shared = None


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Let a child start without importing the main script, which may import torch."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _child_environment() -> Iterator[None]:
    """Let a child start with one thread and with SIGINT blocked, since Ctrl-C is sent to it as well."""
    if hasattr(signal, "pthread_sigmask"):
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # its own start would unblock the signal
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # must be set before the child imports NumPy
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


def _exit_reason(worker: _Worker) -> str:
    code = worker.process.exitcode
    if code is not None and code < 0:
        ended = f"was killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -9 else "")
    else:
        ended = f"ended with exit code {code}"
    return f"a worker {ended}" if worker.ready else f"a worker {ended} while it started; {_START_HINT}"
