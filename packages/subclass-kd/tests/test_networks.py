from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sextet_common.errors import InputError
from subclass_kd import ConvNet, build, complexity, features_of
from torch import nn


def test_a_convnet_s_parameters_and_multiply_adds_are_those_of_its_layers() -> None:
    network = build("convnet", (3, 32, 32), 10, width=16)
    parameters, operations = complexity(network, (3, 32, 32))
    layers = [(3, 16, 32), (16, 32, 16), (32, 64, 8)]
    assert parameters == sum(9 * a * b + 2 * b for a, b, _ in layers) + 64 * 10 + 10
    assert operations == sum(9 * a * b * side**2 for a, b, side in layers) + 64 * 10


def test_small_images_have_two_blocks_and_odd_ones_pass() -> None:
    assert build("convnet", (1, 8, 8), 4)(torch.zeros(2, 1, 8, 8)).shape == (2, 4)
    assert build("convnet-deep", (3, 33, 31), 4, width=2)(torch.zeros(2, 3, 33, 31)).shape == (2, 4)
    small, large = (build("convnet", (1, side, side), 4, width=2) for side in (8, 16))
    assert isinstance(small, ConvNet) and isinstance(large, ConvNet)
    assert len(large.blocks) > len(small.blocks)


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    first = build("convnet", (1, 8, 8), 4, seed=3).state_dict()
    torch.rand(7)
    second, other = (build("convnet", (1, 8, 8), 4, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_torchvision_by_name_takes_grey_images_and_another_number_of_classes(tmp_path: Path) -> None:
    network = build("resnet18", (1, 32, 32), 6)
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 6)
    import torchvision

    torch.manual_seed(1)
    published = torchvision.models.resnet18(num_classes=1000)
    torch.save(published.state_dict(), tmp_path / "resnet18.pt")
    loaded = build("resnet18", (3, 32, 32), 6, weights=tmp_path / "resnet18.pt").state_dict()
    for name, tensor in published.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(loaded[f"network.{name}"], tensor)
    assert loaded["network.fc.weight"].shape == (6, 512)


def test_features_are_the_inputs_of_the_last_layer() -> None:
    network = build("convnet", (3, 32, 32), 5, width=4)
    assert isinstance(network, ConvNet)
    images = torch.rand(6, 3, 32, 32)
    network.train()
    features = features_of(network, images)
    assert network.training
    network.eval()
    torch.testing.assert_close(features, network.features(images).detach())
    torch.testing.assert_close(network.classifier(features), network(images))
    resnet = build("resnet18", (3, 32, 32), 5).eval()
    torch.testing.assert_close(resnet.get_submodule("network.fc")(features_of(resnet, images)), resnet(images))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"name": "resnet81"}, "'resnet81' is unknown"),
        ({"name": "convnets"}, "convnet"),
        ({"name": "resnet18", "width": 8}, "width 8 for resnet18"),
        ({"name": "convnet", "width": 0}, "width must be a whole number >= 1, got 0"),
        ({"name": "convnet", "outputs": 0}, "outputs must be a whole number >= 1, got 0"),
        ({"name": "convnet", "weights": Path("none.pt")}, r"none\.pt"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(words: dict[str, object], message: str) -> None:
    settings = {"input_shape": (3, 32, 32), "outputs": 4, **words}
    with pytest.raises(InputError, match=message):
        build(**settings)  # type: ignore[arg-type]


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(build("convnet", (3, 32, 32), 4, width=8).state_dict(), tmp_path / "w.pt")
    same = build("convnet", (3, 32, 32), 7, width=8, weights=tmp_path / "w.pt", seed=9)
    reference = build("convnet", (3, 32, 32), 4, width=8).state_dict()
    assert torch.equal(same.state_dict()["blocks.0.weight"], reference["blocks.0.weight"])
    with pytest.raises(InputError, match=r"w\.pt"):
        build("convnet", (3, 32, 32), 4, width=6, weights=tmp_path / "w.pt")


def test_without_a_linear_layer_there_are_no_features() -> None:
    with pytest.raises(InputError, match="Conv2d has no linear layer"):
        features_of(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 4, 4))
