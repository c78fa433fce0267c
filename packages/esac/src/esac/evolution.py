"""Evolution strategies: noise by number, ranks, winners, crossover in hindsight, mutation tuning. NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from sextet_common.errors import InputError

from esac.policy import PolicyShape

Selection = Literal["top", "softmax"]
Crossover = Literal["row", "neuron", "none"]
Optimizer = Literal["adam", "sgd", "clipup"]


def noise(seed: int, generation: int, member: int, size: int) -> Float[np.ndarray, " size"]:
    """Draw a member's standard normal noise: a function of (seed, generation, member) alone.

    Examples
    --------
    >>> bool((noise(0, 3, 1, 5) == noise(0, 3, 1, 5)).all()), bool((noise(0, 3, 1, 5) == noise(0, 3, 2, 5)).any())
    (True, False)
    """
    entropy = np.random.SeedSequence((seed, 0x4E53, generation, member))
    random = np.random.Generator(np.random.Philox(entropy))
    return random.standard_normal(size, dtype=np.float32)


def shaped_ranks(returns: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return ranks in [-0.5, 0.5], equal returns averaged, what is not a number last.

    Examples
    --------
    >>> shaped_ranks(np.array([5.0, np.nan, 7.0, 5.0]))
    array([ 0. , -0.5,  0.5,  0. ])
    """
    values = np.where(np.isnan(returns), -np.inf, np.asarray(returns, dtype=np.float64))
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean = last - (counts - 1) / 2  # the mean of the ranks, from 1, that equal values share
    if len(values) < 2:
        return np.zeros(len(values))
    found: np.ndarray = (mean[inverse] - 1) / (len(values) - 1) - 0.5
    return found


def winners(
    returns: Float[np.ndarray, " n"],
    count: int,
    selection: Selection = "top",
    *,
    temperature: float = 1.0,
    random: np.random.Generator | None = None,
) -> Int[np.ndarray, " winners"]:
    """Choose the candidates that donate to the next generation.

    Parameters
    ----------
    returns
        Shape (n,); what is not a number never wins while others are left.
    count
        How many, at most n.
    selection
        "top" takes the best, of equals the first; "softmax" (*ours*) draws without replacement, with probabilities
        that grow exponentially with the standardised return.
    temperature
        Of "softmax".
    random
        Its generator.

    Returns
    -------
    array
        Numbers of candidates, the best first for "top".

    Raises
    ------
    InputError
        Where more are wanted than there are, or "softmax" lacks a generator.
    """
    values = np.where(np.isnan(returns), -np.inf, np.asarray(returns, dtype=np.float64))
    if not 0 <= count <= len(values):
        raise InputError(f"{count} winners of {len(values)}", f"0 to {len(values)}")
    if selection == "top":
        return np.argsort(-values, kind="stable")[:count]
    if selection != "softmax" or random is None or not temperature > 0:
        raise InputError(f"selection {selection!r}, temperature {temperature}", "top, or softmax with a generator")
    finite = np.isfinite(values)
    spread = values[finite].std() if finite.any() else 0.0
    middle = values[finite].mean() if finite.any() else 0.0
    scores = np.where(finite, (values - middle) / (spread if spread > 0 else 1.0) / temperature, -np.inf)
    gumbel = random.gumbel(size=len(values))  # the largest of scores plus Gumbel noise are such a draw
    return np.argsort(-(np.where(finite, scores + gumbel, -np.inf)), kind="stable")[:count]


