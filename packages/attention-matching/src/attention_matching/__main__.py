"""The command `attention-matching`: distill a data set, evaluate the result."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
from sextet_common import cli, files
from sextet_common import data as image_data
from sextet_common.runs import Run, to_json

from attention_matching.config import DistillConfig
from attention_matching.distill import Distiller, result_path
from attention_matching.distilled import DistilledSet
from attention_matching.evaluate import EvaluateConfig, Evaluation, evaluate, evaluate_random_real
from attention_matching.select import whole_set


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
    print(f"{result_path(out)}\n{out / 'images.png'}")


def evaluate_run(
    run: tyro.conf.Positional[Path],
    /,
    config: EvaluateConfig,
    data: str | None = None,
    random_real: bool = True,
    whole: bool = False,
    whole_epochs: int = 60,
) -> None:
    """Print the test accuracy of fresh networks trained on a run's distilled images.

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
        Passes over the whole training set: fewer, since each is longer.
    """
    training = DistilledSet.load(result_path(run))
    recorded = Run.read(run)
    source = data or recorded.config["data"]
    size = training.images.shape[-1] if str(source).startswith("folder:") else None
    images = image_data.load(source, size=size)
    rows: dict[str, Evaluation] = {}
    if random_real:
        rows["random real"] = evaluate_random_real(images, round(training.ipc), config)
    rows["distilled"] = evaluate(training, images, config)
    if whole:
        rows["whole set"] = evaluate(whole_set(images), images, dataclasses.replace(config, epochs=whole_epochs))
    for name, row in rows.items():
        print(f"{name:12} {row}   ({len(row.accuracies)} networks)")
    report = {
        "data": source,
        "config": to_json(config),
        "whole_epochs": whole_epochs if whole else None,
        "accuracies": {name: list(row.accuracies) for name, row in rows.items()},
    }
    files.write_text(run / "evaluation.json", json.dumps(report, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return cli.run("attention-matching", {"distill": distill, "evaluate": evaluate_run}, arguments)


if __name__ == "__main__":
    sys.exit(main())
