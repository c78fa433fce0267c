"""Architecture search by proxy: rank many ConvNets on a few images each, as the whole data set would rank them."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from sextet_common import data as image_data, device as devices, progress, runs, seeding
from sextet_common.checks import Count, Natural, OpenShare, check_fields
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from torch import Tensor, nn

from attention_matching.evaluation.accuracy import accuracy
from attention_matching.evaluation.config import TrainConfig
from attention_matching.evaluation.training import train_networks
from attention_matching.experiments.grid import Candidate, Grid
from attention_matching.experiments.run_folder import open_run, save_result
from attention_matching.experiments.search_result import WHOLE, Scores, SearchResult
from attention_matching.images.augment import SiameseAugmentation, augmentation_for
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.held_out import held_out_rows, without_rows
from attention_matching.images.inputs import Inputs, RealInputs
from attention_matching.images.preprocess import Preprocessing
from attention_matching.kinds import Operation

JOB = "attention-matching search"
COLUMNS = ("validation", "test", "seconds")


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Which networks are ranked, and how they are trained."""

    grid: Grid = dataclasses.field(default_factory=Grid)
    """The architectures."""
    held_out: OpenShare = 0.2
    """Share of the training images of every class that the ranking is measured on."""
    networks: Count = 1
    """Fresh networks for each architecture and training set; their mean accuracy counts."""
    augment: tuple[Operation, ...] | None = None
    """Transforms of the augmentation: all six; no flip for digits."""
    seed: Natural = 0
    """Seed of all random numbers."""
    proxy: TrainConfig = dataclasses.field(default_factory=lambda: TrainConfig(epochs=100))
    """Settings of the training on a proxy; the seed is set for each architecture."""
    whole: TrainConfig = dataclasses.field(default_factory=lambda: TrainConfig(epochs=60))
    """Settings of the training on the whole training set, likewise."""

    def __post_init__(self) -> None:
        check_fields(self)


def search_data(data: image_data.Source, config: SearchConfig | None = None) -> ImageSet:
    """Split off the images that the ranking is measured on; make proxies from what remains.

    The held-out images become the test images of the result; the test images of ``data`` take no part. Mean and std
    are those of all training images. ``config.held_out`` and ``config.seed`` choose the split.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> remaining = search_data(load("digits"))
    >>> len(remaining.train_images), len(remaining.test_images)
    (1150, 287)
    """
    config, data = config or SearchConfig(), image_data.load(data)
    taken = held_out_rows(data, config.held_out, config.seed)
    held_out = image_data.take(data.train_images, taken)
    return dataclasses.replace(without_rows(data, taken), test_images=held_out, test_labels=data.train_labels[taken])


def search(
    data: image_data.Source,
    proxies: Mapping[str, DistilledSet],
    config: SearchConfig | None = None,
    out: str | os.PathLike[str] | None = None,
) -> SearchResult:
    """Train every architecture on every proxy and on the whole training set, and compare the rankings.

    A proxy ranks architectures by their accuracy on held-out training images. Their worth is their accuracy on the
    test images after training on the whole set (without the held-out images). So no architecture is chosen on the test
    images, and chance in one set of images does not look like agreement. The whole set's own ranking on the held-out
    images is the agreement that a perfect proxy would reach.

    ``proxies`` are small sets by name, made from the training images of :func:`search_data`: a proxy that contains
    held-out images would look better than it is. The whole set is preprocessed as the first of them. The seconds it
    took to make a proxy are read from ``meta["seconds"]``, where :func:`~attention_matching.small_set` stores them.

    ``out`` is a run folder for the accuracies one by one (metrics.jsonl), the result (search.json) and its picture
    (search.png). An interrupted run resumes bit-identically; a kill loses the current training. After Ctrl-C or SIGTERM
    a KeyboardInterrupt is raised once the current training is done and logged.

    References
    ----------
    Zhao, Mopuri and Bilen, "Dataset condensation with gradient matching" (arXiv 2006.05929), section 4.3. The held-out
    images are DM's (arXiv 2110.04181).

    Examples
    --------
    >>> from sextet_common.data import load
    >>> from attention_matching.images.select import random_real
    >>> digits = load("digits")
    >>> few = SearchConfig(Grid((4,), (1,), ("batch",), ("relu",), ("avg", "max")),
    ...     proxy=TrainConfig(epochs=2), whole=TrainConfig(epochs=1))
    >>> result = search(digits, {"random": random_real(search_data(digits, few), 1)}, few)
    >>> [str(architecture) for architecture in result.architectures]
    ['4x1 batch relu avg', '4x1 batch relu max']
    """
    config, data = config or SearchConfig(), image_data.load(data)
    config = dataclasses.replace(config, augment=augmentation_for(data.classes, config.augment).operations)
    architectures = config.grid.architectures()
    _check(data, proxies, architectures)
    remaining = search_data(data, config)
    sets = {name: _Examples.of(proxy) for name, proxy in proxies.items()}
    sets[WHOLE] = _Examples.whole(remaining, next(iter(proxies.values())).preprocessing, config.whole.device)
    fingerprints = {name: _fingerprint(proxy) for name, proxy in proxies.items()}
    with open_run(out, JOB, data, config, SearchConfig, proxies=fingerprints) as run:
        trainings = _Trainings(data, remaining, sets, config, run)
        trainings.complete(architectures)
        scores = {name: trainings.scores(name, architectures) for name in sets}
        whole = scores.pop(WHOLE)
        result = SearchResult(tuple(map(str, architectures)), scores, whole, config.seed)
        if run is not None:
            save_result(run, "search", result)
    return result


