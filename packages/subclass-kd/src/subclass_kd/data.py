"""Images with subclass labels, in memory or on disk, in three parts: training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped, UInt8
from sextet_common import data as image_data, pixels
from sextet_common.checks import PositiveShare, check
from sextet_common.errors import InputError, reading
from sextet_common.seeding import generator
from torch import Tensor

from subclass_kd.hierarchy import UNLABELLED, Hierarchy
from subclass_kd.splits import hold_out_groups

_VALIDATION_SHARE = 0.15
_DECODERS = 4  # threads
_BLOCK = 1024  # images that are hashed at once

Rest = Literal["drop", "class", "unlabelled"]
"""What becomes of the images whose labels `SubclassSet.scarce` takes away."""
_REST = {"class": "of the rest the classes", "unlabelled": "the rest unlabelled"}


@dataclass(frozen=True)
class Part:
    """Images and their subclasses.

    Parameters
    ----------
    images
        uint8 in 0..255 or float32 in [0, 1], shape (n, channels, height, width), in memory or memory-mapped; or paths
        of image files, which are decoded when a batch is requested.
    labels
        Subclasses, int64; -1 for an unlabelled image, -(2 + c) where only the class c is known.
    difficulty
        How hard each image is, for a curriculum; None if unknown.
    size
        Height and width in pixels to which files are scaled and cropped.
    channels
        Channels of images from files: 3 for colour, 1 for gray.
    index
        Rows of ``images`` that belong to the part, of memory-mapped images; None for all.
    groups
        Group of each image, such as its patient; the images of a group stay in one part. None if unknown.
    weights
        How much each image counts in the loss; None for equal weights.
    """

    images: (
        Float[np.ndarray, "n channels height width"] | UInt8[np.ndarray, "n channels height width"] | tuple[Path, ...]
    )
    labels: Int[np.ndarray, " n"]
    difficulty: Float[np.ndarray, " n"] | None = None
    size: int = 224
    channels: int = 3
    index: Int[np.ndarray, " n"] | None = None
    groups: Shaped[np.ndarray, " n"] | None = None
    weights: Float[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_labelled(self) -> Bool[np.ndarray, " n"]:
        """Which images have a label, of a subclass or of a class alone."""
        known: Bool[np.ndarray, " n"] = self.labels != UNLABELLED
        return known

    def batch(
        self, rows: Integer[np.ndarray, " batch"] | Sequence[int], device: torch.device | str = "cpu"
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the images of some rows on a device, as float32 in [0, 1]."""
        images = torch.from_numpy(self._raw(np.asarray(rows, dtype=np.int64))).to(device)
        if images.dtype != torch.uint8:
            return images
        # A tensor on the device: by a plain number, a GPU multiplies with a rounded reciprocal.
        return images.float() / torch.full((), 255.0, device=images.device)

    def rows(self, chosen: Integer[np.ndarray, " chosen"]) -> Part:
        """Return some rows as a part; those of memory-mapped images are not copied."""
        images, index = self.images, self.index
        if isinstance(images, tuple):
            images = tuple(images[row] for row in chosen)
        elif index is not None or _is_mapped(images):
            index = chosen if index is None else index[chosen]
        else:
            images = images[chosen]
        columns = {name: getattr(self, name) for name in ("difficulty", "groups", "weights")}
        kept: dict[str, Any] = {name: None if column is None else column[chosen] for name, column in columns.items()}
        return replace(self, images=images, labels=self.labels[chosen], index=index, **kept)

    def fingerprint(self, *also: np.ndarray) -> str:
        """Return the SHA-256 of the images, unless they are files, of the labels, and of further arrays."""
        content = hashlib.sha256()
        if not isinstance(self.images, tuple):
            for start in range(0, len(self), _BLOCK):
                content.update(self._raw(np.arange(start, min(start + _BLOCK, len(self)))).data)
        for array in (self.labels, *also):
            content.update(np.ascontiguousarray(array).data)
        return content.hexdigest()

    @cached_property
    def image_digests(self) -> UInt8[np.ndarray, "n 32"]:
        """The SHA-256 of every image, as it is kept: of its values, or of its file."""
        if isinstance(self.images, tuple):
            with ThreadPoolExecutor(_DECODERS) as pool:
                digests = list(pool.map(_file_digest, self.images))
        else:
            blocks = np.array_split(np.arange(len(self)), max(1, len(self) // _BLOCK))
            digests = [hashlib.sha256(image.data).digest() for rows in blocks for image in self._raw(rows)]
        return np.frombuffer(b"".join(digests), np.uint8).reshape(len(self), 32)

    def _raw(self, rows: np.ndarray) -> np.ndarray:
        """Return a copy of the images of some rows, in the type in which they are kept."""
        if not isinstance(self.images, tuple):
            return pixels.take(self.images, rows if self.index is None else self.index[rows])
        paths = [self.images[int(row)] for row in rows]
        with ThreadPoolExecutor(_DECODERS) as pool:
            return np.stack(list(pool.map(lambda path: _decode(path, self.size, self.channels), paths)))


@dataclass(frozen=True)
class SubclassSet:
    """Data set with subclass labels.

    Parameters
    ----------
    train, validation, test
        The parts: to learn from, to stop by, and to measure with.
    hierarchy
        The subclasses' classes.
    input_shape
        (channels, height, width).
    source
        Where the data come from.
    notes
        What was ignored, skipped or split while loading, one sentence each.
    """

    train: Part
    validation: Part
    test: Part
    hierarchy: Hierarchy
    input_shape: tuple[int, int, int]
    source: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        train: tuple[np.ndarray, np.ndarray],
        test: tuple[np.ndarray, np.ndarray],
        hierarchy: Hierarchy,
        *,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        difficulty: np.ndarray | None = None,
        source: str = "the given arrays",
        notes: tuple[str, ...] = (),
    ) -> SubclassSet:
        """Build a set from arrays.

        Parameters
        ----------
        train, test
            Images (n, channels, height, width), uint8 in 0..255 or floats in [0, 1], and labels (n,): subclasses,
            -(2 + c) where only the class c is known, and in training -1 for unlabelled images. Arrays of uint8 or
            float32 are not copied as a whole; memory-mapped ones stay on disk.
        hierarchy
            The subclasses' classes.
        validation
            As ``test``; by default a fixed 15 % of the training rows of each subclass.
        difficulty
            Difficulty of the training images, shape (n,).
        source
            Name of the data.
        notes
            What was ignored, skipped or split while loading.
        """
        given = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
        parts = {name: _array_part(*pair, hierarchy, f"{source}, {name}") for name, pair in given.items()}
        if difficulty is not None:
            if np.shape(difficulty) != parts["train"].labels.shape:
                raise InputError(f"difficulty has shape {np.shape(difficulty)}", f"{parts['train'].labels.shape}")
            parts["train"] = replace(parts["train"], difficulty=np.asarray(difficulty, dtype=np.float64))
        channels, height, width = np.shape(train[0])[1:]
        return cls.with_held_out(
            hierarchy=hierarchy, input_shape=(channels, height, width), source=source, notes=notes, **parts
        )

    @classmethod
    def with_held_out(
        cls,
        train: Part,
        test: Part,
        hierarchy: Hierarchy,
        input_shape: tuple[int, int, int],
        source: str,
        notes: tuple[str, ...] = (),
        *,
        validation: Part | None = None,
    ) -> SubclassSet:
        """Build a set from parts, holding out 15 % of each subclass of the first for validation if there is none.

        If the first has groups, whole groups are held out.
        """
        absent = np.setdiff1d(np.arange(hierarchy.n_subclasses), train.labels)
        if absent.size and (train.labels >= 0).all():
            name = hierarchy.subclass_names[int(absent[0])]
            raise InputError(f"{source}: subclass {name!r} has no training image", "at least one of every subclass")
        if validation is None:
            kept, held = hold_out(train.labels, _VALIDATION_SHARE, source, "validation", train.groups)
            train, validation = train.rows(kept), train.rows(held)
        for name, part in (("validation", validation), ("test", test)):
            if not part.is_labelled.all():
                row = int(np.flatnonzero(~part.is_labelled)[0])
                raise InputError(f"{source}: image {row} of the {name} part is unlabelled", "at least its class")
        return cls(train, validation, test, hierarchy, input_shape, source, notes)

    def scarce(self, share: float, seed: int = 0, *, rest: Rest = "drop") -> SubclassSet:
        """Return the set with a share in (0, 1] of each subclass's training labels, at least one; other parts are kept.

        The seed decides which. The ``rest`` of the images is dropped, keeps only its classes, or becomes unlabelled.
        Images of which only the class is known count as a subclass; images without a label stay.

        Examples
        --------
        >>> images, labels = np.zeros((40, 1, 4, 4)), np.arange(40) % 4
        >>> data = SubclassSet.of((images, labels), (images, labels), Hierarchy(np.array([0, 0, 1, 1])))
        >>> [np.unique(data.scarce(0.1, rest=rest).train.labels).tolist() for rest in ("drop", "class", "unlabelled")]
        [[0, 1, 2, 3], [-3, -2, 0, 1, 2, 3], [-1, 0, 1, 2, 3]]
        """
        check("share", share, PositiveShare)
        check("rest", rest, Rest)
        labels = self.train.labels
        keeps = ~self.train.is_labelled
        for label in np.unique(labels[~keeps]).tolist():
            rows = np.flatnonzero(labels == label)
            shuffled = generator(seed, "scarce", label).permutation(rows)
            keeps[shuffled[: max(1, round(share * len(rows)))]] = True
        source = f"{self.source}, {share:g} of the labels, seed {seed}"
        if rest == "drop":
            return replace(self, train=self.train.rows(np.flatnonzero(keeps)), source=source)
        labels = labels.copy()
        classes = self.hierarchy.class_labels(labels[~keeps])
        labels[~keeps] = UNLABELLED if rest == "unlabelled" else self.hierarchy.class_only(classes)
        train = replace(self.train, labels=labels)
        return replace(self, train=train, source=f"{source}, {_REST[rest]}")

    def with_subclasses(self, train: np.ndarray, validation: np.ndarray, hierarchy: Hierarchy) -> SubclassSet:
        """Return the set with other subclasses of the same classes, such as discovered ones.

        In the test part only the classes are known.

        Parameters
        ----------
        train, validation
            Labels, shape (n,).
        hierarchy
            Their classes, with the same names as before.
        """
        if hierarchy.class_names != self.hierarchy.class_names:
            raise InputError(f"classes {hierarchy.class_names}", f"{self.hierarchy.class_names}")
        for part, labels in ((self.train, train), (self.validation, validation)):
            if not np.array_equal(hierarchy.class_labels(labels), self.hierarchy.class_labels(part.labels)):
                raise InputError("a subclass of another class than the image's", "subclasses within the classes")
        test = hierarchy.class_only(self.hierarchy.class_labels(self.test.labels))
        return self._relabelled(train, validation, test, hierarchy)

    def with_classes_only(self) -> SubclassSet:
        """Return the set in which each class is its own only subclass."""
        train, validation, test = (
            self.hierarchy.class_labels(part.labels) for part in (self.train, self.validation, self.test)
        )
        return self._relabelled(train, validation, test, self.hierarchy.collapsed())

    def _relabelled(
        self, train: np.ndarray, validation: np.ndarray, test: np.ndarray, hierarchy: Hierarchy
    ) -> SubclassSet:
        parts = [
            replace(part, labels=np.asarray(labels, dtype=np.int64))
            for part, labels in ((self.train, train), (self.validation, validation), (self.test, test))
        ]
        return replace(self, train=parts[0], validation=parts[1], test=parts[2], hierarchy=hierarchy)


def hold_out(
    labels: np.ndarray, share: float, source: str, purpose: str, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to keep and the rows to hold out: a fixed share of each subclass, but never its only image.

    With groups, whole groups are held out, about the same share of each subclass. Images of which only the class is
    known count as a subclass. Those without a label are kept, unless others of their group are held out.
    """
    known = np.flatnonzero(labels != UNLABELLED)
    if groups is not None and known.size:
        _, chosen = hold_out_groups(labels[known], groups[known], share, source)
        return np.flatnonzero(~np.isin(groups, groups[known[chosen]])), known[chosen]
    held: list[int] = []
    for label in np.unique(labels[known]).tolist():
        rows = np.flatnonzero(labels == label)
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        held += generator(0, purpose, label).permutation(rows)[:count].tolist()
    if not held:
        given = f"{source} has {'one image of each subclass' if known.size else 'no labelled training image'}"
        raise InputError(given, f"at least two of one, to hold out a share, or a {purpose} part")
    mask = np.zeros(len(labels), dtype=bool)
    mask[held] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _array_part(images: np.ndarray, labels: np.ndarray, hierarchy: Hierarchy, source: str) -> Part:
    x, y = np.asanyarray(images), np.asarray(labels)
    if x.dtype != np.uint8:
        x = x.astype(np.float32, copy=False)
    if x.ndim != 4 or y.shape != x.shape[:1] or not len(y):
        raise InputError(f"{source}: images {x.shape}, labels {y.shape}", "(n, c, h, w) and (n,)")
    if x.dtype != np.uint8 and not (x.min() >= 0 and x.max() <= 1):
        accepted = "values in [0, 1], or uint8 in 0..255"
        raise InputError(f"{source}: values from {x.min():g} to {x.max():g}", accepted)
    return Part(x, hierarchy.check_labels(y, all_known=False).astype(np.int64))


def _is_mapped(images: np.ndarray) -> bool:
    return getattr(images, "_mmap", None) is not None


def _file_digest(path: Path) -> bytes:
    with reading(path, "an image file"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _decode(path: Path, size: int, channels: int) -> UInt8[np.ndarray, "channels height width"]:
    with reading(path, "an image file"):
        content = path.read_bytes()
    return image_data.decode(content, str(path), size, channels).transpose(2, 0, 1)
