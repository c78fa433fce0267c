"""The command `subclass-kd`: compare, teacher, distill, bits, discover, report."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from sextet_common import checkpoint, cli, files, runs
from sextet_common.errors import InputError, reading
from torch import nn

from subclass_kd.bits import label_bits, mutual_label_bits, soft_label_bits
from subclass_kd.compare import CompareConfig, Comparison, Method, bits_beside_gain, features_on, objective_of
from subclass_kd.compare import compare as compare_methods
from subclass_kd.data import SubclassSet, load
from subclass_kd.discover import Clustering, discover_subclasses
from subclass_kd.networks import build
from subclass_kd.plotting import save_bits, save_confusion, save_gains
from subclass_kd.teacher import TeacherLogits
from subclass_kd.train import TrainConfig, evaluate, load_into, predict, train_teacher
from subclass_kd.train import distill as distill_student

_HOW = "network.json"


def compare(out: Path, config: CompareConfig, data: str = "digits", size: int | None = None) -> None:
    """Compare students alone, with conventional and with subclass distillation; a stopped command goes on.

    Parameters
    ----------
    out
        The folder: a run folder for every network, comparison.json, the pictures.
    config
        What is compared.
    data
        digits, digits:half, npz-jpeg:PREFIX, cifar10:PATH, folder:PATH or mhist:PATH.
    size
        Pixels a side of images on disk.
    """
    found = compare_methods(load(data, size=size), config, out)
    print(found.table())
    for name, cost in found.cost.items():
        told = f"{cost['parameters']:,.0f} parameters, {cost['multiply_adds']:,.0f} multiply-adds"
        print(f"{name}: {told}, {1e3 * cost['seconds']:.2f} ms an image")
    for bits in found.bits:
        print(bits)
    if "alone" in found.scores and len(found.scores) > 2:
        print(save_gains(found, out / "gains.png", title=f"{data}: what a teacher adds"))


def teacher(
    out: Path,
    config: TrainConfig,
    data: str = "digits",
    network: str = "convnet-deep",
    width: int | None = None,
    weights: Path | None = None,
    size: int | None = None,
) -> None:
    """Train a teacher on the subclasses, and keep its logits on every view of every training image.

    Parameters
    ----------
    out
        The run folder; the logits lie in its folder logits.
    config
        How to train.
    data
        digits, digits:half, npz-jpeg:PREFIX, cifar10:PATH, folder:PATH or mhist:PATH.
    network
        convnet, convnet-deep, or a name of torchvision or timm.
    width
        Of the first two.
    weights
        A local file of weights for all layers but the last.
    size
        Pixels a side of images on disk.
    """
    found = load(data, size=size)
    made = build(
        network, found.input_shape, found.hierarchy.n_subclasses, width=width, weights=weights, seed=config.seed
    )
    trained = train_teacher(made, found, config, out)
    _remember(out, data, network, width, size)
    key = runs.fingerprint(*trained.state_dict().values())
    outputs = found.hierarchy.n_subclasses
    TeacherLogits.compute(trained, found.train, config.views, out / "logits", outputs=outputs, key=key)
    _report(trained, found, out)


def distill(
    out: Path,
    config: TrainConfig,
    teacher: Path | None = None,
    method: Literal["alone", "alone-subclass", "kd", "dkd", "skd"] = "skd",
    data: str | None = None,
    network: str = "convnet",
    width: int | None = None,
    temperature: float = 4.0,
    alpha: float = 0.9,
    size: int | None = None,
) -> None:
    """Train a student, with a teacher's cached logits or alone.

    Parameters
    ----------
    out
        The run folder.
    config
        How to train; its views must be the teacher's.
    teacher
        The run folder of a teacher; not for the student alone.
    method
        alone, alone-subclass, kd, dkd or skd.
    data
        The data: the teacher's where not given, else digits.
    network
        convnet, convnet-deep, or a name of torchvision or timm.
    width
        Of the first two.
    temperature, alpha
        Of the soft terms: what divides the logits, and their share.
    size
        Pixels a side of images on disk.
    """
    told: dict[str, Any] = {} if teacher is None else _told(teacher)
    source = data or str(told.get("data", "digits"))
    found = load(source, size=size or told.get("size"))
    chosen: Method = method
    student = build(network, found.input_shape, found.hierarchy.n_subclasses, width=width, seed=config.seed)
    objective = objective_of(chosen, found, temperature, alpha)
    logits = None if teacher is None else teacher / "logits"
    trained = distill_student(logits, student, found, objective, config, out)
    _remember(out, source, network, width, size or told.get("size"))
    _report(trained, found, out)


def bits(
    run: tyro.conf.Positional[Path] | None = None,
    /,
    data: str | None = None,
    temperature: float = 4.0,
    size: int | None = None,
) -> None:
    """Print the label bits of the data, and of a teacher where one is given.

    Parameters
    ----------
    run
        The run folder of a teacher.
    data
        The data: the teacher's where not given, else digits.
    temperature
        A second one beside 1.
    size
        Pixels a side of images on disk.
    """
    told: dict[str, Any] = {} if run is None else _told(run)
    found = load(data or str(told.get("data", "digits")), size=size or told.get("size"))
    print(label_bits(found.train.labels, found.hierarchy))
    if run is not None:
        logits = predict(_network(run, found), found.train)
        for value in dict.fromkeys((1.0, temperature)):
            print(f"T = {value:g}: {soft_label_bits(logits, found.hierarchy, value)}")
            print(f"T = {value:g}: {mutual_label_bits(logits, found.hierarchy, value)}")


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
        The run folder of a network.
    out
        The table: discovered.csv in the run folder where not given; a line for each training image.
    data
        The data: the network's where not given.
    least, most
        Subclasses a class: the criterion chooses between them.
    method
        kmeans or gmm.
    seed
        Of the clustering.
    size
        Pixels a side of images on disk.
    """
    told = _told(run)
    found = load(data or str(told["data"]), size=size or told.get("size"))
    network = _network(run, found)
    features = features_on(network, found.train)
    classes = found.hierarchy.class_labels(found.train.labels)
    names = found.hierarchy.class_names
    subclasses = discover_subclasses(features, classes, (least, most), method, class_names=names, seed=seed)
    path = out or run / "discovered.csv"
    lines = ["image,class,subclass"]
    lines += [
        f"{row},{names[label]},{subclasses.hierarchy.subclass_names[subclass]}"
        for row, (label, subclass) in enumerate(zip(classes.tolist(), subclasses.subclass_labels.tolist(), strict=True))
    ]
    files.write_text(path, "\n".join(lines) + "\n")
    for name, size_of, scores in zip(names, subclasses.hierarchy.sizes.tolist(), subclasses.scores, strict=True):
        told_scores = "  ".join(f"{count}: {value:.3f}" for count, value in scores.items())
        print(f"{name}: {size_of} subclasses   {told_scores}")
    print(path)


