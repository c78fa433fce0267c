"""DD-Ranking's two scores of a distilled set (arXiv 2505.13300), computed here for any data set.

Accuracy alone also rewards what is not in the images: a teacher's soft labels, and strong augmentation. These scores
compare a set with random real images under the same training. The formulas are DD-Ranking's with accuracies as
fractions, so that the scores lie in [0, 1]. The training is this package's: the accuracy after the last step, and
nothing searched on the test set. Do not compare such scores with those of DD-Ranking's own program.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path

from sextet_common import data as image_data
from sextet_common.checks import Share, check, check_fields
from sextet_common.errors import InputError

from attention_matching.evaluation.accuracy import Evaluation
from attention_matching.evaluation.config import EvaluateConfig
from attention_matching.evaluation.evaluate import evaluate, evaluate_random_real, evaluate_whole, load_classes
from attention_matching.images.distilled import DistilledSet


def label_robust_score(hard_label_recovery: float, improvement_over_random: float, weight: float = 0.5) -> float:
    """Return DD-Ranking's label-robust score, in [0, 1]; 0.269 if the weighted sum is 0.

    ``hard_label_recovery`` is the accuracy of the whole real set minus that of the distilled set, both with hard
    labels: the smaller the better. ``improvement_over_random`` is the accuracy of the distilled set, with whatever
    labels it comes with, minus that of as many random real images under the same training. Both are in [-1, 1].
    ``weight`` w is in [0, 1].

    Source: arXiv 2505.13300, alpha = w IOR - (1 - w) HLR, squashed.

    Examples
    --------
    >>> round(label_robust_score(hard_label_recovery=0.30, improvement_over_random=0.25), 3)
    0.258
    """
    _check_difference("hard_label_recovery", hard_label_recovery)
    _check_difference("improvement_over_random", improvement_over_random)
    check("weight", weight, Share)
    return _squash(weight * improvement_over_random - (1 - weight) * hard_label_recovery)


def augmentation_robust_score(with_augmentation: float, without_augmentation: float, weight: float = 0.5) -> float:
    """Return DD-Ranking's augmentation-robust score, in [0, 1]; 0.269 for a set no better than random images.

    ``with_augmentation`` and ``without_augmentation`` are the accuracy of the distilled set minus that of as many
    random real images, both trained with, or both without augmentation: in [-1, 1]. ``weight`` is that of the former,
    in [0, 1]. Source: arXiv 2505.13300, beta, squashed.

    Examples
    --------
    >>> round(augmentation_robust_score(with_augmentation=0.25, without_augmentation=0.15), 3)
    0.363
    """
    _check_difference("with_augmentation", with_augmentation)
    _check_difference("without_augmentation", without_augmentation)
    check("weight", weight, Share)
    return _squash(weight * with_augmentation + (1 - weight) * without_augmentation)


@dataclasses.dataclass(frozen=True)
class RobustScores:
    """The two scores and the evaluations that they are computed from.

    Examples
    --------
    >>> half, less = Evaluation((0.5,)), Evaluation((0.3,))
    >>> print(RobustScores(Evaluation((0.8,)), half, less, half, less, half))
    label-robust 0.248, augmentation-robust 0.363
    """

    whole: Evaluation
    """Of the whole real set."""
    distilled: Evaluation
    """Of the distilled set, with augmentation."""
    random: Evaluation
    """Of as many random real images, with augmentation."""
    distilled_plain: Evaluation
    """Of the distilled set, without augmentation."""
    random_plain: Evaluation
    """Of the random real images, without augmentation."""
    hard: Evaluation
    """Of the distilled set with hard labels; ``distilled`` if it has no soft ones."""
    weight: Share = 0.5
    """Weight of the first term of each score."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def label_robust(self) -> float:
        """The label-robust score, in [0, 1]."""
        recovery = self.whole.mean - self.hard.mean
        return label_robust_score(recovery, self.distilled.mean - self.random.mean, self.weight)

    @property
    def augmentation_robust(self) -> float:
        """The augmentation-robust score, in [0, 1]."""
        plain = self.distilled_plain.mean - self.random_plain.mean
        return augmentation_robust_score(self.distilled.mean - self.random.mean, plain, self.weight)

    def __str__(self) -> str:
        return f"label-robust {self.label_robust:.3f}, augmentation-robust {self.augmentation_robust:.3f}"


def robust_scores(
    distilled: DistilledSet,
    data: image_data.Source,
    config: EvaluateConfig | None = None,
    *,
    whole_epochs: int = 60,
    weight: float = 0.5,
    label: Callable[[DistilledSet], DistilledSet] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> RobustScores:
    """Train the networks that the two scores need, and return the scores.

    Five evaluations with hard labels, six with soft ones. Two things differ from DD-Ranking's program: the step that
    counts is not chosen on the test images, and distilled and random images are trained on with the same learning
    rate, which is not searched.

    ``distilled`` has equally many images per class. ``config`` says how to train, and with which labels of the set;
    without augmentation means ``augment=()``. ``weight`` is that of the first term of each score. With soft labels,
    ``label`` adds them to random real images, see :func:`evaluate_random_real`. ``out`` is a folder for the run folders
    of the evaluations; interrupted ones resume.

    Examples
    --------
    >>> from attention_matching.images.select import random_real
    >>> from sextet_common.data import load
    >>> digits, quick = load("digits"), EvaluateConfig(networks=1, epochs=2, width=4)
    >>> scores = robust_scores(random_real(digits, ipc=1), digits, quick, whole_epochs=1)
    >>> 0 <= scores.label_robust <= 1 and 0 <= scores.augmentation_robust <= 1
    True
    """
    config, data = config or EvaluateConfig(), load_classes(data)
    check("weight", weight, Share)
    if config.labels == "views":
        raise InputError("labels 'views' without augmentation", "labels hard or soft")
    counts = distilled.labels.bincount(minlength=len(distilled.classes))
    ipc = int(counts[0])
    if not bool((counts == ipc).all()):
        raise InputError(
            f"{int(counts.min())} to {int(counts.max())} images per class", "the same number of every class"
        )
    prepared = distilled.preprocessing
    plain = dataclasses.replace(config, augment=())
    hard = dataclasses.replace(config, labels="hard")
    longer = dataclasses.replace(hard, epochs=whole_epochs)

    def folder(name: str) -> Path | None:
        return None if out is None else Path(out) / name

    def random(name: str, settings: EvaluateConfig) -> Evaluation:
        return evaluate_random_real(data, ipc, settings, folder(name), preprocessing=prepared, label=label)

    with_augmentation = evaluate(distilled, data, config, folder("distilled"))
    return RobustScores(
        whole=evaluate_whole(data, longer, folder("whole"), preprocessing=prepared),
        distilled=with_augmentation,
        random=random("random", config),
        distilled_plain=evaluate(distilled, data, plain, folder("distilled-plain")),
        random_plain=random("random-plain", plain),
        hard=with_augmentation if config == hard else evaluate(distilled, data, hard, folder("hard")),
        weight=weight,
    )


def _check_difference(name: str, value: float) -> None:
    if not -1 <= value <= 1:
        raise InputError(f"{name} is {value}", "a difference of two accuracies as fractions, in [-1, 1]")


def _squash(value: float) -> float:
    """Map [-1, 1] onto [0, 1], increasing and convex."""
    lowest = math.exp(-1)
    return (math.exp(value) - lowest) / (math.e - lowest)
