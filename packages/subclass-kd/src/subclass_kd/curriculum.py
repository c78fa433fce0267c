"""Easy samples first: which part of the data an epoch may draw from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from sextet_common.errors import InputError
from sextet_common.seeding import generator
from torch.utils.data import Sampler

Schedule = Literal["linear", "root", "step"]


class CurriculumSampler(Sampler[int]):
    """Draws each epoch from the easiest part of the data, which grows to all of it. Fits any DataLoader.

    Parameters
    ----------
    difficulty
        A number for every sample, shape (samples,); equal ones are in an order that the seed decides.
    schedule
        How the part grows over the epochs: "linear", "root" (fast at first) or "step" (a quarter of the way at a time).
    epochs
        Epochs until all samples take part.
    start
        The part of the first epoch, in (0, 1].
    whole
        Draw as many samples an epoch as there are, easy ones more than once, so that epochs are of equal length.
    seed
        Of the order within an epoch.

    Raises
    ------
    InputError
        Where a difficulty is not finite, or an option is outside what is accepted.

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
            raise InputError(f"difficulties have shape {values.shape}", "finite numbers, (samples,), one at least")
        if schedule not in get_args(Schedule):
            raise InputError(f"the schedule is {schedule!r}", ", ".join(get_args(Schedule)))
        if epochs < 1:
            raise InputError(f"epochs is {epochs}", "a whole number >= 1")
        if not 0 < start <= 1:
            raise InputError(f"start is {start}", "a number in (0, 1]")
        self.schedule, self.epochs, self.start, self.whole, self.seed = schedule, epochs, start, whole, seed
        mixed = generator(seed, "equal difficulty").permutation(len(values))
        self.order = mixed[np.argsort(values[mixed], kind="stable")]
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, from 0."""
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
        """Return an epoch's samples in the order in which they are drawn."""
        count = max(1, round(self.share(epoch) * len(self.order)))
        random = generator(self.seed, "curriculum", epoch)
        easy = self.order[:count]
        if not self.whole:
            return random.permutation(easy)
        times = -(-len(self.order) // count)
        drawn = np.concatenate([random.permutation(easy) for _ in range(times)])
        return drawn[: len(self.order)]

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
    """Return a sampler that draws easy samples first; parameters and errors as of `CurriculumSampler`.

    Examples
    --------
    >>> len(curriculum(np.arange(10.0), "root", start=0.2))
    2
    """
    return CurriculumSampler(difficulty, schedule, epochs=epochs, start=start, seed=seed)
