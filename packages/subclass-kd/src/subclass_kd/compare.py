"""Comparison of students alone, with conventional and with subclass distillation, over seeds, one teacher per seed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from sextet_common import device, files, loggers, runs
from sextet_common.checks import Count, Growing, Positive, PositiveShare, Share, check_fields
from sextet_common.errors import InputError
from sextet_common.options import Advanced
from torch import nn

from subclass_kd.batches import Batches
from subclass_kd.bits import Bits, label_bits, mutual_label_bits, soft_label_bits
from subclass_kd.comparison import FILE, SEMI, Comparison, Method
from subclass_kd.config import TrainConfig
from subclass_kd.data import SubclassSet
from subclass_kd.discover import choose_layer
from subclass_kd.hierarchy import Hierarchy
from subclass_kd.inference import evaluate, predict
from subclass_kd.layers import layer_features
from subclass_kd.losses import (
    ClassKDLoss,
    CrossEntropy,
    DecoupledKDLoss,
    DISTLoss,
    LearnedSubclassLoss,
    Objective,
    StandardizedKDLoss,
    SubclassKDLoss,
)
from subclass_kd.metrics import Scores
from subclass_kd.networks import build, complexity
from subclass_kd.sources import Source, load
from subclass_kd.teacher import TeacherLogits
from subclass_kd.timing import latency
from subclass_kd.train import distill, train_teacher

TEMPERATURES, ALPHAS = (1.0, 2.0, 4.0, 8.0), (0.5, 0.9)  # the grid of tune
OTHER_SOFT_TERMS: dict[str, Callable[[Hierarchy, float], Objective]] = {
    "dkd": DecoupledKDLoss,
    "standardised": StandardizedKDLoss,
    "dist": DISTLoss,
}  # without an alpha


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """What is compared, and how."""

    methods: tuple[Method, ...] = ("alone", "kd", "skd", "discovered")
    """alone, alone-subclass, kd, kd-classes (a teacher trained on classes), dkd, standardised, dist, skd,
    skd-curriculum, discovered and learned (subclasses); with unlabelled images, or a share of the labels, also kd-semi,
    skd-semi and pseudo, which use the other images."""
    seeds: Growing[Count] = 5
    """Number of seeds: of teachers, students, batches, and of the draw of labels if they are scarce. A finished
    comparison continues with more."""
    teacher: str = "convnet-deep"
    """Name of the teacher's network."""
    student: str = "convnet"
    """Name of the student's network."""
    teacher_width: Advanced[Count | None] = None
    """Width of the teacher if it is convnet (16 by default) or convnet-deep (48)."""
    student_width: Advanced[Count | None] = None
    """Width of the student if it is convnet (16 by default) or convnet-deep (48)."""
    temperature: Advanced[Positive] = 4.0
    """Temperature of all soft terms."""
    alpha: Advanced[Share] = 0.9
    """Share of the soft terms."""
    tune: bool = False
    """Choose temperature and alpha of every method on the validation images of the first seed, from a small grid."""
    share: PositiveShare = 1.0
    """Share of the training labels that teachers and students see, and the images with them; methods named semi and
    pseudo see all images."""
    teacher_labels: Literal["share", "all"] = "share"
    """all: the teacher sees all labels, as a teacher from elsewhere that was trained on more data."""
    teacher_epochs: Advanced[Count | None] = None
    """Passes of teachers over their images; by default those with as many steps as the students have."""
    per_class: Advanced[Count] = 5
    """Number of discovered subclasses per class."""
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    """How teachers and students are trained."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise InputError(f"methods are {self.methods}", f"some of {', '.join(get_args(Method))}, each once")


def objective_of(method: Method, data: SubclassSet, temperature: float, alpha: float) -> Objective:
    """Return a method's objective."""
    hierarchy = data.hierarchy
    if method == "alone":
        return CrossEntropy(hierarchy, "class")
    if method in ("alone-subclass", "pseudo"):
        return CrossEntropy(hierarchy, "subclass")
    if method in ("kd", "kd-classes", "kd-semi"):
        return ClassKDLoss(hierarchy, temperature, alpha)
    if method in OTHER_SOFT_TERMS:
        return OTHER_SOFT_TERMS[method](hierarchy, temperature)
    return SubclassKDLoss(hierarchy, temperature, alpha)


