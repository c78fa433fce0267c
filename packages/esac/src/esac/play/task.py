"""Tasks, the units of work of a generation, and their evaluation."""

from __future__ import annotations

import contextlib
import logging
import traceback
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from sextet_common import checks
from sextet_common.checks import Count
from sextet_common.errors import InputError

from esac.play import environment, rollout
from esac.play.environment import EnvSource
from esac.play.policy import ActionMap
from esac.play.rollout import Episode, NonFiniteError, OnNan


def noise(seed: int, generation: int, member: int, size: int) -> Float[np.ndarray, " size"]:
    """Draw the standard normal noise of a member, a function of (seed, generation, member) alone.

    Examples
    --------
    >>> bool((noise(0, 3, 1, 5) == noise(0, 3, 1, 5)).all()), bool((noise(0, 3, 1, 5) == noise(0, 3, 2, 5)).any())
    (True, False)
    """
    entropy = np.random.SeedSequence((seed, 0x4E53, generation, member))
    return np.random.Generator(np.random.Philox(entropy)).standard_normal(size, dtype=np.float32)


@dataclass(frozen=True)
class Task:
    """One episode of the policy ``bases[base] + sign * sigma * noise(seed, generation, member)``.

    ``sign`` is 1, -1, or 0 for the base itself; `generation`, `member` and `episode` are the keys of the reset too.
    With ``keep`` the episode returns its transitions. ``spread`` is the row of the bases, if any, that multiplies the
    noise element by element.
    """

    base: int
    generation: int
    member: int
    sign: int
    sigma: float
    keep: bool = False
    spread: int | None = None
    episode: int = 0

    def __str__(self) -> str:
        return f"member {self.member} of generation {self.generation}, sign {self.sign}"


@dataclass(frozen=True)
class Job:
    """What every task of a run shares: environment, policy and the seed of noise and resets.

    See `esac.play.environment.make` for `env` (a function must be importable by workers) and `options`,
    `esac.play.rollout.episode` for `on_nan`, and `NumpyPolicy` for `action`. With ``normalize``, rows of the bases end
    with the offset and the scale of the observations, and episodes return the moments of theirs. ``horizon`` truncates
    episodes, by default at the environment's limit.
    """

    env: EnvSource
    options: dict[str, Any] = field(default_factory=dict)
    hidden: tuple[int, ...] = (256, 256)
    seed: int = 0
    on_nan: OnNan = "penalise"
    action: ActionMap = "tanh"
    normalize: bool = False
    horizon: int | None = None
    bias: bool = True


class Evaluator:
    """One environment and one policy, reused for task after task.

    An environment that raises is closed and made again, and the episode restarts from the same reset. An episode that
    raises in each of `tries` attempts has failed: its total is -inf. ``width`` is the length of a row of the bases.

    Examples
    --------
    >>> evaluator = Evaluator(Job("Pendulum-v1", {"max_episode_steps": 5}, hidden=(4,)))
    >>> evaluator(Task(base=0, generation=0, member=0, sign=0, sigma=0.1), np.zeros((1, 21), np.float32)).length
    5
    """

    def __init__(self, job: Job, tries: int = 3) -> None:
        checks.check("tries", tries, Count)
        self.job, self.tries = job, tries
        self.env = environment.make(job.env, job.options)
        self.policy = rollout.numpy_policy(self.env, job.hidden, action=job.action, bias=job.bias)
        self.width = self.policy.shape.size + (2 * self.policy.shape.observations if job.normalize else 0)
        self.horizon = job.horizon or environment.horizon(self.env)
        self._broken = self._warned = False

    def load(self, task: Task, bases: Float[np.ndarray, "bases width"]) -> None:
        """Set the policy to that of a task."""
        vector, size = self.policy.vector, self.policy.shape.size
        vector[:] = bases[task.base, :size]
        if self.job.normalize:
            self.policy.normalise(bases[task.base, size:].reshape(2, -1))
        if task.sign:
            drawn = noise(self.job.seed, task.generation, task.member, size)
            if task.spread is not None:
                drawn *= bases[task.spread, :size]
            vector += np.float32(task.sign * task.sigma) * drawn

    def reset_seed(self, task: Task) -> int:
        """Return the seed of a task's reset."""
        key = (self.job.seed, 0xE5, task.generation, task.member, *([task.episode] if task.episode else []))
        return int(np.random.SeedSequence(key).generate_state(1)[0]) >> 1

    def __call__(self, task: Task, bases: Float[np.ndarray, "bases width"]) -> Episode:
        """Run the episode of a task."""
        self.load(task, bases)
        reset = self.reset_seed(task)
        error = ""
        for _ in range(self.tries):
            try:
                if self._broken:
                    self.env, self._broken = environment.make(self.job.env, self.job.options), False
                return rollout.episode(
                    self.env, self.policy, reset, max_steps=self.horizon, on_nan=self.job.on_nan, keep=task.keep,
                    observe=self.job.normalize,
                )  # fmt: skip
            except (NonFiniteError, InputError):
                raise
            except Exception:  # environments raise anything
                error = traceback.format_exc()
                self._broken = True
                self.close()
        if not self._warned:  # once: a broken environment fails the same way in every episode
            self._warned = True
            logging.getLogger("esac").warning("The episode of %s failed %d times.\n%s", task, self.tries, error)
        return Episode.failure(error.strip().splitlines()[-1])

    def close(self) -> None:
        """Close the environment, ignoring its errors."""
        with contextlib.suppress(Exception):
            self.env.close()
