"""Evaluate a small set by the test accuracy of fresh networks trained on it alone."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool
from sextet_common import data as image_data, device as devices, progress, runs, seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from torch import Tensor

from attention_matching.evaluation.accuracy import Evaluation, accuracy
from attention_matching.evaluation.config import EvaluateConfig
from attention_matching.evaluation.training import train_networks
from attention_matching.images.augment import augmentation_for
from attention_matching.images.distilled import DistilledSet, check_same_form
from attention_matching.images.held_out import HeldOut, held_out_images, held_out_rows, without_rows
from attention_matching.images.inputs import Inputs, RealInputs
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import Ipc, random_real
from attention_matching.images.view_labels import Targets, ViewLabels
from attention_matching.networks.base import FeatureNetwork

JOB = "attention-matching evaluate"

Examples = Callable[[int], tuple[Inputs, Targets]]
"""From the number of a network to its training inputs and targets."""


def evaluate(
    training: DistilledSet,
    data: image_data.Source,
    config: EvaluateConfig | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Train fresh networks on a small set and test each on real images.

    Test images come from ``data`` and so do, with ``choose="held-out"``, the images that choose the step: a share of
    the training images, without any that is in the set itself. A distillation has seen them all the same, so the choice
    is made on familiar images; the reported accuracy is measured on the test images alone.

    ``out`` is a run folder; each network's accuracy is saved as soon as it is known, and an interrupted evaluation
    resumes bit-identically. After Ctrl-C or SIGTERM a KeyboardInterrupt is raised once the epoch is done.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> digits = load("digits")
    >>> quick = EvaluateConfig(networks=2, epochs=2, width=8)
    >>> len(evaluate(random_real(digits, ipc=1), digits, quick).accuracies)
    2
    """
    config, data = config or EvaluateConfig(), load_classes(data)
    check_same_form(training, data)
    held_out = None
    if config.choose == "held-out":
        taken = held_out_rows(data, config.held_out, config.seed)
        held_out = held_out_images(data, training.preprocessing, taken).without(training.images)
    examples = training.images, _targets(training, config)
    return _evaluate(lambda number: examples, data, training.preprocessing, config, held_out, out)


def evaluate_random_real(
    data: image_data.Source,
    ipc: Ipc,
    config: EvaluateConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    label: Callable[[DistilledSet], DistilledSet] | None = None,
) -> Evaluation:
    """Measure the baseline: each network is trained on another random choice of ``ipc`` real images per class.

    ``ipc`` may be a number for each class. With ``choose="held-out"`` the held-out images are not chosen from. ``out``
    is as in :func:`evaluate`. By default inputs are standardised by the training images' mean and std. ``label`` adds
    soft labels or labels of views to a choice, such as :func:`soft_labels_from` with its teacher bound.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> quick = EvaluateConfig(networks=2, epochs=2, width=8)
    >>> 0 <= evaluate_random_real(load("digits"), 1, quick).mean <= 1
    True
    """
    config, data = config or EvaluateConfig(), load_classes(data)
    preprocessing = preprocessing or Preprocessing.fit(data)
    taken, held_out = _split(data, preprocessing, config)
    kept = data if held_out is None else without_rows(data, taken)

    def examples(number: int) -> tuple[Tensor, Targets]:
        choice = random_real(kept, ipc, seeding.derive(config.seed, "choice", number), preprocessing)
        return choice.images, _targets(choice if label is None else label(choice), config)

    return _evaluate(examples, data, preprocessing, config, held_out, out)


def evaluate_whole(
    data: image_data.Source,
    config: EvaluateConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
) -> Evaluation:
    """Measure the upper reference: networks trained on all training images with their hard labels.

    The parameters are those of :func:`evaluate_random_real`. Fewer epochs will do, since each is longer; with
    ``choose="held-out"`` the networks are not trained on the held-out images.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> 0 <= evaluate_whole(load("digits"), EvaluateConfig(networks=1, epochs=1, width=8)).mean <= 1
    True
    """
    config, data = dataclasses.replace(config or EvaluateConfig(), labels="hard"), load_classes(data)
    preprocessing = preprocessing or Preprocessing.fit(data)
    taken, held_out = _split(data, preprocessing, config)
    rows = np.flatnonzero(~taken)
    training = RealInputs(data.train_images, preprocessing, rows, devices.pick(config.device))
    labels = torch.tensor(data.train_labels[rows])
    return _evaluate(lambda number: (training, labels), data, preprocessing, config, held_out, out)


