"""Small seeded jobs of subclass-kd: teachers, students by every method, comparisons, losses, bits, votes, clusters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import subclass_kd as sk
import torch
from torch import nn

torch.set_num_threads(1)
TREE = sk.Hierarchy(np.array([0, 1, 0, 2, 1, 0]), tuple("abcdef"), ("x", "y", "z"))
CONFIG = sk.TrainConfig(epochs=4, batch_size=17, views=sk.Views(3, flip=True), device="cpu", checkpoint_every=2)


def data() -> sk.SubclassSet:
    """Return 150 images whose brightest part is their subclass, with a difficulty each."""
    random = np.random.default_rng(0)
    labels = np.arange(150) % 6
    images = 0.4 * random.random((150, 1, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * (label // 3) :, 3 * (label % 3) :][:4, :3] += 0.5
    difficulty = random.random(100)
    return sk.SubclassSet.of((images[:100], labels[:100]), (images[100:], labels[100:]), TREE, difficulty=difficulty)


def network(width: int = 3, seed: int = 0) -> nn.Module:
    """Return a small student."""
    return sk.build("convnet", (1, 8, 8), 6, width=width, seed=seed)


def teacher_of(images: sk.SubclassSet) -> nn.Module:
    """Return a teacher, trained without a folder."""
    return sk.train_teacher(sk.build("convnet-deep", (1, 8, 8), 6, width=4, seed=7), images, CONFIG)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return a run's logged lines without their times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def train_teacher(config: sk.TrainConfig) -> object:
    """Train a teacher through a run folder."""
    with TemporaryDirectory() as name:
        folder = Path(name, "run")
        trained = sk.train_teacher(network(4), data(), config, folder)
        weights = sk.load_into(network(4, seed=1), folder).state_dict()
        steps = [] if config.patience else sorted(path.name for path in (folder / "checkpoints").iterdir())
        scores = dataclasses.asdict(sk.evaluate(trained, data()))
        return trained.state_dict(), weights, metrics(folder), steps, scores, sk.predict(trained, data().test)


def distill(objective: Callable[[], Any], config: sk.TrainConfig = CONFIG, *, cached: bool = True) -> object:
    """Train a student from cached logits, or from the teacher itself, through a run folder."""
    images = data()
    loss = objective()
    with TemporaryDirectory() as name:
        source: Any = None
        if loss.needs_teacher:
            source = teacher_of(images)
            if cached:
                sk.TeacherLogits.compute(source, images.train, config.views, Path(name, "logits"), outputs=6)
                source = Path(name, "logits")
        student = sk.distill(source, network(), images, loss, config, Path(name, "run"))
        return student.state_dict(), metrics(Path(name, "run")), dataclasses.asdict(sk.evaluate(student, images))


def resumed() -> object:
    """Train half of a run, and the rest from its checkpoint."""

    class Stops(sk.CrossEntropy):
        """Ask for an end in the third epoch."""

        _calls = 0

        def forward(self, *inputs: Any) -> torch.Tensor:
            """Compute the loss, or raise."""
            self._calls += 1
            if self._calls == 12:
                raise KeyboardInterrupt
            return super().forward(*inputs)

    config = dataclasses.replace(CONFIG, patience=3)
    with TemporaryDirectory() as name:
        objective = Stops(TREE)
        with suppress(KeyboardInterrupt):
            sk.distill(None, network(), data(), objective, config, name)
        again = sk.distill(None, network(), data(), objective, config, name)
        return again.state_dict(), metrics(Path(name))


def compare() -> object:
    """Compare all methods for one seed through a folder, and three of them for two seeds without."""
    methods = ("alone", "alone-subclass", "kd", "dkd", "skd", "skd-curriculum", "discovered")
    train = dataclasses.replace(CONFIG, epochs=2, views=sk.Views(2))
    one = sk.CompareConfig(methods, seeds=1, teacher_width=3, student_width=2, per_class=2, train=train)
    two = dataclasses.replace(one, methods=("alone", "kd", "skd"), seeds=2, share=0.8)
    with TemporaryDirectory() as name:
        tables = [sk.compare(data(), one, Path(name, "a")).as_dict(), sk.compare(data(), two).as_dict()]
        tables.append(sk.Comparison.load(Path(name, "a")).as_dict())
        found = sk.compare(data(), two)
    for table in tables:
        for cost in table["cost"].values():
            del cost["seconds"]
    return (
        tables,
        found.table(),
        sk.bits_beside_gain([("a", found)]),
        dataclasses.astuple(found.difference("skd", "kd")),
    )


def losses() -> object:
    """Evaluate every objective and its gradient at every level and reduction."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(20, 6, generator=generator) for _ in range(2))
    labels = torch.arange(20) % 6
    objectives = {"splits": sk.split_divergence(student, teacher, TREE, 3.0, normalize_groups=True)}
    for reduction in ("mean", "sum", "none"):
        for hard in ("subclass", "class"):
            each = [
                sk.CrossEntropy(TREE, hard, reduction=reduction),
                sk.SubclassKDLoss(TREE, 3.0, 0.4, hard, reduction=reduction),
                sk.SubclassKDLoss(TREE, 3.0, 0.4, hard, class_weight=0.3, within_weight=2.0, reduction=reduction),
                sk.SubclassKDLoss(TREE, 3.0, 0.4, hard, normalize_groups=True, reduction=reduction),
                sk.ClassKDLoss(TREE, 3.0, 0.4, hard, reduction=reduction),
                sk.ClassKDLoss(TREE, 3.0, 0.4, hard, soften="subclasses", normalize_groups=True, reduction=reduction),
                sk.DecoupledKDLoss(TREE, 3.0, 1.5, 3.0, hard, reduction=reduction),
            ]
            for number, objective in enumerate(each):
                for scale in (1.0, 1e4):
                    leaf = (scale * student).requires_grad_()
                    loss = objective(leaf, scale * teacher, labels)
                    (slope,) = torch.autograd.grad(loss.sum(), leaf)
                    objectives[f"{reduction} {hard} {number} {scale}"] = (loss, slope)
    return objectives


