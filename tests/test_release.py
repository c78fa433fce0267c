"""tools/release.py, run for real on scratch clones of the working tree."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENTRY = "- The similarity of two mixtures has a gradient."
IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Nobody"), ("EMAIL", "nobody@localhost"))
}

# Replaces nox in tests of what happens around the checks.
PASSING_NOX = """
import pathlib, sys
name = sys.argv[-3].removeprefix("build(").removesuffix(")")
module, table = name.replace("-", "_"), pathlib.Path("packages", name, "pyproject.toml").read_text()
version = table.split('version = "')[1].split('"')[0]
folder = pathlib.Path(".nox", "build", "tmp", "dist", name)
folder.mkdir(parents=True)
for ending in ("-py3-none-any.whl", ".tar.gz"):
    (folder / f"{module}-{version}{ending}").write_text("built")
"""


def clean_environment() -> dict[str, str]:
    """The environment without what an outer nox session or git hook has put there."""
    outer = ("NOX", "GIT_", "PYTEST_")
    names = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON", "PYTHONPATH", "TMPDIR")
    kept = {n: v for n, v in os.environ.items() if not n.startswith(outer) and n not in names}
    return kept | IDENTITY | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


@dataclass(frozen=True)
class Clone:
    """A scratch repository with the working tree's files in its only commit."""

    root: Path

    def git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=self.root, env=clean_environment(), check=True, capture_output=True, text=True
        ).stdout

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", message)

    def write(self, package: str, file: str, text: str) -> None:
        (self.root / "packages" / package / file).write_text(text, encoding="utf-8")

    def read(self, package: str, file: str) -> str:
        return (self.root / "packages" / package / file).read_bytes().decode()

    def release(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(self.root / "tools" / "release.py"), *words]
        environment = clean_environment() | dict(env or {})
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)

    def state(self) -> tuple[dict[str, bytes], str, str, str]:
        """Everything that a refused release must not change: files, dist/, commits, tags and the index."""
        listed = self.git("ls-files", "-co", "--exclude-standard").splitlines()
        files = {name: (self.root / name).read_bytes() for name in listed}
        files |= {str(p): p.read_bytes() for p in (self.root / "dist").glob("*")}
        return files, self.git("rev-parse", "HEAD"), self.git("tag"), self.git("status", "--porcelain")


