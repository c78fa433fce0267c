"""Reimplementation of the published loop: the baseline of the step's speed and an oracle of its loss.

Written from the description of DataDAM's public code, none of it copied. Index lists are permuted per class, the
augmentation is called per class with one operation for the class, the attention maps are computed by clone, abs, pow
and sum behind hooks on every ReLU, moved to the CPU and averaged there, and the loss is read after every step.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from attention_matching import ConvNet, SiameseAugmentation
from torch import Tensor
from torch.nn import functional


def augmented(images: Tensor, augment: SiameseAugmentation, row: Tensor) -> Tensor:
    """Apply one operation, the same for all images of a class, drawn by a row of uniform numbers."""
    operation = augment.operations[int(row[0] * len(augment.operations))]
    u, v, w = (float(t) for t in row[1:])
    count, _, height, width = images.shape
    if operation == "flip":
        return images.flip(3) if u < augment.flip else images
    if operation == "color":
        x = images + (u - 0.5) * augment.brightness
        grey = x.mean(dim=1, keepdim=True)
        x = (x - grey) * (v * augment.saturation) + grey
        middle = x.mean(dim=[1, 2, 3], keepdim=True)
        return (x - middle) * (w + augment.contrast) + middle
    if operation == "cutout":
        mask = torch.ones(height, width)
        spans = []
        for t, side in ((v, height), (u, width)):
            size = int(side * augment.cutout + 0.5)
            start = math.floor(t * (side + 1 - size % 2)) - size // 2
            spans.append(slice(max(start, 0), max(min(start + size, side), 0)))
        mask[spans[0], spans[1]] = 0
        return images * mask.to(images.device)
    if operation == "crop":
        padded = functional.pad(images, [int(side * augment.crop + 0.5) for side in (width, width, height, height)])
        left, top = (math.floor(t * (2 * int(s * augment.crop + 0.5) + 1)) for t, s in ((u, width), (v, height)))
        return padded[:, :, top : top + height, left : left + width]
    if operation == "scale":
        low = 1 / augment.scale
        theta = [[low + u * (augment.scale - low), 0.0, 0.0], [0.0, low + v * (augment.scale - low), 0.0]]
    else:
        angle = (2 * u - 1) * math.radians(augment.rotate)
        theta = [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
    maps = torch.tensor([theta for _ in range(count)], dtype=images.dtype, device=images.device)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def attention(maps: Tensor, power: int, *, channel: bool = False) -> Tensor:
    """Normalise the map of each image, with one pass over memory per operation."""
    powered = maps.clone().abs().pow(power)
    summed = powered.sum(dim=(2, 3)) if channel else powered.sum(dim=1).flatten(1)
    return functional.normalize(summed, dim=1)


def hooked(network: ConvNet, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the output of every ReLU and the embedding."""
    outputs: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _input, output: outputs.append(output))
        for module in network.modules()
        if isinstance(module, torch.nn.ReLU)
    ]
    embedding = network.features(images).embedding
    for hook in hooks:
        hook.remove()
    return outputs, embedding


def loss(
    network: ConvNet,
    real: Tensor,
    synthetic: Tensor,
    n_classes: int,
    *,
    power: int = 4,
    channel: bool = False,
    feature_weight: float = 0.01,
    scale: float = 100.0,
) -> Tensor:
    """Return the whole loss of augmented images ordered by class."""
    with torch.no_grad():
        real_maps, real_embedding = hooked(network, real)
    synthetic_maps, synthetic_embedding = hooked(network, synthetic)
    total = torch.zeros(())
    for a, b in zip(real_maps[:-1], synthetic_maps[:-1], strict=True):
        for of_channels in (False, True)[: 2 if channel else 1]:
            means = []
            for maps in (a, b):
                z = attention(maps, power, channel=of_channels).cpu()
                means.append(torch.stack([part.mean(dim=0) for part in z.chunk(n_classes)]))
            total = total + (means[0] - means[1]).square().sum()
    pairs = zip(real_embedding.chunk(n_classes), synthetic_embedding.chunk(n_classes), strict=True)
    matched = sum((a.mean(dim=0) - b.mean(dim=0)).square().sum() for a, b in pairs)
    return scale * (total + feature_weight * matched.cpu())


class PublishedLoop:
    """State of the loop; calling it takes a step and returns the loss."""

    def __init__(
        self, inputs: Tensor, labels: np.ndarray, ipc: int, *, norm: str, power: int, channel: bool = False
    ) -> None:
        self.inputs, self.ipc, self.norm, self.power, self.channel = inputs, ipc, norm, power, channel
        self.members: list[list[int]] = [np.flatnonzero(labels == k).tolist() for k in range(labels.max() + 1)]
        start = [self.batch(k, ipc) for k in range(len(self.members))]
        self.images = torch.cat(start).requires_grad_(True)
        self.optimizer = torch.optim.SGD([self.images], lr=1.0, momentum=0.5)
        self.augment = SiameseAugmentation()

    def batch(self, label: int, size: int) -> Tensor:
        """Return random images of a class."""
        return self.inputs[np.random.permutation(self.members[label])[:size]]

    def __call__(self, real_batch: int = 64, width: int = 128) -> float:
        """Take one step."""
        classes = len(self.members)
        network = ConvNet(tuple(self.inputs.shape[1:]), classes, width=width, norm=self.norm)
        network.pools = torch.nn.ModuleList(torch.nn.AvgPool2d(2) for _ in network.pools)
        network = network.to(self.inputs.device).requires_grad_(False)
        real, synthetic = [], []
        for label in range(classes):
            row = torch.rand(4)
            real.append(augmented(self.batch(label, real_batch), self.augment, row))
            images = self.images[label * self.ipc : (label + 1) * self.ipc]
            synthetic.append(augmented(images, self.augment, row))
        total = loss(network, torch.cat(real), torch.cat(synthetic), classes, power=self.power, channel=self.channel)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return total.item()
