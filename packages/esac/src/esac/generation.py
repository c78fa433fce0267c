"""Learning as a job: one step is one generation."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from sextet_common import training
from sextet_common.runs import Run
from sextet_common.seeding import generator

from esac.config import ESACConfig
from esac.engines.serial import Engine, SerialEngine
from esac.es.population import Outcome
from esac.learner import Learner
from esac.play.rollout import Episode
from esac.play.task import Job
from esac.results.outputs import Outputs


@dataclasses.dataclass(frozen=True)
class Generation:
    """Result of a generation, as callbacks receive it.

    Attributes
    ----------
    number
        Number of the generation, from 0.
    steps
        Environment steps so far, of population and gradient-based learning alike.
    returns
        Returns of each member's two episodes, shape (population, 2); (0, 2) without a population.
    origins
        What each member's base was: "mean", "crossed" or "sac".
    winners
        Origins of the winners, the best first.
    values
        Metrics.
    """

    number: int
    steps: int
    returns: Float[np.ndarray, "population 2"]
    origins: tuple[str, ...]
    winners: tuple[str, ...]
    values: dict[str, float]


class GenerationJob(training.Job):
    """Runs generations of a learner until it has counted `steps` steps, or `after` returns False.

    Without an `engine`, the one that the configuration names is made at the first step, and freed by `close`.
    """

    shown = ("eval/best_mean_reward",)

    def __init__(
        self, learner: Learner, steps: int, after: Callable[[Generation], bool | None], engine: Engine | None = None
    ) -> None:
        self.learner, self.steps, self.seed = learner, steps, learner.seed
        self.done = learner.generation
        self._after, self._engine, self._owns_engine = after, engine, engine is None
        self._stopped = False
        self._outputs: Outputs | None = None

    def step(self, number: int) -> dict[str, float]:
        """Run one generation: start the population, learn by gradients meanwhile, then move the mean."""
        learner, number = self.learner, self.learner.generation  # it may have run generations before this job
        steps_before = learner.steps
        clock, processor = time.perf_counter(), time.process_time()
        values: dict[str, float] = {}
        offspring = None
        if learner.config.mode != "sac":
            offspring = learner.population.offspring(number, learner.injected_vector(number), learner.inputs)
            self.engine.start(offspring.bases, offspring.tasks)
        trained = self._train(number, values)
        self._describe_gradients(trained, values)
        values["time/sac_s"] = time.perf_counter() - clock
        outcome = Outcome(np.zeros((0, 2)), (), {})
        origins: tuple[str, ...] = ()
        played: list[tuple[str, Episode]] = []
        if offspring is not None:
            population_episodes = self._wait(values)
            outcome = learner.population.evolve(number, offspring, population_episodes)
            origins = offspring.origins
            each = 2 * learner.config.es_episodes
            played = [(origins[k // each], e) for k, e in enumerate(population_episodes)]
        episodes = [*(("sac", episode) for episode in trained), *played]
        learner.observe([e for origin, e in played if origin != "sac"] or trained)
        if learner.config.mode == "esac":
            learner.exchange.account(sum(e.length for _, e in played), sum(e.length for e in trained))
            mutated = [episode for origin, episode in played if origin == "mean"]
            learner.transfer(number, learner.exchange.update(number, mutated, trained))
            values["sac/share"] = learner.exchange.share
        values |= outcome.values
        self._count(episodes, values, time.perf_counter() - clock, time.process_time() - processor)
        if number == 0 or learner.steps // learner.config.eval_every > steps_before // learner.config.eval_every:
            clock = time.perf_counter()
            values |= learner.evaluation.run((float(learner.steps), learner.seconds, learner.cpu_seconds))
            values["time/eval_s"] = time.perf_counter() - clock
        if self._outputs is not None:
            self._outputs.append(learner.generation, learner.seconds, episodes)
        generation = Generation(number, learner.steps, outcome.returns, origins, outcome.winners, values)
        self._stopped = self._after(generation) is False
        return values

    def _train(self, number: int, values: dict[str, float]) -> list[Episode]:
        """Run the episodes of soft actor-critic that are due in a generation."""
        learner, trained = self.learner, list[Episode]()
        adaptive = learner.config.mode == "esac" and learner.config.sac_schedule == "adaptive"
        count = 0 if adaptive else self._gradient_episodes(number, values)
        while learner.exchange.owes(trained, learner.horizon) if adaptive else len(trained) < count:
            episodes, losses = learner.collector.episodes(number, len(trained), learner.inputs)
            values |= losses
            trained += episodes
        return trained

    def _gradient_episodes(self, number: int, values: dict[str, float]) -> int:
        """Return how many episodes of soft actor-critic are due in a generation, unless their share is adaptive."""
        config = self.learner.config
        if config.mode != "esac":
            return int(config.mode == "sac")
        values["sac/p"] = gradient_probability(self.learner.counted, config)
        due = (number + 1) % config.sac_every == 0
        taken = due and generator(self.learner.seed, "chance", number).random() < values["sac/p"]
        return config.sac_episodes if taken else 0

    def _describe_gradients(self, episodes: Sequence[Episode], values: dict[str, float]) -> None:
        if episodes:
            values["sac/return"] = float(np.mean([e.total for e in episodes]))
            values["sac/episodes"] = float(len(episodes))
        if self.learner.config.mode != "es":
            values["sac/updates"] = float(self.learner.collector.updates)

    def _wait(self, values: dict[str, float]) -> list[Episode]:
        """Wait for the population's episodes and store the transitions that they kept."""
        clock = time.perf_counter()
        episodes = self.engine.finish()
        values["time/wait_s"] = time.perf_counter() - clock
        for episode in episodes:
            if episode.transitions is not None and self.learner.gradients is not None:
                self.learner.replay.add(episode.transitions)
        return episodes

    def _count(
        self, episodes: Sequence[tuple[str, Episode]], values: dict[str, float], seconds: float, cpu_seconds: float
    ) -> None:
        learner = self.learner
        learner.generation += 1
        learner.episodes += len(episodes)
        learner.steps += sum(e.length for _, e in episodes)
        learner.seconds += seconds
        learner.cpu_seconds += cpu_seconds
        good = [e for _, e in episodes if not e.failed]
        if good:
            values |= {"rollout/ep_rew_mean": float(np.mean([e.total for e in good])),
                       "rollout/ep_len_mean": float(np.mean([e.length for e in good]))}  # fmt: skip
        values |= {"time/env_steps": float(learner.steps), "time/seconds": learner.seconds,
                   "time/cpu_seconds": learner.cpu_seconds,
                   "time/fps": learner.steps / max(learner.seconds, 1e-9)}  # fmt: skip

    @property
    def engine(self) -> Engine:
        """The engine that evaluates the population."""
        if self._engine is None:
            self._engine = make_engine(self.learner.job, self.learner.config)
        return self._engine

    def close(self) -> None:
        """Free the engine that this job made."""
        if self._owns_engine and self._engine is not None:
            self._engine.close()

    def state(self) -> dict[str, Any]:
        """Return the state of the learner."""
        return self.learner.state()

    def load_state(self, state: Any) -> None:
        """Restore the state of the learner."""
        self.learner.load_state(state)

    def position(self, done: int) -> int:
        """Return the steps counted so far."""
        return self.learner.counted

    def finished(self) -> bool:
        """Whether a callback stopped learning."""
        return self._stopped

    def milestone(self, done: int) -> bool:
        """Log every generation."""
        return True

    def read(self, done: int, metrics: Any) -> dict[str, float]:
        """Return the finite metrics: the mean return of failed episodes is not."""
        return {key: value for key, value in metrics.items() if math.isfinite(value)}

    def begin(self, run: Run, done: int) -> None:
        """Open monitor.csv."""
        self._outputs = Outputs(run, str(self.learner.record()["env"]), self.learner.generation + 1)

    def flush(self, run: Run) -> None:
        """Write best.npz, progress.csv and evaluations.npz."""
        assert self._outputs is not None
        self.learner.evaluation.policy("best").save(run.path / "best.npz")
        self._outputs.flush(self.learner.evaluations)


def gradient_probability(counted: int, config: ESACConfig) -> float:
    """Return the probability that a generation takes its chance of gradient-based learning.

    Examples
    --------
    >>> gradient_probability(0, ESACConfig()), round(gradient_probability(10**9, ESACConfig()), 6)
    (1.0, 0.1)
    """
    return config.sac_least + (1 - config.sac_least) * math.exp(-counted / config.sac_decay)


def make_engine(job: Job, config: ESACConfig) -> Engine:
    """Return the engine that a configuration names."""
    if config.engine == "batch":
        from esac.engines.batch import BatchEngine

        return BatchEngine(job, max(1, config.workers))
    if not config.workers:
        return SerialEngine(job)
    if config.engine == "processes":
        from esac.engines.process import ProcessEngine

        return ProcessEngine(job, config.workers, timeout=config.timeout, recycle=config.recycle)
    from esac.engines.ray import RayEngine

    return RayEngine(job, config.workers, timeout=config.timeout)
