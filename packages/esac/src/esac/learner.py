"""The parts of a learner, and everything that learning resumes from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from sextet_common import checks, runs
from sextet_common.errors import InputError
from sextet_common.seeding import generator

from esac.cloning import cloned
from esac.config import ESACConfig
from esac.es.population import Population
from esac.evaluation import Best, Evaluation, Which
from esac.exchange import Exchange, Side
from esac.play import rollout
from esac.play.environment import EnvSource
from esac.play.normalize import Moments
from esac.play.policy import NumpyPolicy, PolicyShape
from esac.play.rollout import Episode
from esac.play.task import Evaluator, Job
from esac.play.vector import lockstep
from esac.results.outputs import Evaluations
from esac.sac.collect import Collector
from esac.sac.replay import Replay
from esac.sac.update import SAC
from esac.sb3 import source

_COUNTERS = ("generation", "steps", "episodes", "seconds", "cpu_seconds")
_CLONING_ROWS, _FEWEST_ROWS = 2048, 64  # observations that a clone is fitted on, and fewest in the replay
_OF_COLLECTOR = {"sac_steps": "steps", "updates": "updates"}
_CHECKED_ELSEWHERE = ("evaluations.", "best", "exchange.")
_NUMBERS = (*_COUNTERS, *_OF_COLLECTOR, "sigma")


@dataclasses.dataclass(frozen=True)
class Gradients:
    """What soft actor-critic consists of."""

    sac: SAC
    replay: Replay
    collector: Collector


class Learner:
    """Population, soft actor-critic, replay buffer, evaluations and counters.

    Attributes
    ----------
    generation, steps, episodes
        Generations, environment steps and episodes so far, of population and gradient-based learning alike.
    seconds, cpu_seconds
        Time of learning, without evaluations.
    moments
        Moments of all observations so far, if they are normalised.
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
        options = dict(options or {})
        if config.horizon is not None and isinstance(env, str):  # recorded, so that evaluations of a run have it too
            options["max_episode_steps"] = config.horizon
        self.job = Job(
            env, options, config.es_hidden, seed, config.on_nan, config.es_action, config.normalize, config.horizon,
            config.es_bias,
        )  # fmt: skip
        evaluator = Evaluator(self.job)
        self.env, self.horizon = evaluator.env, evaluator.horizon
        shape = evaluator.policy.shape
        self.shape = PolicyShape(shape.observations, shape.actions, config.hidden)
        self.population = Population(shape, config, seed)
        self.gradients = None if config.mode == "es" else self._make_gradients()
        self.moments = Moments.empty(shape.observations)
        self.inputs = self.moments.inputs() if config.normalize else None
        self.exchange = Exchange(config)
        self.evaluation = Evaluation(self.env, config, seed, self._current, self.horizon)
        self.sampling = torch.Generator(device).manual_seed(seed)
        self.generation = self.steps = self.episodes = 0
        self.seconds = self.cpu_seconds = 0.0

    def _make_gradients(self) -> Gradients:
        config, shape, space = self.config, self.shape, self.env.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator(self.seed, "sac").integers(2**31)))
            sac = SAC(shape, space.low, space.high, config.sac, self.device)
        replay = Replay(config.sac.capacity, shape.observations, shape.actions)
        collector = Collector(
            lockstep(self.job.env, self.env), sac, replay, self.seed, updates_per_step=config.updates_per_step,
            start_steps=config.start_steps, on_nan=config.on_nan, horizon=self.horizon,
        )  # fmt: skip
        return Gradients(sac, replay, collector)

    def _gradients(self) -> Gradients:
        if self.gradients is None:
            raise InputError("mode es has no gradient-trained policy and no replay", "mode esac or sac")
        return self.gradients

    @property
    def sac(self) -> SAC:
        """The gradient-trained policy with its critics."""
        return self._gradients().sac

    @property
    def replay(self) -> Replay:
        """The transitions."""
        return self._gradients().replay

    @property
    def collector(self) -> Collector:
        """Runs the episodes of the gradient-trained policy."""
        return self._gradients().collector

    def _current(self, which: Which) -> NumpyPolicy:
        """Return the population's mean or the gradient-trained policy as it is now."""
        if which == "mean":
            hidden, vector, action = self.config.es_hidden, self.population.mean, self.config.es_action
            return rollout.numpy_policy(self.env, hidden, vector, action, self.inputs)
        return rollout.numpy_policy(self.env, self.config.hidden, self.sac.actor.vector(), "tanh", self.inputs)

    def set_env(self, env: Any) -> None:
        """Learn on with another environment, which must have the same spaces."""
        job = dataclasses.replace(self.job, env=source(env), options={})
        evaluator = Evaluator(job)
        for name in ("observation_space", "action_space"):
            old, new = getattr(self.env, name), getattr(evaluator.env, name)
            if old != new:
                raise InputError(f"an environment with the {name} {new}", f"{old}")
        self.job, self.env, self.horizon = job, evaluator.env, evaluator.horizon
        self.evaluation.env, self.evaluation.horizon = self.env, self.horizon
        if self.gradients is not None:
            self.collector.env, self.collector.horizon = lockstep(self.job.env, self.env), self.horizon

    def observe(self, episodes: Iterable[Episode]) -> None:
        """Merge the moments of the episodes of a generation, in their order, if observations are normalised.

        They are the population's own, if there is one: it then moves exactly as it does by evolution alone.
        """
        if self.config.normalize:
            self.moments = self.moments.merge_all(episode.moments for episode in episodes)
            self.inputs = self.moments.inputs()

    def injected_vector(self, number: int) -> np.ndarray | None:
        """Return the gradient-trained policy in the population's shape, if it is injected and can be cloned yet."""
        return self._for_population(number) if self.config.gradient_members else None

    def transfer(self, number: int, better: Side | None) -> None:
        """Replace the worse side's policy by the better one's."""
        if better == "sac" and (vector := self._for_population(number)) is not None:
            self.population.optimizer.place(vector)
        elif better == "mean":
            self._to_gradients(number)

    def _for_population(self, number: int) -> np.ndarray | None:
        """Return the gradient-trained policy: a copy if shapes agree, else a clone, or None without observations."""
        if self.shape == self.population.shape:
            return self.sac.actor.vector()
        observations = self._replayed(number)
        if observations is None:
            return None
        with torch.no_grad():
            mean, _ = self.sac.actor.distribution(torch.tensor(observations, device=self.sac.device))
            actions = torch.tanh(mean).cpu().numpy()
        return cloned(self.population.shape, self.population.mean, observations, actions, self.config.es_action)

    def _to_gradients(self, number: int) -> None:
        """Make the gradient-trained policy act like the population's mean: copy if shapes agree, else clone."""
        vector = self.population.mean
        if self.shape != self.population.shape:
            observations = self._replayed(number)
            if observations is None:
                return
            unit = np.ones(self.shape.actions)
            policy = NumpyPolicy(self.population.shape, -unit, unit, vector, self.config.es_action)
            vector = cloned(self.shape, self.sac.actor.vector(), observations, policy.batch(observations))
        self.sac.actor.load_vector(vector)

    def _replayed(self, number: int) -> np.ndarray | None:
        """Draw observations as the networks see them; None if the replay has too few."""
        if len(self.replay) < _FEWEST_ROWS:
            return None
        batch = self.replay.sample(generator(self.seed, "clone", number), _CLONING_ROWS, inputs=self.inputs)
        return batch.observations.numpy()

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
        parts: dict[str, Mapping[str, Any]] = {"population": self.population.state()}
        if self.config.normalize:
            parts["moments"] = self.moments.state()
        if self.config.mode == "esac":
            parts["exchange"] = self.exchange.state()
        if self.gradients is not None:
            parts["sac"] = self.sac.state()
            if replay:
                parts["replay"] = self.replay.state()
        arrays = {f"{name}.{key}": array for name, part in parts.items() for key, array in part.items()}
        numbers = {name: getattr(self, name) for name in _COUNTERS} | {"sigma": self.population.sigma}
        if self.gradients is not None:
            numbers |= {name: getattr(self.collector, part) for name, part in _OF_COLLECTOR.items()}
        return {**arrays, **self.evaluation.state(), **numbers}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned for the same settings; arrays may be tensors."""
        self._check(state)
        state = {k: v.numpy() if torch.is_tensor(v) and not k.startswith("sac.") else v for k, v in state.items()}
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.population.load_state(_under(state, "population"), state["sigma"])
        if self.config.normalize:
            saved = _under(state, "moments")
            self.moments = Moments(int(saved["count"]), np.array(saved["mean"]), np.array(saved["squares"]))
            self.inputs = self.moments.inputs()
        self.evaluation.load_state(state)
        if self.config.mode == "esac":
            self.exchange.load_state(_under(state, "exchange"))
        if self.gradients is not None:
            for name, part in _OF_COLLECTOR.items():
                setattr(self.collector, part, state[name])
            self.sac.load_state(_under(state, "sac"))
            if replay := _under(state, "replay"):
                self.replay.load_state(replay)

    def _check(self, state: Mapping[str, Any]) -> None:
        own_state = self.state(replay=False)
        for name, own in own_state.items():
            if hasattr(own, "shape") and not name.startswith(_CHECKED_ELSEWHERE):
                expected, received = torch.as_tensor(own), torch.as_tensor(state[name])
                if received.shape != expected.shape or received.dtype != expected.dtype:
                    raise InputError(
                        f"{name} has shape {tuple(received.shape)}, {received.dtype}",
                        f"{tuple(expected.shape)}, {expected.dtype}",
                    )
        for name in [name for name in _NUMBERS if name in own_state]:
            if type(state[name]) not in (int, float) or not 0 <= state[name] < math.inf:
                raise InputError(f"{name} is {state[name]!r}", "a finite number >= 0")


def _under(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
