"""What an architecture search found: the agreement of rankings, the architecture chosen, and the time saved."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from sextet_common import figures

from attention_matching.evaluation.ranking import RankCorrelation, rank_correlation, spearman_interval

WHOLE = "whole set"
TOP_SHARE = 0.25  # of the architectures, the best by the whole set: among bad ones any proxy finds the order


@dataclass(frozen=True, eq=False)
class Scores:
    """What networks trained on one set reached, architecture by architecture.

    Parameters
    ----------
    images
        How many images the set has.
    validation, test
        Accuracies on the held-out and on the test images, in [0, 1], shape (architectures,).
    seconds
        How long the training took, shape (architectures,).
    making
        How many seconds it took to make the set.
    """

    images: int
    validation: Float[np.ndarray, " architectures"]
    test: Float[np.ndarray, " architectures"]
    seconds: Float[np.ndarray, " architectures"]
    making: float = 0.0


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The accuracies of every architecture after training on each proxy and on the whole set.

    A proxy ranks by accuracy on held-out images; an architecture's worth is its test
    accuracy after training on the whole set.

    Parameters
    ----------
    architectures
        Their names.
    proxies
        Name to scores.
    whole
        The scores of the whole training set.
    seed
        The seed of the bootstrap.

    Examples
    --------
    >>> worth = np.array([0.7, 0.9, 0.8])
    >>> whole = Scores(1000, worth, worth, np.full(3, 60.0))
    >>> proxy = Scores(10, np.array([0.2, 0.3, 0.4]), worth, np.full(3, 2.0))
    >>> result = SearchResult(("small", "middle", "large"), {"random": proxy}, whole)
    >>> result.found("random"), round(result.regret("random"), 3), result.speedup("random")
    ('large', 0.1, 30.0)
    >>> print(result.correlation("random"))
    0.50 / 0.33
    """

    architectures: tuple[str, ...]
    proxies: Mapping[str, Scores]
    whole: Scores
    seed: int = 0

    def scores(self, name: str) -> Scores:
        """Return the scores of a proxy, or of the ``whole set``.

        Parameters
        ----------
        name
            Whose.

        Returns
        -------
        Scores
            Architecture by architecture.
        """
        return self.whole if name == WHOLE else self.proxies[name]

    def top(self) -> np.ndarray:
        """Return the best quarter of the architectures by the whole set's test accuracy, best first.

        Returns
        -------
        numpy.ndarray
            Their numbers; of equals at the border, the first ones.
        """
        order = np.argsort(-self.whole.test, kind="stable")
        return order[: max(2, round(TOP_SHARE * len(order)))]

    def correlation(self, name: str, *, top: bool = False) -> RankCorrelation:
        """Return the agreement of a proxy's ranking with the architectures' worth.

        Parameters
        ----------
        name
            A proxy, or ``whole set``: the agreement that a perfect proxy would reach.
        top
            Among the best quarter alone.

        Returns
        -------
        RankCorrelation
            Of accuracies on held-out images with test accuracies of the whole set.
        """
        chosen = self.top() if top else np.arange(len(self.architectures))
        return rank_correlation(self.scores(name).validation[chosen], self.whole.test[chosen])

    def found(self, name: str) -> str:
        """Return the architecture that a proxy puts first; of equals the first of the grid.

        Parameters
        ----------
        name
            A proxy, or ``whole set``.

        Returns
        -------
        str
            The architecture.
        """
        return self.architectures[int(self.scores(name).validation.argmax())]

    def worth(self, architecture: str) -> float:
        """Return an architecture's test accuracy after training on the whole set.

        Parameters
        ----------
        architecture
            Its name.

        Returns
        -------
        float
            In [0, 1].
        """
        return float(self.whole.test[self.architectures.index(architecture)])

    def regret(self, name: str) -> float:
        """Return what is lost by trusting a proxy: the grid's best worth less that of the architecture found.

        Parameters
        ----------
        name
            A proxy, or ``whole set``.

        Returns
        -------
        float
            In [0, 1]. The grid's best is known in hindsight alone: it is the best on the test images.
        """
        return float(self.whole.test.max()) - self.worth(self.found(name))

    def speedup(self, name: str) -> float:
        """Return how many times faster a proxy ranks the grid than the whole set does.

        Parameters
        ----------
        name
            A proxy.

        Returns
        -------
        float
            The ratio of the measured seconds; those of making the proxy count on its side.
        """
        scores = self.scores(name)
        return float(self.whole.seconds.sum() / (scores.making + scores.seconds.sum()))

    def to_markdown(self) -> str:
        """Return a table: a row per training set.

        Returns
        -------
        str
            Spearman's and Kendall's coefficients over all architectures (the former with its
            95 % bootstrap interval) and over the best quarter, the architecture found, its worth
            and the seconds of training.
        """
        head = ["trained on", "images", "Spearman / Kendall, all", "95 % of Spearman", "the best quarter"]
        head += ["found", "its accuracy", "seconds to make", "to train all", "faster"]
        rows = [head, ["---"] * len(head)]
        for name in (*self.proxies, WHOLE):
            scores, found = self.scores(name), self.found(name)
            low, high = spearman_interval(scores.validation, self.whole.test, self.seed)
            row = [name, str(scores.images), str(self.correlation(name)), f"{low:.2f} to {high:.2f}"]
            row += [str(self.correlation(name, top=True)), found, f"{100 * self.worth(found):.1f} %"]
            row += ["" if name == WHOLE else f"{scores.making:.0f}", f"{scores.seconds.sum():.0f}"]
            rows.append([*row, "" if name == WHOLE else f"{self.speedup(name):.1f}x"])
        best = self.architectures[int(self.whole.test.argmax())]
        last = ["best of the grid, in hindsight", "", "", "", "", best, f"{100 * self.worth(best):.1f} %", "", "", ""]
        rows.append(last)
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values.

        Returns
        -------
        dict
            Architectures, every set's scores, and for each set what follows from them; None
            where nothing is ranked.
        """
        sets = {}
        for name in (*self.proxies, WHOLE):
            scores = self.scores(name)
            summary: dict[str, Any] = {
                "found": self.found(name),
                "accuracy_of_found": self.worth(self.found(name)),
                "regret": self.regret(name),
                "speedup": self.speedup(name),
                "spearman_95": [
                    _plain(end) for end in spearman_interval(scores.validation, self.whole.test, self.seed)
                ],
            }
            for key, top in (("all", False), ("top", True)):
                agreement = self.correlation(name, top=top)
                summary[key] = {"spearman": _plain(agreement.spearman), "kendall": _plain(agreement.kendall)}
            sets[name] = {
                "images": scores.images,
                "validation": scores.validation.tolist(),
                "test": scores.test.tolist(),
                "seconds": scores.seconds.tolist(),
                "seconds_of_making": scores.making,
                **summary,
            }
        return {"architectures": list(self.architectures), "best": float(self.whole.test.max()), "sets": sets}

    def save_picture(self, path: str | os.PathLike[str]) -> None:
        """Draw the architectures' worth against each proxy's ranking: a column per proxy, the best quarter below.

        Parameters
        ----------
        path
            The PNG file.
        """
        worth, count = 100 * self.whole.test, len(self.architectures)
        with figures.figure_file(path, (2.3 * len(self.proxies) + 0.7, 5.2)) as figure:
            panels = figure.subplots(2, len(self.proxies), sharey="row", squeeze=False)
            for row, shown in enumerate((np.arange(count), self.top())):
                colours = itertools.cycle(figures.COLOURS)
                for axis, (name, scores), colour in zip(panels[row], self.proxies.items(), colours, strict=False):
                    x = 100 * scores.validation
                    axis.scatter(x[shown], worth[shown], s=14, color=colour, alpha=0.6, linewidths=0)
                    found = self.architectures.index(self.found(name))
                    if found in shown:
                        ring = {"facecolors": "none", "edgecolors": "black", "linewidths": 1.2}
                        axis.scatter(x[found], worth[found], s=70, label="found by the proxy", **ring)
                    agreement = self.correlation(name, top=row == 1)
                    title = f"{name}, all {count}" if row == 0 else "the best quarter"
                    axis.set_title(f"{title}: $\\rho$ = {agreement.spearman:.2f}", fontsize=9)
                    axis.margins(0.1)
            panels[0, 0].legend(loc="lower right", frameon=False)
            figure.supxlabel("held-out accuracy after training on the proxy (%)", fontsize=9)
            figure.supylabel("test accuracy after training on the whole set (%)", fontsize=9)


def _plain(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value
