"""Aggregates of the last evaluations of several runs, and comparisons between labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float

from esac.results.records import Folder, Labels, grouped, read
from esac.results.statistics import Interval, interval, iqm, probability_of_improvement


@dataclass(frozen=True)
class Summary:
    """Aggregates of the runs of one environment and label, one per seed.

    ``final`` is the mean over seeds of the last evaluation's mean return, ``iqm`` its interquartile mean with a 95 %
    bootstrap interval. Both ignore ``failed`` runs, whose last evaluation is not finite.
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
    """Probability that a run of `label` ends above a run of `other`, a tie counting one half (95 % interval)."""

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
    """Return a summary per environment and label; runs without evaluations are ignored.

    The arguments are those of `esac.results.records.read`.
    """
    rows = []
    for env, labels in _last(folders, label).items():
        for name, last in labels.items():
            finite = last[np.isfinite(last)]
            middle = interval(iqm, finite) if len(finite) else Interval(math.nan, math.nan, math.nan)
            final = float(finite.mean()) if len(finite) else math.nan
            rows.append(Summary(env, name, len(last), len(last) - len(finite), final, middle))
    return rows


def improvements(folders: Sequence[Folder], label: Labels = None) -> list[Improvement]:
    """Return the probability of improvement for every two labels of an environment.

    Runs whose last evaluation is missing or not finite are ignored. The arguments are those of
    `esac.results.records.read`.
    """
    rows = []
    for env, labels in _last(folders, label).items():
        finite = {name: last[np.isfinite(last)] for name, last in labels.items()}
        for (one, x), (other, y) in combinations([pair for pair in finite.items() if len(pair[1])], 2):
            rows.append(Improvement(env, one, other, interval(probability_of_improvement, x, y)))
    return rows


def _last(folders: Sequence[Folder], label: Labels) -> dict[str, dict[str, Float[np.ndarray, " runs"]]]:
    """Return the last evaluation's mean return of every run, by environment and label."""
    records = [record for record in read(folders, label) if record.evaluations]
    return {
        env: {name: np.array([record.evaluations["mean"][-1] for record in group]) for name, group in labels.items()}
        for env, labels in grouped(records).items()
    }
