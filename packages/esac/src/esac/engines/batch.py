"""Evaluation of many members at once for gymnasium's MuJoCo v5 tasks: threads that call MuJoCo, no worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import mujoco  # type: ignore[import-untyped]  # it has no stubs
import numpy as np
from jaxtyping import Float
from sextet_common import checks
from sextet_common.checks import Count
from sextet_common.errors import InputError

from esac.engines.serial import Engine
from esac.play import interaction
from esac.play.mujoco_tasks import Arrays, formulas
from esac.play.normalize import Moments
from esac.play.policy import NumpyPolicy
from esac.play.rollout import Episode, NonFiniteError
from esac.play.task import Evaluator, Job, Task


class BatchEngine(Engine):
    """Steps the members of a thread in turn, and computes policies, observations and rewards for all of them at once.

    MuJoCo runs without Python's lock, so that threads use all cores. The physics is that of gymnasium's environments,
    step by step: `mujoco.rollout`, made for sequences of controls, loses the solver's warm start between two steps.

    Parameters
    ----------
    job
        One of gymnasium's MuJoCo v5 tasks by name, with any of its keyword arguments.
    threads
        Number of threads.
    size
        Members that a thread steps together.
    """

    def __init__(self, job: Job, threads: int = 1, *, size: int = 64) -> None:
        checks.check("threads", threads, Count)
        checks.check("size", size, Count)
        self._lanes = [_Lane(job, size) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads)
        self._running: list[Future[list[Episode]]] = []

    def start(self, bases: Float[np.ndarray, "bases width"], tasks: Sequence[Task]) -> None:
        """Give every thread its share of the tasks."""
        self._wait()
        bases, count = bases.copy(), len(self._lanes)
        for number, lane in enumerate(self._lanes):
            share = tasks[len(tasks) * number // count : len(tasks) * (number + 1) // count]
            self._running.append(self._pool.submit(lane.run, bases, share))

    def finish(self) -> list[Episode]:
        """Wait for all tasks.

        Raises
        ------
        NonFiniteError
            If an episode has non-finite numbers and ``job.on_nan`` is "raise".
        """
        running, self._running = self._running, []
        return [episode for share in running for episode in share.result()]

    def close(self) -> None:
        """Wait for the threads and end them."""
        self._wait()
        self._pool.shutdown()
        for lane in self._lanes:
            lane.evaluator.close()

    def _wait(self) -> None:
        for share in self._running:
            share.exception()
        self._running = []


class _Lane:
    """The members of one thread: a copy of MuJoCo's data for each."""

    def __init__(self, job: Job, size: int) -> None:
        self.job, self.size, self.evaluator = job, size, Evaluator(job)
        self.env: Any = self.evaluator.env.unwrapped
        task = formulas(self.env)
        if task is None or not isinstance(job.env, str):
            raise InputError(f"engine batch with the environment {job.env!r}", "a MuJoCo v5 task of gymnasium by name")
        self.task = task
        self.has_forces = "cfrc_ext" in task.fields
        self.copies: list[Any] = []
        self.views: list[list[np.ndarray]] = []

    def run(self, bases: np.ndarray, tasks: Sequence[Task]) -> list[Episode]:
        """Run the episodes of some tasks."""
        return [e for k in range(0, len(tasks), self.size) for e in self._together(bases, tasks[k : k + self.size])]

    def _together(self, bases: np.ndarray, tasks: Sequence[Task]) -> list[Episode]:
        """Run some episodes step by step, until all of them have ended."""
        policies = _Policies(self.evaluator, bases, tasks)
        observations = np.stack([self._reset(member, task) for member, task in enumerate(tasks)])
        log = _Log(self.evaluator, tasks)
        active = np.arange(len(tasks))
        active, observations = log.first(active, observations)
        places = self.task.centre(self.env, self._gather(active))
        while len(active):
            actions = policies(active, observations)
            active, observations, actions, places = log.acted(active, observations, actions, places)
            self._simulate(active, actions)
            data = self._gather(active)
            after = self.task.centre(self.env, data)
            rewards, terminated = self.task.judge(self.env, data, actions, (after - places) / self.env.dt)
            active, observations, places = log.stepped(
                active, observations, actions, rewards, self.task.observe(self.env, data), terminated, after
            )
        return log.episodes()

    def _reset(self, member: int, task: Task) -> np.ndarray:
        """Reset gymnasium's environment, and copy its state to a member."""
        if member == len(self.copies):
            self.copies.append(mujoco.MjData(self.env.model))
            self.views.append([getattr(self.copies[-1], name) for name in self.task.fields])
        observation = interaction.reset(self.evaluator.env, self.evaluator.reset_seed(task))
        mujoco.mj_copyData(self.copies[member], self.env.model, self.env.data)
        return observation

    def _simulate(self, active: np.ndarray, actions: np.ndarray) -> None:
        model, skip, step = self.env.model, self.env.frame_skip, mujoco.mj_step
        for member, action in zip(active.tolist(), actions, strict=True):
            data = self.copies[member]
            data.ctrl[:] = action
            step(model, data, nstep=skip)
            if self.has_forces:
                mujoco.mj_rnePostConstraint(model, data)

    def _gather(self, active: np.ndarray) -> Arrays:
        views = [self.views[member] for member in active.tolist()]
        return {name: np.array([view[k] for view in views]) for k, name in enumerate(self.task.fields)}


