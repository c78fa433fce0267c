"""Classes divided among processes: the same images as one process, and a clear end where one is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from attention_matching import DistillConfig, DistilledSet, Distiller
from attention_matching.distillation.shards import Shard
from sextet_common import checkpoint, data
from sextet_common.processes import Processes

PROGRAM = """
import sys
from attention_matching import DistillConfig, Distiller
from sextet_common import cli, data

def job():
    configs = [
        DistillConfig(ipc=2, steps={steps}, width=8, real_batch=8, checkpoint_every=4, norm={norm!r}, method=method)
        for method in {methods!r}
    ]
    digits = data.load("digits")
    few = digits.train_labels < {classes}
    part = digits.train_images[few], digits.train_labels[few]
    Distiller.fit_many(configs, data.ImageSet.of(*part, *part), sys.argv[1])

sys.exit(cli.run("job", {{"job": job}}, ["job"]))
"""


def start(
    out: Path,
    world: int,
    *,
    steps: int = 12,
    norm: str = "instance",
    methods: tuple[str, ...] = ("datadam",),
    classes: int = 10,
) -> list[subprocess.Popen[str]]:
    """What torchrun does on one machine, without its restarts and its half a minute of patience."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = PROGRAM.format(steps=steps, norm=norm, methods=methods, classes=classes)
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, str(out)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    outputs = [process.communicate(timeout=180) for process in processes]
    return [(process.returncode, error) for process, (_, error) in zip(processes, outputs, strict=True)]


def wait_for_checkpoint(out: Path, processes: list[subprocess.Popen[str]], after: str = "") -> str:
    """Wait for a checkpoint newer than one, and return its name."""
    while (newest := checkpoint.latest(out / "checkpoints")) is None or newest.name <= after:
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.02)
    return newest.name


@pytest.mark.parametrize("world", [1, 2, 3, 10])
def test_every_class_belongs_to_one_process_and_none_is_idle(world: int) -> None:
    shards = [Shard(10, Processes(torch.device("cpu"), rank, world)) for rank in range(world)]
    assert [label for shard in shards for label in shard.classes] == list(range(10))
    assert all(len(shard.classes) in (10 // world, 10 // world + 1) for shard in shards)


@pytest.mark.slow
def test_two_processes_give_the_sets_that_one_distils_together(tmp_path: Path) -> None:
    configs = [DistillConfig(ipc=2, steps=12, width=8, real_batch=8, method=method) for method in ("dm", "atom")]
    alone = Distiller.fit_many(configs, data.load("digits"))
    assert [code for code, _ in ended(start(tmp_path, 2, methods=("dm", "atom")))] == [0, 0]
    for one, config in zip(alone, configs, strict=True):
        shared = DistilledSet.load(tmp_path / config.method / "distilled.safetensors")
        torch.testing.assert_close(shared.images, one.images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["instance", pytest.param("group", marks=pytest.mark.slow)])
def test_two_processes_give_the_images_of_one(tmp_path: Path, norm: str) -> None:
    alone = Distiller(DistillConfig(ipc=2, steps=12, width=8, real_batch=8, norm=norm)).fit(data.load("digits"))
    assert [code for code, _ in ended(start(tmp_path / "run", 2, norm=norm))] == [0, 0]
    shared = DistilledSet.load(tmp_path / "run" / "distilled.safetensors")
    assert torch.equal(shared.labels, alone.labels)
    torch.testing.assert_close(shared.images, alone.images, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_lost_process_ends_the_run_in_one_line_and_another_number_of_processes_resumes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes = start(out, 2, steps=4000)
    before = wait_for_checkpoint(out, processes)
    processes[1].send_signal(signal.SIGKILL)
    (code, error), _ = ended(processes)
    assert code == 2
    lines = [line for line in error.splitlines() if line.startswith("job: ")]
    assert len(lines) == 1 and "process 0 of 2 has lost another one" in lines[0] and "last checkpoint" in lines[0]
    again = start(out, 1, steps=4000)
    assert wait_for_checkpoint(out, again, after=before) > before
    again[0].send_signal(signal.SIGKILL)
    ended(again)


@pytest.mark.slow
def test_one_process_that_is_asked_to_stop_stops_all_after_the_same_step(tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes = start(out, 2, steps=4000)
    wait_for_checkpoint(out, processes)
    processes[1].send_signal(signal.SIGTERM)
    assert [code for code, _ in ended(processes)] == [130, 130]
    assert not (out / "distilled.safetensors").exists()  # no result before the end


@pytest.mark.slow
def test_batch_norm_in_two_processes_and_more_processes_than_classes_are_refused(tmp_path: Path) -> None:
    for code, error in ended(start(tmp_path / "run", 2, norm="batch")):
        assert code == 2 and "batch normalisation needs one process, got 2" in error
    for code, error in ended(start(tmp_path / "run", 3, classes=2))[:1]:
        assert code == 2 and "got 3 processes for 2 classes" in error
