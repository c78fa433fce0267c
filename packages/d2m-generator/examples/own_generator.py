"""A user-defined generator: any module that maps noise and labels to images can be distilled.

Run it: ``python examples/own_generator.py``
"""

from __future__ import annotations

import torch
from attention_matching import EvaluateConfig
from d2m_generator import D2M, D2MConfig, ModuleGenerator, PoolConfig, evaluate_generator
from sextet_common.data import load
from torch import Tensor, nn


class Prototypes(nn.Module):
    """A trainable image per class, shifted slightly by the noise."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(images.clone())
        self.directions = nn.Parameter(0.02 * torch.randn(4, *images.shape))

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Generate images in [0, 1]."""
        moved: Tensor = self.images[labels] + torch.einsum("bk,kbchw->bchw", noise, self.directions[:, labels])
        return moved


data = load("digits")
torch.manual_seed(0)
means = torch.stack([torch.tensor(data.train_images[data.train_labels == k].mean(axis=0)) for k in range(10)])
generator = ModuleGenerator(Prototypes(means), 10, data.image_shape, (4,), value_range=(0.0, 1.0))
quick = EvaluateConfig(networks=2, epochs=100, width=32)
print("class means:", evaluate_generator(generator, data, 1, quick))
D2M(D2MConfig(steps=100, pool=PoolConfig(untrained=1.0, width=32))).fit(generator, data)
print("after D2M:  ", evaluate_generator(generator, data, 1, quick))
