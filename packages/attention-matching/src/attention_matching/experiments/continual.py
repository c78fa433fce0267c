"""Class-incremental learning: classes arrive step by step, and a buffer of a few images each is all that is kept."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from sextet_common import device, files, progress, runs, seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from torch import Tensor

from attention_matching.distillation.config import DistillConfig
from attention_matching.evaluation.training import TrainConfig, accuracy, train_networks
from attention_matching.experiments.continual_result import ContinualResult
from attention_matching.experiments.small_sets import (
    SOURCES,
    Source,
    check_sources,
    members_of,
    only_classes,
    small_set,
)
from attention_matching.images.augment import Operation, SiameseAugmentation, augmentation_for
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import Preprocessing
from attention_matching.networks.build import build
from attention_matching.networks.layers import Norm

JOB = "attention-matching continual"

Buffer = Callable[[ImageSet, int], DistilledSet]
"""What makes a buffer's images of the new classes: from these classes' images and a seed."""


@dataclasses.dataclass(frozen=True)
class ContinualConfig:
    """How the classes arrive, what is kept of them, and how networks are trained on that.

    The protocol is GDumb's, as the distillation papers use it: five or ten steps, 20 images
    per class, five orders. The smaller defaults are *ours*, and suit digits.
    """

    steps: int = 5
    """In how many steps the classes arrive; where they cannot be shared out equally, early steps get one more."""
    ipc: int = 1
    """Images that a buffer keeps of each class."""
    buffers: tuple[Source, ...] = ("random", "herding", "dm", "datadam", "atom")
    """What the buffers hold: real images chosen in three ways, or distilled ones."""
    orders: int = 3
    """Orders of arrival, each drawn from the seed."""
    networks: int = 1
    """Fresh networks for each buffer, order and step."""
    width: int | None = None
    """Channels of the networks: 128; 64 below 28 pixels."""
    depth: int | None = None
    """Blocks of the networks: 3 for 32 pixels, 4 for 64, 5 for 128; 2 below 28."""
    norm: Norm = "instance"
    """Normalisation of the networks."""
    augment: tuple[Operation, ...] | None = None
    """The augmentation's transforms in training: all six; no flip for digits."""
    seed: int = 0
    """The seed of all random numbers."""
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    """How images are distilled; its method, ipc and seed are set for each buffer, order and step."""
    training: TrainConfig = dataclasses.field(default_factory=lambda: TrainConfig(epochs=300))
    """How networks are trained on a buffer; its seed is set for each order and step."""

    def __post_init__(self) -> None:
        for name in ("steps", "ipc", "orders", "networks"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", "a whole number >= 1")
        check_sources(self.buffers)
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}", "a whole number >= 0")


