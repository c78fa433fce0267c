"""Which rows a step sees, labelled and unlabelled ones, and which of them are this process's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Integer
from sextet_common.errors import InputError
from sextet_common.processes import Processes
from sextet_common.seeding import generator

from probmcl.data.sets import unlabelled
from probmcl.training.config import Config


class Rows(NamedTuple):
    """The training rows of a step, the labelled ones first."""

    whole: Integer[np.ndarray, " batch"]
    """Of all processes."""
    n_labelled: int
    """Labelled rows of all processes."""
    places: Integer[np.ndarray, " own"]
    """Places of this process's rows in the whole batch."""

    @property
    def own(self) -> Integer[np.ndarray, " own"]:
        """The rows of this process."""
        own: Integer[np.ndarray, " own"] = self.whole[self.places]
        return own


class Batches:
    """Draw the rows of every step: consecutive ones in the order of their epoch, keyed by (seed, stage, epoch).

    A step has ``batch_size`` labelled rows and ``unlabelled_ratio`` times as many unlabelled ones, fewer if there are
    not as many. An epoch has the steps in which all rows of either kind are seen once; the remainder of a division
    appears in the order of another epoch.
    """

    def __init__(self, labels: Integer[np.ndarray, "rows labels"], config: Config, processes: Processes) -> None:
        none = unlabelled(labels)
        self.seed, self.processes = config.seed, processes
        self.labelled, self.unlabelled = np.flatnonzero(~none), np.flatnonzero(none)
        self.count = min(config.batch_size, len(self.labelled))
        self.unlabelled_count = min(round(config.unlabelled_ratio * config.batch_size), len(self.unlabelled))
        self.epoch = max(1, len(self.labelled) // self.count)
        if self.unlabelled_count:
            self.epoch = max(self.epoch, len(self.unlabelled) // self.unlabelled_count)
        for count, kind in ((self.count, "labelled"), (self.unlabelled_count, "unlabelled")):
            if count % processes.world:
                received = f"{count} {kind} images in a step of {processes.world} processes"
                raise InputError(received, f"a multiple of {processes.world}: change batch_size or unlabelled_ratio")

    def rows(self, stage: str, number: int, *, with_unlabelled: bool = False) -> Rows:
        """Return the rows of a step of a stage."""
        whole = _drawn(self.labelled, self.count, number, self.seed, "order", stage)
        places = self._share(self.count)
        if with_unlabelled and self.unlabelled_count:
            more = _drawn(self.unlabelled, self.unlabelled_count, number, self.seed, "unlabelled", stage)
            whole = np.concatenate([whole, more])
            places = np.concatenate([places, self.count + self._share(self.unlabelled_count)])
        return Rows(whole, self.count, places)

    def _share(self, count: int) -> Integer[np.ndarray, " own"]:
        size = count // self.processes.world
        return np.arange(self.processes.rank * size, (self.processes.rank + 1) * size)


def _drawn(
    rows: Integer[np.ndarray, " rows"], count: int, number: int, seed: int, purpose: str, stage: str
) -> Integer[np.ndarray, " count"]:
    epoch, place = divmod(number, len(rows) // count)
    order = generator(seed, purpose, stage, epoch).permutation(len(rows))
    drawn: Integer[np.ndarray, " count"] = rows[order[place * count : (place + 1) * count]]
    return drawn
