"""ESAC's settings."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from sextet_common.errors import InputError

from esac import evolution
from esac.rollout import OnNan
from esac.sac import SACConfig

Mode = Literal["esac", "es", "sac"]
Store = Literal["none", "injected", "all"]


@dataclasses.dataclass(frozen=True)
class ESACConfig:
    """ESAC's settings; the defaults are those of the paper's public code, with its mistakes mended."""

    mode: Mode = "esac"
    """esac, or one of its halves: es (no gradients), sac (no population)."""
    population: int = 10
    """Mirrored pairs in a generation: twice as many episodes."""
    elite: float = 0.4
    """Share of the population whose bases are crossed with the last generation's winners."""
    injected: int = 4
    """Members that are the gradient-trained policy."""
    sigma: float = 0.005
    """Deviation of the mutations."""
    es_lr: float = 0.005
    """Learning rate of the mean."""
    es_optimizer: evolution.Optimizer = "adam"
    """adam or sgd."""
    l2: float = 0.0
    """Weight decay of the mean."""
    crossover: evolution.Crossover = "row"
    """row, neuron or none."""
    selection: evolution.Selection = "top"
    """Of winners: top, or softmax (ours)."""
    es_gradient: Literal["all", "mean"] = "all"
    """Whose mutations move the mean: all members', as in the public code, or only those around the mean itself."""
    amt_every: int = 20
    """Generations between two tunings of the mutation; 0 for none."""
    amt_clip: float = 1e-4
    """The most that a tuning adds."""
    sigma_max: float = 0.1
    """The largest deviation."""
    store: Store = "none"
    """Whose transitions of the population are kept for the critics: none, injected or all."""
    sync: bool = False
    """Take the mean into the gradient-trained policy where it is better (ours)."""
    sac_every: int = 5
    """Generations between two chances of gradient-based learning."""
    sac_least: float = 0.1
    """The probability of taking such a chance, in the end."""
    sac_decay: float = 1.2e6
    """Environment steps in which that probability falls to a third of its way from 1."""
    sac_episodes: int = 5
    """Episodes of the gradient-trained policy each time."""
    updates_per_step: float = 1.0
    """Updates for each step of these episodes."""
    start_steps: int = 10_000
    """Steps of these episodes that are taken by chance, at first."""
    sac: SACConfig = dataclasses.field(default_factory=SACConfig)
    """Soft actor-critic's own settings."""
    hidden: tuple[int, ...] = (256, 256)
    """Units of the hidden layers."""
    on_nan: OnNan = "penalise"
    """What becomes of episodes with numbers that are none: penalise or raise."""
    most_failed: float = 0.5
    """Share of a generation's episodes that may fail before the run stops."""
    eval_every: int = 10
    """Generations between two evaluations."""
    eval_episodes: int = 10
    """Episodes of an evaluation."""
    checkpoint_every: int = 10
    """Generations between two checkpoints."""
    workers: int = 0
    """Processes that evaluate the population: 0 for this one alone."""
    timeout: float = 600.0
    """Seconds that an episode may take in a worker."""

    def __post_init__(self) -> None:
        for name in ("population", "sac_every", "sac_episodes", "eval_every", "eval_episodes", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", "a whole number >= 1")
        for name in ("injected", "amt_every", "start_steps", "workers"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}", "a whole number >= 0")
        for name in ("elite", "sac_least", "most_failed"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}", "a share in [0, 1]")
        for name in ("sigma", "es_lr", "sac_decay", "sigma_max"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}", "a number > 0")
        if self.winners + self.gradient_members > self.population:
            raise InputError(
                f"{self.winners} crossed and {self.gradient_members} injected members of {self.population}",
                "elite * population + injected <= population",
            )

    @property
    def winners(self) -> int:
        """How many winners donate, and how many bases they are crossed with."""
        return int(self.elite * self.population)

    @property
    def gradient_members(self) -> int:
        """How many members are the gradient-trained policy."""
        return self.injected if self.mode == "esac" else 0


def config_from(table: dict[str, Any]) -> ESACConfig:
    """Build a configuration from what a file or a run folder recorded.

    Raises
    ------
    InputError
        Where a setting is unknown.
    """
    known = {f.name for f in dataclasses.fields(ESACConfig)}
    unknown = sorted(set(table) - known)
    if unknown:
        raise InputError(f"the setting {unknown[0]!r}", "those of ESACConfig")
    values = dict(table)
    if "sac" in values:
        values["sac"] = SACConfig(**values["sac"])
    if "hidden" in values:
        values["hidden"] = tuple(values["hidden"])
    return ESACConfig(**values)
