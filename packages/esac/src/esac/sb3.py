"""Stable-Baselines3's ways of saying things: arguments of its SAC, environments as objects, and its callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
from sextet_common.errors import InputError

from esac.config import ESACConfig, changed
from esac.play.environment import EnvSource
from esac.play.vector import VectorSource

POLICIES = ("MlpPolicy", "MultiInputPolicy")
"""Names of policies that are accepted; observations that are dictionaries are flattened for either."""
_SAC = {"learning_rate": "lr", "gamma": "gamma", "tau": "tau", "batch_size": "batch_size", "buffer_size": "capacity"}
_NAMES = (*_SAC, "learning_starts", "ent_coef")


class Existing:
    """An environment that exists, as the function that makes it; workers make theirs from its spec."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self.env: gymnasium.Env[Any, Any] | None = env
        self.spec = env.spec
        self.__qualname__ = f"{env.spec.id if env.spec else type(env.unwrapped).__name__} (an object)"

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """Return the environment, or a new one in a worker."""
        return gymnasium.make(self.spec) if self.env is None else self.env  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        if self.spec is None:
            raise TypeError("it was not made by gymnasium.make")
        return {"env": None, "spec": self.spec, "__qualname__": self.__qualname__}

    def __repr__(self) -> str:
        return self.__qualname__


def source(env: Any) -> EnvSource:
    """Return the name or the function that an argument `env` stands for."""
    if isinstance(env, gymnasium.Env):
        return Existing(env)
    if isinstance(env, gymnasium.vector.VectorEnv) or hasattr(env, "num_envs"):
        return VectorSource(env)
    if not isinstance(env, str) and not callable(env):
        raise InputError(f"the environment {env!r}", "a name, an environment, or a function that makes one")
    named: EnvSource = env
    return named


def configured(
    config: ESACConfig | None, policy_kwargs: Mapping[str, Any] | None, arguments: Mapping[str, Any]
) -> ESACConfig:
    """Return a configuration with what arguments of Stable-Baselines3's SAC say.

    Examples
    --------
    >>> config = configured(None, {"net_arch": [64, 64]}, {"learning_rate": 1e-3, "ent_coef": "auto"})
    >>> config.hidden, config.sac.lr, config.sac.auto_alpha
    ((64, 64), 0.001, True)
    """
    values, sac = dict(arguments), {}
    unknown = sorted(set(values) - set(_NAMES)) + sorted(set(policy_kwargs or {}) - {"net_arch"})
    if unknown:
        raise InputError(
            f"unknown argument {unknown[0]!r}", f"a field of ESACConfig in config, {', '.join(_NAMES)}, or net_arch"
        )
    for theirs, ours in _SAC.items():
        if theirs in values:
            sac[ours] = values[theirs]
    if "ent_coef" in values:
        word, _, start = str(values["ent_coef"]).partition("_")
        number = start or ("1.0" if word == "auto" else word)
        try:
            sac |= {"auto_alpha": word == "auto", "alpha": float(number)}
        except ValueError:
            raise InputError(f"ent_coef is {values['ent_coef']!r}", "a number, auto or auto_0.1") from None
    settings: dict[str, Any] = {"sac": sac} if sac else {}
    if "learning_starts" in values:
        settings["start_steps"] = values["learning_starts"]
    if policy_kwargs:
        settings["hidden"] = policy_kwargs["net_arch"]
    return changed(settings, config)


class StepCallback:
    """One of Stable-Baselines3's callbacks, called as often as environment steps were taken, after each generation."""

    def __init__(self, callback: Any, model: Any) -> None:
        self.callback = callback
        callback.init_callback(model)
        callback.on_training_start({"self": model}, {})
        self._steps = model.num_timesteps

    def __call__(self, model: Any, generation: Any) -> bool:
        """Return whether to continue."""
        on = True
        while on and self._steps < model.num_timesteps:
            self._steps += 1
            on = bool(self.callback.on_step())
        return on


class Logger:
    """What Stable-Baselines3's callbacks record; the last values, by name."""

    def __init__(self) -> None:
        self.name_to_value: dict[str, Any] = {}

    def record(self, key: str, value: Any, exclude: Any = None) -> None:
        """Keep a value."""
        self.name_to_value[key] = value

    def dump(self, step: int = 0) -> None:
        """Do nothing: `ESAC.learn` logs by itself."""


class Lines:
    """Prints a line for every so many evaluations: the callback of ``verbose=1``."""

    def __init__(self, every: int = 1) -> None:
        self.every = every

    def __call__(self, model: Any, generation: Any) -> None:
        """Print the last evaluation if it is new."""
        done = len(model.evaluations.when)
        if "eval/best_mean_reward" in generation.values and done % self.every == 0:
            means = {k.split("/")[1]: v for k, v in generation.values.items() if k.startswith("eval/") and "_mean" in k}
            print(f"{model.num_timesteps} steps: " + ", ".join(f"{name} {value:.1f}" for name, value in means.items()))


def callbacks(given: Any, model: Any) -> list[Callable[[Any, Any], bool | None]]:
    """Return a callback, a list of callbacks or None as a list, with Stable-Baselines3's adapted."""
    each = given if isinstance(given, Sequence) else [] if given is None else [given]
    return [StepCallback(one, model) if hasattr(one, "init_callback") else one for one in each]
