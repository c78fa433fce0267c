"""The command line: every command on real data, and one line for what cannot be used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attention_matching import DistilledSet
from attention_matching.__main__ import main
from attention_matching.experiments.grid import Grid
from PIL import Image


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run."""
    out = tmp_path_factory.mktemp("commands") / "run"
    words = ["distill", "--data", "digits", "--method", "atom", "--steps", "3", "--width", "8", "--out", str(out)]
    assert main(words) == 0 and main(words) == 0  # the second finds the work done
    return out


def test_distill_writes_the_set_and_says_where(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["distill", "--data", "digits", "--method", "atom", "--steps", "3", "--width", "8", "--out", str(run)]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines() == [str(run / "distilled.safetensors"), str(run / "images.png")]
    assert DistilledSet.load(run / "distilled.safetensors").meta["method"] == "atom"


def test_the_official_preset_is_recorded_with_its_settings(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["distill", "--preset", "official", "--steps", "2", "--width", "8", "--out", str(out)]
    assert main(words) == 0
    recorded = json.loads((out / "config.json").read_text())["config"]
    assert (recorded["preset"], recorded["power"], recorded["norm"], recorded["loss_scale"]) == (
        "official",
        1,
        "batch",
        100,
    )


def test_several_methods_are_distilled_together_and_come_back_from_their_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["distill", "--method", "dm", "atom", "--ipc", "1", "2", "--steps", "2", "--width", "8"]
    assert main([*words, "--out", str(tmp_path / "many")]) == 0
    names = ["dm-ipc1", "dm-ipc2", "atom-ipc1", "atom-ipc2"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[::2] == [str(tmp_path / "many" / name / "distilled.safetensors") for name in names]
    assert main(["distill", "--config", str(tmp_path / "many"), "--out", str(tmp_path / "again")]) == 0
    assert main(["distill", "--config", str(tmp_path / "many"), "--method", "atom", "--ipc", "2", "--out", "x"]) == 0
    alone = DistilledSet.load("x/distilled.safetensors")
    for folder in ("many", "again"):
        one = DistilledSet.from_pretrained(tmp_path / folder / "atom-ipc2")
        assert torch.equal(one.images, alone.images) and one.meta == alone.meta
    assert main(["evaluate", str(tmp_path / "many" / "dm-ipc1"), "--networks", "1", "--epochs", "1"]) == 0
    capsys.readouterr()
    for command in ("evaluate", "show"):
        assert main([command, str(tmp_path / "many")]) == 2
        assert "many holds several sets: atom-ipc1, atom-ipc2, dm-ipc1, dm-ipc2; expected: one of them" in (
            capsys.readouterr().err
        )


def test_evaluate_prints_and_keeps_the_accuracies(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(run), "--networks", "2", "--epochs", "2", "--width", "8", "--whole", "--whole-epochs", "1"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    report = json.loads((run / "evaluation.json").read_text())
    for name in ("random real", "distilled", "whole set"):
        assert name in printed and len(report["accuracies"][name]) == 2
    assert "95 % interval" in printed


@pytest.mark.parametrize(("by", "labels"), [("teacher", "soft"), ("views", "views"), ("learning", "soft")])
def test_label_writes_a_set_that_evaluate_trains_on(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], by: str, labels: str
) -> None:
    out, brief = tmp_path / "labelled", ["--width", "8", "--views", "3"]
    assert main(["label", str(run), "--by", by, "--epochs", "1", *brief, "--out", str(out)]) == 0
    labelled = DistilledSet.from_pretrained(out)
    assert (labelled.view_labels is not None) == (by == "views") != (labelled.soft_labels is not None)
    words = [
        "evaluate",
        str(out),
        "--labels",
        labels,
        "--networks",
        "1",
        "--epochs",
        "1",
        *brief,
        "--whole-epochs",
        "1",
    ]
    assert main(words) == 0
    assert "random real" in capsys.readouterr().out
    assert main(["label", str(run), "--out", str(out)]) == 2  # not overwritten


def test_compose_writes_a_set_with_all_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "composed"
    words = [
        "compose",
        "--ipc",
        "1",
        "--side",
        "2",
        "--candidates",
        "4",
        "--views",
        "2",
        "--width",
        "8",
        "--epochs",
        "1",
    ]
    assert main([*words, "--out", str(out)]) == 0 and main([*words, "--out", str(out)]) == 0
    made = DistilledSet.from_pretrained(out)
    assert made.soft_labels is not None and made.view_labels is not None and len(made) == 10
    assert main(["evaluate", str(out), "--labels", "views", "--networks", "1", "--epochs", "1", "--width", "8"]) == 0
    assert main(["show", str(out)]) == 0
    assert "hard, soft ones, and those of 2 augmented views (40 bytes per image)" in capsys.readouterr().out


def test_cross_sets_architectures_out_in_a_table_and_a_picture(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cross", str(run), "--architectures", "convnet", "vgg11", "--networks", "1", "--epochs", "1"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "| convnet |" in printed and "| vgg11 |" in printed
    assert (run / "cross.json").exists()
    with Image.open(run / "cross.png") as picture:
        assert picture.size[0] > 300


def test_show_draws_describes_and_exports(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "set.pt"
    assert main(["show", str(run), "--out", str(tmp_path), "--export", "pt-dc", "--to", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "atom" in printed and str(file) in printed
    assert {p.name for p in tmp_path.iterdir()} == {"images.png", "CARD.md", "set.pt"}
    images, labels = torch.load(file, weights_only=True)["data"][0]
    assert images.shape == (10, 1, 8, 8) and labels.tolist() == list(range(10))


def test_continual_compares_buffers_in_a_table_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "continual"
    words = ["continual", "--steps", "2", "--buffers", "random", "datadam", "--orders", "2", "--distill-steps", "2"]
    assert main([*words, "--epochs", "2", "--width", "8", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| datadam |" in printed and "| buffer | 5 classes | 10 classes |" in printed
    with Image.open(out / "continual.png") as picture:
        assert picture.size[0] > 300


def test_search_ranks_a_grid_in_a_table_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Grid((4, 8), (1,), ("batch", "instance"), ("relu",), ("avg", "max"))
    monkeypatch.setattr("attention_matching.experiments.grid.Grid", lambda: few)  # the default's 96 take minutes
    out = tmp_path / "search"
    words = ["search", "--proxies", "random", "dm", "--ipc", "1", "--distill-steps", "2", "--epochs", "2"]
    assert main([*words, "--whole-epochs", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| random |" in printed and "| dm |" in printed
    with Image.open(out / "ranking" / "search.png") as picture:
        assert picture.size[0] > 300


def test_bench_times_the_step_and_keeps_the_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    words = ["bench", "--width", "8", "--only", "as-asked", "channels_last", "--rounds", "2", "--steps-per-round", "1"]
    assert main([*words, "--out", str(out)]) == 0
    assert "| channels_last |" in capsys.readouterr().out
    assert {len(seconds) for seconds in json.loads(out.read_text())["seconds"].values()} == {2}


@pytest.mark.parametrize("words", [["evaluate", "run"], ["cross", "run"], ["continual"], ["search"]])
def test_only_distill_shares_its_work_out(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert f"{words[0]} runs in one process, got 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distill", "--data", "nothing", "--out", "run"], "nothing"),
        (["distill", "--method", "best", "--out", "run"], "--method"),
        (["distill", "--ipc", "0", "--out", "run"], "ipc[0] must be a whole number >= 1, got 0"),
        (["evaluate", "nowhere"], "nowhere"),
        (["show", "nowhere"], "nowhere"),
        (["show", "nowhere", "--export", "folder"], "both, or neither"),
        (["bench", "--only", "turbo"], "turbo"),
    ],
)
def test_bad_input_gives_one_line(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("attention-matching: ") and message in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "heavy"),
    [
        ("import attention_matching", "torch scipy PIL matplotlib"),
        *((f"main(['{command}', '--help'])", "torch scipy PIL matplotlib") for command in ("distill", "search")),
        ("main(['distill', '--steps', '1', '--width', '8', '--out', 'run'])", "attention_matching.experiments"),
    ],
)
def test_what_is_not_needed_is_not_imported(tmp_path: Path, program: str, heavy: str) -> None:
    code = f"""
import sys
from attention_matching.__main__ import main
import attention_matching
assert not {program.startswith("main")} or {program if program.startswith("main") else 0} == 0
print([name for name in {[*heavy.split(), "attention_matching.experiments"]} if name in sys.modules], len(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    imported, count = done.stdout.splitlines()[-1].rsplit(" ", 1)
    assert imported == "[]", done.stdout
    assert "torch" not in heavy or int(count) < 700
