"""The random draws of a distillation, all keyed by (seed, purpose, step, class)."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from sextet_common.data import ImageSet
from torch import Tensor

from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.shards import Shard
from attention_matching.images import keyed
from attention_matching.images.augment import N_RANDOM
from attention_matching.images.inputs import RealInputs
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import class_members, select
from attention_matching.networks.base import FeatureNetwork
from attention_matching.networks.fresh import FreshNetworks


class Draw(NamedTuple):
    """The random parts of one step.

    ``real`` are inputs before augmentation, (classes * real_batch, channels, height, width), class after class.
    ``augmentation`` holds one row of random numbers in [0, 1) per class, (classes, N_RANDOM).
    """

    network: FeatureNetwork
    real: Tensor
    augmentation: Tensor


class Draws:
    """Draws of every step for one process's classes, whose real images become inputs batch by batch."""

    def __init__(
        self, config: DistillConfig, data: ImageSet, shard: Shard, preprocessing: Preprocessing, networks: FreshNetworks
    ) -> None:
        self._networks, self._batch = networks, config.real_batch
        members = [class_members(data)[label] for label in shard.classes]
        _warn_of_small_classes(data, shard, members, config.real_batch)
        self.real = RealInputs(data.train_images, preprocessing, np.concatenate(members), shard.device)
        self._labels = torch.tensor(shard.classes, device=shard.device)
        self._sizes = torch.tensor([len(m) for m in members], device=shard.device)
        self._starts = self._sizes.cumsum(0) - self._sizes
        self._largest = max(len(m) for m in members)
        purposes = ("batch", "augmentation", "network")
        self._keys = {purpose: keyed.key(config.seed, purpose, shard.device) for purpose in purposes}

    def __call__(self, number: Int[Tensor, ""]) -> Draw:
        """Draw for the step of this number, a tensor on the device."""
        keys = {purpose: keyed.fold(key, number) for purpose, key in self._keys.items()}
        network = self._networks.draw(keys["network"])
        batch_keys = keyed.fold(keys["batch"], self._labels)
        chosen = keyed.choose(batch_keys, self._sizes, self._largest, self._batch)
        augmentation = keyed.uniform(keyed.fold(keys["augmentation"], self._labels), N_RANDOM)
        return Draw(network, self.real[(chosen + self._starts[:, None]).flatten()], augmentation)


def initial_images(
    config: DistillConfig, data: ImageSet, classes: range, preprocessing: Preprocessing
) -> Float[Tensor, "images channels height width"]:
    """Return the synthetic images that a distillation starts from: real ones, or standard normal noise."""
    if config.initial != "noise":
        chosen = select(config.initial, data, config.ipc, config.seed, preprocessing).images
        return chosen[classes.start * config.ipc : classes.stop * config.ipc].clone()
    keys = keyed.fold(keyed.key(config.seed, "noise"), torch.tensor(classes))
    channels, height, width = data.image_shape
    uniform = keyed.uniform(keys, config.ipc * channels * height * width).clamp(min=2.0**-25)
    normal: Tensor = torch.special.ndtri(uniform)
    return normal.view(-1, channels, height, width)


def _warn_of_small_classes(data: ImageSet, shard: Shard, members: list[np.ndarray], batch: int) -> None:
    small = [data.classes[k] for k, m in zip(shard.classes, members, strict=True) if len(m) < batch]
    if small:
        warnings.warn(
            f"class {small[0]!r} has fewer images than real_batch = {batch}: "
            f"{len(small)} of {len(members)} classes are sampled with replacement",
            stacklevel=5,  # the caller of Distiller.fit
        )
