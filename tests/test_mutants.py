from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mutants
import pytest
import workspace

SOURCE = """\
'''Sums.'''
import functools
import math

RATE = 0.5


@functools.cache
def scaled(x: int, shift: int = 0) -> float:
    if x > 100:
        raise ValueError(f"{x + 1} is more than 100")
    return RATE * x + shift


def untested(x: float) -> float:
    return -math.sqrt(x)


def main() -> None:
    print(scaled(4))
"""
TESTS = """\
import subprocess
import sys

from toy import sums


def test_a_number_is_scaled():
    assert sums.scaled(2) == 1 and sums.scaled(2, 1) == 2


def test_a_process_prints_it():
    command = [sys.executable, "-c", "from toy import sums; sums.main()"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "2.0\\n"
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """Return a module of a small package with tests, in a repository laid out like ours."""
    package = tmp_path / "packages" / "toy"
    (package / "src" / "toy").mkdir(parents=True)
    (package / "tests").mkdir()
    (package / "tests" / "test_sums.py").write_text(TESTS, encoding="utf-8")
    (package / "src" / "toy" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--import-mode=importlib'\n")
    module = package / "src" / "toy" / "sums.py"
    module.write_text(SOURCE, encoding="utf-8")
    return module


def session(*words: str | Path) -> str:
    command = [sys.executable, workspace.ROOT / "tools" / "mutants.py", *words]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins take seconds to import
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def test_survivors_are_shown_killed_mutants_are_counted_and_no_file_is_changed(module: Path) -> None:
    before = {path: path.read_bytes() for path in module.parents[3].rglob("*") if path.is_file()}
    shown = session(module)
    assert {path: path.read_bytes() for path in module.parents[3].rglob("*") if path.is_file()} == before
    # 0.5 -> 1.0, * -> /, + -> - and 0 -> 1 fail; > -> >= and 100 -> 101 do not, nor what happens to untested().
    assert shown.splitlines()[0] == "toy.sums: 9 of 9 mutants"
    assert "sums.py:10\n-    if x > 100:\n+    if x >= 100:\n" in shown
    assert "+    if x > 101:\n" in shown and "+    return (math.sqrt(x))\n" in shown and "+    return -(x)\n" in shown
    assert shown.splitlines()[-1] == "toy.sums: killed 5 of 9 (55.6%), survived 4"


def test_arguments_choose_tests_lines_and_a_sample(module: Path) -> None:
    shown = session(module, "--lines", "12", "-k", "process")
    assert shown.splitlines()[-1] == "toy.sums: killed 1 of 2 (50.0%), survived 1"  # it calls scaled() with shift 0
    samples = [session(module, "--most", "1", "--seed", seed, "-k", "scaled") for seed in ("1", "1")]
    assert samples[0] == samples[1] and samples[0].startswith("toy.sums: 1 of 9 mutants")


def test_tests_that_fail_anyway_end_the_session(module: Path) -> None:
    (module.parents[2] / "tests" / "test_sums.py").write_text("def test_it():\n    assert False\n", encoding="utf-8")
    with pytest.raises(subprocess.CalledProcessError) as error:
        session(module)
    assert "the tests fail without any change" in error.value.stderr


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("a = (b) + (  # c - d\n  c)", ["a = (b) - (  # c - d\n  c)"]),
        ("a += b", ["a -= b"]),
        ("é = 'ö' if a <= b else -c", ["é = 'ö' if a < b else -c", "é = 'ö' if a <= b else (c)"]),
        ("a = b is not c", ["a = b is c"]),
        ("a = b and c not in d", ["a = b or c not in d", "a = b and c in d"]),
        ("a = x.sqrt().sum()", ["a = (x).sum()", "a = x.sqrt().mean()"]),
        ("a = np.sqrt(x)", ["a = (x)"]),
        ("x.add_(y)", ["pass", "x.sub_(y)"]),
        ("def f(a: Literal[1] = 2) -> B[3]:\n    '4 + 5'", ["def f(a: Literal[1] = 3) -> B[3]:\n    '4 + 5'"]),
        ("@cache(1)\nclass A:\n    lr: float = 0.0", ["@cache(1)\nclass A:\n    lr: float = 1.0"]),
        ("zip(a, b, strict=True)", ["pass"]),
        ("raise ValueError(1)", []),
    ],
)  # fmt: skip
def test_each_kind_of_change_is_made_once_and_is_python(source: str, changed: list[str]) -> None:
    assert sorted(mutant.apply(source) for mutant in mutants.find(source)) == sorted(changed)
