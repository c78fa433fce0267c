"""Data sets by name: digits, CIFAR-10 as animals and vehicles, folders of images, MHIST."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sextet_common import data as image_data
from sextet_common.checks import Count, check
from sextet_common.errors import InputError, reading

from subclass_kd.data import Part, SubclassSet, hold_out
from subclass_kd.hierarchy import Hierarchy
from subclass_kd.votes import Scheme, subclasses_from_votes, votes_from_counts

_ACCEPTED = (
    "digits, digits:parity, digits:half, npz-jpeg:PREFIX or cifar10:PATH (animals and vehicles), "
    "folder:PATH (class/subclass/image), mhist:PATH"
)
_ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}
_TEST_SHARE = 0.2
_MHIST_COLUMNS = ("Image Name", "Majority Vote Label", "Number of Annotators who Selected SSA (Out of 7)", "Partition")
_MHIST_VOTES = tuple("01234567")


def load(spec: str, *, size: int | None = None, scheme: Scheme = "clear-ambiguous") -> SubclassSet:
    """Load images with subclass labels.

    Parameters
    ----------
    spec
        - ``digits`` or ``digits:parity``: scikit-learn's digits, even or odd; ``digits:half``: below five or not. The
          ten digits are the subclasses.
        - ``npz-jpeg:PREFIX``, ``cifar10:PATH``: CIFAR-10 as animals (six subclasses) and vehicles (four).
        - ``folder:PATH``: PATH/train and PATH/test, or PATH alone, with folders class/subclass/image.
        - ``mhist:PATH``: the user's copy of MHIST, with images/ and annotations.csv.
    size
        Height and width of images on disk, in pixels; 224 by default.
    scheme
        How MHIST's votes become subclasses: see `subclasses_from_votes`.

    Examples
    --------
    >>> digits = load("digits")
    >>> digits.hierarchy.as_dict()
    {'even': ['0', '2', '4', '6', '8'], 'odd': ['1', '3', '5', '7', '9']}
    """
    check("size", size, Count | None)
    kind, _, rest = spec.partition(":")
    if kind == "digits" and rest in ("", "parity", "half"):
        return _digits(rest or "parity", spec)
    readers: dict[str, Callable[[], SubclassSet]] = {
        "npz-jpeg": lambda: _cifar(spec),
        "cifar10": lambda: _cifar(spec),
        "folder": lambda: _folder(Path(rest).expanduser(), size or 224, spec),
        "mhist": lambda: _mhist(Path(rest).expanduser(), size or 224, spec, scheme),
    }
    if kind in readers and rest:
        return readers[kind]()
    close = difflib.get_close_matches(kind, ["digits", *readers], n=1)
    raise InputError(f"unknown data {spec!r}", (f"{close[0]}, perhaps; " if close else "") + _ACCEPTED)


def _digits(task: str, source: str) -> SubclassSet:
    numbers = np.arange(10)
    class_of, class_names = (
        (numbers % 2, ("even", "odd"))
        if task == "parity"
        else ((numbers >= 5).astype(np.int64), ("below five", "five or more"))
    )
    return _in_memory(image_data.load("digits"), Hierarchy(class_of, tuple(map(str, numbers)), class_names), source)


def _cifar(source: str) -> SubclassSet:
    images = image_data.load(source)
    if not set(_ANIMALS) < set(images.classes) or len(images.classes) != 10:
        given = f"{source} has the classes {', '.join(images.classes)}"
        raise InputError(given, f"those of CIFAR-10, {', '.join(_ANIMALS)} ...")
    class_of = np.array([int(name not in _ANIMALS) for name in images.classes])
    return _in_memory(images, Hierarchy(class_of, images.classes, ("animal", "vehicle")), source)


def _in_memory(images: image_data.ImageSet, hierarchy: Hierarchy, source: str) -> SubclassSet:
    train, test = (images.train_images, images.train_labels), (images.test_images, images.test_labels)
    return SubclassSet.of(train, test, hierarchy, source=source)


def _folder(root: Path, size: int, source: str) -> SubclassSet:
    split = (root / "train").is_dir() and (root / "test").is_dir()
    hierarchy = Hierarchy.from_folder(root / "train" if split else root)
    if split:
        train, test = (_folder_part(root / name, hierarchy, size) for name in ("train", "test"))
    else:
        whole = _folder_part(root, hierarchy, size)
        train, test = (whole.rows(rows) for rows in hold_out(whole.labels, _TEST_SHARE, source, "test"))
    return SubclassSet.with_held_out(train, test, hierarchy, (3, size, size), source)


def _folder_part(root: Path, hierarchy: Hierarchy, size: int) -> Part:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(hierarchy.subclass_names):
        folder = root / name
        if not folder.is_dir():
            raise InputError(f"{folder} is missing", "a folder for every subclass")
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
        if not files:
            raise InputError(f"{folder} has no image", "at least one")
        paths += files
        labels += [label] * len(files)
    return Part(tuple(paths), np.array(labels), None, size)


def _mhist(root: Path, size: int, source: str, scheme: Scheme) -> SubclassSet:
    table = root / "annotations.csv"
    with reading(table, "MHIST's folder: images/ and annotations.csv"):
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        present = {path.name for path in (root / "images").iterdir()}
    missing = [name for name in _MHIST_COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise InputError(f"{table} lacks the column {missing[0]!r} or has no rows", ", ".join(_MHIST_COLUMNS))
    paths, counts, partitions = [], [], []
    for number, row in enumerate(rows, start=2):
        name, majority, ssa, partition = (row[column] or "" for column in _MHIST_COLUMNS)
        path = root / "images" / name
        if name not in present or not path.is_file():
            raise InputError(f"{table}, line {number}: image {name!r} is missing", "a file in images/")
        if ssa not in _MHIST_VOTES or partition not in ("train", "test"):
            raise InputError(f"{table}, line {number}: {ssa!r} votes, partition {partition!r}", "0 to 7, train or test")
        if majority != ("SSA" if int(ssa) >= 4 else "HP"):
            raise InputError(f"{table}, line {number}: label {majority!r} with {ssa} votes for SSA", "the majority")
        paths.append(path)
        counts.append(int(ssa))
        partitions.append(partition)
    voted = subclasses_from_votes(votes_from_counts(np.array(counts), 7), scheme, class_names=("HP", "SSA"))
    whole = Part(tuple(paths), voted.subclass_labels, voted.difficulty, size)
    train, test = (whole.rows(np.flatnonzero(np.array(partitions) == part)) for part in ("train", "test"))
    if not len(train) or not len(test):
        raise InputError(f"{table} has no row of one partition", "rows of both train and test")
    return SubclassSet.with_held_out(train, test, voted.hierarchy, (3, size, size), source)
