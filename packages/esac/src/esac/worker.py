"""A worker's whole life: it holds one environment and one policy, and runs the episodes that it is told.

NumPy and gymnasium alone: a process or a Ray actor that evaluates imports no torch.
"""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing as mp
import os
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

import numpy as np
from jaxtyping import Float
from sextet_common.errors import InputError

from esac import evolution, rollout
from esac.memory import View
from esac.policy import ActionMap
from esac.rollout import Episode, OnNan

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
Answer = tuple[str, Any]
"""What a worker says: "ready", "done" (an episode), "nan" (a message), or "error" (a traceback)."""


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

    def __str__(self) -> str:
        return f"member {self.member} of generation {self.generation}, sign {self.sign}"


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
    """An environment and a policy that are used again and again.

    An environment that raises is closed and made anew, and its episode begun again from the same reset. An episode that
    raises at every try has failed, as one with numbers that are none has: its total is -inf.

    Parameters
    ----------
    job
        What is evaluated.
    tries
        How often an episode that raises is run.

    Raises
    ------
    InputError
        Where the environment cannot be made, or there is no try.

    Examples
    --------
    >>> evaluator = Evaluator(Job("Pendulum-v1", {"max_episode_steps": 5}, hidden=(4,)))
    >>> evaluator(Task(base=0, generation=0, member=0, sign=0, sigma=0.1), np.zeros((1, 21), np.float32)).length
    5
    """

    def __init__(self, job: Job, tries: int = 3) -> None:
        if tries < 1:
            raise InputError(f"{tries} tries of a task", "a whole number >= 1")
        self.job, self.tries = job, tries
        self.env = rollout.make(job.env, job.options)
        self.policy = rollout.numpy_policy(self.env, job.hidden, action=job.action)
        self.most = rollout.horizon(self.env)
        self._broken = self._told = False

    def __call__(self, task: Task, bases: Float[np.ndarray, "bases size"]) -> Episode:
        """Do a task.

        Raises
        ------
        NotANumber
            Where an observation, action or reward is not finite, and the job says "raise".
        """
        vector = self.policy.vector
        vector[:] = bases[task.base]
        if task.sign:
            vector += np.float32(task.sign * task.sigma) * evolution.noise(
                self.job.seed, task.generation, task.member, len(vector)
            )
        reset = int(np.random.SeedSequence((self.job.seed, 0xE5, task.generation, task.member)).generate_state(1)[0])
        words = ""
        for _ in range(self.tries):
            try:
                if self._broken:
                    self.env, self._broken = rollout.make(self.job.env, self.job.options), False
                return rollout.episode(
                    self.env, self.policy, reset >> 1, most=self.most, on_nan=self.job.on_nan, keep=task.keep
                )
            except rollout.NotANumber:
                raise
            except Exception:  # whatever an environment raises
                words = traceback.format_exc()
                self._broken = True
                self.close()
        if not self._told:  # once, in full: an environment that is wrong says the same at every episode
            self._told = True
            logging.getLogger("esac").warning("The episode of %s failed %d times.\n%s", task, self.tries, words)
        return Episode(-math.inf, 0, True, None, words.strip().splitlines()[-1])

    def close(self) -> None:
        """Close the environment, whatever it says to that."""
        with contextlib.suppress(Exception):
            self.env.close()

    def answer(self, task: Task, bases: Float[np.ndarray, "bases size"]) -> Answer:
        """Do a task, and say what came of it in a form that can be sent."""
        try:
            return "done", self(task, bases)
        except rollout.NotANumber as error:
            return "nan", str(error)
        except Exception:  # the parent shows it
            return "error", traceback.format_exc()


def work(pipe: connection.Connection, job: Job, tries: int) -> None:
    """Do tasks until told to stop, or until the parent is gone: what a worker process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when a Ctrl-C ends its workers
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the parent blocked it while this one started
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the parent closed the pipe: it is gone, or done
        try:
            evaluator = Evaluator(job, tries)
        except Exception:
            pipe.send(("error", traceback.format_exc()))
            return
        pipe.send(("ready", None))
        bases = _Bases(evaluator.policy.shape.size)
        with contextlib.closing(evaluator):
            while (message := pipe.recv()) is not None:
                task, address, count = message
                pipe.send(evaluator.answer(task, bases.at(address, count)))


class _Bases:
    """The parent's shared memory, seen as an array."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.view: View | None = None

    def at(self, address: str, count: int) -> np.ndarray:
        if self.view is None or self.view.address != address:
            if self.view is not None:
                self.view.close()
            self.view = View(address)
        return np.ndarray((count, self.size), dtype=np.float32, buffer=self.view.buf)


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended, even in the middle of an episode."""
    parent = mp.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
