from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sextet_common.errors import InputError
from sextet_common.networks import IMAGENET, normalisation, published
from sextet_common.weights import load_weights
from torch import Tensor, nn


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


STATE = {name: tensor + 2 for name, tensor in small().state_dict().items()}


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "encoder.", "backbone.", "module.encoder.body.network."])
@pytest.mark.parametrize("table", [None, "state_dict", "model", "model_state_dict"])
def test_weights_are_found_under_any_prefix_and_the_rest_is_reported(
    tmp_path: Path, prefix: str, table: str | None
) -> None:
    others = {"projector.weight": torch.zeros(2)} if prefix else {}
    inside = {**prefixed(STATE, prefix), prefix + "fc.weight": torch.zeros(7, 3), **others}
    torch.save(inside if table is None else {table: inside, "epoch": 3}, tmp_path / "a.pt")
    module = small()
    loaded = load_weights(module, tmp_path / "a.pt")
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in module.state_dict().items())
    assert (loaded.tensors, loaded.prefix) == (len(STATE), prefix)
    assert set(loaded.unused) == {prefix + "fc.weight", *others}
    assert f"{len(STATE)} tensors loaded" in str(loaded) and "not used: " in str(loaded)


def test_a_file_from_before_batches_were_counted_is_accepted(tmp_path: Path) -> None:
    torch.save({name: tensor for name, tensor in STATE.items() if "num_batches" not in name}, tmp_path / "a.pt")
    module = small()
    assert load_weights(module, tmp_path / "a.pt").tensors == len(STATE) - 1
    assert torch.equal(module[1].running_var, STATE["1.running_var"]) and int(module[1].num_batches_tracked) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (prefixed(STATE, "module.") | {"module.2.weight": torch.zeros(1)}, "has the unknown module.2.weight;"),
        (prefixed(STATE, "student.") | prefixed(STATE, "teacher."), "weights under 'student.', 'teacher.'"),
        ({**STATE, "0.bias": torch.zeros(4)}, r"has another shape of 0.bias, (4,) where the network has (3,)"),
        ({"0.bias": STATE["0.bias"], "2.bias": STATE["0.bias"]}, "lacks 0.weight, 1.weight, 1.bias, 1.running_mean"),
        ({"0.bias": STATE["0.bias"], "2.bias": STATE["0.bias"]}, "; has the unknown 2.bias; expected: weights of this"),
        ({f"a{number}": torch.zeros(1) for number in range(9)}, "a4 and 4 more"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_listed_and_changes_nothing(
    tmp_path: Path, content: dict[str, Tensor], message: str
) -> None:
    torch.save(content, tmp_path / "a.pt")
    module = small()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(InputError, match=re.escape(message)):
        load_weights(module, tmp_path / "a.pt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def flat_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's MobileNetV2 in the names of tonylins' release: activations count, and blocks are flat."""
    layers = ["0.0", "0.1", "1.0", "1.1", "2", "3"], [0, 1, 3, 4, 6, 7]
    first = ["0.0", "0.1", "1", "2"], [0, 1, 3, 4]
    renamed = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"features\.(\d+)\.conv\.(.+)\.(\w+)", name)
        if match:
            block, layer, leaf = match.groups()
            old, new = first if block == "1" else layers
            name = f"features.{block}.conv.{new[old.index(layer)]}.{leaf}"
        renamed[name] = tensor
    assert len(renamed) == len(state)
    return renamed


def randomised(network: nn.Module) -> nn.Module:
    """Give every tensor its own values, so that a wrong pairing changes the outputs."""
    torch.manual_seed(0)
    for tensor in network.state_dict().values():
        if tensor.dtype.is_floating_point:
            tensor.copy_(0.5 + torch.rand_like(tensor) if tensor.ndim < 2 else tensor)
    return network.eval()


@pytest.mark.parametrize("kind", [".pt", ".safetensors"])
def test_the_three_namings_of_mobilenet_v2_give_the_same_network(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("timm")
    source = randomised(published("mobilenet_v2", None, package="sextet-common"))
    timm_network = published("timm:mobilenetv2_100", None, package="sextet-common")
    back = published("mobilenet_v2", None, package="sextet-common")
    images = torch.rand(2, 3, 64, 64)
    state = {**source.state_dict(), "classifier.1.weight": torch.zeros(5, 1280)}

    def saved(state: dict[str, Tensor], name: str) -> Path:
        path = tmp_path / (name + kind)
        state = {name: tensor.clone() for name, tensor in state.items()}
        save_file(state, path) if kind == ".safetensors" else torch.save(state, path)
        return path

    with torch.no_grad():
        expected = source(images)
        for target in (back, timm_network):
            loaded = load_weights(target, saved(prefixed(flat_names(state), "module."), "flat"))
            assert (loaded.tensors, loaded.unused) == (312, ("module.classifier.1.weight",))
            torch.testing.assert_close(target.eval()(images), expected)
        for origin, target in ((source, timm_network), (timm_network, back)):
            target.load_state_dict(zeros_of(target))
            assert load_weights(target, saved(origin.state_dict(), "other")).tensors == 312
            torch.testing.assert_close(target.eval()(images), expected)


def zeros_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121"])
def test_torchvision_and_timm_name_the_weights_of_these_networks_alike(name: str) -> None:
    pytest.importorskip("timm")
    with torch.device("meta"):
        ours, theirs = (published(f"{library}:{name}", None, package="x") for library in ("torchvision", "timm"))
    shapes = [{key: tensor.shape for key, tensor in network.state_dict().items()} for network in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_weights_of_a_network_of_another_width_or_kind_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    torch.save(published("timm:mobilenetv2_050", None, package="x").state_dict(), tmp_path / "half.pt")
    torch.save(published("resnet18", None, package="x").state_dict(), tmp_path / "resnet.pt")
    network = published("mobilenet_v2", None, package="x")
    with pytest.raises(InputError, match="has another shape of"):
        load_weights(network, tmp_path / "half.pt")
    with pytest.raises(InputError, match=r"lacks features\.0\.0\.weight.*has the unknown conv1\.weight"):
        load_weights(network, tmp_path / "resnet.pt")


def test_the_normalisation_is_what_the_library_states_for_its_weights() -> None:
    assert normalisation("resnet50", package="x") == IMAGENET
    assert normalisation("efficientnet_v2_l", package="x") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    pytest.importorskip("timm")
    assert normalisation("timm:mobilenetv2_100", package="x") == IMAGENET
    assert normalisation("vit_base_patch16_224", package="x") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="'resnet81' is unknown"):
        normalisation("resnet81", package="x")
