from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from probmcl import Config, HeadConfig, MultiLabelSet, ProbMCL, build, export
from probmcl.scenes import compose, digits
from sextet_common.errors import InputError
from torch import nn

DATA = compose(digits(), sizes=(48, 24, 24))
SMALL = {"epochs": 1, "classifier_epochs": 1, "batch_size": 16, "head": HeadConfig(8, hidden=()), "device": "cpu"}


@pytest.fixture(scope="module")
def model() -> ProbMCL:
    return ProbMCL("convnet", config=Config(**SMALL), width=2).fit(DATA)


def test_an_exported_program_predicts_the_same_without_the_head(model: ProbMCL, tmp_path: Path) -> None:
    path = export(model, tmp_path / "model.pt2")
    names: dict[str, str] = {"label_names": ""}
    program = torch.export.load(path, extra_files=names)
    assert json.loads(names["label_names"]) == list("0123456789")
    assert not any("head" in name for name in program.state_dict)
    for rows in (1, 5):
        images = DATA.test.batch(range(rows))
        torch.testing.assert_close(program.module()(images), model.predict_proba(images), rtol=1e-5, atol=1e-6)


def test_an_onnx_model_predicts_the_same_in_onnxruntime(model: ProbMCL, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(export(model, tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["label_names"]) == list("0123456789")
    for rows in (1, 7):
        images = DATA.test.batch(range(rows)).numpy()
        (found,) = session.run(["probabilities"], {"inputs": images})
        np.testing.assert_allclose(found, model.predict_proba(images), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_exported_is_refused_and_leaves_no_file(model: ProbMCL, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.tflite; expected: \.onnx or \.pt2"):
        export(model, tmp_path / "model.tflite")
    with pytest.raises(InputError, match="is not trained"):
        export(ProbMCL(), tmp_path / "model.pt2")

    class Choosing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :4] if float(x.sum()) > 0 else x.flatten(1)[:, 4:8]

    own = ProbMCL(Choosing(), config=Config(**SMALL, method="bce")).fit(DATA)
    with pytest.raises(InputError, match="the encoder cannot be exported"):
        export(own, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "timm:resnet10t"])
def test_a_pretrained_encoder_is_exported_with_its_normalisation(tmp_path: Path, name: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    if name.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    weights = tmp_path / "weights.pt"
    torch.save(build(name, (3, 32, 32)).body.network.state_dict(), weights)
    images = np.random.default_rng(0).random((24, 3, 32, 32), dtype=np.float32)
    labels = np.eye(24, 3) + np.eye(24, 3, k=-3)
    data = MultiLabelSet.of((images, labels), None, (images[:11], labels[:11]))
    config = Config(**SMALL, mode="two_stage", calibrate=False)
    model = ProbMCL(name, config=config, weights=weights).fit(data)
    assert model.loaded_weights is not None and model.inference()[0].normalisation is not None
    program = torch.export.load(export(model, tmp_path / "m.pt2")).module()
    session = runtime.InferenceSession(export(model, tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for rows in (1, 7):  # neither is the batch size of the export
        batch, expected = data.test.batch(range(rows)), model.predict_proba(images[:rows])
        torch.testing.assert_close(program(batch), expected, rtol=1e-5, atol=1e-5)
        (found,) = session.run(["probabilities"], {"inputs": batch.numpy()})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    again = ProbMCL.load(_saved(model, tmp_path), on="cpu")
    assert torch.equal(again.predict_proba(data.test), model.predict_proba(data.test))


def _saved(model: ProbMCL, folder: Path) -> Path:
    model.save(folder / "m.safetensors")
    return folder / "m.safetensors"
