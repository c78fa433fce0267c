"""Evaluations side by side: a set against random real images and the whole set, and over architectures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sextet_common import data as image_data, figures, files, runs
from sextet_common.data import ImageSet
from sextet_common.errors import STRUCTURE, InputError, reading

from attention_matching.evaluation.accuracy import Evaluation
from attention_matching.evaluation.config import VIEWS, EvaluateConfig, identity
from attention_matching.evaluation.evaluate import evaluate, evaluate_random_real, evaluate_whole, load_classes
from attention_matching.evaluation.learned_labels import learned_labels_from
from attention_matching.evaluation.soft_labels import soft_labels_from, train_teacher, view_labels_from
from attention_matching.images.distilled import DistilledSet
from attention_matching.kinds import ARCHITECTURES, Architecture

RANDOM_REAL, DISTILLED, WHOLE = "random real", "distilled", "whole set"


def compare(
    training: DistilledSet,
    data: image_data.Source,
    config: EvaluateConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    random_real: bool = True,
    whole: bool = False,
    whole_epochs: int = 60,
    temperature: float = 1.0,
    views: int = VIEWS,
) -> dict[str, Evaluation]:
    """Evaluate a set, as many random real images and the whole training set under the same training.

    With ``labels="soft"`` or ``"views"`` one teacher, trained on the whole training set, labels the random real images,
    and the set too if it has no such labels yet; where the set's soft labels are learned, so are those of the random
    real images. The whole set keeps its hard labels. The rows are ``random real``, ``distilled`` and ``whole set``, as
    far as requested, in this order.

    ``out`` is a folder with a run folder per row, named by row and settings; interrupted rows resume. ``whole_epochs``
    are passes over the whole training set, for its row and for the teacher, whose labels have the ``temperature`` and
    are of as many ``views`` as the set's own.

    Examples
    --------
    >>> from attention_matching.images.select import k_centre
    >>> from sextet_common.data import load
    >>> digits = load("digits")
    >>> list(compare(k_centre(digits, 1), digits, EvaluateConfig(networks=1, epochs=1, width=8)))
    ['random real', 'distilled']
    """
    config, data = config or EvaluateConfig(), load_classes(data)
    longer = dataclasses.replace(config, epochs=whole_epochs)
    prepared = training.preprocessing
    content = f"{data.source}, {prepared.whitening}"
    mine = {"hard": training.labels, "soft": training.soft_labels, "views": training.view_labels}[config.labels]
    label: Callable[[DistilledSet], DistilledSet] | None = None
    if random_real or mine is None:
        teacher_path = _path(out, "teacher", longer, content, ".safetensors")
        count = views if training.view_labels is None else training.view_labels.views
        label, remark = _labeller(training, data, config, longer, teacher_path, temperature, count)
        content += remark
        if label is not None and mine is None:
            training = label(training)

    rows: dict[str, Evaluation] = {}
    if random_real:
        counts = training.counts
        ipc = counts[0] if len({*counts}) == 1 else counts
        folder = _path(out, RANDOM_REAL, config, f"{content}, {ipc}")
        rows[RANDOM_REAL] = evaluate_random_real(data, ipc, config, folder, preprocessing=prepared, label=label)
    examples = [training.images]
    if training.soft_labels is not None:
        examples.append(training.soft_labels)
    if training.view_labels is not None:
        examples += training.view_labels.arrays().values()
    folder = _path(out, DISTILLED, config, f"{content}, {runs.fingerprint(*examples)}")
    rows[DISTILLED] = evaluate(training, data, config, folder)
    if whole:
        folder = _path(out, WHOLE, dataclasses.replace(longer, labels="hard"), f"{data.source}, {prepared.whitening}")
        rows[WHOLE] = evaluate_whole(data, longer, folder, preprocessing=prepared)
    return rows


@dataclasses.dataclass(frozen=True, eq=False)
class CrossTable:
    """Evaluations of a set by architecture, and those of as many random real images (empty if not measured).

    Examples
    --------
    >>> table = CrossTable({"convnet": Evaluation((0.9, 0.8))}, {"convnet": Evaluation((0.6, 0.7))})
    >>> print(table.to_markdown())
    | architecture | random real | distilled | gain |
    | --- | --- | --- | --- |
    | convnet | 65.0 ± 7.1 % | 85.0 ± 7.1 % | +20.0 points |
    """

    distilled: Mapping[str, Evaluation]
    random_real: Mapping[str, Evaluation] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.distilled or (self.random_real and list(self.random_real) != list(self.distilled)):
            raise InputError(
                f"evaluations of {list(self.distilled)} and of {list(self.random_real)}",
                "one architecture or more, and the same for random real images or none",
            )

    def to_markdown(self) -> str:
        """Return a table of mean and standard deviation of the test accuracies, a line per architecture."""
        if not self.random_real:
            lines = ["| architecture | distilled |", "| --- | --- |"]
            return "\n".join([*lines, *(f"| {name} | {row} |" for name, row in self.distilled.items())])
        lines = ["| architecture | random real | distilled | gain |", "| --- | --- | --- | --- |"]
        for name, row in self.distilled.items():
            real = self.random_real[name]
            lines.append(f"| {name} | {real} | {row} | {100 * (row.mean - real.mean):+.1f} points |")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the accuracy of every network as plain JSON values, by row and architecture."""
        rows = {DISTILLED: self.distilled, **({RANDOM_REAL: self.random_real} if self.random_real else {})}
        return {row: {name: list(each.accuracies) for name, each in table.items()} for row, table in rows.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save as JSON."""
        files.write_text(path, json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CrossTable:
        """Read a table that :meth:`save` wrote."""
        with reading(path, "the JSON that save writes", *STRUCTURE):
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            tables = [
                {name: tuple(map(float, each)) for name, each in dict(stored.get(row, {})).items()}
                for row in (DISTILLED, RANDOM_REAL)
            ]
        return cls(*({name: Evaluation(each) for name, each in table.items()} for table in tables))

    def save_picture(self, path: str | os.PathLike[str]) -> None:
        """Save a PNG bar chart of the mean accuracies, with their standard deviations as whiskers."""
        tables = (
            {RANDOM_REAL: self.random_real, DISTILLED: self.distilled} if self.random_real else {"": self.distilled}
        )
        colours = {RANDOM_REAL: figures.COLOURS[5], DISTILLED: figures.COLOURS[0], "": figures.COLOURS[0]}
        width = 0.8 / len(tables)
        with figures.figure_file(path, (1.6 + 1.1 * len(self.distilled), 3.2)) as figure:
            axis = figure.subplots()
            for number, (name, table) in enumerate(tables.items()):
                places = [at + (number - (len(tables) - 1) / 2) * width for at in range(len(table))]
                heights = [100 * row.mean for row in table.values()]
                whiskers = [100 * row.std for row in table.values()]
                axis.bar(places, heights, 0.92 * width, yerr=whiskers, color=colours[name], capsize=2, label=name)
            axis.set_xticks(range(len(self.distilled)), list(self.distilled))
            axis.set_ylabel("test accuracy, %")
            axis.grid(False, axis="x")
            axis.set_axisbelow(True)
            if len(tables) > 1:
                axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2)


def cross_architecture(
    training: DistilledSet,
    data: image_data.Source,
    config: EvaluateConfig | None = None,
    architectures: Sequence[Architecture] = ARCHITECTURES,
    out: str | os.PathLike[str] | None = None,
    *,
    random_real: bool = True,
) -> CrossTable:
    """Evaluate a set on networks of other architectures than it was distilled with.

    The parameters are those of :func:`compare`; the architecture of ``config`` is replaced, its width and depth are
    those of the ConvNet. DataDAM (arXiv 2310.00093) and ATOM (arXiv 2405.01373) have such tables.

    Examples
    --------
    >>> from attention_matching.images.select import k_centre
    >>> from sextet_common.data import load
    >>> digits = load("digits")
    >>> quick = EvaluateConfig(networks=1, epochs=1, width=8)
    >>> list(cross_architecture(k_centre(digits, 1), digits, quick, ["convnet", "alexnet"]).distilled)
    ['convnet', 'alexnet']
    """
    config, data = config or EvaluateConfig(), load_classes(data)
    if not architectures or len(set(architectures)) < len(architectures):
        raise InputError(f"architectures are {list(architectures)}", "one or more, each once")
    tables: dict[str, dict[str, Evaluation]] = {RANDOM_REAL: {}, DISTILLED: {}}
    for name in architectures:
        width, depth = (config.width, config.depth) if name == "convnet" else (None, None)
        chosen = dataclasses.replace(config, architecture=name, width=width, depth=depth)
        for row, result in compare(training, data, chosen, out, random_real=random_real).items():
            tables[row][name] = result
    return CrossTable(tables[DISTILLED], tables[RANDOM_REAL])


def _labeller(
    training: DistilledSet,
    data: ImageSet,
    config: EvaluateConfig,
    longer: EvaluateConfig,
    teacher_path: Path | None,
    temperature: float,
    views: int,
) -> tuple[Callable[[DistilledSet], DistilledSet] | None, str]:
    """Return what labels random real images as the set is labelled, and its description."""
    if config.labels == "hard":
        return None, ""
    if config.labels == "soft" and _learned(training):
        return partial(learned_labels_from, data=data, config=config), ", learned"
    teacher = train_teacher(data, longer, training.preprocessing, teacher_path)
    if config.labels == "soft":
        return partial(soft_labels_from, data=data, teacher=teacher, temperature=temperature), f", {temperature}"
    options: dict[str, Any] = {"teacher": teacher, "temperature": temperature, "views": views}
    if training.view_labels is not None:
        options["augment"] = training.view_labels.augment
    return partial(view_labels_from, data=data, config=config, **options), f", {temperature}, {views} views"


def _learned(training: DistilledSet) -> bool:
    """Tell whether a set's soft labels are learned, as its metadata records."""
    record = training.meta.get("soft_labels")
    return training.soft_labels is not None and isinstance(record, dict) and record.get("by") == "learning"


def _path(
    out: str | os.PathLike[str] | None, row: str, config: EvaluateConfig, content: str, suffix: str = ""
) -> Path | None:
    """Return the place of a row, which differs by the settings and by ``content``, the description of the images."""
    if out is None:
        return None
    digest = hashlib.sha256(f"{json.dumps(identity(config), sort_keys=True)}, {content}".encode())
    return Path(out) / f"{row.replace(' ', '-')}-{config.architecture}-{digest.hexdigest()[:8]}{suffix}"
