"""Vector environments: sub-environments that are stepped together, from which soft actor-critic collects."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Bool, Float
from sextet_common.errors import InputError

from esac.play import interaction

Stepped = tuple[
    Float[np.ndarray, "n observations"], Float[np.ndarray, " n"], Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]
]
"""Observations, rewards, whether episodes terminated, and whether they were truncated."""
_OF_VECTORS = ("num_envs", "vectorization_mode", "vector_kwargs", "wrappers")  # what make_vec adds to a spec
_HARMLESS = ("RecordEpisodeStatistics", "VecMonitor")  # wrappers of vector environments that change no transition
_MONITOR = "stable_baselines3.common.monitor:Monitor"  # wraps every environment of make_vec_env; cannot be made again


class Lockstep(Protocol):
    """``count`` environments, reset and stepped together.

    `step` returns the observations that end episodes, not those of automatic resets. What follows the end of an episode
    until the next `reset` is no part of it.
    """

    count: int

    def reset(self, seed: int) -> Float[np.ndarray, "n observations"]:
        """Start an episode everywhere, from ``seed``, ``seed + 1`` and so on."""

    def step(self, actions: Float[np.ndarray, "n actions"]) -> Stepped:
        """Take a step everywhere."""


class Single:
    """One environment."""

    count = 1

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self.env = env

    def reset(self, seed: int) -> Float[np.ndarray, "1 observations"]:
        """Start an episode."""
        return np.asarray(interaction.reset(self.env, seed))[None]

    def step(self, actions: Float[np.ndarray, "1 actions"]) -> Stepped:
        """Take a step."""
        observation, reward, terminated, truncated = interaction.step(self.env, actions[0])
        return np.asarray(observation)[None], np.array([reward]), np.array([terminated]), np.array([truncated])


class GymnasiumVector:
    """A vector environment of gymnasium, however it resets."""

    def __init__(self, env: Any) -> None:
        self.env, self.count = env, int(env.num_envs)
        self._resets = getattr(env.metadata.get("autoreset_mode"), "name", "NEXT_STEP")

    def reset(self, seed: int) -> Float[np.ndarray, "n observations"]:
        """Start an episode everywhere."""
        return np.asarray(self.env.reset(seed=seed)[0])

    def step(self, actions: Float[np.ndarray, "n actions"]) -> Stepped:
        """Take a step everywhere."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        observations, rewards = np.array(observations), _rewards(self, rewards)
        terminated, truncated = np.array(terminated, dtype=bool), np.array(truncated, dtype=bool)
        done = terminated | truncated
        if done.any() and self._resets == "SAME_STEP":
            if "final_obs" not in info:
                raise InputError(f"{self.env} resets in the same step without final_obs", "gymnasium's final_obs")
            for i in np.flatnonzero(done):
                observations[i] = info["final_obs"][i]
        elif done.any() and self._resets == "DISABLED":
            self.env.reset(options={"reset_mask": done})
        return observations, rewards, terminated, truncated


class StableBaselinesVector:
    """A vector environment of Stable-Baselines3, which resets in the same step."""

    def __init__(self, env: Any) -> None:
        self.env, self.count = env, int(env.num_envs)

    def reset(self, seed: int) -> Float[np.ndarray, "n observations"]:
        """Start an episode everywhere."""
        self.env.seed(seed)
        return np.asarray(self.env.reset())

    def step(self, actions: Float[np.ndarray, "n actions"]) -> Stepped:
        """Take a step everywhere."""
        observations, rewards, dones, infos = self.env.step(actions)
        observations, dones = np.array(observations), np.array(dones, dtype=bool)
        truncated = dones & np.array([bool(info.get("TimeLimit.truncated")) for info in infos])
        for i in np.flatnonzero(dones):
            observations[i] = infos[i]["terminal_observation"]
        return observations, _rewards(self, rewards), dones & ~truncated, truncated


