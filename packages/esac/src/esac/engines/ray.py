"""Evaluation by the actors of a Ray cluster, bit-identical to the other engines.

Ray (extra ray) is imported when an engine is made.
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
from sextet_common import checks
from sextet_common.checks import Count
from sextet_common.errors import InputError, require

from esac.engines.ledger import START_TIMEOUT, Ledger, WorkerError
from esac.engines.serial import Engine
from esac.engines.worker import ONE_THREAD, Answer, answer
from esac.play.rollout import Episode, NonFiniteError
from esac.play.task import Evaluator, Job, Task


class RolloutActor:
    """One environment and one policy in the cluster, without torch."""

    def __init__(self, job: Job, tries: int) -> None:
        self.job, self.tries = job, tries

    def open(self) -> Answer:
        """Make the environment."""
        try:
            self.evaluator = Evaluator(self.job, self.tries)
        except Exception:  # the learner reports it
            return "error", traceback.format_exc()
        return "ready", None

    def run(self, task: Task, bases: Float[np.ndarray, "bases width"]) -> Answer:
        """Run a task."""
        return answer(self.evaluator, task, bases)


@dataclass(eq=False)
class _Worker:
    actor: Any
    call: Any  # reference of the running call; None if free
    began: float
    task: int | None = None
    ready: bool = False


class RayEngine(Engine):
    """A pool of Ray actors with one thread and one environment each.

    Actors that die or take too long are replaced, as `ProcessEngine` replaces its workers. An actor for which the
    cluster has no free CPU joins once there is one.

    Parameters
    ----------
    job
        What to evaluate. The cluster's machines need this package and what the environment imports.
    workers
        Number of actors; each takes one CPU of the cluster.
    address
        Address of the cluster, or "auto" for the one that this machine is part of. By default: the cluster that this
        process is connected to, or that of the variable RAY_ADDRESS, or a new one that ends with `close`.
    restarts, timeout, task_tries
        As for `ProcessEngine`.
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
        checks.check("workers", workers, Count)
        self._ray: Any = require("ray", package="esac", extra="ray")
        self.job, self.task_tries = job, task_tries
        self._ledger = Ledger(restarts, timeout)
        Evaluator(job, task_tries).close()  # a bad name fails here once, not in every actor
        try:
            self._ray.cloudpickle.dumps(job)
        except Exception as error:  # pickle raises several types
            raise InputError(
                f"the environment {job.env!r} or its options cannot be sent to actors: {error}",
                "a function that holds no open files or locks",
            ) from error
        self._bases: Any = None
        self._workers: list[_Worker] = []
        self._connected_here = not self._ray.is_initialized()
        if self._connected_here:
            self._connect(address, workers)
        try:
            self._actor_class = self._ray.remote(RolloutActor).options(
                num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD", runtime_env={"env_vars": ONE_THREAD}
            )
            for _ in range(workers):
                self._add_worker()
        except BaseException:
            self.close()
            raise

    def start(self, bases: Float[np.ndarray, "bases width"], tasks: Sequence[Task]) -> None:
        """Put the bases into the cluster once and give every free actor a task."""
        for worker in [worker for worker in self._workers if worker.task is not None]:
            self._remove(worker)
            self._add_worker()
        self._bases = self._ray.put(np.ascontiguousarray(bases, dtype=np.float32))
        self._ledger.begin(tasks)
        for worker in self._workers:
            self._assign(worker)

    def finish(self) -> list[Episode]:
        """Wait for all tasks.

        Raises
        ------
        WorkerError
            If actors fail too often in a row, or none can start.
        NonFiniteError
            If an episode has non-finite numbers and ``job.on_nan`` is "raise".
        """
        while not self._ledger.done:
            waits = {worker.call: worker for worker in self._workers if worker.call is not None}
            if not waits:
                raise WorkerError("no actor is left")
            ready, _ = self._ray.wait(list(waits), num_returns=1, timeout=1.0)
            for call in ready:
                self._receive(waits[call])
            for worker in list(self._workers):
                self._check_time(worker)
        return self._ledger.in_order()

    def close(self) -> None:
        """End all actors, and disconnect from Ray if this engine connected to it."""
        if self._ray.is_initialized():
            for worker in list(self._workers):
                self._remove(worker)
            self._bases = None
            if self._connected_here:
                self._ray.shutdown()
        self._workers = []

    def _connect(self, address: str | None, workers: int) -> None:
        target = address or os.environ.get("RAY_ADDRESS") or "local"
        # More actors than CPUs are slow, but correct: a cluster started here lets them all start.
        options = {"num_cpus": max(workers, os.cpu_count() or 1), "include_dashboard": False}
        host, _, port = target.rpartition(":")
        try:
            if port.isdigit() and "/" not in host:  # Ray itself retries for minutes
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            self._ray.init(target, **(options if target == "local" else {}))
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"no Ray cluster at {target!r}: {str(error).partition(chr(10))[0]}",
                "the address of a running cluster, or none to start one here",
            ) from error

    def _receive(self, worker: _Worker) -> None:
        try:
            kind, value = self._ray.get(worker.call)
        except self._ray.exceptions.RayError as error:  # the actor or its machine died, or an import failed
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
            if kind in ("nan", "input"):
                raise (NonFiniteError if kind == "nan" else InputError)(value)
            self._ledger.record(number, value)
        self._assign(worker)

    def _check_time(self, worker: _Worker) -> None:
        elapsed = time.monotonic() - worker.began
        if worker.ready:
            if worker.task is not None and elapsed > self._ledger.timeout:
                self._replace(worker, self._ledger.record_timeout(worker.task))
        elif elapsed > max(self._ledger.timeout, START_TIMEOUT) and not any(other.ready for other in self._workers):
            raise WorkerError(
                f"no actor could start in {elapsed:.0f} s: the cluster has"
                f" {self._ray.available_resources().get('CPU', 0):g} free CPUs of"
                f" {self._ray.cluster_resources().get('CPU', 0):g}"
            )

    def _assign(self, worker: _Worker) -> None:
        if worker.call is not None or not worker.ready or not self._ledger.queue:
            return
        worker.task, worker.began = self._ledger.queue.pop(), time.monotonic()
        worker.call = worker.actor.run.remote(self._ledger.tasks[worker.task], self._bases)

    def _replace(self, worker: _Worker, reason: str) -> None:
        self._remove(worker)
        self._ledger.record_failure(worker.task, reason)
        self._add_worker()
        for other in self._workers:  # a free actor takes the lost task: the new one has yet to start
            self._assign(other)

    def _add_worker(self) -> None:
        actor = self._actor_class.remote(self.job, self.task_tries)
        self._workers.append(_Worker(actor, actor.open.remote(), time.monotonic()))

    def _remove(self, worker: _Worker) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(worker.actor)
        self._workers.remove(worker)
