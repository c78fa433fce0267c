"""Train fresh networks on a few labelled images: the one loop of every evaluation.

Whatever is random is keyed by (seed, number of the network, epoch), so a network
learns the same whether it is trained alone, beside others, or after an interruption.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from sextet_common import device, seeding
from sextet_common.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

from attention_matching.augment import N_RANDOM, SiameseAugmentation

CHECKS = 20  # how often a training with held-out images looks at them: evenly over its epochs
_DRAWN = 2**16  # images whose transforms are drawn ahead and sent to the device at once


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How fresh networks are trained. The defaults are DM's protocol, which DataDAM's follows."""

    epochs: int = 1000
    """Passes over the set (the papers have 1000 to 1800)."""
    batch: int = 256
    """Images per gradient step."""
    lr: float = 0.01
    """Learning rate of SGD; a tenth of it from half time."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""
    together: int | None = None
    """Networks trained at once on one device; chosen by the device and the images where not given."""
    seed: int = 0
    """The seed of all random numbers."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "together"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}", "a whole number >= 1")
        if not 0 < self.lr < math.inf:
            raise InputError(f"lr is {self.lr}", "a number > 0")
        for name in ("momentum", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}", "a number >= 0")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}", "a whole number >= 0")


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Images that no network is trained on, to choose the step of a training by.

    Parameters
    ----------
    inputs
        Network inputs, shape (images, channels, height, width).
    labels
        Class numbers, shape (images,).
    """

    inputs: Float[Tensor, "images channels height width"]
    labels: Int[Tensor, " images"]


class Learner(Protocol):
    """What the loop trains: one network, or several as one."""

    def step(self, images: Tensor, targets: Tensor) -> Tensor:
        """Make a gradient step of each network on its own batch and return the losses, on the device.

        ``images`` are (networks, batch, channels, height, width), ``targets`` (networks, batch)
        or (networks, batch, classes).
        """
        ...

    def slow_down(self) -> None:
        """Go on with a tenth of the learning rate."""
        ...

    def networks(self) -> list[nn.Module]:
        """Return the networks as they are now."""
        ...


def train_networks(
    make: Callable[[int], nn.Module],
    numbers: Sequence[int],
    inputs: Float[Tensor, "*networks images channels height width"],
    targets: Tensor,
    augment: SiameseAugmentation,
    config: TrainConfig,
    *,
    held_out: HeldOut | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[nn.Module]:
    """Train fresh networks from scratch, each on its own order of the images and its own transforms.

    SGD with momentum on the cross entropy; every batch is augmented by one operation whose
    amounts differ from image to image, and half-way the learning rate falls to a tenth.

    Parameters
    ----------
    make
        Builds the untrained network of a number. It is called with torch's global generator
        seeded by (seed, number), so it need not care for its initialisation.
    numbers
        The networks to train, such as ``range(5)``: what their random numbers are keyed by.
    inputs
        Network inputs, shape (n, channels, height, width); or (len(numbers), n, channels,
        height, width) where every network has images of its own.
    targets
        Class numbers, int64, shape (n,); or probabilities, float, shape (n, classes). With
        images of their own: one such row per network in front.
    augment
        The transforms; ``SiameseAugmentation(())`` for none.
    config
        The settings.
    held_out
        Where given, a network is looked at twenty times, evenly over its epochs, and returned
        as it was at the look with the best accuracy on these images (the last of equals).
        By default it is returned as it is after the last step.
    advance
        Called after every epoch with the number of networks that did it: a progress bar's
        ``advance``, which may raise to stop the training.

    Returns
    -------
    list of torch.nn.Module
        The trained networks on the training device, in the order of ``numbers``.

    Raises
    ------
    InputError
        Where a loss is no longer finite (network, epoch and learning rate are named), or a
        GPU's memory is full.

    References
    ----------
    DM (arXiv 2110.04181), whose evaluation DataDAM and ATOM use.

    Examples
    --------
    >>> from attention_matching.networks import ConvNet
    >>> images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    >>> networks = train_networks(
    ...     lambda number: ConvNet((1, 8, 8), 2, width=4),
    ...     range(2), images, labels, SiameseAugmentation(), TrainConfig(epochs=3),
    ... )
    >>> [tuple(network(images).shape) for network in networks]
    [(4, 2), (4, 2)]
    """
    where = device.pick(config.device)
    own = inputs.ndim == 5
    if own and not len(inputs) == len(targets) == len(numbers):
        raise InputError(f"{len(inputs)} sets of images for {len(numbers)} networks", "one each, or one for all")
    trained: list[nn.Module] = []
    with explain_out_of_memory("batch or together"):
        for number in numbers:
            with seeding.torch_seed(config.seed, "network", number):
                network = make(number).to(where)
            mine = slice(len(trained), len(trained) + 1)
            images, wanted = (x[mine] if own else x[None] for x in (inputs, targets))
            fitted = _fit(Single(network, config), [number], images.to(where), wanted.to(where), augment, config)
            trained.extend(fitted)
            if advance is not None:
                advance(config.epochs)
    return trained


class Single:
    """One network and its optimiser: the learner of the one-by-one path.

    Parameters
    ----------
    network
        The network, on its device.
    config
        The settings of SGD.
    """

    def __init__(self, network: nn.Module, config: TrainConfig) -> None:
        self._network = network.train()
        self._lr = config.lr
        self._optimiser = torch.optim.SGD(
            network.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )

    def step(self, images: Tensor, targets: Tensor) -> Tensor:
        """Make a gradient step and return the loss, shape (1,)."""
        self._optimiser.zero_grad()
        loss = functional.cross_entropy(self._network(images[0]), targets[0])
        loss.backward()
        self._optimiser.step()
        return loss.detach()[None]

    def slow_down(self) -> None:
        """Go on with a tenth of the learning rate."""
        self._optimiser.param_groups[0]["lr"] = self._lr / 10

    def networks(self) -> list[nn.Module]:
        """Return the network."""
        return [self._network]


def accuracy(
    network: nn.Module,
    inputs: Float[Tensor, "images channels height width"],
    labels: Int[Tensor, " images"],
    batch: int = 256,
) -> float:
    """Measure the share of images whose largest logit is that of their label.

    Parameters
    ----------
    network
        The network; it is put into evaluation mode for the while.
    inputs
        Network inputs, shape (images, channels, height, width), on any device.
    labels
        Class numbers, shape (images,).
    batch
        Images per forward pass.

    Returns
    -------
    float
        In [0, 1].

    Examples
    --------
    >>> accuracy(nn.Flatten(), torch.eye(3)[:, :, None, None], torch.tensor([0, 1, 0]))
    0.6666666666666666
    """
    where = next((p.device for p in network.parameters()), inputs.device)
    before = network.training
    network.eval()
    with torch.inference_mode():
        predicted = torch.cat([network(x.to(where)).argmax(dim=1) for x in inputs.split(batch)])
    network.train(before)
    return (predicted == labels.to(where)).double().mean().item()


@contextmanager
def explain_out_of_memory(options: str) -> Iterator[None]:
    """Turn a GPU's "out of memory" into an error that names the options that help.

    Parameters
    ----------
    options
        What to make smaller.

    Raises
    ------
    InputError
        Where the block ran out of the GPU's memory.

    Examples
    --------
    >>> with explain_out_of_memory("batch"):
    ...     raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    Traceback (most recent call last):
    sextet_common.errors.InputError: the GPU's memory is full; expected: a smaller batch
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise InputError("the GPU's memory is full", f"a smaller {options}") from error


def _fit(
    learner: Learner,
    numbers: Sequence[int],
    inputs: Tensor,
    targets: Tensor,
    augment: SiameseAugmentation,
    config: TrainConfig,
) -> list[nn.Module]:
    shape = inputs.shape[2:]
    for epoch in range(config.epochs):
        if epoch == (config.epochs + 1) // 2:
            learner.slow_down()
        draw = seeding.generator(config.seed, numbers[0], epoch)
        order = torch.from_numpy(draw.permutation(inputs.shape[1]))[None]
        for index in order.split(config.batch, dim=1):
            rows = torch.tensor(draw.random((index.shape[1], N_RANDOM), dtype=np.float32))
            rows[:, 0] = rows[0, 0]
            images = augment(inputs[0, index[0]].reshape(-1, *shape), rows)[None]
            learner.step(images, targets[:, index[0]])
    return learner.networks()
