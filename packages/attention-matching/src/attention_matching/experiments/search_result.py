"""Result of an architecture search: the agreement of rankings, the selected architectures and the time saved."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from sextet_common import figures

from attention_matching.experiments.rank_correlation import RankCorrelation, rank_correlation, spearman_interval

WHOLE = "whole set"
TOP_SHARE = 0.25  # of the architectures, the best by the whole set: bad ones are easy to tell from good ones


@dataclass(frozen=True, eq=False)
class Scores:
    """Results of networks trained on one set, by architecture."""

    images: int
    """Number of images of the set."""
    validation: Float[np.ndarray, " architectures"]
    """Accuracies on the held-out images, in [0, 1]."""
    test: Float[np.ndarray, " architectures"]
    """Accuracies on the test images, in [0, 1]."""
    seconds: Float[np.ndarray, " architectures"]
    """Duration of the training."""
    making: float = 0.0
    """Seconds it took to make the set."""


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Results of every architecture after training on each proxy and on the whole set.

    A proxy ranks by accuracy on held-out images; an architecture's worth is its test accuracy after training on the
    whole set. Wherever a method takes a ``name``, it is that of a proxy, or ``whole set``.

    Examples
    --------
    >>> worth = np.array([0.7, 0.9, 0.8])
    >>> whole = Scores(1000, worth, worth, np.full(3, 60.0))
    >>> proxy = Scores(10, np.array([0.2, 0.3, 0.4]), worth, np.full(3, 2.0))
    >>> result = SearchResult(("small", "middle", "large"), {"random": proxy}, whole)
    >>> result.selected("random"), round(result.regret("random"), 3), result.speedup("random")
    ('large', 0.1, 30.0)
    >>> print(result.correlation("random"))
    0.50 / 0.33
    """

    architectures: tuple[str, ...]
    """Names of the architectures."""
    proxies: Mapping[str, Scores]
    """Scores of the proxies by name."""
    whole: Scores
    """Scores of the whole training set."""
    seed: int = 0
    """Seed of the bootstrap."""

    def scores(self, name: str) -> Scores:
        """Return the scores of a set."""
        return self.whole if name == WHOLE else self.proxies[name]

    def top(self) -> np.ndarray:
        """Return the indices of the best quarter of the architectures by worth, best first; ties by index."""
        order = np.argsort(-self.whole.test, kind="stable")
        return order[: max(2, round(TOP_SHARE * len(order)))]

    def correlation(self, name: str, *, top: bool = False) -> RankCorrelation:
        """Return the agreement of a set's ranking with the worth of all architectures, or of the best quarter.

        The agreement of the ``whole set`` is what a perfect proxy would reach.
        """
        shown = self.top() if top else np.arange(len(self.architectures))
        return rank_correlation(self.scores(name).validation[shown], self.whole.test[shown])

    def selected(self, name: str) -> str:
        """Return the architecture that a set ranks first; of ties the first of the grid."""
        return self.architectures[int(self.scores(name).validation.argmax())]

    def found(self, name: str) -> str:
        """Return :meth:`selected` (deprecated name)."""
        warnings.warn("SearchResult.found is deprecated, use selected", DeprecationWarning, stacklevel=2)
        return self.selected(name)

    def worth(self, architecture: str) -> float:
        """Return an architecture's test accuracy after training on the whole set, in [0, 1]."""
        return float(self.whole.test[self.architectures.index(architecture)])

    def regret(self, name: str) -> float:
        """Return the best worth in the grid, known only in hindsight, minus that of the selected architecture."""
        return float(self.whole.test.max()) - self.worth(self.selected(name))

    def speedup(self, name: str) -> float:
        """Return how many times faster a proxy, including its making, ranks the grid than the whole set does."""
        scores = self.scores(name)
        return float(self.whole.seconds.sum() / (scores.making + scores.seconds.sum()))

    def to_markdown(self) -> str:
        """Return a table with a row per training set.

        Columns: Spearman's and Kendall's coefficients over all architectures (the former with its 95 % bootstrap
        interval) and over the best quarter, the selected architecture, its worth, and the seconds of training.
        """
        head = ["trained on", "images", "Spearman / Kendall, all", "95 % of Spearman", "the best quarter"]
        head += ["found", "its accuracy", "seconds to make", "to train all", "faster"]
        rows = [head, ["---"] * len(head)]
        for name in (*self.proxies, WHOLE):
            scores, selected = self.scores(name), self.selected(name)
            low, high = spearman_interval(scores.validation, self.whole.test, self.seed)
            row = [name, str(scores.images), str(self.correlation(name)), f"{low:.2f} to {high:.2f}"]
            row += [str(self.correlation(name, top=True)), selected, f"{100 * self.worth(selected):.1f} %"]
            row += ["" if name == WHOLE else f"{scores.making:.0f}", f"{scores.seconds.sum():.0f}"]
            rows.append([*row, "" if name == WHOLE else f"{self.speedup(name):.1f}x"])
        best = self.architectures[int(self.whole.test.argmax())]
        last = ["best of the grid, in hindsight", "", "", "", "", best, f"{100 * self.worth(best):.1f} %", "", "", ""]
        rows.append(last)
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def to_json(self) -> dict[str, Any]:
        """Return architectures, scores and what follows from them as plain JSON values; None if nothing is ranked."""
        sets = {name: self._json_of(name) for name in (*self.proxies, WHOLE)}
        return {"architectures": list(self.architectures), "best": float(self.whole.test.max()), "sets": sets}

    def _json_of(self, name: str) -> dict[str, Any]:
        scores = self.scores(name)
        interval = spearman_interval(scores.validation, self.whole.test, self.seed)
        row: dict[str, Any] = {
            "images": scores.images,
            "validation": scores.validation.tolist(),
            "test": scores.test.tolist(),
            "seconds": scores.seconds.tolist(),
            "seconds_of_making": scores.making,
            "found": self.selected(name),
            "accuracy_of_found": self.worth(self.selected(name)),
            "regret": self.regret(name),
            "speedup": self.speedup(name),
            "spearman_95": [_or_none(end) for end in interval],
        }
        for key, top in (("all", False), ("top", True)):
            agreement = self.correlation(name, top=top)
            row[key] = {"spearman": _or_none(agreement.spearman), "kendall": _or_none(agreement.kendall)}
        return row

    def save_picture(self, path: str | os.PathLike[str]) -> None:
        """Plot worth against each proxy's ranking as a PNG: a column per proxy, the best quarter below."""
        worth, count = 100 * self.whole.test, len(self.architectures)
        with figures.figure_file(path, (2.3 * len(self.proxies) + 0.7, 5.2)) as figure:
            panels = figure.subplots(2, len(self.proxies), sharey="row", squeeze=False)
            for row, shown in enumerate((np.arange(count), self.top())):
                colours = itertools.cycle(figures.COLOURS)
                for axis, (name, scores), colour in zip(panels[row], self.proxies.items(), colours, strict=False):
                    x = 100 * scores.validation
                    axis.scatter(x[shown], worth[shown], s=14, color=colour, alpha=0.6, linewidths=0)
                    selected = self.architectures.index(self.selected(name))
                    if selected in shown:
                        ring = {"facecolors": "none", "edgecolors": "black", "linewidths": 1.2}
                        axis.scatter(x[selected], worth[selected], s=70, label="found by the proxy", **ring)
                    agreement = self.correlation(name, top=row == 1)
                    title = f"{name}, all {count}" if row == 0 else "the best quarter"
                    axis.set_title(f"{title}: $\\rho$ = {agreement.spearman:.2f}", fontsize=9)
                    axis.margins(0.1)
            panels[0, 0].legend(loc="lower right", frameon=False)
            figure.supxlabel("held-out accuracy after training on the proxy (%)", fontsize=9)
            figure.supylabel("test accuracy after training on the whole set (%)", fontsize=9)


def _or_none(value: float) -> float | None:
    """Return None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value
