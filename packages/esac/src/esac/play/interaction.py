"""The door between policies and an environment: resets, steps, and transitions that share no memory with it."""

from __future__ import annotations

import numbers
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float
from sextet_common.errors import InputError

from esac.play.policy import action_map


def reset(env: gymnasium.Env[Any, Any], seed: int) -> np.ndarray:
    """Return the first observation of a seeded episode."""
    answer = env.reset(seed=seed)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise InputError(f"reset of {env} returned {_described(answer)}", "gymnasium's (observation, info)")
    observation: np.ndarray = answer[0]
    return observation


def step(env: gymnasium.Env[Any, Any], action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
    """Take a step; return the observation, the reward, and whether the episode terminated and was truncated.

    The action is the caller's to lose: an environment may change it in place.
    """
    answer = env.step(action)
    if not isinstance(answer, tuple) or len(answer) != 5:
        expected = "gymnasium's (observation, reward, terminated, truncated, info)"
        raise InputError(f"step of {env} returned {_described(answer)}", expected)
    observation, reward, terminated, truncated, _ = answer
    if not isinstance(reward, numbers.Real | np.bool) and not (isinstance(reward, np.ndarray) and reward.ndim == 0):
        raise InputError(f"the reward of {env} is {_described(reward)}", "one number")
    return observation, float(reward), bool(terminated), bool(truncated)


def finite(observation: np.ndarray) -> bool:
    """Return whether an observation is finite, also in float32, which policies and transitions use."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.asarray(observation, dtype=np.float32)).all())


class TransitionWriter:
    """Makes rows (observation, action, reward, next observation, 1 - terminated) of float32.

    Actions are stored in [-1, 1], whatever their bounds in the environment. Nothing in a row aliases what an
    environment may change: `before` is called with observation and action before the step, `after` with its result.

    Parameters
    ----------
    low, high
        Bounds of the actions, shape (actions,).

    Examples
    --------
    >>> writer = TransitionWriter(np.array([-0.02]), np.array([0.02]))
    >>> writer.before(np.array([3.0]), np.array([0.01]))
    >>> writer.after(1.0, np.array([4.0]), terminated=True).tolist()
    [3.0, 0.5, 1.0, 4.0, 0.0]
    """

    def __init__(self, low: Float[np.ndarray, " actions"], high: Float[np.ndarray, " actions"]) -> None:
        self._scale, self._bias = action_map(low, high)
        self._head = np.empty(0, dtype=np.float32)

    def to_environment(self, action: Float[np.ndarray, "*n actions"]) -> Float[np.ndarray, "*n actions"]:
        """Return an action in [-1, 1] in the environment's units."""
        scaled: np.ndarray = action * self._scale + self._bias
        return scaled

    def before(self, observation: np.ndarray, action: Float[np.ndarray, "*n actions"]) -> None:
        """Copy the observation and an action in the environment's units."""
        inside = np.clip((action - self._bias) / self._scale, -1, 1)
        self._head = np.concatenate([observation, inside], axis=-1).astype(np.float32)

    def after(
        self, reward: float | np.ndarray, next_observation: np.ndarray, terminated: bool | np.ndarray
    ) -> Float[np.ndarray, "*n width"]:
        """Return the row or, of several environments, rows; the last number, the mask, is 0 only at a termination."""
        mask = 1.0 - np.asarray(terminated, dtype=np.float32)
        tail = np.asarray(reward)[..., None], next_observation, mask[..., None]
        with np.errstate(over="ignore"):
            return np.concatenate([self._head, *tail], axis=-1).astype(np.float32)


def _described(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} values"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return f"{value!r}"[:80]
