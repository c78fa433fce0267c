from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sextet_common.errors import InputError
from subclass_kd import Classifier, Hierarchy, build, export, latency
from subclass_kd.__main__ import main
from torch import nn

TREE = Hierarchy(
    np.array([0, 1, 0, 1, 1]), tuple("abcde"), ("first", "second")
)  # classes of two and three, interleaved


def student(name: str = "convnet", channels: int = 3) -> Classifier:
    network = build(name, (channels, 32, 32), 5, width=4 if name == "convnet" else None).eval()
    return Classifier(network, TREE, (channels, 32, 32))


@pytest.mark.parametrize("output", ["classes", "subclasses"])
def test_an_exported_program_predicts_the_same_for_any_number_of_images(output: str, tmp_path: Path) -> None:
    model = student()
    model.network.train()
    path = export(model, tmp_path / "student.pt2", output=output)
    assert model.network.training
    model.network.eval()
    names: dict[str, str] = {"names": ""}
    program = torch.export.load(path, extra_files=names).module()
    assert json.loads(names["names"]) == (["first", "second"] if output == "classes" else list("abcde"))
    for rows in (1, 2, 5):
        images = torch.rand(rows, 3, 32, 32)
        subclasses = model.network(images).softmax(dim=1)
        classes = torch.stack([subclasses[:, [0, 2]].sum(dim=1), subclasses[:, [1, 3, 4]].sum(dim=1)], dim=1)
        torch.testing.assert_close(program(images), classes if output == "classes" else subclasses)


@pytest.mark.parametrize("name", ["convnet", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_an_onnx_model_predicts_the_same_in_onnxruntime(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = student(name, channels=1)
    session = runtime.InferenceSession(export(model, tmp_path / "student.onnx"), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["names"]) == ["first", "second"]
    for rows in (1, 7):
        images = torch.rand(rows, 1, 32, 32)
        (found,) = session.run(["probabilities"], {"images": images.numpy()})
        np.testing.assert_allclose(found, model.predict_proba(images), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_exported_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    class Choosing(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :5] if float(images.sum()) > 0 else images.flatten(1)[:, 5:10]

    with pytest.raises(InputError, match=r"ends in \.tflite; expected: \.onnx or \.pt2"):
        export(student(), tmp_path / "student.tflite")
    with pytest.raises(InputError, match="the network cannot be exported: "):
        export(Classifier(Choosing(), TREE, (3, 32, 32)), tmp_path / "student.pt2")
    with pytest.raises(InputError, match="output must be"):
        export(student(), tmp_path / "student.pt2", output="logits")
    assert not list(tmp_path.iterdir())


def test_latency_is_the_median_of_passes_in_evaluation_mode_between_the_quartiles() -> None:
    class Slow(nn.Module):
        modes: set[bool] = set()  # noqa: RUF012

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.modes.add(self.training)
            assert images.shape == (3, 1)
            time.sleep(0.01)
            return images

    timed = latency(Slow(), (1,), batch=3, seconds=0.1)
    assert 0.01 <= timed.low <= timed.median <= timed.high and Slow.modes == {False}
    assert str(timed).endswith("for 3 images on cpu, 1 thread") and " ms [" in str(timed)
    for name in ("batch", "threads", "seconds"):
        with pytest.raises(InputError, match=f"{name} must be"):
            latency(Slow(), (1,), **{name: 0})


def test_commands_export_and_time_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "student"
    student().export_hub(folder)
    assert main(["export", str(folder), str(tmp_path / "student.pt2")]) == 0
    assert torch.export.load(tmp_path / "student.pt2").module()(torch.rand(1, 3, 32, 32)).shape == (1, 2)
    assert main(["latency", str(folder), "--seconds", "0.05", "--batch", "2", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("for 2 images on cpu, 1 thread")
    assert main(["export", str(folder)]) == 2
    assert "to a file and a folder, or to neither; expected: FILE.onnx" in capsys.readouterr().err
