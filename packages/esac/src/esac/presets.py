"""Settings by environment, each with its source, and the paper's public code's behaviour as far as it still runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esac.config import ESACConfig, changed

_CODE = "defaults and flags of ESAC's public code"
_OURS = "ours"


@dataclass(frozen=True)
class Preset:
    """What an environment is trained with.

    Parameters
    ----------
    steps
        Environment steps, where not asked otherwise. The public code's budgets count a horizon a generation: its
        million is up to twenty million steps of the population.
    settings
        Of `ESACConfig`, where they differ from the defaults.
    source
        Where they are from.
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
    "BipedalWalker": Preset(source="defaults of ESAC's public code, which names no flags of its own"),
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
"""By the environment's name without its version, and without dm_control's prefix."""

SB3_SAC: dict[str, Any] = {"mode": "sac", "start_steps": 100, "sac": {"auto_alpha": True, "alpha": 1.0}}
"""Stable-Baselines3's defaults of SAC, for a comparison of like with like."""

RELEASE: dict[str, Any] = {
    "mirrored": "forward",
    "crossover": "none",
    "amt_input": "ranks",
    "amt_apply": "gradient",
    "es_action": "clip",
    "step_counter": "generation",
}
"""See `release`."""


def preset(env: str) -> Preset:
    """Return an environment's preset: the defaults where it has none.

    Parameters
    ----------
    env
        Its name, with or without version, as ``HalfCheetah-v5`` or ``dm_control/cheetah-run-v0``.

    Returns
    -------
    Preset
        The preset.

    Examples
    --------
    >>> preset("Ant-v5").settings
    {'sac_episodes': 10, 'es_lr': 0.001}
    >>> preset("dm_control/walker-walk-v0").settings["sigma"]
    0.01
    """
    name = env.rpartition("/")[2]
    stem, mark, version = name.rpartition("-v")
    return PRESETS.get(stem if mark and version.isdigit() else name, Preset(source="defaults: no preset of its name"))


def release(config: ESACConfig | None = None) -> ESACConfig:
    """Return a configuration with what ESAC's public code does instead of what it means to, as far as that still runs.

    The second episode of a member is at its base, winners donate nothing, the mutation's tuning looks at ranks and
    reaches no mutation, the population's actions are clipped rather than squashed, and a generation counts as one
    horizon. Its faults that only crash or hang are not here.

    Parameters
    ----------
    config
        What to change; the defaults where not given.

    Returns
    -------
    ESACConfig
        The changed configuration.

    Examples
    --------
    >>> release().mirrored, release().crossover
    ('forward', 'none')
    """
    return changed(RELEASE, config)
