from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from probmcl import gather

SCRIPT = Path(__file__).resolve().parent / "two_processes.py"


@pytest.fixture(scope="module")
def work() -> ModuleType:
    """The script as a module: the same data."""
    spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_processes_learn_what_one_learns_from_the_whole_batch(work: ModuleType, tmp_path: Path) -> None:
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(rank), str(tmp_path)], env=environment) for rank in (0, 1)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    rows, mixtures = work.whole()
    leaves = [rows.requires_grad_(), *(tensor.requires_grad_() for tensor in mixtures)]
    value = work.total(rows, mixtures, work.LABELS)
    expected = torch.autograd.grad(value, leaves)
    for part in found:
        torch.testing.assert_close(part[0], value.detach())
    for number, gradient in enumerate(expected):
        torch.testing.assert_close(torch.cat([part[1 + number] for part in found]), gradient)


def test_one_process_keeps_its_rows() -> None:
    rows = torch.ones(2, 3)
    assert gather(rows) is rows
