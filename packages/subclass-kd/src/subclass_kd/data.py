"""Images with subclass labels, split in three: digits, CIFAR-10 as animals and vehicles, folders, MHIST."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from sextet_common import data as image_data
from sextet_common.errors import InputError, reading
from sextet_common.seeding import generator
from torch import Tensor

from subclass_kd.hierarchy import Hierarchy
from subclass_kd.votes import Scheme, subclasses_from_votes, votes_from_counts

ACCEPTED = (
    "digits, digits:parity, digits:half, npz-jpeg:PREFIX or cifar10:PATH (animals and vehicles), "
    "folder:PATH (class/subclass/image), mhist:PATH"
)
ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
_HELD_OUT = 0.15
_DECODERS = 4
_MHIST = ("Image Name", "Majority Vote Label", "Number of Annotators who Selected SSA (Out of 7)", "Partition")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}


@dataclass(frozen=True)
class Part:
    """Images, in memory or on disk, and their subclasses.

    Parameters
    ----------
    images
        Float32 in [0, 1], shape (n, channels, height, width), or the files' paths.
    labels
        Subclasses, int64, shape (n,).
    difficulty
        How hard each image is, for a curriculum; None where nobody knows.
    size
        Height and width that files are scaled and cropped to, in pixels.
    """

    images: Float[np.ndarray, "n channels height width"] | tuple[Path, ...]
    labels: Int[np.ndarray, " n"]
    difficulty: Float[np.ndarray, " n"] | None = None
    size: int = 224

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self, rows: Integer[np.ndarray, " batch"] | Sequence[int]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return some images."""
        if isinstance(self.images, np.ndarray):
            return torch.from_numpy(self.images[np.asarray(rows, dtype=np.int64)])
        chosen = [self.images[int(row)] for row in rows]
        with ThreadPoolExecutor(_DECODERS) as pool:
            return torch.from_numpy(np.stack(list(pool.map(lambda path: _decode(path, self.size), chosen))))

    def rows(self, chosen: Integer[np.ndarray, " chosen"]) -> Part:
        """Return some rows as a part of their own."""
        images = self.images[chosen] if isinstance(self.images, np.ndarray) else tuple(self.images[r] for r in chosen)
        difficulty = None if self.difficulty is None else self.difficulty[chosen]
        return Part(images, self.labels[chosen], difficulty, self.size)


