"""Labels per augmented view: a teacher's probabilities of several transforms of every image, stored compactly."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Float16, Int, Int16, UInt8
from sextet_common.checks import Count, Natural, check
from sextet_common.errors import InputError
from torch import Tensor

from attention_matching.images import keyed
from attention_matching.images.augment import N_RANDOM, SiameseAugmentation

_ROUNDING = 2e-3  # of a sum of probabilities in half precision


@dataclasses.dataclass(frozen=True, eq=False)
class ViewLabels:
    """A teacher's probabilities of augmented views of every image, as in FKD (arXiv 2112.01528).

    Views are not stored: the amounts of the transform of view v of image i are a hash of (``seed``, v, i), and its
    operation is the (v modulo the number of operations)-th of ``augment``, the same for all images.

    ``probabilities`` are float16. With ``indices``, uint8 up to 256 classes and else int16, they are those of the
    classes named there, and the rest of each row is spread evenly over the other classes.

    Examples
    --------
    >>> labels = ViewLabels.of(torch.full((2, 3, 10), 0.1), SiameseAugmentation(), seed=0)
    >>> len(labels), labels.views, labels.bytes_per_image
    (2, 3, 60)
    >>> images = torch.randn(2, 1, 8, 8)
    >>> views, probabilities = labels.view(images, torch.tensor([1, 0]), number=2)
    >>> tuple(views.shape), tuple(probabilities.shape)
    ((2, 1, 8, 8), (2, 10))
    """

    probabilities: Float16[Tensor, "images views kept"]
    indices: UInt8[Tensor, "images views kept"] | Int16[Tensor, "images views kept"] | None
    n_classes: int
    augment: SiameseAugmentation
    seed: int = 0

    def __post_init__(self) -> None:
        p, kept = self.probabilities, self.indices
        check("seed", self.seed, Natural)
        if p.ndim != 3 or not p.numel() or p.dtype != torch.float16:
            raise InputError(f"probabilities of views must be float16 (n, views, kept), got {p.dtype} {tuple(p.shape)}")
        if kept is None and p.shape[2] != self.n_classes:
            raise InputError(f"probabilities of views must be of {self.n_classes} classes, got {p.shape[2]}")
        sums = p.float().sum(dim=2)
        low = 0.0 if kept is not None else 1.0
        if not bool(((p >= 0).all(dim=2) & (sums >= low - _ROUNDING) & (sums <= 1 + _ROUNDING)).all()):
            raise InputError("probabilities of views must be >= 0 and sum to 1, at most 1 for some of the classes")
        if kept is None:
            return
        if kept.shape != p.shape or kept.dtype != _index_type(self.n_classes):
            form = f"{_index_type(self.n_classes)} {tuple(p.shape)}"
            raise InputError(f"indices of views must be {form}, got {kept.dtype} {tuple(kept.shape)}")
        ordered = kept.long().sort(dim=2).values
        if int(ordered.min()) < 0 or int(ordered.max()) >= self.n_classes or bool((ordered.diff(dim=2) == 0).any()):
            raise InputError(f"indices of views must be distinct classes in [0, {self.n_classes - 1}]")

    @classmethod
    def of(
        cls,
        probabilities: Float[Tensor, "images views classes"],
        augment: SiameseAugmentation,
        seed: int = 0,
        keep: int | None = None,
    ) -> ViewLabels:
        """Store probabilities; of many classes only the ``keep`` largest of each row."""
        check("keep", keep, Count | None)
        n_classes = probabilities.shape[-1]
        if keep is None or keep >= n_classes:
            return cls(probabilities.half(), None, n_classes, augment, seed)
        largest, indices = probabilities.topk(keep, dim=2)
        return cls(largest.half(), indices.to(_index_type(n_classes)), n_classes, augment, seed)

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def views(self) -> int:
        """Number of views of an image."""
        return self.probabilities.shape[1]

    @property
    def bytes_per_image(self) -> int:
        """Bytes that the labels of an image take."""
        stored = (self.probabilities,) if self.indices is None else (self.probabilities, self.indices)
        return sum(tensor[0].numel() * tensor.element_size() for tensor in stored)

    def to(self, device: torch.device | str) -> ViewLabels:
        """Return the same labels on another device."""
        indices = None if self.indices is None else self.indices.to(device)
        return dataclasses.replace(self, probabilities=self.probabilities.to(device), indices=indices)

    def view(
        self, images: Float[Tensor, "batch channels height width"], index: Int[Tensor, " batch"], number: int
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch classes"]]:
        """Return a view of some images, ``images`` being those of ``index`` in the set, and its labels."""
        return view_of(self.augment, self.seed, images, index, number), self.labels(index, number)

    def labels(self, index: Int[Tensor, " batch"], number: int) -> Float[Tensor, "batch classes"]:
        """Return the probabilities of view ``number`` of some images, float32, rows of sum 1."""
        kept = self.probabilities[index, number].float()
        if self.indices is None:
            return kept / kept.sum(dim=1, keepdim=True)
        # In half precision the largest alone may sum to a little over 1.
        rest = (1 - kept.sum(dim=1, keepdim=True)).clamp(min=0) / (self.n_classes - kept.shape[1])
        rows = rest.repeat(1, self.n_classes).scatter_(1, self.indices[index, number].long(), kept)
        return rows / rows.sum(dim=1, keepdim=True)

    def arrays(self) -> dict[str, Tensor]:
        """Return the tensors to save, by name."""
        return {"probabilities": self.probabilities} | ({} if self.indices is None else {"indices": self.indices})

    @cached_property
    def description(self) -> dict[str, Any]:
        """The other fields as plain JSON values."""
        return {"n_classes": self.n_classes, "seed": self.seed, "augment": dataclasses.asdict(self.augment)}

    @classmethod
    def restored(cls, arrays: dict[str, Tensor], description: dict[str, Any]) -> ViewLabels:
        """Return the labels of :meth:`arrays` and :attr:`description`."""
        augment = dict(description["augment"])
        augment["operations"] = tuple(augment["operations"])
        seed, n_classes = int(description["seed"]), int(description["n_classes"])
        return cls(arrays["probabilities"], arrays.get("indices"), n_classes, SiameseAugmentation(**augment), seed)


Targets: TypeAlias = Int[Tensor, " images"] | Float[Tensor, "images classes"] | ViewLabels
"""What networks are trained to give: class numbers, probabilities, or those of augmented views."""


def view_of(
    augment: SiameseAugmentation,
    seed: int,
    images: Float[Tensor, "batch channels height width"],
    index: Int[Tensor, " batch"],
    number: int,
) -> Float[Tensor, "batch channels height width"]:
    """Return view ``number`` of images; ``index`` are their numbers in the set.

    Examples
    --------
    >>> images, augment = torch.randn(3, 1, 8, 8), SiameseAugmentation()
    >>> every = view_of(augment, 0, images, torch.arange(3), number=1)
    >>> bool((view_of(augment, 0, images[1:2], torch.tensor([1]), number=1) == every[1:2]).all())
    True
    """
    if not augment.operations:
        return images
    # One operation for all images of a view, as in a batch of the papers' evaluation, and each equally often.
    operation = augment.operations[number % len(augment.operations)]
    keys = keyed.fold(keyed.fold(keyed.key(seed, "views", index.device), number), index)
    return dataclasses.replace(augment, operations=(operation,))(images, keyed.uniform(keys, N_RANDOM))


def _index_type(n_classes: int) -> torch.dtype:
    if n_classes > torch.iinfo(torch.int16).max + 1:
        raise InputError(f"{n_classes} classes", "at most 32768 for the largest probabilities of views")
    return torch.uint8 if n_classes <= 256 else torch.int16
