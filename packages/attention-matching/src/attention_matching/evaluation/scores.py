"""DD-Ranking's two scores of a distilled set, computed here for any data set.

Accuracy alone also rewards what is not in the images: a teacher's soft labels, and strong
augmentation. These scores hold a set against random real images under the same training.
The formulas are DD-Ranking's with accuracies as fractions, so that they lie in [0, 1]; how the
networks are trained is this package's: the accuracy after the last step, and nothing that
is searched on the test set. Scores made so and by DD-Ranking's own program are not
to be put in one table.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path

from sextet_common.data import ImageSet
from sextet_common.errors import InputError

from attention_matching.evaluation.evaluate import (
    EvaluateConfig,
    Evaluation,
    evaluate,
    evaluate_random_real,
    evaluate_whole,
)
from attention_matching.images.distilled import DistilledSet


def label_robust_score(hard_label_recovery: float, improvement_over_random: float, weight: float = 0.5) -> float:
    """Return DD-Ranking's label-robust score.

    Parameters
    ----------
    hard_label_recovery
        Accuracy after training on the whole real set less that after training on the distilled
        one, both with hard labels: a fraction in [-1, 1], the smaller the better.
    improvement_over_random
        Accuracy after training on the distilled set, with whatever labels it comes with, less
        that on as many random real images under the same training: in [-1, 1].
    weight
        Of the improvement, in [0, 1]; the recovery has the rest.

    Returns
    -------
    float
        In [0, 1]; 0.269 where the weighted sum is 0.

    Raises
    ------
    InputError
        Where a difference is not in [-1, 1] (percent?) or the weight not in [0, 1].

    References
    ----------
    DD-Ranking (arXiv 2505.13300): alpha = w IOR - (1 - w) HLR, squashed.

    Examples
    --------
    >>> round(label_robust_score(hard_label_recovery=0.30, improvement_over_random=0.25), 3)
    0.258
    """
    _check_difference("hard_label_recovery", hard_label_recovery)
    _check_difference("improvement_over_random", improvement_over_random)
    _check_weight(weight)
    return _squash(weight * improvement_over_random - (1 - weight) * hard_label_recovery)


def augmentation_robust_score(with_augmentation: float, without_augmentation: float, weight: float = 0.5) -> float:
    """Return DD-Ranking's augmentation-robust score.

    Parameters
    ----------
    with_augmentation, without_augmentation
        Accuracy after training on the distilled set less that on as many random real images,
        both trained with, or both without augmentation: fractions in [-1, 1].
    weight
        Of the improvement with augmentation, in [0, 1].

    Returns
    -------
    float
        In [0, 1]; 0.269 where the weighted sum is 0, as for random images.

    Raises
    ------
    InputError
        Where a difference is not in [-1, 1] (percent?) or the weight not in [0, 1].

    References
    ----------
    DD-Ranking (arXiv 2505.13300): beta, squashed.

    Examples
    --------
    >>> round(augmentation_robust_score(with_augmentation=0.25, without_augmentation=0.15), 3)
    0.363
    """
    _check_difference("with_augmentation", with_augmentation)
    _check_difference("without_augmentation", without_augmentation)
    _check_weight(weight)
    return _squash(weight * with_augmentation + (1 - weight) * without_augmentation)


@dataclasses.dataclass(frozen=True)
class RobustScores:
    """The accuracies that the two scores are made of, and the scores.

    Parameters
    ----------
    whole
        Trained on the whole real set.
    distilled, random
        Trained on the distilled set and on as many random real images, with augmentation.
    distilled_plain, random_plain
        The same without augmentation.
    hard
        Trained on the distilled set with hard labels, where it has soft ones; else ``distilled``.
    weight
        Of the first term of each score.

    Examples
    --------
    >>> half, less = Evaluation((0.5,)), Evaluation((0.3,))
    >>> print(RobustScores(Evaluation((0.8,)), half, less, half, less, half))
    label-robust 0.248, augmentation-robust 0.363
    """

    whole: Evaluation
    distilled: Evaluation
    random: Evaluation
    distilled_plain: Evaluation
    random_plain: Evaluation
    hard: Evaluation
    weight: float = 0.5

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
    data: ImageSet,
    config: EvaluateConfig | None = None,
    *,
    whole_epochs: int = 60,
    weight: float = 0.5,
    label: Callable[[DistilledSet], DistilledSet] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> RobustScores:
    """Train the networks that the two scores need, and return the scores.

    Five evaluations with hard labels, six with soft ones. Two things differ from DD-Ranking's program:
    whichever step counts is not chosen on the test images, and distilled and random images are
    trained on with the same learning rate, which is not searched.

    Parameters
    ----------
    distilled
        The set: the same number of images of every class.
    data
        The real images.
    config
        How to train; its ``labels`` say which labels of the set are meant. Without augmentation
        means ``augment=()``.
    whole_epochs
        Passes over the whole set, which has more images for each.
    weight
        Of the first term of each score, in [0, 1].
    label
        With soft labels: what gives them to random real images, see :func:`evaluate_random_real`.
    out
        A folder for the evaluations' run folders; a stopped command goes on with them.

    Returns
    -------
    RobustScores
        The accuracies and the scores.

    Raises
    ------
    InputError
        Where the classes have unequal numbers of images, or see :func:`evaluate`.

    References
    ----------
    DD-Ranking (arXiv 2505.13300).

    Examples
    --------
    >>> from attention_matching.images.select import random_real
    >>> from sextet_common.data import load
    >>> digits, quick = load("digits"), EvaluateConfig(networks=1, epochs=2, width=4)
    >>> scores = robust_scores(random_real(digits, ipc=1), digits, quick, whole_epochs=1)
    >>> 0 <= scores.label_robust <= 1 and 0 <= scores.augmentation_robust <= 1
    True
    """
    config = config or EvaluateConfig()
    _check_weight(weight)
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

    def random(name: str, how: EvaluateConfig) -> Evaluation:
        return evaluate_random_real(data, ipc, how, folder(name), preprocessing=prepared, label=label)

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


def _check_weight(weight: float) -> None:
    if not 0 <= weight <= 1:
        raise InputError(f"weight is {weight}", "a number in [0, 1]")


def _squash(value: float) -> float:
    """Map [-1, 1] onto [0, 1], increasing and convex."""
    lowest = math.exp(-1)
    return (math.exp(value) - lowest) / (math.e - lowest)
