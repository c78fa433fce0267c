"""Evaluation by actors of a Ray cluster: the same tasks, and the same episodes to the bit, on all its machines.

Ray is imported when an engine is made (extra ray).
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from sextet_common.errors import InputError, require

from esac import rollout
from esac.engine import Engine
from esac.ledger import STARTING, Ledger, WorkerError
from esac.rollout import Episode
from esac.worker import ONE_THREAD, Answer, Evaluator, Job, Task


class RolloutActor:
    """What lives in the cluster: one environment and one policy, without torch.

    Parameters
    ----------
    job
        What is evaluated.
    tries
        How often an episode that raises is run.
    """

    def __init__(self, job: Job, tries: int) -> None:
        self.job, self.tries = job, tries

    def open(self) -> Answer:
        """Make the environment."""
        try:
            self.evaluator = Evaluator(self.job, self.tries)
        except Exception:  # the learner shows it
            return "error", traceback.format_exc()
        return "ready", None

    def run(self, task: Task, bases: Float[np.ndarray, "bases size"]) -> Answer:
        """Do a task."""
        return self.evaluator.answer(task, bases)


@dataclass(eq=False)
class _Worker:
    actor: Any
    call: Any  # the reference of what it does now; None where it is free
    began: float
    task: int | None = None
    ready: bool = False


class RayEngine(Engine):
    """A pool of Ray actors with one thread and one environment each.

    Actors that die, and those that take too long, are replaced, as `ProcessEngine`'s workers are. One for which the
    cluster has no room yet takes no part until there is.

    Parameters
    ----------
    job
        What they evaluate. The cluster's machines need this package, and whatever the environment imports.
    workers
        How many actors there are: each takes one CPU of the cluster.
    address
        The cluster's, or "auto" for the one that this machine is part of. Where not given: the one this process is
        connected to; otherwise that of the variable RAY_ADDRESS; otherwise one is started here, and ends with `close`.
    restarts
        How often actors may be replaced in a row, without a finished task between.
    timeout
        Seconds that an episode may take.
    task_tries
        How often an episode that raises is run before it counts as failed.

    Raises
    ------
    InputError
        Where Ray is not installed, the cluster not found, the environment cannot be made or sent to actors, or a number
        is out of range.
    """

    def __init__(
        self,
        job: Job,
        workers: int,
        *,
        address: str | None = None,
        restarts: int = 5,
        timeout: float = 600.0,
        task_tries: int = 3,
    ) -> None:
        if workers < 1:
            raise InputError(f"workers is {workers}", "a whole number >= 1")
        self._ray: Any = require("ray", package="esac", extra="ray")
        self.job, self.task_tries = job, task_tries
        self._ledger = Ledger(restarts, timeout)
        Evaluator(job, task_tries).close()  # a bad name fails here, in one line, and not in every actor
        try:
            self._ray.cloudpickle.dumps(job)
        except Exception as error:  # pickle has several for this
            raise InputError(
                f"the environment {job.env!r} or its options cannot be sent to actors: {error}",
                "a function without open files or locks in it",
            ) from error
        self._bases: Any = None
        self._workers: list[_Worker] = []
        self._own = not self._ray.is_initialized()
        if self._own:
            self._connect(address, workers)
        try:
            self._kind = self._ray.remote(RolloutActor).options(
                num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD", runtime_env={"env_vars": ONE_THREAD}
            )
            for _ in range(workers):
                self._hire()
        except BaseException:
            self.close()
            raise

    def start(self, bases: Float[np.ndarray, "bases size"], tasks: Sequence[Task]) -> None:
        """Put the bases into the cluster, once, and hand every free actor a task."""
        for worker in [worker for worker in self._workers if worker.task is not None]:
            self._dismiss(worker)
            self._hire()
        self._bases = self._ray.put(np.ascontiguousarray(bases, dtype=np.float32))
        self._ledger.begin(tasks)
        for worker in self._workers:
            self._give(worker)

    def finish(self) -> list[Episode]:
        """Wait for all tasks.

        Raises
        ------
        WorkerError
            Where actors fail too often in a row, or none can start.
        NotANumber
            Where an episode's numbers are not finite, and the job says "raise".
        """
        while not self._ledger.done:
            waits = {worker.call: worker for worker in self._workers if worker.call is not None}
            if not waits:
                raise WorkerError("no actor is left")
            ready, _ = self._ray.wait(list(waits), num_returns=1, timeout=1.0)
            for call in ready:
                self._hear(waits[call])
            for worker in list(self._workers):
                self._check_time(worker)
        return self._ledger.episodes()

    def close(self) -> None:
        """End all actors, and Ray too where this engine started it or connected to it."""
        if self._ray.is_initialized():
            for worker in list(self._workers):
                self._dismiss(worker)
            self._bases = None
            if self._own:
                self._ray.shutdown()
        self._workers = []

    def _connect(self, address: str | None, workers: int) -> None:
        where = address or os.environ.get("RAY_ADDRESS") or "local"
        # More actors than CPUs are slow, not wrong: a cluster of our own lets them all start.
        words = {"num_cpus": max(workers, os.cpu_count() or 1), "include_dashboard": False} if where == "local" else {}
        host, _, port = where.rpartition(":")
        try:
            if port.isdigit() and "/" not in host:  # Ray itself asks for minutes where nobody answers
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            self._ray.init(where, **words)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"no Ray cluster at {where!r}: {str(error).partition(chr(10))[0]}",
                "the address of one that runs, or none: one is then started here",
            ) from error

    def _hear(self, worker: _Worker) -> None:
        try:
            kind, value = self._ray.get(worker.call)
        except self._ray.exceptions.RayError as error:  # it died, its machine did, or it cannot import what it needs
            self._replace(worker, f"an actor ended: {error}")
            return
        worker.call = None
        if kind == "error":
            self._replace(worker, value)
            return
        if kind == "ready":
            worker.ready = True
        elif worker.task is not None:
            number, worker.task = worker.task, None
            if kind == "nan":
                raise rollout.NotANumber(value)
            self._ledger.took(number, value)
        self._give(worker)

    def _check_time(self, worker: _Worker) -> None:
        took = time.monotonic() - worker.began
        if worker.ready:
            if worker.task is not None and took > self._ledger.timeout:
                self._replace(worker, self._ledger.overslept(worker.task))
        elif took > max(self._ledger.timeout, STARTING) and not any(other.ready for other in self._workers):
            raise WorkerError(
                f"no actor could start in {took:.0f} s: the cluster has"
                f" {self._ray.available_resources().get('CPU', 0):g} free CPUs of"
                f" {self._ray.cluster_resources().get('CPU', 0):g}"
            )

    def _give(self, worker: _Worker) -> None:
        if worker.call is not None or not worker.ready or not self._ledger.queue:
            return
        worker.task, worker.began = self._ledger.queue.pop(), time.monotonic()
        worker.call = worker.actor.run.remote(self._ledger.tasks[worker.task], self._bases)

    def _replace(self, worker: _Worker, reason: str) -> None:
        self._dismiss(worker)
        self._ledger.lost(worker.task, reason)
        self._hire()
        for other in self._workers:  # the lost task goes to whoever is free: the new actor has still to start
            self._give(other)

    def _hire(self) -> None:
        actor = self._kind.remote(self.job, self.task_tries)
        self._workers.append(_Worker(actor, actor.open.remote(), time.monotonic()))

    def _dismiss(self, worker: _Worker) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(worker.actor)
        self._workers.remove(worker)
