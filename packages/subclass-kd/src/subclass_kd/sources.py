"""Data sets by name or as objects: digits, CIFAR-10 as animals and vehicles, folders, MHIST, any data."""

from __future__ import annotations

import csv
import difflib
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from sextet_common import cache as image_cache, data as image_data
from sextet_common.checks import Count, check
from sextet_common.errors import DataWarning, InputError, reading

from subclass_kd import folders, given, tables
from subclass_kd.data import Part, SubclassSet, hold_out
from subclass_kd.hierarchy import Hierarchy
from subclass_kd.rows import labelled
from subclass_kd.votes import Scheme, subclasses_from_votes, votes_from_counts

Source: TypeAlias = image_data.Source | SubclassSet
"""Everything that `load` accepts."""

_ACCEPTED = (
    "digits, digits:parity, digits:half, npz-jpeg:PREFIX or cifar10:PATH (animals and vehicles), "
    "folder:PATH (class/subclass/image), table:FILE.csv, mhist:PATH; or any data of one level and a hierarchy"
)
_ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
_SIZE = 224  # pixels, of image files in two levels of folders
_TEST_SHARE = 0.2
_MHIST_COLUMNS = ("Image Name", "Majority Vote Label", "Number of Annotators who Selected SSA (Out of 7)", "Partition")
_MHIST_VOTES = tuple("01234567")


def load(
    source: Source,
    *,
    hierarchy: Hierarchy | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    subclasses: str | os.PathLike[str] | None = None,
    columns: tuple[str, str] | None = None,
    scheme: Scheme = "clear-ambiguous",
    size: int | None = None,
    channels: Literal[1, 3] | None = None,
    download: bool = False,
    cache: str | os.PathLike[str] | None = None,
    on_bad_image: Literal["refuse", "skip"] = "refuse",
) -> SubclassSet:
    """Load images with subclass labels.

    A source without test images gives a fixed fifth of every subclass to the test part. This, and what is ignored or
    skipped, is said by a `DataWarning` and kept in ``notes``. Bytes stay bytes: they become floats batch by batch.

    Parameters
    ----------
    source
        - ``digits`` or ``digits:parity``: scikit-learn's digits, even or odd; ``digits:half``: below five or not. The
          ten digits are the subclasses.
        - ``npz-jpeg:PREFIX``, ``cifar10:PATH``: CIFAR-10 as animals (six subclasses) and vehicles (four).
        - ``folder:PATH`` or a path: folders class/subclass/image in PATH/train, PATH/val and PATH/test, or in PATH
          alone; unlabelled images in PATH/unlabelled. Images directly in a class have no subclass.
        - ``table:FILE`` or a path that ends in .csv or .tsv: a table with the columns image, class, subclass and
          optionally group, split and weight; an empty class or subclass is unknown. `save_table` writes one.
        - ``mhist:PATH``: the user's copy of MHIST, with images/ and annotations.csv.
        - with a ``hierarchy``, everything that `sextet_common.data.load` takes; its classes are the subclasses
        - a torch ``Dataset`` of (image, class, subclass), arrays or tensors (images, classes, subclasses), a Hugging
          Face ``Dataset`` with two label columns, a pair or a mapping of these for training and test
    hierarchy
        The class of each subclass: a `Hierarchy`, a mapping, a JSON or a CSV file; see `Hierarchy.of`.
    subclasses
        A table of other subclasses of the images, such as the command discover writes. Images that it does not name
        keep their class only.
    columns
        Columns of classes and of subclasses in a Hugging Face dataset; by default its two ClassLabel columns, of which
        the one with more names has the subclasses.
    scheme
        How MHIST's votes become subclasses: see `subclasses_from_votes`.
    size
        Height and width of images on disk, in pixels; 224 by default for files in two levels of folders and MHIST.
    channels
        1 for gray images, 3 for colour; by default what the files have, and 3 in two levels of folders.
    download
        Let torchvision download what is missing.
    cache
        A folder for the decoded images of a folder. Later loads of the same files map them into memory. Without it
        files in two levels of folders are decoded anew for every batch.
    on_bad_image
        ``skip`` leaves out image files that cannot be read, and says which.

    Examples
    --------
    >>> digits = load("digits")
    >>> digits.hierarchy.as_dict()
    {'even': ['0', '2', '4', '6', '8'], 'odd': ['1', '3', '5', '7', '9']}
    >>> load("digits", hierarchy={"round": ["0", "6", "8", "9"], "other": list("123457")}).hierarchy.n_classes
    2
    """
    if subclasses is not None:
        data = load(
            source, hierarchy=hierarchy, columns=columns, scheme=scheme, size=size, channels=channels,
            download=download, cache=cache, on_bad_image=on_bad_image,
        )  # fmt: skip
        return tables.with_subclasses_of(data, subclasses)
    if isinstance(source, SubclassSet):
        return source
    check("size", size, Count | None)
    check("channels", channels, Literal[1, 3, None])
    check("on_bad_image", on_bad_image, Literal["refuse", "skip"])
    options = _Options(size, channels, download, None if cache is None else Path(cache).expanduser(), on_bad_image)
    is_named = isinstance(source, str | os.PathLike)
    tree = None if hierarchy is None else Hierarchy.of(hierarchy)
    table = _table_of(source)
    if table is not None:
        return _table(table, options, f"table:{table}", tree)
    if tree is not None:
        images = image_data.load(source, **options._asdict())
        return _in_memory(images, tree.ordered(images.classes), os.fspath(source) if is_named else images.source)  # type: ignore[arg-type]
    if not is_named:
        if columns is None and not given.has_both_labels(source):
            accepted = "a hierarchy beside it, or (image, class, subclass); columns of a Hugging Face dataset"
            raise InputError(f"the labels of {type(source).__name__} have one level", accepted)
        images, tree = given.load(source, columns, options._asdict())
        return _in_memory(images, tree, images.source)
    return _named(os.fspath(source), options, scheme)  # type: ignore[arg-type]


