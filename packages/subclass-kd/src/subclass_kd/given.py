"""Data sets that are objects: torch and Hugging Face datasets, arrays and tensors, with labels of two levels."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sextet_common import data as image_data, datasets
from sextet_common.errors import InputError

from subclass_kd.hierarchy import Hierarchy

_ACCEPTED = "items (image, class, subclass), or items (image, subclass) and a hierarchy"


def has_both_labels(source: Any) -> bool:
    """Return whether a source has classes beside the subclasses."""
    part = datasets.halves_of(source)[0]
    if isinstance(part, tuple | list):
        return len(part) == 3
    if _is_hugging_face(part):
        return len(_labels(part)) > 1
    if not hasattr(part, "__getitem__") or not hasattr(part, "__len__") or not len(part):
        return False
    return isinstance(part[0], tuple | list) and len(part[0]) == 3


def load(
    source: Any, columns: tuple[str, str] | None, options: Mapping[str, Any]
) -> tuple[image_data.ImageSet, Hierarchy]:
    """Load images whose labels are subclasses, and the hierarchy that their classes and subclasses form.

    ``columns`` names the columns of classes and subclasses of a Hugging Face dataset. ``options`` are those of
    `sextet_common.data.load`.
    """
    train, test, _ = datasets.halves_of(source)
    pairs = _Pairs()
    views = [pairs.view(train, columns, "the training data")]
    if test is not None:
        views.append(pairs.view(test, columns, "the test data"))
    images = image_data.load(views[0] if test is None else (views[0], views[1]), **options)
    hierarchy, numbers = pairs.hierarchy()
    labels = [numbers[part] for part in (images.train_labels, images.test_labels)]
    arrays = (images.train_images, labels[0], images.test_images, labels[1])
    return image_data.ImageSet.of(
        *arrays, hierarchy.subclass_names, source=images.source, notes=images.notes
    ), hierarchy


@dataclass(frozen=True)
class _Items:
    """A map-style dataset of (image, number of the pair of class and subclass)."""

    count: int
    item: Callable[[int], tuple[Any, int]]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self.item(row)


class _Pairs:
    """The pairs of class and subclass that occur, numbered in order of first appearance."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[int | str, int | str], int] = {}
        self.names: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None)  # of classes, of subclasses

    def view(self, part: Any, columns: tuple[str, str] | None, name: str) -> Any:
        """Return a part with pairs as labels; a pair without training images is refused."""
        grows = not self.numbers and name == "the training data"

        def number(row: int, class_: Any, subclass: Any) -> int:
            pair = _label(class_, f"the class of image {row} of {name}"), _label(subclass, f"the subclass, {name}")
            if grows:
                return self.numbers.setdefault(pair, len(self.numbers))
            if pair not in self.numbers:
                raise InputError(f"{name}: subclass {pair[1]!r} of class {pair[0]!r} has no training image", "one")
            return self.numbers[pair]

        def item(row: int) -> tuple[Any, int]:
            values = part[row]
            if not isinstance(values, tuple | list) or len(values) != 3:
                raise InputError(f"item {row} of {name} is a {type(values).__name__}", "(image, class, subclass)")
            return values[0], number(row, values[1], values[2])

        if isinstance(part, tuple | list) and len(part) == 3:
            images, classes, subclasses = (datasets.array_of(values, name) for values in part)
            if not len(images) == len(classes) == len(subclasses):
                raise InputError(
                    f"{name}: {len(images)} images, {len(classes)} and {len(subclasses)} labels", "as many"
                )
            both = zip(classes.tolist(), subclasses.tolist(), strict=True)
            return images, np.array([number(row, *labels) for row, labels in enumerate(both)], dtype=np.int64)
        if _is_hugging_face(part):
            image, class_, subclass = _columns(part, columns, name)
            self.names = tuple(getattr(part.features[column], "names", None) for column in (class_, subclass))  # type: ignore[assignment]
            rows = part.select_columns([image, class_, subclass])

            def row_of(row: int) -> tuple[Any, int]:
                values = rows[row]
                return values[image], number(row, values[class_], values[subclass])

            return _Items(len(part), row_of)
        if not hasattr(part, "__getitem__") or not hasattr(part, "__len__"):
            raise InputError(f"{name} is of type {type(part).__name__}", f"a map-style dataset: {_ACCEPTED}")
        return _Items(len(part), item)

    def hierarchy(self) -> tuple[Hierarchy, np.ndarray]:
        """Return the hierarchy, and the subclass of each pair.

        Subclasses are in the order of their numbers or names. If one subclass label occurs in two classes, as 0 does
        where they are numbered within each class, its subclasses are named class/subclass.
        """
        class_names, subclass_names = self.names
        classes = sorted({class_ for class_, _ in self.numbers}, key=_order)
        unique = len({subclass for _, subclass in self.numbers}) == len(self.numbers)
        pairs = sorted(self.numbers, key=lambda pair: [_order(label) for label in (pair[1:] if unique else pair)])
        names = [_name(subclass, subclass_names) for _, subclass in pairs]
        if not unique:
            names = [f"{_name(class_, class_names)}/{name}" for (class_, _), name in zip(pairs, names, strict=True)]
        elif subclass_names is not None and len(pairs) < len(subclass_names):
            absent = next(name for name in subclass_names if name not in names)
            raise InputError(f"subclass {absent!r} has no training image", "at least one of every subclass")
        numbers = np.empty(len(pairs), dtype=np.int64)
        numbers[[self.numbers[pair] for pair in pairs]] = np.arange(len(pairs))
        class_of = np.array([classes.index(class_) for class_, _ in pairs])
        return Hierarchy(class_of, tuple(names), tuple(_name(class_, class_names) for class_ in classes)), numbers


