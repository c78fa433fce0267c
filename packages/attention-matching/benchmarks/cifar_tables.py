"""The tables of the CIFAR-10 benchmark: accuracies, and what a gain consists of.

A setting is (method, norm, whitening). The difference between two settings is divided among the factors that change by
their Shapley values: each factor's gain, averaged over the orders in which the factors can be changed one by one.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

FACTORS = ("attention", "norm", "whitening")
REAL = "random real"
_Key: TypeAlias = tuple[int, str, str, int, int, str, int]
Setting: TypeAlias = tuple[str, str, str]
Accuracies: TypeAlias = Mapping[int, Sequence[float]]
"""Of each seed's set, the accuracy of every network that was trained on it."""


@dataclass(frozen=True)
class Row:
    """What was measured of one distilled set; accuracies are in [0, 1]."""

    method: str
    pixels: str
    norm: str
    whitening: str
    power: int
    ipc: int
    seed: int
    steps: int
    width: int
    epochs: int
    """Of the networks that the accuracies are of."""
    accuracies: list[float]
    png_accuracies: list[float] = field(default_factory=list)
    """Of the images as PNG files: clipped to [0, 1], in 8 bits."""
    outside: float = 0.0
    """Share of the pixels outside [0, 1]."""
    cosine: float = 1.0
    """Of the images after the first step with the real images that they started from."""
    curve: dict[str, list[float]] = field(default_factory=dict)
    """Accuracies after fewer steps, by their number."""

    @property
    def setting(self) -> Setting:
        """The factors that a difference is attributed to."""
        return self.method, self.norm, self.whitening


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, as shares of 1; NaN for an error that cannot be estimated."""

    value: float
    error: float

    def __str__(self) -> str:
        error = "" if math.isnan(self.error) else f" ± {100 * self.error:.1f}"
        return f"{100 * self.value:+.1f}{error}"


def shares(start: Setting, end: Setting) -> dict[str, dict[Setting, Fraction]]:
    """Return the weight of each setting's accuracy in each changed factor's share of end minus start.

    Examples
    --------
    >>> shares(("dm", "instance", "none"), ("atom", "instance", "none"))["attention"][("atom", "instance", "none")]
    Fraction(1, 1)
    """
    changed = [number for number in range(len(FACTORS)) if start[number] != end[number]]
    weights: dict[str, dict[Setting, Fraction]] = {FACTORS[n]: defaultdict(Fraction) for n in changed}
    orders = list(itertools.permutations(changed))
    for order in orders:
        now = start
        for number in order:
            after = (*now[:number], end[number], *now[number + 1 :])
            weights[FACTORS[number]][after] += Fraction(1, len(orders))
            weights[FACTORS[number]][now] -= Fraction(1, len(orders))
            now = after
    return weights


def estimate(weights: Mapping[Setting, Fraction], measured: Mapping[Setting, Accuracies]) -> Estimate | None:
    """Return a weighted sum of settings' accuracies, over the seeds that all of them have; None without any.

    With several seeds the standard error is that over the seeds, whose draws all settings share; with one it is that
    over the networks alone.
    """
    used = [setting for setting, weight in weights.items() if weight]
    seeds = set.intersection(*(set(measured.get(setting, {})) for setting in used)) if used else set()
    if not seeds:
        return None
    values = [
        sum(float(weights[setting]) * statistics.fmean(measured[setting][seed]) for setting in used)
        for seed in sorted(seeds)
    ]
    if len(values) > 1:
        return Estimate(statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values)))
    (seed,) = seeds
    networks = {setting: measured[setting][seed] for setting in used}
    if min(map(len, networks.values())) < 2:
        return Estimate(values[0], math.nan)
    variances = (float(weights[s]) ** 2 * statistics.variance(each) / len(each) for s, each in networks.items())
    return Estimate(values[0], math.sqrt(sum(variances)))


def attribution(rows: Sequence[Row]) -> str:
    """Return as Markdown what each attention method gains over DM, and by which factor; empty without any."""
    lines = [
        "| images per class | pixels | method, norm, whitening | over DM with | gain, points "
        "| of attention | of the norm | of whitening |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for ipc, pixels in sorted({(row.ipc, row.pixels) for row in rows if row.method != REAL}):
        measured: dict[Setting, dict[int, list[float]]] = defaultdict(dict)
        for row in rows:
            if (row.ipc, row.pixels) == (ipc, pixels):
                measured[row.setting][row.seed] = row.accuracies
        plain = ("dm", "instance", "none")
        ends = sorted((s for s in measured if s[0] not in ("dm", REAL)), key=lambda s: (s[0] == "atom", s))
        for end in ends:
            for start in dict.fromkeys([("dm", *end[1:]), plain]):
                lines += _line(ipc, pixels, start, end, measured)
    return "\n".join(lines) if len(lines) > 2 else ""


def _line(ipc: int, pixels: str, start: Setting, end: Setting, measured: Mapping[Setting, Accuracies]) -> list[str]:
    """Return a line of the table, or none where a setting is not measured."""
    total = estimate({end: Fraction(1), start: Fraction(-1)}, measured)
    parts = {factor: estimate(weights, measured) for factor, weights in shares(start, end).items()}
    if total is None or None in parts.values():
        return []
    cells = [str(parts[factor]) if factor in parts else "" for factor in FACTORS]
    return [f"| {ipc} | {pixels} | {', '.join(end)} | {', '.join(start[1:])} | {total} | {' | '.join(cells)} |"]


def percent(accuracies: Sequence[Sequence[float]]) -> str:
    """Return mean and standard deviation over sets and networks."""
    values = [100 * value for each in accuracies for value in each]
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def _settings(rows: Sequence[Row]) -> dict[_Key, list[Row]]:
    """Group the rows by all but the seed."""

    def key(row: Row) -> _Key:
        order = (REAL, "dm", "datadam", "atom")
        return row.ipc, row.norm, row.whitening, row.power, order.index(row.method), row.pixels, row.steps

    ordered = sorted(rows, key=key)
    return {k: list(group) for k, group in itertools.groupby(ordered, key)}


def table(rows: Sequence[Row]) -> str:
    """Return the accuracies as Markdown."""
    lines = [
        "| images per class | norm | whitening | trained on | pixels | sets | test accuracy, % | as PNG files, % "
        "| outside [0, 1], % | cosine with the start |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (ipc, norm, whitening, *_), group in _settings(rows).items():
        first = group[0]
        cells = [ipc, norm, whitening, first.method, "" if first.method == REAL else first.pixels, len(group)]
        cells.append(percent([row.accuracies for row in group]))
        if first.method == REAL:
            cells += ["", "", ""]
        else:
            cells.append(percent([row.png_accuracies for row in group]))
            cells.append(f"{100 * statistics.fmean(row.outside for row in group):.0f}")
            cells.append(f"{statistics.fmean(row.cosine for row in group):.2f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def curves(rows: Sequence[Row]) -> str:
    """Return the accuracies against the number of steps as Markdown; empty where none was kept."""
    rows = [row for row in rows if row.curve]
    steps = sorted({int(n) for row in rows for n in (*row.curve, row.steps)})
    if not steps:
        return ""
    lines = [
        f"| images per class | norm | whitening | trained on | pixels | {' | '.join(f'{n} steps' for n in steps)} |",
        f"| --- | --- | --- | --- | --- |{' --- |' * len(steps)}",
    ]
    for (ipc, norm, whitening, *_), group in _settings(rows).items():
        kept = [[r.accuracies if n == r.steps else r.curve.get(str(n), []) for r in group] for n in steps]
        cells = [percent(each) if any(each) else "" for each in kept]
        lines.append(f"| {ipc} | {norm} | {whitening} | {group[0].method} | {group[0].pixels} | {' | '.join(cells)} |")
    return "\n".join(lines)
