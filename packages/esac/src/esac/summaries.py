"""What several runs came to: aggregates of their last evaluations, and who ends above whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float

from esac.records import Folder, Labels, grouped, read
from esac.statistics import Interval, interval, iqm, probability_of_improvement


@dataclass(frozen=True)
class Summary:
    """What the runs of one environment and label came to.

    Attributes
    ----------
    env, label
        Environment and label.
    seeds
        How many runs.
    failed
        How many of them have a last evaluation that is not finite; they are left out of the numbers.
    final
        The mean over seeds of the last evaluation's mean return.
    iqm
        The interquartile mean of the same, with its 95 % bootstrap interval.
    """

    env: str
    label: str
    seeds: int
    failed: int
    final: float
    iqm: Interval

    def __str__(self) -> str:
        seeds = f"{self.seeds} seed" + ("" if self.seeds == 1 else "s")
        failed = f", {self.failed} failed" if self.failed else ""
        interval = f"(95 % interval {self.iqm.low:.1f} to {self.iqm.high:.1f})"
        return f"{self.env}, {self.label}, {seeds}{failed}: mean {self.final:.1f}, IQM {self.iqm.value:.1f} {interval}"


@dataclass(frozen=True)
class Improvement:
    """How probably one label's run beats another's.

    Attributes
    ----------
    env
        The environment.
    label, other
        The two.
    probability
        That a run of the first ends higher, a tie counted as one half, with its 95 % bootstrap interval.
    """

    env: str
    label: str
    other: str
    probability: Interval

    def __str__(self) -> str:
        p = self.probability
        return (
            f"{self.env}: {self.label} ends above {self.other} with probability {p.value:.2f} "
            f"(95 % interval {p.low:.2f} to {p.high:.2f})"
        )


def summary(folders: Sequence[Folder], label: Labels = None) -> list[Summary]:
    """Return what runs came to, a row an environment and label.

    Parameters
    ----------
    folders, label
        As for :func:`read`; runs without any evaluation are left out.

    Returns
    -------
    list of Summary
        The rows.

    Raises
    ------
    InputError
        As for :func:`read`.
    """
    rows = []
    for env, labels in _last(folders, label).items():
        for name, last in labels.items():
            finite = last[np.isfinite(last)]
            found = interval(iqm, finite) if len(finite) else Interval(math.nan, math.nan, math.nan)
            final = float(finite.mean()) if len(finite) else math.nan
            rows.append(Summary(env, name, len(last), len(last) - len(finite), final, found))
    return rows


def improvements(folders: Sequence[Folder], label: Labels = None) -> list[Improvement]:
    """Return how probably a run of one label beats a run of another, for each two labels of an environment.

    Parameters
    ----------
    folders, label
        As for :func:`read`; runs whose last evaluation is not finite, or that have none, are left out.

    Returns
    -------
    list of Improvement
        The pairs.

    Raises
    ------
    InputError
        As for :func:`read`.
    """
    found = []
    for env, labels in _last(folders, label).items():
        finite = {name: last[np.isfinite(last)] for name, last in labels.items()}
        for (one, ours), (other, theirs) in combinations([pair for pair in finite.items() if len(pair[1])], 2):
            found.append(Improvement(env, one, other, interval(probability_of_improvement, ours, theirs)))
    return found


def _last(folders: Sequence[Folder], label: Labels) -> dict[str, dict[str, Float[np.ndarray, " runs"]]]:
    """Return the last evaluation's mean return of every run, by environment and label."""
    records = [record for record in read(folders, label) if record.evaluations]
    return {
        env: {name: np.array([record.evaluations["mean"][-1] for record in group]) for name, group in labels.items()}
        for env, labels in grouped(records).items()
    }
