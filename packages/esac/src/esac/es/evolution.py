"""Formulas of the evolution strategy: ranks, winners, crossover, gradient, top directions, mutation tuning."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from sextet_common.errors import InputError

from esac.config import Crossover, Selection
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
    fitness: Float[np.ndarray, "pairs 2"], noises: Float[np.ndarray, "pairs size"], sigma: float
) -> Float[np.ndarray, " size"]:
    """Estimate the gradient of the mean from mirrored pairs: ``sum_i (w_i+ - w_i-) eps_i / (n sigma)``."""
    weights = (fitness[:, 0] - fitness[:, 1]).astype(np.float32)
    direction: np.ndarray = weights @ noises / np.float32(max(1, len(fitness)) * sigma)
    return direction


def top_directions(returns: Float[np.ndarray, "pairs 2"], count: int) -> Int[np.ndarray, " count"]:
    """Return the pairs with the largest of their two returns, in their order.

    Examples
    --------
    >>> top_directions(np.array([[1.0, 2.0], [0.0, 9.0], [5.0, 3.0]]), 2).tolist()
    [1, 2]
    """
    chosen: np.ndarray = np.sort(np.argsort(-returns.max(axis=1), kind="stable")[:count])
    return chosen


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
