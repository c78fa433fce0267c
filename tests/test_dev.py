"""tools/dev.py on a copy of the tools: the repository's own .venv is neither read nor written."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOXFILE = (ROOT / "noxfile.py").read_text(encoding="utf-8")
SESSIONS = re.findall(r"^@nox\.session.*\n(?:@.*\n)*def (\w+)", NOXFILE, re.MULTILINE)
SETTINGS = ("PIP_", "UV_", "NOX", "PYTHON", "SSL_CERT_FILE", "ALL_PROXY", "VIRTUAL_ENV")
PACKAGES = ("esac", "gmr-metric", "probmcl")
UNREACHABLE = "http://127.0.0.1:9/simple"  # the discard port: nothing answers there

# Settings of pip and their equivalents for uv.
SETTINGS_OF_PIP: list[tuple[dict[str, str], dict[str, str]]] = [
    ({"PIP_INDEX_URL": "https://a/simple"}, {"UV_DEFAULT_INDEX": "https://a/simple"}),
    (
        {"PIP_EXTRA_INDEX_URL": "https://a https://b"},
        {"UV_INDEX": "https://a https://b", "UV_INDEX_STRATEGY": "unsafe-best-match"},
    ),
    ({"PIP_FIND_LINKS": "wheels\n  more"}, {"UV_FIND_LINKS": "wheels,more"}),
    ({"PIP_NO_INDEX": "1"}, {"UV_OFFLINE": "1"}),
    ({"PIP_CERT": "ca.pem"}, {"SSL_CERT_FILE": "ca.pem"}),
    ({"PIP_PROXY": "http://p:1"}, {"ALL_PROXY": "http://p:1"}),
    ({"PIP_TRUSTED_HOST": "a b"}, {"UV_INSECURE_HOST": "a b"}),
    ({"PIP_DEFAULT_TIMEOUT": "180"}, {"UV_HTTP_TIMEOUT": "180"}),
    ({"PIP_CONSTRAINT": "c.txt"}, {"UV_CONSTRAINT": "c.txt"}),
    ({"PIP_INDEX_URL": "https://a", "UV_DEFAULT_INDEX": "https://b"}, {}),
    ({"PIP_EXTRA_INDEX_URL": "https://a", "UV_INDEX": "b", "UV_INDEX_STRATEGY": "first-index"}, {}),
    ({"PIP_NO_INDEX": "", "PIP_INDEX_URL": ""}, {}),
    ({"PIP_QUIET": "1", "HOME": "here"}, {}),
]


def clean_environment() -> dict[str, str]:
    """Return the environment without settings of pip, uv, nox or python."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}


def succeeds(*command: str) -> bool:
    """Return whether a command can be run and exits with 0."""
    try:
        return subprocess.run(command, env=clean_environment(), capture_output=True).returncode == 0
    except OSError:
        return False


def old_interpreters() -> list[str]:
    """Find interpreters on this machine that are too old for Sextet."""
    installed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    old = ["2.7", *(f"3.{minor}" for minor in range(6, 11))]
    found = [str(path) for version in old for path in sorted(installed.glob(f"{version}.*/bin/python"))]
    named = (shutil.which(f"python{version}") for version in ("2.7", "3.8", "3.9", "3.10"))
    return [python for python in (*found, *filter(None, named)) if succeeds(python, "--version")]


def python_with_pip() -> str | None:
    """Find an interpreter that has pip: an environment made by uv has none."""
    candidates = (sys.executable, getattr(sys, "_base_executable", None), shutil.which("python3"))
    question = "import pip, sys; sys.exit(sys.version_info < (3, 11))"
    return next((python for python in candidates if python and succeeds(python, "-c", question)), None)


