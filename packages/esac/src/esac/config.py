"""ESAC's settings."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from sextet_common.errors import InputError

from esac import evolution
from esac.policy import ActionMap
from esac.rollout import OnNan
from esac.sac import SACConfig

Mode = Literal["esac", "es", "sac"]
Store = Literal["none", "injected", "all"]
_WORDS = {
    "mode": ("esac", "es", "sac"), "es_optimizer": ("adam", "sgd", "clipup"), "crossover": ("row", "neuron", "none"),
    "selection": ("top", "softmax"), "mirrored": ("antithetic", "forward"), "es_gradient": ("all", "mean"),
    "es_action": ("tanh", "clip"), "amt_input": ("returns", "ranks"), "amt_apply": ("both", "gradient"),
    "store": ("none", "injected", "all"), "step_counter": ("env", "generation"), "on_nan": ("penalise", "raise"),
    "engine": ("processes", "ray"),
}  # fmt: skip


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
    """adam, sgd, or clipup."""
    l2: float = 0.0
    """Weight decay of the mean."""
    crossover: evolution.Crossover = "row"
    """row, neuron or none."""
    selection: evolution.Selection = "top"
    """Of winners: top, or softmax (ours)."""
    temperature: float = 1.0
    """Of softmax: the smaller, the nearer to top."""
    mirrored: Literal["antithetic", "forward"] = "antithetic"
    """A member's second episode: at the opposite noise, or at the base itself, as the public code has it by mistake."""
    es_gradient: Literal["all", "mean"] = "all"
    """Whose mutations move the mean: all members', as in the public code, or only those around the mean itself."""
    es_action: ActionMap = "tanh"
    """How the population acts: tanh, as the gradient-trained policy does, or the public code's clip."""
    amt_every: int = 20
    """Generations between two tunings of the mutation; 0 for none."""
    amt_clip: float = 1e-4
    """The most that a tuning adds."""
    amt_input: Literal["returns", "ranks"] = "returns"
    """What a tuning looks at: the returns, or the public code's ranks, whose gap is always the same."""
    amt_apply: Literal["both", "gradient"] = "both"
    """Where the tuned deviation is used: in mutations and in the gradient, or in the gradient alone (public code)."""
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
    """Counted steps in which that probability's distance from its end falls to 1/e."""
    step_counter: Literal["env", "generation"] = "env"
    """What total_steps and sac_decay count: every environment step, or the public code's one horizon a generation."""
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
    eval_every: int = 10_000
    """Environment steps between two evaluations; the first comes after the first generation."""
    eval_episodes: int = 10
    """Episodes of an evaluation."""
    checkpoint_every: int = 50_000
    """Environment steps between two checkpoints: the most, with a generation, that a kill loses."""
    workers: int = 0
    """Processes that evaluate the population: 0 for this one alone."""
    engine: Literal["processes", "ray"] = "processes"
    """Where workers are: processes of this machine, or actors of a Ray cluster (extra ray)."""
    threads: int = 1
    """Threads of torch: networks of this size gain little by a second one, and on a busy machine lose all."""
    timeout: float = 600.0
    """Seconds that an episode may take in a worker."""

    def __post_init__(self) -> None:
        for name in ("population", "sac_every", "sac_episodes", "eval_every", "eval_episodes", "checkpoint_every",
                     "threads"):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", "a whole number >= 1")
        for name in ("injected", "amt_every", "start_steps", "workers"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}", "a whole number >= 0")
        for name in ("elite", "sac_least", "most_failed"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}", "a share in [0, 1]")
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise InputError(f"{name} is {getattr(self, name)!r}", " or ".join(words))
        for name in ("sigma", "es_lr", "sac_decay", "sigma_max", "temperature", "timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}", "a number > 0")
        for name in ("l2", "amt_clip", "updates_per_step"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}", "a number >= 0")
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(f"hidden is {self.hidden}", "whole numbers >= 1, one a layer")
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


def changed(settings: dict[str, Any], config: ESACConfig | None = None) -> ESACConfig:
    """Return a configuration with some settings changed, soft actor-critic's own under "sac".

    Parameters
    ----------
    settings
        Plain values, as a file or a run folder records them.
    config
        What to change; the defaults where not given.

    Returns
    -------
    ESACConfig
        The changed configuration.

    Raises
    ------
    InputError
        Where a setting is unknown or out of range.

    Examples
    --------
    >>> changed({"population": 4, "injected": 1, "sac": {"gamma": 0.9}}).sac.gamma
    0.9
    """
    config = config or ESACConfig()
    values = _known(settings, ESACConfig)
    if "sac" in values and not isinstance(values["sac"], SACConfig):
        values["sac"] = dataclasses.replace(config.sac, **_known(values["sac"], SACConfig))
    if "hidden" in values:
        values["hidden"] = tuple(values["hidden"])
    return dataclasses.replace(config, **values)


def _known(settings: dict[str, Any], kind: type[ESACConfig] | type[SACConfig]) -> dict[str, Any]:
    unknown = sorted(set(settings) - {f.name for f in dataclasses.fields(kind)})
    if unknown:
        raise InputError(f"the setting {unknown[0]!r}", f"those of {kind.__name__}")
    return dict(settings)
