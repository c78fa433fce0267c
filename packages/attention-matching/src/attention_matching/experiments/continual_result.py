"""Result of continual learning: the accuracy of each buffer after each step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from sextet_common import figures


@dataclass(frozen=True, eq=False)
class ContinualResult:
    """Test accuracies in [0, 1] on all classes seen so far, after each step.

    Examples
    --------
    >>> rising = np.array([[[1.0], [0.9]], [[0.8], [0.7]]])
    >>> result = ContinualResult({"random": rising}, (1, 2), (("a", "b"), ("b", "a")))
    >>> print(result.to_markdown())
    | buffer | 1 class | 2 classes | average over steps |
    | --- | --- | --- | --- |
    | random | 90.0 ± 14.1 | 80.0 ± 14.1 | 85.0 ± 14.1 |
    """

    accuracies: Mapping[str, Float[np.ndarray, "orders steps networks"]]
    """By buffer, shape (orders, steps, networks)."""
    classes_seen: tuple[int, ...]
    """Number of classes seen after each step."""
    orders: tuple[tuple[str, ...], ...]
    """Names of the classes in each order of arrival."""

    def mean(self, method: str) -> Float[np.ndarray, " steps"]:
        """Return a buffer's mean accuracy after each step, over orders and networks."""
        mean: np.ndarray = self.accuracies[method].mean(axis=(0, 2))
        return mean

    def std(self, method: str) -> Float[np.ndarray, " steps"]:
        """Return the sample standard deviation over orders of a buffer's mean over networks; 0 for one order."""
        return _std(self.accuracies[method].mean(axis=2))

    def to_markdown(self) -> str:
        """Return a table with a row per buffer: mean and std over orders in percent, the mean alone of one order.

        If ``random`` is among the buffers, a last column has the gain over it at the last step: mean and std of the
        differences, order by order.
        """
        seen = [f"{n} class{'es' if n > 1 else ''}" for n in self.classes_seen]
        compared = "random" in self.accuracies and len(self.accuracies) > 1
        rows = [["buffer", *seen, "average over steps", *(["gain over random at the end"] if compared else [])]]
        rows.append(["---"] * len(rows[0]))
        for method, values in self.accuracies.items():
            by_order = values.mean(axis=2)
            columns = [*by_order.T, by_order.mean(axis=1)]
            row = [method, *(_percent(column) for column in columns)]
            if compared:
                gain = by_order[:, -1] - self.accuracies["random"].mean(axis=2)[:, -1]
                row.append("" if method == "random" else _percent(gain, sign="+"))
            rows.append(row)
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def save_picture(self, path: str | os.PathLike[str]) -> None:
        """Plot accuracy against classes seen as a PNG: a curve per buffer, with one std over orders around it."""
        n_orders = len(self.orders)
        with figures.figure_file(path, (6.4, 3.8)) as figure:
            axis = figure.subplots()
            for method, colour in zip(self.accuracies, figures.COLOURS, strict=False):
                mean, std = 100 * self.mean(method), 100 * self.std(method)
                axis.plot(self.classes_seen, mean, color=colour, label=method, marker="o", markersize=3, linewidth=1.6)
                low, high = (mean - std).clip(min=0), (mean + std).clip(max=100)
                axis.fill_between(self.classes_seen, low, high, color=colour, alpha=0.12, linewidth=0)
            axis.set_xticks(self.classes_seen)
            axis.set_xlabel("classes seen")
            axis.set_ylabel("test accuracy on the classes seen (%)")
            axis.legend(
                title=f"buffer, ± std of {n_orders} orders" if n_orders > 1 else "buffer",
                frameon=False,
                alignment="left",
            )

    def to_json(self) -> dict[str, Any]:
        """Return orders, classes seen and every accuracy as plain JSON values."""
        return {
            "classes_seen": list(self.classes_seen),
            "orders": [list(order) for order in self.orders],
            "accuracies": {method: values.tolist() for method, values in self.accuracies.items()},
        }


def _std(values: np.ndarray) -> np.ndarray:
    """Return the sample standard deviation over the orders, 0 for one order."""
    return np.asarray(values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:]))


def _percent(values: np.ndarray, sign: str = "") -> str:
    """Format mean and standard deviation of a number per order."""
    mean = f"{100 * values.mean():{sign}.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * _std(values):.1f}"
