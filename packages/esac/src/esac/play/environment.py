"""Making gymnasium environments and checking that their spaces are those of continuous control."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from sextet_common.errors import InputError, require

EnvSource = str | Callable[[], gymnasium.Env[Any, Any]]
DISPLAY = "a display, or for MuJoCo without one: MUJOCO_GL=egl (needs libEGL) or MUJOCO_GL=osmesa (needs libOSMesa)"
_DM_CONTROL = "dm_control/"


def make(env: EnvSource, options: dict[str, Any] | None = None) -> gymnasium.Env[Any, Any]:
    """Make an environment with a flat box of observations and a bounded box of actions.

    Observations that are dictionaries are flattened into one vector.

    Parameters
    ----------
    env
        A name registered with gymnasium, dm_control/NAME (through shimmy: extra dm-control), or a function without
        arguments.
    options
        Keyword arguments of ``gymnasium.make``.

    Examples
    --------
    >>> make("Pendulum-v1").action_space.shape
    (1,)
    """
    if isinstance(env, str) and env.startswith(_DM_CONTROL):
        if "torch" in sys.modules:  # never in workers
            import_triton_before_mesa()
        for module in ("dm_control", "shimmy"):  # without dm_control, shimmy silently registers nothing
            require(module, package="esac", extra="dm-control")
    try:
        instance = gymnasium.make(env, **(options or {})) if isinstance(env, str) else env()
    except InputError:
        raise
    except Exception as error:  # environments raise anything
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the environment {env!r} cannot be made: {first}", _remedy(env, error)) from error
    if not isinstance(instance, gymnasium.Env):
        raise InputError(f"the environment {env!r} is a {type(instance).__name__}", "a gymnasium environment")
    if isinstance(instance.observation_space, spaces.Dict):
        instance = gymnasium.wrappers.FlattenObservation(instance)
    try:
        check_spaces(instance)
    except InputError:
        instance.close()
        raise
    return instance


def name_from_file(name: object, path: object) -> str:
    """Return the name of an environment that a file gives, refusing names that make gymnasium import a module.

    Examples
    --------
    >>> name_from_file("Pendulum-v1", "model.safetensors")
    'Pendulum-v1'
    """
    if not isinstance(name, str) or ":" in name:
        raise InputError(f"{path} names the environment {name!r}", "a plain name, or the environment passed explicitly")
    return name


def import_triton_before_mesa() -> None:
    """Import triton, where it is installed, before Mesa is loaded.

    Both bundle LLVM. If Mesa's is loaded first, torch's import of triton (at its first optimizer) crashes the process.
    """
    if importlib.util.find_spec("triton") is not None:
        with contextlib.suppress(ImportError):
            importlib.import_module("triton")


def _remedy(env: object, error: Exception) -> str:
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if any(part in file for file in files for part in ("OpenGL", "osmesa", "mujoco_rendering", "glfw")):
        return DISPLAY
    if isinstance(env, str) and env.startswith(_DM_CONTROL):
        return "a task of dm_control's suite, and a mujoco release that esac[dm-control] installs"
    return "a name and options that gymnasium.make accepts, or a function that returns an environment"


def check_spaces(env: gymnasium.Env[Any, Any]) -> None:
    """Refuse spaces that are not those of continuous control, naming the wrapper that helps.

    Examples
    --------
    >>> check_spaces(gymnasium.make("CartPole-v1"))
    Traceback (most recent call last):
    sextet_common.errors.InputError: actions are Discrete(2); expected: a Box: soft actor-critic is for continuous \
    actions
    """
    seen, acts = env.observation_space, env.action_space
    flatten, transform = "gymnasium.wrappers.FlattenObservation", "gymnasium.wrappers.TransformAction"
    if isinstance(seen, spaces.Dict | spaces.Tuple):
        raise InputError(f"observations are a {type(seen).__name__}", f"a flat Box: wrap it in {flatten}")
    if isinstance(seen, spaces.Box) and len(seen.shape) > 1:
        what = "images" if len(seen.shape) == 3 else "a table"
        remedy = f"a Box of one dimension: extracted features, or {flatten} if it is small"
        raise InputError(f"observations are {what} of shape {seen.shape}", remedy)
    if not isinstance(seen, spaces.Box) or not seen.shape:
        raise InputError(f"observations are {seen}", f"a Box of one dimension: wrap it in {flatten}")
    if not isinstance(acts, spaces.Box):
        raise InputError(f"actions are {acts}", "a Box: soft actor-critic is for continuous actions")
    if not np.issubdtype(acts.dtype, np.floating):
        remedy = f"a Box of floating-point numbers: {transform} can round them"
        raise InputError(f"actions are whole numbers ({acts.dtype})", remedy)
    if len(acts.shape) != 1:
        raise InputError(f"actions are of shape {acts.shape}", f"a Box of one dimension: {transform} can reshape them")
    if not (np.isfinite(acts.low).all() and np.isfinite(acts.high).all() and (acts.low < acts.high).all()):
        raise InputError(f"actions are {acts}", f"a Box with finite bounds, low below high: {transform} sets them")


def horizon(env: gymnasium.Env[Any, Any], fallback: int = 10_000) -> int:
    """Return the largest number of steps of an episode; `fallback` if the environment does not state one.

    Examples
    --------
    >>> horizon(gymnasium.make("Pendulum-v1"))
    200
    """
    if env.spec is not None and env.spec.max_episode_steps:
        return int(env.spec.max_episode_steps)
    limit = getattr(env.unwrapped, "_step_limit", math.inf)  # dm_control's, exposed by shimmy
    return int(limit) if math.isfinite(limit) else fallback
