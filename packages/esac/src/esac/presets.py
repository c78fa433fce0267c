"""Settings by environment with their sources, and the behaviour of the paper's public code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esac.config import ESACConfig, changed

_CODE = "steps and flags of ESAC's public code; population: defaults of this package"
_OURS = "chosen here by measurements"
_ARS = "reward shift of the public code of ARS, flags of ESAC's; population: defaults of this package"


@dataclass(frozen=True)
class Preset:
    """Training settings of an environment.

    Attributes
    ----------
    steps
        Environment steps. The public code counts one horizon per generation: its million steps are up to twenty
        million steps of the population.
    settings
        Fields of `ESACConfig` that differ from the defaults.
    source
        Origin of the settings.
    paper
        Fields that differ from those of `paper`, after the flags of ESAC's public code.
    """

    steps: int = 1_000_000
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = _CODE
    paper: dict[str, Any] = field(default_factory=dict)


def _dm_control(episodes: int) -> Preset:
    flags = {"sac_episodes": episodes}
    return Preset(1_000_000, flags, _CODE, {**flags, "es_lr": 0.01, "sigma": 0.01})


_TEN: dict[str, Any] = {"sac_episodes": 10}
_AUTO: dict[str, Any] = {"auto_alpha": True, "alpha": 1.0, "lr": 1e-3}

PRESETS = {
    "HalfCheetah": Preset(),
    "LunarLanderContinuous": Preset(),
    "InvertedDoublePendulum": Preset(1_000_000, {"es_method": "cma", "population": 6, "sigma": 0.5}, _OURS),
    "Humanoid": Preset(5_000_000, {"reward_shift": 5.0}, _ARS),
    "Ant": Preset(1_000_000, {**_TEN, "reward_shift": 1.0}, _ARS, {**_TEN, "es_lr": 0.001}),
    "Walker2d": Preset(1_000_000, {**_TEN, "reward_shift": 1.0}, _ARS, _TEN),
    "Hopper": Preset(2_000_000, {**_TEN, "reward_shift": 1.0}, _ARS, _TEN),
    "Swimmer": Preset(
        400_000,
        {"sigma": 0.05, "es_lr": 0.03, "es_action": "linear", "es_bias": False, "sac_episodes": 1,
         "eval_every": 40_000, "eval_episodes": 5},
        _OURS, {"sac_episodes": 1, "injected": 1},
    ),
    "MountainCarContinuous": Preset(
        24_000, {"sigma": 1.0, "es_lr": 0.5, "population": 2, "sac_episodes": 1, "eval_every": 5000}, _OURS
    ),
    "Reacher": Preset(2_000_000),
    "BipedalWalker": Preset(source="defaults: ESAC's public code lists no flags for it"),
    "InvertedPendulum": Preset(
        22_000,
        {"sigma": 0.1, "es_lr": 0.1, "hidden": (64, 64), "start_steps": 300, "eval_every": 5000, "sac": _AUTO}, _OURS,
    ),
    "Pendulum": Preset(
        30_000, {"start_steps": 1000, "eval_every": 2000, "sigma": 0.3, "es_lr": 0.2, "sac": _AUTO}, _OURS,
    ),
    "cheetah-run": _dm_control(1),
    "acrobot-swingup": _dm_control(1),
    "quadruped-walk": _dm_control(1),
    "quadruped-run": _dm_control(1),
    "fish-upright": _dm_control(1),
    "fish-swim": _dm_control(1),
    "cartpole-swingup": _dm_control(5),
    "walker-walk": _dm_control(5),
    "walker-run": _dm_control(5),
}  # fmt: skip
"""Presets by the name of the environment without version and dm_control prefix."""

SB3_SAC: dict[str, Any] = {
    "mode": "sac", "normalize": False, "start_steps": 100, "sac": {"auto_alpha": True, "alpha": 1.0},
}  # fmt: skip
"""Stable-Baselines3's defaults of SAC, for a fair comparison."""

PAPER: dict[str, Any] = {
    "es_method": "openai", "es_hidden": (256, 256), "normalize": False, "population": 10, "sigma": 0.005,
    "es_lr": 0.005, "injected": 4, "crossover": "row", "es_gradient": "all", "amt_every": 20,
    "sac_schedule": "annealed",
}  # fmt: skip
"""Settings of `paper`."""

RELEASE: dict[str, Any] = {
    "mirrored": "forward", "crossover": "none", "amt_input": "ranks", "amt_apply": "gradient", "es_action": "clip",
    "step_counter": "generation",
}  # fmt: skip
"""Settings of `release`."""

COMPATIBILITY: dict[str, dict[str, Any]] = {"none": {}, "paper": PAPER, "release": {**PAPER, **RELEASE}}
"""Settings by the values of the option ``--compat``."""


def preset(env: str) -> Preset:
    """Return the preset of an environment, named with or without version; the defaults if it has none.

    Examples
    --------
    >>> preset("Ant-v5").settings
    {'sac_episodes': 10, 'reward_shift': 1.0}
    >>> preset("dm_control/walker-walk-v0").paper["sigma"]
    0.01
    """
    name = env.rpartition("/")[2]
    stem, mark, version = name.rpartition("-v")
    return PRESETS.get(stem if mark and version.isdigit() else name, Preset(source="defaults: no preset of this name"))


def paper() -> ESACConfig:
    """Return the configuration of ESAC's public code as it is meant.

    Ranks and Adam move a mean of 256 x 256 units, winners are crossed with it, and the mutation is tuned.

    Examples
    --------
    >>> paper().crossover, paper().amt_every
    ('row', 20)
    """
    return changed(PAPER)


def release(config: ESACConfig | None = None) -> ESACConfig:
    """Return a configuration, by default `paper`, with the bugs of ESAC's public code.

    The second episode of a member is at its base, winners do not donate, the tuning of the mutation uses ranks and does
    not reach the mutations, the population's actions are clipped rather than squashed, and a generation counts as one
    horizon. Bugs that only crash or hang are not reproduced.

    Examples
    --------
    >>> release().mirrored, release().crossover
    ('forward', 'none')
    """
    return changed(RELEASE, config or paper())
