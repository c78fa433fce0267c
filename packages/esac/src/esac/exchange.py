"""Between the population and the gradient-trained policy: which one gets the time, and which one is copied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from sextet_common.errors import InputError

from esac.config import ESACConfig
from esac.play.rollout import Episode

Side = Literal["mean", "sac"]
_SIDES: tuple[Side, Side] = ("mean", "sac")
_SMOOTH = 0.3  # weight of a generation in the running average of its returns
_STEP, _LEAST = 0.1, 0.1  # change of the share in a generation, and the smallest share of either side
_MARGIN = 0.1  # by which the better side must be better, of the mean size of both returns
_PAUSE = 10  # generations between two transfers
_MOST_POINTS = 256  # of a learning curve


class Curve:
    """A side's running average of returns over its own steps; beyond some points, every second one is dropped."""

    def __init__(self, points: Float[np.ndarray, "n 2"] | None = None) -> None:
        self.points = np.zeros((0, 2)) if points is None else points

    def add(self, episodes: Sequence[Episode]) -> None:
        """Take in the episodes of a generation."""
        totals = [e.total for e in episodes if not e.failed]
        if not totals:
            return
        steps, level = self.points[-1] if len(self.points) else (0.0, math.nan)
        mean = float(np.mean(totals))
        level = mean if math.isnan(level) else level + _SMOOTH * (mean - level)
        self.points = np.vstack([self.points, [steps + sum(e.length for e in episodes), level]])
        if len(self.points) > _MOST_POINTS:
            self.points = self.points[-1::-2][::-1]

    @property
    def steps(self) -> float:
        """Steps so far."""
        return float(self.points[-1, 0]) if len(self.points) else 0.0

    @property
    def level(self) -> float:
        """The running average; NaN before the first episode."""
        return float(self.points[-1, 1]) if len(self.points) else math.nan

    @property
    def forecast(self) -> float:
        """The level, plus what it gained in the second half of its steps: what as many steps again may bring."""
        if not len(self.points):
            return math.nan
        half = int(np.searchsorted(self.points[:, 0], self.steps / 2))
        return 2 * self.level - float(self.points[half, 1])


class Exchange:
    """Learning curves of both sides, from training episodes alone, and what follows from them.

    Not specified in the paper.

    Attributes
    ----------
    share
        Share of the time that the gradient-trained policy gets with ``sac_schedule="adaptive"``: half of it until it
        has taken ``sac_trial`` steps, then more as long as its forecast is the better one, else less.
    """

    def __init__(self, config: ESACConfig) -> None:
        self.config = config
        self.share = 0.5
        self.mean, self.sac = Curve(), Curve()
        self._last = -_PAUSE

    def update(self, number: int, mean: Sequence[Episode], sac: Sequence[Episode]) -> Side | None:
        """Take in the episodes of generation `number` on both sides; return the side to copy over the other."""
        self.mean.add(mean)
        self.sac.add(sac)
        if math.isnan(self.mean.level) or math.isnan(self.sac.level):
            return None
        forecasts = self.mean.forecast, self.sac.forecast
        if self.sac.steps >= self.config.sac_trial and forecasts[0] != forecasts[1]:
            towards = _STEP if forecasts[1] > forecasts[0] else -_STEP
            self.share = float(np.clip(self.share + towards, _LEAST, 1 - _LEAST))
        return self._better(number)

    def _better(self, number: int) -> Side | None:
        if self.config.transfer == "none" or number - self._last < _PAUSE:
            return None
        mean, sac = self.mean.level, self.sac.level
        if abs(sac - mean) <= _MARGIN * (abs(sac) + abs(mean)) / 2:
            return None
        self._last = number
        worse, better = (self.mean, self.sac) if sac > mean else (self.sac, self.mean)
        worse.points[-1, 1] = better.level  # both are the same policy now
        return _SIDES[int(sac > mean)]

    def state(self) -> dict[str, np.ndarray]:
        """Return curves, share and the generation of the last transfer as arrays."""
        return {"mean": self.mean.points, "sac": self.sac.points, "share": np.array(self.share),
                "last": np.array(self._last)}  # fmt: skip

    def load_state(self, arrays: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        for side in _SIDES:
            points = np.array(arrays[side], dtype=np.float64)
            if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
                raise InputError(f"a learning curve of shape {points.shape}", "finite rows of steps and level")
            setattr(self, side, Curve(points))
        self.share, self._last = float(arrays["share"]), int(arrays["last"])