PYTHON_WITH_PIP = python_with_pip()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with tools/, the noxfile and names of packages, and nothing else."""
    root = tmp_path / "copy"
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "noxfile.py", root)
    for name in PACKAGES:
        (root / "packages" / name).mkdir(parents=True)
        (root / "packages" / name / "pyproject.toml").touch()
    return root


@pytest.fixture
def dev(copy: Path) -> ModuleType:
    """The copy's dev.py as a module: its paths lie in the copy."""
    spec = importlib.util.spec_from_file_location("dev_in_a_copy", copy / "tools" / "dev.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert Path(module.VENV) == copy / ".venv"
    return module


def run(
    copy: Path, *words: str, python: str = sys.executable, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the copy's dev.py."""
    environment = clean_environment() | dict(env or {})
    command = [python, str(copy / "tools" / "dev.py"), *words]
    return subprocess.run(command, env=environment, cwd=copy, capture_output=True, text=True)


def refusal_lines(stderr: str) -> list[str]:
    """Return the lines of an error, without the one that announces the environment."""
    return [line for line in stderr.splitlines() if line != "making .venv with nox and uv ..."]


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["-h"], 0), (["help"], 0), ([], 2)], ids=str)
def test_help_lists_every_session_and_makes_no_environment(copy: Path, words: list[str], code: int) -> None:
    assert len(SESSIONS) > 5
    done = run(copy, *words)
    assert (done.returncode, done.stderr) == (code, "")
    listed = re.findall(r"^  (\w+) +\S", done.stdout, re.MULTILINE)
    assert sorted(listed) == sorted([*SESSIONS, "test"])
    assert not (copy / ".venv").exists()


def test_an_unknown_session_is_one_line_and_makes_no_environment(copy: Path) -> None:
    done = run(copy, "tset")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("dev.py: there is no session 'tset': one of demo, test, ")
    assert [name for name in SESSIONS if name not in line] == []
    assert not (copy / ".venv").exists()


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("tset", "test"),
        ("qick", "quick"),
        ("tests(gmr)", "tests(gmr-metric)"),
        ("tests(gmr-metrik)", "tests(gmr-metric)"),
        ("tests(esac", "tests(esac)"),
        ("test(esac)", "tests(esac)"),
        ("lint(esac)", "lint"),
        ("bench(nobody)", None),
        ("zzz", None),
    ],
)
def test_a_mistyped_session_suggests_the_one_that_was_meant(copy: Path, word: str, meant: str | None) -> None:
    done = run(copy, word)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"dev.py: there is no session {word!r}: ")
    assert line.endswith(f"; did you mean {meant!r}?") if meant else "did you mean" not in line
    assert ("nobody" in word) <= all(name in line for name in PACKAGES)
    assert not (copy / ".venv").exists()


def test_caches_are_in_the_project_only_if_the_home_folder_cannot_be_written(
    dev: ModuleType, copy: Path, tmp_path: Path
) -> None:
    for place in ({"HOME": str(tmp_path)}, {"HOME": os.devnull, "XDG_CACHE_HOME": str(tmp_path / "caches")}):
        assert dev.with_caches(place) == place
    closed = dev.with_caches({"HOME": os.devnull, "UV_CACHE_DIR": "mine"})
    assert closed.pop("HOME") == os.devnull and closed.pop("UV_CACHE_DIR") == "mine"
    assert "XDG_CACHE_HOME" in closed and all(
        Path(folder).is_relative_to(copy / ".cache") for folder in closed.values()
    )
    assert ".cache/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_uv_installs_with_a_home_folder_that_cannot_be_written(dev: ModuleType, copy: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--no-config",
        "--no-index",
        "--target",
        str(tmp_path / "t"),
    ]
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text('[project]\nname = "nothing-at-all"\nversion = "1"\n', encoding="utf-8")
    environment = dev.with_caches(clean_environment() | {"HOME": os.devnull})
    subprocess.run([*command, "--dry-run", str(project)], env=environment, check=True, capture_output=True)
    assert (copy / ".cache" / "uv").is_dir()


@pytest.mark.parametrize(
    ("found", "hint"),
    [("python3.12", "run it with python3.12"), (None, "install a newer python first")],
    ids=["a newer one is there", "none is there"],
)
def test_an_old_interpreter_gets_one_line_with_a_suggestion(
    dev: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: str | None,
    hint: str,
) -> None:
    monkeypatch.setattr(dev, "sys", SimpleNamespace(version_info=(3, 10, 13, "final", 0), stderr=sys.stderr))
    monkeypatch.setattr(dev.os, "access", lambda path, mode: os.path.basename(path) == found)
    assert dev.main(["lint"]) == 1
    line = f"dev.py: python 3.10.13 is too old: Sextet needs python >= 3.11 ({hint})\n"
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("python", old_interpreters())
@pytest.mark.parametrize("session", ["lint", "tset", "--help"])
def test_a_real_old_interpreter_reads_the_file_and_refuses(copy: Path, python: str, session: str) -> None:
    done = run(copy, session, python=python)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"dev\.py: python [23]\.\d+\.\d+ is too old: Sextet needs python >= 3\.11 \(.*\)\n", done.stderr
    )
    assert not (copy / ".venv").exists()


