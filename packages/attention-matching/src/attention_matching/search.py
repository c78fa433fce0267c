"""Architecture search by proxy: rank many ConvNets on a few images each, as the whole data set would rank them."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import Mapping

import numpy as np
import torch
from sextet_common import device, files, progress, runs, seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError

from attention_matching.augment import Operation, SiameseAugmentation, augmentation_for
from attention_matching.distilled import DistilledSet
from attention_matching.held_out import hold_out
from attention_matching.networks import Activation, ConvNet, Norm, Pooling
from attention_matching.preprocess import Preprocessing
from attention_matching.search_result import WHOLE, Scores, SearchResult
from attention_matching.select import whole_set
from attention_matching.small_sets import data_sha256
from attention_matching.training import TrainConfig, accuracy, train_networks

JOB = "attention-matching search"

Key = tuple[str, str]  # training set, architecture


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One ConvNet of a grid: the arguments of :class:`~attention_matching.networks.ConvNet`.

    Examples
    --------
    >>> print(Architecture(width=8, depth=2, norm="batch", activation="relu", pooling="max"))
    8x2 batch relu max
    """

    width: int
    depth: int
    norm: Norm
    activation: Activation
    pooling: Pooling

    def __str__(self) -> str:
        return f"{self.width}x{self.depth} {self.norm} {self.activation} {self.pooling}"


@dataclasses.dataclass(frozen=True)
class Grid:
    """The ConvNets to choose from: every combination. The default is *ours*, of 96, for small images."""

    widths: tuple[int, ...] = (8, 32)
    """Channels of every block."""
    depths: tuple[int, ...] = (1, 2)
    """Blocks."""
    norms: tuple[Norm, ...] = ("none", "batch", "layer", "instance")
    """Normalisations."""
    activations: tuple[Activation, ...] = ("sigmoid", "relu")
    """Activations."""
    poolings: tuple[Pooling, ...] = ("none", "max", "avg")
    """Poolings."""

    def architectures(self) -> tuple[Architecture, ...]:
        """Return all combinations, narrow and shallow ones first.

        Returns
        -------
        tuple of Architecture
            Each once.

        Raises
        ------
        InputError
            Where an axis is empty or names a value twice.

        Examples
        --------
        >>> len(Grid().architectures()), len(PAPERS_GRID.architectures())
        (96, 720)
        """
        for field in dataclasses.fields(self):
            values = getattr(self, field.name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"{field.name} are {values}", "at least one, each once")
        axes = (self.widths, self.depths, self.norms, self.activations, self.poolings)
        return tuple(Architecture(*values) for values in itertools.product(*axes))


PAPERS_GRID = Grid(
    (32, 64, 128, 256),
    (1, 2, 3, 4),
    ("none", "batch", "layer", "instance", "group"),
    ("sigmoid", "relu", "leaky_relu"),
    ("none", "max", "avg"),
)
"""The 720 ConvNets of the distillation papers, for 32x32 images (arXiv 2006.05929)."""


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
    proxy: TrainConfig = dataclasses.field(default_factory=lambda: TrainConfig(epochs=200))
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
        images that are held out here would be flattered.
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
        Where there is no proxy, a proxy does not fit the data, an architecture does not fit
        the images, or the folder holds something else.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the training at hand is done and logged.

    References
    ----------
    Zhao, Mopuri and Bilen, "Dataset condensation with gradient matching" (arXiv 2006.05929),
    section 4.3. The held-out images are DM's (arXiv 2110.04181).

    Examples
    --------
    >>> from sextet_common.data import load
    >>> from attention_matching.select import random_real
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
    sets = {**proxies, WHOLE: whole_set(part)}
    run = None
    if out is not None:
        content = {name: _sha256(proxy) for name, proxy in proxies.items()}
        recorded = {"data": data.source, "data_sha256": data_sha256(data), "proxies": content, **runs.to_json(config)}
        run = runs.Run.open(out, JOB, recorded)
        run.rewind(sys.maxsize)  # what a kill tore from the log's last line would spoil the next
    done = {} if run is None else _logged(run)
    _train_all(data, part, sets, architectures, config, run, done)

    def scores(name: str) -> Scores:
        rows = [done[name, str(architecture)] for architecture in architectures]
        validation, test, seconds = (
            np.array([row[column] for row in rows]) for column in ("validation", "test", "seconds")
        )
        return Scores(len(sets[name]), validation, test, seconds)

    result = SearchResult(
        tuple(map(str, architectures)), {name: scores(name) for name in proxies}, scores(WHOLE), config.seed
    )
    if run is not None:
        report = {**run.config, "machine": device.describe(), **result.to_json()}
        files.write_text(run.path / "search.json", json.dumps(report, indent=2) + "\n")
        result.save_picture(run.path / "search.png")
    return result


