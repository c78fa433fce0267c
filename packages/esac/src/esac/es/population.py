"""The population: the bases of a generation, and how its returns move the mean."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from sextet_common.errors import InputError
from sextet_common.seeding import generator

from esac.config import ESACConfig
from esac.es import evolution, optimizers
from esac.play.policy import PolicyShape
from esac.play.rollout import Episode
from esac.play.task import Task


@dataclass(frozen=True)
class Offspring:
    """A generation before its evaluation: rows that tasks mutate, origins of the members, and the tasks.

    A row is a vector of weights, followed by the offset and the scale of observations if they are normalised. An origin
    is "mean", "crossed" or "sac". The tasks of a member are those of its first candidate, then those of the second.
    """

    bases: Float[np.ndarray, "rows width"]
    origins: tuple[str, ...]
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Outcome:
    """Result of an evaluation: returns (-inf if failed), origins of the winners (the best first) and metrics."""

    returns: Float[np.ndarray, "population 2"]
    winners: tuple[str, ...]
    values: dict[str, float]


class Population:
    """The optimizer of the mean and the last winners.

    Attributes
    ----------
    optimizer
        Holds the mean and the standard deviation of the mutations.
    hindsight
        The vectors of the last winners, shape (winners, size), which crossover mixes into the mean.
    """

    def __init__(self, shape: PolicyShape, config: ESACConfig, seed: int) -> None:
        self.shape, self.config, self.seed = shape, config, seed
        self.optimizer = optimizers.make(shape, config, seed)
        self.hindsight = np.tile(self.mean, (config.winners if config.crossover != "none" else 0, 1))

    @property
    def mean(self) -> Float[np.ndarray, " size"]:
        """Weights of the mean."""
        return self.optimizer.mean

    @property
    def sigma(self) -> float:
        """Standard deviation of the mutations; the mean one if each weight has its own."""
        return self.optimizer.sigma

    def offspring(
        self,
        number: int,
        gradient_trained: Float[np.ndarray, " size"] | None = None,
        inputs: Float[np.ndarray, "2 observations"] | None = None,
    ) -> Offspring:
        """Return generation `number`: the mean crossed with winners, the mean itself, the gradient-trained policy.

        ``inputs`` are the offset and the scale of the observations, if they are normalised.
        """
        config = self.config
        rows, tasks = self.optimizer.ask(number)
        origins = ["mean"] * config.population
        if config.crossover != "none":
            for slot in range(config.winners):
                random = generator(self.seed, "crossover", number, slot)
                rows[slot] = evolution.crossed(self.shape, self.hindsight[slot], self.mean, random, config.crossover)
                origins[slot] = "crossed"
        if gradient_trained is not None:
            for slot in range(config.population - config.gradient_members, config.population):
                rows[slot] = gradient_trained
                origins[slot] = "sac"
        stored = {"none": (), "injected": ("sac",), "all": ("mean", "crossed", "sac")}[config.store]
        if inputs is not None:
            rows = np.hstack([rows, np.tile(inputs.flatten(), (len(rows), 1))])
        kept = [dataclasses.replace(task, keep=origins[task.member] in stored) for task in tasks]
        episodes = range(config.es_episodes)
        repeated = tuple(dataclasses.replace(task, episode=k) for task in kept for k in episodes)
        return Offspring(rows, tuple(origins), repeated)

    def evolve(self, number: int, offspring: Offspring, episodes: Sequence[Episode]) -> Outcome:
        """Choose the winners, move the mean by the fitness, and tune the mutation.

        `episodes` has one for each task. A member with a failed episode does not move the mean: half a pair says
        nothing about a direction. Refuses generations in which too many episodes failed.
        """
        each = (self.config.population, 2, self.config.es_episodes)
        failures = np.array([e.failed for e in episodes]).reshape(each)
        self._check_failures(number, failures, episodes)
        returns = np.array([e.total for e in episodes]).reshape(each).mean(axis=2)
        lengths = np.array([e.length for e in episodes]).reshape(each).mean(axis=2)
        failed: np.ndarray = np.any(failures, axis=2)
        fitness = returns - self.config.reward_shift * lengths
        winners = self._select(number, offspring, fitness, failed)
        values = {"es/sigma": self.sigma, "pop/failed": float(failures.sum())}
        values |= self.optimizer.tell(number, fitness, self._counted(offspring.origins, failed))
        self._tune_sigma(number, fitness)
        return Outcome(returns, winners, {**values, **_metrics(returns, failed, offspring.origins, winners, episodes)})

    def _check_failures(self, number: int, failed: np.ndarray, episodes: Sequence[Episode]) -> None:
        if failed.mean() > self.config.most_failed:
            first = next(e.message for e in episodes if e.failed)
            raise InputError(
                f"{int(failed.sum())} of {failed.size} episodes of generation {number} failed; the first: {first}",
                f"at most a share of {self.config.most_failed:g}",
            )

    def _select(self, number: int, offspring: Offspring, fitness: np.ndarray, failed: np.ndarray) -> tuple[str, ...]:
        """Keep the winning vectors for the next generation's crossover, and return their origins."""
        config = self.config
        chosen: list[int] = evolution.winners(
            np.where(failed.flatten(), np.nan, fitness.flatten()), config.winners, config.selection,
            temperature=config.temperature, random=generator(self.seed, "winners", number),
        ).tolist()  # fmt: skip
        if chosen and config.crossover != "none":
            rows = offspring.bases[:, : self.shape.size]
            self.hindsight = self.optimizer.candidates(number, rows, chosen)
        return tuple(offspring.origins[c // 2] for c in chosen)

    def _counted(self, origins: tuple[str, ...], failed: np.ndarray) -> Bool[np.ndarray, " population"]:
        """Return which members move the mean."""
        everyone = self.config.es_gradient == "all"
        return ~failed.any(axis=1) & np.array([everyone or origin == "mean" for origin in origins])

    def _tune_sigma(self, number: int, fitness: np.ndarray) -> None:
        config = self.config
        if config.amt_every and (number + 1) % config.amt_every == 0:
            values = fitness.flatten()
            self.optimizer.sigma = evolution.tuned_sigma(
                self.sigma, values if config.amt_input == "returns" else evolution.shaped_ranks(values),
                lr=config.es_lr, pairs=config.population, clip=config.amt_clip,
                largest=max(config.sigma_max, config.sigma),
            )  # fmt: skip

    def state(self) -> dict[str, np.ndarray]:
        """Return the arrays of a checkpoint: all of the state but `sigma`."""
        return {"hindsight": self.hindsight, **self.optimizer.state()}

    def load_state(self, arrays: Mapping[str, Any], sigma: float) -> None:
        """Restore what `state` returned, and sigma."""
        self.hindsight = np.array(arrays["hindsight"])
        self.optimizer.load_state(arrays, sigma)


def _metrics(
    returns: np.ndarray, failed: np.ndarray, origins: tuple[str, ...], winners: tuple[str, ...],
    episodes: Sequence[Episode],
) -> dict[str, float]:  # fmt: skip
    good = returns[~failed]
    values = {"pop/ep_len_mean": sum(e.length for e in episodes) / len(episodes)}
    if len(good):
        values |= {"pop/return_max": float(good.max()), "pop/return_mean": float(good.mean()),
                   "pop/return_min": float(good.min()), "pop/return_std": float(good.std())}  # fmt: skip
    for origin in dict.fromkeys(origins):
        members = returns[[o == origin for o in origins]]
        finite = members[np.isfinite(members)]
        values[f"pop/return_by_origin/{origin}"] = float(finite.mean()) if len(finite) else math.nan
        values[f"pop/winner_origin/{origin}"] = float(winners.count(origin))
    return values
