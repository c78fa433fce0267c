"""The result of a distillation: a few labelled images that stand for a data set."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sextet_common import checkpoint, figures
from sextet_common.errors import InputError, reading
from torch import Tensor

from attention_matching.images.preprocess import ZCA, Preprocessing, check_numbers

_KIND = "distilled set"
_ZCA = ("mean", "matrix", "inverse")


@dataclass(frozen=True, eq=False)
class DistilledSet:
    """Labelled images with the preprocessing that they live in.

    It is a map-style data set: ``len``, and indexing that gives (image, label).

    Parameters
    ----------
    images
        A network's input, float32, shape (images, channels, height, width).
    labels
        Class numbers, int64, shape (images,).
    classes
        The classes' names.
    preprocessing
        How the real images became a network's input.
    meta
        How the set was made: plain JSON values.
    soft_labels
        A probability for every class, float32, shape (images, classes), each row of sum 1:
        what a teacher says of the image. None where the labels are all there is.

    Raises
    ------
    InputError
        Where shapes or types are others, a number is not finite, a label is out of range or soft labels are no
        probabilities.

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
                f"images of shape {tuple(self.images.shape)} with {len(self.labels)} labels",
                "(n, channels, height, width) and n labels, n >= 1",
            )
        check_numbers(images=self.images)
        if self.labels.ndim != 1 or self.labels.dtype != torch.int64:
            raise InputError(f"labels of {self.labels.dtype}, shape {tuple(self.labels.shape)}", "int64 of shape (n,)")
        wrong = ((self.labels < 0) | (self.labels >= len(self.classes))).nonzero()
        if len(wrong):
            raise InputError(f"label {int(self.labels[wrong[0, 0]])} is out of range", f"0 to {len(self.classes) - 1}")
        self.preprocessing.check(self.images.shape)
        if self.soft_labels is not None:
            shape = (len(self.images), len(self.classes))
            if tuple(self.soft_labels.shape) != shape:
                raise InputError(f"soft labels of shape {tuple(self.soft_labels.shape)}", f"{shape}")
            if not self.soft_labels.is_floating_point():
                raise InputError(f"soft labels of {self.soft_labels.dtype}", "float32")
            # 1e-3: rows that were rounded to half precision still count as probabilities.
            sums = self.soft_labels.double().sum(dim=1)
            wrong = ((self.soft_labels < 0).any(dim=1) | ~((sums - 1).abs() < 1e-3)).nonzero()
            if len(wrong):
                raise InputError(f"soft labels of image {int(wrong[0, 0])}", "numbers >= 0 of sum 1")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    @property
    def ipc(self) -> float:
        """Images per class, on average."""
        return len(self.images) / len(self.classes)

    def pixels(self) -> Float[np.ndarray, "images channels height width"]:
        """Return the images as they look: the preprocessing inverted, and clipped to [0, 1].

        Returns
        -------
        numpy.ndarray
            Float32, shape (images, channels, height, width).
        """
        return self.preprocessing.invert(self.images).clip(0, 1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save as one safetensors file, whole or not at all.

        With ZCA the file holds its two matrices: 75 MB for images of 32 x 32 x 3.

        Parameters
        ----------
        path
            The file to write.
        """
        prepared = self.preprocessing
        arrays = {"images": self.images, "labels": self.labels, "mean": prepared.mean, "std": prepared.std}
        if prepared.zca is not None:
            arrays |= {f"zca.{name}": getattr(prepared.zca, name) for name in _ZCA}
        if self.soft_labels is not None:
            arrays["soft_labels"] = self.soft_labels
        checkpoint.save(path, arrays, {"kind": _KIND, "classes": list(self.classes), "meta": self.meta})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DistilledSet:
        """Read a saved set, its checksum verified.

        Parameters
        ----------
        path
            A file that :meth:`save` wrote.

        Returns
        -------
        DistilledSet
            The set.

        Raises
        ------
        InputError
            Where the file is missing, damaged or something else.
        """
        loaded = checkpoint.load(path, "torch")
        with reading(path, "a file that DistilledSet.save wrote"):
            kind = loaded.meta.get("kind", "something else")
            if kind != _KIND:
                raise InputError(f"{path} is a checkpoint of {kind}", "a distilled set")
            arrays, classes = loaded.arrays, loaded.meta["classes"]
            if not isinstance(classes, list):
                raise InputError(f"{path} has classes of {type(classes).__name__}", "their names in a list")
            zca = ZCA(*(arrays[f"zca.{name}"] for name in _ZCA)) if "zca.mean" in arrays else None
            return cls(
                arrays["images"],
                arrays["labels"],
                classes=tuple(map(str, classes)),
                preprocessing=Preprocessing(arrays["mean"], arrays["std"], zca),
                meta=dict(loaded.meta["meta"]),
                soft_labels=arrays.get("soft_labels"),
            )

    def save_grid(self, path: str | os.PathLike[str]) -> None:
        """Save a picture of the images: a row per class, or a column per class for one image each.

        Parameters
        ----------
        path
            The PNG file.
        """
        figures.save_grid(self.pixels(), path, columns=len(self.classes) if self.ipc == 1 else round(self.ipc))
