"""Data card of a distilled set: contents, source data, settings and accuracy."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sextet_common import files
from sextet_common.errors import STRUCTURE, InputError, reading
from sextet_common.text import SHORT, markdown, markdown_table, terminal

from attention_matching.evaluation.accuracy import Evaluation
from attention_matching.images.distilled import DistilledSet

# Keys of the metadata that the card shows elsewhere than among the settings.
_NO_SETTING = ("method", "data", "data_sha256", "ipc")
_CLASSES_SHOWN = 20


def summary(distilled: DistilledSet) -> str:
    """Describe a set in a few lines.

    Examples
    --------
    >>> from attention_matching.images.select import random_real
    >>> from sextet_common.data import load
    >>> print(summary(random_real(load("digits"), ipc=2)))
    method         random real
    source         digits
    images         20 of 1 x 8 x 8, 2 per class
    classes        10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
    labels         hard
    preprocessing  each channel standardised
    """
    return "\n".join(f"{name:13}  {terminal(value)}" for name, value in _facts(distilled).items())


def data_card(distilled: DistilledSet, evaluation: Mapping[str, Any] | None = None) -> str:
    """Return a data card in Markdown.

    The settings are those in the ``meta`` of the set. ``evaluation`` is the content of a run folder's evaluation.json,
    if the set was evaluated: ``accuracies`` (name to one fraction per network), ``config``, and ``scores`` (name to
    number in [0, 1]) if the robust scores were computed.

    Examples
    --------
    >>> from attention_matching.images.select import random_real
    >>> from sextet_common.data import load
    >>> card = data_card(random_real(load("digits"), ipc=2), {"accuracies": {"distilled": [0.5, 0.7]}})
    >>> print(card.split("## Accuracy")[1].split("##")[0].strip())
    Share of the test images that fresh networks, trained on the images alone, get right.
    <BLANKLINE>
    | trained on | accuracy (mean ± standard deviation) | networks |
    | --- | --- | --- |
    | distilled | 60.0 ± 14.1 % | 2 |
    """
    meta = distilled.meta
    settings = {key: value for key, value in sorted(meta.items()) if key not in _NO_SETTING}
    images = "image" if distilled.per_class == "1" else "images"
    name = f"{meta.get('data', 'unnamed data')}, {distilled.per_class} {images} per class"
    source = {"source": meta.get("data", "not recorded"), "SHA-256": meta.get("data_sha256", "not recorded")}
    parts = [
        f"# {markdown(name)}",
        "A small set of labelled images that stands for a larger one when networks are trained.",
        markdown_table(("what", "value"), _facts(distilled).items()),
        "## Source data",
        markdown_table(("what", "value"), source.items()),
        "The SHA-256 is that of the training images (float32) and labels (int64) that were distilled.",
        "The images are derived from this data: its licence, its terms of use and the rights of the people it shows "
        "apply to them too. Name them here before you publish the set.",
        "## Settings",
        markdown_table(("setting", "value"), settings.items()) if settings else "Not recorded.",
        "## Accuracy",
        *_accuracy(evaluation),
        "## Limits",
        "- The images fit the networks and the preprocessing they were made with; other networks learn less from "
        "them: evaluate across architectures before you rely on them.\n"
        "- They are not anonymous: images that start as real ones may stay close to them.\n"
        "- What is rare in the source data is likely to be missing.",
        "## Use",
        "```python\nfrom attention_matching import DistilledSet\n\n"
        'distilled = DistilledSet.load("distilled.safetensors")  # a data set for torch\'s DataLoader\n'
        "inputs = distilled.preprocessing(pixels)  # your images, in [0, 1], shape (n, channels, h, w)\n```",
    ]
    return "\n\n".join(parts) + "\n"


def save_card(
    distilled: DistilledSet, path: str | os.PathLike[str], evaluation: Mapping[str, Any] | None = None
) -> None:
    """Write a data card to a Markdown file, atomically; see :func:`data_card`."""
    files.write_text(path, data_card(distilled, evaluation))


def read_evaluation(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read an evaluation.json for a card; None if there is no such file."""
    if not Path(path).exists():
        return None
    with reading(path, "the evaluation.json of a run folder", *STRUCTURE):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not isinstance(content.get("accuracies"), dict):
            raise InputError(f"{path} has no accuracies", "the evaluation.json of a run folder")
        for values in content["accuracies"].values():
            Evaluation(tuple(values))
        if not isinstance(content.get("config", {}), dict):
            raise InputError(f"{path} has a config of {type(content['config']).__name__}", "settings by name")
        if not all(0 <= value <= 1 for value in content.get("scores", {}).values()):
            raise InputError(f"{path} has scores outside [0, 1]", "numbers by name")
    return content


def _facts(distilled: DistilledSet) -> dict[str, str]:
    count, *shape = distilled.images.shape
    names = ", ".join(terminal(name, SHORT) for name in distilled.classes[:_CLASSES_SHOWN])
    more = ", ..." if len(distilled.classes) > _CLASSES_SHOWN else ""
    whitened = distilled.preprocessing.zca is not None
    return {
        "method": str(distilled.meta.get("method", "not recorded")),
        "source": str(distilled.meta.get("data", "not recorded")),
        "images": f"{count} of {' x '.join(map(str, shape))}, {distilled.per_class} per class",
        "classes": f"{len(distilled.classes)}: {names}{more}",
        "labels": _labels(distilled),
        "preprocessing": "ZCA whitening" if whitened else "each channel standardised",
    }


def _labels(distilled: DistilledSet) -> str:
    kinds = ["hard"]
    if distilled.soft_labels is not None:
        kinds.append("soft ones")
    if distilled.view_labels is not None:
        views = distilled.view_labels
        kinds.append(f"those of {views.views} augmented views ({views.bytes_per_image} bytes per image)")
    return ", and ".join([", ".join(kinds[:-1]), kinds[-1]]) if len(kinds) > 1 else kinds[0]


def _accuracy(evaluation: Mapping[str, Any] | None) -> list[str]:
    if evaluation is None:
        return ["Not evaluated."]
    rows = []
    for name, values in evaluation["accuracies"].items():
        spread = 100 * statistics.stdev(values) if len(values) > 1 else 0.0
        rows.append((name, f"{100 * statistics.fmean(values):.1f} ± {spread:.1f} %", len(values)))
    parts = [
        "Share of the test images that fresh networks, trained on the images alone, get right.",
        markdown_table(("trained on", "accuracy (mean ± standard deviation)", "networks"), rows),
    ]
    if "config" in evaluation:
        settings = ", ".join(f"{key} {value}" for key, value in evaluation["config"].items() if value is not None)
        parts.append(f"Trained with: {markdown(settings)}.")
    if "scores" in evaluation:
        scores = [(name, f"{value:.3f}") for name, value in evaluation["scores"].items()]
        parts += [
            "DD-Ranking's scores, in [0, 1], by this package's trainings:",
            markdown_table(("score", "value"), scores),
        ]
    return parts
