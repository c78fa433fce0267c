from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from sextet_common import checkpoint
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
    with pytest.raises(InputError, match="is of step -1000000000000000000; expected: a step >= 0"):
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
        folder = run.export_tensorboard()
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.iterdir()
    raw, values = file.read_bytes(), []
    while raw:  # TFRecord: length, its CRC, the event, its CRC
        length = int.from_bytes(raw[:8], "little")
        event = Event.FromString(raw[12 : 12 + length])
        values += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        raw = raw[16 + length :]
    assert values == [("loss", 1, 0.5), ("loss", 2, 1.0)]
