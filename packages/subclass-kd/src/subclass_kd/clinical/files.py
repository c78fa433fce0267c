"""Files of a clinical report: predictions as a table, all numbers as JSON, one self-contained page."""

from __future__ import annotations

import csv
import json
import os
import warnings
from pathlib import Path

import numpy as np
from sextet_common import files, text
from sextet_common.errors import DataWarning, InputError
from torch import nn

from subclass_kd.clinical.heatmaps import heat_maps
from subclass_kd.clinical.page import Example, page
from subclass_kd.clinical.report import ClinicalReport, Predictions
from subclass_kd.data import Part, SubclassSet

PAGE = "clinical.html"
TABLE = "predictions.csv"
NUMBERS = "clinical.json"
_EACH = 4  # images of each outcome on the page


def save_clinical(
    report: ClinicalReport, folder: str | os.PathLike[str], network: nn.Module, data: SubclassSet, *, title: str = ""
) -> Path:
    """Write clinical.html, predictions.csv and clinical.json into a folder, and return the page.

    ``network`` and ``data`` are those of the report. The page has heat maps if captum is installed (extra ``captum``)
    and the network is convolutional; otherwise it says why it has none.
    """
    folder = Path(folder)
    _write_table(report, data, folder / TABLE)
    files.write_text(folder / NUMBERS, json.dumps(report.as_dict(), indent=1) + "\n")
    examples, note = _examples(report, network, data)
    notes = [*data.notes, *([note] if note else [])]
    files.write_text(folder / PAGE, page(report, examples, title=title or data.source, notes=notes))
    return folder / PAGE


def _write_table(report: ClinicalReport, data: SubclassSet, path: Path) -> None:
    """Write one row for every validation and test image."""
    point, hierarchy = report.points[0], data.hierarchy
    head = ["path", "class", "subclass", "group", "split", "probability", "predicted"]
    head += ["probability of the second"] if report.against is not None else []
    with files.replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*head, *(text.csv_cell(f"P({name})") for name in hierarchy.subclass_names)])
        for split, part, predictions in (
            ("validation", data.validation, report.validation),
            ("test", data.test, report.test),
        ):
            classes = hierarchy.class_labels(part.labels)
            for row, probability in enumerate(predictions.probability.tolist()):
                subclass = int(predictions.subclasses[row])
                cells = [
                    _name(part, row),
                    hierarchy.class_names[classes[row]],
                    hierarchy.subclass_names[subclass] if subclass >= 0 else "",
                    "" if predictions.groups is None else str(predictions.groups[row]),
                    split,
                    probability,
                    report.positive if probability > point.threshold else report.negative,
                ]
                if report.against is not None:
                    cells.append(float(report.against.probability[row]) if split == "test" else "")
                cells += predictions.subclass_probabilities[row].tolist()
                writer.writerow([text.csv_cell(cell) for cell in cells])


def _name(part: Part, row: int) -> str:
    """Return the path of an image, or its number in the part."""
    return str(part.images[row]) if isinstance(part.images, tuple) else str(row)


def _examples(report: ClinicalReport, network: nn.Module, data: SubclassSet) -> tuple[list[Example], str]:
    """Return the most confident test images of each outcome, and why they have no heat maps if so."""
    rows_of = _outcomes(report.test, report.points[0].threshold)
    rows = np.concatenate(list(rows_of.values()))
    images = data.test.batch(rows)
    label = data.hierarchy.class_names.index(report.positive)
    maps, note = None, ""
    for_it = report.test.probability[rows] > report.points[0].threshold
    try:
        both = [heat_maps(network, images, data.hierarchy, label, opposed=opposed).numpy() for opposed in (True, False)]
        maps = np.where(for_it[:, None, None], both[1], both[0])
    except InputError as error:
        note = f"The page has no heat maps: {error}"
        warnings.warn(note, DataWarning, stacklevel=3)
    examples = []
    outcomes = [name for name, chosen in rows_of.items() for _ in chosen]
    for number, (row, outcome) in enumerate(zip(rows.tolist(), outcomes, strict=True)):
        subclass = int(report.test.subclasses[row])
        name = Path(_name(data.test, row)).name if isinstance(data.test.images, tuple) else f"image {row}"
        true = data.hierarchy.subclass_names[subclass] if subclass >= 0 else ""
        caption = f"{name}, {report.test.probability[row]:.3f}" + (f", {true}" if true else "")
        heat = None if maps is None else maps[number]
        examples.append(Example(outcome, caption, images[number].numpy(), heat))
    return examples, note


def _outcomes(test: Predictions, threshold: float) -> dict[str, np.ndarray]:
    """Return rows of the most confident right and wrong decisions."""
    decided = test.probability > threshold
    confident = np.argsort(-np.abs(test.probability - threshold), kind="stable")
    found = {
        "false negative": test.positive & ~decided,
        "false positive": ~test.positive & decided,
        "true positive": test.positive & decided,
        "true negative": ~test.positive & ~decided,
    }
    return {name: confident[mask[confident]][:_EACH] for name, mask in found.items()}
