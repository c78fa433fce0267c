"""The pool of networks that embed real and generated images: random or partly trained, replaced on a schedule."""

from __future__ import annotations

import dataclasses

import torch
from attention_matching import (
    Architecture,
    FeatureNetwork,
    Norm,
    Preprocessing,
    SiameseAugmentation,
    TrainConfig,
    build,
    train_networks,
)
from sextet_common import checks, data as image_data, seeding
from sextet_common.checks import Count, Natural, Share
from sextet_common.data import ImageSet
from sextet_common.options import Advanced
from sextet_common.seeding import torch_seed
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class PoolConfig:
    """The networks of the pool."""

    networks: Count = 8
    """Networks at a time; a draw is a random one of them."""
    untrained: Advanced[Share] = 0.8
    """Share of networks with random weights: their features are informative, their logits are not."""
    epochs: Count = 20
    """Largest number of epochs on `trained_on` images for the others; each draws its own number."""
    trained_on: Advanced[Count] = 1000
    """Real images that a network is trained on, drawn for each network."""
    refresh_every: Advanced[Natural] = 5
    """Draws of a network after which a new one replaces the oldest; 0 keeps all."""
    architecture: Architecture = "convnet"
    """Architecture of the networks."""
    width: Count | None = None
    """Channels of a ConvNet."""
    depth: Advanced[Count | None] = None
    """Blocks of a ConvNet."""
    norm: Advanced[Norm] = "instance"
    """Normalisation layers."""

    def __post_init__(self) -> None:
        checks.check_fields(self)


class Pool:
    """Numbered networks, of which each draw sees those that are in the pool at its time.

    Network n depends on (seed, n) alone, so that a resumed run uses the same networks. ``data``,
    with its preprocessing and augmentation, trains them.
    """

    def __init__(
        self,
        config: PoolConfig,
        data: ImageSet,
        preprocessing: Preprocessing,
        augment: SiameseAugmentation,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config, self.data, self.seed, self.device = config, data, seed, device
        self._preprocessing, self._augment = preprocessing, augment
        self._networks: dict[int, FeatureNetwork] = {}

    def numbers(self, draw: int) -> range:
        """Return the numbers of the networks in the pool at a draw."""
        oldest = draw // self.config.refresh_every if self.config.refresh_every else 0
        return range(oldest, oldest + self.config.networks)

    def epochs(self, number: int) -> int:
        """Return for how many epochs a network is trained; 0 for a random one."""
        draw = seeding.generator(self.seed, "pool", number)
        return 0 if draw.random() < self.config.untrained else int(draw.integers(1, self.config.epochs + 1))

    def draw(self, step: int) -> FeatureNetwork:
        """Return the network of a draw, frozen, in evaluation mode."""
        present = self.numbers(step)
        number = present[int(seeding.generator(self.seed, "network", step).integers(len(present)))]
        for old in [n for n in self._networks if n < present.start]:
            del self._networks[old]
        if number not in self._networks:
            self._networks[number] = self._network(number).requires_grad_(False).eval()
        return self._networks[number]

    def _network(self, number: int) -> FeatureNetwork:
        epochs = self.epochs(number)
        if not epochs:
            with torch_seed(self.seed, "random network", number):
                return self._build(number).to(self.device)
        rows = seeding.generator(self.seed, "images", number).permutation(len(self.data.train_labels))
        rows = rows[: self.config.trained_on]
        inputs: Tensor = self._preprocessing(image_data.take(self.data.train_images, rows))
        labels = torch.tensor(self.data.train_labels[rows])
        settings = TrainConfig(epochs=epochs, batch=64, lr=0.02, seed=self.seed, device=str(self.device))
        [network] = train_networks(self._build, [number], inputs, labels, self._augment, settings)
        assert isinstance(network, FeatureNetwork)
        return network

    def _build(self, number: int) -> FeatureNetwork:
        config, data = self.config, self.data
        return build(
            config.architecture, data.image_shape, data.n_classes, width=config.width, depth=config.depth,
            norm=config.norm,
        )  # fmt: skip