@dataclass(frozen=True)
class SubclassSet:
    """Images with subclass labels.

    Parameters
    ----------
    train, validation, test
        To learn from, to stop by, and to measure with.
    hierarchy
        The subclasses' classes.
    input_shape
        (channels, height, width).
    source
        Where the data come from.
    """

    train: Part
    validation: Part
    test: Part
    hierarchy: Hierarchy
    input_shape: tuple[int, int, int]
    source: str

    @classmethod
    def of(
        cls,
        train: tuple[np.ndarray, np.ndarray],
        test: tuple[np.ndarray, np.ndarray],
        hierarchy: Hierarchy,
        *,
        difficulty: np.ndarray | None = None,
        source: str = "the given arrays",
    ) -> SubclassSet:
        """Build a set from arrays; a fixed share of the training rows of each subclass is held out for validation.

        Parameters
        ----------
        train, test
            Images (n, channels, height, width) in [0, 1] and subclass labels (n,).
        hierarchy
            The subclasses' classes.
        difficulty
            Of the training images, shape (n,).
        source
            What to call the data.

        Returns
        -------
        SubclassSet
            The set.

        Raises
        ------
        InputError
            Where shapes do not fit, values leave [0, 1], a label is out of range, or a subclass has no training image.
        """
        parts = []
        for name, (images, labels) in (("train", train), ("test", test)):
            x, y = np.asarray(images, dtype=np.float32), np.asarray(labels)
            if x.ndim != 4 or y.shape != x.shape[:1] or not len(y):
                raise InputError(f"{source}, {name}: images {x.shape}, labels {y.shape}", "(n, c, h, w) and (n,)")
            if not (x.min() >= 0 and x.max() <= 1):
                raise InputError(f"{source}, {name}: values from {x.min():g} to {x.max():g}", "values in [0, 1]")
            parts.append(Part(x, hierarchy.check_labels(y).astype(np.int64)))
        if difficulty is not None:
            if np.shape(difficulty) != parts[0].labels.shape:
                raise InputError(f"difficulty has shape {np.shape(difficulty)}", f"{parts[0].labels.shape}")
            parts[0] = replace(parts[0], difficulty=np.asarray(difficulty, dtype=np.float64))
        shape = np.asarray(train[0]).shape[1:]
        return _held_out(parts[0], parts[1], hierarchy, (shape[0], shape[1], shape[2]), source)

    def scarce(self, share: float, seed: int = 0) -> SubclassSet:
        """Return the set with a share of its training labels, the same share of each subclass, one image at least.

        Parameters
        ----------
        share
            In (0, 1].
        seed
            Of the choice.

        Returns
        -------
        SubclassSet
            With fewer training rows; validation and test are kept.

        Raises
        ------
        InputError
            Where the share is outside (0, 1].
        """
        if not 0 < share <= 1:
            raise InputError(f"the share of labels is {share}", "a number in (0, 1]")
        chosen = []
        for label in range(self.hierarchy.n_subclasses):
            rows = np.flatnonzero(self.train.labels == label)
            mixed = generator(seed, "scarce", label).permutation(rows)
            chosen.append(mixed[: max(1, round(share * len(rows)))])
        kept = np.sort(np.concatenate(chosen))
        return replace(self, train=self.train.rows(kept), source=f"{self.source}, {share:g} of the labels, seed {seed}")

    def with_subclasses(self, train: np.ndarray, validation: np.ndarray, hierarchy: Hierarchy) -> SubclassSet:
        """Return the set with other subclasses of the same classes, such as discovered ones.

        The test part's become each class's first: of them only the class counts.

        Parameters
        ----------
        train, validation
            Subclass labels, shape (n,).
        hierarchy
            Their classes, which must be the same.

        Returns
        -------
        SubclassSet
            The set.

        Raises
        ------
        InputError
            Where classes differ.
        """
        if hierarchy.class_names != self.hierarchy.class_names:
            raise InputError(f"classes {hierarchy.class_names}", f"{self.hierarchy.class_names}")
        for part, labels in ((self.train, train), (self.validation, validation)):
            old = self.hierarchy.class_labels(part.labels)
            if not np.array_equal(hierarchy.class_labels(labels), old):
                raise InputError("a subclass of another class than the image's", "subclasses within the classes")
        first = np.array([int(np.flatnonzero(hierarchy.class_of == c)[0]) for c in range(hierarchy.n_classes)])
        test = replace(self.test, labels=first[self.hierarchy.class_labels(self.test.labels)])
        return replace(
            self,
            train=replace(self.train, labels=np.asarray(train, dtype=np.int64)),
            validation=replace(self.validation, labels=np.asarray(validation, dtype=np.int64)),
            test=test,
            hierarchy=hierarchy,
        )


def load(spec: str, *, size: int | None = None, scheme: Scheme = "clear-ambiguous") -> SubclassSet:
    """Load images with subclass labels.

    Parameters
    ----------
    spec
        - ``digits`` or ``digits:parity``: scikit-learn's digits, even or odd; ``digits:half``: below five or not. The
          ten digits are the subclasses.
        - ``npz-jpeg:PREFIX``, ``cifar10:PATH``: CIFAR-10 as animals (six subclasses) and vehicles (four).
        - ``folder:PATH``: PATH/train and PATH/test, or PATH alone, with folders class/subclass/image.
        - ``mhist:PATH``: the user's MHIST folder, images/ and annotations.csv.
    size
        Height and width of images on disk, in pixels: 224 where not given.
    scheme
        How MHIST's votes become subclasses: see `subclasses_from_votes`.

    Returns
    -------
    SubclassSet
        The data.

    Raises
    ------
    InputError
        Where the source is unknown, missing or broken.

    Examples
    --------
    >>> digits = load("digits")
    >>> digits.hierarchy.as_dict()
    {'even': ['0', '2', '4', '6', '8'], 'odd': ['1', '3', '5', '7', '9']}
    """
    if size is not None and size < 1:
        raise InputError(f"size is {size}", "a whole number of pixels >= 1")
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
    near = difflib.get_close_matches(kind, ["digits", *readers], n=1)
    raise InputError(f"data {spec!r} is unknown", (f"{near[0]}, perhaps; " if near else "") + ACCEPTED)


def _digits(task: str, source: str) -> SubclassSet:
    found = image_data.load("digits")
    numbers = np.arange(10)
    if task == "parity":
        hierarchy = Hierarchy(numbers % 2, tuple(map(str, numbers)), ("even", "odd"))
    else:
        hierarchy = Hierarchy((numbers >= 5).astype(np.int64), tuple(map(str, numbers)), ("below five", "five or more"))
    train, test = (found.train_images, found.train_labels), (found.test_images, found.test_labels)
    return SubclassSet.of(train, test, hierarchy, source=source)


