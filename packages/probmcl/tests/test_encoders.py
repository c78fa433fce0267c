from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from probmcl import Config, Encoder, HeadConfig, MultiLabelSet, ProbMCL, build, wrap
from probmcl.__main__ import main
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
    torch.testing.assert_close(whole.eval().fc(encoder(images)), whole(normalised(images)))


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CONFIG = {"epochs": 1, "classifier_epochs": 1, "batch_size": 8, "head": HeadConfig(8, hidden=()), "device": "cpu"}


def normalised(images: torch.Tensor) -> torch.Tensor:
    from torchvision.transforms.v2.functional import normalize

    return normalize(images.expand(-1, 3, -1, -1), *map(list, IMAGENET))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models import resnet18

    path = tmp_path_factory.mktemp("weights") / "resnet18.pt"
    torch.save({f"module.{name}": tensor for name, tensor in resnet18(weights=None).state_dict().items()}, path)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pretrained_encoder_normalises_its_images_and_a_random_one_does_not(weights: Path, channels: int) -> None:
    shape = (channels, 32, 32)
    auto, named, plain = (
        build("resnet18", shape, weights=weights, normalise_images=way).eval() for way in ("auto", "imagenet", "none")
    )
    assert auto.normalisation == named.normalisation == IMAGENET and plain.normalisation is None
    assert build("resnet18", shape).normalisation is None and build("convnet", shape).normalisation is None
    assert str(auto.loaded).startswith("120 tensors loaded under 'module.'; not used: module.fc.bias, module.fc.weight")
    images = torch.rand(2, *shape)
    with torch.no_grad():
        torch.testing.assert_close(auto(images), plain(normalised(images)))
        assert torch.equal(auto(images), named(images))
    assert set(auto.state_dict()) == set(plain.state_dict())  # files of earlier releases still fit


def test_a_network_that_expects_another_normalisation_gets_it(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    name = "timm:mixer_s32_224"  # timm states a mean and a deviation of 0.5 for it
    encoder = build(name, (3, 224, 224))
    torch.save(encoder.body.network.state_dict(), tmp_path / "a.pt")
    assert build(name, (3, 224, 224), weights=tmp_path / "a.pt").normalisation == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_the_encoder_of_a_saved_model_is_found_in_its_file(tmp_path: Path) -> None:
    images, labels = np.random.default_rng(0).random((40, 3, 32, 32)), np.eye(40, 3) + np.eye(40, 3, k=-3)
    data = MultiLabelSet.of((images, labels), None, (images[:9], labels[:9]))
    model = ProbMCL("convnet", config=Config(**CONFIG), width=2).fit(data)
    model.save(tmp_path / "m.safetensors")
    encoder = build("convnet", (3, 32, 32), width=2, weights=tmp_path / "m.safetensors").eval()
    assert encoder.loaded is not None and encoder.loaded.prefix == "encoder.body."
    torch.testing.assert_close(encoder(data.test.batch(range(9))), model.embed(data.test), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["named", "custom", "Encoder"])
def test_the_normalisation_is_part_of_a_saved_model(tmp_path: Path, weights: Path, kind: str) -> None:
    images, labels = np.random.default_rng(0).random((24, 3, 16, 16)), np.eye(24, 3) + np.eye(24, 3, k=-3)
    data = MultiLabelSet.of((images, labels), None, (images[:9], labels[:9]))

    def custom() -> torch.nn.Module:
        module = nn.Sequential(nn.Flatten(), nn.Linear(768, 5))
        return wrap(module, (3, 16, 16), "imagenet") if kind == "Encoder" else module

    if kind == "named":
        model = ProbMCL("resnet18", config=Config(**CONFIG, method="bce"), weights=weights).fit(data, tmp_path / "run")
        assert model.loaded_weights is not None and model.loaded_weights.tensors == 120
        record = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
        assert record["normalisation"] == [list(values) for values in IMAGENET]
    else:
        normalise_images = "auto" if kind == "Encoder" else "imagenet"
        model = ProbMCL(custom(), config=Config(**CONFIG, method="bce"), normalise_images=normalise_images).fit(data)
    model.save(tmp_path / "m.safetensors")
    again = ProbMCL.load(tmp_path / "m.safetensors", encoder=None if kind == "named" else custom(), on="cpu")
    assert again._network.encoder.normalisation == IMAGENET
    assert torch.equal(again.predict_proba(data.test), model.predict_proba(data.test))
    deployed = model.inference()
    torch.testing.assert_close(deployed(data.test.batch(range(9))).sigmoid(), model.predict_proba(data.test))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: build("mlp", (5,), normalise_images="imagenet"),
            r"normalise_images='imagenet' with mlp.*expected: three channels",
        ),
        (lambda: build("convnet", (1, 8, 8), normalise_images="imagenet"), "expected: three channels"),
        (
            lambda: build("convnet", (3, 8, 8), normalise_images="zscore"),
            "normalise_images is 'zscore'; expected: auto, imagenet",
        ),
        (
            lambda: build("convnet", (3, 8, 8), normalise_images=((0, 0, 0), (1, 1, 0))),
            "expected: auto, imagenet, none",
        ),
        (lambda: wrap(nn.Linear(3, 2), (3,), "imagenet"), "with inputs of shape .*expected: images"),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_the_command_line_trains_a_pretrained_encoder(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["image,labels,split"]
    for number, part in enumerate(("train", "train", "validation", "test")):
        Image.new("RGB", (16, 16), (60 * number, 90, 200)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'a' if number % 2 else 'a|b'},{part}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    words = ["train", "--encoder", "resnet18", "--data", f"csv:{tmp_path}", "--size", "16", "--method", "bce"]
    words += ["--epochs", "1", "--classifier-epochs", "1", "--device", "cpu", "--batch-size", "2"]
    assert main([*words, "--weights", str(weights), "--out", str(tmp_path / "run")]) == 0
    assert f"{weights}: 120 tensors loaded under 'module.'" in capsys.readouterr().out
    assert ProbMCL.load(tmp_path / "run")._network.encoder.normalisation == IMAGENET
    (tmp_path / "wrong.pt").write_bytes(weights.read_bytes())
    words[2] = "resnet34"
    assert main([*words, "--weights", str(tmp_path / "wrong.pt"), "--out", str(tmp_path / "other")]) == 2
    assert "lacks layer1.2.conv1.weight" in capsys.readouterr().err and not (tmp_path / "other").exists()
