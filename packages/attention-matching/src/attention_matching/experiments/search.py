"""Architecture search by proxy: rank many ConvNets on a few images each, as the whole data set would rank them."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from sextet_common import device, files, progress, runs, seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from torch import Tensor, nn

from attention_matching.evaluation.training import TrainConfig, accuracy, train_networks
from attention_matching.experiments.grid import Candidate, Grid
from attention_matching.experiments.search_result import WHOLE, Scores, SearchResult
from attention_matching.images.augment import Operation, SiameseAugmentation, augmentation_for
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.held_out import hold_out
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import whole_set

JOB = "attention-matching search"
COLUMNS = ("validation", "test", "seconds")


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Which networks are ranked, and how they are trained."""

    grid: Grid = dataclasses.field(default_factory=Grid)
    """The architectures."""
    held_out: float = 0.2
    """The share of every class's training images that the ranking is measured on."""
    networks: int = 1
    """Fresh networks for each architecture and training set, whose mean accuracy counts."""
    augment: tuple[Operation, ...] | None = None
    """The augmentation's transforms: all six; no flip for digits."""
    seed: int = 0
    """The seed of all random numbers."""
    proxy: TrainConfig = dataclasses.field(default_factory=lambda: TrainConfig(epochs=100))
    """How networks are trained on a proxy; its seed is set for each architecture."""
    whole: TrainConfig = dataclasses.field(default_factory=lambda: TrainConfig(epochs=60))
    """How networks are trained on the whole training set, likewise."""

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise InputError(f"held_out is {self.held_out}", "a share between 0 and 1")
        if self.networks < 1:
            raise InputError(f"networks is {self.networks}", "a whole number >= 1")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}", "a whole number >= 0")


def search_data(data: ImageSet, config: SearchConfig | None = None) -> ImageSet:
    """Split off the images that the ranking is measured on. A proxy is made from what remains.

    Parameters
    ----------
    data
        The images.
    config
        The settings: its ``held_out`` and ``seed``.

    Returns
    -------
    ImageSet
        The remaining training images; the held-out ones stand as its test images. The test
        images of ``data`` take no part. Mean and std are those of all training images.

    Raises
    ------
    InputError
        Where a class has a single training image.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> part = search_data(load("digits"))
    >>> len(part.train_images), len(part.test_images)
    (1150, 287)
    """
    config = config or SearchConfig()
    channels = data.image_shape[0]
    as_pixels = Preprocessing(torch.zeros(channels), torch.ones(channels))
    kept, held_out = hold_out(data, as_pixels, config.held_out, config.seed)
    return dataclasses.replace(kept, test_images=held_out.inputs.numpy(), test_labels=held_out.labels.numpy())


