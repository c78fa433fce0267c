"""The networks that look at real and generated images: random and partly trained ones, replaced on a schedule."""

from __future__ import annotations

import dataclasses

import torch
from attention_matching import (
    FeatureNetwork,
    Preprocessing,
    SiameseAugmentation,
    TrainConfig,
    build,
    train_networks,
)
from attention_matching.layers import Norm
from attention_matching.networks import Architecture
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from sextet_common.seeding import generator as random_of
from sextet_common.seeding import torch_seed
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class PoolConfig:
    """Which networks look."""

    networks: int = 8
    """How many there are at a time; a step takes one of them by chance."""
    untrained: float = 0.8
    """The share that is not trained at all; their logits tell nothing, their features do."""
    epochs: int = 20
    """The others are trained for so many passes over `trained_on` images at most, each for another number of them."""
    trained_on: int = 1000
    """Real images that a network is trained on, drawn for each of them."""
    refresh_every: int = 5
    """Steps after which the oldest network is replaced by a new one; 0 keeps all."""
    architecture: Architecture = "convnet"
    """The networks' kind."""
    width: int | None = None
    """Channels of a ConvNet."""
    depth: int | None = None
    """Blocks of a ConvNet."""
    norm: Norm = "instance"
    """Their normalisation."""

    def __post_init__(self) -> None:
        for name in ("networks", "epochs", "trained_on"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", "a whole number >= 1")
        if self.refresh_every < 0:
            raise InputError(f"refresh_every is {self.refresh_every}", "a whole number >= 0")
        if not 0 <= self.untrained <= 1:
            raise InputError(f"untrained is {self.untrained}", "a share in [0, 1]")


class Pool:
    """Networks by number, of which a step sees those that are in the pool at its time.

    Network n is a function of (seed, n) alone, so that a run that is gone on with has the same networks.

    Parameters
    ----------
    config
        Which.
    data
        What they are trained on.
    preprocessing
        From pixels to inputs.
    augment
        The transforms of their training.
    seed
        Of all.
    where
        The device.
    """

    def __init__(
        self,
        config: PoolConfig,
        data: ImageSet,
        preprocessing: Preprocessing,
        augment: SiameseAugmentation,
        seed: int,
        where: torch.device,
    ) -> None:
        self.config, self.data, self.seed, self.where = config, data, seed, where
        self._preprocessing, self._augment = preprocessing, augment
        self._networks: dict[int, FeatureNetwork] = {}

    def numbers(self, step: int) -> range:
        """Return the numbers of the networks that are in the pool at a step."""
        oldest = step // self.config.refresh_every if self.config.refresh_every else 0
        return range(oldest, oldest + self.config.networks)

    def epochs(self, number: int) -> int:
        """Return for how many passes a network is trained; 0 for a random one."""
        draw = random_of(self.seed, "pool", number)
        return 0 if draw.random() < self.config.untrained else int(draw.integers(1, self.config.epochs + 1))

    def draw(self, step: int) -> FeatureNetwork:
        """Return the network of a step."""
        present = self.numbers(step)
        number = present[int(random_of(self.seed, "network", step).integers(len(present)))]
        for old in [n for n in self._networks if n < present.start]:
            del self._networks[old]
        if number not in self._networks:
            self._networks[number] = self._made(number)
        return self._networks[number]

    def _made(self, number: int) -> FeatureNetwork:
        config, data = self.config, self.data

        def make(_: int) -> FeatureNetwork:
            return build(
                config.architecture, data.image_shape, data.n_classes, width=config.width, depth=config.depth,
                norm=config.norm,
            )  # fmt: skip

        epochs = self.epochs(number)
        if not epochs:
            with torch_seed(self.seed, "random network", number):
                network = make(number).to(self.where)
            return network.requires_grad_(False).eval()
        rows = random_of(self.seed, "images", number).permutation(len(data.train_labels))[: config.trained_on]
        inputs: Tensor = self._preprocessing(data.train_images[rows])
        settings = TrainConfig(epochs=epochs, batch=64, lr=0.02, seed=self.seed, device=str(self.where))
        [trained] = train_networks(
            make, [number], inputs, torch.tensor(data.train_labels[rows]), self._augment, settings
        )
        assert isinstance(trained, FeatureNetwork)
        return trained.requires_grad_(False).eval()
