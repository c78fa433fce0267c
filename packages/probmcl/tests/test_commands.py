from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from probmcl import ProbMCL, error_ranking, load
from probmcl.__main__ import main

FAST = ["--epochs", "1", "--classifier-epochs", "1", "--dim", "8", "--hidden", "16", "--width", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "x"
    assert main(["train", "--data", "digits", "--out", str(folder), "--batch-size", "200", *FAST]) == 0
    return folder


def test_train_leaves_a_model_its_scores_and_its_log(run: Path) -> None:
    scores = json.loads((run / "test.json").read_text())
    model, data = ProbMCL.load(run, on="cpu"), load("digits")
    assert scores["mean_ap"] == pytest.approx(model.evaluate(data.test).mean_ap)
    assert scores["parameters"] > 0 and scores["multiply_adds"] > 0
    assert (run / "metrics.jsonl").exists() and json.loads((run / "config.json").read_text())["job"] == "probmcl train"


def test_evaluate_prints_the_scores(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "evaluate",
        str(run),
        "--threshold",
        "0.3",
        "--absent",
        "zero",
        "--top-k-rule",
        "and_threshold",
        "--k",
        "2",
    ]
    assert main([*words, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "probability > 0.3" in printed and "top 2, and the threshold" in printed and "AP 9:" in printed
    assert main(["evaluate", str(run), "--tune", "--part", "validation"]) == 0
    assert "probability > 0." in capsys.readouterr().out


def test_predict_prints_labels_of_image_files(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = (load("digits").test.inputs[0, 0] * 255).astype(np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    assert main(["predict", str(run), str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--threshold", "0.0"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path / 'a.png'}: ") and first.split(": ")[1] == second.split(": ")[1]
    model = ProbMCL.load(run, on="cpu")
    probabilities = model.predict_proba(torch.from_numpy(pixels / np.float32(255))[None, None])[0]
    best = int(probabilities.argmax())
    value = float(model.uncertainty(torch.from_numpy(pixels / np.float32(255))[None, None], "any_error")[0])
    assert f": {best} {float(probabilities[best]):.2f}  " in first and f"(any_error {value:.3g})" in first


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_map_and_uncertain_draw_their_pictures(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", str(run), "--projection", "pca", "--out", str(tmp_path / "m.png")]) == 0
    assert main(["uncertain", str(run), "--count", "4"]) == 0
    assert (tmp_path / "m.png").exists() and (run / "uncertain.png").exists()
    assert len(capsys.readouterr().out.splitlines()[-1].split(": ")[1].split()) == 4


@pytest.mark.parametrize("kind", ["entropy", "distance", "mutual_information"])
def test_uncertain_says_how_well_a_kind_ranks_the_errors(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    assert main(["uncertain", str(run), "--kind", kind, "--count", "2", "--out", str(tmp_path / "u.png")]) == 0
    model, data = ProbMCL.load(run, on="cpu"), load("digits")
    wrong = ((model.predict_proba(data.test).numpy() > 0.5) != data.test.labels).any(axis=1)
    values = model.uncertainty(data.test, kind).numpy()
    expected = error_ranking(values, wrong)
    _, said, rows = capsys.readouterr().out.splitlines()
    assert said.startswith(f"{kind}: AUROC of images with a wrong label {expected.auroc:.3f}, ")
    assert f"{expected.aurc:.3f} ({expected.best_aurc:.3f} at best" in said
    assert rows.endswith(": " + " ".join(map(str, np.argsort(-values, kind="stable")[:2])))


def test_conformal_saves_sets_that_predict_prints(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    shutil.copytree(run, own)
    assert main(["conformal", str(own), "--level", "0.8", "--guarantee", "set"]) == 0
    printed = capsys.readouterr().out
    model, data = ProbMCL.load(own, on="cpu"), load("digits")
    sets = model.reliability.sets
    assert sets is not None and (sets.level, sets.guarantee, sets.rows) == (0.8, "set", len(data.validation))
    measured = sets.measure(model.predict_proba(data.test), np.array(data.test.labels))
    assert f"whole sets {100 * measured.whole_set:.1f}" in printed and f"in a set {measured.mean_size:.2f}" in printed
    pixels = (data.test.inputs[0, 0] * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert main(["predict", str(own), str(tmp_path / "a.png"), "--kind", "entropy"]) == 0
    inside = np.flatnonzero(model.predict_sets(torch.from_numpy(pixels / np.float32(255))[None, None])[0])
    members = ", ".join(map(str, inside))
    assert capsys.readouterr().out.rstrip().endswith(f"   set 80 %: {{{members}}}")


def test_export_writes_what_is_deployed(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), str(tmp_path / "model.pt2")]) == 0
    assert torch.export.load(tmp_path / "model.pt2").module()(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--out", "{new}", "--data", "digit"], "'digit' is unknown"),
        (["train", "--out", "{new}", "--threshold", "0"], r"threshold must be a number in \(0, 1\], got 0"),
        (["train", "--out", "{new}", "--encoder", "resnet81"], "'resnet81' is unknown; expected: resnet18"),
        (["evaluate", "{new}"], "holds no run"),
        (["evaluate", "{run}", "--part", "dev"], "part is 'dev'"),
        (["evaluate", "{run}", "--tune", "--threshold", "0.5"], "--tune with a threshold"),
        (["evaluate", "{run}", "--k", "11"], r"k must be a whole number in \[1, 10\], got 11"),
        (["evaluate", "{run}", "--data", "mnist"], "expected: the model's 10 labels|is not installed"),
        (["predict", "{run}"], "images|image"),
        (["predict", "{run}", "{new}.png"], "does not exist"),
        (["export", "{run}", "{new}.tflite"], r"expected: \.onnx or \.pt2"),
        (["map", "{run}", "--projection", "umap"], "umap"),
        (["uncertain", "{run}", "--kind", "variance"], "variance"),
        (["conformal", "{run}", "--level", "1"], r"level must be a number in \(0, 1\), got 1"),
        (
            ["conformal", "{run}", "--level", "0.999"],
            "500 calibration rows for the level 0.999; expected: at least 999",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    run: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    filled = [word.replace("{run}", str(run)).replace("{new}", str(tmp_path / "new")) for word in words]
    assert main(filled) == 2
    error = capsys.readouterr().err
    assert error.startswith("probmcl: ") and error.count("\n") == 1 and re.search(message, error), error
    assert not (tmp_path / "new").exists()
