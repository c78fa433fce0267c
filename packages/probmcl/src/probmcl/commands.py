"""The commands of `probmcl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from sextet_common import files
from sextet_common.errors import InputError
from sextet_common.runs import Run
from sextet_common.text import SHORT, terminal

from probmcl import metrics
from probmcl.data.sets import MultiLabelSet, read_image
from probmcl.data.sources import load
from probmcl.deployment import export as export_model
from probmcl.encoders import complexity
from probmcl.metrics import Absent, TopKRule
from probmcl.model import JOB, ProbMCL
from probmcl.plotting import Projection, save_map, save_uncertain
from probmcl.training.config import Config

RunFolder = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(help="Run folder.")]]
Data = Annotated[str | None, tyro.conf.arg(help="Data to use; by default those of the run.")]
Size = Annotated[int | None, tyro.conf.arg(help="Pixels a side of images on disk.")]
Device = Annotated[str, tyro.conf.arg(help="auto, cpu, cuda, cuda:N or mps.")]


def train(
    out: Path,
    config: Config,
    data: str = "digits",
    encoder: str | None = None,
    width: int | None = None,
    weights: Path | None = None,
    size: Size = None,
) -> None:
    """Train a multi-label classifier; the same command resumes a stopped run.

    Parameters
    ----------
    out
        Run folder.
    config
        Settings of the training.
    data
        digits, mnist, npz:PATH, csv:FOLDER, coco:FOLDER, voc:FOLDER[@YEAR] or adp:FOLDER[@LEVEL].
    encoder
        convnet, mlp, or a name of torchvision or timm; by default convnet for images and mlp for features.
    width
        Width of convnet and mlp.
    weights
        Local file of pre-trained weights for the encoder.
    """
    dataset = load(data, size=size)
    chosen = encoder or ("mlp" if len(dataset.input_shape) == 1 else "convnet")
    model = ProbMCL(chosen, dataset.n_labels, config, width=width, weights=weights).fit(dataset, out)
    scores = model.evaluate(dataset.test)
    parameters, operations = complexity(model.inference(), dataset.input_shape)
    report = {**scores.as_dict(), "parameters": parameters, "multiply_adds": operations}
    files.write_text(out / "test.json", json.dumps(report, indent=2) + "\n")
    print(scores.table())
    print(f"at inference {parameters:,} parameters, {operations:,} multiply-adds an input")


def evaluate(
    run: RunFolder,
    /,
    data: Data = None,
    part: str = "test",
    threshold: float | None = None,
    tune: bool = False,
    absent: Absent = "ignore",
    k: int | None = None,
    top_k_rule: TopKRule = "only",
    size: Size = None,
    device: Device = "auto",
) -> None:
    """Print a trained model's scores.

    Parameters
    ----------
    part
        train, validation or test.
    threshold
        A label is predicted if its probability exceeds the threshold; 0.5 by default.
    tune
        Choose the threshold with the highest OF1 on the validation part.
    absent
        Labels without a positive row: ignore, or zero.
    k
        Number of labels of the top-k scores: 3, or all labels if there are fewer.
    top_k_rule
        only: the k best labels are predicted; and_threshold: those of them above the threshold.
    """
    model, dataset = _trained_run(run, data, size, device)
    if tune and threshold is not None:
        raise InputError("--tune with a threshold", "one of them")
    if part not in ("train", "validation", "test"):
        raise InputError(f"part is {part!r}", "train, validation or test")
    if tune:
        validation = dataset.validation
        threshold = metrics.best_threshold(model.predict_proba(validation), np.array(validation.labels))
    scores = model.evaluate(
        getattr(dataset, part), threshold=0.5 if threshold is None else threshold, absent=absent,
        k=min(3, dataset.n_labels) if k is None else k, top_k_rule=top_k_rule,
    )  # fmt: skip
    print(scores.table(model.label_names))


def predict(
    run: RunFolder,
    images: tyro.conf.Positional[tuple[Path, ...]],
    /,
    threshold: float = 0.5,
    device: Device = "auto",
) -> None:
    """Print the labels of image files, their probabilities and, if the model has mixtures, its uncertainty.

    Parameters
    ----------
    images
        Image files. A model with one channel sees them in grey.
    threshold
        Labels with a higher probability are printed.
    """
    model = ProbMCL.load(run, on=device)
    if not images:
        raise InputError("no image is given", "one or more image files")
    if len(model.input_shape) != 3 or model.input_shape[1] != model.input_shape[2]:
        raise InputError(f"the model takes inputs of shape {model.input_shape}", "a model of square images")
    channels, side, _ = model.input_shape
    pixels = np.stack([read_image(path, side) for path in images])
    pixels = pixels.mean(axis=1, keepdims=True) if channels == 1 else pixels
    probabilities = model.predict_proba(pixels)
    has_mixtures = model.config.has_mixtures
    between = model.uncertainty(pixels).between.tolist() if has_mixtures else [None] * len(pixels)
    for path, row, variance in zip(images, probabilities.tolist(), between, strict=True):
        chosen = sorted(((p, name) for p, name in zip(row, model.label_names, strict=True) if p > threshold))[::-1]
        labels = "  ".join(f"{terminal(name, SHORT)} {p:.2f}" for p, name in chosen) or "no label"
        print(
            f"{terminal(path)}: {labels}"
            + ("" if variance is None else f"   (variance between components {variance:.3g})")
        )


def map_(
    run: RunFolder,
    /,
    data: Data = None,
    out: Path | None = None,
    projection: Projection = "tsne",
    seed: int = 0,
    size: Size = None,
    device: Device = "auto",
) -> None:
    """Draw labels and test images in two dimensions: the semantic topology.

    Parameters
    ----------
    out
        Picture; by default map.png in the run folder.
    projection
        tsne or pca.
    seed
        Seed of t-SNE.
    """
    model, dataset = _trained_run(run, data, size, device)
    print(save_map(model, dataset.test, out or run / "map.png", projection=projection, seed=seed))


def uncertain(
    run: RunFolder,
    /,
    data: Data = None,
    out: Path | None = None,
    count: int = 20,
    size: Size = None,
    device: Device = "auto",
) -> None:
    """Draw the test images with the highest uncertainty, and print their rows.

    Parameters
    ----------
    out
        Picture; by default uncertain.png in the run folder.
    count
        Number of images.
    """
    model, dataset = _trained_run(run, data, size, device)
    path = out or run / "uncertain.png"
    rows = save_uncertain(model, dataset.test, path, count=min(count, len(dataset.test)))
    print(f"{path}\ntest rows, the least sure first: {' '.join(map(str, rows))}")


def export(run: RunFolder, path: tyro.conf.Positional[Path], /) -> None:
    """Write encoder and classifier, without the head, for use elsewhere.

    Parameters
    ----------
    path
        File that ends in .onnx or .pt2.
    """
    print(export_model(ProbMCL.load(run, on="cpu"), path))


def _trained_run(run: Path, data: str | None, size: int | None, device: str) -> tuple[ProbMCL, MultiLabelSet]:
    """Load a run's model and the data to use it on."""
    opened = Run.read(run)
    if opened.job != JOB:
        raise InputError(f"{run} holds a run of {opened.job!r}", f"one of {JOB!r}")
    model = ProbMCL.load(run, on=device)
    dataset = load(data or model.source, size=size or (model.input_shape[-1] if len(model.input_shape) == 3 else None))
    if dataset.label_names != model.label_names or dataset.input_shape != model.input_shape:
        received = f"{dataset.source}: {dataset.n_labels} labels, inputs {dataset.input_shape}"
        raise InputError(received, f"the model's {len(model.label_names)} labels and {model.input_shape}")
    return model, dataset
