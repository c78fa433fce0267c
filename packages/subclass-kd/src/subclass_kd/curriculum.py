"""Curriculum: epochs draw from the easiest samples first, and from all of them in the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import Float
from sextet_common.checks import Count, PositiveShare, check
from sextet_common.errors import InputError
from sextet_common.seeding import generator
from torch.utils.data import Sampler

Schedule = Literal["linear", "root", "step"]


class CurriculumSampler(Sampler[int]):
    """Sampler that draws each epoch from the easiest part of the data, which grows to all of it; for any DataLoader.

    Parameters
    ----------
    difficulty
        A finite number for every sample; the seed orders equal ones.
    schedule
        How the part grows: "linear", "root" (fast at first) or "step" (linear, rounded down to quarters).
    epochs
        Epochs until all samples take part.
    start
        Part of the data in the first epoch, in (0, 1].
    whole
        Draw as many samples per epoch as there are, easy ones repeatedly, so that all epochs have the same length.

    Examples
    --------
    >>> sampler = CurriculumSampler(np.array([0.3, 0.1, 0.2, 0.9]), epochs=3, start=0.5)
    >>> sorted(sampler)
    [1, 2]
    >>> sampler.set_epoch(3)
    >>> sorted(sampler)
    [0, 1, 2, 3]
    """

    def __init__(
        self,
        difficulty: Float[np.ndarray, " samples"],
        schedule: Schedule = "linear",
        *,
        epochs: int = 10,
        start: float = 0.3,
        whole: bool = False,
        seed: int = 0,
    ) -> None:
        values = np.asarray(difficulty, dtype=np.float64)
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise InputError(f"difficulties of shape {values.shape}", "finite numbers, (samples,), at least one")
        check("schedule", schedule, Schedule)
        check("epochs", epochs, Count)
        check("start", start, PositiveShare)
        self.schedule, self.epochs, self.start, self.whole, self.seed = schedule, epochs, start, whole, seed
        shuffled = generator(seed, "equal difficulty").permutation(len(values))
        self.order = shuffled[np.argsort(values[shuffled], kind="stable")]
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch, from 0."""
        self.epoch = epoch

    def share(self, epoch: int) -> float:
        """Return the part of the data that an epoch draws from, in (0, 1]."""
        done = min(1.0, epoch / self.epochs)
        if self.schedule == "root":
            return float(min(1.0, (self.start**2 + (1 - self.start**2) * done) ** 0.5))
        if self.schedule == "step":
            done = np.floor(4 * done) / 4
        return float(min(1.0, self.start + (1 - self.start) * done))

    def rows(self, epoch: int) -> np.ndarray:
        """Return the samples of an epoch in the order in which they are drawn."""
        count = max(1, round(self.share(epoch) * len(self.order)))
        random = generator(self.seed, "curriculum", epoch)
        easy = self.order[:count]
        if not self.whole:
            return random.permutation(easy)
        repeats = -(-len(self.order) // count)
        return np.concatenate([random.permutation(easy) for _ in range(repeats)])[: len(self.order)]

    def __len__(self) -> int:
        return len(self.rows(self.epoch))

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows(self.epoch).tolist())


def curriculum(
    difficulty: Float[np.ndarray, " samples"],
    schedule: Schedule = "linear",
    *,
    epochs: int = 10,
    start: float = 0.3,
    seed: int = 0,
) -> CurriculumSampler:
    """Return a `CurriculumSampler` that draws every sample at most once per epoch.

    Examples
    --------
    >>> len(curriculum(np.arange(10.0), "root", start=0.2))
    2
    """
    return CurriculumSampler(difficulty, schedule, epochs=epochs, start=start, seed=seed)