def grid_of(method: Method) -> list[dict[str, float]]:
    """Return the settings among which ``tune`` chooses; one empty one for methods without a soft term."""
    if method in ("alone", "alone-subclass", "pseudo"):
        return [{}]
    alphas = [{}] if method in OTHER_SOFT_TERMS else [{"alpha": alpha} for alpha in ALPHAS]
    return [{"temperature": temperature, **alpha} for temperature in TEMPERATURES for alpha in alphas]


def compare(
    data: SubclassSet | Source,
    config: CompareConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    chosen: Mapping[Method, Mapping[str, float]] | None = None,
    log: Sequence[loggers.Name | loggers.Logger] = (),
) -> Comparison:
    """Train a teacher and every method's student for each seed, and score them on the test part.

    Parameters
    ----------
    data, config
        The data, or what `load` accepts, and the settings.
    out
        A folder with a run folder per network. Finished networks are not trained again.
    chosen
        Temperature and alpha of single methods in place of the settings', such as another comparison's ``chosen``.
    log
        Trackers that follow the training of every network: tensorboard, wandb, mlflow, or objects.

    Examples
    --------
    >>> from subclass_kd import load
    >>> config = CompareConfig(methods=("alone", "skd"), seeds=1, share=0.1, train=TrainConfig(epochs=1))
    >>> sorted(compare(load("digits"), config).scores)
    ['alone', 'skd', 'teacher']
    """
    data, config = load(data), config or CompareConfig()
    if "skd-curriculum" in config.methods and data.train.difficulty is None:
        raise InputError("skd-curriculum without difficulties", "data with votes, or no skd-curriculum")
    semi = [method for method in config.methods if method in SEMI]
    if semi and config.share == 1 and data.train.is_labelled.all():
        raise InputError(f"{semi[0]} without unlabelled images", "a share of the labels below 1, or data with some")
    cost = _cost(data, config)  # before any training: unknown networks are refused here
    scores: dict[str, list[Scores]] = {name: [] for name in ("teacher", *config.methods)}
    settled = {str(method): dict(options) for method, options in (chosen or {}).items()}
    for method, options in settled.items():
        if not set(options) <= {"temperature", "alpha"}:
            raise InputError(f"chosen of {method} is {options}", "temperature, alpha, or both")
    record = _record(config, data) | ({"chosen": settled} if settled else {})
    opened = None if out is None else runs.Run.open(out, "subclass-kd compare", record, settings=CompareConfig)
    with opened or nullcontext():
        folder = None if opened is None else opened.path
        for seed in range(config.seeds):
            trial = _Trial(data, config, seed, folder, tuple(log), settled)
            for name, each in trial.scores().items():
                scores[name].append(each)
        comparison = Comparison(scores, cost, _bits(trial.data, trial.teacher, config), settled)
        if folder is not None:
            files.write_text(folder / FILE, json.dumps(comparison.as_dict(), indent=1) + "\n")
    return comparison


