"""The result of a distillation: a few labelled images that stand for a data set."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sextet_common import checkpoint, figures
from sextet_common.errors import InputError
from torch import Tensor

_KIND = "distilled set"


@dataclass(frozen=True)
class DistilledSet:
    """Labelled images, class after class, with the normalisation that they live in.

    It is a map-style data set: ``len``, and indexing that gives (image, label).

    Parameters
    ----------
    images
        Normalised images, float32, shape (images, channels, height, width).
    labels
        Class numbers, int64, shape (images,).
    classes
        The classes' names.
    mean, std
        Per channel, shape (channels,): a pixel in [0, 1] is ``image * std + mean``.
    meta
        How the set was made: plain JSON values.

    Raises
    ------
    InputError
        Where shapes disagree or a label is out of range.

    Examples
    --------
    >>> import torch
    >>> one = DistilledSet(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), ("a", "b"), torch.zeros(1), torch.ones(1))
    >>> len(one), one.ipc, one[1][1]
    (2, 1.0, tensor(1))
    """

    images: Float[Tensor, "images channels height width"]
    labels: Int[Tensor, " images"]
    classes: tuple[str, ...]
    mean: Float[Tensor, " channels"]
    std: Float[Tensor, " channels"]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) != len(self.labels) or not len(self.images):
            raise InputError(
                f"images of shape {tuple(self.images.shape)} with {len(self.labels)} labels",
                "(n, channels, height, width) and n labels, n >= 1",
            )
        wrong = ((self.labels < 0) | (self.labels >= len(self.classes))).nonzero()
        if len(wrong):
            raise InputError(f"label {int(self.labels[wrong[0, 0]])} is out of range", f"0 to {len(self.classes) - 1}")
        if not len(self.mean) == len(self.std) == self.images.shape[1]:
            raise InputError(f"{len(self.mean)} means for {self.images.shape[1]} channels", "one per channel")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    @property
    def ipc(self) -> float:
        """Images per class, on average."""
        return len(self.images) / len(self.classes)

    def pixels(self) -> Float[np.ndarray, "images channels height width"]:
        """Return the images as they look: in [0, 1], clipped.

        Returns
        -------
        numpy.ndarray
            Float32, shape (images, channels, height, width).
        """
        shown = self.images * self.std[:, None, None] + self.mean[:, None, None]
        return shown.clamp(0, 1).numpy()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save as one safetensors file, whole or not at all.

        Parameters
        ----------
        path
            The file to write.
        """
        arrays = {"images": self.images, "labels": self.labels, "mean": self.mean, "std": self.std}
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
        kind = loaded.meta.get("kind", "something else")
        if kind != _KIND:
            raise InputError(f"{path} is a checkpoint of {kind}", "a distilled set")
        arrays = {name: loaded.arrays[name] for name in ("images", "labels", "mean", "std")}
        return cls(**arrays, classes=tuple(loaded.meta["classes"]), meta=loaded.meta["meta"])

    def save_grid(self, path: str | os.PathLike[str]) -> None:
        """Save a picture of the images: a row per class, or a column per class for one image each.

        Parameters
        ----------
        path
            The PNG file.
        """
        figures.save_grid(self.pixels(), path, columns=len(self.classes) if self.ipc == 1 else round(self.ipc))
