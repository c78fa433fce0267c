from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from subclass_kd import Comparison, TeacherLogits, build, evaluate, folds, load, load_into
from subclass_kd.__main__ import main

FAST = ["--epochs", "2", "--views", "2", "--device", "cpu"]
COMPARE = ["--seeds", "2", "--teacher-width", "4", "--student-width", "2", "--share", "0.2"]
COMPARE_FAST = ["--epochs", "1", "--views", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    assert main(["teacher", "--data", "digits", "--width", "6", "--out", str(folder), *FAST]) == 0
    return folder


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "compared"
    words = ["compare", "--data", "digits", "--out", str(folder), "--methods", "alone", "kd", "skd"]
    assert main([*words, *COMPARE, *COMPARE_FAST]) == 0
    return folder


def test_compare_writes_scores_and_a_figure_and_resumes(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = Comparison.load(compared)
    assert set(comparison.scores) == {"teacher", "alone", "kd", "skd"} and len(comparison.scores["skd"]) == 2
    assert (compared / "gains.png").exists()
    words = ["compare", "--data", "digits", "--out", str(compared), "--methods", "alone", "kd", "skd"]
    assert main([*words, *COMPARE, *COMPARE_FAST]) == 0
    printed = capsys.readouterr().out
    assert comparison.table() in printed and "label entropy: 2.3" in printed and "ms an image" in printed


def test_a_teacher_is_loaded_again_and_its_logits_are_saved(teacher: Path) -> None:
    data = load("digits")
    network = load_into(build("convnet-deep", (1, 8, 8), 10, width=6), teacher)
    scores = json.loads((teacher / "test.json").read_text())
    assert scores["f1"] == pytest.approx(evaluate(network, data).f1)
    logits = TeacherLogits(teacher / "logits")
    assert len(logits) == 2 and logits.shape == (len(data.train), 10)
    assert (teacher / "confusion.png").exists()


@pytest.mark.parametrize("method", ["skd", "kd", "dkd", "alone"])
def test_distill_reads_a_teacher_s_folder(method: str, teacher: Path, tmp_path: Path) -> None:
    words = ["distill", "--method", method, "--width", "3", "--out", str(tmp_path / "s"), *FAST]
    assert main([*words, *(["--teacher", str(teacher)] if method != "alone" else [])]) == 0
    network = load_into(build("convnet", (1, 8, 8), 10, width=3), tmp_path / "s")
    scores = json.loads((tmp_path / "s" / "test.json").read_text())
    assert scores["f1"] == pytest.approx(evaluate(network, load("digits")).f1)
    job = json.loads((tmp_path / "s" / "config.json").read_text())
    assert job["job"] == "subclass-kd distill"


def test_a_fold_of_the_data_is_remembered_by_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["distill", "--method", "alone", "--width", "3", "--out", str(tmp_path / "s"), *FAST]
    assert main([*words, "--fold", "2/3"]) == 0
    scores = json.loads((tmp_path / "s" / "test.json").read_text())
    network = load_into(build("convnet", (1, 8, 8), 10, width=3), tmp_path / "s")
    assert scores["f1"] == pytest.approx(evaluate(network, list(folds(load("digits"), 3))[1]).f1)
    assert json.loads((tmp_path / "s" / "network.json").read_text())["fold"] == "2/3"
    assert main([*words, "--fold", "4/3"]) == 2
    assert "fold '4/3'; expected: a number from 1 to 3" in capsys.readouterr().err


@pytest.mark.parametrize("rest", ["unlabelled", "class"])
def test_a_student_has_few_labels_and_all_images_of_its_teacher(rest: str, teacher: Path, tmp_path: Path) -> None:
    words = ["distill", "--teacher", str(teacher), "--width", "3", "--out", str(tmp_path / "s"), *FAST]
    assert main([*words, "--share", "0.05", "--rest", rest]) == 0
    config = json.loads((tmp_path / "s" / "config.json").read_text())["config"]
    assert config["data"].startswith("digits, 0.05 of the labels, seed 0, ") and rest in config["data"]
    assert config.get("unlabelled_ratio") == (3.0 if rest == "unlabelled" else None)


def test_bits_of_labels_and_of_a_teacher(teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bits"]) == 0
    assert re.fullmatch(r"label entropy: 2\.3\d+ bits \[.*\] of 2\.3219\n", capsys.readouterr().out)
    assert main(["bits", str(teacher), "--temperature", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["label entropy", *["T = 1"] * 2, *["T = 2"] * 2]


def test_discover_writes_a_row_per_training_image(teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["discover", str(teacher), "--least", "2", "--most", "3"]) == 0
    assert "even: " in capsys.readouterr().out
    data = load("digits")
    with (teacher / "discovered.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    classes = [data.hierarchy.class_names[label] for label in data.hierarchy.class_labels(data.train.labels)]
    assert [row["class"] for row in rows] == classes
    assert all(row["subclass"].startswith(row["class"] + " ") for row in rows)


def test_report_sets_bits_beside_gain(compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(compared), str(compared), "--out", str(tmp_path / "bits.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    comparison = Comparison.load(compared)
    assert len(lines) == 5 and (tmp_path / "bits.png").exists()
    assert lines[2].startswith(f"| compared | {comparison.bits[0].value:.3f} [")
    assert lines[2].endswith(f" {comparison.difference('skd', 'kd')} |")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "--out", "{new}", "--data", "digit"], "unknown data 'digit'"),
        (["compare", "--out", "{new}", "--seeds", "0"], "seeds must be a whole number >= 1, got 0"),
        (["compare", "--out", "{new}", "--student", "convnot"], "'convnot' is unknown"),
        (
            ["compare", "--out", "{new}", "--student", "resnet18", "--student-width", "8"],
            "width 8 for resnet18",
        ),
        (["teacher", "--out", "{new}", "--network", "resnet81"], "'resnet81' is unknown"),
        (["teacher", "--out", "{new}", "--lr", "0"], "lr must be a number > 0, got 0"),
        (["distill", "--out", "{new}"], "SubclassKDLoss needs a teacher"),
        (
            ["distill", "--out", "{new}", "--teacher", "{none}"],
            "a finished run folder of the commands",
        ),
        (
            ["distill", "--out", "{new}", "--teacher", "{run}", "--temperature", "0"],
            "temperature must be a number > 0, got 0",
        ),
        (
            ["distill", "--out", "{new}", "--teacher", "{run}", "--alpha", "2"],
            r"alpha must be a number in \[0, 1\]",
        ),
        (
            ["distill", "--out", "{new}", "--teacher", "{run}", "--share", "0"],
            r"share must be a number in \(0, 1\], got 0",
        ),
        (["distill", "--out", "{new}", "--teacher", "{run}", "--views", "9"], "of 2 views; expected: 9"),
        (["distill", "--out", "{new}", "--teacher", "{run}", "--views-seed", "1"], "views with seed 0"),
        (["bits", "{none}"], "a finished run folder of the commands"),
        (
            ["bits", "{run}", "--data", "digits:half", "--temperature", "-1"],
            "temperature must be a number > 0, got -1",
        ),
        (["discover", "{run}", "--least", "1"], r"per_class is \(1, 6\)"),
        (["discover", "{none}"], "a finished run folder of the commands"),
        (["report", "{none}"], "the folder of a finished compare"),
        (["report", "{compared}", "--to", "dkd"], "without skd and dkd"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    words: list[str],
    message: str,
    teacher: Path,
    compared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"{run}": teacher, "{compared}": compared, "{new}": tmp_path / "new", "{none}": tmp_path / "none"}
    filled = [str(places.get(word, word)) for word in words]
    assert main(filled) == 2
    error = capsys.readouterr().err
    assert error.startswith("subclass-kd: ") and error.count("\n") == 1 and re.search(message, error), error
    assert not (tmp_path / "new").exists() and not (tmp_path / "none").exists()