def _table_of(source: Source) -> Path | None:
    """Return the file of a source that is a table."""
    if not isinstance(source, str | os.PathLike):
        return None
    kind, _, rest = os.fspath(source).partition(":")
    is_table = kind == "table" and rest
    if not is_table and Path(source).suffix.lower() not in (".csv", ".tsv"):
        return None
    return Path(rest if is_table else source).expanduser()


class _Options(NamedTuple):
    """The options of `sextet_common.data.load`."""

    size: int | None
    channels: Literal[1, 3] | None
    download: bool
    cache: Path | None
    on_bad_image: Literal["refuse", "skip"]


def _named(spec: str, options: _Options, scheme: Scheme) -> SubclassSet:
    kind, _, rest = spec.partition(":")
    if kind == "digits" and rest in ("", "parity", "half"):
        return _digits(rest or "parity", spec)
    readers: dict[str, Callable[[], SubclassSet]] = {
        "npz-jpeg": lambda: _cifar(spec, options),
        "cifar10": lambda: _cifar(spec, options),
        "folder": lambda: _folder(Path(rest).expanduser(), options, spec),
        "mhist": lambda: _mhist(Path(rest).expanduser(), options, spec, scheme),
    }
    if kind in readers and rest:
        return readers[kind]()
    if spec and Path(spec).expanduser().is_dir():
        return _folder(Path(spec).expanduser(), options, f"folder:{spec}")
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


def _cifar(source: str, options: _Options) -> SubclassSet:
    images = image_data.load(source, **options._asdict())
    if not set(_ANIMALS) < set(images.classes) or len(images.classes) != 10:
        given = f"{source} has the classes {', '.join(images.classes)}"
        raise InputError(given, f"those of CIFAR-10, {', '.join(_ANIMALS)} ...")
    class_of = np.array([int(name not in _ANIMALS) for name in images.classes])
    return _in_memory(images, Hierarchy(class_of, images.classes, ("animal", "vehicle")), source)


