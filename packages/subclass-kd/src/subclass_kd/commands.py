"""The commands of `subclass-kd`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from sextet_common import data as image_data, files, hub, loggers, runs
from sextet_common.checks import Count, Natural
from sextet_common.errors import STRUCTURE, InputError, reading
from sextet_common.options import Advanced
from torch import nn

from subclass_kd.augment import Views
from subclass_kd.bits import label_bits, mutual_label_bits, soft_label_bits
from subclass_kd.classifier import Classifier
from subclass_kd.compare import CompareConfig, compare as compare_methods, objective_of
from subclass_kd.comparison import Comparison, Method, bits_beside_gain
from subclass_kd.config import TrainConfig
from subclass_kd.data import SubclassSet
from subclass_kd.discover import Clustering, discover_subclasses
from subclass_kd.inference import evaluate, features_on, predict
from subclass_kd.networks import build
from subclass_kd.plotting import save_bits, save_confusion, save_gains
from subclass_kd.saved import RECIPE, WEIGHTS, Recipe, rebuild
from subclass_kd.sources import load
from subclass_kd.teacher import TeacherLogits
from subclass_kd.train import distill as distill_student, train_teacher


@dataclasses.dataclass(frozen=True)
class _Views(Views):
    # --count and --seed would not say whose they are.
    count: Annotated[Advanced[Count], tyro.conf.arg(name="views")] = Views.count
    seed: Annotated[Advanced[Natural], tyro.conf.arg(name="views-seed")] = Views.seed


@dataclasses.dataclass(frozen=True)
class _TrainConfig(TrainConfig):
    views: _Views = field(default_factory=_Views)


@dataclasses.dataclass(frozen=True)
class _CompareConfig(CompareConfig):
    train: _TrainConfig = field(default_factory=_TrainConfig)


@dataclasses.dataclass(frozen=True)
class _Data(image_data.DataOptions):
    data: str = "digits"
    """digits, digits:half, npz-jpeg:PREFIX, cifar10:PATH, mhist:PATH, a folder class/subclass/image; with a hierarchy
    any folder, npz:PATH, cifar100:PATH, ..."""
    hierarchy: Path | None = None
    """A JSON or CSV file that names the class of each subclass; the classes of the data are then the subclasses."""

    def read(self) -> SubclassSet:
        """Load the data."""
        options = {name: value for name, value in vars(self).items() if name != "data"}
        return load(self.data, **options)


@dataclasses.dataclass(frozen=True)
class _RunData(_Data):
    data: str | None = None  # type: ignore[assignment]
    """By default the data of the run, or digits without one."""

    def of(self, run: Path | None) -> _Data:
        """Return what is given, completed by the options of the run."""
        options = vars(self)
        if run is not None and (run / RECIPE).exists():
            recipe = vars(Recipe.read(run))
            options = options | {
                name: options[name] or recipe[name] for name in ("data", "size", "channels", "hierarchy")
            }
        elif run is not None and self.data is None and (run / "README.md").exists():
            raise InputError(f"{run} does not say what its data are", "--data")
        elif run is not None and self.data is None:
            Recipe.read(run)  # says what is missing
        return _Data(**{**options, "data": options["data"] or "digits"})


_Log = Annotated[
    tuple[loggers.Name, ...], tyro.conf.arg(help="Trackers that follow the training: tensorboard, wandb, mlflow.")
]


def compare(out: Path, config: _CompareConfig, data: _Data, log: _Log = ()) -> None:
    """Compare students alone, with conventional and with subclass distillation.

    An interrupted comparison resumes with the same command, and continues with more seeds.

    Parameters
    ----------
    out
        Folder for comparison.json, the figure and a run folder per network.
    config
        What is compared.
    data
        The images.
    """
    loggers.open(log)  # refuses a missing extra before the work
    comparison = compare_methods(data.read(), config, out, log=log)
    print(comparison.table())
    for name, cost in comparison.cost.items():
        sizes = f"{cost['parameters']:,.0f} parameters, {cost['multiply_adds']:,.0f} multiply-adds"
        print(f"{name}: {sizes}, {1e3 * cost['seconds']:.2f} ms an image")
    for bits_read in comparison.bits:
        print(bits_read)
    if "alone" in comparison.scores and len(comparison.scores) > 2:
        print(save_gains(comparison, out / "gains.png", title=f"{data.data}: what a teacher adds"))


def teacher(
    out: Path,
    config: _TrainConfig,
    data: _Data,
    network: str = "convnet-deep",
    width: Advanced[int | None] = None,
    weights: Path | None = None,
    log: _Log = (),
) -> None:
    """Train a teacher on the subclasses and save its logits on every view of every training image.

    Parameters
    ----------
    out
        Run folder; the logits are in its folder logits.
    config
        How to train.
    data
        The images.
    network
        convnet, convnet-deep, or a network of torchvision or timm.
    width
        Width of convnet or convnet-deep.
    weights
        Local file of weights for all layers but the last.
    """
    loggers.open(log)
    images = data.read()
    outputs = images.hierarchy.n_subclasses
    untrained = build(network, images.input_shape, outputs, width=width, weights=weights, seed=config.seed)
    trained = train_teacher(untrained, images, config, out, log=log)
    _recipe(data, network, width).write(out)
    key = runs.fingerprint(*trained.state_dict().values())
    TeacherLogits.compute(trained, images.train, config.views, out / "logits", outputs=outputs, key=key)
    _report_scores(trained, images, out)


def distill(
    out: Path,
    config: _TrainConfig,
    data: _RunData,
    teacher: Path | None = None,
    method: Literal["alone", "alone-subclass", "kd", "dkd", "skd"] = "skd",
    network: str = "convnet",
    width: Advanced[int | None] = None,
    temperature: float = 4.0,
    alpha: float = 0.9,
    log: _Log = (),
) -> None:
    """Train a student from a teacher's saved logits, from a teacher of the Hub, or alone.

    Parameters
    ----------
    out
        Run folder.
    config
        How to train; the views must be those of a teacher's saved logits.
    data
        The images.
    teacher
        Run folder of a teacher, or an exported folder or OWNER/NAME of the Hub, which then runs on every batch.
    method
        alone, alone-subclass, kd, dkd or skd.
    network
        convnet, convnet-deep, or a network of torchvision or timm.
    width
        Width of convnet or convnet-deep.
    temperature, alpha
        Temperature and share of the soft term.
    """
    loggers.open(log)
    shared = None if teacher is None else _shared(teacher)
    options = data.of(teacher if shared is None else shared)
    images = options.read()
    student = build(network, images.input_shape, images.hierarchy.n_subclasses, width=width, seed=config.seed)
    objective = objective_of(method, images, temperature, alpha)
    logits = None if teacher is None else teacher / "logits"
    source = rebuild(shared, images) if shared is not None else logits
    trained = distill_student(source, student, images, objective, config, out, log=log)
    _recipe(options, network, width).write(out)
    _report_scores(trained, images, out)


def bits(run: tyro.conf.Positional[Path] | None = None, /, *, data: _RunData, temperature: float = 4.0) -> None:
    """Print the label bits of the data, and of a teacher if one is given.

    Parameters
    ----------
    run
        Run folder of a teacher, an exported folder, or OWNER/NAME of the Hub.
    data
        The images.
    temperature
        A second temperature besides 1.
    """
    run = None if run is None else _shared(run) or run
    images = data.of(run).read()
    print(label_bits(images.train.labels, images.hierarchy))
    if run is not None:
        logits = predict(rebuild(run, images), images.train)
        for value in dict.fromkeys((1.0, temperature)):
            print(f"T = {value:g}: {soft_label_bits(logits, images.hierarchy, value)}")
            print(f"T = {value:g}: {mutual_label_bits(logits, images.hierarchy, value)}")


def discover(
    run: tyro.conf.Positional[Path],
    /,
    *,
    data: _RunData,
    out: Path | None = None,
    least: int = 2,
    most: int = 6,
    method: Clustering = "kmeans",
    seed: int = 0,
) -> None:
    """Cluster a trained network's features into subclasses of each class, and write them as a table.

    Parameters
    ----------
    run
        Run folder of a network, an exported folder, or OWNER/NAME of the Hub.
    data
        The images.
    out
        The CSV table, one row per training image; by default discovered.csv in the run folder.
    least, most
        Bounds of the number of subclasses per class, between which the silhouette chooses.
    method
        kmeans or gmm.
    seed
        Seed of the clustering.
    """
    run = _shared(run) or run
    images = data.of(run).read()
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


def export(run: tyro.conf.Positional[Path], /, to: Path, license: str = "unknown") -> None:
    """Write a folder for the Hugging Face Hub: a model card and the network, which Classifier.from_pretrained reads.

    Parameters
    ----------
    run
        Finished run folder of teacher or distill.
    to
        The folder, new or empty.
    license
        Licence of the model, an identifier of the Hub such as mit.
    """
    scores = None
    if (run / "test.json").exists():
        with reading(run / "test.json", "the scores that the run wrote", *STRUCTURE):
            table = dict(json.loads((run / "test.json").read_text(encoding="utf-8")))
            scores = {str(name): float(value) for name, value in table.items()}
    Classifier.from_pretrained(run).export_hub(to, license=license, scores=scores)
    print(to)


def _shared(run: Path) -> Path | None:
    """Return the folder of a network without a run: exported, or downloaded from the Hub; None for a run folder."""
    if run.exists() and not ((run / WEIGHTS).exists() and not (run / RECIPE).exists()):
        return None
    if not run.exists() and (run.is_absolute() or len(run.parts) != 2):
        return None  # the run's reader says what is missing
    return hub.local_folder(run)


def _recipe(data: _Data, network: str, width: int | None) -> Recipe:
    hierarchy = None if data.hierarchy is None else str(data.hierarchy)
    return Recipe(data.data, network, width, data.size, data.channels, hierarchy)


def _report_scores(network: nn.Module, data: SubclassSet, out: Path) -> None:
    scores = dataclasses.asdict(evaluate(network, data))
    files.write_text(out / "test.json", json.dumps(scores, indent=1) + "\n")
    print("  ".join(f"{name} {100 * value:.2f}" for name, value in scores.items()))
    predicted = predict(network, data.test).argmax(dim=1).numpy()
    print(save_confusion(predicted, data.test.labels, data.hierarchy, out / "confusion.png"))
