"""How good a small set is: the test accuracy of fresh networks trained on it alone."""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from sextet_common import device, progress, runs, seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from torch import Tensor

from attention_matching.evaluation.ensemble import group_size
from attention_matching.evaluation.training import TrainConfig, accuracy, train_networks
from attention_matching.images.augment import Operation, augmentation_for
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.held_out import HeldOut, hold_out
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import random_real, whole_set
from attention_matching.networks.base import FeatureNetwork
from attention_matching.networks.build import Architecture, build
from attention_matching.networks.layers import Norm

JOB = "attention-matching evaluate"
Labels = Literal["hard", "soft"]
Choice = Literal["last", "held-out"]


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(TrainConfig):
    """How a set is evaluated. The defaults are DM's protocol, which DataDAM's follows.

    Settings that are None are chosen by the image's size, as in distillation.
    """

    networks: int = 3
    """How many networks, each from its own initialisation (the papers have 5 to 20)."""
    architecture: Architecture = "convnet"
    """convnet, alexnet, vgg11, resnet18 or vit."""
    width: int | None = None
    """Channels of a ConvNet: 128; 64 below 28 pixels."""
    depth: int | None = None
    """Blocks of a ConvNet: 3 for 32 pixels, 4 for 64, 5 for 128; 2 below 28."""
    norm: Norm = "instance"
    """Normalisation of the network."""
    augment: tuple[Operation, ...] | None = None
    """The augmentation's transforms: all six; no flip for digits."""
    labels: Labels = "hard"
    """What the networks learn: class numbers, or the set's soft labels."""
    choose: Choice = "last"
    """The step whose accuracy counts: the last, or the best of twenty on held-out training images."""
    held_out: float = 0.1
    """The share of each class's training images that is held out to choose the step by."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("networks", "width", "depth"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}", "a whole number >= 1")
        for name, accepted in (("labels", get_args(Labels)), ("choose", get_args(Choice))):
            if getattr(self, name) not in accepted:
                raise InputError(f"{name} is {getattr(self, name)!r}", " or ".join(accepted))
        if not 0 < self.held_out < 1:
            raise InputError(f"held_out is {self.held_out}", "a number between 0 and 1")

    def network(self, image_shape: tuple[int, int, int], n_classes: int) -> FeatureNetwork:
        """Build an untrained network.

        Parameters
        ----------
        image_shape
            Channels, height and width of the images.
        n_classes
            How many logits.

        Returns
        -------
        FeatureNetwork
            On the CPU, from torch's global generator.
        """
        return build(self.architecture, image_shape, n_classes, width=self.width, depth=self.depth, norm=self.norm)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Test accuracies of fresh networks, at a step that was not chosen on the test set.

    Parameters
    ----------
    accuracies
        One per network, in [0, 1].

    Examples
    --------
    >>> print(Evaluation((0.9, 0.8)))
    85.0 ± 7.1 %
    """

    accuracies: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.accuracies or not all(0 <= each <= 1 for each in self.accuracies):
            raise InputError(f"accuracies are {self.accuracies}", "one or more, in [0, 1]")

    @property
    def mean(self) -> float:
        """Mean accuracy over the networks."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Sample standard deviation over the networks; 0 for one network."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    def confidence_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return where the mean over all networks that might be drawn lies, with this confidence.

        Student's t interval, ``mean ± t std / sqrt(n)``, which assumes that the networks'
        accuracies are drawn independently from a normal distribution. It speaks of the
        networks: another distillation would give another set. It may leave [0, 1].

        Parameters
        ----------
        level
            The confidence, in (0, 1).

        Returns
        -------
        tuple of float
            The lower and the upper end.

        Raises
        ------
        InputError
            Where there is one network only, or the level is no share.

        Examples
        --------
        >>> low, high = Evaluation((0.90, 0.92, 0.94)).confidence_interval()
        >>> round(low, 3), round(high, 3)
        (0.87, 0.97)
        """
        from scipy.special import stdtrit  # Student's t quantile

        if not 0 < level < 1:
            raise InputError(f"level is {level}", "a number between 0 and 1")
        n = len(self.accuracies)
        if n < 2:
            raise InputError(f"a confidence interval of {n} network", "2 networks or more")
        reach = float(stdtrit(n - 1, (1 + level) / 2)) * self.std / n**0.5
        return self.mean - reach, self.mean + reach

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.std:.1f} %"


