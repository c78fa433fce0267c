"""The loop that trains fresh networks, against the same training written out, and its errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from attention_matching.evaluation.accuracy import accuracy
from attention_matching.evaluation.config import TrainConfig
from attention_matching.evaluation.training import train_networks
from attention_matching.images.augment import N_RANDOM, SiameseAugmentation
from attention_matching.images.held_out import HeldOut
from attention_matching.networks.convnet import ConvNet
from attention_matching.networks.memory import explain_out_of_memory
from sextet_common import seeding
from sextet_common.errors import InputError
from torch import nn
from torch.nn import functional

PLAIN = SiameseAugmentation(())


def make(number: int) -> ConvNet:
    return ConvNet((1, 8, 8), 3, width=8)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.arange(10) % 3


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in network.state_dict().values()])


def test_training_is_sgd_with_momentum_written_out(images: torch.Tensor, labels: torch.Tensor) -> None:
    """Two batches an epoch, five epochs: the learning rate falls after three."""
    config = TrainConfig(epochs=5, batch=6, lr=0.05, momentum=0.8, weight_decay=0.01, seed=7)
    augment = SiameseAugmentation()
    [trained] = train_networks(make, [3], images, labels, augment, config)
    with seeding.torch_seed(7, "network", 3):
        network = make(3)
    velocities = [torch.zeros_like(p) for p in network.parameters()]
    for epoch in range(5):
        draw = seeding.generator(7, 3, epoch)
        order = torch.from_numpy(draw.permutation(10))
        for index in (order[:6], order[6:]):
            rows = torch.from_numpy(draw.random((len(index), N_RANDOM), dtype=np.float32))
            rows[:, 0] = rows[0, 0]  # one operation per batch
            loss = functional.cross_entropy(network(augment(images[index], rows)), labels[index])
            gradients = torch.autograd.grad(loss, [*network.parameters()])
            for p, v, g in zip(network.parameters(), velocities, gradients, strict=True):
                v.mul_(0.8).add_(g + 0.01 * p.detach())
                p.data -= (0.05 if epoch < 3 else 0.005) * v
    # Ten steps in float32, summed in another order.
    torch.testing.assert_close(weights(trained), weights(network), atol=1e-5, rtol=0)


def test_a_network_learns_the_same_alone_and_beside_others(images: torch.Tensor, labels: torch.Tensor) -> None:
    config = TrainConfig(epochs=3)
    torch.rand(5)  # the global generator is not what the result comes from
    pair = train_networks(make, [1, 2], images, labels, SiameseAugmentation(), config)
    [alone] = train_networks(make, [2], images, labels, SiameseAugmentation(), config)
    assert torch.equal(weights(pair[1]), weights(alone))
    assert not torch.equal(weights(pair[0]), weights(alone))


def test_soft_labels_that_are_certain_are_hard_labels(images: torch.Tensor, labels: torch.Tensor) -> None:
    config = TrainConfig(epochs=3)
    certain = functional.one_hot(labels, 3).float()
    [hard] = train_networks(make, [0], images, labels, SiameseAugmentation(), config)
    [soft] = train_networks(make, [0], images, certain, SiameseAugmentation(), config)
    torch.testing.assert_close(weights(soft), weights(hard), atol=1e-6, rtol=0)  # rounding of three steps


def test_with_held_out_images_the_best_look_at_them_is_returned(images: torch.Tensor, labels: torch.Tensor) -> None:
    held_out = HeldOut(-images, labels)
    seen, states, known = [], [], []

    def remembered(number: int) -> ConvNet:
        seen.append(make(number))
        return seen[-1]

    def look(epochs: int) -> None:  # after each of twenty epochs, as the loop itself looks
        states.append(weights(seen[-1]))
        known.append(accuracy(seen[-1], held_out.inputs, held_out.labels))

    config = TrainConfig(epochs=20, lr=0.05)
    [best] = train_networks(remembered, [0], images, labels, PLAIN, config, held_out=held_out, advance=look)
    last_of_the_best = max(range(20), key=lambda epoch: (known[epoch], epoch))
    assert len(set(known)) > 1 and last_of_the_best < 19, "the case is to have a best look that is not the last"
    assert torch.equal(weights(best), states[last_of_the_best])


def test_a_loss_that_is_not_finite_names_network_epoch_and_learning_rate(
    images: torch.Tensor, labels: torch.Tensor
) -> None:
    def wild(number: int) -> ConvNet:
        return ConvNet((1, 8, 8), 3, width=8, norm="none")

    config = TrainConfig(epochs=30, lr=1e9, seed=2)
    message = (
        r"loss of network 5 is (nan|inf) in epoch \d+ at learning rate 1e\+0[89], seed 2; expected: .* lr below 1e"
    )
    with pytest.raises(InputError, match=message):
        train_networks(wild, [5, 6], images, labels, PLAIN, config)


def test_a_full_gpu_gives_an_error_that_names_the_options_that_help(images: torch.Tensor, labels: torch.Tensor) -> None:
    class Hungry(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(InputError, match="the GPU is out of memory; expected: a smaller batch"):
        train_networks(lambda number: Hungry(1, 1), [0], images, labels, PLAIN, TrainConfig(epochs=1))
    with explain_out_of_memory("batch"), pytest.raises(RuntimeError, match="another fault"):
        raise RuntimeError("another fault")


def test_dropout_draws_from_the_seed_and_leaves_the_global_generator_alone(
    images: torch.Tensor, labels: torch.Tensor
) -> None:
    def dropping(number: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))

    before = torch.get_rng_state()
    first, again = (train_networks(dropping, [0], images, labels, PLAIN, TrainConfig(epochs=2))[0] for _ in range(2))
    assert torch.equal(weights(first), weights(again))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_trained_network_is_an_ordinary_one(images: torch.Tensor, labels: torch.Tensor) -> None:
    [network] = train_networks(make, [0], images, labels, PLAIN, TrainConfig(epochs=1))
    storages = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    assert len(storages) == len(list(network.parameters()))  # no parameter is a part of another's memory
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_advance_may_stop_the_training(images: torch.Tensor, labels: torch.Tensor) -> None:
    calls = []

    def stop(epochs: int) -> None:
        calls.append(epochs)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_networks(make, [0, 1], images, labels, PLAIN, TrainConfig(epochs=9), advance=stop)
    assert calls == [1, 1, 1]


def test_accuracy_counts_in_evaluation_mode_and_puts_the_mode_back() -> None:
    modes = []

    class Mode(nn.Flatten):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            modes.append(self.training)
            return super().forward(x)

    network = Mode()
    inputs = torch.eye(4)[[0, 1, 2, 3, 3], :, None, None]
    assert accuracy(network, inputs, torch.tensor([0, 1, 2, 0, 0]), batch=2) == 3 / 5
    assert modes == [False] * 3 and network.training


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("momentum", -0.1),
        ("weight_decay", float("inf")),
        ("seed", -1),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: float) -> None:
    refused: Callable[..., TrainConfig] = TrainConfig
    with pytest.raises(InputError, match=f"{name} must be a .*, got {value!r}"):
        refused(**{name: value})
