"""Results of a comparison of methods: scores, paired differences, tables."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sextet_common.errors import STRUCTURE, InputError, reading

from subclass_kd.bits import Bits
from subclass_kd.metrics import Scores

Method = Literal[
    "alone", "alone-subclass", "pseudo", "kd", "kd-classes", "kd-semi", "dkd", "standardised", "dist", "skd",
    "skd-semi", "skd-curriculum", "discovered", "learned",
]  # fmt: skip
FILE = "comparison.json"
NAMES: dict[str, str] = {
    "alone": "student alone",
    "alone-subclass": "student alone, subclass labels",
    "pseudo": "teacher's labels of the unlabelled images",
    "kd": "conventional KD",
    "kd-classes": "conventional KD, teacher of classes",
    "kd-semi": "conventional KD, unlabelled images too",
    "dkd": "decoupled KD over subclasses",
    "standardised": "standardised logits of subclasses",
    "dist": "DIST over subclasses",
    "skd": "SKD",
    "skd-semi": "SKD, unlabelled images too",
    "skd-curriculum": "SKD with curriculum",
    "discovered": "SKD, discovered subclasses",
    "learned": "SKD, learned subclasses",
}
SEMI = ("pseudo", "kd-semi", "skd-semi")
"""Methods that use the images whose labels are withheld."""
_COLUMNS = ("f1", "accuracy", "auroc", "precision", "recall")
_HEADS = ("F1", "accuracy", "AUROC", "precision", "recall")


@dataclasses.dataclass(frozen=True)
class Difference:
    """Paired difference of F1 in points: its mean over seeds and a 95 % interval (Student's t)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Result of `compare`.

    ``scores`` holds each method's scores on the test part, one per seed; "teacher" is among the methods. ``cost`` has
    parameters, multiply-adds and seconds of a forward pass of one image, for teacher and student. ``bits`` has the
    three readings of the label bits, for the last seed's training images and teacher. ``chosen`` has the temperature
    and alpha of each method that were chosen on validation images.
    """

    scores: dict[str, list[Scores]]
    cost: dict[str, dict[str, float]]
    bits: tuple[Bits, ...]
    chosen: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)

    def difference(self, method: str, to: str) -> Difference:
        """Return the paired difference of two methods' F1 in points; the interval of a single seed is NaN."""
        values = [100 * (a.f1 - b.f1) for a, b in zip(self.scores[method], self.scores[to], strict=True)]
        mean = float(np.mean(values))
        if len(values) < 2:
            return Difference(mean, float("nan"), float("nan"))
        if np.std(values) == 0:
            return Difference(mean, mean, mean)
        from scipy import stats  # slow to import

        low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=stats.sem(values))
        return Difference(mean, float(low), float(high))

    def table(self) -> str:
        """Return the scores as a Markdown table: mean ± standard deviation over seeds, per cent."""
        against = [to for to in ("alone", "alone-subclass") if to in self.scores]
        heads = [f"F1 over {NAMES[to].removeprefix('student ')}" for to in against] + ["F1 over KD"] * self._has_kd
        lines = [f"| | {' | '.join((*_HEADS, *heads))} |", "|---" * (1 + len(_HEADS) + len(heads)) + "|"]
        for name, each in self.scores.items():
            cells = []
            for column in _COLUMNS:
                values = [100 * getattr(scores, column) for scores in each]
                deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
                cells.append(f"{np.mean(values):.2f} ± {deviation:.2f}")
            others = [*against, *([self._conventional(name)] * self._has_kd)]
            cells += ["" if self._are_same(name, to) else str(self.difference(name, to)) for to in others]
            options = ", ".join(f"{key} {value:g}" for key, value in self.chosen.get(name, {}).items())
            lines.append(f"| {NAMES.get(name, name)}{f' ({options})' if options else ''} | {' | '.join(cells)} |")
        return "\n".join(lines)

    @property
    def _has_kd(self) -> bool:
        return "kd" in self.scores

    def _conventional(self, name: str) -> str:
        """Return conventional KD on the images that a method sees."""
        return "kd-semi" if name in SEMI and "kd-semi" in self.scores else "kd"

    @staticmethod
    def _are_same(name: str, to: str) -> bool:
        """Return whether a method has no difference to another that says anything."""
        return name in ("teacher", to) or name == "alone" or (name == "alone-subclass" and to != "alone")

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "scores": {name: [dataclasses.asdict(s) for s in each] for name, each in self.scores.items()},
            "cost": self.cost,
            "bits": [dataclasses.asdict(b) for b in self.bits],
            "chosen": self.chosen,
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Comparison:
        """Read the result from the folder of a finished comparison."""
        file = Path(path) / FILE
        with reading(file, "the folder of a finished compare", *STRUCTURE):
            return cls.from_dict(json.loads(file.read_text(encoding="utf-8")))

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Comparison:
        """Build from what `as_dict` returned; every method must have the same number of seeds, at least one."""
        scores = {
            str(name): [Scores(**{key: float(value) for key, value in s.items()}) for s in each]
            for name, each in table["scores"].items()
        }
        seeds = {len(each) for each in scores.values()}
        if len(seeds) != 1 or 0 in seeds:
            raise InputError(f"scores of {sorted(seeds)} seeds", "the same number for each method, at least one")
        cost = {str(role): {key: float(value) for key, value in c.items()} for role, c in table["cost"].items()}
        numbers = ("value", "low", "high", "ceiling")
        bits = tuple(Bits(str(b["name"]), *(float(b[key]) for key in numbers)) for b in table["bits"])
        given = dict(table.get("chosen", {}))  # earlier releases chose nothing
        chosen = {str(name): {str(k): float(v) for k, v in options.items()} for name, options in given.items()}
        return cls(scores, cost, bits, chosen)


def bits_beside_gain(points: Sequence[tuple[str, Comparison]], method: str = "skd", to: str = "kd") -> str:
    """Return a Markdown table of the label bits of several comparisons beside the gain from subclasses.

    Each pair of a name and a comparison, such as of a data set or a share of labels, gives one row: the three readings
    at T = 1, their intervals, and the paired difference of F1.
    """
    check_points(points, method, to)
    head = f"F1 of {NAMES.get(method, method)} over {NAMES.get(to, to)}"
    names = [bits.name for bits in points[0][1].bits[:3]]
    lines = [f"| | {' | '.join(names)} | {head} |", "|---" * (len(names) + 2) + "|"]
    for name, comparison in points:
        bits = [f"{b.value:.3f} [{b.low:.3f}, {b.high:.3f}]" for b in comparison.bits[:3]]
        lines.append(f"| {name} | {' | '.join(bits)} | {comparison.difference(method, to)} |")
    return "\n".join(lines)


def check_points(points: Sequence[tuple[str, Comparison]], method: str, to: str) -> None:
    """Raise InputError unless there is a comparison, and each has both methods."""
    if not points or any(not {method, to} <= set(comparison.scores) for _, comparison in points):
        raise InputError(f"comparisons without {method} and {to}", "at least one, each with both methods")
