"""The result of a distillation: a few labelled images that represent a data set."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sextet_common import checkpoint, figures, hub
from sextet_common.errors import InputError, reading
from torch import Tensor

from attention_matching.images.preprocess import ZCA, Preprocessing, check_numbers

FILE = "distilled.safetensors"  # in run folders, and on the Hub
_KIND = "distilled set"
_ZCA = ("mean", "matrix", "inverse")


@dataclass(frozen=True, eq=False)
class DistilledSet:
    """Labelled images with the preprocessing of their inputs.

    It is a map-style data set: ``len``, and indexing that gives (image, label). ``images`` are network inputs, float32,
    and ``labels`` class numbers, int64. ``meta`` records in plain JSON values how the set was made. ``soft_labels`` are
    a teacher's probabilities of every class, float32, each row of sum 1.

    Examples
    --------
    >>> import torch
    >>> as_it_is = Preprocessing(torch.zeros(1), torch.ones(1))
    >>> one = DistilledSet(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), ("a", "b"), as_it_is)
    >>> len(one), one.ipc, one[1][1]
    (2, 1.0, tensor(1))
    """

    images: Float[Tensor, "images channels height width"]
    labels: Int[Tensor, " images"]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    meta: dict[str, Any] = field(default_factory=dict)
    soft_labels: Float[Tensor, "images classes"] | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) != len(self.labels) or not len(self.images):
            raise InputError(
                "a distilled set must have images of shape (n, channels, height, width) and n labels, n >= 1, "
                f"got {tuple(self.images.shape)} with {len(self.labels)} labels"
            )
        check_numbers(images=self.images)
        if self.labels.ndim != 1 or self.labels.dtype != torch.int64:
            raise InputError(f"labels must be int64 (n,), got {self.labels.dtype} {tuple(self.labels.shape)}")
        wrong = ((self.labels < 0) | (self.labels >= len(self.classes))).nonzero()
        if len(wrong):
            label = int(self.labels[wrong[0, 0]])
            raise InputError(f"labels must be in [0, {len(self.classes) - 1}], got {label}")
        self.preprocessing.check(self.images.shape)
        if self.soft_labels is not None:
            shape = (len(self.images), len(self.classes))
            if tuple(self.soft_labels.shape) != shape:
                raise InputError(f"soft_labels must have shape {shape}, got {tuple(self.soft_labels.shape)}")
            if not self.soft_labels.is_floating_point():
                raise InputError(f"soft_labels must be float32, got {self.soft_labels.dtype}")
            # 1e-3: rows rounded to half precision are accepted.
            sums = self.soft_labels.double().sum(dim=1)
            wrong = ((self.soft_labels < 0).any(dim=1) | ~((sums - 1).abs() < 1e-3)).nonzero()
            if len(wrong):
                row = self.soft_labels[wrong[0, 0]].tolist()
                raise InputError(f"soft_labels must be >= 0 and sum to 1, got {row} for image {int(wrong[0, 0])}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    @property
    def ipc(self) -> float:
        """Images per class, on average."""
        return len(self.images) / len(self.classes)

    def pixels(self) -> Float[np.ndarray, "images channels height width"]:
        """Return the pixels, float32: the preprocessing inverted, clipped to [0, 1]."""
        return self.preprocessing.invert(self.images).clip(0, 1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save as one safetensors file, atomically; with ZCA it holds two matrices, 75 MB for 32 x 32 x 3 images."""
        prepared = self.preprocessing
        arrays = {"images": self.images, "labels": self.labels, "mean": prepared.mean, "std": prepared.std}
        if prepared.zca is not None:
            arrays |= {f"zca.{name}": getattr(prepared.zca, name) for name in _ZCA}
        if self.soft_labels is not None:
            arrays["soft_labels"] = self.soft_labels
        checkpoint.save(path, arrays, {"kind": _KIND, "classes": list(self.classes), "meta": self.meta})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DistilledSet:
        """Load a file that :meth:`save` wrote, and verify its checksum."""
        loaded = checkpoint.load(path, "torch")
        kind = loaded.meta.get("kind", "something else")
        if kind != _KIND:
            raise InputError(f"{path} is a checkpoint of {kind}", "a distilled set")
        arrays, expected = loaded.arrays, "a file that DistilledSet.save wrote"
        with reading(path, expected, KeyError, TypeError):
            classes, meta = loaded.meta["classes"], dict(loaded.meta["meta"])
            images, labels, mean, std = (arrays[name] for name in ("images", "labels", "mean", "std"))
            whitening = [arrays[f"zca.{name}"] for name in _ZCA] if "zca.mean" in arrays else None
        if not isinstance(classes, list):
            raise InputError(f"{path} has classes of {type(classes).__name__}", "a list of names")
        return cls(
            images,
            labels,
            classes=tuple(map(str, classes)),
            preprocessing=Preprocessing(mean, std, ZCA(*whitening) if whitening else None),
            meta=meta,
            soft_labels=arrays.get("soft_labels"),
        )

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], *, revision: str | None = None) -> DistilledSet:
        """Load the set of a run folder, of a folder that `export_hub` wrote, or of OWNER/NAME on the Hugging Face Hub.

        ``revision`` is a branch, tag or commit there (extra ``hub`` of sextet-common).
        """
        return cls.load(hub.local_folder(name_or_path, kind="dataset", revision=revision, only=[FILE]) / FILE)

    def save_grid(self, path: str | os.PathLike[str]) -> None:
        """Save a PNG of the images: one row per class, or one column per class for one image each."""
        figures.save_grid(self.pixels(), path, columns=len(self.classes) if self.ipc == 1 else round(self.ipc))
