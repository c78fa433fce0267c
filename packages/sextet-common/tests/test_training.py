from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sextet_common import checkpoint, checks, training
from sextet_common.errors import InputError
from sextet_common.processes import Processes
from sextet_common.runs import Run, to_json
from sextet_common.training import Cadence, Job


class Walk(Job):
    """A random walk keyed by (seed, step); `fail` and `stop` name steps at which something happens."""

    def __init__(self, steps: int = 25, seed: int = 3, fail: int | None = None, stop: int | None = None) -> None:
        self.steps, self.seed, self.fail, self.stop = steps, seed, fail, stop
        self.place, self.taken = torch.zeros(2), 0
        self.pictures: list[int] = []
        self.begun: list[int] = []

    def step(self, number: int) -> dict[str, Any]:
        self.taken += 1
        self.place = self.place + torch.randn(2, generator=torch.Generator().manual_seed(self.seed * 1000 + number))
        if number == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": torch.tensor(float("nan")) if number == self.fail else self.place.square().sum(), "other": 1}

    def state(self) -> Mapping[str, Any]:
        return {"place": self.place, "count": self.taken}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.place, self.taken = state["place"], state["count"]

    def begin(self, run: Run, done: int) -> None:
        self.begun.append(done)

    def picture(self, folder: Path, done: int) -> None:
        assert folder.is_dir()
        self.pictures.append(done)


def logged(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.metrics()]


def test_without_a_folder_the_job_runs_and_nothing_is_returned() -> None:
    job = Walk()
    assert training.run(job) is None
    assert job.taken == 25 and job.begun == []


def test_a_run_logs_and_saves_at_its_cadence_and_at_the_end(tmp_path) -> None:
    job = Walk()
    run = training.run(job, name="walk", out=tmp_path / "run", record={"steps": 25}, cadence=Cadence(10, 8, 12))
    assert run is not None and (run.job, run.config) == ("walk", {"steps": 25})
    assert [row["step"] for row in run.metrics()] == [10, 20, 25]
    assert set(run.metrics()[0]) == {"step", "loss", "other", "seconds"}
    newest = checkpoint.latest(run.checkpoints)
    assert newest is not None and checkpoint.load(newest, "torch").meta == {"step": 25, "count": 25}
    assert (job.pictures, job.begun) == ([12, 24], [0])


def test_a_stopped_run_resumes_bit_identically_and_logs_the_same_rows(tmp_path) -> None:
    whole = training.run(job := Walk(), out=tmp_path / "whole", cadence=Cadence(10, 8))
    with pytest.raises(KeyboardInterrupt):
        training.run(Walk(stop=12), out=tmp_path / "parts", cadence=Cadence(10, 8))
    resumed = Walk()
    parts = training.run(resumed, out=tmp_path / "parts", cadence=Cadence(10, 8))
    assert resumed.begun == [13] and resumed.taken == 25
    assert torch.equal(resumed.place, job.place)
    assert whole is not None and parts is not None and logged(parts) == logged(whole)


def test_a_killed_run_resumes_from_its_last_checkpoint(tmp_path, monkeypatch) -> None:
    whole = training.run(Walk(), out=tmp_path / "whole", cadence=Cadence(10, 8))

    class Killed(Exception): ...

    step = Walk.step

    def killed(self: Walk, number: int) -> dict[str, Any]:
        if number == 22:
            raise Killed
        return step(self, number)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Walk, "step", killed)
        training.run(Walk(), out=tmp_path / "parts", cadence=Cadence(10, 8))
    resumed = Walk()
    parts = training.run(resumed, out=tmp_path / "parts", cadence=Cadence(10, 8))
    assert resumed.begun == [16]
    assert whole is not None and parts is not None and logged(parts) == logged(whole)


def test_a_finished_run_takes_no_step(tmp_path) -> None:
    training.run(Walk(), out=tmp_path / "run")
    job = Walk()
    training.run(job, out=tmp_path / "run")
    assert (job.begun, job.taken) == ([25], 25)


def test_another_configuration_is_refused_before_the_job_is_touched(tmp_path) -> None:
    training.run(Walk(), out=tmp_path / "run", record={"seed": 3})
    job = Walk(seed=4)
    with pytest.raises(InputError, match="seed=3, not 4"):
        training.run(job, out=tmp_path / "run", record={"seed": 4})
    assert job.taken == 0


def test_a_non_finite_metric_ends_the_run_with_its_step_and_the_hint() -> None:
    job = Walk(fail=19)
    job.hint = "an lr below 1"
    with pytest.raises(
        InputError, match="the loss is nan at step 20, seed 3; expected: finite numbers: try an lr below 1"
    ):
        training.run(job)


def test_metrics_are_read_only_where_they_are_logged_or_saved() -> None:
    steps = []

    class Reading(Walk):
        def read(self, done: int, metrics: Mapping[str, Any]) -> Mapping[str, float | str]:
            steps.append(done)
            return super().read(done, metrics)

    training.run(Reading(), cadence=Cadence(log=10, checkpoint=0))
    assert steps == [10, 20, 25]


