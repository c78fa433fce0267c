"""What continual learning reached: the accuracy of each buffer after each step."""

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
    """Test accuracies on all classes seen so far, after each step.

    Parameters
    ----------
    accuracies
        For each buffer an array in [0, 1] of shape (orders, steps, networks).
    classes_seen
        How many classes have arrived after each step.
    orders
        The classes' names in their orders of arrival.

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
    classes_seen: tuple[int, ...]
    orders: tuple[tuple[str, ...], ...]

    def mean(self, method: str) -> Float[np.ndarray, " steps"]:
        """Return a buffer's mean accuracy after each step, over orders and networks.

        Parameters
        ----------
        method
            Which buffer.

        Returns
        -------
        numpy.ndarray
            Shape (steps,).
        """
        mean: np.ndarray = self.accuracies[method].mean(axis=(0, 2))
        return mean

    def std(self, method: str) -> Float[np.ndarray, " steps"]:
        """Return the sample standard deviation of a buffer's accuracy over the orders; 0 for one order.

        Parameters
        ----------
        method
            Which buffer.

        Returns
        -------
        numpy.ndarray
            Shape (steps,); each order counts with its mean over networks.
        """
        std: np.ndarray = _std(self.accuracies[method].mean(axis=2))
        return std

    def to_markdown(self) -> str:
        """Return a table: a row per buffer, mean and std over orders in percent; the mean alone of one order.

        Where ``random`` is among the buffers, a last column has the gain over it at the last
        step: the mean and std of the differences, order by order.

        Returns
        -------
        str
            The table, without a line break at its end.
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
        """Draw accuracy against classes seen: a curve per buffer, with one std over orders around it.

        Parameters
        ----------
        path
            The PNG file.
        """
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
        """Return everything as plain JSON values.

        Returns
        -------
        dict
            Orders, classes seen and every accuracy.
        """
        return {
            "classes_seen": list(self.classes_seen),
            "orders": [list(order) for order in self.orders],
            "accuracies": {method: values.tolist() for method, values in self.accuracies.items()},
        }


def _std(values: np.ndarray) -> Any:
    """Return the sample standard deviation over the orders, 0 for one order."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def _percent(values: np.ndarray, sign: str = "") -> str:
    """Write mean and standard deviation of a number per order."""
    told = f"{100 * values.mean():{sign}.1f}"
    return told if len(values) == 1 else f"{told} ± {100 * _std(values):.1f}"
