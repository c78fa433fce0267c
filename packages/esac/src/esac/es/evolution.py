"""Formulas of the evolution strategy: ranks, winners, crossover, gradient, optimizers, mutation tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sextet_common.errors import InputError

from esac.config import Crossover, Optimizer, Selection
from esac.play.policy import PolicyShape


def shaped_ranks(returns: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return ranks in [-0.5, 0.5]; ties share their mean rank, and NaN ranks last.

    Examples
    --------
    >>> shaped_ranks(np.array([5.0, np.nan, 7.0, 5.0]))
    array([ 0. , -0.5,  0.5,  0. ])
    """
    values = np.where(np.isnan(returns), -np.inf, np.asarray(returns, dtype=np.float64))
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean = last - (counts - 1) / 2  # the mean of the ranks, from 1, of equal values
    if len(values) < 2:
        return np.zeros(len(values))
    ranks: np.ndarray = (mean[inverse] - 1) / (len(values) - 1) - 0.5
    return ranks


def winners(
    returns: Float[np.ndarray, " n"],
    count: int,
    selection: Selection = "top",
    *,
    temperature: float = 1.0,
    random: np.random.Generator | None = None,
) -> Int[np.ndarray, " winners"]:
    """Choose the candidates that donate to the next generation and return their indices.

    "top" returns the best, the best first and the first of equals. "softmax" draws without replacement with
    probabilities proportional to the exponential of the standardised return over `temperature`; it needs `random`, and
    is not specified in the paper. NaN wins only when nothing else is left.
    """
    values = np.where(np.isnan(returns), -np.inf, np.asarray(returns, dtype=np.float64))
    if not 0 <= count <= len(values):
        raise InputError(f"{count} winners of {len(values)}", f"0 to {len(values)}")
    if selection == "top":
        return np.argsort(-values, kind="stable")[:count]
    if selection != "softmax" or random is None or not temperature > 0:
        raise InputError(f"selection {selection!r}, temperature {temperature}", "top, or softmax with a generator")
    finite = np.isfinite(values)
    std = values[finite].std() if finite.any() else 0.0
    mean = values[finite].mean() if finite.any() else 0.0
    scores = np.where(finite, (values - mean) / (std if std > 0 else 1.0) / temperature, -np.inf)
    gumbel = random.gumbel(size=len(values))  # Gumbel-max trick: the largest of scores + noise are such a draw
    return np.argsort(-(np.where(finite, scores + gumbel, -np.inf)), kind="stable")[:count]


def crossed(
    shape: PolicyShape,
    donor: Float[np.ndarray, " size"],
    receiver: Float[np.ndarray, " size"],
    random: np.random.Generator,
    kind: Crossover = "row",
) -> Float[np.ndarray, " size"]:
    """Return a copy of the receiver with some rows of the donor.

    In a layer of R rows, k rows are drawn with replacement, k uniform in 0..2R-1, and each drawn row comes from the
    donor with probability one half; for biases k is uniform in 0..R-1. This is equivalent to swapping rows one by one,
    since both parents hold the same row after its first swap. "row" draws weights and biases separately, "neuron"
    takes a row together with its bias, "none" copies the receiver.

    References
    ----------
    The operator of ERL, arXiv 1805.07917, as in ESAC's public code.
    """
    child = receiver.copy()
    if kind == "none":
        return child
    for (weights, biases), (donor_weights, donor_biases) in zip(shape.parts(child), shape.parts(donor), strict=True):
        rows = len(biases)
        weight_rows = _donated(rows, 2 * rows, random)
        weights[weight_rows] = donor_weights[weight_rows]
        bias_rows = weight_rows if kind == "neuron" else _donated(rows, rows, random)
        biases[bias_rows] = donor_biases[bias_rows]
    return child


def _donated(rows: int, most: int, random: np.random.Generator) -> np.ndarray:
    touched = np.unique(random.integers(rows, size=random.integers(most)))
    donated: np.ndarray = touched[random.random(len(touched)) < 0.5]
    return donated