class _Trial:
    """One seed of a comparison: its draw of the data, its teachers, and a student per method.

    The first seed fills ``chosen`` with the settings that do best on the validation images.
    """

    teacher: nn.Module

    def __init__(
        self,
        data: SubclassSet,
        config: CompareConfig,
        seed: int,
        folder: Path | None,
        log: tuple[loggers.Name | loggers.Logger, ...],
        chosen: dict[str, dict[str, float]],
    ) -> None:
        self.config, self.seed, self.log, self.chosen = config, seed, log, chosen
        self.all, self.data = data, data.scarce(config.share, seed) if config.share < 1 else data
        if not self.data.train.is_labelled.all():  # images without labels are for the methods that are meant for them
            labelled = self.data.train.rows(np.flatnonzero(self.data.train.is_labelled))
            self.data = dataclasses.replace(self.data, train=labelled)
        self.train = dataclasses.replace(
            config.train, seed=seed, views=dataclasses.replace(config.train.views, seed=seed)
        )
        self.folder = None if folder is None else folder / f"seed-{seed}"

    def scores(self) -> dict[str, Scores]:
        """Train all networks and score them."""
        labelled = self.all if self.config.teacher_labels == "all" else self.data
        self.teacher = self._teacher(labelled, "teacher")
        logits = self._logits(self.teacher, self.data, "teacher-logits")
        scores = {"teacher": evaluate(self.teacher, self.data)}
        for method in self.config.methods:
            data, source = self.data, logits
            if method in SEMI:
                data, source = self._semi(method)
            elif method == "kd-classes":
                source = self._teacher_of_classes(labelled)
            elif method == "discovered":
                data, source = self._discovered()
            elif method == "learned":
                data, source = self._learned()
            scores[method] = self._best(method, data, source)
        return scores

    def _run_folder(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / name

    def _teacher(self, data: SubclassSet, name: str, objective: Objective | None = None) -> nn.Module:
        """Train a teacher, by default by cross-entropy on the labels of the data."""
        outputs, width = data.hierarchy.n_subclasses, self.config.teacher_width
        network = build(self.config.teacher, data.input_shape, outputs, width=width, seed=self.seed)
        folder = self._run_folder(name)
        epochs = self.config.teacher_epochs
        longer = None if epochs is None else dataclasses.replace(self.train, epochs=epochs)
        train = longer or self._as_long(data, self.train, False)
        if objective is None:
            return train_teacher(network, data, train, folder, log=self.log)
        return distill(None, network, data, objective, train, folder, log=self.log)

    def _as_long(self, data: SubclassSet, train: TrainConfig, with_unlabelled: bool) -> TrainConfig:
        """Return the settings with the epochs that have as many steps on some data as on the labelled images."""
        steps, longer = (
            Batches(part, train, with_unlabelled=unlabelled).steps
            for part, unlabelled in ((self.data.train, False), (data.train, with_unlabelled))
        )
        return dataclasses.replace(train, epochs=max(1, round(train.epochs * steps / longer)))

    def _logits(self, teacher: nn.Module, data: SubclassSet, name: str) -> nn.Module | TeacherLogits:
        """Return a teacher's cached logits on the training images or, without a folder, the teacher."""
        folder = self._run_folder(name)
        return teacher if folder is None else TeacherLogits.compute(teacher, data.train, self.train.views, folder)

    def _best(self, method: Method, data: SubclassSet, source: nn.Module | TeacherLogits) -> Scores:
        """Train a method's student with the settings chosen for it, or choose them, and score it."""
        config = self.config
        usual = {"temperature": config.temperature, "alpha": config.alpha}
        if not config.tune:
            options = usual | self.chosen.get(method, {})
            return evaluate(self._student(method, method, data, source, options), data)
        grid = [self.chosen[method]] if method in self.chosen else grid_of(method)
        found = []
        for options in grid:
            varied = "-".join(f"{key}-{value:g}" for key, value in options.items())
            name = f"{method}-{varied}" if varied else method
            student = self._student(method, name, data, source, usual | options)
            found.append((evaluate(student, data, "validation").f1, evaluate(student, data)))
        best = max(range(len(grid)), key=lambda number: found[number][0])
        self.chosen[method] = grid[best]
        return found[best][1]

    def _student(
        self,
        method: Method,
        name: str,
        data: SubclassSet,
        teacher: nn.Module | TeacherLogits,
        options: dict[str, float],
    ) -> nn.Module:
        """Train a method's student; all methods' students have the same initial weights, and as many steps."""
        train = dataclasses.replace(self.train, curriculum="linear") if method == "skd-curriculum" else self.train
        outputs, width = data.hierarchy.n_subclasses, self.config.student_width
        network = build(self.config.student, data.input_shape, outputs, width=width, seed=self.seed)
        objective = objective_of(method, data, **options)
        train = self._as_long(data, train, objective.needs_teacher)
        return distill(teacher, network, data, objective, train, self._run_folder(name), log=self.log)

    def _semi(self, method: Method) -> tuple[SubclassSet, nn.Module | TeacherLogits]:
        """Return the data with the other images unlabelled, or with the labels that the teacher gives them."""
        data = self.all.scarce(self.config.share, self.seed, rest="unlabelled")
        source = self._logits(self.teacher, data, "teacher-logits-all-images")
        if method != "pseudo":
            return data, source
        labels = data.train.labels.copy()
        guessed = predict(self.teacher, data.train).argmax(dim=1).numpy()
        labels[labels < 0] = guessed[labels < 0]
        return dataclasses.replace(data, train=dataclasses.replace(data.train, labels=labels)), source

    def _teacher_of_classes(self, data: SubclassSet) -> nn.Module | TeacherLogits:
        teacher = self._teacher(data.with_classes_only(), "teacher-classes")
        return self._logits(teacher, self.data, "teacher-classes-logits")

    def _discovered(self) -> tuple[SubclassSet, nn.Module | TeacherLogits]:
        """Return the data with clusters of a layer's features as subclasses, and a teacher of these.

        The layers are those of a network that was trained on the classes alone.
        """
        data, classes = self.data, self.data.with_classes_only()
        network = self._teacher(classes, "classes")
        layers = layer_features(network, classes.train, classes.validation)
        labels = np.concatenate([classes.train.labels, classes.validation.labels])
        names = data.hierarchy.class_names
        found = choose_layer(layers, labels, self.config.per_class, class_names=names, seed=self.seed).discovered
        train, validation = np.split(found.subclass_labels, [len(data.train)])
        data = data.with_subclasses(train, validation, found.hierarchy)
        return data, self._logits(self._teacher(data, "teacher-discovered"), data, "teacher-discovered-logits")

    def _learned(self) -> tuple[SubclassSet, nn.Module | TeacherLogits]:
        """Return the data with subclasses that only a teacher knows, which it found by itself."""
        data, per_class = self.data, self.config.per_class
        hierarchy = Hierarchy(
            np.repeat(np.arange(data.hierarchy.n_classes), per_class),
            tuple(f"{name} {number}" for name in data.hierarchy.class_names for number in range(per_class)),
            data.hierarchy.class_names,
        )
        train, validation = (
            hierarchy.class_only(data.hierarchy.class_labels(part.labels)) for part in (data.train, data.validation)
        )
        data = data.with_subclasses(train, validation, hierarchy)
        teacher = self._teacher(data, "teacher-learned", LearnedSubclassLoss(hierarchy))
        return data, self._logits(teacher, data, "teacher-learned-logits")


def _cost(data: SubclassSet, config: CompareConfig) -> dict[str, dict[str, float]]:
    costs = {}
    for role, name, width in (
        ("teacher", config.teacher, config.teacher_width),
        ("student", config.student, config.student_width),
    ):
        network = build(name, data.input_shape, data.hierarchy.n_subclasses, width=width)
        network = network.to(device.pick(config.train.device))
        parameters, operations = complexity(network, data.input_shape)
        seconds = latency(network, data.input_shape).median
        costs[role] = {"parameters": float(parameters), "multiply_adds": float(operations), "seconds": seconds}
    return costs


def _bits(data: SubclassSet, teacher: nn.Module, config: CompareConfig) -> tuple[Bits, ...]:
    logits = predict(teacher, data.train)
    return (
        label_bits(data.train.labels, data.hierarchy),
        soft_label_bits(logits, data.hierarchy),
        mutual_label_bits(logits, data.hierarchy),
        soft_label_bits(logits, data.hierarchy, config.temperature),
    )


def _record(config: CompareConfig, data: SubclassSet) -> dict[str, object]:
    record = runs.to_json(config)
    for name in ("tune", "teacher_labels", "teacher_epochs"):  # so that comparisons of earlier releases resume
        if getattr(config, name) == getattr(CompareConfig, name):
            del record[name]
    if data.train.is_labelled.all() and not set(config.methods) & set(SEMI):
        del record["train"]["unlabelled_ratio"]  # it decides nothing
    return {**record, "data": data.source, "data_sha256": data.train.fingerprint(data.test.labels)}
