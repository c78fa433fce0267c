"""Which class a subclass belongs to, and what subclass logits say about classes."""

from __future__ import annotations

import csv
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
from sextet_common.errors import InputError, reading
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """A class for every subclass.

    Parameters
    ----------
    class_of
        The class of each subclass, whole numbers from 0, shape (subclasses,).
    subclass_names
        Names of the subclasses, none twice.
    class_names
        Names of the classes, none twice. Each class has a subclass at least.

    Raises
    ------
    InputError
        Where a subclass has no class, a class no subclass, or names do not fit.

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
        given = np.asarray(self.class_of)
        if given.ndim != 1 or not len(given) or given.dtype.kind not in "iu":
            raise InputError(f"class_of is {given.dtype} of shape {given.shape}", "whole numbers, shape (subclasses,)")
        owned = given.astype(np.int64)
        owned.setflags(write=False)
        object.__setattr__(self, "class_of", owned)
        object.__setattr__(self, "subclass_names", tuple(map(str, self.subclass_names)))
        object.__setattr__(self, "class_names", tuple(map(str, self.class_names)))
        self.validate()

    def validate(self) -> None:
        """Raise InputError where the parts do not fit each other."""
        n_classes = len(self.class_names)
        if len(self.subclass_names) != len(self.class_of):
            given = f"{len(self.subclass_names)} names for {len(self.class_of)} subclasses"
            raise InputError(given, "one name for each subclass")
        for kind, names in (("subclass", self.subclass_names), ("class", self.class_names)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise InputError(f"the {kind} name {twice[0]!r} is given twice", "every name once")
        for name, label in zip(self.subclass_names, self.class_of.tolist(), strict=True):
            if not 0 <= label < n_classes:
                raise InputError(f"subclass {name!r} has class {label}", f"a class from 0 to {n_classes - 1}")
        without = sorted(set(range(n_classes)) - set(self.class_of.tolist()))
        if without:
            raise InputError(f"class {self.class_names[without[0]]!r} has no subclass", "one at least for every class")

    @property
    def n_subclasses(self) -> int:
        """How many subclasses there are."""
        return len(self.class_of)

    @property
    def n_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def sizes(self) -> Int[np.ndarray, " classes"]:
        """How many subclasses each class has."""
        return np.bincount(self.class_of, minlength=self.n_classes)

    @cached_property
    def _members(self) -> tuple[Tensor, Tensor]:
        """For each class the columns of its subclasses, filled up with column 0, and which of them are filling."""
        width = int(self.sizes.max())
        columns, filling = np.zeros((self.n_classes, width), dtype=np.int64), np.ones((self.n_classes, width), bool)
        for label in range(self.n_classes):
            own = np.flatnonzero(self.class_of == label)
            columns[label, : len(own)], filling[label, : len(own)] = own, False
        return torch.from_numpy(columns), torch.from_numpy(filling)

    def class_logits(self, subclass_logits: Float[Tensor, "batch subclasses"]) -> Float[Tensor, "batch classes"]:
        """Return each class's logit: the log of the sum of the exponentials of its subclasses' logits.

        Parameters
        ----------
        subclass_logits
            Shape (batch, subclasses).

        Returns
        -------
        Tensor
            Shape (batch, classes); their softmax is the sum of the subclasses' softmax.

        Raises
        ------
        InputError
            Where the number of columns is another.
        """
        if subclass_logits.ndim != 2 or subclass_logits.shape[1] != self.n_subclasses:
            given = f"subclass logits have shape {tuple(subclass_logits.shape)}"
            raise InputError(given, f"(batch, {self.n_subclasses})")
        columns, filling = (tensor.to(subclass_logits.device) for tensor in self._members)
        return torch.logsumexp(subclass_logits[:, columns].masked_fill(filling, -math.inf), dim=-1)

    def class_log_probs(
        self,
        subclass_logits: Float[Tensor, "batch subclasses"],
        temperature: float = 1.0,
        *,
        normalize_groups: bool = False,
    ) -> Float[Tensor, "batch classes"]:
        """Return the classes' log probabilities: log of the sum of their softened subclasses.

        This is not the softmax of softened class logits, unless the temperature is 1.

        Parameters
        ----------
        subclass_logits
            Shape (batch, subclasses).
        temperature
            Divides the subclass logits.
        normalize_groups
            Divide each class's sum by its number of subclasses before normalising: otherwise, as the temperature
            grows, a class of more subclasses gets more mass just by their number.

        Returns
        -------
        Tensor
            Shape (batch, classes).

        Raises
        ------
        InputError
            Where the number of columns is another, or the temperature is not positive.
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
        """Return subclass logits over the temperature, less the log of their class's size with normalised groups."""
        if not temperature > 0 or not math.isfinite(temperature):
            raise InputError(f"the temperature is {temperature}", "a positive number")
        logits = subclass_logits / temperature
        if normalize_groups:
            size = torch.from_numpy(self.sizes[self.class_of]).to(logits.device)
            logits = logits - size.to(logits.dtype).log()
        return logits

    def class_labels(self, subclass_labels: Any) -> Any:
        """Return the classes of subclass labels, as an array or a tensor like them.

        Parameters
        ----------
        subclass_labels
            Whole numbers, an array or a tensor of any shape.

        Returns
        -------
        array or Tensor
            int64, of the same shape.

        Raises
        ------
        InputError
            Where a label is out of range. Of a tensor on a GPU the values are not looked at.
        """
        if isinstance(subclass_labels, Tensor):
            if subclass_labels.device.type == "cpu":
                self.check_labels(subclass_labels.numpy())
            return torch.tensor(self.class_of, device=subclass_labels.device)[subclass_labels.long()]
        labels = self.check_labels(np.asarray(subclass_labels))
        return self.class_of[labels]

    def check_labels(self, labels: Integer[np.ndarray, "*shape"]) -> Integer[np.ndarray, "*shape"]:
        """Return subclass labels, or raise InputError where they are no whole numbers in range."""
        if labels.dtype.kind not in "iu":
            raise InputError(f"subclass labels are {labels.dtype}", "whole numbers")
        if labels.size and not 0 <= labels.min() <= labels.max() < self.n_subclasses:
            wrong = labels[(labels < 0) | (labels >= self.n_subclasses)].flatten()[0]
            raise InputError(f"a subclass label is {wrong}", f"whole numbers from 0 to {self.n_subclasses - 1}")
        return labels

    def collapsed(self) -> Hierarchy:
        """Return the hierarchy of the classes alone, each its own only subclass."""
        return Hierarchy(np.arange(self.n_classes), self.class_names, self.class_names)

    def as_dict(self) -> dict[str, list[str]]:
        """Return each class's subclasses by name; what `from_dict` takes, where subclasses are in order of classes."""
        return {
            name: [self.subclass_names[s] for s in np.flatnonzero(self.class_of == label)]
            for label, name in enumerate(self.class_names)
        }

    @classmethod
    def from_dict(cls, subclasses: Mapping[str, Sequence[str]]) -> Hierarchy:
        """Build from each class's subclasses, numbered in this order.

        Parameters
        ----------
        subclasses
            Class names to lists of subclass names.

        Returns
        -------
        Hierarchy
            The hierarchy.

        Raises
        ------
        InputError
            Where a class has no subclass or a name is given twice.
        """
        if not subclasses:
            raise InputError("no class is given", "one class at least, with its subclasses")
        class_of = [label for label, names in enumerate(subclasses.values()) for _ in names]
        names = tuple(name for names in subclasses.values() for name in names)
        if not class_of:
            raise InputError(f"class {next(iter(subclasses))!r} has no subclass", "one at least for every class")
        return cls(np.array(class_of, dtype=np.int64), names, tuple(subclasses))

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> Hierarchy:
        """Read from a table with the columns ``class`` and ``subclass``, a line for each subclass.

        Parameters
        ----------
        path
            The file. Classes and subclasses are numbered in the order in which they come.

        Returns
        -------
        Hierarchy
            The hierarchy.

        Raises
        ------
        InputError
            Where the file is missing or broken, or a subclass is without a class: its line is named.
        """
        path = Path(path)
        expected = "a table of classes and subclasses with commas, in UTF-8"
        with reading(path, expected), path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
        if not lines or not {"class", "subclass"} <= set(lines[0]):
            raise InputError(f"{path} lacks a column", "class and subclass in its first line")
        head = lines[0]
        found: dict[str, list[str]] = {}
        for number, line in enumerate(lines[1:], start=2):
            if not line:
                continue
            values = dict(zip(head, line, strict=False))
            if not values.get("class") or not values.get("subclass"):
                given = f"{path}, line {number}: subclass {values.get('subclass')!r} of class {values.get('class')!r}"
                raise InputError(given, "a name for both")
            found.setdefault(values["class"], []).append(values["subclass"])
        return cls.from_dict(found)

    @classmethod
    def from_folder(cls, root: str | os.PathLike[str]) -> Hierarchy:
        """Read from folders two levels deep, ROOT/class/subclass, in alphabetical order, as torchvision has it.

        A subclass is called ``class/subclass``, so that two classes may have subclasses of one name.

        Parameters
        ----------
        root
            The folder.

        Returns
        -------
        Hierarchy
            The hierarchy.

        Raises
        ------
        InputError
            Where there is no such folder, or a class has no folder in it.
        """
        root = Path(root)
        if not root.is_dir():
            raise InputError(f"{root} is no folder", "a folder of class folders, with subclass folders in them")
        classes = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
        return cls.from_dict(
            {
                name: sorted(f"{name}/{p.name}" for p in (root / name).iterdir() if p.is_dir() and p.name[0] != ".")
                for name in classes
            }
        )