def continual(
    data: ImageSet,
    config: ContinualConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    own: Mapping[str, Buffer] | None = None,
) -> ContinualResult:
    """Measure what buffers of different images are worth when classes arrive step by step.

    At each step every buffer gets a few images of each new class, made from the new classes'
    training images alone; fresh networks, whose heads cover the classes seen so far, are
    trained on the whole buffer and tested on all test images of those classes. Pixels are
    preprocessed by the first step's statistics, since nothing else is known by then.

    Every random number is keyed by the order and the step and not by the buffers that are
    compared: they see the same classes, the same initial networks and the same batches.

    Parameters
    ----------
    data
        The images.
    config
        The settings.
    out
        A run folder, for the accuracies one by one (metrics.jsonl), the distillations, the
        result (continual.json) and its picture (continual.png). A stopped or killed run is
        gone on with, to the same numbers; a kill loses the training at hand.
    own
        Buffers of one's own, by name, beside those of the settings. Each is called at every step with the
        images of the new classes alone, numbered from 0, and a seed, and returns any number of images of each
        of them.

    Returns
    -------
    ContinualResult
        The accuracies.

    Raises
    ------
    InputError
        Where there are more steps than classes, a class has no test image or fewer training
        images than ``ipc``, the folder holds something else, or a buffer of one's own has a name
        that is taken, other classes than the new ones, or no image of one of them.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the training at hand is done and logged.

    References
    ----------
    GDumb (ECCV 2020): greedy sampler, dumb learner. DSA (arXiv 2102.08259) and DM
    (arXiv 2110.04181): distilled images in its buffer.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> quick = ContinualConfig(buffers=("random",), orders=1, width=8, training=TrainConfig(epochs=2))
    >>> result = continual(load("digits"), quick)
    >>> result.classes_seen, result.accuracies["random"].shape
    ((2, 4, 6, 8, 10), (1, 5, 1))
    """
    config = _resolved(config or ContinualConfig(), data)
    own = own or {}
    if taken := sorted({*SOURCES} & {*own}):
        raise InputError(f"a buffer of one's own has the name {taken[0]!r}", f"another name than {', '.join(SOURCES)}")
    names = (*config.buffers, *own)
    run = None
    if out is not None:
        content = runs.fingerprint(data.train_images, data.train_labels, data.test_images, data.test_labels)
        recorded = {"data": data.source, "data_sha256": content, **runs.to_json(config)}
        if own:
            recorded["own"] = sorted(own)
        run = runs.Run.open(out, JOB, recorded)
        run.rewind(sys.maxsize)  # what a kill tore from the log's last line would spoil the next
    tasks = [_Order(data, config, number, own, run) for number in range(config.orders)]
    for task in tasks:
        task.go_on()
    result = ContinualResult(
        {name: np.array([[t.done[name, s] for s in range(config.steps)] for t in tasks]) for name in names},
        tuple(accumulate(len(new) for new in tasks[0].arrivals)),
        tuple(tuple(data.classes[label] for label in task.order) for task in tasks),
    )
    if run is not None:
        report = {**run.config, "machine": device.describe(), **result.to_json()}
        files.write_text(run.path / "continual.json", json.dumps(report, indent=2) + "\n")
        result.save_picture(run.path / "continual.png")
    return result


def class_order(n_classes: int, seed: int, number: int) -> list[int]:
    """Draw one order in which the classes arrive.

    Parameters
    ----------
    n_classes
        How many classes there are.
    seed
        The experiment's seed.
    number
        Which order.

    Returns
    -------
    list of int
        The class numbers.

    Examples
    --------
    >>> sorted(class_order(4, seed=0, number=2))
    [0, 1, 2, 3]
    """
    order: list[int] = seeding.generator(seed, "class order", number).permutation(n_classes).tolist()
    return order


def _resolved(config: ContinualConfig, data: ImageSet) -> ContinualConfig:
    """Check the settings against the data, and choose by all images what is left open.

    The classes of one step would not do: two of them do not show that the images are digits,
    which must not be mirrored.
    """
    if config.steps > data.n_classes:
        raise InputError(f"steps is {config.steps} for {data.n_classes} classes", "at least one class per step")
    for labels, least, what in ((data.train_labels, config.ipc, "training"), (data.test_labels, 1, "test")):
        counts = np.bincount(labels, minlength=data.n_classes)
        if counts.min() < least:
            name = data.classes[counts.argmin()]
            raise InputError(f"class {name!r} has {counts.min()} {what} images", f"at least {least}")
    return dataclasses.replace(
        config,
        distill=dataclasses.replace(config.distill, ipc=config.ipc).resolved(data),
        augment=augmentation_for(data.classes, config.augment).operations,
    )