def bits() -> object:
    """Compute all readings of the bits with their intervals."""
    logits = 2 * np.random.default_rng(1).normal(size=(300, 6))
    readings = [sk.label_bits(np.random.default_rng(0).integers(6, size=300), TREE, draws=200, seed=3)]
    for temperature in (1.0, 4.0):
        readings += [
            sk.soft_label_bits(logits, TREE, temperature, level=0.9, draws=200),
            sk.mutual_label_bits(torch.from_numpy(logits).float(), TREE, temperature, draws=200),
        ]
    return [dataclasses.astuple(reading) for reading in readings]


def votes() -> object:
    """Make subclasses of votes by every scheme."""
    random = np.random.default_rng(0)
    results = []
    for n_classes, annotators in ((2, 7), (2, 6), (3, 5)):
        table = random.integers(n_classes, size=(200, annotators))
        first = -(-annotators // n_classes) + (annotators == 6)
        for scheme in ("clear-ambiguous", "every", (first + 1, annotators)):
            voted = sk.subclasses_from_votes(table, scheme, ties="lowest")
            results.append((voted.subclass_labels, voted.difficulty, voted.hierarchy.as_dict()))
    return results, sk.votes_from_counts(np.arange(8), 7)


def discovery() -> object:
    """Cluster features by every method and criterion."""
    random = np.random.default_rng(0)
    truth = random.integers(5, size=200)
    features = 4 * random.normal(size=(5, 3))[truth] + random.normal(size=(200, 3))
    results = []
    for method, criterion in (("kmeans", "silhouette"), ("gmm", "silhouette"), ("gmm", "bic")):
        found = sk.discover_subclasses(features, truth // 3, (2, 4), method, criterion=criterion, seed=2)
        results.append((found.subclass_labels, found.hierarchy.class_of, found.scores))
    return results


def orders() -> object:
    """Draw the curriculum's orders and the digits' partition."""
    difficulty = np.random.default_rng(0).random(50)
    rows = [
        sk.CurriculumSampler(difficulty, schedule, epochs=6, start=0.2, whole=whole, seed=4).rows(epoch)
        for schedule in ("linear", "root", "step")
        for whole in (False, True)
        for epoch in range(8)
    ]
    digits = sk.load("digits")
    few = digits.scarce(0.1, 3)
    parts = [part.labels for part in (digits.train, digits.validation, digits.test, few.train)]
    views = sk.Views(4, shift=0.2, flip=True, seed=5)
    images = views.apply(digits.train.batch(range(9)), 2, np.arange(9), 9)
    return rows, parts, digits.train.images, few.train.images, images


def scores() -> object:
    """Measure random probabilities of two and of four classes."""
    results = []
    for n_classes in (2, 4):
        random = np.random.default_rng(n_classes)
        probabilities = torch.from_numpy(random.dirichlet(np.ones(n_classes), 100))
        labels = torch.from_numpy(random.integers(n_classes, size=100))
        results.append(dataclasses.asdict(sk.score(probabilities, labels)))
        if n_classes == 2:
            results.append(dataclasses.asdict(sk.score(probabilities, labels, threshold=0.3)))
    return results


def jobs() -> dict[str, Callable[[], object]]:
    """Return the jobs by name."""
    replace = partial(dataclasses.replace, CONFIG)
    dropout = replace(precision="bfloat16", weight_decay=0.1, lr=1e-2)
    skd = partial(sk.SubclassKDLoss, TREE, 3.0, 0.7)
    return {
        "teacher": lambda: train_teacher(CONFIG),
        "teacher, patience": lambda: train_teacher(replace(epochs=12, patience=2)),
        "teacher, curriculum": lambda: train_teacher(replace(epochs=6, curriculum="root", curriculum_start=0.4)),
        "teacher, bfloat16": lambda: train_teacher(dropout),
        "teacher resumed": resumed,
        "distill alone": lambda: distill(lambda: sk.CrossEntropy(TREE, "class")),
        "distill alone, subclass labels": lambda: distill(lambda: sk.CrossEntropy(TREE)),
        "distill kd": lambda: distill(lambda: sk.ClassKDLoss(TREE)),
        "distill kd, softened subclasses": lambda: distill(
            lambda: sk.ClassKDLoss(TREE, soften="subclasses", normalize_groups=True)
        ),
        "distill dkd": lambda: distill(lambda: sk.DecoupledKDLoss(TREE)),
        "distill skd": lambda: distill(skd),
        "distill skd, two weights": lambda: distill(lambda: skd(class_weight=0.5, within_weight=2.0)),
        "distill skd, live teacher": lambda: distill(skd, cached=False),
        "distill skd, patience and curriculum": lambda: distill(
            skd, replace(epochs=10, patience=3, curriculum="linear")
        ),
        "compare": compare,
        "losses": losses,
        "bits": bits,
        "votes": votes,
        "discovery": discovery,
        "orders and views": orders,
        "scores": scores,
    }
