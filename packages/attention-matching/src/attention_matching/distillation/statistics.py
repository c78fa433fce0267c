"""What losses compare, computed for as many images at once as memory allows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attention_matching.distillation.batching import Batching
from attention_matching.distillation.config import DistillConfig
from attention_matching.matching.losses import Loss, distance_of
from attention_matching.networks.base import FeatureNetwork, Features

Terms = tuple[Tensor, ...]  # class means, (classes, size) each


class Statistics:
    """Class means of network features, for images ordered class after class with equally many of each class."""

    def __init__(self, config: DistillConfig, batching: Batching) -> None:
        self._batching = batching
        self._half = config.precision == "bfloat16"
        # Functions, not bound methods: an object that refers to itself keeps its images until garbage collection.
        self._means = torch.compile(_means) if config.compile else _means
        self._distance = torch.compile(_distance) if config.compile else _distance

    def means(self, network: FeatureNetwork, losses: Sequence[Loss], images: Tensor, n_classes: int) -> list[Terms]:
        """Return each loss's statistics of all images at once."""
        return self._means(network, losses, self._laid_out(images), n_classes, self._half)

    def in_parts(self, network: FeatureNetwork, losses: Sequence[Loss], images: Tensor, per_class: int) -> list[Terms]:
        """Return each loss's statistics, computed in parts: several whole classes, or one class in pieces."""
        at_once = self._batching.images_at_once
        if at_once >= per_class:
            whole = [
                self.means(network, losses, part, len(part) // per_class)
                for part in images.split(at_once // per_class * per_class)
            ]
            return [tuple(map(torch.cat, zip(*terms, strict=True))) for terms in zip(*whole, strict=True)]
        classes: list[list[Terms]] = []
        for class_images in images.split(per_class):
            pieces = class_images.split(at_once)
            parts = zip(*(self.means(network, losses, piece, 1) for piece in pieces), strict=True)
            classes.append([_weighted(part, [len(piece) / per_class for piece in pieces]) for part in parts])
        return [tuple(map(torch.cat, zip(*terms, strict=True))) for terms in zip(*classes, strict=True)]

    def distance(self, network: FeatureNetwork, loss: Loss, images: Tensor, real: Terms) -> Tensor:
        """Return a loss, (classes,), between all images at once and the statistics of the real ones."""
        return self._distance(network, loss, self._laid_out(images), real, self._half)

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=self._batching.memory_format)


def _weighted(parts: Sequence[Terms], weights: Sequence[float]) -> Terms:
    """Return the statistics of a class from those of its pieces."""
    terms = zip(*parts, strict=True)
    return tuple(torch.stack([w * p for w, p in zip(weights, term, strict=True)]).sum(0) for term in terms)


# The parts of a step that are worth compiling.


def _features(network: FeatureNetwork, images: Tensor, half: bool) -> Features:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        return network.features(images)


def _means(network: FeatureNetwork, losses: Sequence[Loss], images: Tensor, n_classes: int, half: bool) -> list[Terms]:
    features = _features(network, images, half)
    return [loss.statistics(features, n_classes) for loss in losses]


def _distance(network: FeatureNetwork, loss: Loss, images: Tensor, real: Terms, half: bool) -> Tensor:
    features = _features(network, images, half)
    return distance_of(loss)(features, real, len(real[0]))