class _Order:
    """One order of arrival: what of it is done, and the rest."""

    def __init__(
        self, data: ImageSet, config: ContinualConfig, number: int, own: Mapping[str, Buffer], run: runs.Run | None
    ) -> None:
        self.data = data
        self.config = config
        self.number = number
        self.own = own
        self.names = (*config.buffers, *own)
        self.run = run
        self.order = class_order(data.n_classes, config.seed, number)
        self.arrivals = [new.tolist() for new in np.array_split(self.order, config.steps)]
        names = [f"accuracy_{n}" for n in range(config.networks)]
        self.done: dict[tuple[str, int], list[float]] = {}
        if run is not None:
            with reading(run.path, "a folder in which such a run was begun"):
                for row in run.metrics():
                    if row["order"] == number:
                        self.done[row["buffer"], row["arrival"]] = [float(row[name]) for name in names]

    def go_on(self) -> None:
        """Do what is not done."""
        config = self.config
        keys = [(name, arrival) for arrival in range(config.steps) for name in self.names]
        left = [key for key in keys if key not in self.done]
        kept = {name: self._buffer(name) for name in dict.fromkeys(name for name, _ in left)}
        told = f"continual, order {self.number + 1} of {config.orders}"
        with progress.bar(told, len(keys), done=len(self.done)) as bar, runs.interruptible() as stopping:
            for name, arrival in left:
                if stopping():
                    break
                began = time.perf_counter()
                images, labels = map(torch.cat, zip(*kept[name][: arrival + 1], strict=True))
                accuracies = self._train_and_test(images, labels, arrival)
                self.done[name, arrival] = accuracies
                self._log(name, arrival, accuracies, time.perf_counter() - began)
                bar.advance(accuracy=float(np.mean(accuracies)))

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What the first classes' pixels show: nothing else is known by then."""
        return Preprocessing.fit(only_classes(self.data, self.arrivals[0]), self.config.distill.whitening or "none")

    @cached_property
    def tests(self) -> tuple[Tensor, Tensor]:
        """All test images as network inputs, and their classes' places in the order of arrival."""
        images, labels = members_of(self.order, self.data.test_images, self.data.test_labels)
        return self.preprocessing(images), torch.tensor(labels)

    def _buffer(self, name: str) -> list[tuple[Tensor, Tensor]]:
        """Make what a buffer gets at each step, from the new classes' images alone: network inputs, and labels.

        Labels are the classes' places in the order of arrival.
        """
        parts = []
        before = 0
        for arrival, new in enumerate(self.arrivals):
            seed = seeding.derive(self.config.seed, "buffer", self.number, arrival)
            images, labels = self._images_of(name, only_classes(self.data, new), arrival, seed)
            parts.append((images, labels + before))
            before += len(new)
        return parts

    def _images_of(self, name: str, part: ImageSet, arrival: int, seed: int) -> tuple[Tensor, Tensor]:
        """Make a buffer's images of some classes, as network inputs, and their labels."""
        if name in self.own:
            made = self.own[name](part, seed)
            if made.classes != part.classes or set(made.labels.tolist()) != set(range(part.n_classes)):
                given = f"the buffer {name!r} has {len(made)} images of the classes {', '.join(made.classes)}"
                raise InputError(given, f"images of each of {', '.join(part.classes)}")
            return self.preprocessing(made.pixels()), made.labels
        folder = None
        if self.run is not None:
            folder = self.run.path / "buffers" / f"{name}-order-{self.number}-step-{arrival}"
        (source,) = (known for known in SOURCES if known == name)
        made = small_set(
            source, part, self.config.ipc, seed, self.config.distill, folder, preprocessing=self.preprocessing
        )
        return made.images, made.labels

    def _train_and_test(self, inputs: Tensor, labels: Tensor, arrival: int) -> list[float]:
        """Return the test accuracies of fresh networks whose heads cover the classes seen, as they arrived."""
        config, shape = self.config, self.data.image_shape
        seen = sum(len(new) for new in self.arrivals[: arrival + 1])
        seed = seeding.derive(config.seed, "training", self.number, arrival)
        networks = train_networks(
            lambda _: build("convnet", shape, seen, width=config.width, depth=config.depth, norm=config.norm),
            range(config.networks),
            inputs,
            labels,
            SiameseAugmentation(config.augment or ()),
            dataclasses.replace(config.training, seed=seed),
        )
        images, wanted = self.tests
        known = wanted < seen
        return [accuracy(network, images[known], wanted[known], config.training.batch) for network in networks]

    def _log(self, name: str, arrival: int, accuracies: list[float], seconds: float) -> None:
        if self.run is not None:
            step = self.number * self.config.steps * len(self.names) + len(self.done)
            values = {f"accuracy_{n}": value for n, value in enumerate(accuracies)}
            self.run.log(step, buffer=name, order=self.number, arrival=arrival, seconds=round(seconds, 3), **values)
