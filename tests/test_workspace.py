"""tools/workspace.py on invented trees, and the workspace itself against the documented architecture."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from graphlib import CycleError
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
each_package = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)

# The dependencies drawn in docs/house.md.
ARROWS = {
    "sextet-common": set(),
    "attention-matching": {"sextet-common"},
    "d2m-generator": {"attention-matching", "sextet-common"},
    "esac": {"sextet-common"},
    "gmr-metric": {"sextet-common"},
    "probmcl": {"gmr-metric", "sextet-common"},
    "subclass-kd": {"sextet-common"},
}

# Import names that differ from the distribution's name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "mpl_toolkits": "matplotlib",
    "ot": "pot",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module under test."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("workspace")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An invented workspace: roof needs walls and base, walls needs base, garden nothing; folders are unordered."""
    add_package(tmp_path, "a-roof", needs=["Walls[paint]>=2, <3", "base>=1", "numpy>=2"])
    add_package(tmp_path, "garden", needs=["numpy>=2"], extras={"pond": ["scipy>=1"]})
    add_package(tmp_path, "m.base", version="1.5.0", name="base")
    add_package(tmp_path, "walls", version="2.0.0", extras={"paint": ["base >= 1 ; python_version > '3'"]})
    return tmp_path


def add_package(
    root: Path,
    folder: str,
    *,
    name: str | None = None,
    version: str = "0.1.0",
    needs: Iterable[str] = (),
    extras: dict[str, list[str]] | None = None,
) -> None:
    """Write a package's pyproject.toml."""
    name = name or folder
    lines = ["[project]", f'name = "{name}"', f'version = "{version}"', f"dependencies = {list(needs)!r}"]
    lines += ["[project.optional-dependencies]", *(f"{extra} = {lines_!r}" for extra, lines_ in (extras or {}).items())]
    lines += ["[tool.hatch.build.targets.wheel]", f'packages = ["src/{name.replace("-", "_")}"]']
    path = root / "packages" / folder / "pyproject.toml"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines), encoding="utf-8")


def table(folder: Path) -> dict[str, Any]:
    """Return a package's pyproject.toml."""
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(folder: Path) -> list[Requirement]:
    """Return what a package declares: its dependencies and all its extras."""
    project = table(folder)["project"]
    lines = list(project.get("dependencies", ()))
    for extra in project.get("optional-dependencies", {}).values():
        lines += extra
    return [Requirement(line) for line in lines]


def imported(source: str) -> Iterator[tuple[str, int]]:
    """Yield the top-level name and the line of every absolute import anywhere in the module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0], node.lineno


def undeclared_imports(folder: Path) -> list[str]:
    """Return `file:line: name` of each import that the package's pyproject.toml does not declare."""
    declared = {canonicalize_name(requirement.name) for requirement in requirements(folder)}
    own = {path.name for path in (folder / "src").iterdir() if path.is_dir()}
    return [
        f"{path.relative_to(folder)}:{line}: {name}"
        for path in sorted(folder.glob("src/**/*.py"))
        for name, line in imported(path.read_text(encoding="utf-8"))
        if name not in own
        and name not in sys.stdlib_module_names
        and canonicalize_name(DISTRIBUTIONS.get(name, name)) not in declared
    ]


def test_packages_come_after_their_dependencies_and_otherwise_by_name(workspace: ModuleType, tree: Path) -> None:
    assert list(workspace.discover(tree)) == ["base", "garden", "walls", "a-roof"]


def test_a_package_is_read_from_its_pyproject(workspace: ModuleType, tree: Path) -> None:
    add_package(tree, "z", name="Big.House", needs=["walls>=2"], extras={"x": ["walls<4"], "all": ["big-house[x]"]})
    package = workspace.discover(tree)["big-house"]
    assert (package.name, package.version, package.extras) == ("big-house", "0.1.0", ("x", "all"))
    assert package.module == "Big.House"
    assert package.path == tree / "packages" / "z"
    assert package.pyproject == tree / "packages" / "z" / "pyproject.toml"


def test_only_workspace_packages_are_needs_and_ranges_of_extras_are_combined(workspace: ModuleType, tree: Path) -> None:
    add_package(tree, "shed", needs=["base>=1,<2", "numpy>=2"], extras={"b": ["base[x]>=1,<2"], "c": ["base!=1.7"]})
    packages = workspace.discover(tree)
    assert packages["a-roof"].needs == {"walls": ">=2,<3", "base": ">=1"}
    assert packages["garden"].needs == {}
    assert packages["shed"].needs == {"base": ">=1,<2,!=1.7"}


