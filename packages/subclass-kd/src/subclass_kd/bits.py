"""How many bits a teacher can tell about an image through subclasses, beyond its class: three readings.

The formula of arXiv 2207.08063 was not at hand. Its "label bits" can be read in three ways, which are here under names
of their own: of the labels alone, H(S | C); of a teacher, the entropy that is left within the classes of its
prediction; and what the image says about the subclass beyond the class. For a calibrated teacher the first is the sum
of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from sextet_common.errors import InputError
from sextet_common.seeding import generator
from torch import Tensor

from subclass_kd.hierarchy import Hierarchy

_AT_ONCE = 2**22  # numbers in a block of bootstrap draws


@dataclass(frozen=True)
class Bits:
    """A number of bits a sample, with a bootstrap interval.

    Parameters
    ----------
    name
        Which reading: "label entropy", "teacher's within-class entropy" or "mutual information".
    value
        Bits a sample.
    low, high
        Ends of the interval, which is the bootstrap's less its bias, within 0 and the ceiling.
    ceiling
        What they could be at most: ``sum_c p(c) log2 |c|``, every class's subclasses equally likely.
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
    """Compute H(S | C) of the labels: what a subclass label tells beyond its class, a teacher aside.

    Parameters
    ----------
    subclass_labels
        Shape (samples,).
    hierarchy
        The subclasses' classes.
    level, draws, seed
        Of the bootstrap interval: its level, how many resamples, and their seed.

    Returns
    -------
    Bits
        Bits a sample.

    Raises
    ------
    InputError
        Where a label is out of range, there is none, or an option is outside what is accepted.

    Examples
    --------
    >>> pairs = Hierarchy.from_dict({"a": ["a0", "a1"], "b": ["b0", "b1"]})
    >>> label_bits(np.array([0, 1, 2, 3]), pairs).value
    1.0
    >>> label_bits(np.array([0, 0, 2, 2]), pairs).value
    0.0
    """
    labels = hierarchy.check_labels(np.asarray(subclass_labels))
    if labels.ndim != 1 or not len(labels):
        raise InputError(f"labels have shape {labels.shape}", "(samples,), one at least")
    counts = np.bincount(labels, minlength=hierarchy.n_subclasses)
    random = _random(level, draws, seed)
    resampled = random.multinomial(len(labels), counts / len(labels), size=draws)  # what resampling labels amounts to
    values = _conditional_entropy(resampled, hierarchy)
    value = float(_conditional_entropy(counts[None], hierarchy)[0])
    share = np.bincount(hierarchy.class_of, weights=counts, minlength=hierarchy.n_classes) / len(labels)
    ceiling = _ceiling(share, hierarchy)
    return Bits("label entropy", value, *_interval(values, level, value, ceiling), ceiling)


