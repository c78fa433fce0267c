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
_PROGRESS = 0.15  # gain of a side that improves, of the range of all levels so far
_FIRST = 0.3  # share of the gradient-trained policy: the population shows sooner whether it learns
_FEWEST_POINTS = 4  # of the better side's learning curve, before the share moves
_LEAST = 0.1  # smallest share of either side
_PACE, _STRIDE = 3.0, 0.3  # the share's way to its limit, per generation's part of all time so far, and at most
_MARGIN = 0.1  # by which the better side must be better, of the mean size of both returns
_PAUSE = 10  # generations between two transfers
_MOST_POINTS = 256  # of a learning curve


class Curve:
    """A side's running average of returns over its own steps; beyond some points, every second one is dropped.

    A point has the steps so far, the level and the episodes so far.
    """

    def __init__(self, points: Float[np.ndarray, "n 3"] | None = None) -> None:
        self.points = np.zeros((0, 3)) if points is None else points

    def add(self, episodes: Sequence[Episode]) -> None:
        """Take in the episodes of a generation."""
        good = [e for e in episodes if not e.failed]
        if not good:
            return
        mean = float(np.mean([e.total for e in good]))
        steps, level, count = self.points[-1] if len(self.points) else (0.0, mean, 0.0)
        point = [steps + sum(e.length for e in good), level + _SMOOTH * (mean - level), count + len(good)]
        self.points = np.vstack([self.points, point])
        if len(self.points) > _MOST_POINTS:
            self.points = self.points[-1::-2][::-1]

    @property
    def steps(self) -> float:
        """Steps so far."""
        return float(self.points[-1, 0]) if len(self.points) else 0.0

    @property
    def episodes(self) -> float:
        """Episodes so far."""
        return float(self.points[-1, 2]) if len(self.points) else 0.0

    @property
    def level(self) -> float:
        """The running average; NaN before the first episode."""
        return float(self.points[-1, 1]) if len(self.points) else math.nan

    @property
    def gain(self) -> float:
        """What the level gained in the second half of the steps, averaged over an eighth of them at either end."""
        return self.recent - self._average(1 / 2)

    @property
    def recent(self) -> float:
        """The average level of the last eighth of the steps."""
        return self._average(1.0)

    def _average(self, share: float) -> float:
        """Return the average level of the eighth of the steps up to a share of them."""
        first, last = np.searchsorted(self.points[:, 0], np.array([share - 1 / 8, share]) * self.steps)
        return float(self.points[min(first, last) : last + 1, 1].mean())


class Exchange:
    """Learning curves of both sides, from training episodes alone, and what follows from them.

    Not specified in the paper.

    Attributes
    ----------
    share
        Share of the time that the gradient-trained policy gets with ``sac_schedule="adaptive"``, at first 0.3. It
        moves towards the better side while that improves, and towards the other one while it does not, since then
        nothing is lost; also if the other one would overtake it by gaining again what it gained last.
    owed
        Steps that gradient-based learning is behind its share.
    """

    def __init__(self, config: ESACConfig) -> None:
        self.config = config
        self.share, self.owed = _FIRST, 0.0
        self._time = self._last_time = 0.0
        self.mean, self.sac = Curve(), Curve()
        self._last = -_PAUSE

    def account(self, population: int, gradients: int) -> None:
        """Take in the steps of a generation on both sides."""
        self._last_time = population + gradients * self.config.sac_cost
        self._time += self._last_time
        self.owed += self.share / (1 - self.share) * population / self.config.sac_cost - gradients

    def owes(self, trained: Sequence[Episode], horizon: int) -> bool:
        """Return whether, after some episodes in this generation, gradient-based learning is half an episode behind.

        The length of an episode is the mean one so far, and the horizon before the first one.
        """
        steps, episodes = sum(e.length for e in trained), self.sac.episodes + len(trained)
        length = (self.sac.steps + steps) / episodes if episodes else horizon
        return self.owed - steps >= length / 2 and not any(e.failed for e in trained)

    def update(self, number: int, mean: Sequence[Episode], sac: Sequence[Episode]) -> Side | None:
        """Take in the episodes of generation `number` on both sides; return the side to copy over the other."""
        self.mean.add(mean)
        self.sac.add(sac)
        if math.isnan(self.mean.level) or math.isnan(self.sac.level):
            return None
        limit = {"sac": 1 - _LEAST, "mean": _LEAST, None: self.share}[self._deserves_time()]
        moved = self.share + (limit - self.share) * min(_STRIDE, _PACE * self._last_time / max(self._time, 1.0))
        self.share = float(np.clip(moved, _LEAST, 1 - _LEAST))
        return self._better(number)

    def _deserves_time(self) -> Side | None:
        """Return the side from which more time is expected to raise the better level; None: too early to say."""
        better: Side = "sac" if self.sac.recent > self.mean.recent else "mean"
        other: Side = "mean" if better == "sac" else "sac"
        leader, follower = getattr(self, better), getattr(self, other)
        if len(leader.points) < _FEWEST_POINTS:
            return None
        levels = np.concatenate([self.mean.points[:, 1], self.sac.points[:, 1]])
        improves = leader.gain > _PROGRESS * np.ptp(levels)
        overtakes = follower.recent + follower.gain > leader.recent + leader.gain
        return better if improves and not overtakes else other

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
        """Return curves, share, time, steps owed and the generation of the last transfer as arrays."""
        values = {"share": self.share, "owed": self.owed, "time": self._time, "last": self._last}
        numbers = {name: np.array(value) for name, value in values.items()}
        return {"mean": self.mean.points, "sac": self.sac.points, **numbers}

    def load_state(self, arrays: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        for side in _SIDES:
            points = np.array(arrays[side], dtype=np.float64)
            finite = points.ndim == 2 and points.shape[1] == 3 and np.isfinite(points).all()
            if not finite or (points[:, ::2] <= 0).any() or (np.diff(points[:, 0]) < 0).any():
                expected = "finite rows of steps, level and episodes, in order"
                raise InputError(f"a learning curve of shape {points.shape}", expected)
            setattr(self, side, Curve(points))
        self.share, self.owed, self._last = float(arrays["share"]), float(arrays["owed"]), int(arrays["last"])
        self._time = float(arrays["time"])
        if not (0 < self.share < 1 and math.isfinite(self.owed) and 0 <= self._time < math.inf):
            raise InputError(f"a share of {self.share} and {self.owed} steps owed", "a share from 0.1 to 0.9, finite")