def _rewards(vector: GymnasiumVector | StableBaselinesVector, rewards: Any) -> Float[np.ndarray, " n"]:
    values = np.array(rewards, dtype=np.float64)
    if values.shape != (vector.count,):
        raise InputError(f"the rewards of {vector.env} have shape {values.shape}", f"({vector.count},)")
    return values


class VectorSource:
    """A vector environment, as the function that makes one environment like its first.

    Evaluations and the population use that one; soft actor-critic collects from ``vector``.

    Examples
    --------
    >>> source = VectorSource(gymnasium.make_vec("Pendulum-v1", num_envs=3))
    >>> source, source.vector.count, source().spec.id
    (Pendulum-v1 (3 at once), 3, 'Pendulum-v1')
    """

    def __init__(self, env: Any) -> None:
        ours = isinstance(env, gymnasium.vector.VectorEnv)
        _refuse_wrappers(env)
        space = env.single_observation_space if ours else env.observation_space
        if isinstance(space, spaces.Dict):
            raise InputError(
                "a vector environment whose observations are dictionaries",
                "environments wrapped in gymnasium.wrappers.FlattenObservation",
            )
        self.env = env
        self.vector: Lockstep | None = GymnasiumVector(env) if ours else StableBaselinesVector(env)
        self._spaces = space, env.single_action_space if ours else env.action_space
        self._make, name = _maker(env)
        self.__qualname__ = f"{name} ({env.num_envs} at once)"

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """Return a new environment."""
        env = gymnasium.make(self._make) if isinstance(self._make, EnvSpec) else self._make()
        if (env.observation_space, env.action_space) != self._spaces:
            seen, acts = self._spaces
            raise InputError(
                f"the first environment of {self}, made again, has {env.observation_space} and {env.action_space}",
                f"{seen} and {acts}",
            )
        return env

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "env": None, "vector": None}

    def __repr__(self) -> str:
        return self.__qualname__


def _refuse_wrappers(env: Any) -> None:
    """Refuse wrappers of vector environments that a single environment would lack."""
    while isinstance(env, gymnasium.vector.VectorWrapper) or hasattr(env, "venv"):
        if type(env).__name__ not in _HARMLESS:
            raise InputError(
                f"a vector environment in the wrapper {type(env).__name__}",
                "wrappers around each of its environments, which evaluations then have too; observations are "
                "normalised by the learner itself",
            )
        env = env.env if isinstance(env, gymnasium.vector.VectorWrapper) else env.venv


def _maker(env: Any) -> tuple[EnvSpec | Callable[[], gymnasium.Env[Any, Any]], str]:
    """Return how to make an environment like the first of a vector environment, and its name."""
    base = getattr(env, "unwrapped", env)
    single = hasattr(base, "get_attr")
    spec = copy.copy(base.get_attr("spec")[0] if single else getattr(base, "spec", None))
    if spec is not None:
        if not single:  # make_vec's spec of a vector environment that has no single ones
            spec.kwargs = {key: value for key, value in spec.kwargs.items() if key not in _OF_VECTORS}
            spec.max_episode_steps = spec.kwargs.pop("max_episode_steps", spec.max_episode_steps)
        spec.additional_wrappers = tuple(w for w in spec.additional_wrappers if w.entry_point != _MONITOR)
        return spec, spec.id
    if hasattr(base, "env_fns"):
        return base.env_fns[0], getattr(base.env_fns[0], "__qualname__", "own")
    raise InputError(
        f"{type(base).__name__}, whose environments cannot be made again",
        "environments made by gymnasium.make, or gymnasium.vector.SyncVectorEnv of functions that make them",
    )


def lockstep(source: Any, env: gymnasium.Env[Any, Any]) -> Lockstep:
    """Return what soft actor-critic collects from: a vector environment if there is one, else ``env``."""
    return source.vector if isinstance(source, VectorSource) and source.vector is not None else Single(env)
