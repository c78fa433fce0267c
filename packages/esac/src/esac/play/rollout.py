"""One episode of one policy: NumPy and gymnasium alone, since workers import it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from esac.play import interaction
from esac.play.environment import check_spaces
from esac.play.normalize import Moments
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
        Rows of `esac.play.interaction.TransitionWriter`, shape (length, width); None unless they were requested.
    message
        Why it failed.
    moments
        Moments of the observations that the policy acted on; None unless they were requested.
    """

    total: float
    length: int
    failed: bool = False
    transitions: np.ndarray | None = None
    message: str = ""
    moments: Moments | None = None

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
    observe: bool = False,
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
    observe
        Return the moments of the observations that the policy acted on.
    """
    observation = interaction.reset(env, seed)
    space = env.action_space
    assert isinstance(space, spaces.Box)
    writer = interaction.TransitionWriter(space.low, space.high)
    rows: list[np.ndarray] = []
    observations: list[np.ndarray] = []
    total, length, done = 0.0, 0, False
    fault = "" if interaction.finite(observation) else "the first observation is not finite in float32"
    while not (done or fault) and length < max_steps:
        if observe:
            observations.append(np.array(observation, dtype=np.float64))
        action = policy(observation)
        if not np.isfinite(action).all():
            fault = f"the action of step {length} is not finite"
            break
        if keep:
            writer.before(observation, action)
        observation, reward, terminated, truncated = interaction.step(env, action)
        total += reward
        length += 1
        if not math.isfinite(total) or not interaction.finite(observation):
            wrong = f"observation of step {length} is not finite in float32"
            fault = f"the {wrong if math.isfinite(total) else f'reward of step {length} is not finite'}"
            break
        if keep:
            rows.append(writer.after(reward, observation, terminated))
        done = terminated or truncated
    if fault:
        if on_nan == "raise":
            raise NonFiniteError(f"{fault}, seed {seed}")
        return Episode.failure(fault, length)
    moments = Moments.of(np.stack(observations)) if observations else None
    return Episode(total, length, False, np.stack(rows) if rows else None, moments=moments)


def numpy_policy(
    env: gymnasium.Env[Any, Any],
    hidden: tuple[int, ...],
    vector: np.ndarray | None = None,
    action: ActionMap = "tanh",
    inputs: np.ndarray | None = None,
    bias: bool = True,
) -> NumpyPolicy:
    """Make a policy for the spaces of an environment; a vector tells whether it has biases.

    Examples
    --------
    >>> from esac.play.environment import make
    >>> numpy_policy(make("Pendulum-v1"), (4,)).shape.size
    21
    """
    check_spaces(env)
    seen, acts = env.observation_space, env.action_space
    assert isinstance(seen, spaces.Box) and isinstance(acts, spaces.Box)
    sizes = seen.shape[0], acts.shape[0], hidden
    shape = PolicyShape(*sizes, bias) if vector is None else PolicyShape.holding(vector.size, *sizes)
    return NumpyPolicy(shape, acts.low, acts.high, vector, action, inputs)
