"""Several processes: real ones, started as torchrun starts them but without its half a minute of patience."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from d2m_generator import ConditionalGAN, D2MConfig, PretrainConfig
from d2m_generator.training.distill import DistillationJob
from d2m_generator.training.gan import GANJob
from sextet_common.data import load
from sextet_common.errors import InputError
from sextet_common.processes import Processes

SCRIPT = Path(__file__).resolve().parent / "shared_steps.py"


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
def test_two_processes_make_what_one_does_and_resume_bit_identically(tmp_path: Path) -> None:
    assert start([str(SCRIPT), str(tmp_path / "one"), str(tmp_path / "alone")], 1) == [0]
    assert start([str(SCRIPT), str(tmp_path / "two"), str(tmp_path / "both")], 2) == [0, 0]
    again = [str(SCRIPT), str(tmp_path / "again"), str(tmp_path / "run")]
    assert start(again, 2, STOP_AT="5") == [3, 3]
    assert not (tmp_path / "run" / "d2m" / "generator").exists()
    assert start(again, 2) == [0, 0]
    one = torch.load(tmp_path / "one-0.pt")
    two = [torch.load(tmp_path / f"{name}-{rank}.pt") for name in ("two", "again") for rank in (0, 1)]
    for name, images in one.items():
        if name == "stream":  # bytes: a value beside a rounding edge may fall to the other side
            assert int((two[0][name].int() - images.int()).abs().max()) <= 1
        else:
            torch.testing.assert_close(two[0][name], images, rtol=1e-5, atol=1e-5, msg=name)
        assert all(torch.equal(other[name], two[0][name]) for other in two), name


def test_work_that_cannot_be_shared_out_evenly_is_refused() -> None:
    data, gan = load("digits"), ConditionalGAN(10, (1, 8, 8), width=4)
    second = Processes(torch.device("cpu"), 1, 2)
    with pytest.raises(InputError, match="batch_size 9 of 2 processes; expected: a multiple"):
        GANJob(gan, data, PretrainConfig(batch_size=9), second)
    with pytest.raises(InputError, match="2 processes for steps of 1 classes; expected: at most one process per class"):
        DistillationJob(gan, data, D2MConfig(classes=1), second)
