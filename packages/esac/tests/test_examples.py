"""Every example runs, as a newcomer would run it, with little time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
QUICK = {
    "compare.py": ["--out", "runs", "--steps", "900", "--seeds", "1"],
    "own_env.py": [],
}
MINUTES = {"demo.py"}  # the demo of the whole house runs it


def test_every_example_is_known_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*QUICK, *MINUTES}


@pytest.mark.parametrize("name", QUICK)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / name), *QUICK[name]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if name == "compare.py":
        config = json.loads((tmp_path / "runs" / "es-0" / "config.json").read_text())["config"]
        assert config["config"]["mode"] == "es" and list((tmp_path / "runs" / "plots").glob("*.png"))
