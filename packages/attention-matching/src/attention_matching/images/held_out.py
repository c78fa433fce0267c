"""Held-out training images, to select a training step without looking at the test set."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sextet_common import data as image_data, seeding
from sextet_common.checks import OpenShare, check
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import Tensor

from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import class_members

# Two images are the same if they differ by less than this share of their norm: far above the rounding errors of a
# whitening and of the distances, far below a step of one grey level in a few pixels.
_SAME = 1e-2


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """Labelled network inputs to select a training step by."""

    inputs: Float[Tensor, "images channels height width"]
    labels: Int[Tensor, " images"]

    def __post_init__(self) -> None:
        if not len(self.inputs) or len(self.inputs) != len(self.labels):
            raise InputError(
                f"held-out images must be one or more with one label each, "
                f"got {len(self.inputs)} images and {len(self.labels)} labels"
            )

    def without(self, images: Float[Tensor, "others channels height width"]) -> HeldOut:
        """Leave out the images that are also among others, which a network is trained on.

        Examples
        --------
        >>> held_out = HeldOut(torch.eye(3)[:, None, None], torch.tensor([0, 1, 2]))
        >>> held_out.without(torch.eye(3)[1:, None, None]).labels
        tensor([0])
        """
        mine, others = self.inputs.flatten(1), images.flatten(1)
        nearest = torch.cat([torch.cdist(some, others).amin(dim=1) for some in mine.split(256)])
        kept = nearest > _SAME * mine.norm(dim=1)
        if not kept.any():
            raise InputError("every held-out image is also in the training set", "a set that leaves some images out")
        return HeldOut(self.inputs[kept], self.labels[kept])


def held_out_rows(data: ImageSet, share: float, seed: int = 0) -> Bool[np.ndarray, " train"]:
    """Draw a random part of every class's training images, as a mask.

    ``share`` is of each class's images, in (0, 1): at least one is taken and one is left.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> taken = held_out_rows(load("digits"), share=0.1)
    >>> len(taken), int(taken.sum())
    (1437, 142)
    """
    check("held_out", share, OpenShare)
    taken = np.zeros(len(data.train_labels), dtype=bool)
    for label, members in enumerate(class_members(data)):
        if len(members) < 2:
            name = data.classes[label]
            raise InputError(f"every class must have 2 images, to hold one out, got {len(members)} of class {name!r}")
        count = min(max(1, round(share * len(members))), len(members) - 1)
        taken[seeding.generator(seed, "held out", label).choice(members, count, replace=False)] = True
    return taken


def held_out_images(data: ImageSet, preprocessing: Preprocessing, taken: Bool[np.ndarray, " train"]) -> HeldOut:
    """Return the training images of a mask."""
    inputs = preprocessing(image_data.take(data.train_images, taken))
    return HeldOut(inputs, torch.tensor(data.train_labels[taken]))


def without_rows(data: ImageSet, taken: Bool[np.ndarray, " train"]) -> ImageSet:
    """Return the data without the training images of a mask; mean and std stay."""
    kept = image_data.take(data.train_images, ~taken)
    return dataclasses.replace(data, train_images=kept, train_labels=data.train_labels[~taken])
