"""Gradient ascent of a vector: Adam, plain steps, ClipUp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from esac.config import Ascent as Kind


@dataclass
class Ascent:
    """Optimizer that moves a vector of ``size`` numbers uphill.

    ``kind`` is "adam", "sgd" or "clipup": momentum over directions of length ``lr``, clipped to a length of ``2 lr``.
    The weight decay ``l2`` is added to the gradient.

    References
    ----------
    ClipUp, arXiv 2008.02387, with its defaults: momentum 0.9, maximum speed twice the step size.
    """

    size: int
    lr: float
    kind: Kind = "adam"
    l2: float = 0.0

    def __post_init__(self) -> None:
        self.m = np.zeros(self.size, dtype=np.float32)
        self.v = np.zeros(self.size, dtype=np.float32)
        self.steps = 0

    def step(self, vector: np.ndarray, direction: np.ndarray) -> float:
        """Move the vector in place; return the length of the move over that of the vector."""
        direction = direction - self.l2 * vector
        move: np.ndarray
        if self.kind == "sgd":
            move = self.lr * direction
        elif self.kind == "clipup":
            move = self._clipup(direction)
        else:
            move = self._adam(direction)
        before = float(np.linalg.norm(vector))
        vector += move.astype(np.float32)
        return float(np.linalg.norm(move)) / max(before, 1e-12)

    def _clipup(self, direction: np.ndarray) -> np.ndarray:
        self.m *= np.float32(0.9)
        self.m += np.float32(self.lr / max(float(np.linalg.norm(direction)), 1e-12)) * direction
        self.m *= np.float32(min(1.0, 2 * self.lr / max(float(np.linalg.norm(self.m)), 1e-12)))
        return self.m.copy()

    def _adam(self, direction: np.ndarray) -> np.ndarray:
        self.steps += 1
        self.m += np.float32(0.1) * (direction - self.m)
        self.v += np.float32(0.001) * (direction * direction - self.v)
        m, v = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
        move: np.ndarray = self.lr * m / (np.sqrt(v) + 1e-8)
        return move

    def state(self) -> dict[str, Any]:
        """Return the moments and the number of steps as arrays."""
        return {"m": self.m, "v": self.v, "steps": np.array(self.steps)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.m, self.v, self.steps = np.array(state["m"]), np.array(state["v"]), int(state["steps"])
