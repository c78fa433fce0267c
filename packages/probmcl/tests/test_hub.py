"""Sharing: exported folders and repositories of the Hub; what may change when a run resumes; trackers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from probmcl import Config, HeadConfig, MultiLabelSet, ProbMCL
from probmcl.__main__ import main
from probmcl.scenes import compose, digits
from sextet_common import checkpoint
from sextet_common.errors import InputError

SCENES = compose(digits(), sizes=(48, 24, 24))
NAMES = ("a|b", "<i>", *"23456789")
DATA = MultiLabelSet(SCENES.train, SCENES.validation, SCENES.test, NAMES, SCENES.input_shape, "csv:/secret/place")
SMALL: dict[str, Any] = {"epochs": 1, "classifier_epochs": 1, "batch_size": 16, "head": HeadConfig(8, hidden=())}


def fit(out: Path, **options: Any) -> ProbMCL:
    settings = SMALL | {"device": "cpu"} | {k: v for k, v in options.items() if k != "log"}
    return ProbMCL("convnet", config=Config(**settings), width=2).fit(DATA, out, log=options.get("log", ()))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "x"
    fit(folder)
    return folder


def test_an_exported_model_is_bit_identical_and_its_card_is_valid(run: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    model = ProbMCL.load(run, on="cpu")
    model.export_hub(tmp_path / "hub", license="mit", scores={"mean_ap": 0.5})
    again = ProbMCL.from_pretrained(tmp_path / "hub", on="cpu")
    ours, theirs = (checkpoint.load(folder / "model.safetensors", "torch") for folder in (run, tmp_path / "hub"))
    assert ours.arrays.keys() == theirs.arrays.keys()
    assert all(torch.equal(tensor, theirs.arrays[name]) for name, tensor in ours.arrays.items())
    assert torch.equal(again.predict_proba(DATA.test), model.predict_proba(DATA.test)) and again.label_names == NAMES
    assert torch.equal(again.variances(DATA.test).between, model.variances(DATA.test).between)
    card = hub.ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.license == "mit" and "multi-label" in card.data.tags and "<i>" not in card.text
    assert not any(b"secret" in file.read_bytes() for file in (tmp_path / "hub").iterdir())
    with pytest.raises(InputError, match="hub exists"):
        model.export_hub(tmp_path / "hub")


def test_a_repository_of_the_hub_is_read(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    ProbMCL.load(run, on="cpu").export_hub(tmp_path / "hub")
    asked: list[Any] = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["revision"]))
        return str(tmp_path / "hub")

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert ProbMCL.from_pretrained("me/scenes", revision="v1", on="cpu").n_labels == 10 and asked == [
        ("me/scenes", "v1")
    ]


def test_the_commands_take_an_exported_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast = ["--epochs", "1", "--classifier-epochs", "1", "--dim", "8", "--hidden", "16", "--width", "2"]
    run = tmp_path / "run"
    assert main(["train", "--out", str(run), "--batch-size", "500", "--device", "cpu", *fast]) == 0
    assert main(["export", str(run), "--to", str(tmp_path / "hub")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    expected = capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "hub"), "--device", "cpu"]) == 2
    assert "does not say what its data are; expected: --data" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "hub"), "--data", "digits", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == expected
    assert main(["export", str(run)]) == 2 and "--to FOLDER" in capsys.readouterr().err


def test_running_settings_may_change_and_the_schedules_epochs_may_not(run: Path) -> None:
    again = fit(run, device="auto", checkpoint_every=7)
    assert torch.equal(again.predict_proba(DATA.test), ProbMCL.load(run).predict_proba(DATA.test))
    for name, value in (("epochs", 2), ("seed", 1), ("head", HeadConfig(4, hidden=()))):
        with pytest.raises(InputError, match=f"holds a run with .*{'dim' if name == 'head' else name}"):
            fit(run, **{name: value})


class Recorder:
    """A tracker that keeps what it receives."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def start(self, run: Any) -> None:
        self.told.append("start")

    def log(self, step: int, values: Any) -> None:
        self.told.append((step, values["loss"]))

    def finish(self, status: str) -> None:
        self.told.append(status)


def test_a_tracker_is_told_what_the_log_holds(tmp_path: Path) -> None:
    recorder = Recorder()
    fit(tmp_path / "run", log=(recorder,))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    expected = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    assert recorder.told == ["start", *expected, "finished"] and expected
