"""Who evaluates a generation: this process, or a pool of processes that may be killed at any moment.

A task is a few numbers: which base, which noise, which sign, how strong. Bases go to all workers once a generation,
through shared memory; a worker draws the noise itself. So a task's result does not depend on who does it, in what
order, or how often: a dead worker's task is done again, to the same result.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, shared_memory
from typing import Any

import numpy as np
from jaxtyping import Float
from sextet_common.errors import InputError

from esac import evolution, rollout
from esac.policy import ActionMap
from esac.rollout import Episode, OnNan


@dataclass(frozen=True)
class Task:
    """An episode of ``base + sign * sigma * noise(seed, generation, member)``.

    Parameters
    ----------
    base
        Which row of the generation's bases.
    generation, member
        What the noise, with the member the reset too, are numbered by.
    sign
        1, -1, or 0 for the base itself.
    sigma
        The noise's deviation.
    keep
        Send the transitions along.
    """

    base: int
    generation: int
    member: int
    sign: int
    sigma: float
    keep: bool = False


@dataclass(frozen=True)
class Job:
    """What a worker needs to know once.

    Parameters
    ----------
    env
        The environment's name, or a function that makes it, which must be importable by workers.
    options
        For gymnasium's make.
    hidden
        Of the policies.
    seed
        Of noises and resets.
    on_nan
        See `rollout.episode`.
    action
        How policies act: see `NumpyPolicy`.
    """

    env: str | Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)
    hidden: tuple[int, ...] = (256, 256)
    seed: int = 0
    on_nan: OnNan = "penalise"
    action: ActionMap = "tanh"


class Evaluator:
    """An environment and a policy that are used again and again: a worker's whole world."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.env = rollout.make(job.env, job.options)
        self.policy = rollout.numpy_policy(self.env, job.hidden, action=job.action)
        self.most = rollout.horizon(self.env)

    def __call__(self, task: Task, bases: Float[np.ndarray, "bases size"]) -> Episode:
        """Do a task."""
        vector = self.policy.vector
        vector[:] = bases[task.base]
        if task.sign:
            vector += np.float32(task.sign * task.sigma) * evolution.noise(
                self.job.seed, task.generation, task.member, len(vector)
            )
        reset = int(np.random.SeedSequence((self.job.seed, 0xE5, task.generation, task.member)).generate_state(1)[0])
        return rollout.episode(
            self.env, self.policy, reset >> 1, most=self.most, on_nan=self.job.on_nan, keep=task.keep
        )


class Engine(ABC):
    """Evaluates generations: `start`, then `finish`, which gives the episodes in the order of the tasks."""

    @abstractmethod
    def start(self, bases: Float[np.ndarray, "bases size"], tasks: Sequence[Task]) -> None:
        """Begin with a generation."""

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
    """Everything in this process, when the results are asked for."""

    def __init__(self, job: Job) -> None:
        self.evaluator = Evaluator(job)
        self._work: tuple[np.ndarray, Sequence[Task]] | None = None

    def start(self, bases: Float[np.ndarray, "bases size"], tasks: Sequence[Task]) -> None:
        """Remember the generation."""
        self._work = bases.copy(), tasks

    def finish(self) -> list[Episode]:
        """Evaluate it."""
        assert self._work is not None
        bases, tasks = self._work
        return [self.evaluator(task, bases) for task in tasks]

    def close(self) -> None:
        """Close the environment."""
        self.evaluator.env.close()


class WorkerError(RuntimeError):
    """Workers died, hung or failed more often than they may; the last one's words are told."""


@dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    task: int | None = None
    began: float = 0.0