def test_the_closure_holds_all_dependencies_and_the_package_itself_last(workspace: ModuleType, tree: Path) -> None:
    packages = workspace.discover(tree)
    names = {name: [package.name for package in workspace.closure(packages, name)] for name in packages}
    assert names == {
        "a-roof": ["base", "walls", "a-roof"],
        "base": ["base"],
        "garden": ["garden"],
        "walls": ["base", "walls"],
    }


def test_dependants_are_the_packages_that_require_it_directly(workspace: ModuleType, tree: Path) -> None:
    packages = workspace.discover(tree)
    names = {name: {package.name for package in workspace.dependants(packages, name)} for name in packages}
    assert names == {"a-roof": set(), "base": {"a-roof", "walls"}, "garden": set(), "walls": {"a-roof"}}


@pytest.mark.parametrize("gone", ["garden", "a-roof", "walls", "m.base"])
def test_the_other_packages_are_found_when_a_folder_is_deleted(workspace: ModuleType, tree: Path, gone: str) -> None:
    before = set(workspace.discover(tree))
    shutil.rmtree(tree / "packages" / gone)
    assert set(workspace.discover(tree)) == before - {gone.removeprefix("m.")}


def test_a_cycle_of_packages_is_an_error(workspace: ModuleType, tmp_path: Path) -> None:
    add_package(tmp_path, "hen", needs=["egg"])
    add_package(tmp_path, "egg", extras={"warm": ["hen"]})
    with pytest.raises(CycleError):
        workspace.discover(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "numpy",
        "numpy>=2.0",
        "NumPy >= 2.0 , < 3",
        "sextet-common[digits,figures, images]>=0.1,<1",
        "zope.interface (>=5)",
        "A__b-.c~=1.4; python_version < '3.12'",
        "torch ; sys_platform == 'linux'",
        "x[y]",
    ],
)
def test_requirements_are_parsed_as_by_packaging(workspace: ModuleType, line: str) -> None:
    name, limits = workspace.parse_requirement(line)
    oracle = Requirement(line)
    assert name == canonicalize_name(oracle.name)
    assert Requirement(f"x{limits}").specifier == oracle.specifier


def test_an_invalid_requirement_is_an_error(workspace: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"'>=2' is not a requirement"):
        workspace.parse_requirement(">=2")


def test_editables_name_every_package_by_its_folder(workspace: ModuleType, tree: Path) -> None:
    packages = workspace.closure(workspace.discover(tree), "walls")
    assert workspace.editables(packages) == [
        *("-e", str(tree / "packages" / "m.base")),
        *("-e", str(tree / "packages" / "walls")),
    ]


def test_the_workspace_has_packages_and_discovery_finds_each_in_its_folder(workspace: ModuleType) -> None:
    assert FOLDERS
    assert sorted(package.path for package in workspace.discover().values()) == FOLDERS


def test_the_dependencies_between_packages_are_those_of_the_architecture(workspace: ModuleType) -> None:
    assert {name: set(package.needs) for name, package in workspace.discover().items()} == ARROWS


@each_package
def test_every_package_of_the_workspace_is_in_the_declared_range(folder: Path) -> None:
    versions = {table(sibling)["project"]["name"]: table(sibling)["project"]["version"] for sibling in FOLDERS}
    siblings = [line for line in requirements(folder) if line.name in versions and line.name != folder.name]
    assert [str(line) for line in siblings if not line.specifier.contains(versions[line.name])] == []


