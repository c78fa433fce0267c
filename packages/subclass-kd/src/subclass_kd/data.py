"""Images with subclass labels, in memory or on disk, in three parts: training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Integer, UInt8
from sextet_common import data as image_data, pixels
from sextet_common.checks import PositiveShare, check
from sextet_common.errors import InputError, reading
from sextet_common.seeding import generator
from torch import Tensor

from subclass_kd.hierarchy import Hierarchy

_VALIDATION_SHARE = 0.15
_DECODERS = 4  # threads
_BLOCK = 1024  # images that are hashed at once


@dataclass(frozen=True)
class Part:
    """Images and their subclasses.

    Parameters
    ----------
    images
        uint8 in 0..255 or float32 in [0, 1], shape (n, channels, height, width), in memory or memory-mapped; or paths
        of image files, which are decoded when a batch is requested.
    labels
        Subclasses, int64.
    difficulty
        How hard each image is, for a curriculum; None if unknown.
    size
        Height and width in pixels to which files are scaled and cropped.
    channels
        Channels of images from files: 3 for colour, 1 for gray.
    index
        Rows of ``images`` that belong to the part, of memory-mapped images; None for all.
    """

    images: (
        Float[np.ndarray, "n channels height width"] | UInt8[np.ndarray, "n channels height width"] | tuple[Path, ...]
    )
    labels: Int[np.ndarray, " n"]
    difficulty: Float[np.ndarray, " n"] | None = None
    size: int = 224
    channels: int = 3
    index: Int[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

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
        difficulty = None if self.difficulty is None else self.difficulty[chosen]
        return replace(self, images=images, labels=self.labels[chosen], difficulty=difficulty, index=index)

    def fingerprint(self, *also: np.ndarray) -> str:
        """Return the SHA-256 of the images, unless they are files, of the labels, and of further arrays."""
        content = hashlib.sha256()
        if not isinstance(self.images, tuple):
            for start in range(0, len(self), _BLOCK):
                content.update(self._raw(np.arange(start, min(start + _BLOCK, len(self)))).data)
        for array in (self.labels, *also):
            content.update(np.ascontiguousarray(array).data)
        return content.hexdigest()

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
        difficulty: np.ndarray | None = None,
        source: str = "the given arrays",
        notes: tuple[str, ...] = (),
    ) -> SubclassSet:
        """Build a set from arrays; a fixed 15 % of the training rows of each subclass become the validation part.

        Parameters
        ----------
        train, test
            Images (n, channels, height, width), uint8 in 0..255 or floats in [0, 1], and subclass labels (n,). Arrays
            of uint8 or float32 are not copied as a whole; memory-mapped ones stay on disk.
        hierarchy
            The subclasses' classes.
        difficulty
            Difficulty of the training images, shape (n,).
        source
            Name of the data.
        notes
            What was ignored, skipped or split while loading.
        """
        parts = []
        for name, (images, labels) in (("train", train), ("test", test)):
            x, y = np.asanyarray(images), np.asarray(labels)
            if x.dtype != np.uint8:
                x = x.astype(np.float32, copy=False)
            if x.ndim != 4 or y.shape != x.shape[:1] or not len(y):
                raise InputError(f"{source}, {name}: images {x.shape}, labels {y.shape}", "(n, c, h, w) and (n,)")
            if x.dtype != np.uint8 and not (x.min() >= 0 and x.max() <= 1):
                accepted = "values in [0, 1], or uint8 in 0..255"
                raise InputError(f"{source}, {name}: values from {x.min():g} to {x.max():g}", accepted)
            parts.append(Part(x, hierarchy.check_labels(y).astype(np.int64)))
        if difficulty is not None:
            if np.shape(difficulty) != parts[0].labels.shape:
                raise InputError(f"difficulty has shape {np.shape(difficulty)}", f"{parts[0].labels.shape}")
            parts[0] = replace(parts[0], difficulty=np.asarray(difficulty, dtype=np.float64))
        channels, height, width = np.shape(train[0])[1:]
        return cls.with_held_out(parts[0], parts[1], hierarchy, (channels, height, width), source, notes)

    @classmethod
    def with_held_out(
        cls,
        train: Part,
        test: Part,
        hierarchy: Hierarchy,
        input_shape: tuple[int, int, int],
        source: str,
        notes: tuple[str, ...] = (),
    ) -> SubclassSet:
        """Build a set from two parts, holding out 15 % of each subclass of the first for validation."""
        counts = np.bincount(train.labels, minlength=hierarchy.n_subclasses)
        if not counts.all():
            name = hierarchy.subclass_names[int(np.flatnonzero(counts == 0)[0])]
            raise InputError(f"{source}: subclass {name!r} has no training image", "at least one of every subclass")
        kept, held = hold_out(train.labels, _VALIDATION_SHARE, source, "validation")
        return cls(train.rows(kept), train.rows(held), test, hierarchy, input_shape, source, notes)

    def scarce(self, share: float, seed: int = 0) -> SubclassSet:
        """Return the set with a share in (0, 1] of each subclass's training rows, at least one; other parts are kept.

        The seed decides which rows.
        """
        check("share", share, PositiveShare)
        chosen = []
        for label in range(self.hierarchy.n_subclasses):
            rows = np.flatnonzero(self.train.labels == label)
            shuffled = generator(seed, "scarce", label).permutation(rows)
            chosen.append(shuffled[: max(1, round(share * len(rows)))])
        kept = np.sort(np.concatenate(chosen))
        return replace(self, train=self.train.rows(kept), source=f"{self.source}, {share:g} of the labels, seed {seed}")

    def with_subclasses(self, train: np.ndarray, validation: np.ndarray, hierarchy: Hierarchy) -> SubclassSet:
        """Return the set with other subclasses of the same classes, such as discovered ones.

        The labels of the test part become each class's first subclass, since only their classes are known.

        Parameters
        ----------
        train, validation
            Subclass labels, shape (n,).
        hierarchy
            Their classes, with the same names as before.
        """
        if hierarchy.class_names != self.hierarchy.class_names:
            raise InputError(f"classes {hierarchy.class_names}", f"{self.hierarchy.class_names}")
        for part, labels in ((self.train, train), (self.validation, validation)):
            if not np.array_equal(hierarchy.class_labels(labels), self.hierarchy.class_labels(part.labels)):
                raise InputError("a subclass of another class than the image's", "subclasses within the classes")
        first = np.array([int(np.flatnonzero(hierarchy.class_of == c)[0]) for c in range(hierarchy.n_classes)])
        test = first[self.hierarchy.class_labels(self.test.labels)]
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


def hold_out(labels: np.ndarray, share: float, source: str, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to keep and the rows to hold out: a fixed share of each subclass, but never its only image."""
    held: list[int] = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        held += generator(0, purpose, int(label)).permutation(rows)[:count].tolist()
    if not held:
        raise InputError(f"{source} has one image of each subclass", "at least two of one, to hold out a share")
    mask = np.zeros(len(labels), dtype=bool)
    mask[held] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _is_mapped(images: np.ndarray) -> bool:
    return getattr(images, "_mmap", None) is not None


def _decode(path: Path, size: int, channels: int) -> UInt8[np.ndarray, "channels height width"]:
    with reading(path, "an image file"):
        content = path.read_bytes()
    return image_data.decode(content, str(path), size, channels).transpose(2, 0, 1)