@dataclasses.dataclass(frozen=True)
class _Examples:
    """What networks are trained on, and the seconds it took to make."""

    inputs: Inputs
    targets: Tensor
    preprocessing: Preprocessing
    seconds: float = 0.0

    @classmethod
    def of(cls, proxy: DistilledSet) -> _Examples:
        targets = proxy.labels if proxy.soft_labels is None else proxy.soft_labels
        return cls(proxy.images, targets, proxy.preprocessing, float(proxy.meta.get("seconds", 0)))

    @classmethod
    def whole(cls, data: ImageSet, preprocessing: Preprocessing, device: str) -> _Examples:
        inputs = RealInputs(data.train_images, preprocessing, device=devices.pick(device))
        return cls(inputs, torch.tensor(data.train_labels), preprocessing)


class _Trainings:
    """The trainings of a search; ``done`` has a row of results by set and architecture."""

    def __init__(
        self,
        data: ImageSet,
        remaining: ImageSet,
        sets: Mapping[str, _Examples],
        config: SearchConfig,
        run: runs.Run | None,
    ) -> None:
        self.data, self.remaining, self.sets, self.config, self.run = data, remaining, sets, config, run
        self._inputs: dict[int, list[tuple[str, RealInputs, Tensor]]] = {}
        self.done: dict[tuple[str, str], dict[str, float]] = {}
        if run is not None:
            rows = run.metrics()
            with reading(run.path, "a search run folder", KeyError, TypeError):
                for row in rows:
                    self.done[row["set"], row["architecture"]] = {name: float(row[name]) for name in COLUMNS}

    def scores(self, name: str, architectures: Sequence[Candidate]) -> Scores:
        """Return the results of a set."""
        rows = [self.done[name, str(architecture)] for architecture in architectures]
        validation, test, seconds = (np.array([row[column] for row in rows]) for column in COLUMNS)
        examples = self.sets[name]
        return Scores(len(examples.inputs), validation, test, seconds, examples.seconds)

    def complete(self, architectures: Sequence[Candidate]) -> None:
        """Train and test what is not done yet, architecture by architecture, so that their times compare."""
        keys = [(name, architecture) for architecture in architectures for name in self.sets]
        left = [(name, architecture) for name, architecture in keys if (name, str(architecture)) not in self.done]
        warm = None
        with progress.bar("search", len(keys), done=len(keys) - len(left)) as bar, runs.interruptible() as stopping:
            for name, architecture in left:
                if stopping():
                    break
                if architecture != warm:  # its first step also pays for what the device prepares: not timed
                    self._train(next(iter(self.sets)), architecture, dataclasses.replace(self.config.proxy, epochs=1))
                    warm = architecture
                row = self._train_and_test(name, architecture)
                self.done[name, str(architecture)] = row
                if self.run is not None:
                    self.run.log(len(self.done), set=name, architecture=str(architecture), **row)
                bar.advance(validation=row["validation"])

    def _train_and_test(self, name: str, architecture: Candidate) -> dict[str, float]:
        """Return the mean accuracies of an architecture's networks and the seconds of their training."""
        training = self.config.whole if name == WHOLE else self.config.proxy
        began = time.perf_counter()
        networks = self._train(name, architecture, training)
        row: dict[str, float] = {"seconds": round(time.perf_counter() - began, 4)}
        for column, images, labels in self._measured_on(self.sets[name].preprocessing):
            row[column] = float(np.mean([accuracy(network, images, labels, training.batch) for network in networks]))
        return row

    def _measured_on(self, preprocessing: Preprocessing) -> list[tuple[str, RealInputs, Tensor]]:
        """Return the held-out and the test images as network inputs, computed once per preprocessing."""
        if id(preprocessing) not in self._inputs:
            device = devices.pick(self.config.whole.device)
            self._inputs[id(preprocessing)] = [
                (column, RealInputs(images.test_images, preprocessing, device=device), torch.tensor(images.test_labels))
                for column, images in (("validation", self.remaining), ("test", self.data))
            ]
        return self._inputs[id(preprocessing)]

    def _train(self, name: str, architecture: Candidate, training: TrainConfig) -> list[nn.Module]:
        """Train fresh networks with the same initial weights on every set."""
        config, examples = self.config, self.sets[name]
        return train_networks(
            lambda _: architecture.build(self.data.image_shape, self.data.n_classes),
            range(config.networks),
            examples.inputs,
            examples.targets,
            SiameseAugmentation(config.augment or ()),
            dataclasses.replace(training, seed=seeding.derive(config.seed, "architecture", str(architecture))),
        )


def _check(data: ImageSet, proxies: Mapping[str, DistilledSet], architectures: tuple[Candidate, ...]) -> None:
    if not proxies:
        raise InputError("no proxy is given", "at least one small set")
    for name, proxy in proxies.items():
        if name == WHOLE:
            raise InputError(f"a proxy is named {name!r}", "another name: that is the whole training set's")
        if tuple(proxy.images.shape[1:]) != data.image_shape or proxy.classes != data.classes:
            raise InputError(
                f"proxy {name!r} has {len(proxy.classes)} classes of {tuple(proxy.images.shape[1:])} images, "
                f"the data {data.n_classes} of {data.image_shape}",
                "the same image shape and classes",
            )
    if len({proxy.preprocessing.whitening for proxy in proxies.values()}) > 1:
        raise InputError("some proxies are whitened and some are not", "one preprocessing for all and the whole set")
    for architecture in architectures:
        with torch.device("meta"):  # shapes alone: refuse what cannot be built before any training
            architecture.build(data.image_shape, data.n_classes)


def _fingerprint(proxy: DistilledSet) -> str:
    tensors = (proxy.images, proxy.labels, proxy.soft_labels)
    return runs.fingerprint(*(tensor for tensor in tensors if tensor is not None))
