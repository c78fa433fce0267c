"""A custom loss: match the standard deviation of every channel, in addition to DataDAM's attention maps."""

from __future__ import annotations

import torch
from attention_matching import AttentionMatchingLoss, DistillConfig, Distiller, Features
from sextet_common.data import load
from torch import Tensor


class WithSpread(AttentionMatchingLoss):
    """DataDAM's terms and one more."""

    def statistics(self, features: Features, n_classes: int) -> tuple[Tensor, ...]:
        """Add the mean over images of each channel's standard deviation over positions, in the first block."""
        spread = features.maps[0].flatten(2).std(dim=2)
        return *super().statistics(features, n_classes), spread.unflatten(0, (n_classes, -1)).mean(dim=1)

    def compare(self, real: tuple[Tensor, ...], synthetic: tuple[Tensor, ...]) -> Tensor:
        """Add its squared distance."""
        return super().compare(real[:-1], synthetic[:-1]) + (real[-1] - synthetic[-1]).square().sum(dim=1)


distilled = Distiller(DistillConfig(ipc=1, steps=30), loss=WithSpread()).fit(load("digits"))
print(torch.isfinite(distilled.images).all().item(), tuple(distilled.images.shape))