def _split(
    data: ImageSet, preprocessing: Preprocessing, config: EvaluateConfig
) -> tuple[Bool[np.ndarray, " train"], HeldOut | None]:
    """Return the mask of the held-out images, and these images as inputs."""
    if config.choose == "last":
        return np.zeros(len(data.train_labels), dtype=bool), None
    taken = held_out_rows(data, config.held_out, config.seed)
    return taken, held_out_images(data, preprocessing, taken)


def load_classes(data: image_data.Source) -> ImageSet:
    """Load data, and refuse a single class."""
    data = image_data.load(data)
    if data.n_classes < 2:
        raise InputError(f"data of {data.n_classes} class, on which any network scores 100 %", "2 classes or more")
    return data


def _targets(training: DistilledSet, config: EvaluateConfig) -> Targets:
    if config.labels == "hard":
        return training.labels
    soft, views = training.soft_labels, training.view_labels
    if config.labels == "soft":
        if soft is None:
            raise InputError("the set has no soft labels", "labels hard, or a set that soft_labels_from has labelled")
        return soft
    if views is None:
        raise InputError("the set has no labels of views", "labels hard, or a set that view_labels_from has labelled")
    if config.augment is not None and config.augment != views.augment.operations:
        given = f"augment {config.augment} with labels of views transformed by {views.augment.operations}"
        raise InputError(given, "augment None, or labels hard or soft")
    return views


def _tensors(inputs: Inputs, targets: Targets) -> list[Tensor]:
    """Return what identifies a training set; real images are identified by their data."""
    labels = list(targets.arrays().values()) if isinstance(targets, ViewLabels) else [targets]
    return [*([inputs] if isinstance(inputs, Tensor) else []), *labels]


def _evaluate(
    examples: Examples,
    data: ImageSet,
    preprocessing: Preprocessing,
    config: EvaluateConfig,
    held_out: HeldOut | None,
    out: str | os.PathLike[str] | None,
) -> Evaluation:
    """Train and test the networks, one after another."""
    device = devices.pick(config.device)
    inputs = RealInputs(data.test_images, preprocessing, device=device)
    labels = torch.tensor(data.test_labels).to(device)
    augment = augmentation_for(data.classes, config.augment)

    def make(number: int) -> FeatureNetwork:
        return config.network(data.image_shape, data.n_classes)

    with torch.device("meta"):  # refuse what cannot be built before anything is written
        make(0)

    def accuracy_of(number: int, advance: Callable[[int], None]) -> float:
        [network] = train_networks(
            make, [number], *examples(number), augment, config, held_out=held_out, advance=advance
        )
        return accuracy(network, inputs, labels, config.batch)

    if out is None:
        return Evaluation(tuple(_complete(accuracy_of, config, None)))
    record = {
        "data": data.source,
        "data_sha256": data.fingerprint,
        "preprocessing_sha256": preprocessing.sha256,
        "sha256": runs.fingerprint(*_tensors(*examples(0))),
        **runs.to_json(config),
    }
    with runs.Run.open(out, JOB, record, settings=EvaluateConfig) as run:
        return Evaluation(tuple(_complete(accuracy_of, config, run)))


def _complete(
    accuracy_of: Callable[[int, Callable[[int], None]], float], config: EvaluateConfig, run: runs.Run | None
) -> list[float]:
    """Return the accuracies of all networks; train and test those that have none in the run folder."""
    accuracies = [] if run is None else _resumed(run)
    done, began = len(accuracies), time.perf_counter()
    with (
        progress.bar("evaluate", config.networks * config.epochs, done=done * config.epochs) as bar,
        runs.interruptible() as stopping,
    ):

        def advance(epochs: int) -> None:
            bar.advance(epochs)
            if stopping():
                raise KeyboardInterrupt

        for number in range(done, config.networks):
            accuracies.append(accuracy_of(number, advance))
            if run is not None:
                seconds = round(time.perf_counter() - began, 3)
                run.log(number, accuracy=accuracies[-1], seconds=seconds)
    return accuracies


def _resumed(run: runs.Run) -> list[float]:
    """Return the accuracies that a run folder holds, and drop damaged lines."""
    rows = run.metrics()
    with reading(run.path, "an evaluation run folder", KeyError, TypeError):
        accuracies = [float(row["accuracy"]) for row in rows]
    accuracies = [Evaluation((accuracy,)).mean for accuracy in accuracies]
    run.rewind(len(accuracies) - 1)
    return accuracies
