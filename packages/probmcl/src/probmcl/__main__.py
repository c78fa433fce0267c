"""The command `probmcl`: train, evaluate, predict, map, uncertain, export."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tyro
from sextet_common import cli, files
from sextet_common.errors import InputError
from sextet_common.runs import Run

from probmcl import metrics
from probmcl.config import Config
from probmcl.data import MultiLabelSet, load, read_image
from probmcl.encoders import complexity
from probmcl.export import export as export_model
from probmcl.metrics import Absent, TopKRule
from probmcl.model import JOB, ProbMCL
from probmcl.plotting import Projection, save_map, save_uncertain


def train(
    out: Path,
    config: Config,
    data: str = "digits",
    encoder: str | None = None,
    width: int | None = None,
    weights: Path | None = None,
    size: int | None = None,
) -> None:
    """Train a multi-label classifier; the same command goes on with a stopped run.

    Parameters
    ----------
    out
        The run folder.
    config
        How to train.
    data
        digits, mnist, npz:PATH, csv:FOLDER, coco:FOLDER, voc:FOLDER[@YEAR] or adp:FOLDER[@LEVEL].
    encoder
        convnet, mlp, or a name of torchvision or timm; where not given, convnet for images and mlp for features.
    width
        Of convnet and mlp.
    weights
        A local file of the encoder's pre-trained weights.
    size
        Pixels a side of images on disk.
    """
    found = load(data, size=size)
    chosen = encoder or ("mlp" if len(found.input_shape) == 1 else "convnet")
    model = ProbMCL(chosen, found.n_labels, config, width=width, weights=weights).fit(found, out)
    scores = model.evaluate(found.test)
    parameters, operations = complexity(model.inference(), found.input_shape)
    report = {**scores.as_dict(), "parameters": parameters, "multiply_adds": operations}
    files.write_text(out / "test.json", json.dumps(report, indent=2) + "\n")
    print(scores.table())
    print(f"at inference {parameters:,} parameters, {operations:,} multiply-adds an input")


def evaluate(
    run: tyro.conf.Positional[Path],
    /,
    data: str | None = None,
    part: str = "test",
    threshold: float | None = None,
    tune: bool = False,
    absent: Absent = "ignore",
    k: int | None = None,
    top_k_rule: TopKRule = "only",
    size: int | None = None,
    device: str = "auto",
) -> None:
    """Print a trained model's scores.

    Parameters
    ----------
    run
        The run folder.
    data
        The data to measure on: those of the run where not given.
    part
        train, validation or test.
    threshold
        What a probability must exceed to be a positive; 0.5 where not given.
    tune
        Choose the threshold of the highest OF1 on the validation part.
    absent
        What labels without a positive row count: ignore, or zero.
    k
        Of the top-k scores: 3, or all labels where there are fewer.
    top_k_rule
        only: the k best labels are the positives; and_threshold: those above the threshold.
    size
        Pixels a side of images on disk.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    model, found = _trained(run, data, size, device)
    if tune and threshold is not None:
        raise InputError("--tune with a threshold", "one of them")
    if part not in ("train", "validation", "test"):
        raise InputError(f"part is {part!r}", "train, validation or test")
    if tune:
        validation = found.validation
        threshold = metrics.best_threshold(model.predict_proba(validation), np.array(validation.labels))
    scores = model.evaluate(
        getattr(found, part), threshold=0.5 if threshold is None else threshold, absent=absent,
        k=k or min(3, found.n_labels), top_k_rule=top_k_rule,
    )  # fmt: skip
    print(scores.table(model.label_names))