def search(
    data: ImageSet,
    proxies: Mapping[str, DistilledSet],
    config: SearchConfig | None = None,
    out: str | os.PathLike[str] | None = None,
) -> SearchResult:
    """Train every architecture on every proxy and on the whole training set, and compare the rankings.

    A proxy ranks architectures by their accuracy on held-out training images; what they are
    worth is their accuracy on the test images after training on the whole set (without those
    held out). So no architecture is chosen on the test images, and chance in one set of
    images does not look like agreement. The whole set's own ranking on the held-out images
    is the agreement that a perfect proxy would reach.

    Parameters
    ----------
    data
        The images.
    proxies
        Name to a small set, made from :func:`search_data`'s training images: one made from
        images that are held out here would be flattered. The whole set is preprocessed as the
        first of them. The seconds that it took to make one are read from ``meta["seconds"]``,
        where :func:`~attention_matching.experiments.small_sets.small_set` leaves them.
    config
        The settings.
    out
        A run folder, for the accuracies one by one (metrics.jsonl), the result (search.json)
        and its picture (search.png). A stopped or killed run is gone on with, to the same
        accuracies; a kill loses the training at hand.

    Returns
    -------
    SearchResult
        The accuracies and times, and what follows from them.

    Raises
    ------
    InputError
        Where there is no proxy, a proxy does not fit the data or is whitened and another is
        not, an architecture does not fit the images, or the folder holds something else.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the training at hand is done and logged.

    References
    ----------
    Zhao, Mopuri and Bilen, "Dataset condensation with gradient matching" (arXiv 2006.05929),
    section 4.3. The held-out images are DM's (arXiv 2110.04181).

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
    config = config or SearchConfig()
    config = dataclasses.replace(config, augment=augmentation_for(data.classes, config.augment).operations)
    architectures = config.grid.architectures()
    _check(data, proxies, architectures)
    part = search_data(data, config)
    sets = {**proxies, WHOLE: whole_set(part, next(iter(proxies.values())).preprocessing)}
    run = None
    if out is not None:
        content = runs.fingerprint(data.train_images, data.train_labels, data.test_images, data.test_labels)
        of_proxies = {name: _fingerprint(proxy) for name, proxy in proxies.items()}
        recorded = {"data": data.source, "data_sha256": content, "proxies": of_proxies, **runs.to_json(config)}
        run = runs.Run.open(out, JOB, recorded)
        run.rewind(sys.maxsize)  # what a kill tore from the log's last line would spoil the next
    task = _Search(data, part, sets, config, run)
    task.go_on(architectures)

    def scores(name: str) -> Scores:
        rows = [task.done[name, str(architecture)] for architecture in architectures]
        validation, test, seconds = (np.array([row[column] for row in rows]) for column in COLUMNS)
        return Scores(len(sets[name]), validation, test, seconds, float(sets[name].meta.get("seconds", 0)))

    result = SearchResult(
        tuple(map(str, architectures)), {name: scores(name) for name in proxies}, scores(WHOLE), config.seed
    )
    if run is not None:
        report = {**run.config, "machine": device.describe(), **result.to_json()}
        files.write_text(run.path / "search.json", json.dumps(report, indent=2) + "\n")
        result.save_picture(run.path / "search.png")
    return result


class _Search:
    """What of a search is done, and the rest."""

    def __init__(
        self,
        data: ImageSet,
        part: ImageSet,
        sets: Mapping[str, DistilledSet],
        config: SearchConfig,
        run: runs.Run | None,
    ) -> None:
        self.data = data
        self.part = part
        self.sets = sets
        self.config = config
        self.run = run
        self.inputs: dict[int, list[tuple[str, Tensor, Tensor]]] = {}
        self.done: dict[tuple[str, str], dict[str, float]] = {}
        if run is not None:
            with reading(run.path, "a folder in which a search was begun"):
                for row in run.metrics():
                    self.done[row["set"], row["architecture"]] = {name: float(row[name]) for name in COLUMNS}

    def go_on(self, architectures: Sequence[Candidate]) -> None:
        """Do what is not done. An architecture's trainings follow one another, so that their times compare."""
        keys = [(name, architecture) for architecture in architectures for name in self.sets]
        left = [(name, architecture) for name, architecture in keys if (name, str(architecture)) not in self.done]
        warm = None
        with progress.bar("search", len(keys), done=len(keys) - len(left)) as bar, runs.interruptible() as stopping:
            for name, architecture in left:
                if stopping():
                    break
                if architecture != warm:  # its first step also pays for what the device prepares: not counted
                    self._train(next(iter(self.sets)), architecture, dataclasses.replace(self.config.proxy, epochs=1))
                    warm = architecture
                row = self._train_and_test(name, architecture)
                self.done[name, str(architecture)] = row
                if self.run is not None:
                    self.run.log(len(self.done), set=name, architecture=str(architecture), **row)
                bar.advance(validation=row["validation"])

    def _train_and_test(self, name: str, architecture: Candidate) -> dict[str, float]:
        """Return the mean accuracies of an architecture's networks and the seconds of their training."""
        how = self.config.whole if name == WHOLE else self.config.proxy
        began = time.perf_counter()
        networks = self._train(name, architecture, how)
        seconds = round(time.perf_counter() - began, 4)

        found: dict[str, float] = {"seconds": seconds}
        for kind, images, labels in self._looked_at(self.sets[name].preprocessing):
            found[kind] = float(np.mean([accuracy(network, images, labels, how.batch) for network in networks]))
        return found

    def _looked_at(self, preprocessing: Preprocessing) -> list[tuple[str, Tensor, Tensor]]:
        """Return the held-out and the test images as network inputs, made once for all sets of one preprocessing."""
        if id(preprocessing) not in self.inputs:
            self.inputs[id(preprocessing)] = [
                (kind, preprocessing(images.test_images), torch.tensor(images.test_labels))
                for kind, images in (("validation", self.part), ("test", self.data))
            ]
        return self.inputs[id(preprocessing)]

    def _train(self, name: str, architecture: Candidate, how: TrainConfig) -> list[nn.Module]:
        """Train fresh networks: the same initial ones on every set."""
        config, training = self.config, self.sets[name]
        return train_networks(
            lambda _: architecture.build(self.data.image_shape, self.data.n_classes),
            range(config.networks),
            training.images,
            _targets(training),
            SiameseAugmentation(config.augment or ()),
            dataclasses.replace(how, seed=seeding.derive(config.seed, "architecture", str(architecture))),
        )


def _check(data: ImageSet, proxies: Mapping[str, DistilledSet], architectures: tuple[Candidate, ...]) -> None:
    if not proxies:
        raise InputError("no proxy is given", "at least one small set")
    for name, proxy in proxies.items():
        if name == WHOLE:
            raise InputError(f"a proxy is called {name!r}", "another name: that is the whole training set's")
        if tuple(proxy.images.shape[1:]) != data.image_shape or proxy.classes != data.classes:
            raise InputError(
                f"proxy {name!r} has {len(proxy.classes)} classes of {tuple(proxy.images.shape[1:])} images, "
                f"the data {data.n_classes} of {data.image_shape}",
                "the same image shape and classes",
            )
    if len({proxy.preprocessing.whitening for proxy in proxies.values()}) > 1:
        raise InputError("some proxies are whitened and some are not", "one preprocessing for all and the whole set")
    for architecture in architectures:
        with torch.device("meta"):  # shapes alone: an architecture that cannot be built is refused before any training
            architecture.build(data.image_shape, data.n_classes)


def _fingerprint(proxy: DistilledSet) -> str:
    trained_on = (proxy.images, proxy.labels, proxy.soft_labels)
    return runs.fingerprint(*(tensor for tensor in trained_on if tensor is not None))


def _targets(training: DistilledSet) -> Tensor:
    """Return what networks learn of a set: its soft labels where it has them."""
    return training.labels if training.soft_labels is None else training.soft_labels
