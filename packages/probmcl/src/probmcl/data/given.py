"""Data sets that are objects: torch and Hugging Face datasets, arrays and tensors, with labels for every image."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sextet_common import datasets
from sextet_common.errors import DataWarning, InputError

from probmcl.data.sets import MultiLabelSet, held_out

_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
_ACCEPTED = (
    "arrays or tensors (inputs, labels), a map-style dataset of (image, multi-hot vector), or a Hugging Face dataset "
    "with images and a list of labels"
)
_OBJECTS = ("category", "categories", "label", "labels", "category_id")  # in a column of objects
_CLASS = "ClassLabel"


def load(
    source: Any,
    label_names: Sequence[str] | None,
    column: str | None,
    size: int | None,
    channels: int | None,
) -> MultiLabelSet:
    """Read the parts of a source; `probmcl.load` describes the forms."""
    name = f"the given {type(source).__name__}"
    parts, notes = _parts_of(source, name)
    read: dict[str, _Part] = {}
    for part, value in parts.items():
        read[part] = _read(value, f"{name}, {part}", column, size, channels)
    if "test" not in read:
        if "validation" in read:
            read["test"] = read.pop("validation")
            notes.append(f"{name} has no test part: the validation part is the test part")
        else:
            whole = read["train"]
            kept, held = held_out(len(whole.labels), name)
            read["train"], read["test"] = whole.rows(kept), whole.rows(held)
            notes.append(f"{name} has no test part: {len(held)} of {len(whole.labels)} rows are held out")
    names = _label_names(read, label_names, name)
    tables = {part: (found.inputs, found.table(len(names))) for part, found in read.items()}
    for note in notes:
        warnings.warn(note, DataWarning, stacklevel=3)
    validation = tables.get("validation")
    return MultiLabelSet.of(tables["train"], validation, tables["test"], names, source=name, notes=tuple(notes))


@dataclass
class _Part:
    """Inputs with a list of label numbers, or a multi-hot row, for each."""

    inputs: np.ndarray
    labels: Any
    names: tuple[str, ...] | None
    listed: bool  # lists of numbers

    @property
    def width(self) -> int:
        """Number of labels, as far as the rows tell."""
        if self.listed:
            return 1 + max((number for row in self.labels for number in row), default=-1)
        return int(self.labels.shape[1])

    def rows(self, chosen: np.ndarray) -> _Part:
        """Return some rows."""
        labels = [self.labels[row] for row in chosen] if self.listed else self.labels[chosen]
        return _Part(self.inputs[chosen], labels, self.names, self.listed)

    def table(self, width: int) -> np.ndarray:
        """Return the labels as zeros and ones."""
        if not self.listed:
            return np.asarray(self.labels)
        table = np.zeros((len(self.labels), width), dtype=np.uint8)
        for row, numbers in enumerate(self.labels):
            table[row, numbers] = 1
        return table


def _parts_of(source: Any, name: str) -> tuple[dict[str, Any], list[str]]:
    """Return the parts of a source by name, and notes about those that are not used."""
    if isinstance(source, Mapping):
        lower = {str(key).lower(): key for key in source}
        found = {p: next((lower[n] for n in names if n in lower), None) for p, names in _NAMES.items()}
        if found["train"] is None:
            raise InputError(f"the parts of {name} are {', '.join(map(str, source))}", "train, validation, test")
        unused = [repr(key) for key in source if key not in found.values()]
        notes = [f"{name}: not used: {', '.join(unused)}"] if unused else []
        return {part: source[key] for part, key in found.items() if key is not None}, notes
    if isinstance(source, tuple | list) and len(source) == 3:
        return dict(zip(("train", "validation", "test"), source, strict=True)), []
    train, test, _ = datasets.halves_of(source)
    return {"train": train} | ({} if test is None else {"test": test}), []


def _label_names(read: Mapping[str, _Part], given: Sequence[str] | None, name: str) -> tuple[str, ...]:
    width = max(part.width for part in read.values())
    names = tuple(map(str, given)) if given is not None else read["train"].names
    if names is None:
        return tuple(map(str, range(width)))
    if len(names) < width or (len(names) > width and not read["train"].listed):
        raise InputError(f"{name} has {width} labels and {len(names)} names", "a name for every label")
    for part, found in read.items():
        if given is None and found.names != names:
            raise InputError(f"{name}: the labels of {part} are {found.names}", f"{names}, as in train")
    return names


def _read(part: Any, name: str, column: str | None, size: int | None, channels: int | None) -> _Part:
    if isinstance(part, tuple | list) and len(part) == 2:
        inputs, labels = (datasets.array_of(values, name) for values in part)
        return _Part(inputs, _multi_hot(labels, name), None, False)
    if type(part).__name__ == "TensorDataset" and len(part.tensors) == 2:
        return _read(tuple(part.tensors), name, column, size, channels)
    if hasattr(part, "features") and hasattr(part, "column_names"):
        return _hugging_face(part, name, column, size, channels)
    if not hasattr(part, "__getitem__") or not hasattr(part, "__len__") or hasattr(part, "dtype"):
        raise InputError(f"{name} is of type {type(part).__name__}", _ACCEPTED)
    if not len(part):
        raise InputError(f"{name} is empty", "at least one row")
    rows = _Rows(len(part), lambda row: _pair(part[row], row, name))
    inputs = _inputs(rows, name, size, channels)
    try:
        labels = np.stack([np.asarray(datasets.array_of(vector, name)) for vector in rows.labels])
    except ValueError as error:
        raise InputError(f"{name}: the vectors of labels differ: {error}", "one length for all") from None
    return _Part(inputs, _multi_hot(labels, name), None, False)


@dataclass
class _Rows:
    """A map-style dataset of (image, row) that keeps the labels of the rows which are read."""

    count: int
    item: Callable[[int], tuple[Any, Any]]
    labels: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[Any, int]:
        image, labels = self.item(row)
        self.labels.append(labels)
        return image, row


def _inputs(rows: _Rows, name: str, size: int | None, channels: int | None) -> np.ndarray:
    """Read all images, as bytes where they are bytes, or all vectors of features."""
    first = rows.item(0)[0]
    if getattr(first, "ndim", 0) == 1:
        return np.stack([datasets.array_of(rows[row][0], name) for row in range(len(rows))])
    (images, _), _ = datasets.read(rows, name, size, channels)
    return images


def _pair(item: Any, row: int, name: str) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise InputError(f"item {row} of {name} is a {type(item).__name__}", "(image, multi-hot vector)")
    return item[0], item[1]


def _multi_hot(labels: np.ndarray, name: str) -> np.ndarray:
    if labels.ndim != 2:
        raise InputError(f"{name}: labels of shape {labels.shape}", "zeros and ones of shape (rows, labels)")
    return labels


def _hugging_face(part: Any, name: str, column: str | None, size: int | None, channels: int | None) -> _Part:
    """Read an Image column and a column of lists of labels, of multi-hot rows, or of objects."""
    listed = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in part.features.items())
    images = [key for key, feature in part.features.items() if type(feature).__name__ == "Image"]
    usable = [key for key, feature in part.features.items() if _kind(feature) is not None]
    if column is not None:
        usable = [key for key in usable if key == column]
    if len(images) != 1 or len(usable) != 1:
        accepted = (
            "one Image column, and column=NAME: a list of ClassLabel, of zeros and ones, or objects with a category"
        )
        raise InputError(f"{name} has the columns {listed}", accepted)
    if not len(part):
        raise InputError(f"{name} is empty", "at least one row")
    image, label = images[0], usable[0]
    kind, names, key = _kind(part.features[label])  # type: ignore[misc]
    chosen = part.select_columns([image, label])
    rows = _Rows(len(part), lambda row: (chosen[row][image], chosen[row][label]))
    inputs = _inputs(rows, name, size, channels)
    if kind == "table":
        return _Part(inputs, _multi_hot(np.array(rows.labels), name), None, False)
    values = [_of_objects(value, key) for value in rows.labels]
    if names is None:
        words = tuple(sorted({str(word) for row in values for word in row}))
        values, names = [[words.index(str(word)) for word in row] for row in values], words
    return _Part(inputs, values, names, True)


def _kind(feature: Any) -> tuple[str, tuple[str, ...] | None, str | None] | None:
    """Return what a column holds (a list or a table), the names of its labels and the key of its objects."""
    if isinstance(feature, list | tuple) and len(feature) == 1:
        inner: Any = feature[0]
    else:
        inner = getattr(feature, "feature", feature if isinstance(feature, Mapping) else None)
    if isinstance(inner, Mapping):
        key = next((key for key in _OBJECTS if key in inner), None)
        if key is None:
            return None
        single = getattr(inner[key], "feature", inner[key])
        return "list", _class_names(single), key
    kind, dtype = type(inner).__name__, str(getattr(inner, "dtype", ""))
    if kind == _CLASS or (kind == "Value" and dtype in ("string", "large_string")):
        return "list", _class_names(inner), None
    if kind == "Value" and dtype.startswith(("int", "uint", "bool", "float")):
        return "table", None, None
    return None


def _class_names(feature: Any) -> tuple[str, ...] | None:
    return tuple(feature.names) if type(feature).__name__ == _CLASS else None


def _of_objects(value: Any, key: str | None) -> Sequence[Any]:
    """Return the labels of one image: a list of them, a list of objects, or a table of objects."""
    if key is None:
        return list(value or ())
    if isinstance(value, Mapping):
        return list(value[key])
    return [each[key] for each in value or ()]
