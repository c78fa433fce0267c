"""Resuming with other settings, one job per run folder, and trackers that follow a job."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_matching import DistillConfig, DistilledSet, Distiller
from attention_matching.__main__ import main
from sextet_common import data, runs
from sextet_common.errors import InputError

SMALL = DistillConfig(ipc=2, steps=12, width=8, real_batch=8, checkpoint_every=4, device="cpu")
WORDS = ["distill", "--data", "digits", "--ipc", "2", "--width", "8", "--real-batch", "8", "--checkpoint-every", "4"]


@pytest.fixture(scope="module")
def digits() -> data.ImageSet:
    return data.load("digits")


@pytest.fixture(scope="module")
def uninterrupted(digits: data.ImageSet) -> torch.Tensor:
    return Distiller(SMALL).fit(digits).images


def config_of(run: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((run / "config.json").read_text())["config"]
    return config


@pytest.mark.parametrize("first", [1, 4, 7, 11])
def test_more_steps_continue_a_finished_distillation_as_if_it_had_been_that_long(
    tmp_path: Path, digits: data.ImageSet, uninterrupted: torch.Tensor, first: int
) -> None:
    short = Distiller(replace(SMALL, steps=first)).fit(digits, tmp_path)
    assert not torch.equal(short.images, uninterrupted)
    assert torch.equal(Distiller(SMALL).fit(digits, tmp_path).images, uninterrupted)
    assert torch.equal(DistilledSet.load(tmp_path / "distilled.safetensors").images, uninterrupted)
    assert runs.Run.read(tmp_path).metrics()[-1]["step"] == 12
    assert config_of(tmp_path)["steps"] == 12
    assert DistilledSet.load(tmp_path / "distilled.safetensors").meta["steps"] == 12


def test_fewer_steps_than_are_done_are_refused(tmp_path: Path, digits: data.ImageSet) -> None:
    Distiller(SMALL).fit(digits, tmp_path)
    before = (tmp_path / "distilled.safetensors").read_bytes()
    with pytest.raises(InputError, match="steps"):
        Distiller(replace(SMALL, steps=8)).fit(digits, tmp_path)
    assert (tmp_path / "distilled.safetensors").read_bytes() == before and config_of(tmp_path)["steps"] == 12


@pytest.mark.parametrize("changed", [{"device": "auto"}, {"checkpoint_every": 5}])
def test_device_and_cadence_may_change_without_changing_the_images(
    tmp_path: Path, digits: data.ImageSet, uninterrupted: torch.Tensor, changed: dict[str, Any]
) -> None:
    if torch.cuda.is_available() and "device" in changed:
        pytest.skip("another device gives the same images only up to rounding")
    Distiller(replace(SMALL, steps=6)).fit(digits, tmp_path)
    assert torch.equal(Distiller(replace(SMALL, **changed)).fit(digits, tmp_path).images, uninterrupted)
    assert config_of(tmp_path).items() >= changed.items()


@pytest.mark.parametrize("changed", [{"images_at_once": 10}, {"channels_last": True}])
def test_how_the_step_is_computed_may_change_and_the_images_stay_the_same_up_to_rounding(
    tmp_path: Path, digits: data.ImageSet, uninterrupted: torch.Tensor, changed: dict[str, Any]
) -> None:
    Distiller(replace(SMALL, steps=6)).fit(digits, tmp_path)
    images = Distiller(replace(SMALL, **changed)).fit(digits, tmp_path).images
    torch.testing.assert_close(images, uninterrupted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "changed",
    [{"ipc": 1}, {"seed": 1}, {"method": "atom"}, {"real_batch": 9}, {"precision": "bfloat16"}, {"width": 4}],
    ids=lambda changed: next(iter(changed)),
)
def test_what_identifies_a_distillation_may_not_change(
    tmp_path: Path, digits: data.ImageSet, changed: dict[str, Any]
) -> None:
    Distiller(replace(SMALL, steps=1)).fit(digits, tmp_path)
    (name,) = changed
    with pytest.raises(InputError, match=f"holds a run with .*{name}="):
        Distiller(replace(SMALL, **changed)).fit(digits, tmp_path)


def test_the_command_continues_with_more_steps_and_takes_settings_from_a_run(
    tmp_path: Path, uninterrupted: torch.Tensor
) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    assert main([*WORDS, "--steps", "5", "--out", str(run)]) == 0
    assert main([*WORDS, "--steps", "12", "--device", "cpu", "--out", str(run)]) == 0
    assert torch.equal(DistilledSet.load(run / "distilled.safetensors").images, uninterrupted)
    assert main(["distill", "--config", str(run), "--out", str(again)]) == 0
    assert (again / "distilled.safetensors").read_bytes() == (run / "distilled.safetensors").read_bytes()


def test_a_second_distillation_in_the_folder_of_a_running_one_is_refused_and_harms_nothing(
    tmp_path: Path, digits: data.ImageSet, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [sys.executable, "-m", "attention_matching", *WORDS, "--steps", "1000000", "--out", str(run)]
    first = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        while not (run / "metrics.jsonl").exists() and first.poll() is None:
            time.sleep(0.05)
        assert main([*WORDS, "--steps", "1000000", "--out", str(run)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and f"in use by process {first.pid}" in said
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGTERM)
        error = first.communicate(timeout=120)[1]
    assert "Traceback" not in error
    saved = sorted((run / "checkpoints").glob("step-*.safetensors"))
    done = int(saved[-1].stem.removeprefix("step-"))
    longer = replace(SMALL, steps=done + 1)  # the lock is gone with the process
    assert torch.equal(Distiller(longer).fit(digits, run).images, Distiller(longer).fit(digits).images)


class Recorder:
    """A tracker that keeps what it receives."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def start(self, run: runs.Run) -> None:
        self.told.append(run.path)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        self.told.append((step, values["loss"]))

    def finish(self, status: str) -> None:
        self.told.append(status)


def test_a_tracker_is_told_what_metrics_jsonl_records(tmp_path: Path, digits: data.ImageSet) -> None:
    recorder = Recorder()
    Distiller(SMALL).fit(digits, tmp_path, log=[recorder])
    rows = [(row["step"], row["loss"]) for row in runs.Run.read(tmp_path).metrics()]
    assert [step for step, _ in rows] == [10, 12]
    assert recorder.told == [tmp_path, *rows, "finished"]
    with pytest.raises(InputError, match="log without a run folder"):
        Distiller(SMALL).fit(digits, log=[recorder])


def test_the_command_logs_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    words = [*WORDS, "--steps", "12", "--log", "tensorboard", "--out", str(tmp_path)]
    assert main(words) == 0 and main(words) == 0  # again: nothing is logged twice
    events = accumulators.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("loss")}
    rows = {row["step"]: row["loss"] for row in runs.Run.read(tmp_path).metrics()}
    assert len(events.Scalars("loss")) == len(rows) == 2
    assert logged == pytest.approx(rows)


@pytest.mark.parametrize("log", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, log: str
) -> None:
    monkeypatch.setitem(sys.modules, log, None)  # importing it raises ImportError
    assert main([*WORDS, "--log", log, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"[{log}]" in said
    assert not (tmp_path / "run").exists()
