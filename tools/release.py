#!/usr/bin/env python3
"""Release one package: `python3 tools/release.py gmr-metric minor --dry-run`.

Raises the version, dates the changelog, runs the package's tests and build check on the new version, copies the checked
wheel and sdist to dist/, commits and tags. A problem is reported in one line, and all files are restored. Nothing is
pushed or uploaded.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import dev
import workspace

LEVELS = ("major", "minor", "patch")
ALL_TESTS = ("--", "-q")  # without arguments the slow ones are left out
_VERSION = re.compile(r"""(^\[project\]\s*$(?:(?!^\[).)*?^version\s*=\s*["'])([^"']*)""", re.MULTILINE | re.DOTALL)
_UNRELEASED = re.compile(r"^## Unreleased\s*?$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


class Refusal(Exception):
    """The reason why no release is made, as one line."""


@dataclass(frozen=True)
class Release:
    """All steps of a release, determined before anything is changed.

    Parameters
    ----------
    root, branch
        The checkout, and the branch to commit to.
    package, version
        The package in its current state, and the version to release.
    edits
        Text of pyproject.toml and CHANGELOG.md, and of the dependants' pyproject.toml, before and after.
    notes
        The changelog's section, used as message of the tag.
    """

    root: Path
    branch: str
    package: workspace.Package
    version: str
    edits: dict[Path, tuple[str, str]]
    notes: str

    @property
    def tag(self) -> str:
        """The tag's name."""
        return f"{self.package.name}-v{self.version}"

    @property
    def paths(self) -> list[str]:
        """The changed files, relative to the repository."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.edits)

    @property
    def artefacts(self) -> list[Path]:
        """The wheel and the sdist in dist/."""
        stem = f"{self.package.module}-{self.version}"
        return [self.root / "dist" / f"{stem}{ending}" for ending in ("-py3-none-any.whl", ".tar.gz")]

    @property
    def commands(self) -> tuple[list[str], list[str], list[str]]:
        """The checks, the commit of the changed files, and the tag (`whitespace` keeps the headings in the notes)."""
        title = f"{self.package.name} {self.version}"
        return (
            [
                *("nox", "--stop-on-first-error", "-s", f"tests({self.package.name})", f"build({self.package.name})"),
                *ALL_TESTS,
            ],
            ["git", "commit", "--quiet", "-m", f"Release {title}", "--", *self.paths],
            ["git", "tag", "--annotate", "--cleanup=whitespace", "-m", f"{title}\n\n{self.notes}", self.tag],
        )


def git(root: Path, *arguments: str) -> str:
    """Run git and return its output; an error becomes a Refusal."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise Refusal(f"git {arguments[0]} failed: {reason}")
    return done.stdout


def changed_files(root: Path) -> list[str]:
    """Return the paths that differ from the last commit, including new files."""
    return sorted(line[3:] for line in git(root, "status", "--porcelain", "--untracked-files=all").splitlines())


def next_version(current: str, level: str) -> str:
    """Raise one part of a version and set those after it to zero.

    >>> next_version("0.1.9", "patch"), next_version("0.1.9", "minor"), next_version("0.1.9", "major")
    ('0.1.10', '0.2.0', '1.0.0')
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", current):
        raise Refusal(f"the version {current!r} is not of the form X.Y.Z")
    place = LEVELS.index(level)
    numbers = [int(part) for part in current.split(".")]
    return ".".join(map(str, [*numbers[:place], numbers[place] + 1, *[0] * (2 - place)]))


def bump(pyproject: str, version: str) -> str:
    """Replace only the version in the [project] table of a pyproject.toml."""
    text = _VERSION.sub(rf"\g<1>{version}", pyproject, count=1)
    if tomllib.loads(text)["project"]["version"] != version:
        raise Refusal('pyproject.toml has no line `version = "..."` below [project]')
    return text


def date_changelog(changelog: str, version: str, date: str) -> tuple[str, str]:
    r"""Give the Unreleased section a version and a date; return the new text and the section's content.

    >>> date_changelog("## Unreleased\n\n- Faster.\n", "0.2.0", "2026-01-31")
    ('## Unreleased\n\n## 0.2.0 (2026-01-31)\n\n- Faster.\n', '- Faster.')
    """
    section = _UNRELEASED.search(changelog)
    if section is None:
        raise Refusal("CHANGELOG.md has no section '## Unreleased'")
    if not re.search(r"^\s*[^#\s]", section[1], re.MULTILINE):
        raise Refusal("CHANGELOG.md has nothing under '## Unreleased': write there what is new and commit it")
    heading = f"## Unreleased\n\n## {version} ({date})"
    return changelog[: section.start()] + heading + changelog[section.start(1) :], section[1].strip()


def excluding(packages: dict[str, workspace.Package], name: str, version: str) -> list[str]:
    """Return the dependants whose version range excludes a version, each with its range."""
    from packaging.specifiers import SpecifierSet

    ranges = {package.name: package.needs[name] for package in workspace.dependants(packages, name)}
    return [f"{n} ({r})" for n, r in ranges.items() if not SpecifierSet(r).contains(version, prereleases=True)]


def require_release(pyproject: str, name: str, version: str) -> str:
    """Make the ranges of one dependency begin with a version, and end after its minor release if they ended before it.

    >>> require_release('needs = ["gmr-metric[torch]>=0.1,<0.2", "sextet-common>=0.1,<1"]', "gmr-metric", "0.2.1")
    'needs = ["gmr-metric[torch]>=0.2.1,<0.3", "sextet-common>=0.1,<1"]'
    """
    from packaging.version import Version

    def moved(found: re.Match[str]) -> str:
        end = found[2] if Version(version) < Version(found[2]) else next_version(version, "minor").removesuffix(".0")
        return f"{found[1]}>={version.removesuffix('.0')},<{end}"

    return re.sub(rf"""(?<=["'])({re.escape(name)}(?:\[[^\]]*\])?)>=[\d.]+,<([\d.]+)""", moved, pyproject)


def plan(root: Path, name: str, level: str, *, dependants: bool = False) -> Release:
    """Determine the steps of a release without changing anything; raise Refusal if it is not possible.

    With ``dependants``, the packages that need this one require the new version from then on.
    """
    packages = workspace.discover(root)
    if name not in packages:
        raise Refusal(f"there is no package {name!r}: one of {', '.join(sorted(packages))}")
    if changed := changed_files(root):
        raise Refusal(
            f"the tree is dirty, commit or stash first: {', '.join(changed[:3])}{', ...' * (len(changed) > 3)}"
        )
    branch = git(root, "branch", "--show-current").strip()
    if not branch:
        raise Refusal("no branch is checked out: the release's commit would belong to none")
    package = packages[name]
    version = next_version(package.version, level)
    changelog = package.path / "CHANGELOG.md"
    old = {path: path.read_bytes().decode() for path in (package.pyproject, changelog)}
    text, notes = date_changelog(old[changelog], version, datetime.now(UTC).date().isoformat())
    new = {package.pyproject: bump(old[package.pyproject], version), changelog: text}
    for other in workspace.dependants(packages, name) if dependants else ():
        old[other.pyproject] = other.pyproject.read_bytes().decode()
        new[other.pyproject] = require_release(old[other.pyproject], name, version)
    release = Release(root, branch, package, version, {path: (old[path], new[path]) for path in old}, notes)
    if git(root, "tag", "--list", release.tag):
        raise Refusal(f"the tag {release.tag} exists already")
    if not dependants and (narrow := excluding(packages, name, version)):
        raise Refusal(f"{name} {version} lies outside the range of {', '.join(narrow)}: use --dependants")
    return release


def show(release: Release) -> None:
    """Print every step of a release."""
    for path, (before, after) in release.edits.items():
        file = path.relative_to(release.root).as_posix()
        lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"a/{file}", f"b/{file}")
        print("".join(lines))
    checks, commit, tagging = release.commands
    print(shlex.join(checks))
    print("into dist/:", *(path.name for path in release.artefacts))
    print(shlex.join(commit))
    print(shlex.join(tagging))


def run_checks(release: Release) -> None:
    """Run the nox sessions on the new version and copy the checked artefacts to dist/."""
    command = [sys.executable, "-m", "nox", "--envdir", str(release.root / ".nox"), *release.commands[0][1:]]
    environment = dev.environment_for_uv(os.environ)
    if subprocess.run(command, cwd=release.root, env=environment, stderr=subprocess.STDOUT).returncode:
        raise Refusal(f"the checks of {release.package.name} {release.version} failed, see above")
    if (changed := changed_files(release.root)) != release.paths:
        raise Refusal(f"the tree changed while the checks ran: {', '.join(set(changed) ^ set(release.paths))}")
    for target in release.artefacts:
        # Build sessions of other packages also create this file: the newest one was just checked.
        builds = release.root.glob(f".nox/*/tmp/dist/{release.package.name}/{target.name}")
        newest = max(builds, key=lambda path: path.stat().st_mtime_ns, default=None)
        if newest is None:
            raise Refusal(f"the build session has left no {target.name}")
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(newest, target)


def commit_and_tag(release: Release) -> None:
    """Create the commit and its tag, or neither."""
    _, commit, tagging = release.commands
    git(release.root, *commit[1:])
    try:
        git(release.root, *tagging[1:])
    except BaseException:
        git(release.root, "reset", "--quiet", "HEAD~1")
        raise


def carry_out(release: Release) -> None:
    """Raise the version, check, commit and tag; on failure or interruption restore everything."""
    try:
        for path, (_, after) in release.edits.items():
            path.write_bytes(after.encode())
        run_checks(release)
        commit_and_tag(release)
    except BaseException:
        for path, (before, _) in release.edits.items():
            path.write_bytes(before.encode())
        for path in release.artefacts:
            path.unlink(missing_ok=True)
        raise


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="release.py", description="Bump, check, commit and tag one package.")
    parser.add_argument("package", metavar="PACKAGE", help="the name below packages/, gmr-metric")
    parser.add_argument("level", choices=LEVELS, help="the part of the version to raise")
    parser.add_argument("--dry-run", action="store_true", help="print every step without doing it")
    parser.add_argument("--dependants", action="store_true", help="let the packages that need this one require it")
    options = parser.parse_args(words)
    try:
        if not (find_spec("nox") and find_spec("packaging")):
            if Path(sys.prefix).resolve() == Path(dev.VENV).resolve():
                raise Refusal(f"{dev.VENV} is broken: delete it and run this again")
            return subprocess.call([dev.ensure_environment(), __file__, *words])
        release = plan(workspace.ROOT, options.package, options.level, dependants=options.dependants)
        if options.dry_run:
            show(release)
        else:
            carry_out(release)
            print(f"released {release.package.name} {release.version}, in dist/ and here; to make it public:")
        print(f"git push origin {release.branch} {release.tag}")
        return 0
    except (Refusal, dev.Problem, OSError) as error:
        print(f"release.py: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("release.py: interrupted, nothing was released", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
