"""One episode of one policy: NumPy and gymnasium alone, since workers import it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from esac.play.environment import check_spaces
from esac.play.policy import ActionMap, NumpyPolicy, PolicyShape

OnNan = Literal["raise", "penalise"]


@dataclass(frozen=True)
class Episode:
    """Result of an episode.

    Attributes
    ----------
    total
        Sum of the rewards; -inf if the episode failed.
    length
        Number of steps.
    failed
        Whether a non-finite number or an error ended it.
    transitions
        Rows (observation, action, reward, next observation, 1 - terminated) of float32, shape (length, width); None
        unless they were asked for.
    message
        Why it failed.
    """

    total: float
    length: int
    failed: bool = False
    transitions: np.ndarray | None = None
    message: str = ""

    @classmethod
    def failure(cls, message: str, length: int = 0) -> Episode:
        """Return a failed episode."""
        return cls(-math.inf, length, True, None, message)


class NonFiniteError(ArithmeticError):
    """An environment returned an observation or a reward that is NaN or infinite."""


def episode(
    env: gymnasium.Env[Any, Any],
    policy: Callable[[np.ndarray], np.ndarray],
    seed: int,
    *,
    max_steps: int = 10_000,
    on_nan: OnNan = "penalise",
    keep: bool = False,
) -> Episode:
    """Run a policy from a seeded reset to the end of the episode.

    Parameters
    ----------
    seed
        Seed of the reset: the same policy then gets the same episode in any process.
    max_steps
        Number of steps after which the episode is truncated.
    on_nan
        What a non-finite observation, action or reward does: "raise" `NonFiniteError`, or "penalise": the episode
        fails, its total is -inf and none of its transitions is kept.
    keep
        Keep the transitions.
    """
    observation, _ = env.reset(seed=seed)
    rows: list[np.ndarray] = []
    total, length, done = 0.0, 0, False
    fault = "" if np.isfinite(observation).all() else "the first observation is not finite"
    while not (done or fault) and length < max_steps:
        action = policy(observation)
        if not np.isfinite(action).all():
            fault = f"the action of step {length} is not finite"
            break
        next_observation, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        length += 1
        if not math.isfinite(total) or not np.isfinite(next_observation).all():
            fault = f"the {'observation' if math.isfinite(total) else 'reward'} of step {length} is not finite"
            break
        if keep:
            rows.append(pack(observation, action, float(reward), next_observation, terminated))
        observation, done = next_observation, bool(terminated or truncated)
    if fault:
        if on_nan == "raise":
            raise NonFiniteError(f"{fault}, seed {seed}")
        return Episode.failure(fault, length)
    return Episode(total, length, False, np.stack(rows) if rows else None)


def pack(
    observation: np.ndarray, action: np.ndarray, reward: float, next_observation: np.ndarray, terminated: bool
) -> np.ndarray:
    """Return a transition as one row of float32; its last number, the mask, is 0 only at a termination."""
    mask = 0.0 if terminated else 1.0
    return np.concatenate([observation, action, [reward], next_observation, [mask]]).astype(np.float32)


def numpy_policy(
    env: gymnasium.Env[Any, Any],
    hidden: tuple[int, ...],
    vector: np.ndarray | None = None,
    action: ActionMap = "tanh",
) -> NumpyPolicy:
    """Make a policy for the spaces of an environment.

    Examples
    --------
    >>> from esac.play.environment import make
    >>> numpy_policy(make("Pendulum-v1"), (4,)).shape.size
    21
    """
    check_spaces(env)
    seen, acts = env.observation_space, env.action_space
    assert isinstance(seen, spaces.Box) and isinstance(acts, spaces.Box)
    return NumpyPolicy(PolicyShape(seen.shape[0], acts.shape[0], hidden), acts.low, acts.high, vector, action)
