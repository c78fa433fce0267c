"""Synthetic images with their velocity: what one configuration distils, and how a step changes it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from sextet_common.data import ImageSet
from torch import Tensor

from attention_matching.distillation.batching import Batching
from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.draws import initial_images
from attention_matching.distillation.shards import Shard
from attention_matching.distillation.statistics import Statistics, Terms
from attention_matching.images.augment import SiameseAugmentation
from attention_matching.images.preprocess import Preprocessing
from attention_matching.matching.losses import Loss
from attention_matching.networks.base import FeatureNetwork


class SyntheticImages:
    """The images of one configuration and one process, class after class.

    ``rate`` is the learning rate: that of the configuration times the relative squared norm of the network inputs.
    """

    def __init__(
        self,
        config: DistillConfig,
        data: ImageSet,
        shard: Shard,
        preprocessing: Preprocessing,
        batching: Batching,
        loss: Loss,
        relative_norm: float,
    ) -> None:
        self.config, self.loss = config, loss
        self.rate = (config.image_lr or 1.0) * relative_norm
        self.images = initial_images(config, data, shard.classes, preprocessing).to(shard.device).requires_grad_(True)
        self.velocity = torch.zeros_like(self.images)
        self.first_cosine: Tensor | None = None  # of the images before and after step 0, (classes,)
        self._blocks = list(batching.class_blocks(len(shard.classes), config.ipc))
        self._preprocessing = preprocessing

    def update(
        self,
        network: FeatureNetwork,
        statistics: Statistics,
        augment: SiameseAugmentation,
        augmentation: Float[Tensor, "classes numbers"],
        real: Terms,
    ) -> Float[Tensor, " classes"]:
        """Take one step towards the statistics of the real images; return each class's loss before it."""
        losses, gradients = [], []
        for block in self._blocks:
            images = self.images[block.start * self.config.ipc : block.stop * self.config.ipc]
            augmented = augment(images, augmentation[block])
            loss = statistics.distance(network, self.loss, augmented, tuple(term[block] for term in real))
            # Each block's graph is freed before the next is built: memory for one block at a time.
            gradients.append(torch.autograd.grad(loss.sum(), images)[0])
            losses.append(loss.detach())
        with torch.no_grad():
            self.velocity.mul_(self.config.image_momentum).add_(torch.cat(gradients))
            self.images.sub_(self.velocity, alpha=self.rate)
            if self.config.pixels == "valid":
                self.images.copy_(self._preprocessing.clamp(self.images))
        return torch.cat(losses)

    def per_class(self, tensor: Tensor) -> Tensor:
        """View one row per image as (classes, ipc, ...)."""
        return tensor.view(-1, self.config.ipc, *tensor.shape[1:])

    def compare_with(self, before: Tensor) -> None:
        """Keep the mean cosine, per class, of the images with those ``before``."""
        cosine = torch.nn.functional.cosine_similarity(self.images.detach().flatten(1), before.flatten(1))
        self.first_cosine = self.per_class(cosine).mean(dim=1)