def test_a_job_may_end_early_and_ask_for_a_row(tmp_path) -> None:
    class Early(Walk):
        def finished(self) -> bool:
            return self.taken >= 13

        def milestone(self, done: int) -> bool:
            return done == 7

    run = training.run(Early(), out=tmp_path / "run")
    assert run is not None and [row["step"] for row in run.metrics()] == [7, 10, 13]
    newest = checkpoint.latest(run.checkpoints)
    assert newest is not None and newest.name.endswith("13.safetensors")


def test_a_job_may_measure_its_length_in_its_own_unit(tmp_path) -> None:
    class Episodes(Walk):
        def position(self, done: int) -> int:
            return 4 * self.taken

    job = Episodes(steps=30)
    run = training.run(job, out=tmp_path / "run", cadence=Cadence(log=10, checkpoint=100))
    assert job.taken == 8  # 32 of 30
    assert run is not None and [row["step"] for row in run.metrics()] == [3, 5, 8]


def test_a_job_that_has_taken_steps_before_counts_on(tmp_path) -> None:
    job = Walk()
    job.done = 20
    run = training.run(job, out=tmp_path / "run", cadence=Cadence(log=1))
    assert job.taken == 5 and job.begun == [20]
    assert run is not None and [row["step"] for row in run.metrics()] == [21, 22, 23, 24, 25]


def test_files_are_flushed_before_the_checkpoint_is_written(tmp_path) -> None:
    class Flushing(Walk):
        def flush(self, run: Run) -> None:
            newest = checkpoint.latest(run.checkpoints)
            (run.path / "newest").write_text("none" if newest is None else newest.name)

    training.run(Flushing(), out=tmp_path / "run", cadence=Cadence(checkpoint=20))
    assert "20" in (tmp_path / "run" / "newest").read_text()


def test_a_checkpoint_of_another_job_is_an_input_error(tmp_path) -> None:
    with Run.open(tmp_path / "run", "", {}) as run:
        checkpoint.save_step(run.checkpoints, 3, {"weights": np.ones(2)}, {"step": 3})
    with pytest.raises(InputError, match="checkpoints of this job"):
        training.run(Walk(), out=tmp_path / "run")


def test_numpy_states_come_back_as_arrays(tmp_path) -> None:
    class Counting(Job):
        steps, seed, framework = 4, 0, "numpy"

        def __init__(self) -> None:
            self.total = np.zeros(1)

        def step(self, number: int) -> dict[str, float]:
            self.total += number
            return {"loss": float(self.total[0])}

        def state(self) -> dict[str, Any]:
            return {"total": self.total}

        def load_state(self, state: Mapping[str, Any]) -> None:
            self.total = state["total"]

    training.run(Counting(), out=tmp_path / "run")
    job = Counting()
    training.run(job, out=tmp_path / "run")
    assert isinstance(job.total, np.ndarray) and job.total.tolist() == [6.0]


def test_one_process_is_several_with_a_world_of_one(tmp_path) -> None:
    alone, several = Walk(), Walk()
    training.run(alone)
    training.run(several, out=tmp_path / "run", processes=Processes(torch.device("cpu")))
    assert torch.equal(alone.place, several.place)


def test_the_curve_of_a_metric_is_saved(tmp_path) -> None:
    run = training.run(Walk(), out=tmp_path / "run")
    assert run is not None and training.save_curve(run).stat().st_size > 1000


def test_a_folder_is_locked_while_its_job_runs_and_free_afterwards(tmp_path) -> None:
    class Curious(Walk):
        def step(self, number: int) -> dict[str, Any]:
            if number == 5:
                with pytest.raises(InputError, match="is in use by process"):
                    training.run(Walk(), out=tmp_path / "run")
                assert Run.read(tmp_path / "run").job == ""
            if number == 20 and self.fail:
                raise RuntimeError("crash")
            return super().step(number)

    with pytest.raises(RuntimeError, match="crash") as caught:  # keeps the frames of the run
        training.run(Curious(fail=99), out=tmp_path / "run")
    run = training.run(Curious(), out=tmp_path / "run")
    again = training.run(Walk(), out=tmp_path / "run")
    assert run == again and caught


