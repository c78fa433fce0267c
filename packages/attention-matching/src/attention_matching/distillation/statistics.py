"""Class means of network features, computed for as many images at once as memory allows."""

from __future__ import annotations

import torch
from torch import Tensor

from attention_matching.distillation.batching import Batching
from attention_matching.distillation.config import DistillConfig
from attention_matching.matching.losses import Loss
from attention_matching.networks.base import FeatureNetwork


class Statistics:
    """What a loss compares, for images that are ordered class after class with equally many of each class."""

    def __init__(self, config: DistillConfig, loss: Loss, batching: Batching) -> None:
        self._loss, self._batching = loss, batching
        self._half = config.precision == "bfloat16"
        # A function, not a bound method: an object that refers to itself keeps its images until garbage collection.
        self._compute = torch.compile(_statistics) if config.compile else _statistics

    def __call__(self, network: FeatureNetwork, images: Tensor, n_classes: int) -> tuple[Tensor, ...]:
        """Compute the statistics of all images at once."""
        images = images.contiguous(memory_format=self._batching.memory_format)
        return self._compute(network, self._loss, images, n_classes, self._half)

    def in_parts(self, network: FeatureNetwork, images: Tensor, per_class: int) -> tuple[Tensor, ...]:
        """Compute the statistics in parts: several whole classes, or one class in pieces."""
        at_once = self._batching.images_at_once
        if at_once >= per_class:
            parts = images.split(at_once // per_class * per_class)
            statistics = [self(network, part, len(part) // per_class) for part in parts]
            return tuple(torch.cat(terms) for terms in zip(*statistics, strict=True))
        means = []
        for class_images in images.split(per_class):
            pieces = class_images.split(at_once)
            terms = zip(*(self(network, piece, 1) for piece in pieces), strict=True)
            weighted = [[mean * len(p) for mean, p in zip(term, pieces, strict=True)] for term in terms]
            means.append([torch.cat(term).sum(0) / per_class for term in weighted])
        return tuple(torch.stack(terms) for terms in zip(*means, strict=True))


def _statistics(network: FeatureNetwork, loss: Loss, images: Tensor, n_classes: int, half: bool) -> tuple[Tensor, ...]:
    """Compute the statistics: the part of a step that is worth compiling."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        features = network.features(images)
    return loss.statistics(features, n_classes)
