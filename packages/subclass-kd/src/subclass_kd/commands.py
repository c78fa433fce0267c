"""The commands of `subclass-kd`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from sextet_common import files, runs
from sextet_common.checks import Count, Natural
from torch import nn

from subclass_kd.augment import Views
from subclass_kd.bits import label_bits, mutual_label_bits, soft_label_bits
from subclass_kd.compare import CompareConfig, compare as compare_methods, objective_of
from subclass_kd.comparison import Comparison, Method, bits_beside_gain
from subclass_kd.config import TrainConfig
from subclass_kd.data import SubclassSet
from subclass_kd.discover import Clustering, discover_subclasses
from subclass_kd.inference import evaluate, features_on, predict
from subclass_kd.networks import build
from subclass_kd.plotting import save_bits, save_confusion, save_gains
from subclass_kd.saved import Recipe, rebuild
from subclass_kd.sources import load
from subclass_kd.teacher import TeacherLogits
from subclass_kd.train import distill as distill_student, train_teacher


@dataclasses.dataclass(frozen=True)
class _Views(Views):
    # --count and --seed would not say whose they are.
    count: Annotated[Count, tyro.conf.arg(name="views")] = Views.count
    seed: Annotated[Natural, tyro.conf.arg(name="views-seed")] = Views.seed


@dataclasses.dataclass(frozen=True)
class _TrainConfig(TrainConfig):
    views: _Views = field(default_factory=_Views)


@dataclasses.dataclass(frozen=True)
class _CompareConfig(CompareConfig):
    train: _TrainConfig = field(default_factory=_TrainConfig)


def compare(out: Path, config: _CompareConfig, data: str = "digits", size: int | None = None) -> None:
    """Compare students alone, with conventional and with subclass distillation.

    An interrupted comparison resumes with the same command.

    Parameters
    ----------
    out
        Folder for comparison.json, the figure and a run folder per network.
    config
        What is compared.
    data
        digits, digits:half, npz-jpeg:PREFIX, cifar10:PATH, folder:PATH or mhist:PATH.
    size
        Height and width of images on disk, in pixels.
    """
    comparison = compare_methods(load(data, size=size), config, out)
    print(comparison.table())
    for name, cost in comparison.cost.items():
        sizes = f"{cost['parameters']:,.0f} parameters, {cost['multiply_adds']:,.0f} multiply-adds"
        print(f"{name}: {sizes}, {1e3 * cost['seconds']:.2f} ms an image")
    for reading in comparison.bits:
        print(reading)
    if "alone" in comparison.scores and len(comparison.scores) > 2:
        print(save_gains(comparison, out / "gains.png", title=f"{data}: what a teacher adds"))


def teacher(
    out: Path,
    config: _TrainConfig,
    data: str = "digits",
    network: str = "convnet-deep",
    width: int | None = None,
    weights: Path | None = None,
    size: int | None = None,
) -> None:
    """Train a teacher on the subclasses and save its logits on every view of every training image.

    Parameters
    ----------
    out
        Run folder; the logits are in its folder logits.
    config
        How to train.
    data
        digits, digits:half, npz-jpeg:PREFIX, cifar10:PATH, folder:PATH or mhist:PATH.
    network
        convnet, convnet-deep, or a network of torchvision or timm.
    width
        Width of convnet or convnet-deep.
    weights
        Local file of weights for all layers but the last.
    size
        Height and width of images on disk, in pixels.
    """
    images = load(data, size=size)
    outputs = images.hierarchy.n_subclasses
    untrained = build(network, images.input_shape, outputs, width=width, weights=weights, seed=config.seed)
    trained = train_teacher(untrained, images, config, out)
    Recipe(data, network, width, size).write(out)
    key = runs.fingerprint(*trained.state_dict().values())
    TeacherLogits.compute(trained, images.train, config.views, out / "logits", outputs=outputs, key=key)
    _report_scores(trained, images, out)


def distill(
    out: Path,
    config: _TrainConfig,
    teacher: Path | None = None,
    method: Literal["alone", "alone-subclass", "kd", "dkd", "skd"] = "skd",
    data: str | None = None,
    network: str = "convnet",
    width: int | None = None,
    temperature: float = 4.0,
    alpha: float = 0.9,
    size: int | None = None,
) -> None:
    """Train a student from a teacher's saved logits, or alone.

    Parameters
    ----------
    out
        Run folder.
    config
        How to train; the views must be the teacher's.
    teacher
        Run folder of a teacher; none for a student alone.
    method
        alone, alone-subclass, kd, dkd or skd.
    data
        By default the teacher's data, or digits.
    network
        convnet, convnet-deep, or a network of torchvision or timm.
    width
        Width of convnet or convnet-deep.
    temperature, alpha
        Temperature and share of the soft term.
    size
        Height and width of images on disk, in pixels.
    """
    source, size = _data_of(teacher, data, size)
    images = load(source, size=size)
    student = build(network, images.input_shape, images.hierarchy.n_subclasses, width=width, seed=config.seed)
    objective = objective_of(method, images, temperature, alpha)
    logits = None if teacher is None else teacher / "logits"
    trained = distill_student(logits, student, images, objective, config, out)
    Recipe(source, network, width, size).write(out)
    _report_scores(trained, images, out)


def bits(
    run: tyro.conf.Positional[Path] | None = None,
    /,
    data: str | None = None,
    temperature: float = 4.0,
    size: int | None = None,
) -> None:
    """Print the label bits of the data, and of a teacher if one is given.

    Parameters
    ----------
    run
        Run folder of a teacher.
    data
        By default the teacher's data, or digits.
    temperature
        A second temperature besides 1.
    size
        Height and width of images on disk, in pixels.
    """
    source, size = _data_of(run, data, size)
    images = load(source, size=size)
    print(label_bits(images.train.labels, images.hierarchy))
    if run is not None:
        logits = predict(rebuild(run, images), images.train)
        for value in dict.fromkeys((1.0, temperature)):
            print(f"T = {value:g}: {soft_label_bits(logits, images.hierarchy, value)}")
            print(f"T = {value:g}: {mutual_label_bits(logits, images.hierarchy, value)}")


def discover(
    run: tyro.conf.Positional[Path],
    /,
    out: Path | None = None,
    data: str | None = None,
    least: int = 2,
    most: int = 6,
    method: Clustering = "kmeans",
    seed: int = 0,
    size: int | None = None,
) -> None:
    """Cluster a trained network's features into subclasses of each class, and write them as a table.

    Parameters
    ----------
    run
        Run folder of a network.
    out
        The CSV table, one row per training image; by default discovered.csv in the run folder.
    data
        By default the network's data.
    least, most
        Bounds of the number of subclasses per class, between which the silhouette chooses.
    method
        kmeans or gmm.
    seed
        Seed of the clustering.
    size
        Height and width of images on disk, in pixels.
    """
    source, size = _data_of(run, data, size)
    images = load(source, size=size)
    names, classes = images.hierarchy.class_names, images.hierarchy.class_labels(images.train.labels)
    features = features_on(rebuild(run, images), images.train)
    clusters = discover_subclasses(features, classes, (least, most), method, class_names=names, seed=seed)
    subclasses = [clusters.hierarchy.subclass_names[label] for label in clusters.subclass_labels]
    rows = [f"{row},{names[label]},{subclasses[row]}" for row, label in enumerate(classes)]
    path = out or run / "discovered.csv"
    files.write_text(path, "\n".join(["image,class,subclass", *rows]) + "\n")
    for name, count, scores in zip(names, clusters.hierarchy.sizes, clusters.scores, strict=True):
        print(f"{name}: {count} subclasses   " + "  ".join(f"{tried}: {value:.3f}" for tried, value in scores.items()))
    print(path)


def report(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Path | None = None,
    method: Method = "skd",
    to: Method = "kd",
) -> None:
    """Print the label bits of finished comparisons beside the gain from subclasses.

    Parameters
    ----------
    runs
        Folders of compare.
    out
        Also plot the label bits against the gain of skd over `to` in this PNG file.
    method, to
        The methods whose F1 are compared.
    """
    points = [(run.name, Comparison.load(run)) for run in runs]
    print(bits_beside_gain(points, method, to))
    if out is not None:
        print(save_bits(points, out, to=to))


def _data_of(run: Path | None, data: str | None, size: int | None) -> tuple[str, int | None]:
    """Return the data and the size of images: as given, else those of the run."""
    if run is None:
        return data or "digits", size
    recipe = Recipe.read(run)
    return data or recipe.data, size or recipe.size


def _report_scores(network: nn.Module, data: SubclassSet, out: Path) -> None:
    scores = dataclasses.asdict(evaluate(network, data))
    files.write_text(out / "test.json", json.dumps(scores, indent=1) + "\n")
    print("  ".join(f"{name} {100 * value:.2f}" for name, value in scores.items()))
    predicted = predict(network, data.test).argmax(dim=1).numpy()
    print(save_confusion(predicted, data.test.labels, data.hierarchy, out / "confusion.png"))