@each_package
def test_every_licence_is_a_copy_of_the_roots(folder: Path) -> None:
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@each_package
def test_every_package_has_the_files_and_fields_of_a_package(folder: Path) -> None:
    project = table(folder)["project"]
    assert project["name"] == folder.name
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "MIT"
    assert project["license-files"] == ["LICENSE"]
    assert project["readme"] == "README.md"
    assert (folder / "README.md").read_text(encoding="utf-8").strip()
    assert "## Unreleased" in (folder / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    module = folder / "src" / folder.name.replace("-", "_")
    assert (module / "__init__.py").is_file()
    assert (module / "py.typed").is_file()


@each_package
def test_every_import_is_declared_by_its_package(folder: Path) -> None:
    assert list(folder.glob("src/**/*.py"))
    assert undeclared_imports(folder) == []


def test_an_undeclared_import_is_found_anywhere_in_a_module(tmp_path: Path) -> None:
    add_package(
        tmp_path, "lodge", needs=["sextet-common[digits]>=0.1", "Scikit_Learn"], extras={"draw": ["pillow>=11"]}
    )
    module = tmp_path / "packages" / "lodge" / "src" / "lodge"
    module.mkdir(parents=True)
    (module / "__init__.py").write_text(
        "import json, lodge.inner\n"
        "from typing import TYPE_CHECKING\n"
        "from . import yaml\n"
        "import sklearn.svm, PIL.Image\n"
        "if TYPE_CHECKING:\n"
        "    from torch import Tensor\n"
        "def draw():\n"
        "    try:\n"
        "        import mpl_toolkits.mplot3d as m, sextet_common\n"
        "    except ImportError:\n"
        "        from attention_matching.losses import loss\n",
        encoding="utf-8",
    )
    assert sorted(undeclared_imports(tmp_path / "packages" / "lodge")) == [
        "src/lodge/__init__.py:11: attention_matching",
        "src/lodge/__init__.py:6: torch",
        "src/lodge/__init__.py:9: mpl_toolkits",
    ]


def lint_imports(folder: Path, imports: dict[str, set[str]]) -> str:
    """Run the root's contracts between packages on invented packages with these imports; return the report."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    for name in ARROWS:
        module = folder / name.replace("-", "_")
        module.mkdir()
        lines = [f"import {other.replace('-', '_')}" for other in sorted(imports.get(name, set()))]
        (module / "__init__.py").write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    command += ["--no-cache", *(word for c in contracts if "id" in c for word in ("--contract", c["id"]))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == int("BROKEN" in done.stdout), done.stdout + done.stderr
    return done.stdout if done.returncode else ""


def test_the_contracts_allow_every_documented_dependency(tmp_path: Path) -> None:
    assert lint_imports(tmp_path, ARROWS) == ""


@each_package
def test_the_contracts_forbid_every_other_dependency(folder: Path, tmp_path: Path) -> None:
    others = set(ARROWS) - ARROWS[folder.name] - {folder.name}
    report = lint_imports(tmp_path, {folder.name: others})
    missing = {name for name in others if f"to import {name.replace('-', '_')}" not in report}
    assert missing == set()


def test_the_dependencies_are_those_drawn_in_the_documentation() -> None:
    drawn = re.findall(r"^([\w-]+) +<- ([\w ]+|[\w-]+)$", (ROOT / "docs" / "house.md").read_text("utf-8"), re.MULTILINE)
    expected = {(to, name) for name, needs in ARROWS.items() for to in needs if to != "sextet-common"}
    assert set(drawn) == expected | {("sextet-common", "every package")}


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/imports.py."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("imports")


@each_package
def test_import_and_help_of_a_package_load_no_heavy_module(folder: Path, imports: ModuleType) -> None:
    for command in imports.commands(folder.name.replace("-", "_")):
        seconds, heavy = imports.measure(*command)
        assert seconds > 0
        assert (command, heavy) == (command, set())


def test_a_heavy_import_is_detected_at_any_depth(
    imports: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "__init__.py").write_text("from outer import inner\n", encoding="utf-8")
    (tmp_path / "outer" / "inner.py").write_text("def f():\n    import ray\nimport triton.language\n", encoding="utf-8")
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "triton" / "language.py").write_text("", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    _, heavy = imports.measure("-c", "import outer")
    assert heavy == {"triton"}


def test_environments_share_bytecode_of_the_same_files_only(workspace: ModuleType, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    sites = [place / "lib" / "python3.11" / "site-packages" for place in (one, two)]
    for site in sites:
        (site / "pack").mkdir(parents=True)
    for name in ("same", "changed", "absent"):
        (sites[0] / "pack" / f"{name}.py").write_text(f"def where(): return {name!r}, where.__code__.co_filename\n")
    os.link(sites[0] / "pack" / "same.py", sites[1] / "pack" / "same.py")  # as the installer does
    (sites[1] / "pack" / "changed.py").write_text("def where(): return 'another'\n")
    program = "import sys, pack.{0} as m; print(m.where(), end='')"

    def imported(site: Path, name: str) -> str:
        words = [sys.executable, "-X", "pycache_prefix=", "-c", program.format(name)]
        environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": ""}
        return subprocess.check_output(words, env=environment, text=True)

    for name in ("same", "changed", "absent"):
        imported(sites[0], name)
    assert workspace.share_bytecode(two, [one, tmp_path / "none"]) == 1
    assert workspace.share_bytecode(two, [one]) == 0
    (found,) = sites[1].glob("pack/__pycache__/*")
    before = found.stat().st_ino
    assert imported(sites[1], "same") == str(("same", str(sites[1] / "pack" / "same.py")))
    assert found.stat().st_ino == before  # it was read, not compiled anew
    assert imported(sites[1], "changed") == "another"