def _train_all(
    data: ImageSet,
    part: ImageSet,
    sets: Mapping[str, DistilledSet],
    architectures: tuple[Architecture, ...],
    config: SearchConfig,
    run: runs.Run | None,
    done: dict[Key, dict[str, float]],
) -> None:
    """Fill in what is not done. An architecture's training sets follow one another, so that their times compare."""
    keys = [(name, architecture) for architecture in architectures for name in sets]
    left = [(name, architecture) for name, architecture in keys if (name, str(architecture)) not in done]
    with progress.bar("search", len(keys), done=len(keys) - len(left)) as bar, runs.interruptible() as stopping:
        for name, architecture in left:
            if stopping():
                break
            row = _train_one(
                data, part, sets[name], architecture, config, config.whole if name == WHOLE else config.proxy
            )
            done[name, str(architecture)] = row
            if run is not None:
                run.log(len(done), set=name, architecture=str(architecture), **row)
            bar.advance(validation=row["validation"])


def _train_one(
    data: ImageSet,
    part: ImageSet,
    training: DistilledSet,
    architecture: Architecture,
    config: SearchConfig,
    how: TrainConfig,
) -> dict[str, float]:
    """Train fresh networks of one architecture on one set; return their mean accuracies and the seconds of training."""
    how = dataclasses.replace(how, seed=seeding.derive(config.seed, "architecture", str(architecture)))
    began = time.perf_counter()
    networks = train_networks(
        lambda number: ConvNet(data.image_shape, data.n_classes, **dataclasses.asdict(architecture)),
        range(config.networks),
        training.images,
        training.labels if training.soft_labels is None else training.soft_labels,
        SiameseAugmentation(config.augment or ()),
        how,
    )
    seconds = time.perf_counter() - began
    found = {}
    for name, images, labels in (
        ("validation", part.test_images, part.test_labels),
        ("test", data.test_images, data.test_labels),
    ):
        inputs, wanted = training.preprocessing(images), torch.tensor(labels)
        found[name] = float(np.mean([accuracy(network, inputs, wanted, how.batch) for network in networks]))
    return {**found, "seconds": round(seconds, 4)}


def _check(data: ImageSet, proxies: Mapping[str, DistilledSet], architectures: tuple[Architecture, ...]) -> None:
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
    for architecture in architectures:
        with torch.device("meta"):  # shapes alone: an architecture that cannot be built is refused before any training
            ConvNet(data.image_shape, data.n_classes, **dataclasses.asdict(architecture))


def _logged(run: runs.Run) -> dict[Key, dict[str, float]]:
    """Return what an interrupted run has logged."""
    columns = ("validation", "test", "seconds")
    return {(row["set"], row["architecture"]): {name: row[name] for name in columns} for row in run.metrics()}


def _sha256(training: DistilledSet) -> str:
    content = hashlib.sha256()
    for tensor in (training.images, training.labels, training.soft_labels):
        if tensor is not None:
            content.update(tensor.numpy().tobytes())
    return content.hexdigest()
