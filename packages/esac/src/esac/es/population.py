"""The population: the bases of a generation, and how its returns move the mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from sextet_common.errors import InputError
from sextet_common.seeding import generator

from esac.config import ESACConfig
from esac.es import evolution
from esac.play.policy import PolicyShape
from esac.play.rollout import Episode
from esac.play.task import Task, noise


@dataclass(frozen=True)
class Offspring:
    """A generation before its evaluation: bases to be mutated, their origins, and two tasks per member in turn.

    An origin is "mean", "crossed" or "sac".
    """

    bases: Float[np.ndarray, "population size"]
    origins: tuple[str, ...]
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Outcome:
    """Result of an evaluation: returns (-inf if failed), origins of the winners (the best first) and metrics."""

    returns: Float[np.ndarray, "population 2"]
    winners: tuple[str, ...]
    values: dict[str, float]


class Population:
    """The mean, its optimizer, the standard deviation of the mutations and the last winners."""

    def __init__(self, shape: PolicyShape, config: ESACConfig, seed: int) -> None:
        self.shape, self.config, self.seed = shape, config, seed
        self.mean = shape.initial(generator(seed, "mean"))
        self.sigma = config.sigma
        self.ascent = evolution.Ascent(shape.size, config.es_lr, config.es_optimizer, config.l2)
        self.hindsight = np.tile(self.mean, (max(1, config.winners), 1))
        self._signs = (1, -1) if config.mirrored == "antithetic" else (1, 0)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the mutations, which the tuned sigma need not reach (``amt_apply``)."""
        return self.sigma if self.config.amt_apply == "both" else self.config.sigma

    def offspring(self, number: int, gradient_trained: Float[np.ndarray, " size"]) -> Offspring:
        """Return generation `number`: the mean crossed with winners, the mean itself, the gradient-trained policy."""
        config = self.config
        bases = np.tile(self.mean, (config.population, 1))
        origins = ["mean"] * config.population
        if config.crossover != "none":
            for slot in range(config.winners):
                random = generator(self.seed, "crossover", number, slot)
                bases[slot] = evolution.crossed(self.shape, self.hindsight[slot], self.mean, random, config.crossover)
                origins[slot] = "crossed"
        for slot in range(config.population - config.gradient_members, config.population):
            bases[slot] = gradient_trained
            origins[slot] = "sac"
        stored = {"none": (), "injected": ("sac",), "all": ("mean", "crossed", "sac")}[config.store]
        tasks = tuple(
            Task(member, number, member, sign, self.noise_std, origins[member] in stored)
            for member in range(config.population)
            for sign in self._signs
        )
        return Offspring(bases, tuple(origins), tasks)

    def evolve(self, number: int, offspring: Offspring, episodes: Sequence[Episode]) -> Outcome:
        """Choose the winners, move the mean by the ranks, and tune the mutation.

        `episodes` has one for each task. A member with a failed episode does not move the mean: half a pair says
        nothing about a direction. Refuses generations in which too many episodes failed.
        """
        returns = np.array([e.total for e in episodes]).reshape(-1, 2)
        failed = np.array([e.failed for e in episodes]).reshape(-1, 2)
        self._check_failures(number, failed, episodes)
        noises = np.stack([noise(self.seed, number, m, self.shape.size) for m in range(self.config.population)])
        winners = self._select(number, offspring, returns, failed, noises)
        values = {"es/sigma": self.sigma, "pop/failed": float(failed.sum())}
        ranks = evolution.shaped_ranks(returns.flatten()).reshape(-1, 2)
        members = self._counted(offspring.origins, failed)
        if members and np.ptp(returns[members]) > 0:
            direction = evolution.gradient(ranks[members], noises[members], self.sigma)
            values["es/grad_norm"] = float(np.linalg.norm(direction))
            values["es/update_ratio"] = self.ascent.step(self.mean, direction)
        self._tune_sigma(number, returns, ranks)
        return Outcome(returns, winners, {**values, **_metrics(returns, failed, offspring.origins, winners, episodes)})

    def _check_failures(self, number: int, failed: np.ndarray, episodes: Sequence[Episode]) -> None:
        if failed.mean() > self.config.most_failed:
            first = next(e.message for e in episodes if e.failed)
            raise InputError(
                f"{int(failed.sum())} of {failed.size} episodes of generation {number} failed; the first: {first}",
                f"at most a share of {self.config.most_failed:g}",
            )

    def _select(
        self, number: int, offspring: Offspring, returns: np.ndarray, failed: np.ndarray, noises: np.ndarray
    ) -> tuple[str, ...]:
        """Keep the winning vectors for the next generation's crossover, and return their origins."""
        config = self.config
        chosen = evolution.winners(
            np.where(failed.flatten(), np.nan, returns.flatten()), config.winners, config.selection,
            temperature=config.temperature, random=generator(self.seed, "winners", number),
        ).tolist()  # fmt: skip
        if chosen:
            std = self.noise_std
            self.hindsight = np.stack(
                [offspring.bases[c // 2] + np.float32(self._signs[c % 2] * std) * noises[c // 2] for c in chosen]
            )
        return tuple(offspring.origins[c // 2] for c in chosen)

    def _counted(self, origins: tuple[str, ...], failed: np.ndarray) -> list[int]:
        """Return the members whose mutations move the mean."""
        everyone = self.config.es_gradient == "all"
        return [m for m, origin in enumerate(origins) if not failed[m].any() and (everyone or origin == "mean")]

    def _tune_sigma(self, number: int, returns: np.ndarray, ranks: np.ndarray) -> None:
        config = self.config
        if config.amt_every and (number + 1) % config.amt_every == 0:
            self.sigma = evolution.tuned_sigma(
                self.sigma, (returns if config.amt_input == "returns" else ranks).flatten(), lr=config.es_lr,
                pairs=config.population, clip=config.amt_clip, largest=max(config.sigma_max, config.sigma),
            )  # fmt: skip

    def state(self) -> dict[str, np.ndarray]:
        """Return the arrays of a checkpoint: all of the state but `sigma`."""
        ascent = {f"ascent.{key}": value for key, value in self.ascent.state().items()}
        return {"mean": self.mean, "hindsight": self.hindsight, **ascent}

    def load_state(self, arrays: Mapping[str, Any], sigma: float) -> None:
        """Restore what `state` returned, and sigma."""
        self.mean, self.hindsight = np.array(arrays["mean"]), np.array(arrays["hindsight"])
        self.ascent.load_state({key: arrays[f"ascent.{key}"] for key in ("m", "v", "steps")})
        self.sigma = sigma


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
