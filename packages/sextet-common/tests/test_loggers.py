import json
import math
import os
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sextet_common import loggers, training
from sextet_common.errors import InputError
from sextet_common.runs import Run


class Recorder:
    def __init__(self, fails_in=""):
        self.calls, self.fails_in = [], fails_in

    def _call(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name == self.fails_in:
            raise OSError(28, "No space left on device")

    def start(self, run):
        self._call("start", run.path)

    def log(self, step, values):
        self._call("log", step, dict(values))

    def finish(self, status):
        self._call("finish", status)


class Count(training.Job):
    """Sums its step numbers; the loss of a step is its number, so that a repeated step logs the same."""

    seed = 0
    framework = "numpy"

    def __init__(self, steps, stop_after=None):
        self.steps, self.stop_after, self.total = steps, stop_after, np.zeros(1)

    def step(self, number):
        if number == self.stop_after:
            raise KeyboardInterrupt  # as a second Ctrl-C: nothing of this step is saved
        self.total += number
        return {"loss": float(number)}

    def state(self):
        return {"total": self.total}

    def load_state(self, state):
        self.total = state["total"]


CADENCE = training.Cadence(log=1, checkpoint=4)


def count(folder, log, stop_after=None):
    job = Count(10, stop_after)
    training.run(job, name="demo count", out=folder, record={"a": 1}, cadence=CADENCE, log=log, bar=False)


def count_with_an_interruption(folder, log):
    """Steps 5 and 6 are logged, lost and logged again."""
    with pytest.raises(KeyboardInterrupt):
        count(folder, log, stop_after=6)
    count(folder, log)


def read_tensorboard(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def read_wandb(file):
    """Read the history of an offline file: a log of 32 KiB blocks, records of crc, length, kind and content."""
    internal = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    content, position, rows, record = file.read_bytes(), 7, [], b""
    while position < len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        part = content[position + 7 : position + 7 + length]
        record = part if kind in (1, 2) else record + part
        position += 7 + length
        if kind in (1, 4):
            message = internal.Record.FromString(record)
            if message.WhichOneof("record_type") == "history":
                items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in message.history.item}
                rows.append({"step": message.history.step.num, **items})
    return rows


@pytest.fixture
def offline(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def wandb_rows(folder):
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len({file.name for file in files}) == 1  # the run's id
    deadline = time.monotonic() + 20
    while any(file.stat().st_size <= 7 for file in files) and time.monotonic() < deadline:
        time.sleep(0.05)  # W&B's own process may write a moment after finish() has returned
    return sorted((row for file in files for row in read_wandb(file)), key=lambda row: row["step"]), len(files)


def mlflow_client(folder):
    mlflow = pytest.importorskip("mlflow")
    return mlflow.MlflowClient(tracking_uri=(folder / "mlruns").as_uri())


def test_an_object_with_the_three_methods_follows_a_job_from_its_start_to_its_end(tmp_path):
    tracker = Recorder()
    count(tmp_path / "run", [tracker])
    assert [call[0] for call in tracker.calls] == ["start", *["log"] * 10, "finish"]
    assert tracker.calls[0] == ("start", tmp_path / "run") and tracker.calls[-1] == ("finish", "finished")
    rows = Run.read(tmp_path / "run").metrics()
    assert [{"step": step, **values} for _, step, values in tracker.calls[1:-1]] == rows


def test_a_tracker_learns_whether_the_job_was_interrupted_or_failed(tmp_path):
    class Failing(Count):
        def step(self, number):
            raise ZeroDivisionError

    stopped, failed = Recorder(), Recorder()
    with pytest.raises(KeyboardInterrupt):
        count(tmp_path / "a", [stopped], stop_after=3)
    with pytest.raises(ZeroDivisionError):
        training.run(Failing(3), out=tmp_path / "b", log=[failed], bar=False)
    assert stopped.calls[-1] == ("finish", "interrupted") and failed.calls[-1] == ("finish", "failed")


def test_a_tracker_that_fails_in_the_middle_gives_one_warning_and_the_job_and_the_others_go_on(tmp_path):
    failing, other = Recorder(fails_in="log"), Recorder()
    with pytest.warns(RuntimeWarning) as caught:
        count(tmp_path / "run", [failing, other])
    assert [str(w.message) for w in caught] == [
        "Recorder failed and is off until the run is resumed: [Errno 28] No space left on device"
    ]
    assert len(failing.calls) == 2 and len(other.calls) == 12
    assert len(Run.read(tmp_path / "run").metrics()) == 10


def test_a_tracker_that_fails_at_the_end_is_a_warning(tmp_path):
    with pytest.warns(RuntimeWarning, match="No space left"):
        count(tmp_path / "run", [Recorder(fails_in="finish")])


def test_a_tracker_that_cannot_start_stops_the_job_before_its_first_step_and_the_started_ones_are_closed(tmp_path):
    first = Recorder()
    with pytest.raises(InputError, match=r"Recorder cannot start: .*No space left"):
        count(tmp_path / "run", [first, Recorder(fails_in="start")])
    assert [call[0] for call in first.calls] == ["start", "finish"] and first.calls[-1] == ("finish", "failed")
    assert not Run.read(tmp_path / "run").metrics()


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_extra_is_told_before_the_folder_exists(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, {"tensorboard": "tensorboardX"}.get(name, name), None)
    with pytest.raises(InputError, match=rf"not installed.*sextet-common\[{name}\]"):
        count(tmp_path / "run", [name])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", ["tensorbord", "", 7, object()])
def test_what_is_no_tracker_is_refused(wrong):
    with pytest.raises(InputError, match="is unknown; expected: tensorboard, wandb, mlflow or an object"):
        loggers.open([wrong])


def test_trackers_need_a_run_folder(tmp_path):
    with pytest.raises(InputError, match="run folder"):
        training.run(Count(2), log=["tensorboard"], bar=False)


def test_no_tracker_costs_nothing_and_imports_nothing(tmp_path):
    count(tmp_path / "run", ())
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if p.name[0] != ".") == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
    ]


