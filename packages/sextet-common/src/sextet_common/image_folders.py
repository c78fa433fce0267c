"""Conventions of image folders: which files are a folder's training and test images, and what their labels are."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Integer

from sextet_common.errors import InputError, reading
from sextet_common.image_files import IMAGE_SUFFIXES

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "eval", "evaluation", "val", "valid", "validation", "dev")  # the first with labels is used
_SYSTEM = ("__macosx", "thumbs.db", "desktop.ini")  # and names that start with a dot
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_ANNOTATIONS = "val_annotations.txt"  # TinyImageNet
_FILE_COLUMNS = ("file_name", "image_file_name")
_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "fine_label")
_NOT_IMAGES, _LOOSE = "files that are not images", "images outside of class folders"


@dataclass(frozen=True)
class Listing:
    """Image files with class numbers; ``test`` is empty where the folder has no test set. ``notes`` are sentences."""

    train: tuple[str, ...]
    train_labels: Integer[np.ndarray, " train"]
    test: tuple[str, ...]
    test_labels: Integer[np.ndarray, " test"]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


_Items = list[tuple[str, str]]  # path and class name


def scan(path: str | os.PathLike[str]) -> Listing:
    """List the images of a folder in one of the usual conventions, without opening them.

    - ``train/CLASS/*`` with ``test``, ``val``, ``valid`` or ``validation`` (any letter case), or without a test set
    - ``CLASS/*``; folders inside a class count as the class, in torchvision's order
    - Hugging Face's imagefolder: ``metadata.csv`` or ``metadata.jsonl`` with the columns ``file_name`` and ``label``
      (and perhaps ``split``), in each of these folders or at the top
    - TinyImageNet as distributed

    What is ignored is counted in the notes.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("train/cat/1.png", "train/dog/2.png", "Test/cat/3.png", "Test/dog/Thumbs.db", "Test/dog/4.png"):
    ...     (folder / name).parent.mkdir(parents=True, exist_ok=True)
    ...     (folder / name).touch()
    >>> listing = scan(folder)
    >>> listing.classes, listing.test_labels.tolist()
    (('cat', 'dog'), [0, 1])
    """
    root = os.fspath(path)
    if not os.path.isdir(root):
        raise InputError(f"{root} is not a folder", "a folder with one folder of images per class")
    return _Scan(root).listing()


@dataclass
class _Scan:
    """One reading of a folder; ``ignored`` holds paths by reason, once each."""

    root: str
    ignored: dict[str, set[str]] = field(default_factory=dict)
    has_rows: bool = False  # labels come from a table, not from the names of folders

    def listing(self) -> Listing:
        folders, loose, others = self.entries(self.root)
        rows = self.rows(self.root, folders, others)
        splits: dict[str, _Items] = {}
        if rows is not None:
            for path, label, split in rows:
                splits.setdefault(split, []).append((path, label))
            if "train" not in splits:
                raise InputError(f"{self.root} has no training image in its metadata", "rows of the split train")
            training, *tests = ["train", *(name for name in _TEST if name in splits)]
        elif separate := self.splits(folders):
            training, *tests = separate
            self.ignore("folders beside those of training and test images", *set(folders).difference(separate))
            self.ignore(_LOOSE, *loose)
            self.ignore(_NOT_IMAGES, *others)
        else:
            training, tests = self.root, []
        train = splits.get(training) or self.part(training) or []
        by_number = self.has_rows and all(label.lstrip("-").isdecimal() for _, label in train)
        classes = sorted({label for _, label in train}, key=int if by_number else str)
        test: _Items = []
        for name in tests:
            items = [] if test else splits.get(name) or self.part(name, required=False)
            if not items:
                self.ignore("test sets without labels or after the first one", os.path.join(self.root, name))
                continue
            test, names = items, {label for _, label in items}
            wrong = sorted(names.difference(classes) if self.has_rows else names.symmetric_difference(classes))
            if wrong:
                raise InputError(f"class {wrong[0]!r} is not in both {training} and {name}", "the same classes")
        number = {name: number for number, name in enumerate(classes)}
        paths = [tuple(path for path, _ in items) for items in (train, test)]
        labels = [np.array([number[label] for _, label in items], dtype=np.int64) for items in (train, test)]
        return Listing(paths[0], labels[0], paths[1], labels[1], tuple(classes), tuple(self.notes()))

    def notes(self) -> Iterator[str]:
        for reason, paths in self.ignored.items():
            names = sorted(os.path.relpath(path, self.root) for path in paths)
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield f"{self.root}: {reason} are ignored ({len(names)}: {', '.join(map(repr, names[:3]))}{more})"

    def ignore(self, reason: str, *paths: str) -> None:
        if paths:
            self.ignored.setdefault(reason, set()).update(paths)

    def splits(self, folders: Sequence[str]) -> list[str] | None:
        """Return the training folder and the test folders, the preferred one first, or None if there is no split."""
        named: dict[str, str] = {}
        for folder in folders:
            other = named.setdefault(os.path.basename(folder).lower(), folder)
            if other != folder and os.path.basename(folder).lower() in (*_TRAIN, *_TEST):
                raise InputError(f"{other} and {folder} are one split in different letter case", "one of them")
        training, tests = ([named[name] for name in names if name in named] for names in (_TRAIN, _TEST))
        if not training and len(tests) == len(folders) > 0:
            raise InputError(f"{self.root} has no training folder beside {tests[0]}", "a folder named train")
        if len(training) > 1:
            raise InputError(f"{self.root} has two training folders", "train or training")
        if not training or (not tests and len(folders) > 1 and _Scan(training[0]).entries(training[0])[1]):
            return None  # such as classes of vehicles: bus, car, train
        return training + tests

    def part(self, folder: str, required: bool = True) -> _Items | None:
        """Return the labelled images of a folder of one split; None if there are no labels and none are required."""
        folders, loose, others = self.entries(folder)
        rows = self.rows(folder, folders, others, required)
        if rows is not None:
            return [(path, label) for path, label, _ in rows]
        if not required and [os.path.basename(name) for name in folders] in ([], ["images"]):
            return None
        self.ignore(_LOOSE, *loose)
        self.ignore(_NOT_IMAGES, *others)
        if not folders:
            raise InputError(f"{folder} has no class folders", "one folder of images per class")
        items = []
        for name in folders:
            images = self.images(name)
            if not images:
                raise InputError(f"{name} has no image", "at least one of " + ", ".join(IMAGE_SUFFIXES))
            items += [(image, os.path.basename(name)) for image in images]
        return items

    def entries(self, folder: str) -> tuple[list[str], list[str], list[str]]:
        """Return the paths of a folder's visible folders, images and other files in the order of their names."""
        sorted_out: tuple[list[str], list[str], list[str]] = ([], [], [])
        with reading(folder, "a folder that can be listed"), os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            link = entry.is_symlink()  # the entry's own tests raise for a loop of links
            if entry.name.startswith(".") or entry.name.lower() in _SYSTEM:
                self.ignore("hidden and system files", entry.path)
            elif os.path.isdir(entry.path) if link else entry.is_dir():
                sorted_out[0].append(entry.path)
            elif os.path.isfile(entry.path) if link else entry.is_file():
                is_image = entry.name.lower().endswith(IMAGE_SUFFIXES)
                sorted_out[1 if is_image else 2].append(entry.path)
            else:
                self.ignore("dangling links and special files", entry.path)
        return sorted_out

    def images(self, folder: str, used: str = "") -> list[str]:
        """Return the images of a folder and the folders in it, in the order of torchvision's ImageFolder."""
        seen, pending, images = set(), [folder], []
        while pending:
            current = pending.pop()
            status = os.stat(current)
            if (status.st_dev, status.st_ino) in seen:
                self.ignore("folders linked to twice", current)
                continue
            seen.add((status.st_dev, status.st_ino))
            folders, here, others = self.entries(current)
            pending += reversed(folders)
            images += here
            for path in others:
                if os.path.basename(path).lower() in _METADATA and path != used:
                    raise InputError(f"{path} is not at the top of the data", f"{current} as the data's path")
            self.ignore(_NOT_IMAGES, *(path for path in others if path != used))
        return sorted(images, key=os.path.split)

    def rows(
        self, folder: str, folders: Sequence[str], others: Sequence[str], required: bool = True
    ) -> list[tuple[str, str, str]] | None:
        """Return the path, class and split of every row of a folder's metadata; None without metadata or labels."""
        tables = [path for path in others if os.path.basename(path).lower() in (*_METADATA, _ANNOTATIONS)]
        if len(tables) > 1:
            raise InputError(f"{folder} has two metadata files", "one of " + ", ".join(_METADATA[:2]))
        if not tables:
            return None
        table = _table(tables[0])
        if not table:
            raise InputError(f"{tables[0]} has no rows", "one row per image")
        columns = {str(name).lower(): name for row in table for name in row}
        exact = [name for name in _FILE_COLUMNS if name in columns]
        paths = exact[:1] or [name for name in columns if name.endswith("_file_name")]
        labels = [name for name in _LABEL_COLUMNS if name in columns]
        if not labels and (len(folders) > 1 or not required):
            self.ignore("metadata files without a column of labels", tables[0])
            return None
        if not labels or len(paths) != 1:
            raise InputError(f"{tables[0]} has the columns {', '.join(map(repr, columns))}", "file_name and label")
        classes = _class_names([row.get(columns[labels[0]]) for row in table], tables[0])
        if not required and set(classes) <= {"", "-1"}:  # Hugging Face's values for hidden labels
            return None
        self.has_rows = True
        known, rows = dict.fromkeys(self.images(folder, tables[0])), {}
        for number, (row, label) in enumerate(zip(table, classes, strict=True), start=1):
            name, where = row.get(columns[paths[0]]), f"{tables[0]}, row {number}"
            parts = PurePosixPath(str(name).replace("\\", "/")).parts
            path = os.path.join(folder, *parts)
            if ".." in parts or path not in known:
                raise InputError(f"{where}: {name!r} is not an image in {folder}", "the relative path of an image file")
            if path in rows or not label:
                raise InputError(f"{where}: {name!r} has {'two rows' if path in rows else 'no label'}", "one label")
            top = str(row.get(columns.get("split", "split"), parts[0])).lower()
            if "split" in columns and top not in (*_TRAIN, *_TEST):
                raise InputError(f"{where}: the split is {top!r}", "one of " + ", ".join((*_TRAIN, *_TEST)))
            rows[path] = (path, label, top if top in _TEST else "train")
        self.ignore("images without a row in the metadata", *(path for path in known if path not in rows))
        return list(rows.values())


def _table(path: str) -> list[dict[str, object]]:
    """Read a metadata file as one dictionary per row."""
    if path.lower().endswith(".parquet"):
        accepted = "metadata.csv, metadata.jsonl, or the data set of load_dataset('imagefolder', data_dir=...)"
        raise InputError(f"{path} cannot be read", accepted)
    with reading(path, "a table with a header, or one JSON object per line"):
        text = Path(path).read_text(encoding="utf-8-sig")
        if os.path.basename(path).lower() == _ANNOTATIONS:
            lines = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
            return [{"file_name": f"images/{name}", "label": label} for name, label, *_ in lines]
        if path.lower().endswith(".csv"):
            return list(csv.DictReader(io.StringIO(text, newline="")))
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    for row in rows:
        if not isinstance(row, dict):
            raise InputError(f"{path} has the line {str(row)[:80]!r}", "one JSON object per line")
    return rows


def _class_names(labels: Sequence[object], path: str) -> list[str]:
    """Return labels as text; numbers without a fraction, such as 1 and 1.0, are one class."""
    for label in labels:
        if isinstance(label, (list, dict)):
            raise InputError(f"{path} has the label {str(label)[:80]}", "one number or name per image")
    names = ["" if label is None else str(label).strip() for label in labels]
    try:
        numbers = [float(name) for name in names if name]
    except ValueError:
        return names
    if not all(map(float.is_integer, numbers)):
        raise InputError(f"{path} has the labels {', '.join(names[:3])}", "class numbers or names")
    return [str(int(name) if name.lstrip("+-").isdecimal() else int(float(name))) if name else "" for name in names]
