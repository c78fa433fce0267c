"""Class logits as sums over subclasses, in a module whose index tensors follow it to a device."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from sextet_common.errors import InputError
from torch import Tensor, nn
from torch.nn import functional


class Grouping(Protocol):
    """What says the class of each subclass: a `Hierarchy`."""

    @property
    def class_of(self) -> Int[np.ndarray, " subclasses"]:
        """The class of each subclass."""

    @property
    def n_classes(self) -> int:
        """The number of classes."""


class ClassSum(nn.Module):
    """Class logits from subclass logits: the softmax of the result sums the subclasses' probabilities.

    The index tensors are buffers that are not saved: ``to`` moves them once, and no call copies anything from the host.
    `torch.compile`, `torch.export` and the transforms of `torch.func` work.

    Examples
    --------
    >>> from subclass_kd import Hierarchy
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> ClassSum(pets)(torch.zeros(1, 3)).softmax(dim=1)
    tensor([[0.6667, 0.3333]])
    """

    class_of: Tensor  # (subclasses,)
    class_of_code: Tensor  # (classes + 1 + subclasses,): the class of every label, from the lowest, -1 - classes
    members: Tensor  # (classes * largest class,): the subclasses of each class, padded with subclass 0
    padding: Tensor  # (classes, largest class)
    sizes: Tensor  # (subclasses,): the number of subclasses in the class of each

    def __init__(self, hierarchy: Grouping) -> None:
        super().__init__()
        class_of = torch.tensor(hierarchy.class_of)
        self.n_subclasses, self.n_classes = len(class_of), hierarchy.n_classes
        sizes = torch.bincount(class_of, minlength=self.n_classes)
        self.padded = bool((sizes != sizes[0]).any())
        shape = self.shape = self.n_classes, int(sizes.max())
        members, padding = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
        for label, size in enumerate(sizes.tolist()):
            members[label, :size] = (class_of == label).nonzero()[:, 0]
            padding[label, size:] = True
        tensors = {
            "class_of": class_of, "members": members.flatten(), "padding": padding, "sizes": sizes[class_of],
            "class_of_code": torch.cat([torch.arange(self.n_classes - 1, -2, -1), class_of]),
        }  # fmt: skip
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, subclass_logits: Float[Tensor, "batch subclasses"]) -> Float[Tensor, "batch classes"]:
        """Compute the logsumexp of each class's subclass logits."""
        if subclass_logits.ndim != 2 or subclass_logits.shape[1] != self.n_subclasses:
            given = f"subclass logits have shape {tuple(subclass_logits.shape)}"
            raise InputError(given, f"(batch, {self.n_subclasses})")
        grouped = subclass_logits.index_select(1, self.members).view(subclass_logits.shape[0], *self.shape)
        if self.padded:
            grouped = grouped.masked_fill(self.padding, -math.inf)
        return torch.logsumexp(grouped, dim=2)

    def class_labels(self, labels: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Return the class (int64) of every label, and -1 for -1: see `Hierarchy.class_labels`."""
        return self.class_of_code[labels.long() + (self.n_classes + 1)]

    def softened(
        self,
        subclass_logits: Float[Tensor, "batch subclasses"],
        temperature: float,
        *,
        normalize_groups: bool = False,
    ) -> Float[Tensor, "batch subclasses"]:
        """Return logits / temperature, minus the log of the size of each subclass's class with `normalize_groups`."""
        logits = subclass_logits / temperature
        return logits - self.sizes.to(logits.dtype).log() if normalize_groups else logits

    def log_probs(
        self,
        subclass_logits: Float[Tensor, "batch subclasses"],
        temperature: float = 1.0,
        *,
        normalize_groups: bool = False,
    ) -> Float[Tensor, "batch classes"]:
        """Return the log probabilities of the classes: see `Hierarchy.class_log_probs`."""
        softened = self.softened(subclass_logits, temperature, normalize_groups=normalize_groups)
        return functional.log_softmax(self(softened), dim=1)
