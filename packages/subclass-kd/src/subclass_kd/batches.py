"""Which rows every step of an epoch trains on: labelled and unlabelled ones in a fixed ratio."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Integer
from sextet_common.errors import InputError
from sextet_common.seeding import generator

from subclass_kd.config import TrainConfig
from subclass_kd.curriculum import CurriculumSampler
from subclass_kd.data import Part


class Batches:
    """The rows of every step: ``batch_size`` in all, ``unlabelled_ratio`` unlabelled ones for each labelled one.

    An epoch passes over the labelled or over the unlabelled images, whichever take more steps, while the others are
    repeated in new orders. Without labelled images all of a step's are unlabelled. Not specified in the paper, which
    has no unlabelled images. We chose it because no image is left out, a step costs the same with or without unlabelled
    images, and few labelled ones, repeated in every step, do not outweigh the others in the soft term.

    ``with_unlabelled`` says whether unlabelled images take part: without a teacher nothing is learned from them.
    """

    def __init__(self, part: Part, config: TrainConfig, *, with_unlabelled: bool) -> None:
        if config.curriculum != "none" and part.difficulty is None:
            raise InputError("a curriculum without difficulties", "data with votes, or with a difficulty per image")
        self.part, self.config = part, config
        is_labelled = part.is_labelled
        labelled = max(1, round(config.batch_size / (1 + config.unlabelled_ratio)))
        size = {"order": labelled, "unlabelled": config.batch_size - labelled}
        rows = {"order": np.flatnonzero(is_labelled), "unlabelled": np.flatnonzero(~is_labelled)}
        if not len(rows["order"]):
            if not with_unlabelled:
                raise InputError("no training image has a label", "labels, or a teacher and an objective that uses it")
            rows, size = {"order": rows["unlabelled"]}, {"order": config.batch_size}
        elif not (with_unlabelled and len(rows["unlabelled"]) and size["unlabelled"]):
            del rows["unlabelled"]
            size["order"] = config.batch_size
        self.rows, self.size = rows, size
        self.own_steps = {name: max(1, len(group) // size[name]) for name, group in rows.items()}
        self.steps = max(self.own_steps.values())

    def epoch(self, number: int, rank: int = 0, world: int = 1) -> Iterator[tuple[Integer[np.ndarray, " rows"], int]]:
        """Yield the rows of every step that are a process's, and the number of all processes' rows."""
        groups = [np.array_split(self._order(name, number), self.steps) for name in self.rows]
        for parts in zip(*groups, strict=True):
            yield np.concatenate([part[rank::world] for part in parts]), sum(map(len, parts))

    def _order(self, name: str, epoch: int) -> np.ndarray:
        """Return the rows of a group in an epoch: all once, or as many as the other group's steps need."""
        rows, config = self.rows[name], self.config
        repeats = self.own_steps[name] < self.steps
        total = self.steps * min(self.size[name], len(rows)) if repeats else len(rows)
        if name == "order" and config.curriculum != "none" and self.part.difficulty is not None:
            sampler = CurriculumSampler(
                self.part.difficulty[rows], config.curriculum, epochs=max(1, config.epochs // 2),
                start=config.curriculum_start, whole=True, seed=config.seed,
            )  # fmt: skip
            return rows[np.resize(sampler.rows(epoch), total)]
        random = generator(config.seed, name, epoch)
        orders = [random.permutation(len(rows)) for _ in range(-(-total // len(rows)))]
        return rows[np.concatenate(orders)[:total]]