def _in_memory(images: image_data.ImageSet, hierarchy: Hierarchy, source: str) -> SubclassSet:
    train, test = (images.train_images, images.train_labels), (images.test_images, images.test_labels)
    return SubclassSet.of(train, test, hierarchy, source=source, notes=images.notes)


def _folder(root: Path, options: _Options, source: str) -> SubclassSet:
    rows, notes = folders.scan(root)
    found = labelled(rows, source, size=options.size or _SIZE, channels=options.channels or 3)
    return _of_parts(found.parts, found.hierarchy, options, source, root, (*notes, *found.notes))


def _table(path: Path, options: _Options, source: str, hierarchy: Hierarchy | None) -> SubclassSet:
    needed = ("image", "class") if hierarchy is None else ("image", "subclass")
    rows = tables.image_rows(path, needed=needed)
    found = labelled(
        rows, source, size=options.size or _SIZE, channels=options.channels or 3, hierarchy=hierarchy,
        order=tables.natural,
    )  # fmt: skip
    return _of_parts(found.parts, found.hierarchy, options, source, path.parent, found.notes)


def _of_parts(
    parts: dict[str, Part], tree: Hierarchy, options: _Options, source: str, root: Path, notes: tuple[str, ...]
) -> SubclassSet:
    """Build a set of image files; without test images a share of the labelled training images is held out."""
    if "test" not in parts:
        train = parts["train"]
        kept, held = hold_out(train.labels, _TEST_SHARE, source, "test", train.groups)
        share = f"{len(held)} of {int(train.is_labelled.sum())} images, a fifth of every subclass"
        notes = (*notes, f"{source} has no test images: {share}, are held out")
        parts = parts | {"train": train.rows(kept), "test": train.rows(held)}
    return _of_files(parts, tree, options, source, root, notes)


def _of_files(
    parts: dict[str, Part],
    hierarchy: Hierarchy,
    options: _Options,
    source: str,
    root: Path,
    notes: tuple[str, ...] = (),
) -> SubclassSet:
    """Build a set of image files, which are decoded at once for a cache or to skip what cannot be read."""
    if options.cache is not None or options.on_bad_image == "skip":
        parts, more = _decoded(parts, options, root)
        notes += more
    for note in notes:
        warnings.warn(note, DataWarning, stacklevel=2)
    train, test, validation = parts["train"], parts["test"], parts.get("validation")
    shape = train.channels, train.size, train.size
    return SubclassSet.with_held_out(train, test, hierarchy, shape, source, notes, validation=validation)


def _decoded(parts: dict[str, Part], options: _Options, root: Path) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Return parts with their files decoded, in memory or mapped from the cache, and notes about the files."""
    order = ["train", *sorted(parts.keys() - {"train"})]
    paths = [str(path) for name in order for path in parts[name].images]
    train = parts["train"]
    # The numbers of the files stand for the labels: they tell which files were skipped.
    decoded = image_cache.decoded(
        paths, np.arange(len(paths)), len(train), root=root, folder=options.cache,
        size=train.size, channels=train.channels, on_bad_image=options.on_bad_image,
    )  # fmt: skip
    found, first = {}, 0
    for name in order:
        images, numbers = decoded.train if name == "train" else decoded.test
        at = np.flatnonzero((numbers >= first) & (numbers < first + len(parts[name])))
        chosen = parts[name].rows(numbers[at] - first)
        found[name] = replace(chosen, images=images[at[0] : at[-1] + 1] if at.size else images[:0])
        first += len(parts[name])
    return found, decoded.notes


def _mhist(root: Path, options: _Options, source: str, scheme: Scheme) -> SubclassSet:
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
    shape = options.size or _SIZE, options.channels or 3
    whole = Part(tuple(paths), voted.subclass_labels, voted.difficulty, *shape)
    train, test = (whole.rows(np.flatnonzero(np.array(partitions) == part)) for part in ("train", "test"))
    if not len(train) or not len(test):
        raise InputError(f"{table} has no row of one partition", "rows of both train and test")
    return _of_files({"train": train, "test": test}, voted.hierarchy, options, source, root)