def evaluate(
    training: DistilledSet,
    data: ImageSet,
    config: EvaluateConfig | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Train fresh networks on a small set and test each on real images.

    Parameters
    ----------
    training
        The set to train on.
    data
        Where the test images come from and, with ``choose="held-out"``, the images to choose
        the step by: a part of the training images, without any that is in the set itself. A
        distillation has seen them all the same, so the choice is made on familiar images;
        what is reported is measured on the test images alone.
    config
        How to train.
    out
        A run folder, where each network's accuracy is kept as soon as it is known. A folder
        that holds a part of the same evaluation is gone on with, to the same numbers.

    Returns
    -------
    Evaluation
        The test accuracies.

    Raises
    ------
    InputError
        Where the two sets' images or classes differ, soft labels are missing, a loss is not
        finite, or the folder holds something else.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the epoch is done.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> digits = load("digits")
    >>> quick = EvaluateConfig(networks=2, epochs=2, width=8)
    >>> len(evaluate(random_real(digits, ipc=1), digits, quick).accuracies)
    2
    """
    config = config or EvaluateConfig()
    if tuple(training.images.shape[1:]) != data.image_shape or training.classes != data.classes:
        raise InputError(
            f"the set has {len(training.classes)} classes of {tuple(training.images.shape[1:])} images, "
            f"the test data {data.n_classes} of {data.image_shape}",
            "the same image shape and classes",
        )
    held_out = None
    if config.choose == "held-out":
        _, candidates = hold_out(data, training.preprocessing, config.held_out, config.seed)
        held_out = candidates.without(training.images)
    examples = training.images, _targets(training, config)
    return _evaluate(lambda numbers: examples, data, training.preprocessing, config, held_out, out)


def evaluate_random_real(
    data: ImageSet,
    ipc: int,
    config: EvaluateConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    label: Callable[[DistilledSet], DistilledSet] | None = None,
) -> Evaluation:
    """Measure the baseline: each network is trained on another random choice of real images.

    Parameters
    ----------
    data
        The images.
    ipc
        Images per class.
    config
        How to train. With ``choose="held-out"`` the images held out are not chosen from.
    out
        A run folder: see :func:`evaluate`.
    preprocessing
        From pixels to inputs; by default the training images' mean and std.
    label
        With soft labels: what gives them to a choice, such as :func:`soft_labels_from`
        with its teacher filled in.

    Returns
    -------
    Evaluation
        The test accuracies; their std is over choices and networks.

    Raises
    ------
    InputError
        See :func:`evaluate`.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> quick = EvaluateConfig(networks=2, epochs=2, width=8)
    >>> 0 <= evaluate_random_real(load("digits"), 1, quick).mean <= 1
    True
    """
    config = config or EvaluateConfig()
    preprocessing = preprocessing or Preprocessing.fit(data)
    kept, held_out = _held_out(data, preprocessing, config)

    def examples(numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        chosen = [random_real(kept, ipc, seeding.derive(config.seed, "choice", n), preprocessing) for n in numbers]
        labelled = [label(each) for each in chosen] if label is not None else chosen
        targets = [_targets(each, config) for each in labelled]
        return torch.stack([each.images for each in chosen]), torch.stack(targets)

    return _evaluate(examples, data, preprocessing, config, held_out, out)


def evaluate_whole(
    data: ImageSet,
    config: EvaluateConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
) -> Evaluation:
    """Measure what a small set is held against: networks trained on all training images, with their hard labels.

    Parameters
    ----------
    data
        The images.
    config
        How to train; fewer epochs will do, since each is longer. With ``choose="held-out"``
        the networks are not trained on the images held out.
    out
        A run folder: see :func:`evaluate`.
    preprocessing
        From pixels to inputs; by default the training images' mean and std.

    Returns
    -------
    Evaluation
        The test accuracies.

    Raises
    ------
    InputError
        See :func:`evaluate`.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> 0 <= evaluate_whole(load("digits"), EvaluateConfig(networks=1, epochs=1, width=8)).mean <= 1
    True
    """
    config = dataclasses.replace(config or EvaluateConfig(), labels="hard")
    preprocessing = preprocessing or Preprocessing.fit(data)
    kept, held_out = _held_out(data, preprocessing, config)
    training = whole_set(kept, preprocessing)
    return _evaluate(lambda numbers: (training.images, training.labels), data, preprocessing, config, held_out, out)


def _held_out(data: ImageSet, preprocessing: Preprocessing, config: EvaluateConfig) -> tuple[ImageSet, HeldOut | None]:
    if config.choose == "last":
        return data, None
    return hold_out(data, preprocessing, config.held_out, config.seed)


def _targets(training: DistilledSet, config: EvaluateConfig) -> Tensor:
    if config.labels == "hard":
        return training.labels
    if training.soft_labels is None:
        raise InputError("the set has no soft labels", "labels hard, or a set that soft_labels_from has labelled")
    return training.soft_labels


def _evaluate(
    examples: Callable[[Sequence[int]], tuple[Tensor, Tensor]],
    data: ImageSet,
    preprocessing: Preprocessing,
    config: EvaluateConfig,
    held_out: HeldOut | None,
    out: str | os.PathLike[str] | None,
) -> Evaluation:
    """Train and test the networks, group after group; ``examples`` gives what a group is trained on."""
    where = device.pick(config.device)
    inputs, labels = preprocessing(data.test_images).to(where), torch.tensor(data.test_labels).to(where)
    augment = augmentation_for(data.classes, config.augment)

    def make(number: int) -> FeatureNetwork:
        return config.network(data.image_shape, data.n_classes)

    first = examples([0])
    with seeding.torch_seed(config.seed, "form"):
        together = group_size(make(0).to(where), first[0].shape[-4:], config, where)
    run, accuracies = None, []
    if out is not None:
        known = [*first, inputs, labels, *([] if held_out is None else [held_out.inputs, held_out.labels])]
        run = runs.Run.open(out, JOB, {"data": data.source, "sha256": runs.fingerprint(*known), **runs.to_json(config)})
        with reading(run.path, "a folder in which an evaluation was begun"):
            accuracies = [Evaluation((float(row["accuracy"]),)).mean for row in run.metrics()]
        # A group that a kill cut short is trained again as a whole: its sums may round by the group's size.
        if len(accuracies) < config.networks:
            accuracies = accuracies[: len(accuracies) // together * together]
        run.rewind(len(accuracies) - 1)
    done = len(accuracies)
    began = time.perf_counter()
    with (
        progress.bar("evaluate", config.networks * config.epochs, done=done * config.epochs) as bar,
        runs.interruptible() as stopping,
    ):

        def advance(epochs: int) -> None:
            bar.advance(epochs)
            if stopping():
                raise KeyboardInterrupt

        for start in range(done, config.networks, together):
            group = range(start, min(start + together, config.networks))
            chosen = dataclasses.replace(config, together=together)
            networks = train_networks(
                make, group, *examples(group), augment, chosen, held_out=held_out, advance=advance
            )
            for number, network in zip(group, networks, strict=True):
                accuracies.append(accuracy(network, inputs, labels, config.batch))
                if run is not None:
                    seconds = round(time.perf_counter() - began, 3)
                    run.log(number, accuracy=accuracies[-1], seconds=seconds)
    return Evaluation(tuple(accuracies))
