"""Class-incremental learning: classes arrive step by step, and only a buffer of a few images of each is kept."""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from sextet_common import data as image_data, device as devices, progress, runs, seeding
from sextet_common.checks import Count, Growing, Natural, check_fields
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from torch import Tensor

from attention_matching.distillation.config import DistillConfig
from attention_matching.evaluation.accuracy import accuracy
from attention_matching.evaluation.config import TrainConfig
from attention_matching.evaluation.training import train_networks
from attention_matching.experiments.continual_result import ContinualResult
from attention_matching.experiments.run_folder import open_run, save_result
from attention_matching.experiments.small_sets import SOURCES, check_sources, members_of, only_classes, small_set
from attention_matching.images.augment import SiameseAugmentation, augmentation_for
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.inputs import RealInputs
from attention_matching.images.preprocess import Preprocessing
from attention_matching.kinds import Norm, Operation, Source
from attention_matching.networks.build import build

JOB = "attention-matching continual"

Buffer = Callable[[ImageSet, int], DistilledSet]
"""A custom buffer: from the images of the new classes alone, numbered from 0, and a seed, to images of each."""


@dataclasses.dataclass(frozen=True)
class ContinualConfig:
    """How the classes arrive, what is kept of them, and how networks are trained on that.

    The protocol is GDumb's, as the distillation papers use it: five or ten steps, 20 images per class, five orders.
    The smaller defaults are ours, for digits.
    """

    steps: Count = 5
    """Steps in which the classes arrive; if they do not divide equally, early steps get one more."""
    ipc: Count = 1
    """Images that a buffer keeps of each class."""
    buffers: tuple[Source, ...] = ("random", "herding", "dm", "datadam", "atom")
    """Contents of the buffers: real images selected in three ways, or distilled ones."""
    orders: Growing[Count] = 3
    """Orders of arrival, each drawn from the seed."""
    networks: Count = 1
    """Fresh networks for each buffer, order and step."""
    width: Count | None = None
    """Channels of the networks: 128; 64 below 28 pixels."""
    depth: Count | None = None
    """Blocks of the networks: 3 for 32 pixels, 4 for 64, 5 for 128; 2 below 28."""
    norm: Norm = "instance"
    """Normalisation of the networks."""
    augment: tuple[Operation, ...] | None = None
    """Transforms of the augmentation in training: all six; no flip for digits."""
    seed: Natural = 0
    """Seed of all random numbers."""
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    """Settings of the distillations; method, ipc and seed are set for each buffer, order and step."""
    training: TrainConfig = dataclasses.field(default_factory=lambda: TrainConfig(epochs=300))
    """Settings of the training on a buffer; the seed is set for each order and step."""

    def __post_init__(self) -> None:
        check_sources(self.buffers)
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class _BufferConfig(DistillConfig):
    """Settings of the distillations, whose number of steps may not grow here: all buffers are made alike."""

    steps: Count | None = None


_SETTINGS = {"orders": "growing", "distill": _BufferConfig, "training": TrainConfig}