def gradient(
    ranks: Float[np.ndarray, "pairs 2"], noises: Float[np.ndarray, "pairs size"], sigma: float
) -> Float[np.ndarray, " size"]:
    """Estimate the gradient of the mean from mirrored pairs: ``sum_i (w_i+ - w_i-) eps_i / (n sigma)``."""
    weights = (ranks[:, 0] - ranks[:, 1]).astype(np.float32)
    direction: np.ndarray = weights @ noises / np.float32(max(1, len(ranks)) * sigma)
    return direction


@dataclass
class Ascent:
    """Optimizer that moves a vector of ``size`` numbers uphill.

    ``kind`` is "adam", "sgd" or "clipup": momentum over directions of length ``lr``, clipped to a length of ``2 lr``.
    The weight decay ``l2`` is added to the gradient.

    References
    ----------
    ClipUp, arXiv 2008.02387, with its defaults: momentum 0.9, maximum speed twice the step size.
    """

    size: int
    lr: float
    kind: Optimizer = "adam"
    l2: float = 0.0

    def __post_init__(self) -> None:
        self.m = np.zeros(self.size, dtype=np.float32)
        self.v = np.zeros(self.size, dtype=np.float32)
        self.steps = 0

    def step(self, vector: np.ndarray, direction: np.ndarray) -> float:
        """Move the vector in place; return the length of the move over that of the vector."""
        direction = direction - self.l2 * vector
        move: np.ndarray
        if self.kind == "sgd":
            move = self.lr * direction
        elif self.kind == "clipup":
            move = self._clipup(direction)
        else:
            move = self._adam(direction)
        before = float(np.linalg.norm(vector))
        vector += move.astype(np.float32)
        return float(np.linalg.norm(move)) / max(before, 1e-12)

    def _clipup(self, direction: np.ndarray) -> np.ndarray:
        self.m *= np.float32(0.9)
        self.m += np.float32(self.lr / max(float(np.linalg.norm(direction)), 1e-12)) * direction
        self.m *= np.float32(min(1.0, 2 * self.lr / max(float(np.linalg.norm(self.m)), 1e-12)))
        return self.m.copy()

    def _adam(self, direction: np.ndarray) -> np.ndarray:
        self.steps += 1
        self.m += np.float32(0.1) * (direction - self.m)
        self.v += np.float32(0.001) * (direction * direction - self.v)
        m, v = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
        move: np.ndarray = self.lr * m / (np.sqrt(v) + 1e-8)
        return move

    def state(self) -> dict[str, Any]:
        """Return the moments and the number of steps as arrays."""
        return {"m": self.m, "v": self.v, "steps": np.array(self.steps)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.m, self.v, self.steps = np.array(state["m"]), np.array(state["v"]), int(state["steps"])


def tuned_sigma(
    sigma: float, returns: Float[np.ndarray, " n"], *, lr: float, pairs: int, clip: float, largest: float
) -> float:
    """Return ``sigma + clip(lr / (n sigma) SmoothL1(best, mean), 0, clip)``, at most `largest`.

    The clip binds nearly always, so that sigma grows by `clip` at each call; it stays if all returns are equal.

    References
    ----------
    Automatic mutation tuning of ESAC, arXiv 2007.13690, from the author's notes.

    Examples
    --------
    >>> round(tuned_sigma(0.005, np.array([1.0, 5.0]), lr=0.005, pairs=10, clip=1e-4, largest=1.0), 6)
    0.0051
    """
    finite = returns[np.isfinite(returns)]
    if not len(finite):
        return sigma
    gap = float(finite.max() - finite.mean())
    smooth = 0.5 * gap**2 if gap < 1 else gap - 0.5
    return float(min(largest, sigma + min(max(lr / (pairs * sigma) * smooth, 0.0), clip)))
