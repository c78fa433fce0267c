"""One step of a distillation: draw, compare, update the pixels. Nothing in it waits for the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from sextet_common.data import ImageSet
from torch import Tensor

from attention_matching.distillation import cuda_graph
from attention_matching.distillation.batching import Batching
from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.draws import Draws, initial_images
from attention_matching.distillation.shards import Shard
from attention_matching.distillation.statistics import Statistics
from attention_matching.images.augment import SiameseAugmentation
from attention_matching.images.preprocess import Preprocessing
from attention_matching.matching.losses import Loss, make_loss
from attention_matching.networks.base import FeatureNetwork
from attention_matching.networks.build import build
from attention_matching.networks.fresh import FreshNetworks


class Step:
    """The synthetic images of one process, their velocity, and the update of both.

    ``config`` is resolved; ``loss`` and ``network`` are user-defined ones, in place of those that it names.
    """

    def __init__(
        self,
        config: DistillConfig,
        data: ImageSet,
        shard: Shard,
        preprocessing: Preprocessing,
        *,
        loss: Loss | None = None,
        network: FeatureNetwork | None = None,
    ) -> None:
        self.config = config
        network = network or _network_of(config, data)
        self.batching = Batching.choose(config, network, data.image_shape, len(shard.classes), shard.device)
        network = network.to(shard.device).to(memory_format=self.batching.memory_format)
        self.draws = Draws(config, data, shard, preprocessing, FreshNetworks(network))
        self.augment = SiameseAugmentation(config.augment or ())
        self.loss = loss or make_loss(
            config.method, config.power or 1, config.feature_weight or 0.0, config.loss_scale or 1.0
        )
        self.statistics = Statistics(config, self.loss, self.batching)
        self.images = initial_images(config, data, shard.classes, preprocessing).to(shard.device).requires_grad_(True)
        self.velocity = torch.zeros_like(self.images)
        self._blocks = list(self.batching.class_blocks(len(shard.classes), config.ipc))
        self._number = torch.zeros((), dtype=torch.int64, device=shard.device)
        self._replay: Callable[[], Tensor] | None = None

    def __call__(self, number: int) -> Float[Tensor, " classes"]:
        """Update the pixels with the draws of step ``number``, from 0; return each class's loss before the update."""
        self._number.fill_(number)
        if not self.config.cuda_graph:
            return self._update()
        if self._replay is None:
            self._replay = cuda_graph.record(self._update, (self.images, self.velocity))
        return self._replay()

    def _update(self) -> Tensor:
        config = self.config
        network, real, augmentation = self.draws(self._number)
        with torch.no_grad():
            target = self.statistics.in_parts(network, self.augment(real, augmentation), config.real_batch)
        losses, gradients = [], []
        for block in self._blocks:
            images = self.images[block.start * config.ipc : block.stop * config.ipc]
            augmented = self.augment(images, augmentation[block])
            synthetic = self.statistics(network, augmented, block.stop - block.start)
            loss = self.loss.compare(tuple(term[block] for term in target), synthetic)
            # Each block's graph is freed before the next is built: memory for one block at a time.
            gradients.append(torch.autograd.grad(loss.sum(), images)[0])
            losses.append(loss.detach())
        with torch.no_grad():
            self.velocity.mul_(config.image_momentum).add_(torch.cat(gradients))
            self.images.sub_(self.velocity, alpha=config.image_lr or 1.0)
        return torch.cat(losses)


def _network_of(config: DistillConfig, data: ImageSet) -> FeatureNetwork:
    return build(
        config.architecture,
        data.image_shape,
        data.n_classes,
        width=config.width,
        depth=config.depth,
        norm=config.norm or "instance",
    )
