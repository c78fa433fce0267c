"""Train fresh networks on a few labelled images: the one loop of every evaluation.

Whatever is random is keyed by (seed, number of the network, epoch), so a network
learns the same whether it is trained alone, beside others, or after an interruption.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from sextet_common import device, seeding
from sextet_common.errors import InputError
from torch import Tensor, nn

from attention_matching.evaluation.ensemble import Learner, group_size, learner_of
from attention_matching.images.augment import N_RANDOM, SiameseAugmentation
from attention_matching.images.held_out import HeldOut
from attention_matching.networks.memory import explain_out_of_memory

CHECKS = 20  # how often a training with held-out images looks at them: evenly over its epochs
_AHEAD = 100  # epochs whose random numbers are drawn and sent to the device at once, and whose losses are
_DRAWN = 2**16  # looked at after them; fewer epochs where they have more images than these


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
    >>> from attention_matching.networks.convnet import ConvNet
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
        shared = None if own else (inputs.to(where)[None], targets.to(where)[None])
        if held_out is not None:
            held_out = HeldOut(held_out.inputs.to(where), held_out.labels.to(where))
        size = group_size(_fresh(make, numbers[0], config, where), inputs.shape[-4:], config, where)
        for start in range(0, len(numbers), size):
            mine = slice(start, start + size)
            group = numbers[mine]
            images, wanted = shared or (inputs[mine].to(where), targets[mine].to(where))
            learner = learner_of([_fresh(make, number, config, where) for number in group], config)
            # Dropout, where a network has it, draws from the global generator.
            with seeding.torch_seed(config.seed, "train", group[0]):
                networks = _fit(
                    learner, group, images, wanted, augment, config, held_out, advance or (lambda epochs: None)
                )
            for network in networks:
                for parameter in network.parameters():  # its own memory again, not a part of the learner's vector
                    parameter.data = parameter.data.clone()
                trained.append(network)
    return trained


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


def _fresh(make: Callable[[int], nn.Module], number: int, config: TrainConfig, where: torch.device) -> nn.Module:
    with seeding.torch_seed(config.seed, "network", number):
        return make(number).to(where)


def _fit(
    learner: Learner,
    numbers: Sequence[int],
    inputs: Tensor,
    targets: Tensor,
    augment: SiameseAugmentation,
    config: TrainConfig,
    held_out: HeldOut | None,
    advance: Callable[[int], None],
) -> list[nn.Module]:
    """Train a group; ``inputs`` and ``targets`` have a row per network, or one for all."""
    images = inputs.shape[1]
    row = torch.arange(len(inputs), device=inputs.device)[:, None]
    half = (config.epochs + 1) // 2
    looks = {round(config.epochs * (look + 1) / CHECKS) for look in range(CHECKS)}
    best: list[tuple[float, dict[str, Tensor]]] = [(-1.0, {}) for _ in numbers]
    block = max(1, min(_AHEAD, _DRAWN // (len(numbers) * images)))
    for start in range(0, config.epochs, block):
        epochs = range(start, min(start + block, config.epochs))
        drawn_order, drawn_rows = _draws(config, numbers, epochs, images)
        order, rows = drawn_order.to(inputs.device), drawn_rows.to(inputs.device)
        losses = torch.zeros(len(epochs), len(numbers), device=inputs.device)
        for at, epoch in enumerate(epochs):
            if epoch == half:
                learner.slow_down()
            for first in range(0, images, config.batch):
                part = slice(first, first + config.batch)
                index = order[at, :, part]
                kind = float(drawn_rows[at, 0, first, 0]) if len(numbers) == 1 else None
                batch = _augmented(augment, inputs[row, index], rows[at, :, part], kind)
                losses[at] += learner.step(batch, targets[row, index])
            advance(len(numbers))
            if held_out is not None and epoch + 1 in looks:
                now = learner.networks()
                best = [_better(b, n, held_out, config.batch) for b, n in zip(best, now, strict=True)]
        _check_finite(losses, numbers, epochs, half, config)  # once per block, since it waits for the device
    networks = learner.networks()
    if held_out is not None:
        for network, (_, state) in zip(networks, best, strict=True):
            network.load_state_dict(state)
    return networks


def _draws(config: TrainConfig, numbers: Sequence[int], epochs: range, images: int) -> tuple[Tensor, Tensor]:
    """Draw the orders, (epochs, networks, images), and the transforms, (epochs, networks, images, random)."""
    order = np.empty((len(epochs), len(numbers), images), dtype=np.int64)
    rows = np.empty((*order.shape, N_RANDOM), dtype=np.float32)
    for i, epoch in enumerate(epochs):
        for j, number in enumerate(numbers):
            draw = seeding.generator(config.seed, number, epoch)
            order[i, j] = draw.permutation(images)
            rows[i, j] = draw.random((images, N_RANDOM), dtype=np.float32)
    # One operation for a batch, its amounts for every image: as the papers' evaluation does.
    rows[..., 0] = rows[:, :, np.arange(images) // config.batch * config.batch, 0]
    return torch.from_numpy(order), torch.from_numpy(rows)


def _augmented(augment: SiameseAugmentation, images: Tensor, rows: Tensor, kind: float | None) -> Tensor:
    """Transform (networks, batch, ...) images.

    ``kind`` is the random number of the operation where all images share it and the host
    knows it: the others need not be computed then.
    """
    if augment.operations and kind is not None:
        number = min(int(np.float32(kind) * len(augment.operations)), len(augment.operations) - 1)
        augment = dataclasses.replace(augment, operations=(augment.operations[number],))
    return augment(images.flatten(0, 1), rows.flatten(0, 1)).reshape(images.shape)


def _better(
    best: tuple[float, dict[str, Tensor]], network: nn.Module, held_out: HeldOut, batch: int
) -> tuple[float, dict[str, Tensor]]:
    """Return the better of a network's best state so far and its present one, which wins a draw."""
    now = accuracy(network, held_out.inputs, held_out.labels, batch)
    if now < best[0]:
        return best
    return now, {name: value.detach().clone() for name, value in network.state_dict().items()}


def _check_finite(losses: Tensor, numbers: Sequence[int], epochs: range, half: int, config: TrainConfig) -> None:
    wrong = (~losses.isfinite()).nonzero()
    if len(wrong):
        at, which = wrong[0].tolist()
        lr = config.lr if epochs[at] < half else config.lr / 10
        raise InputError(
            f"the loss of network {numbers[which]} is {float(losses[at, which])} in epoch {epochs[at]} "
            f"at learning rate {lr:g}, seed {config.seed}",
            f"finite numbers: try an lr below {config.lr:g}",
        )
