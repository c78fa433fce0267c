#!/usr/bin/env python3
"""Breaks of the public interface against a commit: ``python3 tools/dev.py "api(esac)" [COMMIT]``.

The promise is the ``__all__`` of a package's ``__init__`` and nothing deeper. Without a commit, the package's last
release is compared. Every break is one line.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import bench_changes
import griffe
import workspace

BY_MODULE = ("sextet_common",)  # packages whose modules are imported by name: all of their public names count


def sources_at(root: Path, reference: str, target: Path) -> None:
    """Write the packages' sources as they were at a commit into a folder; ValueError without such a commit."""
    command = ["git", "archive", reference, ":(glob)packages/*/src/**"]
    done = subprocess.run(command, cwd=root, capture_output=True)
    if done.returncode:
        raise ValueError(f"{reference!r}: {(done.stderr.decode().strip() or 'git failed').splitlines()[0]}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(target, filter="data")


def loaded(package: workspace.Package, packages: Sequence[workspace.Package], root: Path) -> griffe.Module:
    """Read the sources of a package, and of those that it needs, below a folder, without importing them."""
    paths = [path for path in root.glob("packages/*/src") if path.is_dir()]
    loader = griffe.GriffeLoader(search_paths=paths, allow_inspection=False)
    for needed in packages:
        if any((path / needed.module).is_dir() for path in paths):
            loader.load(needed.module)
    loader.resolve_aliases(external=False)
    found = loader.modules_collection.get_member(package.module)
    assert isinstance(found, griffe.Module)
    return found


def exported(module: griffe.Module) -> list[str]:
    """Return the names in ``__all__``."""
    return sorted(str(name) for name in module.exports or ())


def described(value: object) -> str:
    """Return one side of a break in one line.

    >>> described(None), described("a  b")
    ('nothing', 'a b')
    """
    if isinstance(value, griffe.Parameter):
        default = "" if value.default is None else f" = {value.default}"
        return f"{value.name}: {value.annotation}{default}"
    if isinstance(value, griffe.Object | griffe.Alias):
        return str(value.kind.value)
    return "nothing" if value is None else " ".join(str(value).split())


def promised(module: griffe.Module) -> griffe.Module:
    """Return a module with the exported objects alone; where a module hides an object of its name, with the object."""
    found = griffe.Module(module.name)
    for name in exported(module):
        each = module.all_members.get(name)
        if each is not None and each.is_module and name in each.members:
            each = each.members[name]
        if each is not None:
            found.members[name] = each.final_target if each.is_alias else each  # its parent stays, for inherited names
    return found


def breaks(old: griffe.Module, new: griffe.Module) -> list[str]:
    """Return every break between two states of a package, one line each; moved parameters share a line."""
    if old.name not in BY_MODULE:
        old, new = promised(old), promised(new)
    found, moved = [], dict[str, list[str]]()
    members = [*new.members.items(), *old.members.items()]
    homes = {each.path: f"{old.path}.{name}" for name, each in members}
    for each in griffe.find_breaking_changes(old, new):
        details = each.as_dict()
        path = details["object_path"]
        home = next((home for home in homes if path == home or path.startswith(f"{home}.")), path)
        place = homes.get(home, path) + path.removeprefix(home)
        if each.kind is griffe.BreakageKind.PARAMETER_MOVED:
            moved.setdefault(place, []).append(each.old_value.name)
            continue
        values = f"{described(details['old_value'])} -> {described(details['new_value'])}"
        found.append(f"{place}: {each.kind.value.lower().rstrip('.')}: {values}")
    return found + [f"{place}: positional parameters were moved: {', '.join(names)}" for place, names in moved.items()]


def main(words: Sequence[str], root: Path = workspace.ROOT) -> int:
    """Run the command: 0 if nothing breaks, 1 if something does, 2 if there is nothing to compare with."""
    parser = argparse.ArgumentParser(prog="api.py", description="List the breaks of a package's public interface.")
    packages = workspace.discover(root)
    parser.add_argument("package", choices=packages, metavar="PACKAGE", help="the name below packages/")
    parser.add_argument("commit", nargs="?", help="what to compare with; by default the package's last release")
    options = parser.parse_args(words)
    package = packages[options.package]
    reference = options.commit or bench_changes.last_release(package.name, root)
    if not reference:
        print(f"{package.name} has no release yet: name a commit to compare with")
        return 0
    closure = workspace.closure(packages, package.name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            sources_at(root, reference, Path(folder))
        except ValueError as problem:
            print(f"api.py: {problem}", file=sys.stderr)
            return 2
        if not list(Path(folder).glob(f"packages/*/src/{package.module}")):
            print(f"api.py: there is no {package.name} at {reference!r}", file=sys.stderr)
            return 2
        old, new = loaded(package, closure, Path(folder)), loaded(package, closure, root)
        unread = [name for name in exported(old) if name not in old.all_members]
        found = [f"{package.module}.{name}: removed" for name in unread if name not in exported(new)] + breaks(old, new)
    print(f"{package.name}, against {reference}: {len(found) or 'no'} break{'s' * (len(found) != 1)}")
    print("".join(f"- {line}\n" for line in found), end="")
    if unread:
        print(f"names alone compared, since {reference} imports them lazily and without a stub: {', '.join(unread)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
