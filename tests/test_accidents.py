"""Accidents at random, as tools/reliability.py makes them: a few here, a thousand in `nox -s reliability`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "reliability.py"
COMMON = ("numpy", "checkpoint", "text", "folder", "cache", "hub")

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and looks into /proc")


def tool(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), *map(str, words)], capture_output=True, text=True, timeout=600)


def test_forty_combinations_of_accidents_end_like_undisturbed_jobs(tmp_path: Path) -> None:
    done = tool("--count", 40, "--json", tmp_path / "counts.json", "--jobs", *COMMON)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\*\*40 combinations\*\* .*: 0 tracebacks, 0 wrong results, 0 leftovers\.", done.stdout)
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert sum(counts["jobs"].values()) == 40
    assert {"kill", "interrupt", "full", "read-only", "double", "damage"} <= counts["accidents"].keys()


def test_a_combination_repeats_by_its_number() -> None:
    stories = [tool("--only", 5, "--seed", 3, "--jobs", "checkpoint").stdout for _ in range(2)]
    told = [re.findall(r"(\w+\(.*?\)) with", story) for story in stories]
    assert told[0] == told[1] != []


BROKEN = """
import sys
sys.path.insert(0, {tools!r})
import accidents, common_jobs, reliability
from pathlib import Path

def careless(settings):
    Path("out").mkdir(exist_ok=True)
    with open("out/table.txt", "w") as file:
        for number in range(500):
            file.write(str(number))
            if not number % 100:
                file.flush()
                Path("out/started.txt").touch()
    Path("out/started.txt").unlink()

def call(settings):
    careless(settings)
    return 0

call.prepare = lambda: None
common_jobs.JOBS["text"] = common_jobs.Job("careless", call)
sys.exit(reliability.main(["--count", "30", "--jobs", "text"]))
"""


def test_a_job_that_writes_carelessly_is_found_out() -> None:
    code = BROKEN.format(tools=str(TOOL.parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert re.search(r"[1-9]\d* tracebacks", last) and "repeat with --seed 0 --only" in done.stdout