def predict(
    run: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[tuple[Path, ...]],
    /,
    threshold: float = 0.5,
    device: str = "auto",
) -> None:
    """Print the labels of image files, with their probabilities and, where the model has mixtures, its uncertainty.

    Parameters
    ----------
    run
        The run folder.
    images
        Image files. For a model of one channel they become grey.
    threshold
        Labels of a higher probability are printed.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    model = ProbMCL.load(run, on=device)
    if not images:
        raise InputError("no image is given", "one image file or more")
    if len(model.input_shape) != 3 or model.input_shape[1] != model.input_shape[2]:
        raise InputError(f"the model takes inputs of shape {model.input_shape}", "a model of square images")
    channels, side, _ = model.input_shape
    pixels = np.stack([read_image(path, side) for path in images])
    pixels = pixels.mean(axis=1, keepdims=True) if channels == 1 else pixels
    probabilities = model.predict_proba(pixels)
    unsure = model.config.method == "probmcl" and not model.config.fine_tune
    between = model.uncertainty(pixels).between.tolist() if unsure else [None] * len(pixels)
    for path, row, variance in zip(images, probabilities.tolist(), between, strict=True):
        chosen = sorted(((p, name) for p, name in zip(row, model.label_names, strict=True) if p > threshold))[::-1]
        told = "  ".join(f"{name} {p:.2f}" for p, name in chosen) or "no label"
        print(f"{path}: {told}" + ("" if variance is None else f"   (variance between components {variance:.3g})"))


def map_(
    run: tyro.conf.Positional[Path],
    /,
    data: str | None = None,
    out: Path | None = None,
    projection: Projection = "tsne",
    seed: int = 0,
    size: int | None = None,
    device: str = "auto",
) -> None:
    """Draw labels and test images in two dimensions: the semantic topology.

    Parameters
    ----------
    run
        The run folder.
    data
        The data: those of the run where not given.
    out
        The picture: map.png in the run folder where not given.
    projection
        tsne or pca.
    seed
        Of t-SNE.
    size
        Pixels a side of images on disk.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    model, found = _trained(run, data, size, device)
    print(save_map(model, found.test, out or run / "map.png", projection=projection, seed=seed))


def uncertain(
    run: tyro.conf.Positional[Path],
    /,
    data: str | None = None,
    out: Path | None = None,
    count: int = 20,
    size: int | None = None,
    device: str = "auto",
) -> None:
    """Draw the test images that the model is least sure of, and print their rows.

    Parameters
    ----------
    run
        The run folder.
    data
        The data: those of the run where not given.
    out
        The picture: uncertain.png in the run folder where not given.
    count
        How many images.
    size
        Pixels a side of images on disk.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    model, found = _trained(run, data, size, device)
    path = out or run / "uncertain.png"
    rows = save_uncertain(model, found.test, path, count=min(count, len(found.test)))
    print(f"{path}\ntest rows, the least sure first: {' '.join(map(str, rows))}")


def export(run: tyro.conf.Positional[Path], path: tyro.conf.Positional[Path], /) -> None:
    """Write encoder and classifier, without the head, for use elsewhere.

    Parameters
    ----------
    run
        The run folder.
    path
        A file that ends in .onnx or .pt2.
    """
    print(export_model(ProbMCL.load(run, on="cpu"), path))


def _trained(run: Path, data: str | None, size: int | None, device: str) -> tuple[ProbMCL, MultiLabelSet]:
    """Load a run's model and the data to use it on."""
    opened = Run.read(run)
    if opened.job != JOB:
        raise InputError(f"{run} holds a run of {opened.job!r}", f"one of {JOB!r}")
    model = ProbMCL.load(run, on=device)
    found = load(data or model.source, size=size or (model.input_shape[-1] if len(model.input_shape) == 3 else None))
    if found.label_names != model.label_names or found.input_shape != model.input_shape:
        given = f"{found.source}: {found.n_labels} labels, inputs {found.input_shape}"
        raise InputError(given, f"the model's {len(model.label_names)} labels and {model.input_shape}")
    return model, found


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
        "train": train,
        "evaluate": evaluate,
        "predict": predict,
        "map": map_,
        "uncertain": uncertain,
        "export": export,
    }
    return cli.run("probmcl", commands, arguments)


if __name__ == "__main__":
    sys.exit(main())
