"""Between the population and the gradient-trained policy: which one is better, improves, gets steps, is copied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from esac.config import ESACConfig
from esac.play.rollout import Episode

Side = Literal["mean", "sac"]
_SIDES: tuple[Side, Side] = ("mean", "sac")
_FAST, _SLOW = 0.3, 0.05  # weights of a generation in the two averages, whose difference is the progress
_STEP, _LEAST = 0.05, 0.1  # change of the share in a generation, and the smallest share of either side
_MARGIN = 0.1  # by which the better side must be better, of the mean size of both returns
_PAUSE = 10  # generations between two transfers


class Exchange:
    """Averages of the returns of both sides, from training episodes alone, and what follows from them.

    Not specified in the paper. Progress is the difference between a fast and a slow running average of the returns.

    Attributes
    ----------
    share
        Share of the environment steps that the gradient-trained policy gets with ``sac_schedule="adaptive"``.
    """

    def __init__(self, config: ESACConfig) -> None:
        self.config = config
        self.share = 0.5
        self._averages = np.full((2, 2), math.nan)  # side, then fast and slow
        self._last = -_PAUSE

    def update(self, number: int, episodes: Sequence[tuple[str, Episode]]) -> Side | None:
        """Take in the episodes of generation `number` with their origins; return the side to copy over the other."""
        for side, origin in enumerate(_SIDES):
            totals = [e.total for of, e in episodes if of == origin and not e.failed]
            if totals:
                self._average(side, float(np.mean(totals)))
        if np.isnan(self._averages).any():
            return None
        progress = self._averages[:, 0] - self._averages[:, 1]
        if progress[0] != progress[1]:
            towards = _STEP if progress[1] > progress[0] else -_STEP
            self.share = float(np.clip(self.share + towards, _LEAST, 1 - _LEAST))
        return self._better(number)

    def _average(self, side: int, value: float) -> None:
        averages = self._averages[side]
        for k, weight in enumerate((_FAST, _SLOW)):
            averages[k] = value if math.isnan(averages[k]) else averages[k] + weight * (value - averages[k])

    def _better(self, number: int) -> Side | None:
        if self.config.transfer == "none" or number - self._last < _PAUSE:
            return None
        fast = self._averages[:, 0]
        if abs(fast[1] - fast[0]) <= _MARGIN * np.abs(fast).mean():
            return None
        better = int(fast[1] > fast[0])
        self._last = number
        self._averages[1 - better] = self._averages[better]  # both are the same policy now
        return _SIDES[better]

    def state(self) -> dict[str, np.ndarray]:
        """Return averages, share and the generation of the last transfer as arrays."""
        return {"averages": self._averages, "share": np.array(self.share), "last": np.array(self._last)}

    def load_state(self, arrays: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self._averages = np.array(arrays["averages"])
        self.share, self._last = float(arrays["share"]), int(arrays["last"])
