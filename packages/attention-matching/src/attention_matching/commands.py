"""The commands of `attention-matching`: distill, compose, label, evaluate and show; the papers' experiments; timing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import tyro
from sextet_common import device as devices, files, hub, loggers
from sextet_common.data import DataOptions
from sextet_common.errors import InputError
from sextet_common.processes import is_first, refuse_several
from sextet_common.runs import to_json

from attention_matching.distillation.config import ComposeConfig, DistillConfig
from attention_matching.distillation.together import DistillOptions, names_of
from attention_matching.evaluation.config import VIEWS, EvaluateConfig, TestData, TrainConfig
from attention_matching.kinds import ARCHITECTURES, Architecture, Export, Norm, Source, Whitening

# What needs torch is imported where a command runs, so that --help and bad options are answered at once.


def distill(out: Path, config: DistillOptions, images: DataOptions, log: tuple[loggers.Name, ...] = ()) -> None:
    """Distill a data set into a few images per class; the same command resumes a stopped run.

    Parameters
    ----------
    out
        The run folder; several methods, numbers of images or ranges of pixels get sub-folders, such as OUT/datadam.
    config
        How to distill.
    log
        Trackers that follow the run: tensorboard, wandb, mlflow (extras of the same names).
    """
    from attention_matching.distillation.distill import Distiller
    from attention_matching.distillation.result import result_path

    loggers.open(log)  # refuses a missing extra before the data is read
    configs = config.configs()
    Distiller.fit_many(configs, images.load(), out, log=log)
    if is_first():
        for name in names_of(configs):
            print(f"{result_path(out / name)}\n{out / name / 'images.png'}")


def compose(
    out: Path,
    config: ComposeConfig,
    images: DataOptions,
    architecture: Architecture = "convnet",
    width: int | None = None,
    norm: Norm = "instance",
    epochs: int = 60,
    device: str = "auto",
) -> None:
    """Compose images of the real patches that a teacher recognises best, with its labels; resumes a stopped run.

    Parameters
    ----------
    out
        The run folder.
    config
        How to compose and label.
    architecture
        Network of the teacher: convnet, alexnet, vgg11, resnet18 or vit.
    width
        Channels of a ConvNet: 128; 64 below 28 pixels.
    norm
        Normalisation of the teacher.
    epochs
        Passes of the teacher over all training images.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    from attention_matching.distillation.compose import compose_patches
    from attention_matching.distillation.result import result_path

    refuse_several("compose")
    teacher = EvaluateConfig(
        architecture=architecture, width=width, norm=norm, epochs=epochs, seed=config.seed, device=device
    )
    compose_patches(images.load(), config, out, teacher_config=teacher)
    print(f"{result_path(out)}\n{out / 'images.png'}")


