"""The parts of a learner, and everything that learning resumes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import torch
from sextet_common import checks, runs
from sextet_common.errors import InputError
from sextet_common.seeding import generator

from esac.config import ESACConfig
from esac.es.population import Population
from esac.evaluation import Best, Evaluation
from esac.play.environment import EnvSource
from esac.play.task import Evaluator, Job
from esac.results.outputs import Evaluations
from esac.sac.collect import Collector
from esac.sac.replay import Replay
from esac.sac.update import SAC

_COUNTERS = ("generation", "steps", "episodes", "seconds", "cpu_seconds")
_NUMBERS = (*_COUNTERS, "sac_steps", "updates", "sigma")


class Learner:
    """Population, soft actor-critic, replay buffer, evaluations and counters.

    Attributes
    ----------
    generation, steps, episodes
        Generations, environment steps and episodes so far, of population and gradient-based learning alike.
    seconds, cpu_seconds
        Time of learning, without evaluations.
    sampling
        Generator of the actions that `ESAC.predict` samples.
    """

    def __init__(
        self,
        env: EnvSource,
        config: ESACConfig | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
        options: dict[str, Any] | None = None,
    ) -> None:
        checks.check("seed", seed, checks.Natural)
        self.config, self.seed, self.device = config or ESACConfig(), int(seed), device
        config, seed = self.config, self.seed
        self.job = Job(env, dict(options or {}), config.hidden, seed, config.on_nan, action=config.es_action)
        evaluator = Evaluator(self.job)
        self.env, self.shape, self.horizon = evaluator.env, evaluator.policy.shape, evaluator.horizon
        space = self.env.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        self.population = Population(self.shape, config, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator(seed, "sac").integers(2**31)))
            self.sac = SAC(self.shape, space.low, space.high, config.sac, device)
        self.replay = Replay(config.sac.capacity, self.shape.observations, self.shape.actions)
        self.collector = Collector(
            self.env, self.sac, self.replay, seed, updates_per_step=config.updates_per_step,
            start_steps=config.start_steps, on_nan=config.on_nan,
        )  # fmt: skip
        self.evaluation = Evaluation(self.env, self.population, self.sac, config, seed)
        self.sampling = torch.Generator(self.sac.device).manual_seed(seed)
        self.generation = self.steps = self.episodes = 0
        self.seconds = self.cpu_seconds = 0.0

    @property
    def counted(self) -> int:
        """Steps as ``step_counter`` counts them."""
        return self.steps if self.config.step_counter == "env" else self.generation * self.horizon

    @property
    def best(self) -> Best:
        """The policy with the highest mean return in any evaluation so far."""
        return self.evaluation.best

    @property
    def evaluations(self) -> Evaluations:
        """All evaluations so far."""
        return self.evaluation.history

    def record(self) -> dict[str, Any]:
        """Return what a run folder and a saved learner record: environment, seed and settings."""
        name = self.job.env if isinstance(self.job.env, str) else getattr(self.job.env, "__qualname__", "own")
        return {"env": name, "options": self.job.options, "seed": self.seed, "config": runs.to_json(self.config)}

    def state(self, *, replay: bool = True) -> dict[str, Any]:
        """Return everything that learning resumes from as arrays, tensors and plain values.

        Without the transitions (``replay=False``) learning can go on, but not to the same numbers.
        """
        parts: dict[str, Mapping[str, Any]] = {"population": self.population.state(), "sac": self.sac.state()}
        if replay:
            parts["replay"] = self.replay.state()
        arrays = {f"{name}.{key}": array for name, part in parts.items() for key, array in part.items()}
        numbers = {
            **{name: getattr(self, name) for name in _COUNTERS},
            "sac_steps": self.collector.steps, "updates": self.collector.updates, "sigma": self.population.sigma,
        }  # fmt: skip
        return {**arrays, **self.evaluation.state(), **numbers}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned for the same settings; arrays may be tensors."""
        self._check(state)
        state = {k: v.numpy() if torch.is_tensor(v) and not k.startswith("sac.") else v for k, v in state.items()}
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.collector.steps, self.collector.updates = state["sac_steps"], state["updates"]
        self.population.load_state(_under(state, "population"), state["sigma"])
        self.sac.load_state(_under(state, "sac"))
        self.evaluation.load_state(state)
        if replay := _under(state, "replay"):
            self.replay.load_state(replay)

    def _check(self, state: Mapping[str, Any]) -> None:
        for name, own in self.state(replay=False).items():
            if hasattr(own, "shape") and not name.startswith("evaluations."):
                expected, received = torch.as_tensor(own), torch.as_tensor(state[name])
                if received.shape != expected.shape or received.dtype != expected.dtype:
                    raise InputError(
                        f"{name} has shape {tuple(received.shape)}, {received.dtype}",
                        f"{tuple(expected.shape)}, {expected.dtype}",
                    )
        for name in _NUMBERS:
            if type(state[name]) not in (int, float) or not 0 <= state[name] < math.inf:
                raise InputError(f"{name} is {state[name]!r}", "a finite number >= 0")


def _under(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