def turn_back(packages: Path) -> None:
    """Give every package the version 0.1.0, ranges to match and one entry to release, so that no release breaks a test.

    gmr-metric, which is released here for real, loses its tests: how long they take is not the matter.
    """
    names = [folder.name for folder in packages.iterdir()]
    for pyproject in packages.glob("*/pyproject.toml"):
        text = re.sub(
            r'^version = ".*"$', 'version = "0.1.0"', pyproject.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        for name in names:
            limits = ">=0.1,<1" if name == "sextet-common" else ">=0.1,<0.2"
            text = re.sub(rf'"{name}(\[.*\])?[<>=~!][^"]*"', rf'"{name}\1{limits}"', text)
        pyproject.write_text(text, encoding="utf-8")
    for changelog in packages.glob("*/CHANGELOG.md"):
        changelog.write_text(f"# Changelog\n\n## Unreleased\n\n### Added\n\n{ENTRY}\n", encoding="utf-8")
    shutil.rmtree(packages / "gmr-metric" / "tests", ignore_errors=True)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which every package has one entry to release."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    original = Clone(tmp_path_factory.mktemp("original") / "clone")
    for name in listed:
        if (ROOT / name).is_file():
            (original.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, original.root / name)
    turn_back(original.root / "packages")
    original.git("init", "--quiet", "--initial-branch=main")
    original.commit("Everything")
    return original.root


@pytest.fixture
def clone(original: Path, tmp_path: Path) -> Clone:
    """A copy of that repository for one test."""
    return Clone(shutil.copytree(original, tmp_path / "clone", symlinks=True))


@pytest.fixture
def fake_nox(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Return the environment in which `python -m nox` runs the given text."""

    def make(text: str) -> dict[str, str]:
        folder = tmp_path / "fake"
        folder.mkdir()
        (folder / "nox.py").write_text(textwrap.dedent(text), encoding="utf-8")
        return {"PYTHONPATH": str(folder)}

    return make


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr that begins with the tool's name and says all of the words; exit code 1."""
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("release.py: ")
    assert [word for word in words if word not in line] == []


def with_today_masked(text: str) -> str:
    """Replace today's date, or yesterday's where midnight has just passed."""
    now = datetime.now(UTC).timestamp()
    days = {datetime.fromtimestamp(now - ago, UTC).date().isoformat() for ago in (0, 600)}
    return re.sub("|".join(days), "TODAY", text)


def test_a_dry_run_prints_every_step_and_changes_nothing(clone: Clone) -> None:
    before = clone.state()
    done = clone.release("gmr-metric", "patch", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    lines = with_today_masked(done.stdout).splitlines()
    for expected in (
        "--- a/packages/gmr-metric/pyproject.toml",
        '-version = "0.1.0"',
        '+version = "0.1.1"',
        "--- a/packages/gmr-metric/CHANGELOG.md",
        "+## 0.1.1 (TODAY)",
        "nox --stop-on-first-error -s 'tests(gmr-metric)' 'build(gmr-metric)' -- -q",
        "into dist/: gmr_metric-0.1.1-py3-none-any.whl gmr_metric-0.1.1.tar.gz",
        "git commit --quiet -m 'Release gmr-metric 0.1.1' -- "
        "packages/gmr-metric/CHANGELOG.md packages/gmr-metric/pyproject.toml",
    ):
        assert expected in lines
    (tagging,) = (number for number, line in enumerate(lines) if line.startswith("git tag --annotate "))
    assert lines[tagging:] == [
        "git tag --annotate --cleanup=whitespace -m 'gmr-metric 0.1.1",
        *["", "### Added", ""],
        f"{ENTRY}' gmr-metric-v0.1.1",
        "git push origin main gmr-metric-v0.1.1",
    ]
    assert clone.state() == before
    assert not (clone.root / ".nox").exists()
    assert not (clone.root / ".venv").exists()


@pytest.mark.parametrize(
    ("file", "shown"),
    [("LICENSE", "LICENSE"), ("packages/esac/new.txt", "packages/esac/new.txt")],
    ids=["changed", "untracked"],
)
def test_a_dirty_tree_is_refused_and_the_file_named(clone: Clone, file: str, shown: str) -> None:
    (clone.root / file).write_text("unfinished", encoding="utf-8")
    before = clone.state()
    assert_refused(clone.release("gmr-metric", "patch", "--dry-run"), "the tree is dirty", shown)
    assert_refused(clone.release("gmr-metric", "patch"), "the tree is dirty", shown)
    assert clone.state() == before


@pytest.mark.parametrize(
    ("changelog", "complaint"),
    [
        ("# Changelog\n\n## Unreleased\n", "nothing under '## Unreleased'"),
        ("# Changelog\n\n## Unreleased\n\n### Added\n\n", "nothing under '## Unreleased'"),
        ("# Changelog\n\n## Unreleased\n\n## 0.1.0 (2026-01-01)\n\n- First.\n", "nothing under '## Unreleased'"),
        ("# Changelog\n\n## 0.1.0 (2026-01-01)\n\n- First.\n", "no section '## Unreleased'"),
    ],
    ids=["at the end", "only a heading", "above a release", "no section"],
)
def test_an_empty_unreleased_section_is_refused(clone: Clone, changelog: str, complaint: str) -> None:
    clone.write("gmr-metric", "CHANGELOG.md", changelog)
    clone.commit("Nothing to say")
    before = clone.state()
    assert_refused(clone.release("gmr-metric", "patch"), complaint)
    assert clone.state() == before


def test_an_unknown_package_is_refused_and_the_known_ones_named(clone: Clone) -> None:
    known = [folder.name for folder in (clone.root / "packages").iterdir()]
    assert_refused(clone.release("gmr-matrix", "patch"), "'gmr-matrix'", *known)


@pytest.mark.parametrize("words", [(), ("gmr-metric",), ("gmr-metric", "tiny")], ids=" ".join)
def test_a_wrong_command_line_is_a_usage_error(clone: Clone, words: tuple[str, ...]) -> None:
    done = clone.release(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: release.py")


def test_an_existing_tag_is_refused(clone: Clone) -> None:
    clone.git("tag", "gmr-metric-v0.1.1")
    before = clone.state()
    assert_refused(clone.release("gmr-metric", "patch"), "the tag gmr-metric-v0.1.1 exists already")
    assert clone.state() == before


def test_a_release_without_a_branch_is_refused(clone: Clone) -> None:
    clone.git("checkout", "--quiet", "--detach")
    assert_refused(clone.release("gmr-metric", "patch"), "no branch is checked out")


def test_a_version_that_is_not_three_numbers_is_refused(clone: Clone) -> None:
    text = clone.read("gmr-metric", "pyproject.toml")
    clone.write("gmr-metric", "pyproject.toml", text.replace('"0.1.0"', '"0.1.0rc1"'))
    clone.commit("A candidate")
    assert_refused(clone.release("gmr-metric", "patch"), "'0.1.0rc1'", "X.Y.Z")


def test_a_breaking_bump_names_every_dependant_whose_range_excludes_it(clone: Clone) -> None:
    before = clone.state()
    tables = {path.parent.name: path.read_text("utf-8") for path in clone.root.glob("packages/*/pyproject.toml")}
    ranges = [f"{n} (>=0.1,<1)" for n, t in tables.items() if n != "sextet-common" and '"sextet-common' in t]
    assert len(ranges) > 1
    done = clone.release("sextet-common", "major", "--dry-run")
    assert_refused(done, "sextet-common 1.0.0 lies outside the range of", *ranges, "use --dependants")
    assert clone.state() == before


def test_only_the_dependants_that_exclude_the_version_are_named_and_can_be_made_to_require_it(clone: Clone) -> None:
    done = clone.release("gmr-metric", "minor", "--dry-run")
    assert_refused(done, "gmr-metric 0.2.0", "probmcl (>=0.1,<0.2)")
    assert "esac" not in done.stderr
    done = clone.release("gmr-metric", "minor", "--dependants", "--dry-run")
    added = re.findall(r'^\+.*"(gmr-metric.*?)"', done.stdout, flags=re.MULTILINE)
    assert done.returncode == 0 and added == ["gmr-metric[torch]>=0.2,<0.3", "gmr-metric[triton]>=0.2,<0.3"]
    assert re.search("^git commit .* packages/probmcl/pyproject.toml$", done.stdout, flags=re.MULTILINE)


def test_only_the_projects_own_version_line_is_edited(clone: Clone) -> None:
    text = clone.read("gmr-metric", "pyproject.toml")
    decoys = '[tool.decoy]\nversion = "0.1.0"\n\n[project]\ntarget-version = "0.1.0"\n'
    clone.write("gmr-metric", "pyproject.toml", text.replace("[project]\n", decoys))
    clone.commit("Other versions")
    done = clone.release("gmr-metric", "patch", "--dry-run")
    changed = [line for line in done.stdout.splitlines() if re.match(r"[-+]\S*version", line)]
    assert changed == ['-version = "0.1.0"', '+version = "0.1.1"']


@pytest.mark.slow
def test_failing_checks_are_refused_and_both_files_restored(clone: Clone) -> None:
    clone.write("gmr-metric", "src/gmr_metric/__init__.py", 'raise RuntimeError("broken on purpose")\n')
    clone.commit("Break it")
    before = clone.state()
    done = clone.release("gmr-metric", "patch")
    assert_refused(done, "the checks of gmr-metric 0.1.1 failed")
    assert "broken on purpose" in done.stdout
    assert clone.state() == before


def test_an_interrupt_during_the_checks_restores_both_files(
    clone: Clone, fake_nox: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    environment = clean_environment() | fake_nox(
        """
        import os, pathlib, time
        pathlib.Path(os.environ["STARTED"]).write_text("")
        time.sleep(100)
        """
    )
    started = tmp_path / "started"
    before = clone.state()
    process = subprocess.Popen(
        [sys.executable, str(clone.root / "tools" / "release.py"), "gmr-metric", "patch"],
        env=environment | {"STARTED": str(started)},
        # Background processes of a shell ignore Ctrl-C, and so do their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not started.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert '"0.1.1"' in clone.read("gmr-metric", "pyproject.toml")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (1, "release.py: interrupted, nothing was released\n")
    assert clone.state() == before


def test_a_tree_that_changes_during_the_checks_is_refused(
    clone: Clone, fake_nox: Callable[[str], dict[str, str]]
) -> None:
    environment = fake_nox(PASSING_NOX + 'pathlib.Path("new.txt").write_text("")\n')
    before = clone.state()
    done = clone.release("gmr-metric", "patch", env=environment)
    assert_refused(done, "the tree changed while the checks ran: new.txt")
    (clone.root / "new.txt").unlink()
    assert clone.state() == before


def test_a_build_without_an_sdist_is_refused(clone: Clone, fake_nox: Callable[[str], dict[str, str]]) -> None:
    before = clone.state()
    done = clone.release("gmr-metric", "patch", env=fake_nox(PASSING_NOX.replace(', ".tar.gz"', ",")))
    assert_refused(done, "left no gmr_metric-0.1.1.tar.gz")
    assert clone.state() == before


@pytest.mark.parametrize("step", ["commit", "tag"])
def test_a_failed_commit_or_tag_leaves_neither(
    clone: Clone, fake_nox: Callable[[str], dict[str, str]], step: str
) -> None:
    if step == "commit":
        hook = clone.root / ".git" / "hooks" / "pre-commit"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\necho not on a Friday >&2\nexit 1\n", encoding="utf-8")
        hook.chmod(0o755)
    else:
        clone.git("config", "tag.gpgSign", "true")
        clone.git("config", "gpg.program", "no-such-program")
    before = clone.state()
    done = clone.release("gmr-metric", "patch", env=fake_nox(PASSING_NOX))
    assert_refused(done, f"git {step} failed: ")
    assert clone.state() == before


def test_the_newest_of_several_builds_is_the_one_put_into_dist(
    clone: Clone, fake_nox: Callable[[str], dict[str, str]]
) -> None:
    older = clone.root / ".nox" / "z-another-package" / "tmp" / "dist" / "gmr-metric" / "gmr_metric-0.1.1.tar.gz"
    older.parent.mkdir(parents=True)
    older.write_text("stale", encoding="utf-8")
    os.utime(older, (1, 1))
    done = clone.release("gmr-metric", "patch", env=fake_nox(PASSING_NOX))
    assert done.returncode == 0, done.stderr
    assert (clone.root / "dist" / older.name).read_text(encoding="utf-8") == "built"


@pytest.mark.slow
def test_a_release_commits_two_files_tags_them_and_leaves_a_wheel_and_an_sdist(clone: Clone) -> None:
    old_head, old_text = clone.git("rev-parse", "HEAD"), clone.read("gmr-metric", "pyproject.toml")
    done = clone.release("gmr-metric", "patch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "git push origin main gmr-metric-v0.1.1"

    assert clone.git("log", "-1", "--format=%s%n%P").split("\n") == ["Release gmr-metric 0.1.1", *old_head.split("\n")]
    assert clone.git("show", "--name-only", "--format=").split() == [
        "packages/gmr-metric/CHANGELOG.md",
        "packages/gmr-metric/pyproject.toml",
    ]
    assert clone.git("status", "--porcelain") == ""
    assert clone.read("gmr-metric", "pyproject.toml") == old_text.replace('version = "0.1.0"', 'version = "0.1.1"')
    assert with_today_masked(clone.read("gmr-metric", "CHANGELOG.md")) == (
        f"# Changelog\n\n## Unreleased\n\n## 0.1.1 (TODAY)\n\n### Added\n\n{ENTRY}\n"
    )

    assert clone.git("cat-file", "-t", "gmr-metric-v0.1.1") == "tag\n"
    assert clone.git("rev-parse", "gmr-metric-v0.1.1^{commit}") == clone.git("rev-parse", "HEAD")
    message = clone.git("tag", "--list", "--format=%(contents)", "gmr-metric-v0.1.1")
    assert message.strip() == f"gmr-metric 0.1.1\n\n### Added\n\n{ENTRY}"

    wheel, sdist = sorted((clone.root / "dist").iterdir(), key=lambda path: path.suffix, reverse=True)
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read("gmr_metric-0.1.1.dist-info/METADATA").decode()
    assert {"Name: gmr-metric", "Version: 0.1.1"} <= set(metadata.splitlines())
    with tarfile.open(sdist) as archive:
        assert "gmr_metric-0.1.1/CHANGELOG.md" in archive.getnames()

    assert_refused(clone.release("gmr-metric", "patch"), "nothing under '## Unreleased'")


def test_without_packaging_the_tool_runs_again_in_the_environment_of_dev(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    release = importlib.import_module("release")
    calls: list[list[str]] = []
    monkeypatch.setattr(release, "find_spec", lambda name: None if name == "packaging" else object())
    monkeypatch.setattr(release.dev, "ensure_environment", lambda: "the interpreter")

    def call(command: list[str]) -> int:
        calls.append(command)
        return 7

    monkeypatch.setattr(release.subprocess, "call", call)
    assert release.main(["gmr-metric", "patch", "--dry-run"]) == 7
    assert calls == [["the interpreter", str(ROOT / "tools" / "release.py"), "gmr-metric", "patch", "--dry-run"]]


def test_a_broken_environment_of_dev_does_not_cause_endless_restarts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    release = importlib.import_module("release")
    monkeypatch.setattr(release, "find_spec", lambda name: None)
    monkeypatch.setattr(release.dev, "VENV", sys.prefix)
    assert release.main(["gmr-metric", "patch"]) == 1
    assert capsys.readouterr().err == f"release.py: {sys.prefix} is broken: delete it and run this again\n"
