"""Conventions of image folders: which files are a folder's training and test images, and what their labels are."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Integer

from sextet_common.errors import InputError, reading
from sextet_common.image_files import IMAGE_SUFFIXES, some

_TEST = ("test", "val", "valid", "validation")  # the first with labels is used
_SYSTEM = ("__macosx", "thumbs.db", "desktop.ini")  # and names that start with a dot
_ANNOTATIONS = "val_annotations.txt"  # TinyImageNet
_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet", _ANNOTATIONS)
_LABELS = ("label", "labels", "class", "class_name", "category", "target", "fine_label")
_USED = ("folders", "images", "tables")  # kinds of paths; those of any other kind are ignored


@dataclass(frozen=True)
class Listing:
    """Image files with class numbers; ``test`` is empty where the folder has no test set. ``notes`` are sentences."""

    train: tuple[str, ...]
    train_labels: Integer[np.ndarray, " train"]
    test: tuple[str, ...]
    test_labels: Integer[np.ndarray, " test"]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def scan(path: str | os.PathLike[str]) -> Listing:
    """List the images of a folder in one of the usual conventions, without opening them.

    - ``train/CLASS/*`` with ``test``, ``val``, ``valid`` or ``validation`` (any letter case), or without a test set
    - ``CLASS/*``; folders inside a class count as the class, in torchvision's order
    - Hugging Face's imagefolder: ``metadata.csv`` or ``metadata.jsonl`` with the columns ``file_name`` and ``label``,
      in each of these folders or at the top
    - TinyImageNet as distributed

    What is ignored is counted in the notes.
    """
    root = str(Path(path))
    if not os.path.isdir(root):
        raise InputError(f"{root} is not a folder", "a folder with one folder of images per class")
    found = _Scan(root)
    train = found.labels_of(found.training)
    if not train:
        raise InputError(f"{found.training} has no class folders", "one folder of images per class")
    classes = set(train.values())
    test = found.test_labels(classes)
    # Class numbers in a table are sorted as numbers, names of folders as torchvision sorts them.
    numeric = found.rows.keys() >= train.keys() and all(map(str.isdecimal, classes))
    width = max(map(len, classes)) if numeric else 0
    number = {name: at for at, name in enumerate(sorted(classes, key=lambda name: (name.zfill(width), name)))}
    labels = [np.array([number[name] for name in part.values()], dtype=np.int64) for part in (train, test)]
    unused = [image for image in found.paths["images"] if image not in train and image not in test]
    found.paths["images without a label or outside of the training and test sets"] = unused
    notes = notes_about(root, found.paths)
    return Listing(tuple(train), labels[0], tuple(test), labels[1], tuple(number), notes)


def walk(root: str) -> defaultdict[str, list[str]]:
    """Return all paths below a folder by their kind: folders, images, tables, and the kinds that are ignored."""
    paths: defaultdict[str, list[str]] = defaultdict(list)
    seen = {os.path.realpath(root)}
    with reading(root, "a folder that can be listed"):
        for folder, folders, files in os.walk(root, onerror=_raise, followlinks=True):
            kinds = {name: _kind(os.path.join(folder, name), seen) for name in sorted(folders + files)}
            folders[:] = [name for name, kind in kinds.items() if kind == "folders"]  # to walk through
            for name, kind in kinds.items():
                paths[kind].append(os.path.join(folder, name))
    return paths


def notes_about(root: str, paths: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return a sentence about every kind of paths that are ignored, with their number and some names."""
    ignored = {kind: found for kind, found in paths.items() if found and kind not in _USED}
    top = os.path.join(root, "")
    return tuple(f"{root}: {kind} are ignored ({some(found, top)})" for kind, found in ignored.items())


class _Scan:
    """What is below a folder: its ``paths`` by kind, and the labels of images (``rows``) in tables."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.paths = walk(root)
        self.rows: dict[str, str] = {}
        self.training, self.tests = self._parts()
        for table in self.paths["tables"]:
            self._read(table)

    def folders_in(self, folder: str) -> list[str]:
        return [path for path in self.paths["folders"] if os.path.dirname(path) == folder]

    def _parts(self) -> tuple[str, list[str]]:
        """Return the folder of training images, and those of test images in the order of preference."""
        top = {os.path.basename(folder).lower(): folder for folder in self.folders_in(self.root)}
        tests = [top[name] for name in _TEST if name in top]
        if "train" not in top:
            if tests:
                raise InputError(f"{self.root} has no training folder beside {tests[0]}", "a folder named train")
            return self.root, []
        if not tests and len(top) > 1 and top["train"] in map(os.path.dirname, self.paths["images"]):
            return self.root, []  # train is a class, beside bus and car
        return top["train"], tests

    def _read(self, table: str) -> None:
        """Read the labels in a table."""
        folder = os.path.dirname(table)
        if folder not in (self.root, self.training, *self.tests):
            raise InputError(f"{table} is not at the top of the data", f"{folder} as the data's path")
        rows = _rows(table)
        columns = list(rows[0]) if rows else []
        column = next((name for name in _LABELS if name in columns), None)
        if rows and column is None and (len(self.folders_in(folder)) > 1 or folder in self.tests):
            self.paths["metadata files without a column of labels"].append(table)
            return
        if column is None or "file_name" not in columns or "split" in columns:
            names = ", ".join(map(repr, columns)) or "no rows"
            raise InputError(f"{table} has {names}", "columns file_name and label, in folders train and test")
        images = set(self.paths["images"])
        for number, row in enumerate(rows, start=1):
            name, label = row.get("file_name"), row.get(column)
            path = os.path.join(folder, *PurePosixPath(str(name)).parts)
            where = f"{table}, row {number}: {name!r}"
            if path not in images:
                raise InputError(f"{where} is not an image in {folder}", "the relative path of an image file")
            if path in self.rows:
                raise InputError(f"{where} has two rows", "one label")
            if not isinstance(label, str | int) or not str(label).strip():
                raise InputError(f"{where} has the label {label!r}", "a class number or name")
            self.rows[path] = str(label).strip()

    def labels_of(self, part: str) -> dict[str, str]:
        """Return the images of a part with their classes: those in tables, or else those in the part's folders."""
        top = os.path.join(part, "")
        rows = {image: label for image, label in self.rows.items() if image.startswith(top)}
        if rows:
            return rows
        below = [image for image in self.paths["images"] if image.startswith(top) and os.path.dirname(image) != part]
        named = {image: image.removeprefix(top).split(os.sep)[0] for image in below}
        empty = set(self.folders_in(part)).difference(os.path.join(part, name) for name in named.values())
        if empty:
            raise InputError(f"{min(empty)} has no image", "at least one of " + ", ".join(IMAGE_SUFFIXES))
        return dict(sorted(named.items(), key=lambda item: (item[1], os.path.split(item[0]))))

    def test_labels(self, classes: set[str]) -> dict[str, str]:
        """Return the images of the first test folder that has labels."""
        hidden = {"images", "-1"} - classes  # of TinyImageNet and of Hugging Face
        for folder in self.tests:
            test = self.labels_of(folder)
            names = set(test.values())
            if names <= hidden:
                continue
            wrong = names - classes or (classes - names if self.rows.keys().isdisjoint(test) else set())
            if wrong:
                parts = f"{self.training} and {folder}"
                raise InputError(f"class {min(wrong)!r} is not in both {parts}", "the same classes")
            return test
        return {}


def _kind(path: str, seen: set[str]) -> str:
    """Return the kind of a path; ``seen`` has the folders on the way, where links lead to."""
    name = os.path.basename(path).lower()
    if name.startswith(".") or name in _SYSTEM:
        return "hidden and system files"
    if os.path.isdir(path):
        target = os.path.realpath(path)
        if target in seen:
            return "folders linked to twice"
        seen.add(target)
        return "folders"
    if not os.path.isfile(path):
        return "dangling links and special files"
    if name in _TABLES:
        return "tables"
    return "images" if name.endswith(IMAGE_SUFFIXES) else "files that are not images"


def _rows(table: str) -> list[dict[str, object]]:
    """Read a table as one dictionary per row."""
    with reading(table, "metadata.csv with a header, or metadata.jsonl with one JSON object per line"):
        text = Path(table).read_text(encoding="utf-8-sig")
        if os.path.basename(table).lower() == _ANNOTATIONS:
            lines = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
            return [{"file_name": f"images/{name}", "label": label} for name, label, *_ in lines]
        if table.lower().endswith(".csv"):
            return list(csv.DictReader(io.StringIO(text, newline="")))
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("a line is not a JSON object")
        return rows


def _raise(error: OSError) -> None:
    raise error