def crossed(
    shape: PolicyShape,
    donor: Float[np.ndarray, " size"],
    receiver: Float[np.ndarray, " size"],
    random: np.random.Generator,
    kind: Crossover = "row",
) -> Float[np.ndarray, " size"]:
    """Return the receiver with some of the donor's rows.

    Of a layer of R rows, k of them are drawn with replacement, k uniform in 0..2R-1, and each that was drawn comes from
    the donor with probability one half; of biases k is uniform in 0..R-1. This is what swapping rows one after another
    amounts to, since both parents hold the same row after its first swap.

    Parameters
    ----------
    shape
        The vectors' layout.
    donor, receiver
        Vectors.
    random
        The generator.
    kind
        "row" draws weights and biases apart; "neuron" takes a row and its bias together; "none" gives the receiver.

    Returns
    -------
    array
        A new vector.

    References
    ----------
    The operator of ERL, arXiv 1805.07917, as ESAC's public code has it.
    """
    child = receiver.copy()
    if kind == "none":
        return child
    for (weights, biases), (w, b) in zip(shape.parts(child), shape.parts(donor), strict=True):
        rows = len(biases)
        taken = _taken(rows, 2 * rows, random)
        weights[taken] = w[taken]
        chosen = taken if kind == "neuron" else _taken(rows, rows, random)
        biases[chosen] = b[chosen]
    return child


def _taken(rows: int, most: int, random: np.random.Generator) -> np.ndarray:
    touched = np.unique(random.integers(rows, size=random.integers(most)))
    found: np.ndarray = touched[random.random(len(touched)) < 0.5]
    return found


def gradient(
    ranks: Float[np.ndarray, "pairs 2"], noises: Float[np.ndarray, "pairs size"], sigma: float
) -> Float[np.ndarray, " size"]:
    """Estimate the gradient of the mean from mirrored pairs: ``sum_i (w_i+ - w_i-) eps_i / (n sigma)``."""
    weights = (ranks[:, 0] - ranks[:, 1]).astype(np.float32)
    found: np.ndarray = weights @ noises / np.float32(max(1, len(ranks)) * sigma)
    return found


@dataclass
class Ascent:
    """An optimizer of the mean that climbs.

    Parameters
    ----------
    size
        Of the vector.
    lr
        Learning rate.
    kind
        "adam", "sgd", or "clipup": momentum of directions of one length, at most twice the learning rate long.
    l2
        Weight decay, added to the gradient.

    References
    ----------
    ClipUp, arXiv 2008.02387, with its defaults: momentum 0.9, the largest speed twice the step.
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
        """Move a vector in place; return the length of the move over that of the vector."""
        g = direction - self.l2 * vector
        move: np.ndarray
        if self.kind == "sgd":
            move = self.lr * g
        elif self.kind == "clipup":
            self.m *= np.float32(0.9)
            self.m += np.float32(self.lr / max(float(np.linalg.norm(g)), 1e-12)) * g
            self.m *= np.float32(min(1.0, 2 * self.lr / max(float(np.linalg.norm(self.m)), 1e-12)))
            move = self.m.copy()
        else:
            self.steps += 1
            self.m += np.float32(0.1) * (g - self.m)
            self.v += np.float32(0.001) * (g * g - self.v)
            m, v = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
            move = self.lr * m / (np.sqrt(v) + 1e-8)
        before = float(np.linalg.norm(vector))
        vector += move.astype(np.float32)
        return float(np.linalg.norm(move)) / max(before, 1e-12)

    def state(self) -> dict[str, Any]:
        """Return the state as arrays."""
        return {"m": self.m, "v": self.v, "steps": np.array(self.steps)}

    def load(self, state: dict[str, Any]) -> None:
        """Take such a state."""
        self.m, self.v, self.steps = np.array(state["m"]), np.array(state["v"]), int(state["steps"])


def tuned_sigma(
    sigma: float, returns: Float[np.ndarray, " n"], *, lr: float, pairs: int, clip: float, largest: float
) -> float:
    """Tune the mutation: ``sigma + clip(lr / (n sigma) SmoothL1(best, mean), 0, zeta)``, at most `largest`.

    The clip binds nearly always, so that the deviation grows by zeta at each call; without any difference between the
    returns it does not grow.

    References
    ----------
    Automatic mutation tuning of ESAC, arXiv 2007.13690, by its author's notes.

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