def label(
    run: tyro.conf.Positional[Path],
    /,
    out: Path,
    images: TestData,
    by: Literal["teacher", "views", "learning"] = "views",
    temperature: float = 1.0,
    views: int = VIEWS,
    keep: int | None = None,
    epochs: int = 60,
    networks: int = 8,
    ridge: float = 1e-3,
    pull: float = 0.3,
    architecture: Architecture = "convnet",
    width: int | None = None,
    norm: Norm = "instance",
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Give a set soft labels, for evaluate --labels soft or views.

    Parameters
    ----------
    run
        The run folder of a finished distillation, a folder that show --export hub wrote, or OWNER/NAME on the Hub.
    out
        Folder for the labelled set, new or empty.
    by
        teacher: its probabilities of every image; views: of augmented views of it; learning: optimised for the images.
    temperature
        Of the teacher's labels; above 1 they are flatter.
    views
        Augmented views of each image.
    keep
        Probabilities that are stored for each view: the largest; by default all.
    epochs
        Passes of the teacher over all training images.
    networks
        Random networks by whose features labels are learned.
    ridge
        Of the kernel ridge regression that labels are learned by.
    pull
        Of learned labels towards the hard ones.
    architecture
        Of the teacher or the random networks: convnet, alexnet, vgg11, resnet18 or vit.
    width
        Channels of a ConvNet: 128; 64 below 28 pixels.
    norm
        Normalisation of these networks.
    seed
        Seed of all random numbers.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    from attention_matching.distillation.result import read_result, result_path
    from attention_matching.evaluation.learned_labels import learned_labels_from
    from attention_matching.evaluation.soft_labels import soft_labels_from, view_labels_from
    from attention_matching.export.card import summary

    refuse_several("label")
    config = EvaluateConfig(architecture=architecture, width=width, norm=norm, epochs=epochs, seed=seed, device=device)
    training, _, data = read_result(run, images)
    with hub.new_folder(out) as folder:
        if by == "learning":
            labelled = learned_labels_from(training, data, config, networks=networks, ridge=ridge, pull=pull)
        elif by == "teacher":
            labelled = soft_labels_from(training, data, config, temperature=temperature)
        else:
            options: dict[str, Any] = {"views": views, "keep": keep, "temperature": temperature, "seed": seed}
            labelled = view_labels_from(training, data, config, **options)
        labelled.save(result_path(folder))
    print(f"{summary(labelled)}\n{result_path(out)}")


def evaluate(
    run: tyro.conf.Positional[Path],
    /,
    config: EvaluateConfig,
    images: TestData,
    random_real: bool = True,
    whole: bool = False,
    whole_epochs: int = 60,
    temperature: float = 1.0,
    views: int = VIEWS,
    whitening: Whitening | None = None,
    out: Path | None = None,
) -> None:
    """Print the test accuracy of fresh networks trained on a run's distilled images; the same command resumes.

    Parameters
    ----------
    run
        The run folder of a finished distillation, a saved set, a folder of PNG files (needs --data), or a folder that
        show --export hub wrote, here or as OWNER/NAME on the Hub.
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
    views
        Augmented views of each image that the teacher labels, with --labels views, if the set has none.
    whitening
        zca or none, fitted to the data if the set has another; by default the distillation's, for PNG files none.
    out
        Folder for evaluation.json and the networks' accuracies; by default the run's, else one here.
    """
    from attention_matching.distillation.result import read_result
    from attention_matching.evaluation.cross import compare

    refuse_several("evaluate")
    training, source, data = read_result(run, images, whitening)
    folder = _evaluation_folder(run, out)
    options: dict[str, Any] = {
        "random_real": random_real,
        "whole": whole,
        "whole_epochs": whole_epochs,
        "temperature": temperature,
        "views": views,
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
        "whole_epochs": whole_epochs if whole or config.labels != "hard" else None,
        "temperature": temperature if config.labels != "hard" else None,
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
    whitening: Whitening | None = None,
    out: Path | None = None,
) -> None:
    """Evaluate a run's distilled images on networks of several architectures; the same command resumes.

    Parameters
    ----------
    run
        The run folder of a finished distillation, a saved set, a folder of PNG files (needs --data), or a folder that
        show --export hub wrote, here or as OWNER/NAME on the Hub.
    config
        How to train the networks; width and depth are the ConvNet's.
    architectures
        Which networks.
    random_real
        Also train on as many random real images.
    whitening
        As for evaluate.
    out
        Folder for cross.json, cross.png and the networks' accuracies; by default the run's, else one here.
    """
    from attention_matching.distillation.result import read_result
    from attention_matching.evaluation.cross import cross_architecture

    refuse_several("cross")
    training, _, data = read_result(run, images, whitening)
    folder = _evaluation_folder(run, out)
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
    from attention_matching.experiments.continual import ContinualConfig, continual as run_continual

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
    from attention_matching.experiments.grid import PAPERS_GRID, Grid
    from attention_matching.experiments.search import SearchConfig, search as run_search, search_data
    from attention_matching.experiments.small_sets import small_sets

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
        for the Hugging Face Hub, images as parquet), hub-imagefolder (images as PNG files) or compact (a set in one
        small file, pixels without whitening matrices).
    to
        The folder, or for pt-dc and compact the file, to export to.
    dataset
        That tool's name of the data set, such as CIFAR10: the images get its normalisation.
    """
    from attention_matching.distillation.result import is_file
    from attention_matching.export.card import read_evaluation, save_card, summary
    from attention_matching.export.exports import export as export_set
    from attention_matching.images.distilled import DistilledSet

    if (export is None) != (to is None):
        raise InputError("one of --export and --to", "both, or neither")
    single = is_file(path)
    distilled = DistilledSet.load(path) if single else DistilledSet.from_pretrained(path)
    evaluation = read_evaluation((path.parent if single else path) / "evaluation.json")
    if export is not None and to is not None:
        export_set(distilled, to, export, dataset, evaluation)
    folder = _output_folder(path.parent if single else path, out)
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
    from attention_matching.distillation.timing import time_steps

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


def _evaluation_folder(run: Path, out: Path | None) -> Path:
    """Return the folder of an evaluation: image files and single files get one of their own."""
    from attention_matching.distillation.result import is_file
    from attention_matching.images.distilled import FILE

    if out is None and (is_file(run) or (run.is_dir() and not (run / FILE).exists())):
        return Path(f"{run.resolve().stem}-evaluation")
    return _output_folder(run, out)
