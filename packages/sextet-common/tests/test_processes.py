"""Two real processes on one machine, started as torchrun starts them but without its half a minute of patience."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from sextet_common import checkpoint, processes
from sextet_common.errors import InputError
from sextet_common.processes import Processes

COLLECTIVES = """
    import torch
    from sextet_common.processes import join
    with join("cpu") as all_of:
        rows = torch.full((all_of.rank + 1, 2), float(all_of.rank))
        assert all_of.broadcast({"epoch": 3, "rows": rows})["rows"].tolist() == [[0.0, 0.0]]
        assert all_of.all_gather(rows, [1, 2]).tolist() == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
        assert all_of.any(all_of.rank == 1) and not all_of.any(False)
        assert float(all_of.sum(torch.tensor(all_of.rank + 1.0))) == 3.0
        assert (all_of.world, all_of.is_first) == (2, all_of.rank == 0)
"""

TRAINING = """
    import sys, time
    import torch
    from sextet_common import training
    from sextet_common.processes import join

    class Shards(training.Job):
        steps, seed = 60, 0

        def __init__(self, processes):
            self.processes, self.row = processes, torch.zeros(1)

        def step(self, number):
            time.sleep(0.02)
            draw = torch.randn(2, generator=torch.Generator().manual_seed(number))
            self.row += draw[self.processes.rank]
            return {"loss": 0.0}

        def state(self):
            return {"rows": self.processes.all_gather(self.row, [1, 1])}

        def load_state(self, state):
            self.row = state["rows"][self.processes.rank : self.processes.rank + 1].clone()

    try:
        with join("cpu") as processes:
            training.run(Shards(processes), out=sys.argv[1], cadence=training.Cadence(5, 5), processes=processes)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


def start(program: str, *words: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), *words],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def ended(children: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    outputs = [child.communicate(timeout=180) for child in children]
    return [(child.returncode, error) for child, (_, error) in zip(children, outputs, strict=True)]


def wait_for_checkpoint(out: Path, children: list[subprocess.Popen[str]]) -> None:
    while checkpoint.latest(out / "checkpoints") is None:
        assert all(child.poll() is None for child in children), ended(children)
        time.sleep(0.02)


def rows_at_the_end(out: Path) -> list[float]:
    newest = checkpoint.latest(out / "checkpoints")
    assert newest is not None
    loaded = checkpoint.load(newest, "torch")
    assert loaded.meta["step"] == 60
    return loaded.arrays["rows"].tolist()


def expected_rows() -> list[float]:
    total = torch.zeros(2)
    for number in range(60):
        total += torch.randn(2, generator=torch.Generator().manual_seed(number))
    return total.tolist()


def test_values_reach_every_process() -> None:
    assert ended(start(COLLECTIVES)) == [(0, ""), (0, "")]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["asked to stop", "lost"])
def test_a_run_of_two_processes_resumes_bit_identically_after_one_is(end: str, tmp_path: Path) -> None:
    children = start(TRAINING, str(tmp_path))
    wait_for_checkpoint(tmp_path, children)
    if end == "lost":
        children[1].kill()
        (code, error), _ = ended(children)
        (line,) = (line for line in error.splitlines() if "InputError" in line)
        assert code == 1 and "process 0 of 2 has lost another one" in line and "last checkpoint" in line
    else:
        children[1].send_signal(signal.SIGTERM)  # the other one stops after the same step
        assert [code for code, _ in ended(children)] == [130, 130]
    assert [code for code, _ in ended(start(TRAINING, str(tmp_path)))] == [0, 0]
    assert rows_at_the_end(tmp_path) == expected_rows()


def test_an_error_of_the_job_is_not_called_the_loss_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(InputError, match="device 'tpu' is unknown"), processes.join("tpu"):
        pass
    with pytest.raises(RuntimeError, match="mine"), processes.join("cpu") as alone:
        assert alone == Processes(torch.device("cpu"))
        raise RuntimeError("mine")


def test_a_job_for_one_process_refuses_several(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.refuse_several("evaluate")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    assert not processes.is_first()
    with pytest.raises(InputError, match="evaluate runs in one process, got 3"):
        processes.refuse_several("evaluate")
