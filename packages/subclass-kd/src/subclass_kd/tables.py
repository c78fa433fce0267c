"""One table for all data: image, class, subclass, group, split and weight of each image, as CSV."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sextet_common import files
from sextet_common.errors import InputError

from subclass_kd.csv_table import IMAGE, read_csv
from subclass_kd.data import Part, SubclassSet
from subclass_kd.hierarchy import UNLABELLED, Hierarchy
from subclass_kd.rows import Names, Row, names_of

Split = Literal["train", "validation", "test"]
_SPLITS: dict[str, str] = {
    "": "",
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_COLUMNS: dict[str, tuple[str, ...]] = {
    "image": IMAGE,
    "class": (),
    "subclass": (),
    "group": ("patient", "patient_id"),
    "split": ("partition",),
    "weight": (),
}


def read_table(path: str | os.PathLike[str], *, needed: Sequence[str] = ("image",)) -> list[Row]:
    """Read a table with one row per image; an image is a path relative to the table, or a number of a row.

    Columns: image (or path, file_name, ...), and optionally class, subclass, group (or patient), split (train,
    validation or test) and weight. Empty classes and subclasses are unknown.
    """
    file = Path(path).expanduser()
    rows: list[Row] = []
    known: dict[tuple[str, str], int] = {}
    for number, values in read_csv(file, _COLUMNS, needed):
        where = f"{file}, line {number}"
        image, split = values["image"], values["split"].lower()
        if not image:
            raise InputError(f"{where} names no image", "a path or a number")
        if split not in _SPLITS:
            raise InputError(f"{where}: the split is {values['split']!r}", "train, validation or test")
        if values["subclass"] and not values["class"] and "class" in needed:
            raise InputError(f"{where}: subclass {values['subclass']!r} without its class", "a class")
        split = _SPLITS[split]
        key = (image, split if image.isdecimal() else "")
        if key in known:
            raise InputError(f"{where}: image {image!r} is in line {known[key]} too", "every image once")
        known[key] = number
        labels = values["class"], values["subclass"], values["group"]
        rows.append(Row(file.parent / image, where, *labels, split, _weight(values["weight"], where)))
    if not rows:
        raise InputError(f"{file} has no rows", "one row per image")
    return rows


def image_rows(path: str | os.PathLike[str], *, needed: Sequence[str] = ("image",)) -> list[Row]:
    """Read a table whose images are files, which must exist."""
    rows = read_table(path, needed=needed)
    splits = {row.split for row in rows}
    for row in rows:
        if not row.path.is_file():
            numbered = (
                "; a table of numbered images goes with its data, as subclasses" if row.path.name.isdecimal() else ""
            )
            raise InputError(f"{row.where}: {row.path} is no file", f"an image file{numbered}")
        if not row.split and len(splits) > 1 and (row.class_ or row.subclass):
            raise InputError(f"{row.where} has no split", "train, validation or test in every row, or in none")
        if row.split in ("validation", "test") and not (row.class_ or row.subclass):
            raise InputError(f"{row.where}: a {row.split} image without a class", "at least its class")
    return rows


def save_table(
    data: SubclassSet, path: str | os.PathLike[str], parts: Sequence[Split] = ("train", "validation", "test")
) -> None:
    """Write a set as a table with the columns image, class, subclass, group, split and weight.

    An image is a path relative to the table, or the number of the row in its part where images are no files. With
    files, ``load("table:...")`` reads the set again; without, ``load(data, subclasses=...)`` reads the subclasses.

    Examples
    --------
    >>> import tempfile
    >>> images, labels = np.zeros((40, 1, 4, 4)), np.arange(40) % 4
    >>> data = SubclassSet.of((images, labels), (images, labels), Hierarchy.from_dict({"HP": 2, "SSA": 2}))
    >>> file = Path(tempfile.mkdtemp()) / "table.csv"
    >>> save_table(data.scarce(0.2, rest="class"), file)
    >>> file.read_text().splitlines()[:2]
    ['image,class,subclass,group,split,weight', '0,HP,,,train,1']
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for split in parts:
        part: Part = getattr(data, split)
        classes = data.hierarchy.class_labels(part.labels).tolist()
        for row, (label, class_) in enumerate(zip(part.labels.tolist(), classes, strict=True)):
            image = os.path.relpath(part.images[row], Path(path).parent) if isinstance(part.images, tuple) else row
            names = (
                "" if class_ == UNLABELLED else data.hierarchy.class_names[class_],
                "" if label < 0 else data.hierarchy.subclass_names[label],
                "" if part.groups is None else part.groups[row],
            )
            table.writerow([image, *names, split, f"{1 if part.weights is None else part.weights[row]:.17g}"])
    files.write_text(path, text.getvalue())


def with_subclasses_of(data: SubclassSet, path: str | os.PathLike[str]) -> SubclassSet:
    """Return a set with the subclasses of a table, such as discover writes, within the same classes.

    Images that the table does not name keep their class only.
    """
    rows, classes = read_table(path, needed=("image", "class", "subclass")), data.hierarchy.class_names
    found = names_of(rows, str(path), [], natural)
    if sorted(found.hierarchy.class_names) != sorted(classes):
        raise InputError(f"{path} has the classes {', '.join(found.hierarchy.class_names)}", ", ".join(classes))
    class_of = [classes.index(found.hierarchy.class_names[label]) for label in found.hierarchy.class_of]
    named = Names(Hierarchy(np.array(class_of), found.hierarchy.subclass_names, classes), found.labels)
    parts: dict[str, Any] = {}
    unused = {row.where: row for row in rows}
    for split in ("train", "validation", "test"):
        part: Part = getattr(data, split)
        known = data.hierarchy.class_labels(part.labels)
        labels = -2 - known  # -1 for -1
        for row, at in _matched(rows, part, split):
            unused.pop(row.where, None)
            label = named.label(row, strict=True)
            class_ = int(named.hierarchy.class_labels(np.array(label)))
            if known[at] not in (UNLABELLED, class_):
                name = classes[known[at]]
                raise InputError(f"{row.where}: class {row.class_!r} of an image of class {name!r}", repr(name))
            labels[at] = label
        parts[split] = replace(part, labels=labels)
    if unused:
        row = next(iter(unused.values()))
        raise InputError(f"{row.where}: the data have no image {row.path.name!r}", "a table of these data")
    return replace(data, hierarchy=named.hierarchy, source=f"{data.source}, subclasses of {path}", **parts)


def natural(name: str) -> Any:
    """Return a key by which numbers are sorted as numbers, before other names."""
    return not name.isdecimal(), int(name) if name.isdecimal() else 0, name


def _matched(rows: Sequence[Row], part: Part, split: str) -> list[tuple[Row, int]]:
    """Return the rows of a table that are images of a part, with their row numbers there."""
    if isinstance(part.images, tuple):
        place = {os.path.realpath(image): at for at, image in enumerate(part.images)}
        found = ((row, place.get(os.path.realpath(row.path))) for row in rows)
        return [(row, at) for row, at in found if at is not None]
    numbered = [row for row in rows if row.path.name.isdecimal() and (row.split or "train") == split]
    return [(row, int(row.path.name)) for row in numbered if int(row.path.name) < len(part)]


def _weight(value: str, where: str) -> float:
    try:
        weight = float(value or 1)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise InputError(f"{where}: the weight is {value!r}", "a number >= 0")
    return weight
