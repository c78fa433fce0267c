"""tools/api.py and tools/bench_changes.py: what changed since a commit, on invented packages."""

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
IDENTITY = ["-c", "user.name=Nobody", "-c", "user.email=nobody@localhost"]
PROJECT = """[project]
name = "{name}"
version = "0.1.0"
dependencies = {needs}
[tool.hatch.build.targets.wheel]
packages = ["src/{module}"]
"""
LAZY = """import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
"""
STUB = """from .hall import Hall, build{more}

__all__ = ["Hall", "build"{names}]
"""
HALL = """from base_tool.bricks import Brick


class Hall:
    def enter(self, door: int, light: bool = True) -> None: ...

    def leave(self) -> None: ...


def build(bricks: list[Brick], height: int = 3) -> Hall: ...


def tear_down() -> None: ...
"""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("api")


@pytest.fixture
def bench_changes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("bench_changes")


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", *IDENTITY, *words], cwd=root, check=True, capture_output=True)


def write(root: Path, name: str, text: str) -> None:
    path = root / "packages" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with one commit of a package and of one that it needs."""
    write(tmp_path, "base-tool/pyproject.toml", PROJECT.format(name="base-tool", module="base_tool", needs=[]))
    write(tmp_path, "base-tool/src/base_tool/__init__.py", "")
    write(tmp_path, "base-tool/src/base_tool/bricks.py", "class Brick: ...\n")
    write(tmp_path, "house/pyproject.toml", PROJECT.format(name="house", module="house", needs=["base-tool>=0.1"]))
    write(tmp_path, "house/src/house/__init__.py", LAZY)
    write(tmp_path, "house/src/house/__init__.pyi", STUB.format(more=", tear_down", names=', "tear_down"'))
    write(tmp_path, "house/src/house/hall.py", HALL)
    write(tmp_path, "house/benchmarks/results/speed.json", json.dumps({"seconds": [3.0, 1.0, 2.0], "date": "then"}))
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "x"], ["tag", "house-v0.1.0"]):
        git(tmp_path, *words)
    return tmp_path


def lines(api: ModuleType, tree: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    code = api.main(["house", *words], tree)
    return code, capsys.readouterr().out.splitlines()


def test_an_unchanged_or_only_extended_interface_has_no_breaks(api, tree, capsys) -> None:
    longer = HALL.replace("light: bool = True", "light: bool = True, *, key: int = 0")
    write(tree, "house/src/house/hall.py", longer + "\n\ndef paint() -> None: ...\n")
    write(tree, "house/src/house/__init__.pyi", STUB.format(more=", paint, tear_down", names=', "paint", "tear_down"'))
    assert lines(api, tree, capsys) == (0, ["house, against house-v0.1.0: no breaks"])


def test_every_break_is_listed_and_what_is_not_exported_is_none(api, tree, capsys) -> None:
    write(tree, "house/src/house/__init__.pyi", STUB.format(more="", names=""))
    text = HALL.replace("height: int = 3", "height: int = 4").replace(
        "door: int, light: bool = True", "door: int, key: int"
    )
    text = text.replace("    def leave(self) -> None: ...\n", "").replace("def tear_down() -> None: ...\n", "")
    write(tree, "house/src/house/hall.py", text)
    code, printed = lines(api, tree, capsys, "HEAD")
    assert code == 1
    assert printed == [
        "house, against HEAD: 5 breaks",
        "- house.Hall.enter: parameter was removed: light: bool = True -> nothing",
        "- house.Hall.enter: parameter was added as required: nothing -> key: int",
        "- house.Hall.leave: public object was removed: function -> nothing",
        "- house.build: parameter default was changed: height: int = 3 -> height: int = 4",
        "- house.tear_down: public object was removed: function -> nothing",
    ]


def test_moved_parameters_share_a_line(api, tree, capsys) -> None:
    text = HALL.replace("self, door: int, light: bool = True", "self, light: bool = True, door: int = 0")
    write(tree, "house/src/house/hall.py", text)
    moved = [line for line in lines(api, tree, capsys)[1] if "moved" in line]
    assert moved == ["- house.Hall.enter: positional parameters were moved: door, light"]


def test_names_that_were_imported_lazily_without_a_stub_are_compared_alone_and_named(api, tree, capsys) -> None:
    write(tree, "house/src/house/__init__.py", '__all__ = ["Hall", "gone"]\n\n\ndef __getattr__(name): ...\n')
    (tree / "packages/house/src/house/__init__.pyi").unlink()
    git(tree, "commit", "--quiet", "-am", "before stubs")
    write(tree, "house/src/house/__init__.py", LAZY)
    write(tree, "house/src/house/__init__.pyi", STUB.format(more="", names=""))
    code, printed = lines(api, tree, capsys, "HEAD")
    assert code == 1 and printed[1] == "- house.gone: removed" and printed[2].endswith("without a stub: Hall, gone")


def test_without_a_release_or_with_an_unknown_commit_nothing_is_compared(api, tree, capsys) -> None:
    assert api.main(["base-tool"], tree) == 0
    assert "has no release yet" in capsys.readouterr().out
    assert api.main(["house", "nowhere"], tree) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("api.py: 'nowhere': ")


def test_changed_new_and_gone_figures_are_found_and_the_rest_is_left_out(bench_changes, tree) -> None:
    now = {"seconds": [1.0, 1.0, 5.0], "date": "now", "rows": [{"who": "ours", "mean": 2.0}]}
    write(tree, "house/benchmarks/results/speed.json", json.dumps(now))
    write(tree, "house/benchmarks/results/new.json", json.dumps({"peak": 7}))
    assert bench_changes.changes("house", "HEAD", tree) == [
        ("new", "peak", None, 7.0),
        ("speed", "seconds", 2.0, 1.0),
        ("speed", "rows, ours, mean", None, 2.0),
    ]
    table = bench_changes.compared("house", "", tree).splitlines()
    assert table[0] == "house, against house-v0.1.0: 3 figures differ"
    assert "| speed: seconds | 2 | 1 | -50.0% |" in table and "| new: peak |  | 7 | new |" in table
    (tree / "packages/house/benchmarks/results/speed.json").unlink()
    assert ("speed", "seconds", 2.0, None) in bench_changes.changes("house", "HEAD", tree)


def test_rows_are_compared_by_their_words_and_not_by_their_order(bench_changes) -> None:
    rows = [{"who": "ours", "d": 2, "s": 1.0}, {"who": "peer", "d": 2, "s": 3.0}]
    assert dict(bench_changes.figures(rows)) == dict(bench_changes.figures(rows[::-1]))


def test_equal_reports_no_release_and_an_unknown_commit_say_so(bench_changes, tree) -> None:
    assert bench_changes.compared("house", "", tree) == "house: no figure differs from house-v0.1.0"
    assert "has no release yet" in bench_changes.compared("base-tool", "", tree)
    with pytest.raises(ValueError, match="no commit 'nowhere'"):
        bench_changes.compared("house", "nowhere", tree)


def test_the_figures_of_a_summary_stand_first(bench_changes) -> None:
    printed = bench_changes.table("gmr-metric", "HEAD").splitlines()
    assert printed[0].startswith("gmr-metric: no figure") or "threshold reduction" in printed[5]
    assert any(row.startswith("| threshold reduction") for row in bench_changes.summary("gmr-metric", "HEAD"))
