"""Label bits: how much a teacher can convey about an image through subclasses beyond its class.

The formula behind the "label bits" of arXiv 2207.08063 was not available to us. We provide three readings: H(S | C) of
the labels alone; the entropy that a teacher's predictions leave within the classes; and the mutual information of image
and subclass given the class. For a calibrated teacher the first is the sum of the other two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from numpy.typing import NDArray
from sextet_common.checks import Count, OpenShare, check
from sextet_common.errors import InputError
from sextet_common.seeding import generator
from torch import Tensor

from subclass_kd.hierarchy import Hierarchy

_Array = NDArray[np.float64]
_BLOCK = 2**22  # numbers in a block of bootstrap draws


@dataclass(frozen=True)
class Bits:
    """Bits per sample, ``value``, with the bootstrap interval minus its bias, clipped to [0, ceiling].

    ``name`` is the reading: "label entropy", "teacher's within-class entropy" or "mutual information". ``ceiling`` is
    the largest possible value, ``sum_c p(c) log2 |c|``: all subclasses of a class equally likely.
    """

    name: str
    value: float
    low: float
    high: float
    ceiling: float

    def __str__(self) -> str:
        return f"{self.name}: {self.value:.4f} bits [{self.low:.4f}, {self.high:.4f}] of {self.ceiling:.4f}"


def label_bits(
    subclass_labels: Integer[np.ndarray, " samples"],
    hierarchy: Hierarchy,
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Bits:
    """Compute H(S | C) of the labels: what a subclass label conveys beyond its class, without a teacher.

    Images whose subclass is not known are left out.

    ``level``, ``draws`` and ``seed`` are the confidence level, the number of resamples and the seed of the bootstrap.

    Examples
    --------
    >>> pairs = Hierarchy.from_dict({"a": ["a0", "a1"], "b": ["b0", "b1"]})
    >>> label_bits(np.array([0, 1, 2, 3]), pairs).value
    1.0
    >>> label_bits(np.array([0, 0, 2, 2]), pairs).value
    0.0
    """
    given = hierarchy.check_labels(np.asarray(subclass_labels), all_known=False)
    labels = given[given >= 0]
    if given.ndim != 1 or not len(labels):
        raise InputError(
            f"labels have shape {given.shape}, {labels.size} of them subclasses", "(samples,), at least one"
        )
    counts = np.bincount(labels, minlength=hierarchy.n_subclasses)
    random = _bootstrap_generator(level, draws, seed)
    resampled = random.multinomial(len(labels), counts / len(labels), size=draws)  # equivalent to resampling labels
    values = _conditional_entropy(resampled, hierarchy)
    value = float(_conditional_entropy(counts[None], hierarchy)[0])
    class_shares = np.bincount(hierarchy.class_of, weights=counts, minlength=hierarchy.n_classes) / len(labels)
    return _bits("label entropy", value, values, level, class_shares, hierarchy)


def soft_label_bits(
    teacher_logits: Float[np.ndarray, "samples subclasses"] | Float[Tensor, "samples subclasses"],
    hierarchy: Hierarchy,
    temperature: float = 1.0,
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Bits:
    """Compute the mean entropy of a teacher's predictions within the classes, E[H(P(s|x)) - H(P(c|x))].

    The value depends on the temperature: report it at 1 and at the temperature of the distillation. The bootstrap's
    parameters are those of `label_bits`.

    Examples
    --------
    >>> pairs = Hierarchy.from_dict({"a": ["a0", "a1"], "b": ["b0", "b1"]})
    >>> soft_label_bits(torch.zeros(5, 4), pairs).value
    1.0
    """
    subclasses, classes = _probabilities(teacher_logits, hierarchy, temperature)
    within = _entropy(subclasses) - _entropy(classes)
    values = _resampled(lambda weights: weights @ within, len(within), level, draws, seed)
    name = "teacher's within-class entropy"
    return _bits(name, float(within.mean()), values, level, classes.mean(axis=0), hierarchy)


def mutual_label_bits(
    teacher_logits: Float[np.ndarray, "samples subclasses"] | Float[Tensor, "samples subclasses"],
    hierarchy: Hierarchy,
    temperature: float = 1.0,
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Bits:
    """Compute the information of an image about its subclass beyond the class, I(S; X | C), according to a teacher.

    It is H(S | C) of the mean prediction minus `soft_label_bits`, whose parameters it takes.

    Examples
    --------
    >>> pairs = Hierarchy.from_dict({"a": ["a0", "a1"], "b": ["b0", "b1"]})
    >>> round(mutual_label_bits(100 * torch.eye(4), pairs).value, 6)
    1.0
    """
    subclasses, classes = _probabilities(teacher_logits, hierarchy, temperature)
    within = _entropy(subclasses) - _entropy(classes)

    def information(weights: _Array) -> _Array:
        return _conditional_entropy(weights @ subclasses, hierarchy) - weights @ within

    value = float(information(np.full((1, len(within)), 1 / len(within)))[0])
    values = _resampled(information, len(within), level, draws, seed)
    return _bits("mutual information", value, values, level, classes.mean(axis=0), hierarchy)


def _probabilities(logits: object, hierarchy: Hierarchy, temperature: float) -> tuple[_Array, _Array]:
    """Return the softened probabilities of subclasses and classes, in float64."""
    table = logits.detach().cpu() if isinstance(logits, Tensor) else torch.tensor(np.asarray(logits))
    if table.ndim != 2 or not len(table) or not table.is_floating_point():
        given = f"the teacher's logits have dtype {table.dtype} and shape {tuple(table.shape)}"
        raise InputError(given, "floating-point numbers of shape (samples, subclasses)")
    if not bool(table.isfinite().all()):
        raise InputError("the teacher's logits contain NaN or infinity", "finite numbers")
    table = hierarchy.softened(table.double(), temperature)
    subclasses, classes = table.softmax(dim=1), hierarchy.class_logits(table).softmax(dim=1)
    return subclasses.numpy(), classes.numpy()


def _entropy(probabilities: _Array) -> _Array:
    """Compute the entropy of each row, in bits."""
    logs = np.log2(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    entropies: _Array = (probabilities * logs).sum(axis=-1)
    return -entropies


def _conditional_entropy(counts: NDArray[np.floating | np.integer], hierarchy: Hierarchy) -> _Array:
    """Compute H(S | C) of each row of counts or probabilities, in bits."""
    shares: _Array = counts / counts.sum(axis=1, keepdims=True)
    classes = np.zeros((len(shares), hierarchy.n_classes))
    np.add.at(classes.T, hierarchy.class_of, shares.T)
    return np.maximum(_entropy(shares) - _entropy(classes), 0.0)


def _bootstrap_generator(level: float, draws: int, seed: int) -> np.random.Generator:
    check("level", level, OpenShare)
    check("draws", draws, Count)
    return generator(seed, "bootstrap")


def _resampled(function: Callable[[_Array], _Array], samples: int, level: float, draws: int, seed: int) -> _Array:
    """Evaluate a function of sample weights, shape (draws, samples), on bootstrap resamples."""
    random = _bootstrap_generator(level, draws, seed)
    values, done = [], 0
    while done < draws:
        count = min(draws - done, max(1, _BLOCK // samples))
        values.append(function(random.multinomial(samples, np.full(samples, 1 / samples), size=count) / samples))
        done += count
    return np.concatenate(values)


def _bits(name: str, value: float, values: _Array, level: float, class_shares: _Array, hierarchy: Hierarchy) -> Bits:
    """Return a reading with the bootstrap's quantiles minus its bias: resamples have too little entropy on average."""
    ceiling = float(class_shares @ np.log2(hierarchy.sizes))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) + (value - values.mean())
    return Bits(name, value, float(max(0.0, min(low, value))), float(max(value, min(high, ceiling))), ceiling)
