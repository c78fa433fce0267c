"""Two processes as torchrun starts them: a run resumes bit-identically after one of them stops or is lost."""

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
from sextet_common import checkpoint

PROGRAM = textwrap.dedent("""
    import sys
    sys.path.insert(0, {here!r})
    import torch
    torch.set_num_threads(1)
    from test_train import H, data
    from subclass_kd import CrossEntropy, TrainConfig, Views, distill

    torch.manual_seed(0)
    from torch.nn import Flatten, Linear, Tanh
    network = torch.nn.Sequential(Flatten(), Linear(64, 8), Tanh(), Linear(8, 4))
    config = TrainConfig(epochs={epochs}, batch_size=17, views=Views(2), device="cpu", checkpoint_every=3,
                         patience={epochs})
    try:
        distill(None, network, data(), CrossEntropy(H), config, sys.argv[1])
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(f"{{type(error).__name__}}: {{error}}")
""")


def start(out: Path, epochs: int = 60) -> list[subprocess.Popen[str]]:
    """Start two processes as torchrun does on one machine, without its half-minute timeouts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    program = PROGRAM.format(here=str(Path(__file__).parent), epochs=epochs)
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, str(out)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    outputs = [process.communicate(timeout=600) for process in processes]
    return [(process.returncode, error) for process, (_, error) in zip(processes, outputs, strict=True)]


def wait_for_checkpoint(out: Path, processes: list[subprocess.Popen[str]]) -> None:
    while checkpoint.latest(out / "checkpoints") is None:
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.02)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(out / "model.safetensors", "torch").arrays


def assert_resumes_to(expected: dict[str, torch.Tensor], out: Path) -> None:
    """Run the same command again and compare the weights bit by bit."""
    assert [code for code, _ in ended(start(out))] == [0, 0]
    resumed = weights(out)
    assert resumed.keys() == expected.keys() and all(torch.equal(tensor, resumed[n]) for n, tensor in expected.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of an uninterrupted run of two processes."""
    out = tmp_path_factory.mktemp("whole")
    assert [code for code, _ in ended(start(out))] == [0, 0]
    return weights(out)


@pytest.mark.slow
def test_a_run_of_two_processes_resumes_bit_identically_after_one_is_asked_to_stop(
    tmp_path: Path, whole: dict[str, torch.Tensor]
) -> None:
    processes = start(tmp_path / "stopped")
    wait_for_checkpoint(tmp_path / "stopped", processes)
    processes[1].send_signal(signal.SIGTERM)  # the other one stops after the same epoch
    assert [code for code, _ in ended(processes)] == [130, 130]
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    assert_resumes_to(whole, tmp_path / "stopped")


@pytest.mark.slow
def test_a_lost_process_ends_the_run_in_one_line_and_the_same_command_resumes(
    tmp_path: Path, whole: dict[str, torch.Tensor]
) -> None:
    processes = start(tmp_path / "run")
    wait_for_checkpoint(tmp_path / "run", processes)
    processes[1].kill()
    (code, error), _ = ended(processes)
    (message,) = (line for line in error.splitlines() if "InputError" in line)
    assert code == 1 and "process 0 of 2 has lost another one" in message and "last checkpoint" in message
    assert_resumes_to(whole, tmp_path / "run")
