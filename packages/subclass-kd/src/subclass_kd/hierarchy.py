"""The class of each subclass, and class probabilities from subclass logits."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from sextet_common.checks import Positive, check
from sextet_common.errors import InputError, reading
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """A two-level hierarchy: every subclass belongs to one class, and every class has at least one subclass.

    ``class_of`` holds the class of each subclass, whole numbers from 0. All names are unique.

    Examples
    --------
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> pets.class_of.tolist(), pets.class_labels(np.array([2, 0, 1])).tolist()
    ([0, 0, 1], [1, 0, 0])
    >>> pets.class_log_probs(torch.zeros(1, 3)).exp()
    tensor([[0.6667, 0.3333]])
    """

    class_of: Int[np.ndarray, " subclasses"]
    subclass_names: tuple[str, ...]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        class_of = np.asarray(self.class_of)
        if class_of.ndim != 1 or not len(class_of) or class_of.dtype.kind not in "iu":
            given = f"class_of has dtype {class_of.dtype} and shape {class_of.shape}"
            raise InputError(given, "whole numbers of shape (subclasses,)")
        class_of = class_of.astype(np.int64)
        class_of.setflags(write=False)
        object.__setattr__(self, "class_of", class_of)
        object.__setattr__(self, "subclass_names", tuple(map(str, self.subclass_names)))
        object.__setattr__(self, "class_names", tuple(map(str, self.class_names)))
        self.validate()

    def validate(self) -> None:
        """Raise InputError if names and classes do not fit together."""
        if len(self.subclass_names) != len(self.class_of):
            given = f"{len(self.subclass_names)} names for {len(self.class_of)} subclasses"
            raise InputError(given, "one name per subclass")
        for kind, names in (("subclass", self.subclass_names), ("class", self.class_names)):
            duplicates = sorted({name for name in names if names.count(name) > 1})
            if duplicates:
                raise InputError(f"duplicate {kind} name {duplicates[0]!r}", "unique names")
        for name, label in zip(self.subclass_names, self.class_of.tolist(), strict=True):
            if not 0 <= label < self.n_classes:
                raise InputError(f"subclass {name!r} has class {label}", f"a class from 0 to {self.n_classes - 1}")
        empty = sorted(set(range(self.n_classes)) - set(self.class_of.tolist()))
        if empty:
            raise InputError(f"class {self.class_names[empty[0]]!r} has no subclass", "at least one for every class")

    @property
    def n_subclasses(self) -> int:
        """Number of subclasses."""
        return len(self.class_of)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def sizes(self) -> Int[np.ndarray, " classes"]:
        """Number of subclasses of each class."""
        return np.bincount(self.class_of, minlength=self.n_classes)

    @cached_property
    def _members(self) -> tuple[Tensor, Tensor]:
        """The columns of each class's subclasses, padded with column 0, and the mask of the padding."""
        width = int(self.sizes.max())
        columns, padding = np.zeros((self.n_classes, width), dtype=np.int64), np.ones((self.n_classes, width), bool)
        for label in range(self.n_classes):
            members = np.flatnonzero(self.class_of == label)
            columns[label, : len(members)], padding[label, : len(members)] = members, False
        return torch.from_numpy(columns), torch.from_numpy(padding)

    def class_logits(self, subclass_logits: Float[Tensor, "batch subclasses"]) -> Float[Tensor, "batch classes"]:
        """Return class logits: the logsumexp of the subclasses' logits, so that their softmax sums the subclasses'."""
        if subclass_logits.ndim != 2 or subclass_logits.shape[1] != self.n_subclasses:
            given = f"subclass logits have shape {tuple(subclass_logits.shape)}"
            raise InputError(given, f"(batch, {self.n_subclasses})")
        columns, padding = (tensor.to(subclass_logits.device) for tensor in self._members)
        return torch.logsumexp(subclass_logits[:, columns].masked_fill(padding, -math.inf), dim=-1)

    def class_log_probs(
        self,
        subclass_logits: Float[Tensor, "batch subclasses"],
        temperature: float = 1.0,
        *,
        normalize_groups: bool = False,
    ) -> Float[Tensor, "batch classes"]:
        """Return the log probabilities of the classes: the log of the sum of their softened subclass probabilities.

        This differs from the softmax of softened class logits unless the temperature is 1. ``normalize_groups`` divides
        each class's sum by its number of subclasses before normalising. Otherwise a class with more subclasses gains
        mass from their number alone as the temperature grows.
        """
        softened = self.softened(subclass_logits, temperature, normalize_groups=normalize_groups)
        return functional.log_softmax(self.class_logits(softened), dim=1)

    def softened(
        self,
        subclass_logits: Float[Tensor, "batch subclasses"],
        temperature: float,
        *,
        normalize_groups: bool = False,
    ) -> Float[Tensor, "batch subclasses"]:
        """Return logits / temperature, minus the log of the size of each subclass's class with `normalize_groups`."""
        check("temperature", temperature, Positive)
        logits = subclass_logits / temperature
        if normalize_groups:
            size = torch.from_numpy(self.sizes[self.class_of]).to(logits.device)
            logits = logits - size.to(logits.dtype).log()
        return logits

    def class_labels(self, subclass_labels: Any) -> Any:
        """Return the classes (int64) of an array or tensor of subclass labels of any shape.

        The values of a tensor on a GPU are not checked, which would wait for the device.
        """
        if isinstance(subclass_labels, Tensor):
            if subclass_labels.device.type == "cpu":
                self.check_labels(subclass_labels.numpy())
            return torch.tensor(self.class_of, device=subclass_labels.device)[subclass_labels.long()]
        return self.class_of[self.check_labels(np.asarray(subclass_labels))]

    def check_labels(self, labels: Integer[np.ndarray, "*shape"]) -> Integer[np.ndarray, "*shape"]:
        """Return subclass labels; raise InputError unless they are whole numbers in range."""
        if labels.dtype.kind not in "iu":
            raise InputError(f"subclass labels have dtype {labels.dtype}", "whole numbers")
        if labels.size and not 0 <= labels.min() <= labels.max() < self.n_subclasses:
            wrong = labels[(labels < 0) | (labels >= self.n_subclasses)].flatten()[0]
            raise InputError(f"subclass label {wrong}", f"whole numbers from 0 to {self.n_subclasses - 1}")
        return labels

    def collapsed(self) -> Hierarchy:
        """Return the hierarchy in which each class is its own only subclass."""
        return Hierarchy(np.arange(self.n_classes), self.class_names, self.class_names)

    def as_dict(self) -> dict[str, list[str]]:
        """Return the names of each class's subclasses; the inverse of `from_dict` if subclasses are sorted by class."""
        return {
            name: [self.subclass_names[s] for s in np.flatnonzero(self.class_of == label)]
            for label, name in enumerate(self.class_names)
        }

    @classmethod
    def from_dict(cls, subclasses: Mapping[str, Sequence[str]]) -> Hierarchy:
        """Build from a mapping of class names to lists of subclass names, numbered in this order."""
        if not subclasses:
            raise InputError("no class is given", "at least one class with its subclasses")
        class_of = [label for label, names in enumerate(subclasses.values()) for _ in names]
        names = tuple(name for names in subclasses.values() for name in names)
        if not class_of:
            raise InputError(f"class {next(iter(subclasses))!r} has no subclass", "at least one for every class")
        return cls(np.array(class_of, dtype=np.int64), names, tuple(subclasses))

    @classmethod
    def of(cls, value: Hierarchy | Mapping[str, Any] | str | os.PathLike[str]) -> Hierarchy:
        """Build from any of the usual forms.

        A mapping gives each subclass its class, or each class the list of its subclasses; a JSON file holds such a
        mapping; a CSV table is as for `from_csv`.

        Examples
        --------
        >>> Hierarchy.of({"siamese": "cat", "poodle": "dog", "persian": "cat"}).as_dict()
        {'cat': ['siamese', 'persian'], 'dog': ['poodle']}
        """
        if isinstance(value, Hierarchy):
            return value
        if not isinstance(value, Mapping):
            path = Path(value).expanduser()
            if path.suffix.lower() != ".json":
                return cls.from_csv(path)
            with reading(path, "a JSON object that names each subclass's class, in UTF-8"):
                value = json.loads(path.read_text(encoding="utf-8-sig"))
            if not isinstance(value, Mapping):
                raise InputError(f"{path} holds no JSON object", '{"subclass": "class", ...}')
        lists = [isinstance(names, list | tuple) for names in value.values()]
        if any(lists):
            if not all(lists):
                wrong = next(key for key, is_list in zip(value, lists, strict=True) if not is_list)
                raise InputError(f"class {wrong!r} has no list of subclasses", "a list for every class")
            return cls.from_dict({str(name): [str(subclass) for subclass in names] for name, names in value.items()})
        subclasses: dict[str, list[str]] = {}
        for subclass, name in value.items():
            if not isinstance(name, str | int) or isinstance(name, bool):
                raise InputError(f"the class of {subclass!r} is {name!r}", "the name of a class")
            subclasses.setdefault(str(name), []).append(str(subclass))
        return cls.from_dict(subclasses)

    def ordered(self, names: Sequence[str]) -> Hierarchy:
        """Return the hierarchy with its subclasses in another order, such as that of the labels of a data set."""
        missing = set(names) ^ set(self.subclass_names)
        if missing:
            name = min(missing)
            where = "not in the data" if name in self.subclass_names else "not in the hierarchy"
            raise InputError(f"subclass {name!r} is {where}", f"the subclasses {', '.join(map(str, names[:20]))}")
        position = {name: self.subclass_names.index(name) for name in names}
        return Hierarchy(self.class_of[[position[name] for name in names]], tuple(names), self.class_names)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> Hierarchy:
        """Read a CSV table with the columns ``class`` and ``subclass`` and one row per subclass.

        Classes and subclasses are numbered by first appearance.
        """
        path = Path(path)
        expected = "a UTF-8 CSV table of classes and subclasses"
        with reading(path, expected), path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
        if not lines or not {"class", "subclass"} <= set(lines[0]):
            raise InputError(f"{path} lacks a column", "class and subclass in its first line")
        subclasses: dict[str, list[str]] = {}
        for number, line in enumerate(lines[1:], start=2):
            if not line:
                continue
            row = dict(zip(lines[0], line, strict=False))
            if not row.get("class") or not row.get("subclass"):
                given = f"{path}, line {number}: subclass {row.get('subclass')!r} of class {row.get('class')!r}"
                raise InputError(given, "a name for both")
            subclasses.setdefault(row["class"], []).append(row["subclass"])
        return cls.from_dict(subclasses)

    @classmethod
    def from_folder(cls, root: str | os.PathLike[str]) -> Hierarchy:
        """Read a folder tree ROOT/class/subclass in alphabetical order, as torchvision does.

        A subclass is named ``class/subclass``, so that two classes may have subclasses of the same name.
        """
        root = Path(root)
        if not root.is_dir():
            raise InputError(f"{root} is not a folder", "a folder of class folders that contain subclass folders")
        classes = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
        return cls.from_dict(
            {
                name: sorted(f"{name}/{p.name}" for p in (root / name).iterdir() if p.is_dir() and p.name[0] != ".")
                for name in classes
            }
        )
