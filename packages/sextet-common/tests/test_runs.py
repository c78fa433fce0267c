from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sextet_common import checkpoint, checks, loggers
from sextet_common.errors import InputError
from sextet_common.runs import Run, interruptible, to_json


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 5
    sizes: tuple[int, ...] = (1, 2)
    out: Path = Path("somewhere")


def test_a_run_is_resumed_only_with_the_same_settings(tmp_path) -> None:
    with Run.open(tmp_path / "run", "demo", Config()) as first:
        pass
    with Run.open(tmp_path / "run", "demo", Config()) as again:
        assert again == first == Run.read(tmp_path / "run")
    with pytest.raises(InputError, match=r"holds a run with sizes=\[1, 2\], not \[3\], steps=5, not 6"):
        Run.open(tmp_path / "run", "demo", Config(steps=6, sizes=(3,)))
    with pytest.raises(InputError, match="holds a run of 'demo', not 'other'"):
        Run.open(tmp_path / "run", "other", Config())


def test_a_folder_with_other_files_is_refused(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        Run.open(tmp_path, "demo", {})
    with pytest.raises(InputError, match="is a file"):
        Run.open(tmp_path / "thesis.tex", "demo", {})
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_broken_or_missing_configuration_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        Run.read(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"job": "de')
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        Run.read(tmp_path)


def test_resuming_rewinds_the_metrics_to_the_checkpoint(tmp_path) -> None:
    run = Run.open(tmp_path, "demo", {})
    for step in range(1, 6):
        run.log(step, loss=1 / step)
        if step == 3:
            checkpoint.save_step(run.checkpoints, step, {"x": np.ones(1)}, {"step": step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # the kill came while this line was written
    loaded = run.resume("numpy")
    assert loaded is not None and loaded.meta["step"] == 3
    run.log(4, loss=0.25)
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4]
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


def test_a_checkpoint_with_a_negative_step_is_refused(tmp_path) -> None:
    run = Run.open(tmp_path, "demo", {})
    checkpoint.save_step(run.checkpoints, 3, {"x": np.zeros(1)}, {"step": -(10**18)})
    with pytest.raises(InputError, match="is of step -1000000000000000000; expected: a whole checkpoint"):
        run.resume("numpy")


def test_without_a_checkpoint_a_resumed_run_starts_with_empty_metrics(tmp_path) -> None:
    run = Run.open(tmp_path, "demo", {})
    run.log(1, loss=1.0)
    assert run.resume() is None
    assert run.metrics() == []


def test_a_configuration_without_json_form_is_refused() -> None:
    assert to_json(Config()) == {"steps": 5, "sizes": [1, 2], "out": "somewhere"}
    with pytest.raises(InputError, match="cannot be stored"):
        to_json({"x": object()})


def test_the_first_signal_lets_the_step_finish() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), interruptible() as stopping:
        for step in range(10):
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            steps.append(step)
            if stopping():
                break
    assert steps == [0, 1, 2, 3]


def test_a_second_signal_interrupts_immediately_and_the_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    reached = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("first")
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("second")
    assert reached == ["first"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_in_another_thread_the_block_changes_nothing() -> None:
    seen = []

    def work() -> None:
        with interruptible() as stopping:
            seen.append(stopping())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_tensorboard_events_hold_the_logged_numbers(tmp_path) -> None:
    run = Run.open(tmp_path, "demo", {})
    for step in (1, 2):
        run.log(step, loss=0.5 * step, note="word")
    for _ in range(2):  # exporting again replaces the events
        folder = loggers.export_tensorboard(run)
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.iterdir()
    raw, values = file.read_bytes(), []
    while raw:  # TFRecord: length, its CRC, the event, its CRC
        length = int.from_bytes(raw[:8], "little")
        event = Event.FromString(raw[12 : 12 + length])
        values += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        raw = raw[16 + length :]
    assert values == [("loss", 1, 0.5), ("loss", 2, 1.0)]


def process(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start Python code that may use Run, sys and time."""
    head = "import os, sys, time\nimport numpy as np\nfrom sextet_common.runs import Run\n"
    head += "from sextet_common.errors import InputError\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + script, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


HOLD = "run = Run.open(sys.argv[1], 'demo', {})\nprint('open', flush=True)\ntime.sleep(60)"


def test_a_second_job_is_refused_at_once_and_a_killed_one_leaves_no_lock(tmp_path) -> None:
    with process(HOLD, tmp_path / "run") as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "open\n"
        began = time.perf_counter()
        with pytest.raises(InputError) as caught:
            Run.open(tmp_path / "run", "demo", {})
        assert time.perf_counter() - began < 1
        given = f"{tmp_path / 'run'} is in use by process {holder.pid} on {socket.gethostname()}"
        assert str(caught.value) == f"{given}; expected: another folder, or wait until that job has ended"
        assert Run.read(tmp_path / "run").metrics() == []  # looking on needs no lock
        holder.kill()
    with Run.open(tmp_path / "run", "demo", {}) as run:
        run.log(1, loss=0.5)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "config.json", "metrics.jsonl"]


def test_of_jobs_started_at_once_one_gets_the_folder(tmp_path) -> None:
    script = """
time.sleep(max(0, float(sys.argv[2]) - time.time()))
try:
    run = Run.open(sys.argv[1], "demo", {"seed": 1})
    print("open", flush=True)
    time.sleep(3)
except InputError as error:
    print(error)
"""
    jobs = [process(script, tmp_path / "new" / "run", time.time() + 3) for _ in range(5)]
    answers = sorted(job.communicate()[0].strip() for job in jobs)
    assert answers.count("open") == 1, answers
    assert all("is in use" in answer for answer in answers if answer != "open")


def test_in_one_process_a_folder_opens_again_once_the_run_is_closed_or_gone(tmp_path) -> None:
    first = Run.open(tmp_path, "demo", {})
    with pytest.raises(InputError, match=f"is in use by process {os.getpid()}"):
        Run.open(tmp_path, "demo", {})
    first.close()
    first.close()
    second = Run.open(tmp_path, "demo", {})
    del second
    with pytest.raises(ValueError, match="stop"), Run.open(tmp_path, "demo", {}):
        raise ValueError("stop")
    with pytest.raises(InputError, match="holds a run of"):
        Run.open(tmp_path, "other", {})  # a refusal keeps no lock
    with Run.open(tmp_path, "demo", {}) as run:
        assert run == first
    thread = threading.Thread(target=lambda: Run.open(tmp_path, "demo", {}).close())
    thread.start()
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_children_of_a_killed_job_hold_no_lock(tmp_path) -> None:
    script = """
run = Run.open(sys.argv[1], "demo", {})
if not os.fork():
    print(os.getpid(), flush=True)  # by the child, so that it has begun when the parent is killed
    os.close(1), os.close(2)
time.sleep(60)
"""
    with process(script, tmp_path) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    try:
        Run.open(tmp_path, "demo", {}).close()
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
@pytest.mark.filterwarnings("ignore:unclosed")
def test_without_locks_a_run_opens_with_a_warning(tmp_path, monkeypatch, number: int) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="file system without locks|flock not supported"):
        run = Run.open(tmp_path / "run", "demo", {})
    run.log(1, loss=1)
    run.close()


def test_what_a_job_on_another_machine_left_is_deleted_by_the_next_that_holds_the_lock(tmp_path) -> None:
    with Run.open(tmp_path, "demo", {}) as run:
        run.checkpoints.mkdir()
        left = [
            tmp_path / ".config.json.0123abcd.7.0.tmp",
            run.checkpoints / ".step-00000001.safetensors.0123abcd.7.0.tmp",
        ]
        for path in left:
            path.touch()
    with Run.open(tmp_path, "demo", {}):
        assert not any(path.exists() for path in left)


@dataclasses.dataclass(frozen=True)
class Loading:
    workers: checks.Running[int] = 0
    size: int = 32


@dataclasses.dataclass(frozen=True)
class Marked:
    lr: float = 0.1
    steps: checks.Growing[int] = 5
    device: checks.Running[str] = "cpu"
    loading: Loading = Loading()


def reopen(folder: Path, old: Any, new: Any, **marks: Any) -> Run:
    Run.open(folder, "demo", old, **marks).close()
    with Run.open(folder, "demo", new, **marks) as run:
        return run


def test_running_settings_may_differ_and_growing_ones_may_rise(tmp_path) -> None:
    changed = Marked(steps=9, device="cuda:1", loading=Loading(workers=4))
    run = reopen(tmp_path / "a", Marked(), changed)
    assert run.config == to_json(changed) == Run.read(tmp_path / "a").config
    table = json.loads((tmp_path / "a" / "config.json").read_text())
    assert table["earlier"] == [{"steps_done": 0, "config": {"device": "cpu", "loading.workers": 0, "steps": 5}}]
    reopen(tmp_path / "a", changed, dataclasses.replace(changed, device="mps"))
    table = json.loads((tmp_path / "a" / "config.json").read_text())
    assert [entry["config"] for entry in table["earlier"]][1:] == [{"device": "cuda:1"}]
    before = (tmp_path / "a" / "config.json").read_bytes()
    for other, message in (
        (dataclasses.replace(changed, lr=0.2, device="cpu"), r"holds a run with lr=0\.1, not 0\.2;"),
        (dataclasses.replace(changed, loading=Loading(size=8)), r"holds a run with loading\.size=32, not 8;"),
    ):
        with pytest.raises(InputError, match=message):
            Run.open(tmp_path / "a", "demo", other)
    assert (tmp_path / "a" / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("record", "settings"),
    [
        (lambda config: {"data": "digits", **to_json(config)}, Marked),
        (lambda config: {"data": "digits", **to_json(config)}, Marked()),
        (lambda config: {"data": "digits", "config": to_json(config)}, {"config": Marked}),
        (lambda config: {"data": "digits", "steps": config.steps}, {"steps": "growing"}),
    ],
)
def test_marks_are_found_for_records_of_every_form(tmp_path, record: Any, settings: Any) -> None:
    run = reopen(tmp_path, record(Marked()), record(Marked(steps=6)), settings=settings)
    assert run.config == record(Marked(steps=6))
    with pytest.raises(InputError, match="data='digits', not 'other'"):
        Run.open(tmp_path, "demo", {**record(Marked()), "data": "other"}, settings=settings)


def test_words_of_a_record_are_no_marks(tmp_path) -> None:
    Run.open(tmp_path, "demo", {"state": "running", "trend": "growing"}).close()
    with pytest.raises(InputError, match="state='running', not 'other', trend='growing', not 'falling'"):
        Run.open(tmp_path, "demo", {"state": "other", "trend": "falling"})


def test_fewer_steps_are_accepted_down_to_those_done(tmp_path) -> None:
    with Run.open(tmp_path, "demo", Marked(steps=100)) as run:
        checkpoint.save_step(run.checkpoints, 30, {"x": np.zeros(1)}, {"step": 30})
    Run.open(tmp_path, "demo", Marked(steps=30)).close()
    with pytest.raises(InputError, match="has 30 steps done, not 29; expected: steps >= 30"):
        Run.open(tmp_path, "demo", Marked(steps=29))
    assert Run.read(tmp_path).config["steps"] == 30


def test_a_record_of_an_earlier_version_is_read(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"job": "demo", "config": {"lr": 0.1, "steps": 5, "threads": 2}}\n')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n')  # as json.dumps wrote it
    old = {"lr": 0.1, "steps": 5, "threads": 2}
    with Run.open(tmp_path, "demo", old, settings={"steps": "growing"}) as run:
        assert math.isnan(run.metrics()[0]["loss"])
    with Run.open(
        tmp_path, "demo", {"lr": 0.1, "steps": 6}, settings={"steps": "growing", "threads": "running"}
    ) as run:
        assert run.config == {"lr": 0.1, "steps": 6}


def test_metrics_take_numpy_and_torch_scalars_and_are_valid_json(tmp_path) -> None:
    import torch

    def refuse(word: str) -> float:
        raise AssertionError(word)

    with Run.open(tmp_path, "demo", {}) as run:
        run.log(
            np.int64(1), a=np.float32(0.5), b=np.int16(3), c=np.bool_(True), d=np.array(2.5), e=torch.tensor(4),
            f=torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True), g="word", h=math.nan, i=np.float64(math.inf),
            j=torch.tensor(-math.inf), k=None, l=10**400, m=0.1,
        )  # fmt: skip
        for _ in range(2):
            row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
            assert (row["h"], row["i"], row["j"]) == ("NaN", "Infinity", "-Infinity")
            (read,) = run.metrics()
            assert math.isnan(read.pop("h"))
            assert read == {
                "step": 1, "a": 0.5, "b": 3, "c": True, "d": 2.5, "e": 4, "f": 0.5, "g": "word", "i": math.inf,
                "j": -math.inf, "k": None, "l": 10**400, "m": 0.1,
            }  # fmt: skip
            run.rewind(1)
    for value in (1j, np.ones(2), {1, 2}, b"bytes"):
        with pytest.raises(InputError, match="the metrics cannot be stored"):
            run.log(2, x=value)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the messages of Linux")
def test_an_impossible_folder_is_one_error_and_nothing_is_written(tmp_path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    for path, message in {
        "": "'' cannot be written; expected: the name of a file or folder",
        "a\0b": "cannot be written; expected: the name of a file or folder",
        str(tmp_path / "file"): "file is a file; expected: a run folder",
        str(tmp_path / "file" / "x"): "file.* cannot be written: (File exists|Not a directory)",
        str(tmp_path / "dangling"): "dangling is a link to nothing; expected: a link to an existing folder",
        str(tmp_path / "dangling" / "x"): "dangling is a link to nothing",
        str(tmp_path / ("n" * 300)): "cannot be written: File name too long; expected: a shorter name",
        "/proc/none": "/proc/none cannot be written",
        "/sys/none": "/sys/none cannot be written",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            Run.open(path, "demo", {})
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_folder_that_takes_no_lock_file_is_one_error(tmp_path, monkeypatch, number: int) -> None:
    opened = os.open

    def refuse(path: Any, *rest: Any, **named: Any) -> int:
        if str(path).endswith(".lock"):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match=f"cannot be written: {os.strerror(number)}; expected: "):
        Run.open(tmp_path / "run", "demo", {})


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_metrics_on_a_full_disk_are_one_error(tmp_path) -> None:
    with Run.open(tmp_path, "demo", {}) as run:
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(
            InputError, match=r"metrics\.jsonl cannot be written: No space left on device; expected: free"
        ):
            run.log(1, loss=0.5)


def test_a_line_that_the_disk_cuts_short_is_taken_back(tmp_path) -> None:
    script = """
import resource
run = Run.open(sys.argv[1], "demo", {})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    for step in range(1000):
        run.log(step, loss=0.5)
except InputError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
run.log(step, loss=0.25)
"""
    output, errors = process(script, tmp_path).communicate()
    assert "metrics.jsonl cannot be written: " in output and not errors
    rows = Run.read(tmp_path).metrics()
    assert len(rows) > 20 and [row["step"] for row in rows] == list(range(len(rows)))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(rows)
