"""The script for a machine with a GPU: its logic, on a CPU."""

from __future__ import annotations

import importlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from sextet_common.errors import InputError

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not FOLDER.exists():
        pytest.skip("the benchmarks are not part of the source distribution")
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("on_gpu", "bench_attention", "bench_cifar", "bench_step", "published", "cifar_tables"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("on_gpu")
    monkeypatch.setattr(module.bench_attention.shutil, "which", lambda program: None)  # no torch.compile
    return module


def test_a_dry_run_saves_every_kind_of_result_and_the_same_command_has_nothing_left_to_do(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script.main(minutes=10, out=tmp_path, dry_run=True)
    saved = json.loads((tmp_path / "results.json").read_text())
    names = list(saved["pieces"])
    assert [name.split()[0] for name in names] == ["tests", "step", *["attention"] * 4, "sets", "all"]
    assert not [name for name, result in saved["pieces"].items() if "error" in result]
    assert {row["method"] for row in saved["pieces"]["sets ipc 1, seed 0"]["rows"]} == {"dm", "random real"}
    printed = capsys.readouterr().out
    assert "loss and gradient" in printed and "| random real |" in printed
    monkeypatch.setattr(script, "load", None)  # not even the data
    script.main(minutes=10, out=tmp_path, dry_run=True)
    assert json.loads((tmp_path / "results.json").read_text()) == saved


def piece(script: ModuleType, name: str, calls: list[str], seconds: float = 0.0, **limits: float) -> object:
    def run() -> dict[str, str]:
        calls.append(name)
        if name.startswith("broken"):
            raise RuntimeError("no such kernel")
        time.sleep(seconds)
        return {"summary": "ok"}

    return script.Piece(name, run, **{"seconds": 0.0, **limits})


def test_an_error_is_saved_and_stops_nothing_and_is_tried_again(script: ModuleType, tmp_path: Path) -> None:
    calls: list[str] = []
    pieces = [piece(script, name, calls) for name in ("first", "broken", "last")]
    for _ in range(2):
        results = script.Results(tmp_path / "results.json")
        script.run_pieces(pieces, results, time.monotonic() + 60)
    assert calls == ["first", "broken", "last", "broken"]
    assert "no such kernel" in results["broken"]["error"] and results.is_done("last")


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Processes that a shell starts in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_the_end_of_the_minutes_stops_a_piece_and_one_too_long_is_not_begun(script: ModuleType, tmp_path: Path) -> None:
    calls: list[str] = []
    results = script.Results(tmp_path / "results.json")
    pieces = [
        piece(script, "too long", calls),
        piece(script, "stuck", calls, 60, limit=0.05),
        piece(script, "interrupted", calls, 60),
        piece(script, "never", calls),
    ]
    pieces[0] = script.dataclasses.replace(pieces[0], seconds=1000)
    script.run_pieces(pieces, results, time.monotonic() + 3)
    assert calls == ["stuck", "interrupted"]
    assert results["stuck"]["error"] == "stopped after 0.05 s"
    assert not results["interrupted"] and not results["too long"] and not results["never"]


def test_ctrl_c_is_not_taken_for_the_end_of_the_minutes(script: ModuleType) -> None:
    with pytest.raises(KeyboardInterrupt), script.deadline(60):
        raise KeyboardInterrupt


def test_without_a_gpu_or_minutes_nothing_starts(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="minutes is 0"):
        script.main(minutes=0, out=tmp_path, dry_run=True)
    if script.device.pick("auto").type != "cuda":
        with pytest.raises(InputError, match="this machine has no CUDA device"):
            script.main(out=tmp_path)
    assert not list(tmp_path.iterdir())
