"""One episode of one policy, and what came of it. NumPy and gymnasium alone: this is what workers import."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from sextet_common.errors import InputError, require

from esac.policy import ActionMap, NumpyPolicy, PolicyShape

OnNan = Literal["raise", "penalise"]
_DM_CONTROL = "dm_control/"
DISPLAY = "a display, or for MuJoCo without one: MUJOCO_GL=egl (needs libEGL) or MUJOCO_GL=osmesa (needs libOSMesa)"
"""What drawing needs."""


@dataclass(frozen=True)
class Episode:
    """What an episode brought.

    Parameters
    ----------
    total
        The sum of its rewards; -inf where it failed.
    length
        Steps.
    failed
        Whether it ended by something that is not a number, or by an error.
    transitions
        Packed rows (observation, action, reward, next observation, 1 - terminated), shape (length, width), float32;
        None where nobody asked.
    message
        What went wrong.
    """

    total: float
    length: int
    failed: bool = False
    transitions: np.ndarray | None = None
    message: str = ""


class NotANumber(ArithmeticError):
    """An environment gave an observation or a reward that is not finite."""


def make(
    env: str | Callable[[], gymnasium.Env[Any, Any]], options: dict[str, Any] | None = None
) -> gymnasium.Env[Any, Any]:
    """Make an environment, and refuse what cannot be learned here.

    Parameters
    ----------
    env
        A name that gymnasium knows, dm_control/NAME (by way of shimmy: extra dm-control; its observations become one
        vector), or a function without arguments.
    options
        For gymnasium's make.

    Returns
    -------
    gymnasium.Env
        With a flat box of observations and a bounded box of actions.

    Raises
    ------
    InputError
        Where it cannot be made, or has other spaces: the remedy is named.

    Examples
    --------
    >>> make("Pendulum-v1").action_space.shape
    (1,)
    """
    if isinstance(env, str) and env.startswith(_DM_CONTROL):
        if "torch" in sys.modules:  # not in workers, which never import it
            before_drawing()
        for module in ("dm_control", "shimmy"):  # without the first, the second registers nothing and says nothing
            require(module, package="esac", extra="dm-control")
    try:
        made = gymnasium.make(env, **(options or {})) if isinstance(env, str) else env()
    except Exception as error:  # every environment has its own; the name is what the user can mend
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the environment {env!r} cannot be made: {first}", _remedy(env, error)) from error
    if not isinstance(made, gymnasium.Env):
        raise InputError(f"the environment {env!r} is a {type(made).__name__}", "a gymnasium environment")
    if isinstance(env, str) and env.startswith(_DM_CONTROL) and isinstance(made.observation_space, spaces.Dict):
        made = gymnasium.wrappers.FlattenObservation(made)
    try:
        check_spaces(made)
    except InputError:
        made.close()
        raise
    return made


def named_in_a_file(name: object, path: object) -> str:
    """Return an environment's name that a file gave, unless it is one that makes gymnasium import a module.

    Raises
    ------
    InputError
        For a name such as ``module:Name-v0``: whoever trusts it hands it over.

    Examples
    --------
    >>> named_in_a_file("Pendulum-v1", "model.safetensors")
    'Pendulum-v1'
    """
    if not isinstance(name, str) or ":" in name:
        raise InputError(f"{path} names the environment {name!r}", "a plain name, or the environment given beside it")
    return name


def before_drawing() -> None:
    """Load triton, where torch has brought it, before Mesa is.

    Each has an LLVM of its own. Where Mesa's comes first, torch's import of triton, at its first optimizer, ends the
    process with a segmentation fault.
    """
    if importlib.util.find_spec("triton") is not None:
        with contextlib.suppress(ImportError):
            importlib.import_module("triton")


def _remedy(env: object, error: Exception) -> str:
    """Say what helps where an environment cannot be made."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if any(part in file for file in files for part in ("OpenGL", "osmesa", "mujoco_rendering", "glfw")):
        return DISPLAY
    if isinstance(env, str) and env.startswith(_DM_CONTROL):
        return "a task of dm_control's suite, and a mujoco of the releases that esac[dm-control] brings"
    return "a name and options that gymnasium.make accepts, or a function that returns an environment"


