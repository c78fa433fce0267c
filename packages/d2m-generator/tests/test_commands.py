from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from attention_matching import DistilledSet
from d2m_generator import StreamedSet, load_generator
from d2m_generator.__main__ import main

PRE = ["--steps", "3", "--batch-size", "16", "--width", "4", "--device", "cpu", "--no-judged"]
POOL = ["--networks", "1", "--epochs", "1", "--trained-on", "64", "--width", "8"]
DISTILL = ["--steps", "2", "--images", "2", "--real-batch", "4", "--device", "cpu", "--no-judged", *POOL]
EVALUATE = ["--networks", "1", "--epochs", "1", "--width", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "g"
    assert main(["pretrain", "--data", "digits", "--out", str(folder), *PRE]) == 0
    return folder


def test_pretrain_leaves_a_generator_and_pictures(run: Path) -> None:
    assert load_generator(run).image_shape == (1, 8, 8)
    assert (run / "samples.png").exists() and (run / "metrics.jsonl").exists()


def test_distill_takes_the_run_s_data_and_synthesize_evaluate_and_show_follow(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "d"
    assert main(["distill", str(run), "--out", str(out), *DISTILL]) == 0
    assert json.loads((out / "config.json").read_text())["config"]["data"] == "digits"
    assert main(["synthesize", str(out), "--out", str(tmp_path / "s.safetensors"), "--ipc", "2"]) == 0
    made = DistilledSet.load(tmp_path / "s.safetensors")
    assert len(made) == 20
    assert main(["synthesize", str(out), "--out", str(tmp_path / "many"), "--ipc", "3"]) == 0
    some = ["--ipc", "3", "1", "--labels", "7", "2", "--selection", "herding"]
    assert main(["synthesize", str(out), "--out", str(tmp_path / "some"), *some]) == 0
    assert StreamedSet.open(tmp_path / "some").labels.tolist() == [7, 7, 7, 2]
    assert main(["synthesize", str(out), "--out", str(tmp_path / "p"), *some, "--export", "parquet"]) == 0
    assert main(["synthesize", str(out), "--out", str(tmp_path / "i"), "--ipc", "2", "--export", "png"]) == 0
    assert len(list((tmp_path / "i").rglob("*.png"))) == 20 and len(list((tmp_path / "p").rglob("*.parquet"))) == 1
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".arrays")]
    assert len(StreamedSet.open(tmp_path / "many")) == 30
    capsys.readouterr()
    assert main(["evaluate", str(out), "--ipc", "1", "2", *EVALUATE]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("(fixed)" in line and "random real" in line for line in lines)
    assert main(["evaluate", str(out), "--ipc", "1", "--protocol", "regenerate", "--no-random-real", *EVALUATE]) == 0
    assert "(regenerate)" in capsys.readouterr().out
    soft = ["--labels", "soft", "--teacher-epochs", "2", "--no-random-real"]
    assert main(["evaluate", str(out), "--ipc", "1", *soft, *EVALUATE]) == 0
    assert "soft labels" in capsys.readouterr().out
    assert json.loads((out / "evaluation.json").read_text())[0]["labels"] == "soft"
    assert main(["show", str(out)]) == 0 and (out / "shown.png").exists()


@pytest.mark.parametrize("kind", ["consistency", "diffusion", "dit"])
def test_every_kind_of_generator_is_trained_and_adapted(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    words = ["--steps", "2", "--batch-size", "8", "--device", "cpu", "--no-judged", "--sample-every", "9"]
    width = "16" if kind == "dit" else "8"
    assert main(["pretrain", "--kind", kind, "--width", width, "--out", str(tmp_path / "g"), *words]) == 0
    assert load_generator(tmp_path / "g").sample(torch.tensor([1]), seed=0).shape == (1, 1, 8, 8)
    lora = ["--parameters", "lora", "--rank", "2", "--lr", "0.1"]
    assert main(["distill", str(tmp_path / "g"), "--out", str(tmp_path / "d"), *DISTILL, *lora]) == 0
    adapters = ["--lora", str(tmp_path / "d" / "lora")]
    assert main(["show", str(tmp_path / "g"), *adapters, "--out", str(tmp_path / "adapted.png")]) == 0
    assert main(["show", str(tmp_path / "g"), "--out", str(tmp_path / "plain.png")]) == 0
    assert (tmp_path / "adapted.png").read_bytes() != (tmp_path / "plain.png").read_bytes()


def test_a_judged_run_says_how_near_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--out", str(tmp_path / "g"), *PRE[:-1]]) == 0
    assert "Fréchet distance" in capsys.readouterr().out
    assert json.loads((tmp_path / "g" / "quality.json").read_text())["frechet"] > 0


def test_trackers_follow_a_run_and_unknown_ones_are_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboardX")
    assert main(["pretrain", "--out", str(tmp_path / "g"), *PRE, "--log", "tensorboard"]) == 0
    assert list((tmp_path / "g" / "tensorboard").glob("events*"))
    out = tmp_path / "d"
    assert main(["distill", str(tmp_path / "g"), "--out", str(out), *DISTILL, "--log", "tensorboard"]) == 0
    assert list((out / "tensorboard").glob("events*"))
    capsys.readouterr()
    assert main(["pretrain", "--out", str(tmp_path / "x"), *PRE, "--log", "tensorbord"]) == 2
    assert "tensorboard" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_rarely_used_options_stand_last_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command, everyday, advanced in (
        ("pretrain", ("--steps", "--lr", "--kind", "--log"), ("--discriminator-lr", "--label-dropout", "--precision")),
        ("distill", ("--steps", "--images", "--parameters", "--log"), ("--clip", "--power", "--refresh-every")),
    ):
        assert main([command, "--help"]) == 0
        head, _, tail = capsys.readouterr().out.partition("advanced options")
        assert all(f"{word} " in head for word in everyday) and all(f"{word} " in tail for word in advanced)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "--out", "{new}", "--data", "digit"], "digit"),
        (
            ["pretrain", "--out", "{new}", "--kind", "consistency", "--width", "9"],
            "width must be a multiple of 8, got 9",
        ),
        (["pretrain", "--out", "{new}", "--lr", "0"], "lr must be a number > 0, got 0"),
        (["distill", "{none}", "--out", "{new}"], "a run folder that records its images"),
        (["distill", "{none}", "--out", "{new}", "--data", "digits"], "holds no generator"),
        (["distill", "{run}", "--out", "{new}", "--parameters", "lora"], "adapters in a GAN"),
        (["distill", "{run}", "--out", "{new}", "--classes", "11"], "classes must be at most 10"),
        (
            ["synthesize", "{run}", "--out", "{new}", "--ipc", "0"],
            "ipc must be a whole number >= 1 or a tuple, each a whole number >= 1, got 0",
        ),
        (["evaluate", "{run}", "--ipc", "1", "--protocol", "regenerate", "--selection", "diverse"], "regenerate"),
        (["show", "{none}"], "holds no generator"),
        (["show", "{run}", "--lora", "{none}"], "adapters for a ConditionalGAN"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    run: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"{run}": run, "{new}": tmp_path / "new", "{none}": tmp_path / "none"}
    assert main([str(places.get(word, word)) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("d2m-generator: ") and error.count("\n") == 1 and re.search(message, error), error
    assert not (tmp_path / "new").exists()