def continual(
    data: image_data.Source,
    config: ContinualConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    custom_buffers: Mapping[str, Buffer] | None = None,
    own: Mapping[str, Buffer] | None = None,
) -> ContinualResult:
    """Compare buffers of different images when classes arrive step by step.

    At each step every buffer receives a few images of each new class, made from the training images of the new classes
    alone. Fresh networks, whose heads cover the classes seen so far, are trained on the whole buffer and tested on all
    test images of those classes. Pixels are preprocessed by the statistics of the first step, the only ones known then.

    Every draw is keyed by the order and the step, not by the buffer: all buffers see the same classes, initial networks
    and batches.

    ``out`` is a run folder for the accuracies one by one (metrics.jsonl), the distillations, the result
    (continual.json) and its picture (continual.png). An interrupted run resumes bit-identically; a kill loses the
    current training. After Ctrl-C or SIGTERM a KeyboardInterrupt is raised once the current training is done and
    logged.

    ``custom_buffers`` are user-defined buffers by name, beside those of ``config``. Each is called at every step with
    the images of the new classes alone, numbered from 0, and a seed, and returns any number of images of each of them.
    ``own`` is their deprecated name.

    References
    ----------
    GDumb (ECCV 2020): greedy sampler, dumb learner. DSA (arXiv 2102.08259) and DM (arXiv 2110.04181): distilled images
    in its buffer.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> quick = ContinualConfig(buffers=("random",), orders=1, width=8, training=TrainConfig(epochs=2))
    >>> result = continual(load("digits"), quick)
    >>> result.classes_seen, result.accuracies["random"].shape
    ((2, 4, 6, 8, 10), (1, 5, 1))
    """
    if own is not None:
        warnings.warn("own is deprecated, use custom_buffers", DeprecationWarning, stacklevel=2)
    custom = custom_buffers or own or {}
    if taken := sorted({*SOURCES} & {*custom}):
        raise InputError(f"a custom buffer is named {taken[0]!r}", f"another name than {', '.join(SOURCES)}")
    data = image_data.load(data)
    config = _resolved(config or ContinualConfig(), data)
    identity = {"own": sorted(custom)} if custom else {}
    with open_run(out, JOB, data, config, _SETTINGS, **identity) as run:
        orders = [_Order(data, config, number, custom, run) for number in range(config.orders)]
        for order in orders:
            order.complete()
        result = ContinualResult(
            {
                name: np.array([[order.done[name, s] for s in range(config.steps)] for order in orders])
                for name in (*config.buffers, *custom)
            },
            tuple(accumulate(len(new) for new in orders[0].arrivals)),
            tuple(tuple(data.classes[label] for label in order.labels) for order in orders),
        )
        if run is not None:
            save_result(run, "continual", result)
    return result


def class_order(n_classes: int, seed: int, number: int) -> list[int]:
    """Draw the order of this number in which the classes arrive.

    Examples
    --------
    >>> sorted(class_order(4, seed=0, number=2))
    [0, 1, 2, 3]
    """
    order: list[int] = seeding.generator(seed, "class order", number).permutation(n_classes).tolist()
    return order


def _resolved(config: ContinualConfig, data: ImageSet) -> ContinualConfig:
    """Check the settings against the data, and fill in open ones by all images.

    The classes of one step would not do: two of them do not show that the images are digits, which must not be flipped.
    """
    if config.steps > data.n_classes:
        raise InputError(f"steps is {config.steps} for {data.n_classes} classes", "at least one class per step")
    for labels, least, part in ((data.train_labels, config.ipc, "training"), (data.test_labels, 1, "test")):
        counts = np.bincount(labels, minlength=data.n_classes)
        if counts.min() < least:
            name = data.classes[counts.argmin()]
            raise InputError(f"class {name!r} has {counts.min()} {part} images", f"at least {least}")
    distill = dataclasses.replace(config.distill, ipc=config.ipc)
    return dataclasses.replace(
        config,
        # A loss's scale is its method's, and each buffer has its own.
        distill=dataclasses.replace(distill.resolved(data), loss_scale=distill.loss_scale),
        augment=augmentation_for(data.classes, config.augment).operations,
    )