def _order(label: int | str) -> tuple[bool, int | str]:
    return isinstance(label, str), label  # numbers first: the two cannot be compared


def _name(label: int | str, names: Sequence[str] | None) -> str:
    if names is not None and isinstance(label, int) and not 0 <= label < len(names):
        given = f"a label of a dataset with the names {', '.join(names[:5])} is {label}"
        raise InputError(given, f"0 to {len(names) - 1}; SubclassSet.of and table:FILE take images without labels")
    return names[label] if names is not None and isinstance(label, int) else str(label)


def _label(value: Any, what: str) -> int | str:
    if isinstance(value, str):
        return value
    try:
        return operator.index(value)
    except TypeError:
        raise InputError(f"{what} is {value!r}", "a whole number or a name") from None


def _is_hugging_face(part: Any) -> bool:
    return hasattr(part, "features") and hasattr(part, "column_names")


def _labels(part: Any) -> list[str]:
    return [column for column, feature in part.features.items() if type(feature).__name__ == "ClassLabel"]


def _columns(part: Any, columns: tuple[str, str] | None, name: str) -> tuple[str, str, str]:
    """Return the columns of images, classes and subclasses; of two ClassLabel columns the one with more names."""
    kinds = {column: type(feature).__name__ for column, feature in part.features.items()}
    listed = ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
    images = [column for column, kind in kinds.items() if kind == "Image"]
    if len(images) != 1:
        raise InputError(
            f"{name} has {len(images)} Image columns among {listed}", "one; see select_columns of datasets"
        )
    if columns is not None:
        unknown = [column for column in columns if column not in kinds]
        if unknown:
            raise InputError(f"{name} has no column {unknown[0]!r}", listed)
        return images[0], columns[0], columns[1]
    labels = sorted(_labels(part), key=lambda column: len(part.features[column].names))
    if len(labels) != 2 or len(part.features[labels[0]].names) == len(part.features[labels[1]].names):
        accepted = "columns=(CLASS, SUBCLASS), two of its columns; or two ClassLabel columns, one with fewer names"
        raise InputError(f"{name} has the columns {listed}", accepted)
    return images[0], labels[0], labels[1]
