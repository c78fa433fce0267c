"""Students alone, with conventional and with subclass distillation, over seeds, from one teacher a seed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from sextet_common import device, files, runs
from sextet_common.errors import InputError, reading
from sextet_common.networks import device_of
from torch import nn

from subclass_kd.bits import Bits, label_bits, mutual_label_bits, soft_label_bits
from subclass_kd.data import Part, SubclassSet
from subclass_kd.discover import discover_subclasses
from subclass_kd.losses import ClassKDLoss, CrossEntropy, DecoupledKDLoss, Objective, SubclassKDLoss
from subclass_kd.metrics import Scores
from subclass_kd.networks import build, complexity, features_of, latency
from subclass_kd.teacher import TeacherLogits
from subclass_kd.train import TrainConfig, distill, evaluate, predict, train_teacher

Method = Literal["alone", "alone-subclass", "kd", "dkd", "skd", "skd-curriculum", "discovered"]
METHODS: tuple[Method, ...] = ("alone", "kd", "skd", "discovered")
NAMES: dict[str, str] = {
    "alone": "student alone",
    "alone-subclass": "student alone, subclass labels",
    "kd": "conventional KD",
    "dkd": "decoupled KD",
    "skd": "SKD",
    "skd-curriculum": "SKD with curriculum",
    "discovered": "SKD, discovered subclasses",
}


_READ = ("value", "low", "high", "ceiling")  # numbers of a reading of bits


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """What is compared, and how."""

    methods: tuple[Method, ...] = METHODS
    """alone, alone-subclass, kd, dkd, skd, skd-curriculum, discovered."""
    seeds: int = 5
    """Seeds: of teachers, students, batches, and of the labels where they are scarce."""
    teacher: str = "convnet-deep"
    """A network's name."""
    student: str = "convnet"
    """A network's name."""
    teacher_width: int | None = None
    """Of convnet and convnet-deep: 16 and 48 where not given."""
    student_width: int | None = None
    """Of convnet and convnet-deep: 16 and 48 where not given."""
    temperature: float = 4.0
    """Of all soft terms."""
    alpha: float = 0.9
    """The share of the soft terms."""
    share: float = 1.0
    """Share of the training labels, and images, that there are: for teacher and students alike."""
    per_class: int = 5
    """Subclasses a class that are discovered."""
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    """How teachers and students are trained."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(f"seeds is {self.seeds}", "a whole number >= 1")
        unknown = [name for name in self.methods if name not in get_args(Method)]
        if unknown or not self.methods or len(set(self.methods)) < len(self.methods):
            raise InputError(f"methods are {self.methods}", f"some of {', '.join(get_args(Method))}, each once")
        if not 0 < self.share <= 1:
            raise InputError(f"the share of labels is {self.share}", "a number in (0, 1]")
        if self.per_class < 1:
            raise InputError(f"per_class is {self.per_class}", "a whole number >= 1")


@dataclasses.dataclass(frozen=True)
class Difference:
    """A paired difference of F1, in points: its mean over seeds and a 95 % interval (Student's t)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Parameters
    ----------
    scores
        Each method's scores on the test part, one a seed; "teacher" among them.
    cost
        Parameters, multiply-adds and seconds of one image's pass, of teacher and student.
    bits
        The three readings of the label bits, of the last seed's training images and teacher.
    """

    scores: dict[str, list[Scores]]
    cost: dict[str, dict[str, float]]
    bits: tuple[Bits, ...]

    def difference(self, method: str, to: str) -> Difference:
        """Return the paired difference of two methods' F1, in points; of one seed without an interval."""
        values = [100 * (a.f1 - b.f1) for a, b in zip(self.scores[method], self.scores[to], strict=True)]
        mean = float(np.mean(values))
        if len(values) < 2 or np.std(values) == 0:
            return Difference(mean, mean, mean) if len(values) > 1 else Difference(mean, float("nan"), float("nan"))
        from scipy import stats  # not for every import

        low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=stats.sem(values))
        return Difference(mean, float(low), float(high))

    def table(self) -> str:
        """Return the scores as a Markdown table: means over seeds and standard deviations, per cent."""
        columns = ("f1", "accuracy", "auroc", "precision", "recall")
        lines = [
            "| | F1 | accuracy | AUROC | precision | recall | F1 over alone | F1 over KD |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, each in self.scores.items():
            cells = []
            for column in columns:
                values = [100 * getattr(scores, column) for scores in each]
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
                cells.append(f"{np.mean(values):.2f} ± {spread:.2f}")
            for to in ("alone", "kd"):
                compared = name not in ("teacher", to) and to in self.scores and not (to == "kd" and name == "alone")
                cells.append(str(self.difference(name, to)) if compared else "")
            lines.append(f"| {NAMES.get(name, name)} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "scores": {name: [dataclasses.asdict(s) for s in each] for name, each in self.scores.items()},
            "cost": self.cost,
            "bits": [dataclasses.asdict(b) for b in self.bits],
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Comparison:
        """Read what `compare` left in a folder.

        Raises
        ------
        InputError
            Where there is no finished comparison.
        """
        path = Path(path) / "comparison.json"
        with reading(path, "the folder of a finished compare"):
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Comparison:
        """Build from what `as_dict` returned.

        Raises
        ------
        InputError
            Where a method has no score or another number of seeds than the others.
        """
        scores = {
            str(name): [Scores(**{key: float(value) for key, value in s.items()}) for s in each]
            for name, each in table["scores"].items()
        }
        seeds = {len(each) for each in scores.values()}
        if len(seeds) != 1 or 0 in seeds:
            raise InputError(f"scores of {sorted(seeds)} seeds", "as many seeds of each method, one at least")
        cost = {str(role): {key: float(value) for key, value in c.items()} for role, c in table["cost"].items()}
        bits = tuple(Bits(str(b["name"]), *(float(b[key]) for key in _READ)) for b in table["bits"])
        return cls(scores, cost, bits)


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
    data: SubclassSet, config: CompareConfig | None = None, out: str | os.PathLike[str] | None = None
) -> Comparison:
    """Train a teacher and every method's student for each seed, and measure them.

    Parameters
    ----------
    data
        The data.
    config
        What is compared.
    out
        A folder, with a run folder for every network; what is there already is not trained again.

    Returns
    -------
    Comparison
        Scores, costs and label bits.

    Raises
    ------
    InputError
        Where a setting does not fit the data, or the folder holds something else.

    Examples
    --------
    >>> from subclass_kd.data import load
    >>> config = CompareConfig(methods=("alone", "skd"), seeds=1, share=0.1, train=TrainConfig(epochs=1))
    >>> sorted(compare(load("digits"), config).scores)
    ['alone', 'skd', 'teacher']
    """
    config = config or CompareConfig()
    if "skd-curriculum" in config.methods and data.train.difficulty is None:
        raise InputError("the data have no difficulty for a curriculum", "data of votes, or no skd-curriculum")
    for name, width in ((config.teacher, config.teacher_width), (config.student, config.student_width)):
        build(name, data.input_shape, data.hierarchy.n_subclasses, width=width)  # bad names fail before any training
    folder = None if out is None else runs.Run.open(out, "subclass-kd compare", _record(config, data)).path
    names = ("teacher", *config.methods)
    scores: dict[str, list[Scores]] = {name: [] for name in names}
    for seed in range(config.seeds):
        own = data.scarce(config.share, seed) if config.share < 1 else data
        settings = dataclasses.replace(
            config.train, seed=seed, views=dataclasses.replace(config.train.views, seed=seed)
        )
        place = None if folder is None else folder / f"seed-{seed}"
        teacher, source = _teacher(own, config, settings, place, "teacher")
        scores["teacher"].append(evaluate(teacher, own))
        for method in config.methods:
            if method == "discovered":
                used = _discovered(own, config, settings, place)
                _, tells = _teacher(used, config, settings, place, "teacher-discovered")
            else:
                used, tells = own, source
            scores[method].append(evaluate(_student(method, used, tells, config, settings, place), used))
    found = Comparison(scores, _cost(data, config), _bits(own, teacher, config))
    if folder is not None:
        files.write_text(folder / "comparison.json", json.dumps(found.as_dict(), indent=1) + "\n")
    return found


def bits_beside_gain(points: Sequence[tuple[str, Comparison]], method: str = "skd", to: str = "kd") -> str:
    """Set the label bits of several comparisons beside what subclasses gained there, as a Markdown table.

    Parameters
    ----------
    points
        Names and comparisons, such as of several data sets or shares of labels.
    method, to
        Whose F1 is compared with whose.

    Returns
    -------
    str
        A row for each comparison: the three readings with their intervals, at T = 1, and the paired difference of F1.

    Raises
    ------
    InputError
        Where there is no comparison, or one lacks a method.
    """
    check_points(points, method, to)
    head = f"F1 of {NAMES.get(method, method)} over {NAMES.get(to, to)}"
    names = [bits.name for bits in points[0][1].bits[:3]]
    lines = [f"| | {' | '.join(names)} | {head} |", "|---" * (len(names) + 2) + "|"]
    for name, comparison in points:
        bits = [f"{b.value:.3f} [{b.low:.3f}, {b.high:.3f}]" for b in comparison.bits[:3]]
        lines.append(f"| {name} | {' | '.join(bits)} | {comparison.difference(method, to)} |")
    return "\n".join(lines)


def check_points(points: Sequence[tuple[str, Comparison]], method: str, to: str) -> None:
    """Raise InputError where there is no comparison, or one lacks a method."""
    if not points or any(not {method, to} <= set(c.scores) for _, c in points):
        raise InputError(f"comparisons without {method} and {to}", "one at least, both methods in each")


Teaches = nn.Module | TeacherLogits


def _teacher(
    data: SubclassSet, config: CompareConfig, settings: TrainConfig, place: Path | None, name: str
) -> tuple[nn.Module, Teaches]:
    """Train a seed's teacher; with a folder its logits are kept there, without one it is asked anew."""
    network = build(
        config.teacher, data.input_shape, data.hierarchy.n_subclasses, width=config.teacher_width, seed=settings.seed
    )
    teacher = train_teacher(network, data, settings, None if place is None else place / name)
    if place is None:
        return teacher, teacher
    key = runs.fingerprint(*(tensor for tensor in teacher.state_dict().values()))
    outputs = data.hierarchy.n_subclasses
    folder = place / f"{name}-logits"
    return teacher, TeacherLogits.compute(teacher, data.train, settings.views, folder, outputs=outputs, key=key)


def _student(
    method: Method,
    data: SubclassSet,
    teacher: Teaches,
    config: CompareConfig,
    settings: TrainConfig,
    place: Path | None,
) -> nn.Module:
    """Train a seed's student by a method; all methods' students begin with the same weights."""
    if method == "skd-curriculum":
        settings = dataclasses.replace(settings, curriculum="linear")
    network = build(
        config.student, data.input_shape, data.hierarchy.n_subclasses, width=config.student_width, seed=settings.seed
    )
    objective = objective_of(method, data, config.temperature, config.alpha)
    return distill(teacher, network, data, objective, settings, None if place is None else place / method)


def _discovered(data: SubclassSet, config: CompareConfig, settings: TrainConfig, place: Path | None) -> SubclassSet:
    """Return the set with subclasses that are clusters of features of a network that saw classes alone."""
    seed = settings.seed
    plain = build(config.teacher, data.input_shape, data.hierarchy.n_classes, width=config.teacher_width, seed=seed)
    classes = dataclasses.replace(
        data,
        train=dataclasses.replace(data.train, labels=data.hierarchy.class_labels(data.train.labels)),
        validation=dataclasses.replace(data.validation, labels=data.hierarchy.class_labels(data.validation.labels)),
        test=dataclasses.replace(data.test, labels=data.hierarchy.class_labels(data.test.labels)),
        hierarchy=data.hierarchy.collapsed(),
    )
    network = train_teacher(plain, classes, settings, None if place is None else place / "classes")
    features = [features_on(network, part) for part in (data.train, data.validation)]
    found = discover_subclasses(
        np.concatenate(features), np.concatenate([classes.train.labels, classes.validation.labels]), config.per_class,
        class_names=data.hierarchy.class_names, seed=seed,
    )  # fmt: skip
    count = len(data.train)
    return data.with_subclasses(found.subclass_labels[:count], found.subclass_labels[count:], found.hierarchy)


def features_on(network: nn.Module, part: Part) -> np.ndarray:
    """Return what a network's last linear layer sees of every image, shape (images, features)."""
    where = device_of(network)
    batches = np.array_split(np.arange(len(part)), max(1, len(part) // 512))
    found: np.ndarray = torch.cat([features_of(network, part.batch(b).to(where)).cpu() for b in batches]).numpy()
    return found


def _cost(data: SubclassSet, config: CompareConfig) -> dict[str, dict[str, float]]:
    found = {}
    where = device.pick(config.train.device)
    for name, network, width in (
        ("teacher", config.teacher, config.teacher_width),
        ("student", config.student, config.student_width),
    ):
        made = build(network, data.input_shape, data.hierarchy.n_subclasses, width=width).to(where)
        parameters, operations = complexity(made, data.input_shape)
        found[name] = {
            "parameters": float(parameters),
            "multiply_adds": float(operations),
            "seconds": latency(made, data.input_shape),
        }
    return found


def _bits(data: SubclassSet, teacher: nn.Module, config: CompareConfig) -> tuple[Bits, ...]:
    logits = predict(teacher, data.train)
    return (
        label_bits(data.train.labels, data.hierarchy),
        soft_label_bits(logits, data.hierarchy),
        mutual_label_bits(logits, data.hierarchy),
        soft_label_bits(logits, data.hierarchy, config.temperature),
    )


def _record(config: CompareConfig, data: SubclassSet) -> dict[str, Any]:
    images = [data.train.images] if isinstance(data.train.images, np.ndarray) else []
    return {
        **runs.to_json(config),
        "data": data.source,
        "data_sha256": runs.fingerprint(*images, data.train.labels, data.test.labels),
    }
