"""Several networks trained at once, against the same networks trained one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_matching.evaluation.config import TrainConfig
from attention_matching.evaluation.ensemble import group_size
from attention_matching.evaluation.training import train_networks
from attention_matching.images.augment import SiameseAugmentation
from attention_matching.images.held_out import HeldOut
from attention_matching.networks.build import build
from attention_matching.networks.convnet import ConvNet
from torch import nn

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


def both(
    make: Any, inputs: torch.Tensor = IMAGES, targets: torch.Tensor = LABELS, epochs: int = 4, **more: Any
) -> list[Any]:
    """Train three networks one by one, and two and one at a time."""
    configs = [TrainConfig(epochs=epochs, batch=8, together=size) for size in (1, 2)]
    return [
        train_networks(make, range(3), inputs, targets, SiameseAugmentation(), config, **more) for config in configs
    ]


def assert_equal(alone: list[nn.Module], together: list[nn.Module], tolerance: float = 1e-5) -> None:
    # Eight steps in float32 with sums in another order: measured below 1e-6 where no norm divides by a tiny std.
    for one, other in zip(alone, together, strict=True):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value, atol=tolerance, rtol=0)


@pytest.mark.parametrize("norm", ["instance", "batch", "group", "none"])
def test_conv_nets_of_every_norm_are_those_trained_one_by_one(norm: Any) -> None:
    """The running statistics of batch norm included."""
    alone, together = both(lambda number: ConvNet((1, 8, 8), 3, width=8, norm=norm))
    assert_equal(alone, together)
    assert not torch.equal(alone[0].classifier.weight, alone[1].classifier.weight)


def test_transformers_are_those_trained_one_by_one() -> None:
    assert_equal(*both(lambda number: build("vit", (1, 8, 8), 3)))


def test_residual_networks_are_those_trained_one_by_one() -> None:
    # One epoch: through twenty batch norms, each over a few values, the rounding of one step grows in the next.
    assert_equal(*both(lambda number: build("resnet18", (1, 8, 8), 3, norm="batch"), epochs=1), tolerance=1e-3)


def test_networks_with_images_and_soft_labels_of_their_own_are_those_trained_one_by_one() -> None:
    inputs = torch.stack([IMAGES, -IMAGES, IMAGES.flip(3)])
    targets = torch.rand(3, 12, 3, generator=torch.Generator().manual_seed(1)).softmax(dim=2)
    assert_equal(*both(lambda number: ConvNet((1, 8, 8), 3, width=8), inputs, targets))


def test_each_network_is_returned_at_its_own_best_look_at_held_out_images() -> None:
    held_out = HeldOut(IMAGES.flip(2), LABELS)
    assert_equal(*both(lambda number: ConvNet((1, 8, 8), 3, width=8), held_out=held_out))


def test_networks_that_cannot_be_stacked_are_trained_one_by_one_and_it_is_said() -> None:
    def dropping(number: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))

    with pytest.warns(UserWarning, match="cannot be trained together") as said:
        alone, together = both(dropping)
    assert len(said) == 1
    assert_equal(alone, together, tolerance=0.0)


def test_a_cpu_trains_one_at_a_time_and_other_devices_fewer_of_larger_steps() -> None:
    network = ConvNet((3, 32, 32), 10, width=4).to("meta")
    sizes = [
        group_size(network, (images, 3, 32, 32), TrainConfig(batch=256), torch.device(device))
        for device, images in (("cpu", 10), ("meta", 10), ("meta", 100), ("meta", 500))
    ]
    assert sizes == [1, 10, 2, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_too_stacked_networks_are_those_trained_one_by_one() -> None:
    exact = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        assert_equal(*both(lambda number: ConvNet((1, 8, 8), 3, width=8)), tolerance=1e-4)
    finally:
        torch.backends.cudnn.allow_tf32 = exact