def report(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Path | None = None,
    method: Method = "skd",
    to: Method = "kd",
) -> None:
    """Set the label bits of finished comparisons beside what subclasses gained there.

    Parameters
    ----------
    runs
        Folders of compare.
    out
        A picture of it, where wanted: of skd over `to`.
    method, to
        Whose F1 is compared with whose.
    """
    points = [(run.name, Comparison.load(run)) for run in runs]
    print(bits_beside_gain(points, method, to))
    if out is not None:
        print(save_bits(points, out, to=to))


def _remember(out: Path, data: str, network: str, width: int | None, size: int | None) -> None:
    """Write what it takes to make the network again."""
    table = {"data": data, "network": network, "width": width, "size": size}
    files.write_text(out / _HOW, json.dumps(table, indent=1) + "\n")


def _told(run: Path) -> dict[str, Any]:
    with reading(run / _HOW, "a run folder of teacher or distill, finished"):
        return dict(json.loads((run / _HOW).read_text(encoding="utf-8")))


def _network(run: Path, data: SubclassSet) -> nn.Module:
    told = _told(run)
    saved = checkpoint.load(run / "model.safetensors")
    names = saved.meta.get("subclasses")
    if names != list(data.hierarchy.subclass_names):
        raise InputError(f"{run} knows other subclasses than the data's", "the data that it was trained on")

    def make() -> nn.Module:
        return build(str(told["network"]), data.input_shape, data.hierarchy.n_subclasses, width=told["width"])

    with reading(run / _HOW, "what teacher or distill wrote"):
        with torch.device("meta"):  # no memory yet: the width may be anything
            wanted = {name: tuple(array.shape) for name, array in make().state_dict().items()}
        if wanted != {name: tuple(array.shape) for name, array in saved.arrays.items()}:
            raise InputError(f"{run / _HOW} does not fit the weights beside it", "what teacher or distill wrote")
        made = make()
    return load_into(made, run).eval()


def _report(network: nn.Module, data: SubclassSet, out: Path) -> None:
    scores = evaluate(network, data)
    files.write_text(out / "test.json", json.dumps(dataclasses.asdict(scores), indent=1) + "\n")
    print("  ".join(f"{name} {100 * value:.2f}" for name, value in dataclasses.asdict(scores).items()))
    predicted = predict(network, data.test).argmax(dim=1).numpy()
    print(save_confusion(predicted, data.test.labels, data.hierarchy, out / "confusion.png"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        The words after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code: 0, 2 for bad input, 130 where interrupted.
    """
    commands: dict[str, Callable[..., None]] = {
        "compare": compare,
        "teacher": teacher,
        "distill": distill,
        "bits": bits,
        "discover": discover,
        "report": report,
    }
    return cli.run("subclass-kd", commands, arguments)


if __name__ == "__main__":
    sys.exit(main())
