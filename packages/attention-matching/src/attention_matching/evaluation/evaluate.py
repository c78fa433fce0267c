"""Evaluate a small set by the test accuracy of fresh networks trained on it alone."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool
from sextet_common import data as image_data, device as devices, progress, runs, seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from torch import Tensor

from attention_matching.evaluation.accuracy import Evaluation, accuracy
from attention_matching.evaluation.config import EvaluateConfig
from attention_matching.evaluation.ensemble import group_size
from attention_matching.evaluation.training import train_networks
from attention_matching.images.augment import augmentation_for
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.held_out import HeldOut, held_out_images, held_out_rows, without_rows
from attention_matching.images.inputs import Inputs, RealInputs
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import random_real
from attention_matching.networks.base import FeatureNetwork

JOB = "attention-matching evaluate"

Examples = Callable[[Sequence[int]], tuple[Inputs, Tensor]]
"""From the numbers of networks to their training inputs and targets; one set for all, or one each."""


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
    config, data = config or EvaluateConfig(), image_data.load(data)
    if tuple(training.images.shape[1:]) != data.image_shape or training.classes != data.classes:
        raise InputError(
            f"the set has {len(training.classes)} classes of {tuple(training.images.shape[1:])} images, "
            f"the test data {data.n_classes} of {data.image_shape}",
            "the same image shape and classes",
        )
    held_out = None
    if config.choose == "held-out":
        taken = held_out_rows(data, config.held_out, config.seed)
        held_out = held_out_images(data, training.preprocessing, taken).without(training.images)
    examples = training.images, _targets(training, config)
    return _evaluate(lambda numbers: examples, data, training.preprocessing, config, held_out, out)


def evaluate_random_real(
    data: image_data.Source,
    ipc: int,
    config: EvaluateConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    label: Callable[[DistilledSet], DistilledSet] | None = None,
) -> Evaluation:
    """Measure the baseline: each network is trained on another random choice of ``ipc`` real images per class.

    With ``choose="held-out"`` the held-out images are not chosen from. ``out`` is as in :func:`evaluate`. By default
    inputs are standardised by the training images' mean and std. ``label`` adds soft labels to a choice, such as
    :func:`soft_labels_from` with its teacher bound.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> quick = EvaluateConfig(networks=2, epochs=2, width=8)
    >>> 0 <= evaluate_random_real(load("digits"), 1, quick).mean <= 1
    True
    """
    config, data = config or EvaluateConfig(), image_data.load(data)
    preprocessing = preprocessing or Preprocessing.fit(data)
    taken, held_out = _split(data, preprocessing, config)
    kept = data if held_out is None else without_rows(data, taken)

    def examples(numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        choices = [random_real(kept, ipc, seeding.derive(config.seed, "choice", n), preprocessing) for n in numbers]
        labelled = [label(each) for each in choices] if label is not None else choices
        targets = [_targets(each, config) for each in labelled]
        return torch.stack([each.images for each in choices]), torch.stack(targets)

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
    config, data = dataclasses.replace(config or EvaluateConfig(), labels="hard"), image_data.load(data)
    preprocessing = preprocessing or Preprocessing.fit(data)
    taken, held_out = _split(data, preprocessing, config)
    rows = np.flatnonzero(~taken)
    training = RealInputs(data.train_images, preprocessing, rows, devices.pick(config.device))
    labels = torch.tensor(data.train_labels[rows])
    return _evaluate(lambda numbers: (training, labels), data, preprocessing, config, held_out, out)


def _split(
    data: ImageSet, preprocessing: Preprocessing, config: EvaluateConfig
) -> tuple[Bool[np.ndarray, " train"], HeldOut | None]:
    """Return the mask of the held-out images, and these images as inputs."""
    if config.choose == "last":
        return np.zeros(len(data.train_labels), dtype=bool), None
    taken = held_out_rows(data, config.held_out, config.seed)
    return taken, held_out_images(data, preprocessing, taken)


def _targets(training: DistilledSet, config: EvaluateConfig) -> Tensor:
    if config.labels == "hard":
        return training.labels
    if training.soft_labels is None:
        raise InputError("the set has no soft labels", "labels hard, or a set that soft_labels_from has labelled")
    return training.soft_labels


def _evaluate(
    examples: Examples,
    data: ImageSet,
    preprocessing: Preprocessing,
    config: EvaluateConfig,
    held_out: HeldOut | None,
    out: str | os.PathLike[str] | None,
) -> Evaluation:
    """Train and test the networks, group by group."""
    device = devices.pick(config.device)
    inputs = RealInputs(data.test_images, preprocessing, device=device)
    labels = torch.tensor(data.test_labels).to(device)
    augment = augmentation_for(data.classes, config.augment)

    def make(number: int) -> FeatureNetwork:
        return config.network(data.image_shape, data.n_classes)

    first = examples([0])
    with seeding.torch_seed(config.seed, "form"):
        together = group_size(make(0).to(device), first[0].shape[-4:], config, device)
    chosen = dataclasses.replace(config, together=together)

    def accuracies_of(group: range, advance: Callable[[int], None]) -> list[float]:
        networks = train_networks(make, group, *examples(group), augment, chosen, held_out=held_out, advance=advance)
        return [accuracy(network, inputs, labels, config.batch) for network in networks]

    if out is None:
        return Evaluation(tuple(_complete(accuracies_of, [], config.networks, together, config.epochs, None)))
    record = {
        "data": data.source,
        "data_sha256": data.fingerprint,
        "preprocessing_sha256": preprocessing.sha256,
        "sha256": runs.fingerprint(*(part for part in first if isinstance(part, Tensor))),
        **runs.to_json(config),
    }
    with runs.Run.open(out, JOB, record, settings=EvaluateConfig) as run:
        done = _resumed(run, config.networks, together)
        return Evaluation(tuple(_complete(accuracies_of, done, config.networks, together, config.epochs, run)))


def _complete(
    accuracies_of: Callable[[range, Callable[[int], None]], list[float]],
    accuracies: list[float],
    networks: int,
    together: int,
    epochs: int,
    run: runs.Run | None,
) -> list[float]:
    """Train and test the networks that have no accuracy yet, group by group."""
    done, began = len(accuracies), time.perf_counter()
    with (
        progress.bar("evaluate", networks * epochs, done=done * epochs) as bar,
        runs.interruptible() as stopping,
    ):

        def advance(epochs: int) -> None:
            bar.advance(epochs)
            if stopping():
                raise KeyboardInterrupt

        for start in range(done, networks, together):
            group = range(start, min(start + together, networks))
            for number, each in zip(group, accuracies_of(group, advance), strict=True):
                accuracies.append(each)
                if run is not None:
                    run.log(number, accuracy=each, seconds=round(time.perf_counter() - began, 3))
    return accuracies


def _resumed(run: runs.Run, networks: int, together: int) -> list[float]:
    """Return the accuracies that a run folder holds, of whole groups only, and drop the others."""
    rows = run.metrics()
    with reading(run.path, "an evaluation run folder", KeyError, TypeError):
        accuracies = [float(row["accuracy"]) for row in rows]
    accuracies = [Evaluation((accuracy,)).mean for accuracy in accuracies]
    # A group that was interrupted is trained again as a whole: its sums may round differently by the group's size.
    if len(accuracies) < networks:
        accuracies = accuracies[: len(accuracies) // together * together]
    run.rewind(len(accuracies) - 1)
    return accuracies
