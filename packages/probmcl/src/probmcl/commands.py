"""The commands of `probmcl`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from sextet_common import files, hub, loggers
from sextet_common.errors import STRUCTURE, InputError, reading
from sextet_common.options import Advanced
from sextet_common.processes import is_first
from sextet_common.runs import Run
from sextet_common.text import SHORT, terminal

from probmcl import metrics
from probmcl.data.sets import MultiLabelSet, read_image
from probmcl.data.sources import load, load_unlabelled
from probmcl.deployment import export as export_model
from probmcl.encoders import Normalise, complexity
from probmcl.metrics import Absent, TopKRule
from probmcl.model import FILE, JOB, ProbMCL
from probmcl.plotting import Projection, save_map, save_uncertain
from probmcl.reliability import kinds
from probmcl.reliability.conformal import Guarantee
from probmcl.reliability.kinds import Kind
from probmcl.reliability.ranking import error_ranking
from probmcl.training.config import Config

_RUN_HELP = "Run folder, an exported folder, or OWNER/NAME of the Hugging Face Hub."
RunFolder = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(help=_RUN_HELP)]]
Device = Annotated[str, tyro.conf.arg(help="auto, cpu, cuda, cuda:N or mps.")]
Log = Annotated[
    tuple[loggers.Name, ...], tyro.conf.arg(help="Trackers that follow the training: tensorboard, wandb, mlflow.")
]


@dataclass(frozen=True)
class _RunData:
    data: str | None = None
    """By default the data of the run."""
    size: int | None = None
    """Pixels a side of images on disk; 224 by default, or those of the run."""
    channels: Literal[1, 3] | None = None
    """3 for colour, 1 for gray."""
    cache: Path | None = None
    """Keep the decoded images of files here; later loads map them into memory."""
    on_bad_image: Literal["refuse", "skip"] = "refuse"
    """Refuse data with an image file that cannot be read, or skip such files."""

    def read(self, default: str, shape: tuple[int, ...] = ()) -> MultiLabelSet:
        """Load the data; those of a run have the shape of its model."""
        options = {name: value for name, value in vars(self).items() if name != "data"}
        if len(shape) == 3:
            options |= {"size": self.size or shape[-1], "channels": self.channels or (1 if shape[0] == 1 else 3)}
        return load(self.data or default, **options)


@dataclass(frozen=True)
class _Data(_RunData):
    data: str | None = "digits"
    """digits, mnist, npz:PATH, csv:FOLDER, folder:FOLDER, coco:FOLDER, voc:FOLDER[@YEAR], adp:FOLDER[@LEVEL] or
    mosaics:SOURCE of a set with classes, such as cifar10:PATH."""


def train(
    out: Path,
    config: Config,
    data: _Data,
    encoder: str | None = None,
    width: Advanced[int | None] = None,
    weights: Path | None = None,
    normalise_images: Advanced[Normalise] = "auto",
    labelled: int | None = None,
    unlabelled: str | None = None,
    log: Log = (),
) -> None:
    """Train a multi-label classifier; the same command resumes a stopped run.

    Parameters
    ----------
    out
        Run folder.
    config
        Settings of the training.
    data
        The images.
    encoder
        convnet, mlp, or a name of torchvision or timm; by default convnet for images and mlp for features.
    width
        Width of convnet and mlp.
    weights
        Local file of pre-trained weights for the encoder.
    normalise_images
        Normalise images inside the encoder: imagenet, none, or auto, as published pre-trained weights expect.
    labelled
        Keep the labels of this many training images, the first ones. The others are unlabelled.
    unlabelled
        More training images, without labels: a folder of image files, or a source as for --data, of which the training
        part is used.
    """
    loggers.open(log)  # refuses a missing extra before the work
    dataset = data.read("digits")
    if labelled is not None:
        dataset = dataset.with_labelled(labelled)
    if unlabelled is not None:
        dataset = dataset.with_unlabelled(load_unlabelled(unlabelled, dataset.input_shape))
    chosen = encoder or ("mlp" if len(dataset.input_shape) == 1 else "convnet")
    model = ProbMCL(chosen, dataset.n_labels, config, width=width, weights=weights, normalise_images=normalise_images)
    model.fit(dataset, out, log=log)
    if not is_first():  # under torchrun the first process reports
        return
    scores = model.evaluate(dataset.test)
    parameters, operations = complexity(model.inference(), dataset.input_shape)
    report = {**scores.as_dict(), "parameters": parameters, "multiply_adds": operations}
    files.write_text(out / "test.json", json.dumps(report, indent=2) + "\n")
    print(scores.table())
    if weights is not None:
        print(f"{terminal(weights)}: {model.loaded_weights}")
    print(f"at inference {parameters:,} parameters, {operations:,} multiply-adds an input")


def evaluate(
    run: RunFolder,
    /,
    *,
    data: _RunData,
    part: str = "test",
    threshold: float | None = None,
    tune: bool = False,
    absent: Absent = "ignore",
    k: int | None = None,
    top_k_rule: TopKRule = "only",
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
    model, dataset = _trained_run(run, data, device)
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
    kind: Kind = kinds.DEFAULT,
    device: Device = "auto",
) -> None:
    """Print the labels of image files, their probabilities and the uncertainty, and sets of labels after conformal.

    Parameters
    ----------
    images
        Image files. A model with one channel sees them in grey.
    threshold
        Labels with a higher probability are printed.
    kind
        Kind of uncertainty.
    """
    model = ProbMCL.load(_folder(run), on=device)
    if not images:
        raise InputError("no image is given", "one or more image files")
    if len(model.input_shape) != 3 or model.input_shape[1] != model.input_shape[2]:
        raise InputError(f"the model takes inputs of shape {model.input_shape}", "a model of square images")
    channels, side, _ = model.input_shape
    pixels = np.stack([read_image(path, side, channels) for path in images])
    probabilities, uncertainty = model.predict_proba(pixels), model.uncertainty(pixels, kind)
    sets = model.reliability.sets
    names = [terminal(name, SHORT) for name in model.label_names]
    for number, path in enumerate(images):
        row = probabilities[number].tolist()
        chosen = sorted(((p, name) for p, name in zip(row, names, strict=True) if p > threshold))[::-1]
        labels = "  ".join(f"{name} {p:.2f}" for p, name in chosen) or "no label"
        line = f"{terminal(path)}: {labels}   ({kind} {float(uncertainty[number]):.3g})"
        if sets is not None:
            inside = sets.predict(probabilities[number : number + 1])[0].tolist()
            members = ", ".join(name for name, is_in in zip(names, inside, strict=True) if is_in)
            line += f"   {sets.guarantee} {100 * sets.level:g} %: {{{members}}}"
        print(line)


def map_(
    run: RunFolder,
    /,
    *,
    data: _RunData,
    out: Path | None = None,
    projection: Projection = "tsne",
    seed: int = 0,
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
    model, dataset = _trained_run(run, data, device)
    print(save_map(model, dataset.test, out or _beside(run) / "map.png", projection=projection, seed=seed))


def uncertain(
    run: RunFolder,
    /,
    *,
    data: _RunData,
    out: Path | None = None,
    count: int = 20,
    kind: Kind = kinds.DEFAULT,
    device: Device = "auto",
) -> None:
    """Draw the test images with the highest uncertainty, print how well it ranks errors, and their rows.

    Parameters
    ----------
    out
        Picture; by default uncertain.png in the run folder.
    count
        Number of images.
    kind
        any_error, entropy and margin come from the probabilities, distance from the embeddings of the training images,
        mutual_information, between, within and total from the mixtures.
    """
    model, dataset = _trained_run(run, data, device)
    if kind == "distance" and model.reliability.gaussians is None:  # a model of an earlier release
        model.fit_distance(dataset.train)
    path = out or _beside(run) / "uncertain.png"
    rows = save_uncertain(model, dataset.test, path, count=min(count, len(dataset.test)), kind=kind)
    labels = np.array(dataset.test.labels)
    wrong = (((model.predict_proba(dataset.test).numpy() > 0.5) != labels) & (labels >= 0)).any(axis=1)
    ranking = error_ranking(model.uncertainty(dataset.test, kind).numpy(), wrong)
    print(
        f"{path}\n{kind}: AUROC of images with a wrong label {ranking.auroc:.3f}, area under the risk-coverage curve "
        f"{ranking.aurc:.3f} ({ranking.best_aurc:.3f} at best, {ranking.error:.3f} in random order)\n"
        f"test rows, the least sure first: {' '.join(map(str, rows))}"
    )


def conformal(
    run: RunFolder,
    /,
    *,
    data: _RunData,
    level: float = 0.9,
    guarantee: Guarantee = "recall",
    out: Path | None = None,
    device: Device = "auto",
) -> None:
    """Choose sets of labels with a guaranteed coverage on the validation part, and measure them on the test part.

    The thresholds are saved with the model; predict prints the sets from then on.

    Parameters
    ----------
    level
        Share that the guarantee is about, above 0 and below 1.
    guarantee
        recall: a set contains in the mean this share of an image's labels; set: it contains all labels of an image with
        this probability; label: every label, in images that show it, with this probability.
    out
        Model file to write; by default the run's own.
    """
    model, dataset = _trained_run(run, data, device)
    if out is None and not run.is_dir():
        raise InputError(f"{run} is a model of the Hub", "--out FILE.safetensors for the model with its sets")
    sets = model.conformal(dataset.validation, level, guarantee)
    measured = sets.measure(model.predict_proba(dataset.test), np.array(dataset.test.labels))
    path = out or run / FILE
    model.save(path)
    print(f"{guarantee} of at least {100 * level:g} % in the mean over calibrations, from {sets.rows} calibration rows")
    print(f"{measured.table()}\n{path}")


def export(
    run: RunFolder,
    path: tyro.conf.Positional[Path | None] = None,
    /,
    to: Path | None = None,
    license: str = "unknown",
) -> None:
    """Write encoder and classifier, without the head, for use elsewhere; or a folder for the Hugging Face Hub.

    Parameters
    ----------
    path
        File that ends in .onnx or .pt2.
    to
        A new folder with a model card and the whole model, which ProbMCL.from_pretrained reads.
    license
        Licence of the model in the card, an identifier of the Hub such as mit.
    """
    if (path is None) == (to is None):
        raise InputError("export to a file and a folder, or to neither", "FILE.onnx, FILE.pt2 or --to FOLDER")
    model = ProbMCL.load(_folder(run), on="cpu")
    if path is not None:
        print(export_model(model, path))
    if to is not None:
        model.export_hub(to, license=license, scores=_scores(run))
        print(to)


def _scores(run: Path) -> dict[str, float]:
    """Return the numbers that the run measured on the test part."""
    if not (run / "test.json").is_file():
        return {}
    with reading(run / "test.json", "the scores that the run wrote", *STRUCTURE):
        table = dict(json.loads((run / "test.json").read_text(encoding="utf-8")))
    return {str(name): float(v) for name, v in table.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _folder(run: Path) -> Path:
    """Return a folder of a model: as it is, or downloaded from the Hub."""
    is_name = not run.exists() and not run.is_absolute() and len(run.parts) == 2
    return hub.local_folder(run) if is_name else run


def _beside(run: Path) -> Path:
    """Return where pictures go: the folder, or the current one for a model of the Hub."""
    return run if run.is_dir() else Path()


def _trained_run(run: Path, data: _RunData | None, device: str) -> tuple[ProbMCL, MultiLabelSet]:
    """Load a run's model and the data to use it on."""
    folder, data = _folder(run), data or _RunData()
    is_shared = (folder / FILE).is_file() and (folder / "README.md").is_file() and not (folder / "config.json").exists()
    if not is_shared:
        opened = Run.read(folder)
        if opened.job != JOB:
            raise InputError(f"{run} holds a run of {opened.job!r}", f"one of {JOB!r}")
    model = ProbMCL.load(folder, on=device)
    if not model.source and data.data is None:
        raise InputError(f"{run} does not say what its data are", "--data")
    dataset = data.read(model.source, model.input_shape)
    if dataset.label_names != model.label_names or dataset.input_shape != model.input_shape:
        received = f"{dataset.source}: {dataset.n_labels} labels, inputs {dataset.input_shape}"
        raise InputError(received, f"the model's {len(model.label_names)} labels and {model.input_shape}")
    return model, dataset