class _Policies:
    """The policies of some tasks as stacked weights; each acts as `NumpyPolicy` does."""

    def __init__(self, evaluator: Evaluator, bases: np.ndarray, tasks: Sequence[Task]) -> None:
        self.policy: NumpyPolicy = evaluator.policy
        vectors, inputs = [], []
        for task in tasks:
            evaluator.load(task, bases)
            vectors.append(self.policy.vector.copy())
            inputs.append(self.policy.inputs)
        parts = [self.policy.shape.parts(vector) for vector in vectors]
        self.layers = [
            (np.stack([weights for weights, _ in layer]), np.stack([biases for _, biases in layer]))
            for layer in zip(*parts, strict=True)
        ]
        self.inputs = None if self.policy.inputs is None else np.stack([each for each in inputs if each is not None])
        self.active = np.arange(len(tasks))

    def __call__(self, active: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """Return the actions of some members for their observations."""
        if len(active) < len(self.active):
            kept = np.searchsorted(self.active, active)
            self.layers = [(weights[kept], biases[kept]) for weights, biases in self.layers]
            self.inputs = None if self.inputs is None else self.inputs[kept]
            self.active = active
        x = observations if self.inputs is None else observations - self.inputs[:, 0]
        x = x.astype(np.float32)
        if self.inputs is not None:
            x *= self.inputs[:, 1]
        for number, (weights, biases) in enumerate(self.layers):
            x = np.matmul(weights, x[:, :, None])[:, :, 0] + biases
            if number < len(self.layers) - 1:
                np.maximum(x, 0, out=x)
        return self.policy.to_actions(x)


@dataclass
class _Log:
    """What happens to the members, and who is still active."""

    evaluator: Evaluator
    tasks: Sequence[Task]
    steps: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.tasks)
        self.totals, self.lengths, self.faults = np.zeros(count), np.zeros(count, dtype=int), [""] * count
        self.keeps = any(task.keep for task in self.tasks)

    def _fail(self, members: np.ndarray, why: str) -> None:
        for member in members.tolist():
            self.faults[member] = why.format(self.lengths[member])
            if self.evaluator.job.on_nan == "raise":
                seed = self.evaluator.reset_seed(self.tasks[member])
                raise NonFiniteError(f"{self.faults[member]}, seed {seed}")

    def first(self, active: np.ndarray, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Drop the members whose first observation is not finite."""
        good = _finite(observations)
        self._fail(active[~good], "the first observation is not finite in float32")
        return active[good], observations[good]

    def acted(
        self, active: np.ndarray, observations: np.ndarray, actions: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Drop the members whose action is not finite."""
        good = np.isfinite(actions).all(axis=1)
        if good.all():
            return active, observations, actions, places
        self._fail(active[~good], "the action of step {} is not finite")
        return active[good], observations[good], actions[good], places[good]

    def stepped(
        self, active: np.ndarray, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray,
        following: np.ndarray, terminated: np.ndarray, places: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
        """Record a step; return the members that go on, their observations and places."""
        self.totals[active] += rewards
        self.lengths[active] += 1
        self.steps.append((active, observations, actions, rewards, following, terminated))
        paid, seen = np.isfinite(self.totals[active]), _finite(following)
        if not (paid & seen).all():
            self._fail(active[~paid], "the reward of step {} is not finite")
            self._fail(active[paid & ~seen], "the observation of step {} is not finite in float32")
        on = paid & seen & ~terminated & (self.lengths[active] < self.evaluator.horizon)
        return (active, following, places) if on.all() else (active[on], following[on], places[on])

    def episodes(self) -> list[Episode]:
        """Return the episodes."""
        return [self._episode(member, task) for member, task in enumerate(self.tasks)]

    def _episode(self, member: int, task: Task) -> Episode:
        length = int(self.lengths[member])
        if self.faults[member]:
            return Episode.failure(self.faults[member], length)
        rows = list(self._rows(member, length)) if self.evaluator.job.normalize or task.keep else []
        moments = Moments.of(np.stack([row[0] for row in rows])) if rows and self.evaluator.job.normalize else None
        kept = self._transitions(rows) if rows and task.keep else None
        return Episode(float(self.totals[member]), length, False, kept, moments=moments)

    def _rows(self, member: int, length: int) -> Iterator[list[Any]]:
        for active, *columns in self.steps[:length]:
            place = int(np.searchsorted(active, member))
            yield [column[place] for column in columns]

    def _transitions(self, rows: list[list[Any]]) -> np.ndarray:
        writer = interaction.TransitionWriter(self.evaluator.policy.low, self.evaluator.policy.high)
        written = []
        for observation, action, reward, following, terminated in rows:
            writer.before(observation, action)
            written.append(writer.after(float(reward), following, bool(terminated)))
        return np.stack(written)


def _finite(observations: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        finite: np.ndarray = np.all(np.isfinite(observations.astype(np.float32)), axis=1)
    return finite
