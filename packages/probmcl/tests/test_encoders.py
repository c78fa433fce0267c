from __future__ import annotations

from pathlib import Path

import pytest
import torch
from probmcl import Encoder, build, wrap
from safetensors.torch import save_file
from sextet_common.errors import InputError
from torch import nn


@pytest.mark.parametrize(
    ("name", "shape", "features"),
    [
        ("convnet", (1, 32, 32), 256),
        ("convnet", (3, 17, 23), 256),
        ("mlp", (7,), 256),
        ("resnet18", (1, 32, 32), 512),
        ("torchvision:mobilenet_v3_small", (3, 64, 64), 1024),
        ("squeezenet1_1", (3, 64, 64), None),
    ],
)
def test_an_encoder_makes_a_row_of_features_an_input(name: str, shape: tuple[int, ...], features: int | None) -> None:
    if features is None:
        with pytest.raises(InputError, match="no last linear layer"):
            build(name, shape)
        return
    encoder = build(name, shape).eval()
    assert encoder.out_features == features
    assert encoder(torch.rand(2, *shape)).shape == (2, features)


def test_timms_networks_go_by_name_too() -> None:
    pytest.importorskip("timm")
    assert build("timm:resnet10t", (1, 64, 64)).eval()(torch.rand(2, 1, 64, 64)).shape == (2, 512)


def test_a_width_is_that_of_the_first_block() -> None:
    assert build("convnet", (1, 8, 8), width=4).out_features == 32
    assert build("mlp", (5,), width=12).out_features == 12


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("resnet81", (3, 32, 32), {}, "the network 'resnet81' is unknown; expected: resnet18"),
        ("qqqqqq", (3, 32, 32), {}, "expected: convnet, mlp, a name of torchvision or timm"),
        ("keras:resnet18", (3, 32, 32), {}, "names 'keras'; expected: torchvision:NAME or timm:NAME"),
        ("convnet", (5,), {}, "mlp for plain features"),
        ("mlp", (1, 8, 8), {}, "any other encoder for images"),
        ("resnet18", (3, 32, 32), {"width": 8}, "width 8 is given for resnet18"),
        ("convnet", (1, 8, 8), {"width": 0}, "width 0"),
        ("resnet18", (2, 32, 32), {}, "does not take inputs of shape"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, shape: tuple[int, ...], options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(name, shape, **options)


def test_a_module_of_ones_own_is_wrapped_and_left_as_it_was() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    encoder = wrap(module, (1, 4, 4))
    assert isinstance(encoder, Encoder) and encoder.out_features == 5 and module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    with pytest.raises(InputError, match=r"the encoder returns \(2, 1, 4, 4\) for two inputs"):
        wrap(nn.Identity(), (1, 4, 4))
    with pytest.raises(InputError, match="does not take inputs"):
        wrap(nn.Linear(3, 2), (1, 4, 4))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_come_from_a_local_file_without_the_last_layer(tmp_path: Path, suffix: str) -> None:
    from torchvision.models import resnet18

    whole = resnet18(weights=None)
    path = tmp_path / f"weights{suffix}"
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    encoder = build("resnet18", (3, 32, 32), weights=path).eval()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(whole.eval().fc(encoder(images)), whole(images))
