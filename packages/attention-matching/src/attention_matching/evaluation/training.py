"""Train fresh networks on a few labelled images: the loop of every evaluation.

Every draw is keyed by (seed, number of the network, epoch), so a network learns the same whichever others are trained,
and after an interruption.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sextet_common import device as devices, seeding
from sextet_common.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

from attention_matching.evaluation.accuracy import accuracy
from attention_matching.evaluation.config import TrainConfig
from attention_matching.evaluation.sgd import FlatSGD
from attention_matching.images.augment import N_RANDOM, SiameseAugmentation
from attention_matching.images.held_out import HeldOut
from attention_matching.images.inputs import Inputs
from attention_matching.images.view_labels import Targets, ViewLabels
from attention_matching.networks.memory import explain_out_of_memory

CHECKS = 20  # measurements of a training on its held-out images, evenly over the epochs
# A block of epochs has its random numbers drawn and sent to the device at once, and its losses checked at its end.
_BLOCK_EPOCHS = 100
_BLOCK_IMAGES = 2**16


def train_networks(
    make: Callable[[int], nn.Module],
    numbers: Sequence[int],
    inputs: Inputs,
    targets: Targets,
    augment: SiameseAugmentation,
    config: TrainConfig,
    *,
    held_out: HeldOut | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[nn.Module]:
    """Train fresh networks from scratch, each with its own order of the images and its own transforms.

    SGD with momentum on the cross entropy. Every batch is augmented by one operation whose amounts differ from image
    to image, and the learning rate falls to a tenth half-way, as in the evaluation of DM (arXiv 2110.04181), which
    DataDAM and ATOM use. The networks are returned on the training device, in the order of ``numbers``.

    Parameters
    ----------
    make
        Builds the untrained network of a number, with torch's global generator seeded by (seed, number).
    numbers
        The networks to train, such as ``range(5)``; they key the random numbers.
    inputs
        Network inputs, shape (n, channels, height, width), a tensor or the images of a data set.
    targets
        Class numbers, int64, shape (n,), or probabilities, float, shape (n, classes), or labels of augmented views:
        epoch e then has view e modulo their number.
    augment
        The transforms; ``SiameseAugmentation(())`` for none. Labels of views bring their own.
    held_out
        Measure each network on these images twenty times, evenly over its epochs, and return it as it was at its best
        measurement (the last of equals). By default it is returned as it is after the last step.
    advance
        Called with 1 after every epoch of a network; may raise to stop the training.

    Examples
    --------
    >>> from attention_matching.networks.convnet import ConvNet
    >>> images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    >>> networks = train_networks(
    ...     lambda number: ConvNet((1, 8, 8), 2, width=4),
    ...     range(2), images, labels, SiameseAugmentation(), TrainConfig(epochs=3),
    ... )
    >>> [tuple(network(images).shape) for network in networks]
    [(4, 2), (4, 2)]
    """
    device = devices.pick(config.device)
    with explain_out_of_memory("batch"):
        inputs, targets = inputs.to(device), targets.to(device)
        if held_out is not None:
            held_out = HeldOut(held_out.inputs.to(device), held_out.labels.to(device))
        return [_train(make, number, inputs, targets, augment, config, held_out, advance) for number in numbers]


def _train(
    make: Callable[[int], nn.Module],
    number: int,
    inputs: Inputs,
    targets: Targets,
    augment: SiameseAugmentation,
    config: TrainConfig,
    held_out: HeldOut | None,
    advance: Callable[[int], None] | None,
) -> nn.Module:
    """Build and train one network."""
    with seeding.torch_seed(config.seed, "network", number):
        network = make(number).to(inputs.device).train()
    best = None if held_out is None else _Best(held_out, config)
    # Dropout, where a network has it, draws from the global generator.
    with seeding.torch_seed(config.seed, "train", number):
        _fit(network, number, inputs, targets, augment, config, best, advance)
    if best is not None:
        network.load_state_dict(best.state)
    for parameter in network.parameters():  # its own memory again, not a view of the optimizer's vector
        parameter.data = parameter.data.clone()
    return network


def _fit(
    network: nn.Module,
    number: int,
    inputs: Inputs,
    targets: Targets,
    augment: SiameseAugmentation,
    config: TrainConfig,
    best: _Best | None,
    advance: Callable[[int], None] | None,
) -> None:
    images, half = len(inputs), (config.epochs + 1) // 2
    block = max(1, min(_BLOCK_EPOCHS, _BLOCK_IMAGES // images))
    sgd = FlatSGD(network.parameters(), config)
    for start in range(0, config.epochs, block):
        epochs = range(start, min(start + block, config.epochs))
        host_order, host_random = _draws(config, number, epochs, images)
        order, random = host_order.to(inputs.device), host_random.to(inputs.device)
        losses = torch.zeros(len(epochs), device=inputs.device)
        for i, epoch in enumerate(epochs):
            if epoch == half:
                sgd.divide_lr(10)
            for first in range(0, images, config.batch):
                batch = slice(first, first + config.batch)
                index = order[i, batch]
                if isinstance(targets, ViewLabels):
                    drawn, labels = targets.view(inputs[index], index, epoch % targets.views)
                else:
                    drawn = _operation(augment, float(host_random[i, first, 0]))(inputs[index], random[i, batch])
                    labels = targets[index]
                loss = functional.cross_entropy(network(drawn), labels)
                losses[i] += loss.detach()
                sgd.step(loss)
            if advance is not None:
                advance(1)
            if best is not None:
                best.after_epoch(epoch, network)
        _check_finite(losses, number, epochs, half, config)  # once per block, since it waits for the device


def _draws(config: TrainConfig, number: int, epochs: range, images: int) -> tuple[Tensor, Tensor]:
    """Draw the orders, (epochs, images), and the transforms, (epochs, images, N_RANDOM)."""
    order = np.empty((len(epochs), images), dtype=np.int64)
    random = np.empty((*order.shape, N_RANDOM), dtype=np.float32)
    for i, epoch in enumerate(epochs):
        draw = seeding.generator(config.seed, number, epoch)
        order[i] = draw.permutation(images)
        random[i] = draw.random((images, N_RANDOM), dtype=np.float32)
    # One operation per batch, its amounts per image, as in the papers' evaluation.
    random[..., 0] = random[:, np.arange(images) // config.batch * config.batch, 0]
    return torch.from_numpy(order), torch.from_numpy(random)


def _operation(augment: SiameseAugmentation, kind: float) -> SiameseAugmentation:
    """Return the augmentation reduced to the operation of a batch, so that only that one is computed."""
    if not augment.operations:
        return augment
    number = min(int(np.float32(kind) * len(augment.operations)), len(augment.operations) - 1)
    return dataclasses.replace(augment, operations=(augment.operations[number],))


class _Best:
    """The best state of a network so far, by its accuracy on held-out images."""

    def __init__(self, held_out: HeldOut, config: TrainConfig) -> None:
        self.held_out, self.batch = held_out, config.batch
        self.epochs = {round(config.epochs * (check + 1) / CHECKS) for check in range(CHECKS)}
        self.accuracy = -1.0
        self.state: dict[str, Tensor] = {}

    def after_epoch(self, epoch: int, network: nn.Module) -> None:
        """Measure the network if it is time; of equal accuracies the newest wins."""
        if epoch + 1 in self.epochs:
            current = accuracy(network, self.held_out.inputs, self.held_out.labels, self.batch)
            if current >= self.accuracy:
                self.accuracy = current
                self.state = {name: value.detach().clone() for name, value in network.state_dict().items()}


def _check_finite(losses: Tensor, number: int, epochs: range, half: int, config: TrainConfig) -> None:
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        i = int(bad[0])
        lr = config.lr if epochs[i] < half else config.lr / 10
        raise InputError(
            f"the loss of network {number} is {float(losses[i])} in epoch {epochs[i]} "
            f"at learning rate {lr:g}, seed {config.seed}",
            f"finite numbers: try an lr below {config.lr:g}",
        )
