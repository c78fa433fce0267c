"""Train fresh networks on a few labelled images: the loop of every evaluation.

Every draw is keyed by (seed, number of the network, epoch), so a network learns the same whether it is trained alone,
beside others, or after an interruption.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sextet_common import device as devices, seeding
from sextet_common.errors import InputError
from torch import Tensor, nn

from attention_matching.evaluation.accuracy import accuracy
from attention_matching.evaluation.config import TrainConfig
from attention_matching.evaluation.ensemble import Learner, group_size, learner_of
from attention_matching.images.augment import N_RANDOM, SiameseAugmentation
from attention_matching.images.held_out import HeldOut
from attention_matching.images.inputs import Inputs
from attention_matching.networks.memory import explain_out_of_memory

CHECKS = 20  # measurements of a training on its held-out images, evenly over the epochs
# A block of epochs has its random numbers drawn and sent to the device at once, and its losses checked at its end.
_BLOCK_EPOCHS = 100
_BLOCK_IMAGES = 2**16


def train_networks(
    make: Callable[[int], nn.Module],
    numbers: Sequence[int],
    inputs: Inputs,
    targets: Tensor,
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
        Network inputs, shape (n, channels, height, width), a tensor or the images of a data set; or a tensor of shape
        (len(numbers), n, channels, height, width) for different images per network.
    targets
        Class numbers, int64, shape (n,), or probabilities, float, shape (n, classes); with different images per
        network, one such row per network in front.
    augment
        The transforms; ``SiameseAugmentation(())`` for none.
    held_out
        Measure each network on these images twenty times, evenly over its epochs, and return it as it was at its best
        measurement (the last of equals). By default it is returned as it is after the last step.
    advance
        Called after every epoch with the number of networks trained; may raise to stop the training.

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
    separate = inputs.ndim == 5
    if separate and not len(inputs) == len(targets) == len(numbers):
        raise InputError(f"{len(inputs)} sets of images for {len(numbers)} networks", "one each, or one for all")
    trained: list[nn.Module] = []
    with explain_out_of_memory("batch or together"):
        shared = None if separate else (inputs.to(device), targets.to(device))
        if held_out is not None:
            held_out = HeldOut(held_out.inputs.to(device), held_out.labels.to(device))
        size = group_size(_fresh(make, numbers[0], config, device), inputs.shape[-4:], config, device)
        for start in range(0, len(numbers), size):
            rows = slice(start, start + size)
            examples = (inputs[rows].to(device), targets[rows].to(device)) if shared is None else shared
            trained += _train_group(make, numbers[rows], examples, augment, config, held_out, advance)
    return trained


def _train_group(
    make: Callable[[int], nn.Module],
    group: Sequence[int],
    examples: tuple[Inputs, Tensor],
    augment: SiameseAugmentation,
    config: TrainConfig,
    held_out: HeldOut | None,
    advance: Callable[[int], None] | None,
) -> list[nn.Module]:
    """Train networks that fit on the device together; ``examples`` are those of all, or have a row per network."""
    learner = learner_of([_fresh(make, number, config, examples[0].device) for number in group], config)
    best = None if held_out is None else _Best(held_out, len(group), config)
    # Dropout, where a network has it, draws from the global generator.
    with seeding.torch_seed(config.seed, "train", group[0]):
        _fit(learner, group, *examples, augment, config, best, advance)
    networks = learner.networks()
    if best is not None:
        best.restore(networks)
    for network in networks:
        for parameter in network.parameters():  # its own memory again, not a view of the learner's vector
            parameter.data = parameter.data.clone()
    return networks


def _fresh(make: Callable[[int], nn.Module], number: int, config: TrainConfig, device: torch.device) -> nn.Module:
    with seeding.torch_seed(config.seed, "network", number):
        return make(number).to(device)


def _fit(
    learner: Learner,
    numbers: Sequence[int],
    inputs: Inputs,
    targets: Tensor,
    augment: SiameseAugmentation,
    config: TrainConfig,
    best: _Best | None,
    advance: Callable[[int], None] | None,
) -> None:
    images = inputs.shape[-4]
    row = torch.arange(len(numbers), device=inputs.device)[:, None]
    half = (config.epochs + 1) // 2
    block = max(1, min(_BLOCK_EPOCHS, _BLOCK_IMAGES // (len(numbers) * images)))
    for start in range(0, config.epochs, block):
        epochs = range(start, min(start + block, config.epochs))
        host_order, host_random = _draws(config, numbers, epochs, images)
        order, random = host_order.to(inputs.device), host_random.to(inputs.device)
        losses = torch.zeros(len(epochs), len(numbers), device=inputs.device)
        for i, epoch in enumerate(epochs):
            if epoch == half:
                learner.divide_lr(10)
            for first in range(0, images, config.batch):
                batch = slice(first, first + config.batch)
                index = order[i, :, batch]
                kind = float(host_random[i, 0, first, 0]) if len(numbers) == 1 else None
                if isinstance(inputs, Tensor) and inputs.ndim == 5:
                    drawn, labels = inputs[row, index], targets[row, index]
                else:
                    drawn, labels = inputs[index], targets[index]
                augmented = _augmented(augment, drawn, random[i, :, batch], kind)
                losses[i] += learner.step(augmented, labels)
            if advance is not None:
                advance(len(numbers))
            if best is not None:
                best.after_epoch(epoch, learner)
        _check_finite(losses, numbers, epochs, half, config)  # once per block, since it waits for the device


def _draws(config: TrainConfig, numbers: Sequence[int], epochs: range, images: int) -> tuple[Tensor, Tensor]:
    """Draw the orders, (epochs, networks, images), and the transforms, (epochs, networks, images, N_RANDOM)."""
    order = np.empty((len(epochs), len(numbers), images), dtype=np.int64)
    random = np.empty((*order.shape, N_RANDOM), dtype=np.float32)
    for i, epoch in enumerate(epochs):
        for j, number in enumerate(numbers):
            draw = seeding.generator(config.seed, number, epoch)
            order[i, j] = draw.permutation(images)
            random[i, j] = draw.random((images, N_RANDOM), dtype=np.float32)
    # One operation per batch, its amounts per image, as in the papers' evaluation.
    random[..., 0] = random[:, :, np.arange(images) // config.batch * config.batch, 0]
    return torch.from_numpy(order), torch.from_numpy(random)


def _augmented(augment: SiameseAugmentation, images: Tensor, random: Tensor, kind: float | None) -> Tensor:
    """Transform (networks, batch, ...) images.

    ``kind`` is the random number of the operation if all images share it and the host knows it: then only that
    operation is computed.
    """
    if augment.operations and kind is not None:
        number = min(int(np.float32(kind) * len(augment.operations)), len(augment.operations) - 1)
        augment = dataclasses.replace(augment, operations=(augment.operations[number],))
    return augment(images.flatten(0, 1), random.flatten(0, 1)).reshape(images.shape)


class _Best:
    """The best state of each network so far, by its accuracy on held-out images."""

    def __init__(self, held_out: HeldOut, networks: int, config: TrainConfig) -> None:
        self.held_out, self.batch = held_out, config.batch
        self.epochs = {round(config.epochs * (check + 1) / CHECKS) for check in range(CHECKS)}
        self.accuracies = [-1.0] * networks
        self.states: list[dict[str, Tensor]] = [{}] * networks

    def after_epoch(self, epoch: int, learner: Learner) -> None:
        """Measure the networks if it is time; of equal accuracies the newest wins."""
        if epoch + 1 in self.epochs:
            for i, network in enumerate(learner.networks()):
                current = accuracy(network, self.held_out.inputs, self.held_out.labels, self.batch)
                if current >= self.accuracies[i]:
                    self.accuracies[i] = current
                    self.states[i] = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def restore(self, networks: Sequence[nn.Module]) -> None:
        """Load the best states."""
        for network, state in zip(networks, self.states, strict=True):
            network.load_state_dict(state)


def _check_finite(losses: Tensor, numbers: Sequence[int], epochs: range, half: int, config: TrainConfig) -> None:
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        i, j = bad[0].tolist()
        lr = config.lr if epochs[i] < half else config.lr / 10
        raise InputError(
            f"the loss of network {numbers[j]} is {float(losses[i, j])} in epoch {epochs[i]} "
            f"at learning rate {lr:g}, seed {config.seed}",
            f"finite numbers: try an lr below {config.lr:g}",
        )
