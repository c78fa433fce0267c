"""Comparison of students alone, with conventional and with subclass distillation, over seeds, one teacher per seed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import numpy as np
from sextet_common import device, files, loggers, runs
from sextet_common.checks import Count, Growing, Positive, PositiveShare, Share, check_fields
from sextet_common.errors import InputError
from sextet_common.options import Advanced
from torch import nn

from subclass_kd.bits import Bits, label_bits, mutual_label_bits, soft_label_bits
from subclass_kd.comparison import FILE, Comparison, Method
from subclass_kd.config import TrainConfig
from subclass_kd.data import SubclassSet
from subclass_kd.discover import discover_subclasses
from subclass_kd.inference import evaluate, features_on, predict
from subclass_kd.losses import ClassKDLoss, CrossEntropy, DecoupledKDLoss, Objective, SubclassKDLoss
from subclass_kd.metrics import Scores
from subclass_kd.networks import build, complexity, latency
from subclass_kd.sources import Source, load
from subclass_kd.teacher import TeacherLogits
from subclass_kd.train import distill, train_teacher


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """What is compared, and how."""

    methods: tuple[Method, ...] = ("alone", "kd", "skd", "discovered")
    """alone, alone-subclass, kd, dkd, skd, skd-curriculum, discovered."""
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
    share: PositiveShare = 1.0
    """Share of the training labels and images that teachers and students see."""
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
    if method == "alone":
        return CrossEntropy(data.hierarchy, "class")
    if method == "alone-subclass":
        return CrossEntropy(data.hierarchy, "subclass")
    if method == "kd":
        return ClassKDLoss(data.hierarchy, temperature, alpha)
    if method == "dkd":
        return DecoupledKDLoss(data.hierarchy, temperature)
    return SubclassKDLoss(data.hierarchy, temperature, alpha)


def compare(
    data: SubclassSet | Source,
    config: CompareConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    log: Sequence[loggers.Name | loggers.Logger] = (),
) -> Comparison:
    """Train a teacher and every method's student for each seed, and score them on the test part.

    Parameters
    ----------
    data, config
        The data, or what `load` accepts, and the settings.
    out
        A folder with a run folder per network. Finished networks are not trained again.
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
    cost = _cost(data, config)  # before any training: unknown networks are refused here
    scores: dict[str, list[Scores]] = {name: [] for name in ("teacher", *config.methods)}
    record = _record(config, data)
    opened = None if out is None else runs.Run.open(out, "subclass-kd compare", record, settings=CompareConfig)
    with opened or nullcontext():
        folder = None if opened is None else opened.path
        for seed in range(config.seeds):
            trial = _Trial(data, config, seed, folder, tuple(log))
            for name, each in trial.scores().items():
                scores[name].append(each)
        comparison = Comparison(scores, cost, _bits(trial.data, trial.teacher, config))
        if folder is not None:
            files.write_text(folder / FILE, json.dumps(comparison.as_dict(), indent=1) + "\n")
    return comparison


class _Trial:
    """One seed of a comparison: its draw of the data, its teacher, and a student per method."""

    teacher: nn.Module

    def __init__(
        self,
        data: SubclassSet,
        config: CompareConfig,
        seed: int,
        folder: Path | None,
        log: tuple[loggers.Name | loggers.Logger, ...],
    ) -> None:
        self.config, self.seed, self.log = config, seed, log
        self.data = data.scarce(config.share, seed) if config.share < 1 else data
        self.train = dataclasses.replace(
            config.train, seed=seed, views=dataclasses.replace(config.train.views, seed=seed)
        )
        self.folder = None if folder is None else folder / f"seed-{seed}"

    def scores(self) -> dict[str, Scores]:
        """Train all networks and score them."""
        self.teacher, source = self._teacher(self.data, "teacher")
        scores = {"teacher": evaluate(self.teacher, self.data)}
        for method in self.config.methods:
            if method == "discovered":
                data = self._discovered()
                _, discovered = self._teacher(data, "teacher-discovered")
                scores[method] = evaluate(self._student(method, data, discovered), data)
            else:
                scores[method] = evaluate(self._student(method, self.data, source), self.data)
        return scores

    def _run_folder(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / name

    def _teacher(self, data: SubclassSet, name: str) -> tuple[nn.Module, nn.Module | TeacherLogits]:
        """Train a teacher; return it, and its cached logits or, without a folder, the teacher again."""
        outputs, width = data.hierarchy.n_subclasses, self.config.teacher_width
        network = build(self.config.teacher, data.input_shape, outputs, width=width, seed=self.seed)
        teacher = train_teacher(network, data, self.train, self._run_folder(name), log=self.log)
        folder = self._run_folder(f"{name}-logits")
        if folder is None:
            return teacher, teacher
        key = runs.fingerprint(*teacher.state_dict().values())
        return teacher, TeacherLogits.compute(teacher, data.train, self.train.views, folder, outputs=outputs, key=key)

    def _student(self, method: Method, data: SubclassSet, teacher: nn.Module | TeacherLogits) -> nn.Module:
        """Train a method's student; all methods' students have the same initial weights."""
        train = dataclasses.replace(self.train, curriculum="linear") if method == "skd-curriculum" else self.train
        outputs, width = data.hierarchy.n_subclasses, self.config.student_width
        network = build(self.config.student, data.input_shape, outputs, width=width, seed=self.seed)
        objective = objective_of(method, data, self.config.temperature, self.config.alpha)
        return distill(teacher, network, data, objective, train, self._run_folder(method), log=self.log)

    def _discovered(self) -> SubclassSet:
        """Return the data with clusters of the features of a network trained on the classes alone as subclasses."""
        data, classes = self.data, self.data.with_classes_only()
        outputs, width = data.hierarchy.n_classes, self.config.teacher_width
        plain = build(self.config.teacher, data.input_shape, outputs, width=width, seed=self.seed)
        network = train_teacher(plain, classes, self.train, self._run_folder("classes"), log=self.log)
        parts = (classes.train, classes.validation)
        clusters = discover_subclasses(
            np.concatenate([features_on(network, part) for part in parts]),
            np.concatenate([part.labels for part in parts]),
            self.config.per_class, class_names=data.hierarchy.class_names, seed=self.seed,
        )  # fmt: skip
        train, validation = np.split(clusters.subclass_labels, [len(data.train)])
        return data.with_subclasses(train, validation, clusters.hierarchy)


def _cost(data: SubclassSet, config: CompareConfig) -> dict[str, dict[str, float]]:
    costs = {}
    for role, name, width in (
        ("teacher", config.teacher, config.teacher_width),
        ("student", config.student, config.student_width),
    ):
        network = build(name, data.input_shape, data.hierarchy.n_subclasses, width=width)
        network = network.to(device.pick(config.train.device))
        parameters, operations = complexity(network, data.input_shape)
        seconds = latency(network, data.input_shape)
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
    return {
        **runs.to_json(config),
        "data": data.source,
        "data_sha256": data.train.fingerprint(data.test.labels),
    }
