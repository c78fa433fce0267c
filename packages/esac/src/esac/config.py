"""Settings of ESAC."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from sextet_common import checks
from sextet_common.checks import Count, Natural, NonNegative, Positive, Running, Share
from sextet_common.errors import InputError
from sextet_common.options import Advanced

from esac.play.policy import ActionMap
from esac.play.rollout import OnNan
from esac.sac.config import SACConfig

Mode = Literal["esac", "es", "sac"]
Store = Literal["none", "injected", "all"]
Selection = Literal["top", "softmax"]
Crossover = Literal["row", "neuron", "none"]
Method = Literal["ars", "openai", "pgpe", "cma"]
Ascent = Literal["adam", "sgd", "clipup"]
Shaping = Literal["returns", "ranks"]

_ASCENTS: dict[Method, Ascent] = {"ars": "sgd", "openai": "adam", "pgpe": "clipup", "cma": "sgd"}


@dataclasses.dataclass(frozen=True)
class ESACConfig:
    """Settings of ESAC.

    The defaults are those that were measured to work; `esac.presets.paper` returns those of the paper's public code.
    Settings marked ``Running`` may differ when a run is resumed.
    """

    mode: Mode = "esac"
    """esac, or one of its halves: es (no gradients), sac (no population)."""
    es_method: Method = "ars"
    """How the mean moves: ars (augmented random search), openai (ranks and Adam), pgpe, or cma (CMA-ES)."""
    es_hidden: tuple[Count, ...] = ()
    """Units of the hidden layers of the population's policies; without any they are linear."""
    es_bias: Advanced[bool] = True
    """Whether linear policies have biases; in augmented random search they have none."""
    normalize: bool = True
    """Normalise observations by their running mean and standard deviation, for the population and soft actor-critic."""
    population: Count = 4
    """Mirrored pairs in a generation, that is half the number of its candidates."""
    es_top: Advanced[Count | None] = None
    """Pairs that move the mean, those with the best return first; by default all. For shaping by returns."""
    es_episodes: Advanced[Count] = 1
    """Episodes of a candidate, whose mean return counts."""
    reward_shift: Advanced[NonNegative] = 0.0
    """Subtracted from every reward of the population, such as a bonus for being alive; reported returns have it."""
    sigma: Positive = 0.03
    """Standard deviation of the mutations; its initial value for pgpe and cma."""
    es_lr: Positive = 0.02
    """Learning rate of the mean."""
    es_shaping: Advanced[Literal["auto", "returns", "ranks"]] = "auto"
    """Differences that move the mean: of returns, over their standard deviation, or of ranks; auto: returns for ars."""
    es_optimizer: Advanced[Literal["auto", "adam", "sgd", "clipup"]] = "auto"
    """Ascent of the mean; auto: sgd for ars, adam for openai, clipup for pgpe."""
    es_std_lr: Advanced[NonNegative] = 0.1
    """Learning rate of the standard deviations of pgpe."""
    elite: Advanced[Share] = 0.4
    """Share of the population whose bases are crossed with the last generation's winners."""
    injected: Natural = 0
    """Members that are the gradient-trained policy. Crossover, es_gradient all and store use them; without any of these
    they only take evaluations from the others."""
    l2: Advanced[NonNegative] = 0.0
    """Weight decay of the mean."""
    crossover: Advanced[Crossover] = "none"
    """row, neuron or none."""
    selection: Advanced[Selection] = "top"
    """How winners are chosen: top, or softmax (not specified in the paper)."""
    temperature: Advanced[Positive] = 1.0
    """Temperature of softmax; lower values are closer to top."""
    mirrored: Advanced[Literal["antithetic", "forward"]] = "antithetic"
    """A member's second episode: with the opposite noise, or at the base itself (a bug of the public code)."""
    es_gradient: Advanced[Literal["all", "mean"]] = "mean"
    """Members whose mutations move the mean: all, as in the public code, or only those around the mean itself."""
    es_action: Advanced[ActionMap] = "tanh"
    """How the population acts: tanh, like the gradient-trained policy, linear (clipped to the bounds), or clip, which
    does not scale (public code)."""
    amt_every: Advanced[Natural] = 0
    """Generations between two tunings of the mutation; 0 disables it."""
    amt_clip: Advanced[NonNegative] = 1e-4
    """Largest increase of sigma by one tuning."""
    amt_input: Advanced[Literal["returns", "ranks"]] = "returns"
    """What a tuning uses: the returns, or their ranks, whose gap is constant (public code)."""
    amt_apply: Advanced[Literal["both", "gradient"]] = "both"
    """Where the tuned sigma is used: in mutations and gradient, or in the gradient alone (public code)."""
    sigma_max: Advanced[Positive] = 0.1
    """Largest sigma."""
    store: Advanced[Store] = "none"
    """Members whose transitions are stored for the critics: none, injected or all."""
    transfer: Advanced[Literal["none", "both"]] = "none"
    """Replace the mean or the gradient-trained policy by the other one where that is better by its training episodes:
    copied if their layers agree, else cloned on stored observations (not specified in the paper)."""
    sac_schedule: Advanced[Literal["annealed", "adaptive"]] = "adaptive"
    """When gradients learn: adaptive gives most of the time to the side that raises the better policy's return (not
    specified in the paper); annealed is the paper's probability, by sac_every, sac_least and sac_decay."""
    sac_cost: Advanced[Positive] = 100.0
    """Steps of the population that take the time of one step of gradient-based learning, for the adaptive schedule:
    about 60 with networks of 64 x 64 units and 150 with 256 x 256."""
    sac_every: Count = 5
    """Generations between two chances of gradient-based learning."""
    sac_least: Advanced[Share] = 0.1
    """Final probability of taking such a chance."""
    sac_decay: Advanced[Positive] = 1.2e6
    """Counted steps in which that probability decays towards its final value by a factor of e."""
    step_counter: Advanced[Literal["env", "generation"]] = "env"
    """Steps that total_steps and sac_decay count: all environment steps, or one horizon a generation (public code)."""
    sac_episodes: Count = 5
    """Episodes of the gradient-trained policy in each such generation."""
    updates_per_step: NonNegative = 1.0
    """Updates for each step of these episodes."""
    start_steps: Natural = 10_000
    """First steps of these episodes, taken at random."""
    sac: SACConfig = dataclasses.field(default_factory=SACConfig)
    """Settings of soft actor-critic."""
    hidden: tuple[Count, ...] = (256, 256)
    """Units of the hidden layers of the gradient-trained policy and of the critics."""
    on_nan: Advanced[OnNan] = "penalise"
    """What non-finite numbers of an environment do: penalise the episode, or raise."""
    most_failed: Advanced[Running[Share]] = 0.5
    """Largest share of a generation's episodes that may fail before the run stops."""
    horizon: Advanced[Count | None] = None
    """Steps after which an episode is truncated; by default the environment's limit, or 10,000 if it has none."""
    eval_every: Count = 10_000
    """Environment steps between two evaluations; the first one follows the first generation."""
    eval_episodes: Count = 10
    """Episodes of an evaluation."""
    checkpoint_every: Running[Count] = 50_000
    """Counted steps between two checkpoints: a kill loses at most these and one generation."""
    workers: Running[Natural] = 0
    """Workers that evaluate the population; 0 evaluates in this process."""
    engine: Running[Literal["processes", "batch", "ray"]] = "processes"
    """What workers are: processes, threads that step many members at once (batch; gymnasium's MuJoCo v5 tasks only), or
    actors of a Ray cluster (extra ray)."""
    threads: Running[Count] = 1
    """Threads of torch: a second one helps networks of this size little, and is very slow on a busy machine."""
    timeout: Advanced[Running[Positive]] = 600.0
    """Seconds that an episode may take in a worker."""
    recycle: Advanced[Running[Natural]] = 0
    """Episodes after which a worker process is replaced, for environments that leak memory; 0 disables it."""

    def __post_init__(self) -> None:
        checks.check_fields(self)
        crossed = self.winners if self.crossover != "none" else 0
        if crossed + self.gradient_members > self.population:
            raise InputError(
                f"{crossed} crossed and {self.gradient_members} injected members of {self.population}",
                "elite * population + injected <= population",
            )
        if self.es_hidden and not self.es_bias:
            raise InputError(f"es_bias off with es_hidden {self.es_hidden}", "es_hidden (), or es_bias on")
        if self.es_top is not None and self.es_top > self.population:
            raise InputError(f"es_top is {self.es_top}", f"at most the population, {self.population}")
        plain = (crossed, self.gradient_members, self.amt_every, self.mirrored) == (0, 0, 0, "antithetic")
        if self.es_method in ("pgpe", "cma") and not plain:
            raise InputError(
                f"es_method {self.es_method} with crossover, injected members, mutation tuning or one-sided mutations",
                "es_method ars or openai, or crossover none, injected 0, amt_every 0 and mirrored antithetic",
            )

    @property
    def shaping(self) -> Shaping:
        """The shaping that ``es_shaping`` means."""
        if self.es_shaping != "auto":
            return self.es_shaping
        return "returns" if self.es_method == "ars" else "ranks"

    @property
    def ascent(self) -> Ascent:
        """The ascent that ``es_optimizer`` means."""
        return _ASCENTS[self.es_method] if self.es_optimizer == "auto" else self.es_optimizer

    @property
    def winners(self) -> int:
        """Number of winners, and of the bases that they are crossed with."""
        return int(self.elite * self.population)

    @property
    def gradient_members(self) -> int:
        """Number of members that are the gradient-trained policy."""
        return self.injected if self.mode == "esac" else 0


def changed(settings: dict[str, Any], config: ESACConfig | None = None) -> ESACConfig:
    """Return a configuration, by default the default one, with some settings changed.

    Parameters
    ----------
    settings
        Plain values, as a file or a run folder records them; those of soft actor-critic under "sac".

    Examples
    --------
    >>> changed({"population": 4, "injected": 1, "sac": {"gamma": 0.9}}).sac.gamma
    0.9
    """
    config = config or ESACConfig()
    values = _known(settings, ESACConfig)
    if "sac" in values and not isinstance(values["sac"], SACConfig):
        values["sac"] = dataclasses.replace(config.sac, **_known(values["sac"], SACConfig))
    for name in ("hidden", "es_hidden"):
        if name in values:
            values[name] = tuple(values[name])
    return dataclasses.replace(config, **values)


def _known(settings: dict[str, Any], kind: type[ESACConfig] | type[SACConfig]) -> dict[str, Any]:
    unknown = sorted(set(settings) - {f.name for f in dataclasses.fields(kind)})
    if unknown:
        raise InputError(f"unknown setting {unknown[0]!r}", f"a field of {kind.__name__}")
    return dict(settings)