def test_tensorboard_has_every_step_of_an_interrupted_job_once(tmp_path):
    pytest.importorskip("tensorboardX")
    count_with_an_interruption(tmp_path / "run", ["tensorboard"])
    assert read_tensorboard(tmp_path / "run" / "tensorboard")["loss"] == [(n + 1, float(n)) for n in range(10)]


def test_tensorboard_shows_non_finite_numbers_and_leaves_words_out(tmp_path):
    pytest.importorskip("tensorboardX")
    run = Run.open(tmp_path / "run", "demo", {})
    trackers = loggers.open(["tensorboard"])
    with trackers.running(run):
        trackers.log(1, {"a": math.nan, "b": -math.inf, "word": "x", "none": None, "c": np.float32(0.5), "d": True})
    scalars = read_tensorboard(run.path / "tensorboard")
    assert set(scalars) == {"a", "b", "c", "d"}
    assert math.isnan(scalars["a"][0][1]) and scalars["b"] == [(1, -math.inf)] and scalars["c"] == [(1, 0.5)]


def test_the_metrics_of_a_finished_run_are_exported_to_tensorboard_again_and_again(tmp_path):
    pytest.importorskip("tensorboardX")
    count(tmp_path / "run", ())
    for _ in range(2):
        folder = loggers.export_tensorboard(Run.read(tmp_path / "run"))
        assert [step for step, _ in read_tensorboard(folder)["loss"]] == list(range(1, 11))


@pytest.mark.slow
def test_wandb_offline_has_every_step_of_an_interrupted_job_once_in_one_run(tmp_path, offline):
    pytest.importorskip("wandb")
    count_with_an_interruption(tmp_path / "run", ["wandb"])
    rows, parts = wandb_rows(tmp_path / "run")
    assert parts == 2  # one offline file for each start, of the same run id
    assert [(row["step"], row["loss"]) for row in rows] == [(n + 1, n) for n in range(10)]


