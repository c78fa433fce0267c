"""Optimizers of the population's mean behind one interface: directions (ARS, OpenAI-ES), PGPE and CMA-ES."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import cmaes  # type: ignore[import-untyped]  # it has no stubs
import numpy as np
from jaxtyping import Bool, Float
from sextet_common.errors import InputError
from sextet_common.seeding import derive, generator

from esac.config import ESACConfig
from esac.es import evolution
from esac.es.ascent import Ascent
from esac.play.policy import PolicyShape
from esac.play.task import Task, noise

_CMA_LIMIT = 2000  # weights: the covariance matrix is dense, its decomposition takes seconds beyond
_CMA_ARRAYS = ("mean", "C", "pc", "p_sigma", "sigma", "g", "funhist_values")
_PGPE_MOST = 0.2  # largest relative change of a standard deviation in a generation


class Optimizer(ABC):
    """Asks for the candidates of a generation, and moves its mean by their returns.

    A generation has ``population`` members of two candidates each. The rows that `ask` returns reach the workers as the
    bases of the tasks, one task for each candidate.

    Attributes
    ----------
    mean
        Shape (size,), float32.
    sigma
        Standard deviation of the mutations.
    """

    mean: Float[np.ndarray, " size"]
    sigma: float

    def __init__(self, shape: PolicyShape, config: ESACConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.mean, self.sigma = shape.initial(generator(seed, "mean")), config.sigma

    @abstractmethod
    def ask(self, number: int) -> tuple[Float[np.ndarray, "rows size"], list[Task]]:
        """Return the rows of a generation and the tasks of its candidates, two for each member in turn."""

    @abstractmethod
    def tell(
        self, number: int, fitness: Float[np.ndarray, "population 2"], counted: Bool[np.ndarray, " population"]
    ) -> dict[str, float]:
        """Move the mean by the fitness of all candidates, of which the ``counted`` members matter; return metrics."""

    @abstractmethod
    def candidates(self, number: int, rows: np.ndarray, chosen: list[int]) -> Float[np.ndarray, "chosen size"]:
        """Return the vectors of some candidates of a generation, given the rows that were evaluated."""

    def place(self, vector: Float[np.ndarray, " size"]) -> None:
        """Replace the mean, and forget where it was moving."""
        self.mean = vector.copy()

    def state(self) -> dict[str, np.ndarray]:
        """Return the state but for sigma as arrays."""
        return {"mean": self.mean}

    def load_state(self, arrays: Mapping[str, Any], sigma: float) -> None:
        """Restore what `state` returned, and sigma."""
        self.mean, self.sigma = np.array(arrays["mean"]), sigma


class Directions(Optimizer):
    """Mirrored directions whose differences of fitness move the mean, weighted by ranks or by returns.

    With returns, the ``es_top`` best directions count, and their differences are divided by the standard deviation of
    their returns: augmented random search (ARS). With ranks it is OpenAI's evolution strategy.

    References
    ----------
    ARS, arXiv 1803.07055. OpenAI-ES, arXiv 1703.03864.
    """

    def __init__(self, shape: PolicyShape, config: ESACConfig, seed: int) -> None:
        super().__init__(shape, config, seed)
        self.ascent = Ascent(shape.size, config.es_lr, config.ascent, config.l2)
        self.signs = (1, -1) if config.mirrored == "antithetic" else (1, 0)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the mutations, which the tuned sigma need not reach (``amt_apply``)."""
        return self.sigma if self.config.amt_apply == "both" else self.config.sigma

    def ask(self, number: int) -> tuple[Float[np.ndarray, "rows size"], list[Task]]:
        """Return the mean for each member, and the tasks of its two mutations."""
        members = range(self.config.population)
        tasks = [Task(m, number, m, sign, self.noise_std) for m in members for sign in self.signs]
        return np.tile(self.mean, (self.config.population, 1)), tasks

    def tell(
        self, number: int, fitness: Float[np.ndarray, "population 2"], counted: Bool[np.ndarray, " population"]
    ) -> dict[str, float]:
        """Take a step of the ascent."""
        members = np.flatnonzero(counted)
        if not len(members) or np.ptp(fitness[members]) == 0:
            return {}
        if self.config.shaping == "returns":
            best = evolution.top_directions(fitness[members], self.config.es_top or len(members))
            members = members[best]
            weights, scale = fitness[members] / (fitness[members].std() or 1.0), 1.0
        else:
            weights, scale = evolution.shaped_ranks(fitness.flatten()).reshape(-1, 2)[members], self.sigma
        noises = np.stack([noise(self.seed, number, int(m), len(self.mean)) for m in members])
        direction = evolution.gradient(weights, noises, scale)
        ratio = self.ascent.step(self.mean, direction)
        return {"es/grad_norm": float(np.linalg.norm(direction)), "es/update_ratio": ratio}

    def candidates(self, number: int, rows: np.ndarray, chosen: list[int]) -> Float[np.ndarray, "chosen size"]:
        """Return mutated vectors."""
        drawn = {member: noise(self.seed, number, member, len(self.mean)) for member in {c // 2 for c in chosen}}
        std = self.noise_std
        return np.stack([rows[c // 2] + np.float32(self.signs[c % 2] * std) * drawn[c // 2] for c in chosen])

    def place(self, vector: Float[np.ndarray, " size"]) -> None:
        """Replace the mean, and forget where it was moving."""
        super().place(vector)
        self.ascent.__post_init__()

    def state(self) -> dict[str, np.ndarray]:
        """Return mean and moments."""
        return {"mean": self.mean, **{f"ascent.{key}": value for key, value in self.ascent.state().items()}}

    def load_state(self, arrays: Mapping[str, Any], sigma: float) -> None:
        """Restore what `state` returned, and sigma."""
        super().load_state(arrays, sigma)
        self.ascent.load_state({key: arrays[f"ascent.{key}"] for key in ("m", "v", "steps")})


class PGPE(Directions):
    """Policy gradients with parameter-based exploration: each weight has a standard deviation that is learned too.

    References
    ----------
    PGPE, Sehnke et al. 2010, with symmetric sampling and centred ranks; ClipUp, arXiv 2008.02387.
    """

    def __init__(self, shape: PolicyShape, config: ESACConfig, seed: int) -> None:
        super().__init__(shape, config, seed)
        self.std: np.ndarray = np.full(shape.size, config.sigma, dtype=np.float32)

    def ask(self, number: int) -> tuple[Float[np.ndarray, "rows size"], list[Task]]:
        """Return the mean and the standard deviations, and the tasks of all mutations."""
        members = range(self.config.population)
        return np.stack([self.mean, self.std]), [Task(0, number, m, s, 1.0, spread=1) for m in members for s in (1, -1)]

    def tell(
        self, number: int, fitness: Float[np.ndarray, "population 2"], counted: Bool[np.ndarray, " population"]
    ) -> dict[str, float]:
        """Move the mean along differences, and the standard deviations along sums, of the ranks."""
        members = np.flatnonzero(counted)
        if not len(members) or np.ptp(fitness[members]) == 0:
            return {}
        ranks = evolution.shaped_ranks(fitness[members].flatten()).reshape(-1, 2).astype(np.float32)
        noises = np.stack([noise(self.seed, number, int(m), len(self.mean)) for m in members])
        moves = noises * self.std
        differences, sums = (ranks[:, 0] - ranks[:, 1]) / 2, (ranks[:, 0] + ranks[:, 1]) / 2
        direction = differences @ moves / np.float32(len(members))
        growth = sums @ ((moves**2 - self.std**2) / self.std) / np.float32(len(members))
        ratio = self.ascent.step(self.mean, direction)
        change = np.clip(np.float32(self.config.es_std_lr) * growth, -_PGPE_MOST * self.std, _PGPE_MOST * self.std)
        self.std = (self.std + change).astype(np.float32)
        self.sigma = float(self.std.mean())
        return {"es/grad_norm": float(np.linalg.norm(direction)), "es/update_ratio": ratio}

    def candidates(self, number: int, rows: np.ndarray, chosen: list[int]) -> Float[np.ndarray, "chosen size"]:
        """Return mutated vectors."""
        drawn = [noise(self.seed, number, c // 2, len(self.mean)) * rows[1] for c in chosen]
        return np.stack([rows[0] + np.float32((1, -1)[c % 2]) * each for c, each in zip(chosen, drawn, strict=True)])

    def state(self) -> dict[str, np.ndarray]:
        """Return mean, standard deviations and moments."""
        return {**super().state(), "std": self.std}

    def load_state(self, arrays: Mapping[str, Any], sigma: float) -> None:
        """Restore what `state` returned, and sigma."""
        super().load_state(arrays, sigma)
        self.std = np.array(arrays["std"])


class CMA(Optimizer):
    """CMA-ES of the package cmaes, for policies of few weights.

    Its random numbers are keyed by the generation, so that a resumed run draws the same candidates.

    References
    ----------
    The CMA evolution strategy: a tutorial, arXiv 1604.00772.
    """

    def __init__(self, shape: PolicyShape, config: ESACConfig, seed: int) -> None:
        super().__init__(shape, config, seed)
        if shape.size > _CMA_LIMIT:
            remedy = f"at most {_CMA_LIMIT}: es_hidden=(), or another es_method"
            raise InputError(f"CMA-ES of {shape.size} weights", remedy)
        self._cma: Any = cmaes.CMA(self.mean.astype(np.float64), config.sigma, population_size=2 * config.population)

    def ask(self, number: int) -> tuple[Float[np.ndarray, "rows size"], list[Task]]:
        """Return the candidates, and a task without noise for each."""
        self._cma.reseed_rng(derive(self.seed, "cma", number) % 2**32)
        rows = np.stack([self._cma.ask() for _ in range(2 * self.config.population)]).astype(np.float32)
        return rows, [Task(k, number, k // 2, 0, 0.0) for k in range(len(rows))]

    def tell(
        self, number: int, fitness: Float[np.ndarray, "population 2"], counted: Bool[np.ndarray, " population"]
    ) -> dict[str, float]:
        """Update mean, step size and covariance; candidates that do not count are the worst."""
        rows, _ = self.ask(number)
        values = np.where(np.repeat(counted, 2), -fitness.flatten(), np.inf)
        self._cma.tell([(row.astype(np.float64), float(value)) for row, value in zip(rows, values, strict=True)])
        move = self._cma.mean - self.mean
        ratio = float(np.linalg.norm(move) / max(float(np.linalg.norm(self.mean)), 1e-12))
        self._read()
        return {"es/update_ratio": ratio}

    def candidates(self, number: int, rows: np.ndarray, chosen: list[int]) -> Float[np.ndarray, "chosen size"]:
        """Return rows: each is a candidate."""
        return rows[chosen]

    def place(self, vector: Float[np.ndarray, " size"]) -> None:
        """Replace the mean, and forget where it was moving."""
        self._cma._mean = vector.astype(np.float64)
        self._cma._pc, self._cma._p_sigma = np.zeros(len(vector)), np.zeros(len(vector))
        self._read()

    def _read(self) -> None:
        self.mean, self.sigma = self._cma.mean.astype(np.float32), float(self._cma._sigma)

    def state(self) -> dict[str, np.ndarray]:
        """Return what the package keeps between generations."""
        return {"mean": self.mean, **{f"cma.{name}": np.array(getattr(self._cma, f"_{name}")) for name in _CMA_ARRAYS}}

    def load_state(self, arrays: Mapping[str, Any], sigma: float) -> None:
        """Restore what `state` returned."""
        for name in _CMA_ARRAYS:
            value = np.array(arrays[f"cma.{name}"])
            setattr(self._cma, f"_{name}", value if value.ndim else value.item())
        self._cma._B = self._cma._D = None
        self._read()


def make(shape: PolicyShape, config: ESACConfig, seed: int) -> Optimizer:
    """Return the optimizer that a configuration names."""
    return {"ars": Directions, "openai": Directions, "pgpe": PGPE, "cma": CMA}[config.es_method](shape, config, seed)