def test_a_nearly_full_disk_is_one_line_before_anything_is_created(
    dev: ModuleType, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dev.shutil, "disk_usage", lambda path: SimpleNamespace(free=1.5 * 1024**3))
    assert dev.main(["lint"]) == 1
    assert capsys.readouterr().err == (
        "dev.py: the disk is nearly full: 1.5 GB are free here, the packages' environments need about 8 GB\n"
    )
    assert not (copy / ".venv").exists()


@pytest.mark.parametrize("step", ["making the environment", "running pip"])
def test_a_disk_that_fills_up_is_one_line_and_leaves_no_environment(
    dev: ModuleType, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    monkeypatch.setattr(dev.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))

    def half_made(path: str, **_: object) -> NoReturn:
        (Path(path) / "bin").mkdir(parents=True)
        raise OSError(errno.ENOSPC, "No space left on device")

    def failing_pip(command: list[str], **_: object) -> Any:
        output = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
        return SimpleNamespace(returncode=1, stdout=output)

    if step == "running pip":
        monkeypatch.setattr(dev.subprocess, "run", failing_pip)
    else:
        monkeypatch.setattr("venv.create", half_made)
    assert dev.main(["lint"]) == 1
    (line,) = refusal_lines(capsys.readouterr().err)
    assert line.startswith("dev.py: the disk is full: free ")
    assert not (copy / ".venv").exists()


def test_an_interrupted_installation_leaves_no_environment(
    dev: ModuleType, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(command: list[str], **_: object) -> NoReturn:
        assert (copy / ".venv").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(dev.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))
    monkeypatch.setattr(dev.subprocess, "run", interrupted)
    assert dev.main(["lint"]) == 130
    assert not (copy / ".venv").exists()


@pytest.mark.skipif(PYTHON_WITH_PIP is None, reason="no interpreter with pip on this machine")
def test_without_a_network_the_first_call_is_one_line_and_leaves_no_environment(copy: Path) -> None:
    settings = {"PIP_INDEX_URL": UNREACHABLE, "PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "*"}
    done = run(copy, "lint", python=PYTHON_WITH_PIP or "", env=settings)
    assert (done.returncode, done.stdout) == (1, "")
    assert refusal_lines(done.stderr) == [
        "dev.py: the package index cannot be reached: check the network, or set PIP_INDEX_URL or HTTPS_PROXY"
    ]
    assert not (copy / ".venv").exists()


def test_a_python_without_pip_is_one_line_and_leaves_no_environment(copy: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    done = run(copy, "lint", python=str(tmp_path / "bare" / "bin" / "python"))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = refusal_lines(done.stderr)
    assert line.startswith("dev.py: this python has no pip: ")
    assert not (copy / ".venv").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    SETTINGS_OF_PIP,
    ids=lambda value: " ".join(value) or "nothing",
)
def test_settings_of_pip_are_translated_to_uv(dev: ModuleType, given: dict[str, str], expected: dict[str, str]) -> None:
    before = dict(given)
    assert dev.environment_for_uv(given) == before | expected
    assert given == before


def test_every_setting_of_pip_in_the_table_is_tested_above(dev: ModuleType) -> None:
    assert set(dev.PIP_TO_UV) <= {name for given, _ in SETTINGS_OF_PIP for name in given}


def test_uv_obeys_the_translated_settings(dev: ModuleType, tmp_path: Path) -> None:
    """With PIP_NO_INDEX and PIP_FIND_LINKS, uv uses a wheel from the folder and no index."""
    name = "nothing_at_all-1.0"
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: nothing-at-all\nVersion: 1.0\n")
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    settings = {"PIP_INDEX_URL": UNREACHABLE, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--dry-run",
        "--no-config",
        "--target",
        str(tmp_path / "target"),
    ]
    environment = dev.environment_for_uv(clean_environment() | {"UV_CACHE_DIR": str(tmp_path / "cache")} | settings)
    done = subprocess.run([*command, "nothing-at-all"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "+ nothing-at-all==1.0" in done.stderr


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("WARNING: x\nNewConnectionError(...): Failed\nERROR: No matching distribution", "the package index cannot be"),
        ("OSError: [Errno 28] No space left on device\nMax retries exceeded", "the disk is full"),
        ("/usr/bin/python3: No module named pip", "this python has no pip"),
        ("Looking\nERROR: first\n  ERROR: No matching distribution for nox==1\n\n", "ERROR: No matching distribution"),
        ("\n  something odd \n\n", "something odd"),
        ("", "pip said nothing"),
    ],
)
def test_a_failed_installation_is_reported_in_one_line(dev: ModuleType, output: str, cause: str) -> None:
    assert dev.reason_in(output).startswith(cause)
    assert len(dev.reason_in(output).splitlines()) == 1


def finished_environment(dev: ModuleType, copy: Path, tmp_path: Path) -> dict[str, str]:
    """Put a .venv into the copy that only records how it is called; return an environment in which pip cannot run."""
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" "UV_DEFAULT_INDEX=$UV_DEFAULT_INDEX" "PATH=$PATH"\nexit 3\n', encoding="utf-8"
    )
    python.chmod(0o755)
    Path(dev.STAMP).write_text(dev.wanted_stamp(), encoding="utf-8")
    (tmp_path / "no_pip").mkdir()
    (tmp_path / "no_pip" / "pip.py").write_text("raise SystemExit('ERROR: pip was run')", encoding="utf-8")
    return {"PYTHONPATH": str(tmp_path / "no_pip"), "PATH": str(tmp_path / "no_pip"), "PIP_INDEX_URL": UNREACHABLE}


