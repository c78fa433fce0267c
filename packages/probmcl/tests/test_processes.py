"""Several processes: real ones, started as torchrun starts them but without its half a minute of patience."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from probmcl import Config
from probmcl.training.batches import Batches
from sextet_common.errors import InputError
from sextet_common.processes import Processes

SCRIPT = Path(__file__).resolve().parent / "shared_batches.py"


def start(words: list[str], world: int, **more: str) -> list[int]:
    """Run a Python program in several processes and return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, **more, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    if world > 1:
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    children = [
        subprocess.Popen([sys.executable, *words], env={**common, **({"RANK": str(rank)} if world > 1 else {})})
        for rank in range(world)
    ]
    return [child.wait(300) for child in children]


@pytest.mark.slow
def test_two_processes_train_what_one_does_and_resume_bit_identically(tmp_path: Path) -> None:
    assert start([str(SCRIPT), str(tmp_path / "one")], 1) == [0]
    assert start([str(SCRIPT), str(tmp_path / "two")], 2) == [0, 0]
    again = [str(SCRIPT), str(tmp_path / "again"), str(tmp_path / "run")]
    assert start(again, 2, STOP_AT="8") == [3, 3]
    assert not (tmp_path / "run" / "joint" / "model.safetensors").exists()
    assert start(again, 2) == [0, 0]
    one = torch.load(tmp_path / "one-0.pt")
    two = [torch.load(tmp_path / f"{name}-{rank}.pt") for name in ("two", "again") for rank in (0, 1)]
    for name, tensor in one.items():
        torch.testing.assert_close(two[0][name], tensor, rtol=1e-5, atol=1e-5, msg=name)
        assert all(torch.equal(other[name], two[0][name]) for other in two), name


@pytest.mark.slow
def test_the_command_runs_under_torchrun_and_the_first_process_reports(tmp_path: Path) -> None:
    words = [
        "--data",
        "digits",
        "--out",
        str(tmp_path / "run"),
        "--batch-size",
        "200",
        "--labelled",
        "400",
        "--dim",
        "8",
    ]
    words += ["--hidden", "16", "--width", "2", "--epochs", "1", "--classifier-epochs", "1", "--device", "cpu"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "probmcl"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    printed = subprocess.run(
        [*torchrun, "train", *words], env=environment, capture_output=True, text=True, check=True, timeout=300
    ).stdout
    assert printed.count("at inference") == 1
    assert "mean_ap" in json.loads((tmp_path / "run" / "test.json").read_text())


def test_processes_divide_labelled_and_unlabelled_rows_evenly() -> None:
    labels = np.full((30, 2), -1, dtype=np.int8)
    labels[::3] = 1
    config = Config(batch_size=4, unlabelled_ratio=2.0)
    whole = Batches(labels, config, Processes(torch.device("cpu")))
    parts = [Batches(labels, config, Processes(torch.device("cpu"), rank, 2)) for rank in (0, 1)]
    rows = whole.rows("joint", 3, with_unlabelled=True)
    shares = [part.rows("joint", 3, with_unlabelled=True) for part in parts]
    assert rows.own.tolist() == rows.whole.tolist() == shares[1].whole.tolist()
    assert sorted(np.concatenate([share.own for share in shares])) == sorted(rows.whole)
    assert [(labels[share.own] >= 0).all(axis=1).sum() for share in shares] == [2, 2]
    for odd in (Config(batch_size=3), Config(batch_size=4, unlabelled_ratio=0.75)):
        with pytest.raises(InputError, match=r"3 (un)?labelled images in a step of 2 processes; expected: a multiple"):
            Batches(labels, odd, Processes(torch.device("cpu"), 0, 2))
