"""Multi-label data in three parts: images in memory or on disk, or plain features."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, Shaped, UInt8
from sextet_common import pixels
from sextet_common.data import decode
from sextet_common.errors import InputError, reading
from sextet_common.seeding import generator
from torch import Tensor

VALIDATION_SHARE = 0.15
_DECODERS = 4  # threads that decode image files: Pillow releases the interpreter lock

Rows = Integer[np.ndarray, " batch"] | Sequence[int]
Part = tuple[np.ndarray, np.ndarray]


class Split(ABC):
    """Rows with their labels. Labels are always in memory; inputs are produced on request.

    Labels are zeros and ones, or -1 where they are not known; a row of -1 is unlabelled.
    """

    labels: Integer[np.ndarray, "rows labels"]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batch(self, rows: Rows) -> Float[Tensor, "batch ..."]:
        """Return the inputs of the given rows as float32, images in [0, 1]."""

    def batch_on(self, rows: Rows, device: torch.device) -> Float[Tensor, "batch ..."]:
        """Return the inputs of the given rows on a device; bytes become floats there."""
        return self.batch(rows).to(device)


class _RawSplit(Split):
    """Rows that are kept as bytes or floats."""

    @abstractmethod
    def raw(self, rows: Rows) -> np.ndarray:
        """Return a copy of the given rows in the type in which they are kept, or are on disk."""

    def batch(self, rows: Rows) -> Float[Tensor, "batch ..."]:
        """Return the inputs of the given rows as float32, images in [0, 1]."""
        return self.batch_on(rows, torch.device("cpu"))

    def batch_on(self, rows: Rows, device: torch.device) -> Float[Tensor, "batch ..."]:
        """Return the inputs of the given rows on a device; bytes become floats there."""
        inputs = torch.from_numpy(self.raw(rows)).to(device)
        if inputs.dtype != torch.uint8:
            return inputs
        # A tensor on the device: by a plain number, a GPU multiplies with a rounded reciprocal.
        return inputs.float() / torch.full((), 255.0, device=inputs.device)


@dataclass(frozen=True)
class ArraySplit(_RawSplit):
    """Rows in memory, or memory-mapped."""

    inputs: Float[np.ndarray, "rows ..."] | UInt8[np.ndarray, "rows channels height width"]
    """Images, shape (rows, channels, height, width), uint8 in 0..255 or float32 in [0, 1]; or features, shape (rows,
    features), float32."""
    labels: Integer[np.ndarray, "rows labels"]
    """Zeros and ones, uint8, shape (rows, labels); int8 with -1 for unknown ones."""

    def raw(self, rows: Rows) -> np.ndarray:
        """Return a copy of the given rows."""
        return pixels.take(self.inputs, np.asarray(rows, dtype=np.int64))


@dataclass(frozen=True)
class FileSplit(_RawSplit):
    """Rows that are image files, decoded on request."""

    paths: tuple[Path, ...]
    labels: Integer[np.ndarray, "rows labels"]
    """Zeros and ones, uint8, shape (rows, labels); int8 with -1 for unknown ones."""
    size: int
    """Height and width, in pixels, to which every image is scaled and cropped."""
    channels: int = 3
    """3 for colour, 1 for gray."""

    def raw(self, rows: Rows) -> UInt8[np.ndarray, "batch channels size size"]:
        """Decode the images of the given rows."""
        chosen = [self.paths[int(row)] for row in rows]
        with ThreadPoolExecutor(_DECODERS) as pool:
            return np.stack(list(pool.map(lambda path: _decode(path, self.size, self.channels), chosen)))


Inputs = Split | np.ndarray | Tensor


@dataclass(frozen=True)
class JoinedSplit(Split):
    """The rows of several splits, one after the other."""

    parts: tuple[Split, ...]
    labels: Integer[np.ndarray, "rows labels"]
    """Zeros and ones, uint8, shape (rows, labels); int8 with -1 for unknown ones."""

    def batch(self, rows: Rows) -> Float[Tensor, "batch ..."]:
        """Return the inputs of the given rows as float32, images in [0, 1]."""
        return self.batch_on(rows, torch.device("cpu"))

    def batch_on(self, rows: Rows, device: torch.device) -> Float[Tensor, "batch ..."]:
        """Return the inputs of the given rows on a device."""
        chosen = np.asarray(rows, dtype=np.int64) % len(self)
        ends = np.cumsum([len(part) for part in self.parts])
        part_of = np.searchsorted(ends, chosen, side="right")
        batches, places = [], []
        for number in np.unique(part_of).tolist():
            place = np.flatnonzero(part_of == number)
            part = self.parts[number]
            batches.append(part.batch_on(chosen[place] - (ends[number] - len(part)), device))
            places.append(place)
        order = torch.from_numpy(np.argsort(np.concatenate(places), kind="stable")).to(device)
        return torch.cat(batches)[order]


@dataclass(frozen=True)
class MultiLabelSet:
    """Multi-label data in three parts."""

    train: Split
    validation: Split
    test: Split
    label_names: tuple[str, ...]
    """Names of the labels, in the order of their columns."""
    input_shape: tuple[int, ...]
    """(channels, height, width) of an image, or (features,)."""
    source: str = ""
    """Where the data come from: the argument of `load`, or a free text."""
    notes: tuple[str, ...] = ()
    """What was ignored, skipped or split while loading, one sentence each."""

    @classmethod
    def of(
        cls,
        train: Part,
        validation: Part | None,
        test: Part,
        label_names: tuple[str, ...] | None = None,
        *,
        source: str = "the given arrays",
        notes: tuple[str, ...] = (),
    ) -> MultiLabelSet:
        """Build a set from arrays and check it.

        Inputs are images (n, channels, height, width), uint8 in 0..255 or numbers in [0, 1], or features (n, features);
        labels are zeros and ones (n, labels), or -1 where they are not known. Bytes are kept as they are. Without a
        validation part, 15 % of the training rows with labels become one. By default labels are named by the numbers of
        their columns. ``source`` is the name of the data in error messages.

        Examples
        --------
        >>> x, y = np.zeros((10, 4)), np.eye(10, 3)
        >>> MultiLabelSet.of((x, y), None, (x, y)).train.labels.shape
        (8, 3)
        """
        names = label_names or tuple(map(str, range(np.asarray(train[1]).shape[-1])))
        shape = np.shape(train[0])[1:]
        splits = {
            part: _array_split(*arrays, names, shape, f"{source}, {part}")
            for part, arrays in (("train", train), ("validation", validation), ("test", test))
            if arrays is not None
        }
        if validation is None:
            whole = splits["train"]
            for part, rows in zip(("train", "validation"), held_out(whole.labels, source), strict=True):
                splits[part] = ArraySplit(whole.inputs[rows], whole.labels[rows])
        return cls(splits["train"], splits["validation"], splits["test"], names, tuple(shape), source, notes)

    @property
    def n_labels(self) -> int:
        """Number of labels."""
        return len(self.label_names)

    def with_unlabelled(self, inputs: Split | np.ndarray | Tensor) -> MultiLabelSet:
        """Return this set with more training rows, without labels: their own are ignored.

        Examples
        --------
        >>> x, y = np.zeros((10, 4)), np.eye(10, 3)
        >>> more = MultiLabelSet.of((x, y), (x, y), (x, y)).with_unlabelled(np.ones((5, 4)))
        >>> more.train.labels[9:11].tolist(), int(unlabelled(more.train.labels).sum())
        ([[0, 0, 0], [-1, -1, -1]], 5)
        """
        source = f"{self.source}, unlabelled"
        if isinstance(inputs, Split):
            split, shape = inputs, tuple(inputs.batch([0]).shape[1:]) if len(inputs) else ()
            if shape != self.input_shape:
                raise InputError(f"{source}: inputs of shape {shape}", f"{self.input_shape}, as in the training part")
        else:
            array = np.asarray(inputs.detach().cpu() if isinstance(inputs, Tensor) else inputs)
            nothing = np.zeros((len(array), self.n_labels), dtype=np.uint8)
            split = _array_split(array, nothing, self.label_names, self.input_shape, source)
        own = self.train.parts if isinstance(self.train, JoinedSplit) else (self.train,)
        unknown = np.full((len(split), self.n_labels), -1, dtype=np.int8)
        labels = np.concatenate([self.train.labels.astype(np.int8), unknown])
        labels.setflags(write=False)
        return dataclasses.replace(self, train=JoinedSplit((*own, split), labels))

    def with_labelled(self, count: int) -> MultiLabelSet:
        """Return this set with the labels of the first training rows only; the others become unlabelled.

        Examples
        --------
        >>> x, y = np.zeros((10, 4)), np.eye(10, 3)
        >>> int(unlabelled(MultiLabelSet.of((x, y), (x, y), (x, y)).with_labelled(4).train.labels).sum())
        6
        """
        rows = len(self.train)
        if not 1 <= count <= rows:
            raise InputError(f"labels of {count} training rows are kept", f"1 to {rows}, the number of rows")
        labels = self.train.labels.astype(np.int8)
        labels[count:] = -1
        labels.setflags(write=False)
        own = self.train.parts if isinstance(self.train, JoinedSplit) else (self.train,)
        return dataclasses.replace(self, train=JoinedSplit(own, labels))


def _array_split(
    inputs: np.ndarray, labels: np.ndarray, names: tuple[str, ...], shape: tuple[int, ...], source: str
) -> ArraySplit:
    inputs, labels = _checked_inputs(inputs, source), checked_labels(labels, len(names), source)
    if len(inputs) != len(labels):
        raise InputError(f"{source}: {len(inputs)} inputs and {len(labels)} rows of labels", "as many of each")
    if not len(inputs):
        raise InputError(f"{source} is empty", "at least one row")
    if inputs.shape[1:] != shape:
        raise InputError(f"{source}: inputs of shape {inputs.shape[1:]}", f"{shape}, as in the training part")
    return ArraySplit(inputs, labels)


def checked_labels(
    labels: Shaped[np.ndarray, "rows labels"], n_labels: int, source: str, *, at_least_one: bool = False
) -> Integer[np.ndarray, "rows labels"]:
    """Return labels as a read-only table, or raise InputError with the offending value, row and column.

    The table is uint8, or int8 if there are negative values, which become -1: unknown labels. ``at_least_one`` refuses
    rows in which every label is known to be absent.
    """
    table = np.asarray(labels)
    if table.ndim != 2 or table.shape[1] != n_labels:
        raise InputError(f"{source}: labels have shape {table.shape}", f"(rows, {n_labels})")
    if table.dtype.kind not in "biuf":
        raise InputError(f"{source}: labels are {table.dtype}", "zeros and ones")
    unknown = table < 0
    wrong = np.argwhere(~unknown & (table != 0) & (table != 1))
    if len(wrong):
        row, column = map(int, wrong[0])
        expected = "0 or 1, or -1 for an unknown one"
        raise InputError(f"{source}: label {table[row, column]} in row {row}, column {column}", expected)
    binary = np.where(unknown, -1, table).astype(np.int8) if unknown.any() else table.astype(np.uint8)
    if at_least_one and not binary.any(axis=1).all():
        raise InputError(f"{source}: row {int(np.flatnonzero(~binary.any(axis=1))[0])} has no label", "at least one")
    binary.setflags(write=False)
    return binary


def unlabelled(labels: Integer[np.ndarray, "rows labels"]) -> Bool[np.ndarray, " rows"]:
    """Return which rows have no known label."""
    none: Bool[np.ndarray, " rows"] = np.logical_and.reduce(labels < 0, axis=1)
    return none


def held_out(rows: int | Integer[np.ndarray, "rows labels"], source: str) -> tuple[np.ndarray, np.ndarray]:
    """Split row numbers into training and validation rows, identically on every machine.

    ``rows`` is the number of rows, or their labels: then rows without labels are training rows.
    """
    if not isinstance(rows, int):
        known = np.flatnonzero(~unlabelled(rows))
        kept, held = held_out(len(known), source)
        return np.sort(np.concatenate([known[kept], np.flatnonzero(unlabelled(rows))])), known[held]
    if rows < 2:
        raise InputError(f"{source} has {rows} training rows with labels", "at least 2: a share of them is held out")
    count = max(1, round(VALIDATION_SHARE * rows))
    chosen = generator(0, "validation").permutation(rows)
    return np.sort(chosen[count:]), np.sort(chosen[:count])


def read_image(path: Path, size: int, channels: int = 3) -> Float[np.ndarray, "channels size size"]:
    """Decode an image file as float32 in [0, 1], scaled and cropped to a square of `size` pixels a side.

    ``channels`` is 3 for colour or 1 for gray.
    """
    return pixels.to_float(_decode(path, size, channels))


def _decode(path: Path, size: int, channels: int) -> UInt8[np.ndarray, "channels size size"]:
    with reading(path, "an image file"):
        content = path.read_bytes()
    return decode(content, str(path), size, channels).transpose(2, 0, 1)


def _checked_inputs(inputs: np.ndarray, source: str) -> np.ndarray:
    array = np.asanyarray(inputs)
    if array.ndim == 4 and array.dtype == np.uint8:
        view = array.view()
        view.setflags(write=False)
        return view
    if array.ndim not in (2, 4) or array.dtype.kind not in "biuf":
        shapes = "numbers of shape (n, channels, height, width) or (n, features)"
        raise InputError(f"{source}: inputs are {array.dtype} of shape {array.shape}", shapes)
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{source}: row {int(np.argwhere(~np.isfinite(array))[0][0])} is not finite", "finite numbers")
    if array.ndim == 4 and array.size and not (array.min() >= 0 and array.max() <= 1):
        raise InputError(f"{source}: images have values from {array.min():g} to {array.max():g}", "values in [0, 1]")
    array.setflags(write=False)
    return array