class _Order:
    """The trainings of one order of arrival; ``done`` has the accuracies by buffer and step."""

    def __init__(
        self, data: ImageSet, config: ContinualConfig, number: int, custom: Mapping[str, Buffer], run: runs.Run | None
    ) -> None:
        self.data, self.config, self.number, self.custom, self.run = data, config, number, custom, run
        self.names = (*config.buffers, *custom)
        self.labels = class_order(data.n_classes, config.seed, number)
        self.arrivals = [new.tolist() for new in np.array_split(self.labels, config.steps)]
        columns = [f"accuracy_{n}" for n in range(config.networks)]
        self.done: dict[tuple[str, int], list[float]] = {}
        if run is not None:
            rows = run.metrics()
            with reading(run.path, "a continual-learning run folder", KeyError, TypeError):
                for row in rows:
                    if row["order"] == number:
                        self.done[row["buffer"], row["arrival"]] = [float(row[name]) for name in columns]

    def complete(self) -> None:
        """Train and test what is not done yet."""
        config = self.config
        keys = [(name, arrival) for arrival in range(config.steps) for name in self.names]
        left = [key for key in keys if key not in self.done]
        buffers = {name: self._buffer(name) for name in dict.fromkeys(name for name, _ in left)}
        label = f"continual, order {self.number + 1} of {config.orders}"
        with progress.bar(label, len(keys), done=len(self.done)) as bar, runs.interruptible() as stopping:
            for name, arrival in left:
                if stopping():
                    break
                began = time.perf_counter()
                images, labels = map(torch.cat, zip(*buffers[name][: arrival + 1], strict=True))
                accuracies = self._train_and_test(images, labels, arrival)
                self.done[name, arrival] = accuracies
                self._log(name, arrival, accuracies, time.perf_counter() - began)
                bar.advance(accuracy=float(np.mean(accuracies)))

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Statistics of the first classes."""
        return Preprocessing.fit(only_classes(self.data, self.arrivals[0]), self.config.distill.whitening or "none")

    @cached_property
    def tests(self) -> list[tuple[RealInputs, Tensor]]:
        """After each step, the test images of the classes seen, and their positions in the order of arrival."""
        rows, labels = members_of(self.labels, self.data.test_labels)
        device = devices.pick(self.config.training.device)
        tests = []
        for n_seen in accumulate(len(new) for new in self.arrivals):
            seen = labels < n_seen
            inputs = RealInputs(self.data.test_images, self.preprocessing, rows[seen], device)
            tests.append((inputs, torch.tensor(labels[seen])))
        return tests

    def _buffer(self, name: str) -> list[tuple[Tensor, Tensor]]:
        """Return the network inputs that a buffer receives at each step, with labels by the order of arrival."""
        received = []
        n_seen = 0
        for arrival, new in enumerate(self.arrivals):
            seed = seeding.derive(self.config.seed, "buffer", self.number, arrival)
            images, labels = self._images_of(name, only_classes(self.data, new), arrival, seed)
            received.append((images, labels + n_seen))
            n_seen += len(new)
        return received

    def _images_of(self, name: str, new: ImageSet, arrival: int, seed: int) -> tuple[Tensor, Tensor]:
        """Make a buffer's images of the new classes, as network inputs, and their labels."""
        if name in self.custom:
            kept = self.custom[name](new, seed)
            if kept.classes != new.classes or set(kept.labels.tolist()) != set(range(new.n_classes)):
                received = f"the buffer {name!r} has {len(kept)} images of the classes {', '.join(kept.classes)}"
                raise InputError(received, f"images of each of {', '.join(new.classes)}")
            return self.preprocessing(kept.pixels()), kept.labels
        folder = None
        if self.run is not None:
            folder = self.run.path / "buffers" / f"{name}-order-{self.number}-step-{arrival}"
        (source,) = (known for known in SOURCES if known == name)
        kept = small_set(source, new, self.config.ipc, seed, self.config.distill, folder, self.preprocessing)
        return kept.images, kept.labels

    def _train_and_test(self, inputs: Tensor, labels: Tensor, arrival: int) -> list[float]:
        """Return the test accuracies of fresh networks whose heads cover the classes seen."""
        config, shape = self.config, self.data.image_shape
        n_seen = sum(len(new) for new in self.arrivals[: arrival + 1])
        seed = seeding.derive(config.seed, "training", self.number, arrival)
        networks = train_networks(
            lambda _: build("convnet", shape, n_seen, width=config.width, depth=config.depth, norm=config.norm),
            range(config.networks),
            inputs,
            labels,
            SiameseAugmentation(config.augment or ()),
            dataclasses.replace(config.training, seed=seed),
        )
        test_images, test_labels = self.tests[arrival]
        return [accuracy(network, test_images, test_labels, config.training.batch) for network in networks]

    def _log(self, name: str, arrival: int, accuracies: list[float], seconds: float) -> None:
        if self.run is not None:
            step = self.number * self.config.steps * len(self.names) + len(self.done)
            values = {f"accuracy_{n}": value for n, value in enumerate(accuracies)}
            self.run.log(step, buffer=name, order=self.number, arrival=arrival, seconds=round(seconds, 3), **values)
