"""Settings by environment with their sources, and the behaviour of the paper's public code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esac.config import ESACConfig, changed

_CODE = "defaults and flags of ESAC's public code"
_OURS = "not specified in the paper: chosen here"


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
    """

    steps: int = 1_000_000
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = _CODE


def _dm_control(episodes: int) -> Preset:
    return Preset(1_000_000, {"es_lr": 0.01, "sigma": 0.01, "sac_episodes": episodes}, _CODE)


PRESETS = {
    "HalfCheetah": Preset(),
    "LunarLanderContinuous": Preset(),
    "InvertedDoublePendulum": Preset(),
    "Humanoid": Preset(5_000_000),
    "Ant": Preset(1_000_000, {"sac_episodes": 10, "es_lr": 0.001}),
    "Walker2d": Preset(1_000_000, {"sac_episodes": 10}),
    "Swimmer": Preset(1_000_000, {"sac_episodes": 1, "injected": 1}),
    "Hopper": Preset(2_000_000, {"sac_episodes": 10}),
    "Reacher": Preset(2_000_000),
    "BipedalWalker": Preset(source="defaults of ESAC's public code, which lists no flags for it"),
    "InvertedPendulum": Preset(
        60_000,
        {"hidden": (64, 64), "population": 3, "elite": 0.34, "injected": 1, "sigma": 0.05, "es_lr": 0.02,
         "sac_every": 1, "start_steps": 300, "sac_episodes": 5, "eval_every": 2000, "store": "all",
         "sac": {"auto_alpha": True, "alpha": 1.0, "lr": 1e-3}},
        _OURS,
    ),
    "Pendulum": Preset(
        30_000,
        {"sac_every": 1, "start_steps": 1000, "eval_every": 2000, "sigma": 0.02, "es_lr": 0.01, "population": 4,
         "injected": 1, "elite": 0.25, "sac": {"auto_alpha": True, "alpha": 1.0, "lr": 1e-3}},
        _OURS,
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

SB3_SAC: dict[str, Any] = {"mode": "sac", "start_steps": 100, "sac": {"auto_alpha": True, "alpha": 1.0}}
"""Stable-Baselines3's defaults of SAC, for a fair comparison."""

RELEASE: dict[str, Any] = {
    "mirrored": "forward", "crossover": "none", "amt_input": "ranks", "amt_apply": "gradient", "es_action": "clip",
    "step_counter": "generation",
}  # fmt: skip
"""Settings of `release`."""


def preset(env: str) -> Preset:
    """Return the preset of an environment, named with or without version; the defaults if it has none.

    Examples
    --------
    >>> preset("Ant-v5").settings
    {'sac_episodes': 10, 'es_lr': 0.001}
    >>> preset("dm_control/walker-walk-v0").settings["sigma"]
    0.01
    """
    name = env.rpartition("/")[2]
    stem, mark, version = name.rpartition("-v")
    return PRESETS.get(stem if mark and version.isdigit() else name, Preset(source="defaults: no preset of this name"))


def release(config: ESACConfig | None = None) -> ESACConfig:
    """Return a configuration, by default the default one, that reproduces the bugs of ESAC's public code.

    The second episode of a member is at its base, winners do not donate, the tuning of the mutation uses ranks and does
    not reach the mutations, the population's actions are clipped rather than squashed, and a generation counts as one
    horizon. Bugs that only crash or hang are not reproduced.

    Examples
    --------
    >>> release().mirrored, release().crossover
    ('forward', 'none')
    """
    return changed(RELEASE, config)