def _cifar(source: str) -> SubclassSet:
    found = image_data.load(source)
    vehicles = tuple(name for name in found.classes if name not in ANIMALS)
    if not set(ANIMALS) < set(found.classes) or len(found.classes) != 10:
        raise InputError(
            f"{source} has the classes {', '.join(found.classes)}", f"CIFAR-10's, {', '.join(ANIMALS)} ..."
        )
    class_of = np.array([int(name in vehicles) for name in found.classes])
    hierarchy = Hierarchy(class_of, found.classes, ("animal", "vehicle"))
    train, test = (found.train_images, found.train_labels), (found.test_images, found.test_labels)
    return SubclassSet.of(train, test, hierarchy, source=source)


def _folder(root: Path, size: int, source: str) -> SubclassSet:
    parted = (root / "train").is_dir() and (root / "test").is_dir()
    hierarchy = Hierarchy.from_folder(root / "train" if parted else root)
    parts = []
    for folder in (root / "train", root / "test") if parted else (root,):
        paths: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(hierarchy.subclass_names):
            if not (folder / name).is_dir():
                raise InputError(f"{folder / name} is missing", "every subclass's folder")
            files = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in _SUFFIXES)
            if not files:
                raise InputError(f"{folder / name} has no image", "one at least")
            paths += files
            labels += [label] * len(files)
        parts.append(Part(tuple(paths), np.array(labels), None, size))
    if not parted:
        whole = parts[0]
        kept, held = _shares(whole.labels, 0.2, source, "test")
        parts = [whole.rows(kept), whole.rows(held)]
    return _held_out(parts[0], parts[1], hierarchy, (3, size, size), source)


_VOTES = tuple("01234567")


def _mhist(root: Path, size: int, source: str, scheme: Scheme) -> SubclassSet:
    table = root / "annotations.csv"
    with reading(table, "MHIST's folder: images/ and annotations.csv"):
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        there = {path.name for path in (root / "images").iterdir()}
    missing = [name for name in _MHIST if not rows or name not in rows[0]]
    if missing:
        raise InputError(f"{table} lacks the column {missing[0]!r} or has no rows", ", ".join(_MHIST))
    paths, counts, partitions = [], [], []
    for number, row in enumerate(rows, start=2):
        name, majority, ssa, partition = (row[column] or "" for column in _MHIST)
        path = root / "images" / name
        if name not in there or not path.is_file():
            raise InputError(f"{table}, line {number}: image {name!r} is missing", "a file in images/")
        if ssa not in _VOTES or partition not in ("train", "test"):
            raise InputError(f"{table}, line {number}: {ssa!r} votes, partition {partition!r}", "0 to 7, train or test")
        if majority != ("SSA" if int(ssa) >= 4 else "HP"):
            raise InputError(f"{table}, line {number}: label {majority!r} with {ssa} votes for SSA", "the majority's")
        paths.append(path)
        counts.append(int(ssa))
        partitions.append(partition)
    voted = subclasses_from_votes(votes_from_counts(np.array(counts), 7), scheme, class_names=("HP", "SSA"))
    whole = Part(tuple(paths), voted.subclass_labels, voted.difficulty, size)
    train, test = (whole.rows(np.flatnonzero(np.array(partitions) == part)) for part in ("train", "test"))
    if not len(train) or not len(test):
        raise InputError(f"{table} has no row of one partition", "rows of train and of test")
    return _held_out(train, test, voted.hierarchy, (3, size, size), source)


def _held_out(train: Part, test: Part, hierarchy: Hierarchy, shape: tuple[int, int, int], source: str) -> SubclassSet:
    counts = np.bincount(train.labels, minlength=hierarchy.n_subclasses)
    if not counts.all():
        name = hierarchy.subclass_names[int(np.flatnonzero(counts == 0)[0])]
        raise InputError(f"{source}: subclass {name!r} has no training image", "one at least of every subclass")
    kept, held = _shares(train.labels, _HELD_OUT, source, "validation")
    return SubclassSet(train.rows(kept), train.rows(held), test, hierarchy, shape, source)


def _shares(labels: np.ndarray, share: float, source: str, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of each subclass, the same on every machine; a subclass of one image is kept."""
    held: list[int] = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        held += generator(0, purpose, int(label)).permutation(rows)[:count].tolist()
    if not held:
        raise InputError(f"{source} has one image of each subclass", "two at least of one: a share is held out")
    mask = np.zeros(len(labels), dtype=bool)
    mask[held] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _decode(path: Path, size: int) -> np.ndarray:
    with reading(path, "an image file"):
        pixels = image_data.decode(path.read_bytes(), str(path), size)
    return (np.asarray(pixels, dtype=np.float32) / 255).transpose(2, 0, 1)
