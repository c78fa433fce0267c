from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sextet_common.errors import InputError
from sextet_common.networks import complexity, device_of, evaluating, load_weights, published
from torch import nn


@pytest.mark.parametrize("name", ["resnet18", "torchvision:mobilenet_v3_small", "vit_b_16", "densenet121"])
def test_torchvision_classifiers_are_built_with_or_without_their_last_layer(name: str) -> None:
    size = 224 if "vit" in name else 64
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        whole = published(name, 5, package="sextet-common").eval()
        assert whole(images).shape == (2, 5)
        headless = published(name, None, package="sextet-common").eval()
        assert headless(images).shape[1] > 5


def test_timm_classifiers_are_built_by_name() -> None:
    pytest.importorskip("timm")
    images = torch.rand(2, 3, 64, 64)
    assert published("timm:resnet10t", 3, package="sextet-common").eval()(images).shape == (2, 3)
    assert published("timm:resnet10t", None, package="sextet-common").eval()(images).shape == (2, 512)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "the network 'resnet81' is unknown; expected: resnet18"),
        ("qqqqqq", "expected: mine, a name of torchvision or timm"),
        ("keras:resnet18", "names 'keras'; expected: torchvision:NAME or timm:NAME"),
        ("squeezenet1_1", "no last linear layer"),
    ],
)
def test_an_unknown_name_is_refused_with_similar_names(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        published(name, None, package="sextet-common", own=("mine",))


def test_weights_may_have_a_last_layer_that_the_network_lacks(tmp_path: Path) -> None:
    whole = published("resnet18", 7, package="sextet-common")
    save_file({name: tensor.clone() for name, tensor in whole.state_dict().items()}, tmp_path / "w.safetensors")
    headless = published("resnet18", None, package="sextet-common")
    load_weights(headless, tmp_path / "w.safetensors")
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(whole.eval().fc(headless.eval()(images)), whole(images))


def test_weights_of_another_network_are_refused_and_change_nothing(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    for changed, message in (
        ({"weight": torch.zeros(2, 3)}, "lacks bias"),
        ({**module.state_dict(), "extra": torch.zeros(1)}, "has the unknown extra"),
        ({**module.state_dict(), "bias": torch.zeros(1)}, "has another shape of bias"),
    ):
        torch.save(changed, tmp_path / "a.pt")
        with pytest.raises(InputError, match=message):
            load_weights(module, tmp_path / "a.pt")
    assert torch.equal(module.weight, before)


def test_parameters_and_multiply_adds_are_counted() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    assert complexity(module, (2, 6, 6)) == (2 * 3 * 9 + 48 * 5 + 5, 16 * 3 * 2 * 9 + 48 * 5)


def test_evaluating_restores_the_mode_of_every_submodule() -> None:
    module = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    module[1].eval()
    with evaluating(module):
        assert not module.training and not module[0].training
    assert module.training and module[0].training and not module[1].training
    assert device_of(module) == device_of(nn.Flatten()) == torch.device("cpu")
