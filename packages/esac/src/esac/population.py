"""A population around a mean: whose bases a generation mutates, and where its returns move the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sextet_common.errors import InputError
from sextet_common.seeding import generator as random_of

from esac import evolution
from esac.config import ESACConfig
from esac.policy import PolicyShape
from esac.rollout import Episode
from esac.worker import Task


@dataclass(frozen=True)
class Brood:
    """What a generation consists of before it is evaluated.

    Parameters
    ----------
    bases
        What is mutated, shape (population, size).
    origins
        What each base is: "mean", "crossed" or "sac".
    tasks
        Two episodes of each member, one after another.
    """

    bases: Float[np.ndarray, "population size"]
    origins: tuple[str, ...]
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Outcome:
    """What a generation's episodes brought.

    Parameters
    ----------
    returns
        Shape (population, 2); -inf where an episode failed.
    winners
        The winners' origins, the best first.
    values
        What is logged.
    """

    returns: Float[np.ndarray, "population 2"]
    winners: tuple[str, ...]
    values: dict[str, float]


class Population:
    """The evolving half: the mean, its optimizer, the mutation's deviation and the last winners.

    Parameters
    ----------
    shape
        The policies' layout.
    config
        The settings.
    seed
        Of everything that is drawn.
    """

    def __init__(self, shape: PolicyShape, config: ESACConfig, seed: int) -> None:
        self.shape, self.config, self.seed = shape, config, seed
        self.mean = shape.initial(random_of(seed, "mean"))
        self.sigma = config.sigma
        self.ascent = evolution.Ascent(shape.size, config.es_lr, config.es_optimizer, config.l2)
        self.hindsight = np.tile(self.mean, (max(1, config.winners), 1))
        self._signs = (1, -1) if config.mirrored == "antithetic" else (1, 0)

    def brood(self, t: int, gradient_trained: Float[np.ndarray, " size"]) -> Brood:
        """Return a generation: the mean crossed with winners, the mean itself, and the gradient-trained policy.

        Parameters
        ----------
        t
            The generation's number.
        gradient_trained
            The injected policy's vector.

        Returns
        -------
        Brood
            What is to be evaluated.
        """
        config = self.config
        bases = np.tile(self.mean, (config.population, 1))
        origins = ["mean"] * config.population
        if config.crossover != "none":
            for slot in range(config.winners):
                random = random_of(self.seed, "crossover", t, slot)
                bases[slot] = evolution.crossed(self.shape, self.hindsight[slot], self.mean, random, config.crossover)
                origins[slot] = "crossed"
        for slot in range(config.population - config.gradient_members, config.population):
            bases[slot] = gradient_trained
            origins[slot] = "sac"
        kept = {"none": (), "injected": ("sac",), "all": ("mean", "crossed", "sac")}[config.store]
        tasks = tuple(
            Task(member, t, member, sign, self._spread(), origins[member] in kept)
            for member in range(config.population)
            for sign in self._signs
        )
        return Brood(bases, tuple(origins), tasks)

    def evolve(self, t: int, brood: Brood, episodes: Sequence[Episode]) -> Outcome:
        """Choose the winners, move the mean by all members' ranks, and tune the mutation.

        A member with a failed episode moves nothing: half a pair says nothing of a direction.

        Parameters
        ----------
        t
            The generation's number.
        brood
            The generation.
        episodes
            One for each of its tasks.

        Returns
        -------
        Outcome
            Returns, winners, and what is logged.

        Raises
        ------
        InputError
            Where more episodes failed than may.
        """
        config = self.config
        returns = np.array([e.total for e in episodes]).reshape(-1, 2)
        failed = np.array([e.failed for e in episodes]).reshape(-1, 2)
        if failed.mean() > config.most_failed:
            first = next(e.message for e in episodes if e.failed)
            raise InputError(
                f"{int(failed.sum())} of {failed.size} episodes of generation {t} failed; the first: {first}",
                f"at most a share of {config.most_failed:g}",
            )
        noises = np.stack([evolution.noise(self.seed, t, m, self.shape.size) for m in range(config.population)])
        chosen = evolution.winners(
            np.where(failed.flatten(), np.nan, returns.flatten()), config.winners, config.selection,
            temperature=config.temperature, random=random_of(self.seed, "winners", t),
        )  # fmt: skip
        if len(chosen):
            spread = self._spread()
            self.hindsight = np.stack(
                [
                    brood.bases[c // 2] + np.float32(self._signs[c % 2] * spread) * noises[c // 2]
                    for c in chosen.tolist()
                ]
            )
        ranks = evolution.shaped_ranks(returns.flatten()).reshape(-1, 2)
        members = [
            m for m in range(config.population)
            if not failed[m].any() and (config.es_gradient == "all" or brood.origins[m] == "mean")
        ]  # fmt: skip
        values = {"es/sigma": self.sigma, "pop/failed": float(failed.sum())}
        if members and np.ptp(returns[members]) > 0:
            direction = evolution.gradient(ranks[members], noises[members], self.sigma)
            values["es/grad_norm"] = float(np.linalg.norm(direction))
            values["es/update_ratio"] = self.ascent.step(self.mean, direction)
        if config.amt_every and (t + 1) % config.amt_every == 0:
            self.sigma = evolution.tuned_sigma(
                self.sigma, (returns if config.amt_input == "returns" else ranks).flatten(), lr=config.es_lr,
                pairs=config.population, clip=config.amt_clip, largest=max(config.sigma_max, config.sigma),
            )  # fmt: skip
        winners = tuple(brood.origins[c // 2] for c in chosen.tolist())
        return Outcome(returns, winners, {**values, **_told(returns, failed, brood.origins, winners, episodes)})

    def _spread(self) -> float:
        return self.sigma if self.config.amt_apply == "both" else self.config.sigma

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Return the arrays and numbers that a checkpoint holds."""
        arrays = {"mean": self.mean, "hindsight": self.hindsight}
        return {**arrays, **{f"ascent.{k}": v for k, v in self.ascent.state().items()}}, {"sigma": self.sigma}

    def load(self, arrays: dict[str, np.ndarray], sigma: float) -> None:
        """Take such a state."""
        self.mean, self.hindsight = arrays["mean"].copy(), arrays["hindsight"].copy()
        self.ascent.load({k: arrays[f"ascent.{k}"] for k in ("m", "v", "steps")})
        self.sigma = sigma


def _told(
    returns: np.ndarray,
    failed: np.ndarray,
    origins: tuple[str, ...],
    winners: tuple[str, ...],
    episodes: Sequence[Episode],
) -> dict[str, float]:
    """Return what is logged of a generation's returns."""
    good = returns[~failed]
    values = {"pop/ep_len_mean": sum(e.length for e in episodes) / len(episodes)}
    if len(good):
        values |= {"pop/return_max": float(good.max()), "pop/return_mean": float(good.mean()),
                   "pop/return_min": float(good.min()), "pop/return_std": float(good.std())}  # fmt: skip
    for origin in dict.fromkeys(origins):
        mine = returns[[o == origin for o in origins]]
        finite = mine[np.isfinite(mine)]
        values[f"pop/return_by_origin/{origin}"] = float(finite.mean()) if len(finite) else math.nan
        values[f"pop/winner_origin/{origin}"] = float(winners.count(origin))
    return values