def check_spaces(env: gymnasium.Env[Any, Any]) -> None:
    """Refuse spaces that are not those of continuous control.

    Parameters
    ----------
    env
        The environment.

    Raises
    ------
    InputError
        Where observations are no flat box, or actions no flat, bounded box: the wrapper that helps is named.

    Examples
    --------
    >>> check_spaces(gymnasium.make("CartPole-v1"))
    Traceback (most recent call last):
    sextet_common.errors.InputError: actions are Discrete(2); expected: a Box: soft actor-critic is for continuous \
    actions
    """
    seen, acts = env.observation_space, env.action_space
    if isinstance(seen, spaces.Dict | spaces.Tuple):
        raise InputError(
            f"observations are a {type(seen).__name__}", "a flat Box: wrap it in gymnasium.wrappers.FlattenObservation"
        )
    if isinstance(seen, spaces.Box) and len(seen.shape) > 1:
        what = "images" if len(seen.shape) == 3 else "a table"
        raise InputError(
            f"observations are {what} of shape {seen.shape}",
            "a Box of one dimension: features of it, or gymnasium.wrappers.FlattenObservation where it is small",
        )
    if not isinstance(seen, spaces.Box) or not seen.shape:
        raise InputError(f"observations are {seen}", "a Box of one dimension: wrap it in FlattenObservation")
    if not isinstance(acts, spaces.Box):
        raise InputError(f"actions are {acts}", "a Box: soft actor-critic is for continuous actions")
    if len(acts.shape) != 1:
        raise InputError(
            f"actions are of shape {acts.shape}",
            "a Box of one dimension: gymnasium.wrappers.TransformAction can reshape them",
        )
    if not (np.isfinite(acts.low).all() and np.isfinite(acts.high).all() and (acts.low < acts.high).all()):
        raise InputError(
            f"actions are {acts}",
            "a Box with finite ends, low below high: gymnasium.wrappers.TransformAction sets them",
        )


def horizon(env: gymnasium.Env[Any, Any], fallback: int = 10_000) -> int:
    """Return after how many steps an episode ends at the latest.

    Parameters
    ----------
    env
        The environment.
    fallback
        Where the environment says none, as wrappers that cut episodes off by themselves may.

    Returns
    -------
    int
        Steps.

    Examples
    --------
    >>> horizon(gymnasium.make("Pendulum-v1"))
    200
    """
    if env.spec is not None and env.spec.max_episode_steps:
        return int(env.spec.max_episode_steps)
    own = getattr(env.unwrapped, "_step_limit", math.inf)  # dm_control's, which shimmy passes on
    return int(own) if math.isfinite(own) else fallback


def episode(
    env: gymnasium.Env[Any, Any],
    policy: Callable[[np.ndarray], np.ndarray],
    seed: int,
    *,
    most: int = 10_000,
    on_nan: OnNan = "penalise",
    keep: bool = False,
) -> Episode:
    """Run a policy from a seeded reset to the end.

    Parameters
    ----------
    env
        The environment.
    policy
        From observations to actions.
    seed
        Of the reset: the same episode for the same policy, wherever it is run.
    most
        Steps after which it is cut off.
    on_nan
        What becomes of an observation, action or reward that is not finite: "raise", or "penalise": the episode
        failed, its total is -inf, and none of its transitions is kept.
    keep
        Keep the transitions.

    Returns
    -------
    Episode
        What came of it.

    Raises
    ------
    NotANumber
        With ``on_nan="raise"``.
    """
    observation, _ = env.reset(seed=seed)
    rows: list[np.ndarray] = []
    total, length, done = 0.0, 0, False
    wrong = "" if np.isfinite(observation).all() else "the first observation is not finite"
    while not (done or wrong) and length < most:
        action = policy(observation)
        if not np.isfinite(action).all():
            wrong = f"the action of step {length} is not finite"
            break
        following, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        length += 1
        if not math.isfinite(total) or not np.isfinite(following).all():
            wrong = f"the {'observation' if math.isfinite(total) else 'reward'} of step {length} is not finite"
            break
        if keep:
            rows.append(packed(observation, action, float(reward), following, terminated))
        observation, done = following, bool(terminated or truncated)
    if wrong:
        if on_nan == "raise":
            raise NotANumber(f"{wrong}, seed {seed}")
        return Episode(-math.inf, length, True, None, wrong)
    return Episode(total, length, False, np.stack(rows) if rows else None)


def packed(
    observation: np.ndarray, action: np.ndarray, reward: float, following: np.ndarray, terminated: bool
) -> np.ndarray:
    """Return a transition as one row of float32; a truncated one still counts what would have followed."""
    ends = [reward], following, [0.0 if terminated else 1.0]
    return np.concatenate([observation, action, *ends]).astype(np.float32)


def numpy_policy(
    env: gymnasium.Env[Any, Any],
    hidden: tuple[int, ...],
    vector: np.ndarray | None = None,
    action: ActionMap = "tanh",
) -> NumpyPolicy:
    """Make a policy for an environment's spaces.

    Parameters
    ----------
    env
        An environment that `make` accepts.
    hidden
        Units of the hidden layers.
    vector
        The weights; zeros where not given.
    action
        How it acts: see `NumpyPolicy`.

    Returns
    -------
    NumpyPolicy
        The policy.

    Examples
    --------
    >>> numpy_policy(make("Pendulum-v1"), (4,)).shape.size
    21
    """
    check_spaces(env)
    seen, acts = env.observation_space, env.action_space
    assert isinstance(seen, spaces.Box) and isinstance(acts, spaces.Box)
    return NumpyPolicy(PolicyShape(seen.shape[0], acts.shape[0], hidden), acts.low, acts.high, vector, action)
