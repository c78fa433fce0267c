"""The class of each subclass, and class probabilities from subclass logits."""

from __future__ import annotations

import json
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

from subclass_kd.class_sum import ClassSum
from subclass_kd.csv_table import IMAGE, read_csv

UNLABELLED = -1
"""The label of an image of which neither the class nor the subclass is known."""


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """A two-level hierarchy: every subclass belongs to one class, and every class has at least one subclass.

    ``class_of`` holds the class of each subclass, whole numbers from 0. All names are unique; by default they are the
    numbers. Hierarchies of the same names in the same order are equal.

    A label is the number of a subclass; -1 if nothing is known, or -(2 + c) if only the class c is known.

    Examples
    --------
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> pets.class_of.tolist(), pets.class_labels(np.array([2, 0, 1])).tolist()
    ([0, 0, 1], [1, 0, 0])
    >>> pets.class_log_probs(torch.zeros(1, 3)).exp()
    tensor([[0.6667, 0.3333]])
    >>> Hierarchy(np.array([0, 0, 1])).as_dict()
    {'0': ['0', '1'], '1': ['2']}
    """

    class_of: Int[np.ndarray, " subclasses"]
    subclass_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        class_of = np.asarray(self.class_of)
        if class_of.ndim != 1 or not len(class_of) or class_of.dtype.kind not in "iu":
            given = f"class_of has dtype {class_of.dtype} and shape {class_of.shape}"
            raise InputError(given, "whole numbers of shape (subclasses,)")
        class_of = class_of.astype(np.int64)
        class_of.setflags(write=False)
        object.__setattr__(self, "class_of", class_of)
        for kind, count in (("subclass_names", len(class_of)), ("class_names", int(class_of.max()) + 1)):
            names = tuple(map(str, getattr(self, kind))) or tuple(map(str, range(min(count, len(class_of)))))
            object.__setattr__(self, kind, names)
        self.validate()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hierarchy) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[object, ...]:
        return self.class_of.tobytes(), self.subclass_names, self.class_names

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
    def _sums(self) -> dict[torch.device, ClassSum]:
        return {}

    def class_sum(self, device: torch.device) -> ClassSum:
        """Return the module that sums over subclasses, on a device, to which its index tensors are copied once."""
        if device not in self._sums:
            self._sums[device] = ClassSum(self).to(device)
        return self._sums[device]

    def class_logits(self, subclass_logits: Float[Tensor, "batch subclasses"]) -> Float[Tensor, "batch classes"]:
        """Return class logits: the logsumexp of the subclasses' logits, so that their softmax sums the subclasses'."""
        logits: Tensor = self.class_sum(subclass_logits.device)(subclass_logits)
        return logits

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
        check("temperature", temperature, Positive)
        sums = self.class_sum(subclass_logits.device)
        return sums.log_probs(subclass_logits, temperature, normalize_groups=normalize_groups)

    def softened(
        self,
        subclass_logits: Float[Tensor, "batch subclasses"],
        temperature: float,
        *,
        normalize_groups: bool = False,
    ) -> Float[Tensor, "batch subclasses"]:
        """Return logits / temperature, minus the log of the size of each subclass's class with `normalize_groups`."""
        check("temperature", temperature, Positive)
        sums = self.class_sum(subclass_logits.device)
        return sums.softened(subclass_logits, temperature, normalize_groups=normalize_groups)

    def class_labels(self, labels: Any) -> Any:
        """Return the classes (int64) of an array or tensor of labels of any shape.

        A label is a subclass, or -(2 + c) where only the class c is known; -1 is unlabelled, and so is its class. The
        values of a tensor on a GPU are not checked, which would wait for the device.

        Examples
        --------
        >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
        >>> pets.class_labels(np.array([1, 2, -2, -3, -1])).tolist()
        [0, 1, 0, 1, -1]
        """
        if isinstance(labels, Tensor):
            if labels.device.type == "cpu":
                self.check_labels(labels.detach().numpy(), all_known=False)
            return self.class_sum(labels.device).class_labels(labels)
        labels = self.check_labels(np.asarray(labels), all_known=False)
        return self.class_sum(torch.device("cpu")).class_of_code.numpy()[labels.astype(np.int64) + self.n_classes + 1]

    def class_only(self, classes: Any) -> Any:
        """Return the labels (int64) of images whose class is known and whose subclass is not: -(2 + class).

        Examples
        --------
        >>> Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]}).class_only(np.array([0, 1]))
        array([-2, -3])
        """
        if isinstance(classes, Tensor):
            return -2 - classes.long()
        classes = np.asarray(classes)
        if classes.dtype.kind not in "iu":
            raise InputError(f"class labels have dtype {classes.dtype}", "whole numbers")
        if classes.size and not 0 <= classes.min() <= classes.max() < self.n_classes:
            wrong = classes[(classes < 0) | (classes >= self.n_classes)].flatten()[0]
            raise InputError(f"class label {wrong}", f"whole numbers from 0 to {self.n_classes - 1}")
        return -2 - classes.astype(np.int64)

    def check_labels(
        self, labels: Integer[np.ndarray, "*shape"], *, all_known: bool = True
    ) -> Integer[np.ndarray, "*shape"]:
        """Return labels; raise InputError unless they are whole numbers in range.

        They must be subclasses unless ``all_known`` is False: then -1 (unlabelled) and -(2 + c) (class c) may occur.
        """
        if labels.dtype.kind not in "iu":
            raise InputError(f"subclass labels have dtype {labels.dtype}", "whole numbers")
        lowest = 0 if all_known else -1 - self.n_classes
        if labels.size and not lowest <= labels.min() <= labels.max() < self.n_subclasses:
            wrong = labels[(labels < lowest) | (labels >= self.n_subclasses)].flatten()[0]
            unknown = "" if all_known else f", -1 (unlabelled), or -2 to {lowest} (class only)"
            raise InputError(f"subclass label {wrong}", f"whole numbers from 0 to {self.n_subclasses - 1}{unknown}")
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
    def from_dict(cls, subclasses: Mapping[str, Sequence[str] | int]) -> Hierarchy:
        """Build from a mapping of class names to lists of subclass names, or to their number, numbered in this order.

        Examples
        --------
        >>> Hierarchy.from_dict({"HP": 2, "SSA": ["clear"]}).as_dict()
        {'HP': ['HP 0', 'HP 1'], 'SSA': ['clear']}
        """
        if not subclasses:
            raise InputError("no class is given", "at least one class with its subclasses")
        lists = {str(name): _names(name, value) for name, value in subclasses.items()}
        class_of = [label for label, names in enumerate(lists.values()) for _ in names]
        if not class_of:
            raise InputError(f"class {next(iter(lists))!r} has no subclass", "at least one for every class")
        return cls(np.array(class_of), tuple(name for names in lists.values() for name in names), tuple(lists))

    @classmethod
    def of(cls, value: Hierarchy | Mapping[str, Any] | str | os.PathLike[str]) -> Hierarchy:
        """Build from any of the usual forms.

        A mapping gives each subclass the name of its class, or each class the list or the number of its subclasses; a
        JSON file holds such a mapping; a CSV table is as for `from_csv`.

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
        if not any(isinstance(names, str) for names in value.values()):
            return cls.from_dict(value)
        subclasses: dict[str, list[str]] = {}
        for subclass, name in value.items():
            if not isinstance(name, str):
                accepted = "names of classes for all subclasses, or a list or a number of subclasses for all classes"
                raise InputError(f"the hierarchy gives {subclass!r} the value {name!r}, and others a name", accepted)
            subclasses.setdefault(name, []).append(str(subclass))
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
        """Read a CSV table with the columns ``class`` and ``subclass`` and one row per subclass, or per image.

        Classes and subclasses are numbered by first appearance. The delimiter is recognised, and the case of the header
        does not matter. In a table of images, those without a subclass are left out.
        """
        subclasses: dict[str, list[str]] = {}
        for number, row in read_csv(path, {"class": (), "subclass": (), "image": IMAGE}, ("class", "subclass")):
            if not row["class"] or not row["subclass"]:
                if row["image"]:
                    continue
                given = f"{path}, line {number}: subclass {row['subclass']!r} of class {row['class']!r}"
                raise InputError(given, "a name for both")
            names = subclasses.setdefault(row["class"], [])
            if row["subclass"] not in names:
                names.append(row["subclass"])
            elif not row["image"]:
                raise InputError(f"{path}, line {number}: duplicate subclass name {row['subclass']!r}", "each once")
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


def _names(name: object, value: object) -> list[str]:
    """Return the names of a class's subclasses, given as a list or as their number."""
    if isinstance(value, list | tuple):
        return [str(subclass) for subclass in value]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return [f"{name} {number}" for number in range(value)]
    raise InputError(f"the subclasses of class {name!r} are {value!r}", "a list of names, or their number, at least 1")
