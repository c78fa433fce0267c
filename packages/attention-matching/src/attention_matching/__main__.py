"""The command `attention-matching`: distill, evaluate and show; the papers' experiments; timing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro
from sextet_common import cli, device, files
from sextet_common import data as image_data
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from sextet_common.runs import Run, to_json

from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.distill import Distiller, result_path
from attention_matching.distillation.shards import is_first, refuse_several
from attention_matching.distillation.timing import time_steps
from attention_matching.evaluation.cross import compare, cross_architecture
from attention_matching.evaluation.evaluate import EvaluateConfig
from attention_matching.experiments.experiments import architecture_search, continual_learning
from attention_matching.export.card import read_evaluation, save_card, summary
from attention_matching.export.exports import Export
from attention_matching.export.exports import export as export_set
from attention_matching.images.distilled import DistilledSet
from attention_matching.networks.build import ARCHITECTURES, Architecture


def distill(
    out: Path, config: DistillConfig, data: str = "digits", size: int | None = None, download: bool = False
) -> None:
    """Distill a data set into a few images per class; the same command goes on with a stopped run.

    Parameters
    ----------
    out
        The run folder.
    config
        How to distill.
    data
        The images: digits, folder:PATH, npz:PATH, npz-jpeg:PREFIX, mnist:PATH, cifar10:PATH, ...
    size
        Resize and crop the images of a folder to this many pixels a side.
    download
        Let torchvision fetch what is not on disk.
    """
    Distiller(config).fit(image_data.load(data, size=size, download=download), out)
    if is_first():
        print(f"{result_path(out)}\n{out / 'images.png'}")


def evaluate(
    run: tyro.conf.Positional[Path],
    /,
    config: EvaluateConfig,
    data: str | None = None,
    random_real: bool = True,
    whole: bool = False,
    whole_epochs: int = 60,
    temperature: float = 1.0,
    out: Path | None = None,
) -> None:
    """Print the test accuracy of fresh networks trained on a run's distilled images; a stopped command goes on.

    Parameters
    ----------
    run
        The run folder of a finished distillation.
    config
        How to train the networks.
    data
        The images to test on: by default those that were distilled.
    random_real
        Also train on as many random real images.
    whole
        Also train on the whole training set.
    whole_epochs
        Passes over the whole training set, for that row and a soft label's teacher: fewer, since each is longer.
    temperature
        Of the teacher's soft labels: above 1 flatter.
    out
        Where to keep evaluation.json and the networks' accuracies: the run folder where not given.
    """
    refuse_several("evaluate")
    training, source, images = _finished(run, data)
    folder = out or run
    rows = compare(
        training,
        images,
        config,
        folder / "evaluation",
        random_real=random_real,
        whole=whole,
        whole_epochs=whole_epochs,
        temperature=temperature,
    )
    for name, row in rows.items():
        known = f"{len(row.accuracies)} network{'s' if len(row.accuracies) > 1 else ''}"
        if len(row.accuracies) > 1:
            low, high = row.confidence_interval()
            known += f"; 95 % interval of the mean {100 * low:.1f} to {100 * high:.1f} %"
        print(f"{name:12} {row}   ({known})")
    report = {
        "data": source,
        "config": to_json(config),
        "whole_epochs": whole_epochs if whole or config.labels == "soft" else None,
        "temperature": temperature if config.labels == "soft" else None,
        "accuracies": {name: list(row.accuracies) for name, row in rows.items()},
    }
    files.write_text(folder / "evaluation.json", json.dumps(report, indent=2) + "\n")


def cross(
    run: tyro.conf.Positional[Path],
    /,
    config: EvaluateConfig,
    architectures: tuple[Architecture, ...] = ARCHITECTURES,
    data: str | None = None,
    random_real: bool = True,
    out: Path | None = None,
) -> None:
    """Evaluate a run's distilled images on networks of several architectures; a stopped command goes on.

    Parameters
    ----------
    run
        The run folder of a finished distillation.
    config
        How to train the networks; width and depth are the ConvNet's.
    architectures
        Which networks.
    data
        The images to test on: by default those that were distilled.
    random_real
        Also train on as many random real images.
    out
        Where to keep cross.json, cross.png and the networks' accuracies: the run folder where not given.
    """
    refuse_several("cross")
    training, _, images = _finished(run, data)
    folder = out or run
    table = cross_architecture(training, images, config, architectures, folder / "evaluation", random_real=random_real)
    table.save(folder / "cross.json")
    table.save_picture(folder / "cross.png")
    print(f"{table.to_markdown()}\n{folder / 'cross.png'}")


def show(
    path: tyro.conf.Positional[Path],
    /,
    out: Path | None = None,
    export: Export | None = None,
    to: Path | None = None,
    dataset: str | None = None,
) -> None:
    """Print what a distilled set is, draw it, write its data card, and export it for other tools.

    Parameters
    ----------
    path
        A run folder, or a saved set.
    out
        Where the picture (images.png) and the card (CARD.md) go: beside the set where not given.
    export
        folder (PNG files), pt-dc or pt-mtt (torch files as DC, DSA, DM or as MTT save them), ddranking.
    to
        The folder, or for pt-dc the file, that the export makes.
    dataset
        That tool's name of the data set, such as CIFAR10: the images get its normalisation.
    """
    if (export is None) != (to is None):
        raise InputError("one of --export and --to", "both, or neither")
    file = result_path(path) if path.is_dir() else path
    distilled = DistilledSet.load(file)
    if export is not None and to is not None:
        export_set(distilled, to, export, dataset)
    folder = out or file.parent
    distilled.save_grid(folder / "images.png")
    save_card(distilled, folder / "CARD.md", read_evaluation(file.parent / "evaluation.json"))
    print(f"{summary(distilled)}\n{folder / 'images.png'}\n{folder / 'CARD.md'}")
    if to is not None:
        print(to)


def bench(
    config: DistillConfig,
    data: str = "digits",
    only: tuple[str, ...] | None = None,
    rounds: int = 5,
    steps_per_round: int = 5,
    out: Path | None = None,
) -> None:
    """Time a distillation's step on this machine, as asked for and with the settings that may make it faster.

    Parameters
    ----------
    config
        The distillation.
    data
        The images, as for distill.
    only
        Which variants; all where not given. Those that compile take a minute to start.
    rounds
        Rounds in which all are timed in turn.
    steps_per_round
        Steps of each in a round.
    out
        Where to write the seconds as JSON.
    """
    timings = time_steps(image_data.load(data), config, only=only, rounds=rounds, steps=steps_per_round)
    first = next(iter(timings.values())).median
    print("| settings | a step, median | speed |\n| --- | --- | --- |")
    for name, timing in timings.items():
        print(f"| {name} | {1000 * timing.median:.1f} ms | {first / timing.median:.2f} |")
    if out is not None:
        report = {
            "machine": device.describe(),
            "data": data,
            "config": to_json(config),
            "seconds": {name: timing.seconds for name, timing in timings.items()},
        }
        files.write_text(out, json.dumps(report, indent=1) + "\n")


def _finished(run: Path, data: str | None) -> tuple[DistilledSet, str, ImageSet]:
    """Read a finished run's set, and the images that it is to be tested on."""
    training = DistilledSet.load(result_path(run))
    with reading(run / "config.json", "a run of distill"):
        source = str(data or Run.read(run).config["data"])
    size = training.images.shape[-1] if source.startswith("folder:") else None
    return training, source, image_data.load(source, size=size)


COMMANDS: dict[str, Callable[..., None]] = {
    "distill": distill,
    "evaluate": evaluate,
    "cross": cross,
    "continual": continual_learning,
    "search": architecture_search,
    "show": show,
    "bench": bench,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return cli.run("attention-matching", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