class ProcessEngine(Engine):
    """A pool of processes that import no torch, with one thread each.

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

    Raises
    ------
    InputError
        Where the environment cannot be made, or a number is out of range.
    """

    def __init__(self, job: Job, workers: int = 2, *, restarts: int = 5, timeout: float = 600.0) -> None:
        if workers < 1:
            raise InputError(f"workers is {workers}", "a whole number >= 1")
        if not timeout > 0:
            raise InputError(f"timeout is {timeout}", "seconds > 0")
        self.job, self.restarts, self.timeout = job, restarts, timeout
        probe = rollout.make(job.env, job.options)  # a bad name fails here, in one line, and not in every worker
        self._size = rollout.numpy_policy(probe, job.hidden).shape.size
        probe.close()
        self._context = mp.get_context("spawn")
        self._shared: shared_memory.SharedMemory | None = None
        self._tasks: Sequence[Task] = ()
        self._queue: list[int] = []
        self._found: dict[int, Episode] = {}
        self._failures = 0
        self._workers = [self._started() for _ in range(workers)]

    def start(self, bases: Float[np.ndarray, "bases size"], tasks: Sequence[Task]) -> None:
        """Hand the bases to all workers, and every free one a task."""
        needed = bases.shape[0] * self._size * 4
        if self._shared is None or self._shared.size < needed:
            self._release()
            self._shared = shared_memory.SharedMemory(create=True, size=needed)
        block: np.ndarray = np.ndarray((len(bases), self._size), dtype=np.float32, buffer=self._shared.buf)
        block[:] = bases
        del block
        self._count, self._tasks, self._found = len(bases), tasks, {}
        self._queue = list(range(len(tasks)))[::-1]
        for worker in self._workers:
            self._give(worker)

    def finish(self) -> list[Episode]:
        """Wait for all tasks; dead, hung and failed workers are replaced and their tasks done again."""
        while len(self._found) < len(self._tasks):
            waits = {worker.pipe: worker for worker in self._workers if worker.task is not None}
            sentinels = {worker.process.sentinel: worker for worker in self._workers}
            ready = connection.wait([*waits, *sentinels], timeout=1.0)
            for thing in ready:
                worker = waits.get(thing) or sentinels.get(thing)  # type: ignore[call-overload]
                if worker is not None and worker in self._workers:
                    self._hear(worker)
            for worker in list(self._workers):
                if worker.task is not None and time.monotonic() - worker.began > self.timeout:
                    self._replace(worker, f"an episode took more than {self.timeout:g} s")
        return [self._found[number] for number in range(len(self._tasks))]

    def close(self) -> None:
        """Stop all workers, and give the shared memory back."""
        for worker in self._workers:
            with contextlib.suppress(OSError, ValueError):
                worker.pipe.send(None)
        for worker in self._workers:
            worker.process.join(1.0)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers = []
        self._release()

    def processes(self) -> list[int]:
        """Return the workers' process numbers."""
        return [worker.process.pid for worker in self._workers]

    def _hear(self, worker: _Worker) -> None:
        try:
            if not worker.pipe.poll():
                if not worker.process.is_alive():
                    self._replace(worker, f"a worker ended with exit code {worker.process.exitcode}")
                return
            kind, number, value = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(1.0)
            self._replace(worker, f"a worker ended with exit code {worker.process.exitcode}")
            return
        if kind == "error":
            self._replace(worker, value)
            return
        if kind == "nan":
            raise rollout.NotANumber(value)
        self._found[number] = value
        self._failures = 0
        worker.task = None
        self._give(worker)

    def _give(self, worker: _Worker) -> None:
        if worker.task is not None or not self._queue or self._shared is None:
            return
        number = self._queue.pop()
        worker.task, worker.began = number, time.monotonic()
        message = (number, self._tasks[number], self._shared.name, self._count)
        with contextlib.suppress(OSError):  # a dead worker is met by its sentinel
            worker.pipe.send(message)

    def _replace(self, worker: _Worker, reason: str) -> None:
        self._failures += 1
        if worker.task is not None:
            self._queue.append(worker.task)
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        if self._failures > self.restarts:
            raise WorkerError(f"workers failed {self._failures} times in a row; the last: {reason}")
        time.sleep(min(1.0, 0.05 * 2**self._failures) if self._failures > 1 else 0.0)
        fresh = self._started()
        self._workers.append(fresh)
        self._give(fresh)

    def _started(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(theirs, self.job, os.getpid()), daemon=True)
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(dict.fromkeys(names, "1"))  # read by the child before NumPy is there
        try:
            process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()
        return _Worker(process, ours)

    def _release(self) -> None:
        if self._shared is not None:
            self._shared.close()
            with contextlib.suppress(FileNotFoundError):
                self._shared.unlink()
            self._shared = None


def work(pipe: connection.Connection, job: Job, parent: int) -> None:
    """Do tasks until told to stop, or until the parent is gone: a worker's life."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when a Ctrl-C ends its workers
    evaluator: Evaluator | None = None
    blocks: dict[str, shared_memory.SharedMemory] = {}
    while True:
        try:
            while not pipe.poll(1.0):
                if os.getppid() != parent:
                    return
            message = pipe.recv()
        except (EOFError, OSError):
            return
        if message is None:
            return
        number, task, name, count = message
        try:
            if evaluator is None:
                evaluator = Evaluator(job)
            if name not in blocks:
                for old in blocks.values():
                    old.close()
                blocks = {name: _attached(name)}
            size = evaluator.policy.shape.size
            bases: np.ndarray = np.ndarray((count, size), dtype=np.float32, buffer=blocks[name].buf)
            pipe.send(("done", number, evaluator(task, bases)))
            del bases
        except rollout.NotANumber as error:
            pipe.send(("nan", number, str(error)))
        except Exception:  # whatever an environment raises: the parent shows it
            pipe.send(("error", number, traceback.format_exc()))


def _attached(name: str) -> shared_memory.SharedMemory:
    """Open the parent's block; workers share the parent's tracker, which the parent alone tells to forget it."""
    try:
        return shared_memory.SharedMemory(name=name, track=False)  # type: ignore[call-arg]
    except TypeError:  # before Python 3.13
        return shared_memory.SharedMemory(name=name)
