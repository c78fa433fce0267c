"""tools/quick.py: which packages a working tree changes, and which of their tests come first."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
TESTS = {
    "test_a.py": "def test_last(): ...\n",
    "test_b.py": "# import evolution\ndef test_of_the_changed_module(): ...\n",
    "test_c.py": "def test_of_the_changed_file(): ...\n",
}
IDENTITY = ["-c", "user.name=Nobody", "-c", "user.email=nobody@localhost"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("quick")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit of two packages, and after it a changed, a deleted and a new file."""
    for name in ("packages/esac/src/a.py", "packages/gmr-metric/README.md", "docs/x.md", "packages/probmcl/gone.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1", encoding="utf-8")
    for words in (["init", "--quiet"], ["add", "."], [*IDENTITY, "commit", "--quiet", "-m", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (tmp_path / "packages/esac/src/a.py").write_text("2", encoding="utf-8")
    (tmp_path / "packages/probmcl/gone.py").unlink()
    (tmp_path / "packages/new file.txt").write_text("3", encoding="utf-8")
    return tmp_path


def test_changed_new_and_deleted_files_are_found_and_their_packages(quick: ModuleType, repository: Path) -> None:
    files = quick.changed_files(repository)
    assert files == ["packages/esac/src/a.py", "packages/new file.txt", "packages/probmcl/gone.py"]
    assert quick.changed_packages(files) == ["esac", "probmcl"]


def test_changes_since_an_earlier_commit_are_found(quick: ModuleType, repository: Path) -> None:
    for words in (["add", "--all"], [*IDENTITY, "commit", "--quiet", "-m", "y"]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    assert quick.changed_files(repository) == []
    assert "packages/probmcl/gone.py" in quick.changed_files(repository, "HEAD~1")


def test_an_unknown_commit_is_one_line(quick: ModuleType, repository: Path) -> None:
    with pytest.raises(RuntimeError, match="nowhere") as refusal:
        quick.changed_files(repository, "nowhere")
    assert len(str(refusal.value).splitlines()) == 1


def run_tests(folder: Path, seconds: float) -> list[str]:
    """Run TESTS with the plugin, and return the names of the tests in their order, with their outcomes."""
    for name, text in TESTS.items():
        (folder / "packages" / "esac" / "tests").mkdir(parents=True, exist_ok=True)
        (folder / "packages" / "esac" / "tests" / name).write_text(text, encoding="utf-8")
    plugin = (ROOT / "tools" / "quick.py").read_text(encoding="utf-8")
    (folder / "tools").mkdir(exist_ok=True)
    (folder / "tools" / "quick.py").write_text(plugin, encoding="utf-8")
    changed = "packages/esac/src/esac/es/evolution.py\npackages/esac/tests/test_c.py"
    settings = {"SEXTET_CHANGED": changed, "SEXTET_SECONDS": str(seconds), "PYTHONPATH": str(folder / "tools")}
    environment = os.environ | settings
    command = [sys.executable, "-m", "pytest", "-p", "quick", "-p", "no:cacheprovider", "-v", str(folder / "packages")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if "::" in line]
    return [" ".join(line.partition("::")[2].split()[:2]) for line in lines]


def test_the_tests_that_a_change_concerns_come_first(tmp_path: Path) -> None:
    names = ["test_of_the_changed_file PASSED", "test_of_the_changed_module PASSED", "test_last PASSED"]
    assert run_tests(tmp_path, 60) == names


def test_when_the_time_is_over_the_rest_is_skipped_and_says_so(tmp_path: Path) -> None:
    assert [line.split()[1] for line in run_tests(tmp_path, 0)] == ["PASSED", "SKIPPED", "SKIPPED"]
