"""The interface of a network whose features can be matched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn


class Features(NamedTuple):
    """Intermediate results of a forward pass.

    ``maps`` are the outputs of each block's activation, before pooling, each (batch, channels, height, width).
    ``embedding`` is the flattened input of the last linear layer, (batch, size).
    """

    maps: tuple[Tensor, ...]
    embedding: Tensor


class FeatureNetwork(nn.Module, ABC):
    """Base class of classifiers whose features can be matched; derive user-defined networks from it.

    A subclass sets ``classifier``, the module from the embedding to the logits, and defines :meth:`features`.
    """

    classifier: nn.Module

    @abstractmethod
    def features(self, images: Float[Tensor, "batch channels height width"]) -> Features:
        """Compute the maps of all blocks and the embedding."""

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Compute the logits."""
        logits: Tensor = self.classifier(self.features(images).embedding)
        return logits
