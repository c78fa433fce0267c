"""One step of a distillation: draw, compare, update the pixels. Nothing in it waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from sextet_common import data as image_data
from sextet_common.data import ImageSet
from torch import Tensor

from attention_matching.distillation import cuda_graph
from attention_matching.distillation.batching import Batching
from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.draws import Draws
from attention_matching.distillation.shards import Shard
from attention_matching.distillation.statistics import Statistics, Terms
from attention_matching.distillation.synthetic import SyntheticImages
from attention_matching.images.augment import SiameseAugmentation
from attention_matching.images.preprocess import Preprocessing
from attention_matching.matching.losses import Loss, make_loss
from attention_matching.networks.base import FeatureNetwork
from attention_matching.networks.build import build
from attention_matching.networks.fresh import FreshNetworks

_SAMPLE = 1000  # training images that the norm of whitened inputs is measured on
_PUBLISHED = 3 * 32 * 32  # squared norm of standardised 32x32 colour images, for which the learning rate was published


class Step:
    """One draw of a network, an augmentation and real images, and the update of all synthetic images with it.

    ``configs`` are resolved and share what is drawn, so that the pass of the real images serves all of them. ``loss``
    and ``network`` are user-defined ones, in place of those that the configurations name.
    """

    def __init__(
        self,
        configs: Sequence[DistillConfig],
        data: ImageSet,
        shard: Shard,
        preprocessing: Preprocessing,
        *,
        loss: Loss | None = None,
        network: FeatureNetwork | None = None,
    ) -> None:
        config = configs[0]
        network = network or _network_of(config, data)
        most = max(configs, key=lambda each: each.ipc)
        self.batching = Batching.choose(most, network, data.image_shape, len(shard.classes), shard.device)
        network = network.to(shard.device).to(memory_format=self.batching.memory_format)
        self.draws = Draws(config, data, shard, preprocessing, FreshNetworks(network))
        self.augment = SiameseAugmentation(config.augment or ())
        self.statistics = Statistics(config, self.batching)
        relative_norm = _relative_norm(data, preprocessing)
        self.sets = [
            SyntheticImages(each, data, shard, preprocessing, self.batching, loss or _loss_of(each), relative_norm)
            for each in configs
        ]
        self._config = config
        # Sets with the same statistics share them.
        self._kinds = [(each.method, each.power) for each in configs]
        self._losses = {kind: each.loss for kind, each in zip(self._kinds, self.sets, strict=True)}
        self._number = torch.zeros((), dtype=torch.int64, device=shard.device)
        self._drawn = -1
        self._target: tuple[FeatureNetwork, Tensor, dict[tuple[str, int | None], Terms]]  # set by _draw
        self._replay: Callable[[], Tensor] | None = None

    def __call__(self, number: int) -> Float[Tensor, "sets classes"]:
        """Update the pixels in step ``number``, from 0; return each set's loss of each class before the update."""
        before = [each.images.detach().clone() for each in self.sets] if number == 0 else []
        losses = self._take(number // self._config.steps_per_draw)
        for each, images in zip(self.sets, before, strict=bool(before)):
            each.compare_with(images)
        return losses

    def _take(self, draw: int) -> Tensor:
        """Take the step, drawing first unless the step before had the same draw."""
        self._number.fill_(draw)
        if not self._config.cuda_graph:
            if draw != self._drawn:
                self._draw()
                self._drawn = draw
            return self._update()
        if self._replay is None:
            changed = [tensor for each in self.sets for tensor in (each.images, each.velocity)]
            self._replay = cuda_graph.record(self._draw_and_update, changed)
        return self._replay()

    def _draw_and_update(self) -> Tensor:
        self._draw()
        return self._update()

    def _draw(self) -> None:
        """Draw, and pass the real images through the network."""
        network, real, augmentation = self.draws(self._number)
        with torch.no_grad():
            augmented = self.augment(real, augmentation)
            losses = list(self._losses.values())
            terms = self.statistics.in_parts(network, losses, augmented, self._config.real_batch)
        self._target = network, augmentation, dict(zip(self._losses, terms, strict=True))

    def _update(self) -> Tensor:
        network, augmentation, real = self._target
        losses = [
            each.update(network, self.statistics, self.augment, augmentation, real[kind])
            for kind, each in zip(self._kinds, self.sets, strict=True)
        ]
        return torch.stack(losses)


def _loss_of(config: DistillConfig) -> Loss:
    return make_loss(
        config.method,
        config.power or 1,
        config.feature_weight or 0.0,
        config.loss_scale or 1.0,
        1.0 if config.attention_weight is None else config.attention_weight,
    )


def _network_of(config: DistillConfig, data: ImageSet) -> FeatureNetwork:
    return build(
        config.architecture,
        data.image_shape,
        data.n_classes,
        width=config.width,
        depth=config.depth,
        norm=config.norm or "instance",
    )


def _relative_norm(data: ImageSet, preprocessing: Preprocessing) -> float:
    """Return the squared norm of the network inputs relative to standardised 32x32 colour images, at most 1.

    Networks with normalisation hardly depend on the scale of their inputs, so gradients go as 1 / norm, and the
    relative change of an image by a step as rate / norm^2.
    """
    count, *shape = data.train_images.shape
    square = float(np.prod(shape))
    if preprocessing.zca is not None:
        rows = np.linspace(0, count - 1, min(_SAMPLE, count)).astype(int)
        square *= float(preprocessing(image_data.take(data.train_images, rows)).square().mean())
    return min(1.0, square / _PUBLISHED)
