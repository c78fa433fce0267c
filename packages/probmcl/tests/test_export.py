from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from probmcl import Config, HeadConfig, ProbMCL, export
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
