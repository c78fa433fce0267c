"""The commands of `attention-matching`: distill, evaluate and show; the papers' experiments; timing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import tyro
from sextet_common import device as devices, files, loggers
from sextet_common.data import DataOptions
from sextet_common.errors import InputError
from sextet_common.processes import is_first, refuse_several
from sextet_common.runs import to_json

from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.distill import Distiller
from attention_matching.distillation.result import TestData, read_result, result_path
from attention_matching.distillation.timing import time_steps
from attention_matching.evaluation.config import EvaluateConfig, TrainConfig
from attention_matching.evaluation.cross import compare, cross_architecture
from attention_matching.experiments.continual import ContinualConfig, continual as run_continual
from attention_matching.experiments.grid import PAPERS_GRID, Grid
from attention_matching.experiments.search import SearchConfig, search as run_search, search_data
from attention_matching.experiments.small_sets import Source, small_sets
from attention_matching.export.card import read_evaluation, save_card, summary
from attention_matching.export.exports import Export, export as export_set
from attention_matching.images.distilled import DistilledSet
from attention_matching.networks.build import ARCHITECTURES, Architecture


def distill(out: Path, config: DistillConfig, images: DataOptions, log: tuple[loggers.Name, ...] = ()) -> None:
    """Distill a data set into a few images per class; the same command resumes a stopped run.

    Parameters
    ----------
    out
        The run folder.
    config
        How to distill.
    log
        Trackers that follow the run: tensorboard, wandb, mlflow (extras of the same names).
    """
    loggers.open(log)  # refuses a missing extra before the data is read
    Distiller(config).fit(images.load(), out, log=log)
    if is_first():
        print(f"{result_path(out)}\n{out / 'images.png'}")


def evaluate(
    run: tyro.conf.Positional[Path],
    /,
    config: EvaluateConfig,
    images: TestData,
    random_real: bool = True,
    whole: bool = False,
    whole_epochs: int = 60,
    temperature: float = 1.0,
    out: Path | None = None,
) -> None:
    """Print the test accuracy of fresh networks trained on a run's distilled images; the same command resumes.

    Parameters
    ----------
    run
        The run folder of a finished distillation, a folder that show --export hub wrote, or OWNER/NAME on the Hub.
    config
        How to train the networks.
    random_real
        Also train on as many random real images.
    whole
        Also train on the whole training set.
    whole_epochs
        Passes over the whole training set, for that row and for the teacher of soft labels: fewer, as each is longer.
    temperature
        Of the teacher's soft labels; above 1 they are flatter.
    out
        Folder for evaluation.json and the networks' accuracies; by default the run folder (NAME, of OWNER/NAME).
    """
    refuse_several("evaluate")
    training, source, data = read_result(run, images)
    folder = _output_folder(run, out)
    options: dict[str, Any] = {
        "random_real": random_real,
        "whole": whole,
        "whole_epochs": whole_epochs,
        "temperature": temperature,
    }
    rows = compare(training, data, config, folder / "evaluation", **options)
    for name, row in rows.items():
        remark = "1 network"
        if len(row.accuracies) > 1:
            low, high = row.confidence_interval()
            interval = f"{100 * low:.1f} to {100 * high:.1f} %"
            remark = f"{len(row.accuracies)} networks; 95 % interval of the mean {interval}"
        print(f"{name:12} {row}   ({remark})")
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
    images: TestData,
    architectures: tuple[Architecture, ...] = ARCHITECTURES,
    random_real: bool = True,
    out: Path | None = None,
) -> None:
    """Evaluate a run's distilled images on networks of several architectures; the same command resumes.

    Parameters
    ----------
    run
        The run folder of a finished distillation, a folder that show --export hub wrote, or OWNER/NAME on the Hub.
    config
        How to train the networks; width and depth are the ConvNet's.
    architectures
        Which networks.
    random_real
        Also train on as many random real images.
    out
        Folder for cross.json, cross.png and the networks' accuracies; by default the run folder (NAME, of OWNER/NAME).
    """
    refuse_several("cross")
    training, _, data = read_result(run, images)
    folder = _output_folder(run, out)
    table = cross_architecture(training, data, config, architectures, folder / "evaluation", random_real=random_real)
    table.save(folder / "cross.json")
    table.save_picture(folder / "cross.png")
    print(f"{table.to_markdown()}\n{folder / 'cross.png'}")


def continual(
    out: Path,
    images: DataOptions,
    steps: int = 5,
    ipc: int = 1,
    buffers: tuple[Source, ...] = ("random", "herding", "dm", "datadam", "atom"),
    orders: int = 3,
    distill_steps: int | None = None,
    networks: int = 1,
    epochs: int = 300,
    width: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Add classes step by step, and compare buffers of a few images each; the same command resumes.

    Parameters
    ----------
    out
        The run folder: continual.json, continual.png, metrics.jsonl and the distillations.
    steps
        Number of steps in which the classes arrive.
    ipc
        Images per class in a buffer (the papers: 20).
    buffers
        Contents of the buffers: random, k-centre, herding, dm, datadam, atom.
    orders
        Orders of arrival (the papers: 5).
    distill_steps
        Steps of each distillation: 600 below 28 pixels, else 8000.
    networks
        Fresh networks for each buffer, order and step.
    epochs
        Passes over the buffer (the papers: 1000).
    width
        Channels of the networks trained on the buffer: 128; 64 below 28 pixels.
    seed
        Seed of all random numbers.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    refuse_several("continual")
    config = ContinualConfig(
        steps=steps,
        ipc=ipc,
        buffers=buffers,
        orders=orders,
        networks=networks,
        width=width,
        seed=seed,
        distill=DistillConfig(steps=distill_steps, device=device),
        training=TrainConfig(epochs=epochs, device=device),
    )
    result = run_continual(images.load(), config, out)
    print(f"{result.to_markdown()}\n{out / 'continual.png'}")


def search(
    out: Path,
    images: DataOptions,
    proxies: tuple[Source, ...] = ("random", "herding", "dm", "datadam", "atom"),
    ipc: int = 10,
    grid: Literal["small", "papers"] = "small",
    distill_steps: int | None = None,
    networks: int = 1,
    epochs: int = 100,
    whole_epochs: int = 60,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Rank many ConvNets by training on a few images per class; the same command resumes a stopped search.

    Parameters
    ----------
    out
        The folder: proxies/ has the distillations, ranking/ has search.json, search.png and metrics.jsonl.
    proxies
        Training sets to rank by: random, k-centre, herding, dm, datadam, atom.
    ipc
        Images per class of a proxy (the papers: 50).
    grid
        small: 96 ConvNets of widths 8 and 32; papers: their 720, for 32x32 images.
    distill_steps
        Steps of each distillation: 600 below 28 pixels, else 8000.
    networks
        Fresh networks for each architecture and training set.
    epochs
        Passes over a proxy.
    whole_epochs
        Passes over the whole training set.
    seed
        Seed of all random numbers.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    refuse_several("search")
    data = images.load()
    config = SearchConfig(
        grid=Grid() if grid == "small" else PAPERS_GRID,
        networks=networks,
        seed=seed,
        proxy=TrainConfig(epochs=epochs, device=device),
        whole=TrainConfig(epochs=whole_epochs, device=device),
    )
    distill_config = DistillConfig(steps=distill_steps, device=device)
    sets = small_sets(proxies, search_data(data, config), ipc, seed, distill_config, out / "proxies")
    result = run_search(data, sets, config, out / "ranking")
    print(f"{result.to_markdown()}\n{out / 'ranking' / 'search.png'}")


def show(
    path: tyro.conf.Positional[Path],
    /,
    out: Path | None = None,
    export: Export | None = None,
    to: Path | None = None,
    dataset: str | None = None,
) -> None:
    """Print what a distilled set contains, draw it, write its data card, and export it for other tools.

    Parameters
    ----------
    path
        A run folder, a saved set, or OWNER/NAME on the Hub.
    out
        Folder of the picture (images.png) and the card (CARD.md); by default that of the set (NAME, of OWNER/NAME).
    export
        folder (PNG files), pt-dc or pt-mtt (torch files as DC, DSA, DM or as MTT save them), ddranking, hub (a folder
        for the Hugging Face Hub, images as parquet) or hub-imagefolder (images as PNG files).
    to
        The folder, or for pt-dc the file, to export to.
    dataset
        That tool's name of the data set, such as CIFAR10: the images get its normalisation.
    """
    if (export is None) != (to is None):
        raise InputError("one of --export and --to", "both, or neither")
    is_file = path.is_file() or path.suffix == ".safetensors"
    distilled = DistilledSet.load(path) if is_file else DistilledSet.from_pretrained(path)
    evaluation = read_evaluation((path.parent if is_file else path) / "evaluation.json")
    if export is not None and to is not None:
        export_set(distilled, to, export, dataset, evaluation)
    folder = _output_folder(path.parent if is_file else path, out)
    distilled.save_grid(folder / "images.png")
    save_card(distilled, folder / "CARD.md", evaluation)
    print(f"{summary(distilled)}\n{folder / 'images.png'}\n{folder / 'CARD.md'}")
    if to is not None:
        print(to)


def bench(
    config: DistillConfig,
    images: DataOptions,
    only: tuple[str, ...] | None = None,
    rounds: int = 5,
    steps_per_round: int = 5,
    out: Path | None = None,
) -> None:
    """Time a distillation's step on this machine, as configured and with settings that may make it faster.

    Parameters
    ----------
    config
        The distillation.
    only
        Which variants; by default all. Those that compile take a minute to start.
    rounds
        Rounds in which all variants are timed in turn.
    steps_per_round
        Steps of each variant in a round.
    out
        JSON file for the seconds.
    """
    timings = time_steps(images.load(), config, only=only, rounds=rounds, steps=steps_per_round)
    first = next(iter(timings.values())).median
    print("| settings | a step, median | speed |\n| --- | --- | --- |")
    for name, timing in timings.items():
        print(f"| {name} | {1000 * timing.median:.1f} ms | {first / timing.median:.2f} |")
    if out is not None:
        report = {
            "machine": devices.describe(),
            "data": images.data,
            "config": to_json(config),
            "seconds": {name: timing.seconds for name, timing in timings.items()},
        }
        files.write_text(out, json.dumps(report, indent=1) + "\n")


def _output_folder(given: Path, out: Path | None) -> Path:
    """Return the folder of a command's files: of a set from the Hub, one here of its name."""
    return out or (given if given.is_dir() else Path(given.name))