def soft_label_bits(
    teacher_logits: Float[np.ndarray, "samples subclasses"] | Float[Tensor, "samples subclasses"],
    hierarchy: Hierarchy,
    temperature: float = 1.0,
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Bits:
    """Compute the mean entropy that a teacher's prediction leaves within the classes: H(P(s|x)) - H(P(c|x)).

    Parameters
    ----------
    teacher_logits
        Shape (samples, subclasses).
    hierarchy
        The subclasses' classes.
    temperature
        Divides the logits. The number depends on it: at 1, and at that of the distillation, are those to report.
    level, draws, seed
        As in `label_bits`.

    Returns
    -------
    Bits
        Bits a sample.

    Raises
    ------
    InputError
        Where logits do not fit, or an option is outside what is accepted.

    Examples
    --------
    >>> pairs = Hierarchy.from_dict({"a": ["a0", "a1"], "b": ["b0", "b1"]})
    >>> soft_label_bits(torch.zeros(5, 4), pairs).value
    1.0
    """
    subclasses, classes = _probabilities(teacher_logits, hierarchy, temperature)
    each = _entropy(subclasses) - _entropy(classes)
    values = _resampled(lambda weights: weights @ each, len(each), level, draws, seed)
    ceiling = _ceiling(classes.mean(axis=0), hierarchy)
    value = float(each.mean())
    return Bits("teacher's within-class entropy", value, *_interval(values, level, value, ceiling), ceiling)


def mutual_label_bits(
    teacher_logits: Float[np.ndarray, "samples subclasses"] | Float[Tensor, "samples subclasses"],
    hierarchy: Hierarchy,
    temperature: float = 1.0,
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Bits:
    """Compute how much an image tells the teacher about the subclass beyond the class: I(S; X | C).

    H(S | C) of the mean prediction less `soft_label_bits`.

    Parameters
    ----------
    teacher_logits, hierarchy, temperature, level, draws, seed
        As in `soft_label_bits`.

    Returns
    -------
    Bits
        Bits a sample.

    Raises
    ------
    InputError
        As `soft_label_bits`.

    Examples
    --------
    >>> pairs = Hierarchy.from_dict({"a": ["a0", "a1"], "b": ["b0", "b1"]})
    >>> round(mutual_label_bits(100 * torch.eye(4), pairs).value, 6)
    1.0
    """
    subclasses, classes = _probabilities(teacher_logits, hierarchy, temperature)
    each = _entropy(subclasses) - _entropy(classes)

    def information(weights: np.ndarray) -> np.ndarray:
        found: np.ndarray = _conditional_entropy(weights @ subclasses, hierarchy) - weights @ each
        return found

    whole = np.full((1, len(each)), 1 / len(each))
    values = _resampled(information, len(each), level, draws, seed)
    ceiling = _ceiling(classes.mean(axis=0), hierarchy)
    value = float(information(whole)[0])
    return Bits("mutual information", value, *_interval(values, level, value, ceiling), ceiling)


def _probabilities(logits: object, hierarchy: Hierarchy, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    table = logits.detach().cpu() if isinstance(logits, Tensor) else torch.tensor(np.asarray(logits))
    if table.ndim != 2 or not len(table) or not table.is_floating_point():
        raise InputError(f"teacher's logits are {table.dtype} of shape {tuple(table.shape)}", "(samples, subclasses)")
    if not bool(table.isfinite().all()):
        raise InputError("a teacher's logit is not finite", "finite numbers")
    table = hierarchy.softened(table.double(), temperature)
    subclasses, classes = table.softmax(dim=1), hierarchy.class_logits(table).softmax(dim=1)
    return subclasses.numpy(), classes.numpy()


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """Compute the entropy of each row, in bits."""
    logs = np.log2(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    found: np.ndarray = -(probabilities * logs).sum(axis=-1)
    return found


def _conditional_entropy(counts: np.ndarray, hierarchy: Hierarchy) -> np.ndarray:
    """Compute H(S | C) of each row of counts or probabilities, in bits."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    classes = np.zeros((len(shares), hierarchy.n_classes))
    np.add.at(classes.T, hierarchy.class_of, shares.T)
    found: np.ndarray = np.maximum(_entropy(shares) - _entropy(classes), 0.0)
    return found


def _ceiling(class_shares: np.ndarray, hierarchy: Hierarchy) -> float:
    return float(class_shares @ np.log2(hierarchy.sizes))


def _random(level: float, draws: int, seed: int) -> np.random.Generator:
    if not 0 < level < 1:
        raise InputError(f"the interval's level is {level}", "a number in (0, 1)")
    if draws < 1:
        raise InputError(f"draws is {draws}", "a whole number >= 1")
    return generator(seed, "bootstrap")


def _resampled(
    function: Callable[[np.ndarray], np.ndarray], samples: int, level: float, draws: int, seed: int
) -> np.ndarray:
    """Evaluate a function of the samples' weights, (draws, samples), for bootstrap resamples."""
    random = _random(level, draws, seed)
    found, done = [], 0
    while done < draws:
        count = min(draws - done, max(1, _AT_ONCE // samples))
        found.append(function(random.multinomial(samples, np.full(samples, 1 / samples), size=count) / samples))
        done += count
    return np.concatenate(found)


def _interval(values: np.ndarray, level: float, value: float, ceiling: float) -> tuple[float, float]:
    """Return the bootstrap's quantiles less its bias: entropies of resamples are too small, on average."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) + (value - values.mean())
    return float(max(0.0, min(low, value))), float(max(value, min(high, ceiling)))
