"""How good a small set is: the test accuracy of fresh networks trained on it alone."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable

import numpy as np
import torch
from sextet_common import device, progress, seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

from attention_matching.augment import N_RANDOM, Operation, SiameseAugmentation, augmentation_for
from attention_matching.distilled import DistilledSet
from attention_matching.networks import ConvNet, Norm, default_depth, default_width
from attention_matching.select import random_real


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """How fresh networks are trained. The defaults are DM's protocol, which DataDAM's follows.

    Settings that are None are chosen by the image's size, as in distillation.
    """

    networks: int = 3
    """How many networks, each from its own initialisation (the papers have 5 to 20)."""
    epochs: int = 1000
    """Passes over the set."""
    batch: int = 256
    """Images per gradient step."""
    lr: float = 0.01
    """Learning rate of SGD; a tenth of it from half time."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""
    width: int | None = None
    """Channels of the network: 128; 64 below 28 pixels."""
    depth: int | None = None
    """Blocks of the network: 3 for 32 pixels, 4 for 64, 5 for 128; 2 below 28."""
    norm: Norm = "instance"
    """Normalisation of the network."""
    augment: tuple[Operation, ...] | None = None
    """The augmentation's transforms: all six; no flip for digits."""
    seed: int = 0
    """The seed of all random numbers."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        for name in ("networks", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", "a whole number >= 1")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"lr is {self.lr}", "a number > 0")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Test accuracies after the last epoch: no step is chosen on the test set.

    Parameters
    ----------
    accuracies
        One per network, in [0, 1].

    Examples
    --------
    >>> print(Evaluation((0.9, 0.8)))
    85.0 ± 7.1 %
    """

    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean accuracy over the networks."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Sample standard deviation over the networks; 0 for one network."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.std:.1f} %"


def evaluate(training: DistilledSet, data: ImageSet, config: EvaluateConfig | None = None) -> Evaluation:
    """Train fresh networks on a small set and test each on real images.

    Parameters
    ----------
    training
        The set to train on.
    data
        Where the test images come from.
    config
        How to train.

    Returns
    -------
    Evaluation
        The test accuracies.

    Raises
    ------
    InputError
        Where the two sets' images or classes differ.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> digits = load("digits")
    >>> quick = EvaluateConfig(networks=2, epochs=2, width=8)
    >>> len(evaluate(random_real(digits, ipc=1), digits, quick).accuracies)
    2
    """
    return _evaluate(lambda number: training, data, config or EvaluateConfig())


def evaluate_random_real(data: ImageSet, ipc: int, config: EvaluateConfig | None = None) -> Evaluation:
    """Measure the baseline: each network is trained on another random choice of real images.

    Parameters
    ----------
    data
        The images.
    ipc
        Images per class.
    config
        How to train.

    Returns
    -------
    Evaluation
        The test accuracies; their std is over choices and networks.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> quick = EvaluateConfig(networks=2, epochs=2, width=8)
    >>> 0 <= evaluate_random_real(load("digits"), 1, quick).mean <= 1
    True
    """
    chosen = config or EvaluateConfig()
    return _evaluate(lambda number: random_real(data, ipc, seeding.derive(chosen.seed, "choice", number)), data, chosen)


def _evaluate(training: Callable[[int], DistilledSet], data: ImageSet, config: EvaluateConfig) -> Evaluation:
    with progress.bar("evaluate", config.networks * config.epochs) as bar:
        accuracies = [_one_network(training(n), data, config, n, bar) for n in range(config.networks)]
    return Evaluation(tuple(accuracies))


def _one_network(
    training: DistilledSet,
    data: ImageSet,
    config: EvaluateConfig,
    number: int,
    bar: progress.Bar,
) -> float:
    """Train one network and return its test accuracy."""
    if tuple(training.images.shape[1:]) != data.image_shape or training.classes != data.classes:
        raise InputError(
            f"the set has {len(training.classes)} classes of {tuple(training.images.shape[1:])} images, "
            f"the test data {data.n_classes} of {data.image_shape}",
            "the same image shape and classes",
        )
    where = device.pick(config.device)
    side = min(data.image_shape[1:])
    with seeding.torch_seed(config.seed, "network", number):
        network = ConvNet(
            data.image_shape,
            data.n_classes,
            width=config.width or default_width(side),
            depth=config.depth or default_depth(side),
            norm=config.norm,
        ).to(where)
    augment = augmentation_for(data.classes, config.augment)
    images, labels = training.images.to(where), training.labels.to(where)
    optimiser = torch.optim.SGD(
        network.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    for epoch in range(config.epochs):
        if epoch == (config.epochs + 1) // 2:
            optimiser.param_groups[0]["lr"] = config.lr / 10
        _one_epoch(network, optimiser, images, labels, augment, config, seeding.generator(config.seed, number, epoch))
        bar.advance()
    test = training.preprocessing(data.test_images), torch.tensor(data.test_labels)
    return _accuracy(network, *test, config.batch, where)


def _one_epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    augment: SiameseAugmentation,
    config: EvaluateConfig,
    draw: np.random.Generator,
) -> None:
    order = torch.from_numpy(draw.permutation(len(images))).to(images.device)
    for index in order.split(config.batch):
        # One operation for the batch, its amounts for every image: as the papers' evaluation does.
        rows = torch.tensor(draw.random((len(index), N_RANDOM), dtype=np.float32))
        rows[:, 0] = rows[0, 0]
        optimiser.zero_grad()
        functional.cross_entropy(network(augment(images[index], rows)), labels[index]).backward()
        optimiser.step()


def _accuracy(network: nn.Module, images: Tensor, labels: Tensor, batch: int, where: torch.device) -> float:
    network.eval()
    with torch.inference_mode():
        predicted = torch.cat([network(x.to(where)).argmax(dim=1).cpu() for x in images.split(batch)])
    return (predicted == labels).double().mean().item()