def test_a_second_call_creates_nothing_and_runs_nox(dev: ModuleType, copy: Path, tmp_path: Path) -> None:
    environment = finished_environment(dev, copy, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (copy / ".venv").rglob("*")}
    done = run(copy, "tests(gmr-metric)", "-k", "merge", env=environment)
    assert (done.returncode, done.stderr) == (3, "")
    expected = ["-m", "nox", "--noxfile", str(copy / "noxfile.py"), "--session", "tests(gmr-metric)", "--"]
    assert done.stdout.splitlines() == [
        *expected,
        *("-k", "merge", f"UV_DEFAULT_INDEX={UNREACHABLE}"),
        f"PATH={copy / '.venv' / 'bin'}{os.pathsep}{environment['PATH']}",
    ]
    assert {path: path.stat().st_mtime_ns for path in (copy / ".venv").rglob("*")} == before


@pytest.mark.parametrize("stale", ["other pins", "another python", "no stamp", "no interpreter"])
def test_an_outdated_environment_is_recreated(dev: ModuleType, copy: Path, tmp_path: Path, stale: str) -> None:
    environment = finished_environment(dev, copy, tmp_path)
    stamp = Path(dev.STAMP)
    if stale == "other pins":
        (copy / "tools" / "requirements.txt").write_text("nox==1\n", encoding="utf-8")
    elif stale == "another python":
        stamp.write_text(stamp.read_text("utf-8").replace("python 3.", "python 2."), encoding="utf-8")
    elif stale == "no stamp":
        stamp.unlink()
    else:
        (copy / ".venv" / "bin" / "python").unlink()
    done = run(copy, "lint", env=environment)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["making .venv with nox and uv ...", "dev.py: ERROR: pip was run"]
    assert not (copy / ".venv").exists()


def test_a_finished_installation_is_stamped_and_used_by_the_next_call(
    dev: ModuleType, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def passing_pip(command: list[str], **_: object) -> Any:
        calls.append(command)
        return SimpleNamespace(returncode=0, stdout="")

    monkeypatch.setattr(dev.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))
    monkeypatch.setattr(dev.subprocess, "run", passing_pip)
    python = str(copy / ".venv" / "bin" / "python")
    assert [dev.ensure_environment(), dev.ensure_environment()] == [python, python]
    (command,) = calls
    assert command[:5] == [sys.executable, "-m", "pip", "--python", python]
    assert command[-2:] == ["-r", str(copy / "tools" / "requirements.txt")]


def test_a_disk_that_nox_filled_is_reported(
    dev: ModuleType, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_environment(dev, copy, tmp_path)
    monkeypatch.setattr(dev.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    monkeypatch.setattr(dev.subprocess, "call", lambda command, **_: 1)
    assert dev.main(["lint"]) == 1
    assert capsys.readouterr().err == "dev.py: the disk is full: free some space and run this again\n"


def test_the_test_command_runs_every_check_of_the_noxfile(dev: ModuleType) -> None:
    assert dev.nox_arguments(["test"]) == []
    assert dev.nox_arguments(["test", "--", "-x"]) == ["--", "-x"]
    assert dev.nox_arguments(["bench(esac)"]) == ["--session", "bench(esac)"]
