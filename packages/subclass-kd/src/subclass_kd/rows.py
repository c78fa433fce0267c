"""Image files with the names of their classes and subclasses, as folders and tables give them, and sets from these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sextet_common.errors import InputError

from subclass_kd.data import Part
from subclass_kd.hierarchy import UNLABELLED, Hierarchy

_SHOWN = 3  # paths in a note


class Row(NamedTuple):
    """An image file; an empty name is unknown. ``where`` is what an error message names."""

    path: Path
    where: str
    class_: str = ""
    subclass: str = ""
    group: str = ""
    split: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Labelled:
    """The parts that rows form, their hierarchy, and notes. Without a split all rows are training images."""

    parts: dict[str, Part]
    hierarchy: Hierarchy
    notes: tuple[str, ...]


def labelled(
    rows: Sequence[Row], source: str, *, size: int, channels: int,
    hierarchy: Hierarchy | None = None, order: Callable[[str], Any] = str,
) -> Labelled:  # fmt: skip
    """Return the parts of rows. By default the training images' names form the hierarchy, sorted by ``order``.

    In a class without any subclass, the class is its own only subclass. Images of a subclass that no training image has
    keep their class.
    """
    splits: dict[str, list[Row]] = {"train": []}
    for row in rows:
        splits.setdefault(row.split or "train", []).append(row)
    if not splits["train"]:
        raise InputError(f"{source} has no training image", "at least one of every subclass")
    notes: list[str] = []
    named = names_of(splits["train"], source, notes, order) if hierarchy is None else Names.of(hierarchy)
    parts: dict[str, Part] = {}
    for split, members in splits.items():
        labels = np.array([named.label(row, strict=split == "train") for row in members], dtype=np.int64)
        parts[split] = _part(members, labels, size, channels)
        without = [row for row, label in zip(members, labels, strict=True) if label < UNLABELLED and row.subclass]
        if without:
            names = ", ".join(sorted({row.subclass for row in without}))
            notes.append(f"{source}, {split}: images of subclasses without training images count by their class "
                         f"({names}; {_listed(without)})")  # fmt: skip
        for what, chosen in (("of a class alone", labels < UNLABELLED), ("without a label", labels == UNLABELLED)):
            found = [members[at] for at in np.flatnonzero(chosen) if not members[at].subclass]
            if found:
                notes.append(f"{source}, {split}: images {what} ({_listed(found)})")
    return Labelled(parts, named.hierarchy, tuple(notes))


@dataclass(frozen=True)
class Names:
    """A hierarchy, and the label that each pair of the names of a class and a subclass stands for."""

    hierarchy: Hierarchy
    labels: dict[tuple[str, str], int]

    @classmethod
    def of(cls, hierarchy: Hierarchy) -> Names:
        """Return the pairs of a hierarchy; its subclasses may be named without their classes."""
        labels: dict[tuple[str, str], int] = {}
        for label, (class_, name) in enumerate(zip(hierarchy.class_of, hierarchy.subclass_names, strict=True)):
            labels[hierarchy.class_names[class_], name] = labels["", name] = label
        return cls(hierarchy, labels)

    def label(self, row: Row, *, strict: bool) -> int:
        """Return the label of a row; unless ``strict``, that of its class if its subclass is not in the hierarchy."""
        tree = self.hierarchy
        if not row.class_ and not row.subclass:
            return UNLABELLED
        if (row.class_, row.subclass) in self.labels:
            return self.labels[row.class_, row.subclass]
        if row.class_ not in tree.class_names or (row.subclass and strict):
            name = "class" if row.class_ and row.class_ not in tree.class_names else "subclass"
            given = f"{row.where}: {name} {(row.class_ if name == 'class' else row.subclass)!r}"
            known = "; ".join(f"{each}: {', '.join(names[:20])}" for each, names in list(tree.as_dict().items())[:5])
            raise InputError(f"{given} is not among those of the training images or of the hierarchy", known)
        class_ = tree.class_names.index(row.class_)
        own = np.flatnonzero(tree.class_of == class_)
        return int(own[0]) if len(own) == 1 and not row.subclass else -2 - class_


def names_of(rows: Sequence[Row], source: str, notes: list[str], order: Callable[[str], Any]) -> Names:
    """Return the names in rows, sorted; where two classes have subclasses of one name, all are named class/subclass."""
    members: dict[str, set[str]] = {row.class_: set() for row in rows if row.class_}
    for row in rows:
        if row.subclass and not row.class_:
            raise InputError(f"{row.where}: subclass {row.subclass!r} without its class", "a class, or a hierarchy")
        if row.subclass:
            members[row.class_].add(row.subclass)
    if not members:
        raise InputError(f"{source}: no training image has a class", "classes and subclasses, or a hierarchy")
    whole = sorted((name for name, subclasses in members.items() if not subclasses), key=order)
    if whole:
        notes.append(f"{source}: classes without subclasses are their own only ones ({', '.join(whole)})")
    pairs = [(name, each) for name in sorted(members, key=order) for each in sorted(members[name] or {name}, key=order)]
    is_unique = len({each for _, each in pairs}) == len(pairs)
    classes = list(dict.fromkeys(name for name, _ in pairs))
    class_of = np.array([classes.index(name) for name, _ in pairs])
    subclasses = tuple(each if is_unique else f"{name}/{each}" for name, each in pairs)
    return Names(Hierarchy(class_of, subclasses, tuple(classes)), {pair: at for at, pair in enumerate(pairs)})


def _part(rows: Sequence[Row], labels: np.ndarray, size: int, channels: int) -> Part:
    groups = np.array([row.group or f"({row.where})" for row in rows]) if any(row.group for row in rows) else None
    weights = np.array([row.weight for row in rows]) if any(row.weight != 1 for row in rows) else None
    paths = tuple(row.path for row in rows)
    return Part(paths, labels, None, size, channels, groups=groups, weights=weights)


def _listed(rows: Sequence[Row]) -> str:
    shown = ", ".join(row.where for row in rows[:_SHOWN])
    return f"{len(rows)}: {shown}" + (f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")
