"""How images pass through the network: how many at once, and in which memory format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from sextet_common.errors import InputError

from attention_matching.distillation.config import DistillConfig
from attention_matching.networks.base import FeatureNetwork

# On a CPU the largest activation stays below this size: then each layer reuses the memory that the layer before freed,
# which is still in the cache, and no new pages are needed.
_CPU_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Batching:
    """The number of images that pass through the network at once, and the order of their activations in memory."""

    images_at_once: int
    memory_format: torch.memory_format = torch.contiguous_format

    @classmethod
    def choose(
        cls,
        config: DistillConfig,
        network: FeatureNetwork,
        image_shape: tuple[int, int, int],
        n_classes: int,
        device: torch.device,
    ) -> Batching:
        """Choose for the ``n_classes`` classes of one process; the network is still on the CPU."""
        last = _channels_last(config, device)
        return cls(
            _images_at_once(config, network, image_shape, n_classes, device),
            torch.channels_last if last else torch.contiguous_format,
        )

    def class_blocks(self, n_classes: int, ipc: int) -> Iterator[slice]:
        """Yield runs of classes whose synthetic images pass together."""
        size = max(1, self.images_at_once // ipc)
        for start in range(0, n_classes, size):
            yield slice(start, min(start + size, n_classes))


def _channels_last(config: DistillConfig, device: torch.device) -> bool:
    if config.channels_last is not None:
        return config.channels_last
    # On a CPU torch's group norm is slow in this format, its batch norm is not.
    return config.norm == "batch" if device.type == "cpu" else config.precision == "bfloat16"


def _images_at_once(
    config: DistillConfig,
    network: FeatureNetwork,
    image_shape: tuple[int, int, int],
    n_classes: int,
    device: torch.device,
) -> int:
    all_images = n_classes * max(config.ipc, config.real_batch)
    if config.norm == "batch":  # batch statistics are those of all images
        if config.images_at_once is not None and config.images_at_once < all_images:
            raise InputError(
                f"images_at_once must be >= {all_images} with batch normalisation, got {config.images_at_once}"
            )
        return all_images
    if config.images_at_once is not None:
        return config.images_at_once
    if device.type != "cpu":
        return all_images
    with torch.no_grad():
        maps = network.features(torch.zeros(1, *image_shape)).maps
    return max(1, _CPU_BYTES // (4 * max(m.numel() for m in maps)))