@pytest.mark.slow
def test_wandb_takes_words_and_non_finite_numbers_and_what_was_logged_before_it_joined(tmp_path, offline):
    pytest.importorskip("wandb")
    run = Run.open(tmp_path / "run", "demo", {"a": [1]})
    run.log(1, loss=2.0)
    trackers = loggers.open(["wandb"])
    with trackers.running(run):
        trackers.log(2, {"loss": math.nan, "word": "=x", "none": None})
    first, second = wandb_rows(tmp_path / "run")[0]
    assert (first["step"], first["loss"]) == (1, 2.0)
    assert second["step"] == 2 and math.isnan(float(second["loss"])) and second["word"] == "=x"
    assert "none" not in second


def test_mlflow_has_every_step_of_an_interrupted_job_once_in_one_run(tmp_path, offline):
    pytest.importorskip("mlflow")
    count_with_an_interruption(tmp_path / "run", ["mlflow"])
    client = mlflow_client(tmp_path / "run")
    (experiment,) = [e for e in client.search_experiments() if e.name == "demo count"]
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(n + 1, float(n)) for n in range(10)]
    assert found.info.status == "FINISHED" and found.info.run_name == "run" and found.data.params["a"] == "1"


def test_mlflow_marks_an_interrupted_run_and_takes_any_value_and_name(tmp_path, offline):
    run = Run.open(tmp_path / "run", "demo", {"long": "x" * 20_000})
    trackers = loggers.open(["mlflow"])
    with pytest.raises(KeyboardInterrupt), trackers.running(run):
        trackers.log(1, {"a %<b>": math.inf, "nan": math.nan, "word": "=x", "none": None, "n": np.int64(3)})
        raise KeyboardInterrupt
    client = mlflow_client(tmp_path / "run")
    found = client.get_run(json.loads((run.path / "mlflow.json").read_text())["id"])
    assert found.info.status == "KILLED" and found.data.tags["word"] == "=x"
    assert found.data.metrics["n"] == 3 and set(found.data.metrics) == {"a __b_", "nan", "n"}


def test_mlflow_obeys_the_environment(tmp_path, offline, monkeypatch):
    client = mlflow_client(tmp_path / "elsewhere")  # it creates the folder
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "elsewhere" / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    count(tmp_path / "run", ["mlflow"])
    assert client.get_experiment_by_name("mine") is not None and not (tmp_path / "run" / "mlruns").exists()


def test_a_tracker_that_failed_is_sent_what_it_missed_when_the_run_is_resumed(tmp_path, offline, monkeypatch):
    client = pytest.importorskip("mlflow").MlflowClient
    send = client.log_batch

    def unreachable(self, run_id, metrics, tags):
        if metrics[0].step >= 3:
            raise ConnectionError("no route to host")
        send(self, run_id, metrics=metrics, tags=tags)

    monkeypatch.setattr(client, "log_batch", unreachable)
    with pytest.warns(RuntimeWarning, match="mlflow failed and is off until the run is resumed: no route to host"):
        count(tmp_path / "run", ["mlflow"])
    monkeypatch.setattr(client, "log_batch", send)
    count(tmp_path / "run", ["mlflow"])
    client = mlflow_client(tmp_path / "run")
    known = json.loads((tmp_path / "run" / "mlflow.json").read_text())
    assert [m.step for m in client.get_metric_history(known["id"], "loss")] == list(range(1, 11))


def test_a_damaged_record_of_a_tracker_is_one_line(tmp_path, offline):
    pytest.importorskip("mlflow")
    folder = Path(tmp_path / "run")
    count(folder, ())
    (folder / "mlflow.json").write_text("{")
    with pytest.raises(InputError, match="mlflow cannot start"):
        count(folder, ["mlflow"])