def test_more_steps_continue_a_finished_run_to_the_same_numbers(tmp_path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Config:
        seed: int = 3
        steps: checks.Growing[int] = 25
        device: checks.Running[str] = "cpu"

    def record(config: Config) -> dict[str, Any]:
        return {"data": "none", **to_json(config)}

    whole = training.run(one := Walk(40), out=tmp_path / "whole", settings=Config, record=record(Config(steps=40)))
    for steps, device in ((25, "cpu"), (40, "other")):
        config = Config(steps=steps, device=device)
        job = Walk(steps)
        parts = training.run(job, out=tmp_path / "parts", settings=Config, record=record(config))
    assert job.begun == [25] and torch.equal(job.place, one.place)
    assert whole is not None and parts is not None and parts.config["steps"] == 40
    rows = [row for row in logged(parts) if row["step"] != 25]  # the last step of the shorter run is logged too
    assert rows == logged(whole)
    with pytest.raises(InputError, match="has 40 steps done, not 30"):
        training.run(Walk(30), out=tmp_path / "parts", settings=Config, record=record(Config(steps=30)))
    with pytest.raises(InputError, match="seed=3, not 4"):
        training.run(Walk(40, 4), out=tmp_path / "parts", settings=Config, record=record(Config(seed=4, steps=40)))


@pytest.mark.parametrize("length", [0, 7, -1])
def test_a_run_whose_newest_checkpoint_is_damaged_ends_with_the_same_numbers(tmp_path, length: int) -> None:
    whole = training.run(one := Walk(), out=tmp_path / "whole", cadence=Cadence(2, 4))
    with pytest.raises(KeyboardInterrupt):
        training.run(Walk(stop=17), out=tmp_path / "parts", cadence=Cadence(2, 4))
    newest = checkpoint.latest(tmp_path / "parts" / "checkpoints")
    assert newest is not None and "18" in newest.name
    newest.write_bytes(newest.read_bytes()[:length])
    job = Walk()
    with pytest.warns(UserWarning, match="18.safetensors is .*; resumed from step-00000016.safetensors"):
        parts = training.run(job, out=tmp_path / "parts", cadence=Cadence(2, 4))
    assert job.begun == [16] and torch.equal(job.place, one.place)
    assert whole is not None and parts is not None and logged(parts) == logged(whole)
    assert sorted(path.name for path in parts.checkpoints.iterdir()) == sorted(
        path.name for path in whole.checkpoints.iterdir()
    )
    for path in parts.checkpoints.iterdir():  # canonical bytes: the files are the same
        assert path.read_bytes() == (whole.checkpoints / path.name).read_bytes()


FULL = """
import sys
import numpy as np
from sextet_common import cli, training

class Sum(training.Job):
    steps, seed, framework = 400, 0, "numpy"

    def __init__(self):
        self.total = np.zeros(int(sys.argv[2]))

    def step(self, number):
        self.total += number
        return {"loss": float(self.total[0])}

    def state(self):
        return {"total": self.total}

    def load_state(self, state):
        self.total = state["total"]

def count() -> None:
    training.run(Sum(), out=sys.argv[1], cadence=training.Cadence(1, 10), bar=False)

sys.exit(cli.run("sextet-common", {"count": count}, ["count"]))
"""


def full(out: Path, size: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", FULL, str(out), str(size)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("size", [10, 3000])  # the metrics or the checkpoints fill the disk
def test_a_full_disk_ends_a_run_with_one_line_and_a_larger_one_resumes_it(tmp_path, size: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k" if size > 10 else "size=36k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a small disk")
    try:
        done = full(disk / "run", size)
        assert done.returncode == 2, done
        assert re.fullmatch(
            r"sextet-common: \S+ cannot be written: No space left on device; expected: .*\n", done.stderr
        )
        kept = checkpoint.steps(disk / "run" / "checkpoints")
        assert all(checkpoint.load(path).meta["step"] > 0 for path in kept)
        assert not list(disk.rglob("*.tmp"))
        assert all(json.loads(line) for line in (disk / "run" / "metrics.jsonl").read_text().splitlines())
        subprocess.run(["mount", "-o", "remount,size=2m", str(disk)], check=True)
        assert full(disk / "run", size).returncode == 0
        assert full(tmp_path / "whole", size).returncode == 0
        newest = checkpoint.steps(tmp_path / "whole" / "checkpoints")[-1]
        assert newest.read_bytes() == (disk / "run" / "checkpoints" / newest.name).read_bytes()
        assert logged(Run.read(disk / "run")) == logged(Run.read(tmp_path / "whole"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_job_killed_at_random_moments_ends_with_the_same_file_and_leaves_nothing(tmp_path) -> None:
    slow = FULL.replace("self.total += number", "__import__('time').sleep(0.005); self.total += number")
    command = [sys.executable, "-c", slow]
    assert subprocess.run([*command, str(tmp_path / "whole"), "5"], check=False).returncode == 0
    for seconds in (0.9, 1.8, 1.3):
        with subprocess.Popen([*command, str(tmp_path / "parts"), "5"]) as job:
            time.sleep(seconds)
            job.kill()
    assert subprocess.run([*command, str(tmp_path / "parts"), "5"], check=False).returncode == 0
    whole, parts = (
        {p.relative_to(tmp_path / n): p for p in sorted((tmp_path / n).rglob("*"))} for n in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    for name, path in whole.items():
        if path.is_file() and path.name not in (".lock", "metrics.jsonl"):
            assert path.read_bytes() == parts[name].read_bytes()
    assert logged(Run.read(tmp_path / "parts")) == logged(Run.read(tmp_path / "whole"))
