"""How the benchmarks' JSON reports differ from those of a commit: ``dev.py "bench(esac)" --compare [COMMIT]``.

Without a commit, the reports of the package's last release are taken. A list of numbers counts as its median, a list of
mappings by the words in them, so that a row is compared with the same row.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import benches

UNCOMPARED = ("date", "machine", "commit", "versions")
MOST = 30  # rows of a table; the largest changes


def git(root: Path, *words: str) -> str:
    """Run git and return what it prints, empty if it fails."""
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True).stdout


def last_release(package: str, root: Path = benches.ROOT) -> str:
    """Return the newest release tag of a package, empty if there is none."""
    return git(root, "tag", "--list", f"{package}-v*", "--sort=-version:refname").partition("\n")[0]


def figures(report: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """Yield every figure of a report with the words that lead to it.

    >>> dict(figures({"rows": [{"who": "ours", "seconds": [3.0, 1.0, 2.0]}]}))
    {'rows, ours, seconds': 2.0}
    """
    if isinstance(report, bool) or report is None:
        return
    if isinstance(report, int | float):
        yield ", ".join(path), float(report)
    elif isinstance(report, dict):
        for name, value in report.items():
            if name not in UNCOMPARED:
                yield from figures(value, (*path, str(name)))
    elif isinstance(report, list) and report:
        if all(isinstance(value, int | float) for value in report):
            yield ", ".join(path), float(statistics.median(report))
            return
        for number, value in enumerate(report):
            words = [v for v in value.values() if isinstance(v, str)] if isinstance(value, dict) else [str(number)]
            yield from figures(value, (*path, *(words or [str(number)])))


def changes(
    package: str, reference: str, root: Path = benches.ROOT
) -> list[tuple[str, str, float | None, float | None]]:
    """Return report, figure, value before and value now of everything that differs; None where there is none."""
    folder = root / "packages" / package / "benchmarks" / "results"
    place = folder.relative_to(root).as_posix()
    listed = git(root, "ls-tree", "--name-only", reference, f"{place}/").split()
    names = sorted(
        {Path(name).name for name in listed if name.endswith(".json")} | {p.name for p in folder.glob("*.json")}
    )
    found = []
    for name in names:
        old = git(root, "show", f"{reference}:{place}/{name}")
        before = dict(figures(json.loads(old))) if old else {}
        now = dict(figures(json.loads((folder / name).read_text(encoding="utf-8")))) if (folder / name).exists() else {}
        for key in [*before, *(key for key in now if key not in before)]:
            if before.get(key) != now.get(key):
                found.append((name.removesuffix(".json"), key, before.get(key), now.get(key)))
    return found


def size(change: tuple[str, str, float | None, float | None]) -> float:
    """Return how large a change is, over the larger of both values; new and gone figures come last.

    >>> size(("speed", "a", 2.0, 1.0)), size(("speed", "a", None, 1.0))
    (0.5, -1.0)
    """
    _, _, before, now = change
    if before is None or now is None:
        return -1.0
    return abs(now - before) / max(abs(now), abs(before))


def summary(package: str, reference: str, root: Path = benches.ROOT) -> list[str]:
    """Return rows for the package's figures in docs/benchmarks.md: the peer's and ours, before and now."""
    lines = []
    for row in (row for row in (*benches.SPEED, *benches.WORTH) if row.package == package):
        old = git(root, "show", f"{reference}:packages/{package}/benchmarks/results/{row.report}.json")
        try:
            before = row.figures(json.loads(old)) if old else None
        except (KeyError, ValueError):  # a report of another form, or without this figure
            before = None
        for who, place in ((row.peer, 0), ("ours", 1)):
            value = None if before is None else before[place]
            lines.append(changed(f"{row.job}: {who}", value, row.figures(row.read())[place]))
    return lines


def changed(name: str, before: float | None, now: float | None) -> str:
    """Return one row of a table.

    >>> changed("x", 2.0, 1.0), changed("x", None, 1.0)
    ('| x | 2 | 1 | -50.0% |', '| x |  | 1 | new |')
    """
    cells = ["" if value is None else benches.formatted(value) for value in (before, now)]
    change = "new" if before is None else "gone" if now is None else f"{now / before - 1:+.1%}" if before else ""
    return "| " + " | ".join([name, *cells, change]) + " |"


def table(package: str, reference: str, root: Path = benches.ROOT) -> str:
    """Return the changes since a commit as Markdown tables: the summary's figures, then all reports', largest first."""
    found = changes(package, reference, root)
    if not found:
        return f"{package}: no figure differs from {reference}"
    header = ["| figure | before | now | change |", "| --- | --- | --- | --- |"]
    lines = [f"{package}, against {reference}: {len(found)} figures differ", "", *header]
    lines += [*summary(package, reference, root), "", *header]
    for report, key, before, now in sorted(found, key=size, reverse=True)[:MOST]:
        lines.append(changed(f"{report}: {key}", before, now))
    if len(found) > MOST:
        lines += ["", f"and {len(found) - MOST} smaller changes"]
    return "\n".join(lines)


def compared(package: str, reference: str = "", root: Path = benches.ROOT) -> str:
    """Return the changes since a commit or the last release, or why there is nothing to compare with."""
    chosen = reference or last_release(package, root)
    if not chosen:
        return f"{package} has no release yet: name a commit, --compare COMMIT"
    if not git(root, "rev-parse", "--verify", "--quiet", f"{chosen}^{{commit}}"):
        raise ValueError(f"there is no commit {chosen!r}")
    return table(package, chosen, root)
