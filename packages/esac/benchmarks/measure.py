"""What the benchmarks share: the machine's name, results as JSON, tables into the README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sextet_common import files
from sextet_common.device import describe

HERE = Path(__file__).resolve().parent


def machine() -> str:
    """Return the device's name and how many cores there are."""
    return ", ".join(f"{name} {value}" for name, value in describe().items())


def store(name: str, report: dict[str, Any]) -> None:
    """Write results/NAME.json."""
    files.write_text(HERE / "results" / f"{name}.json", json.dumps({"machine": describe(), **report}, indent=1) + "\n")


def into_readme(name: str, text: str) -> None:
    """Put a table between its marks in the package's README."""
    page = HERE.parent / "README.md"
    head, mark, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition(f"<!-- /{name} -->")
    if not (mark and end):
        raise SystemExit(f"README.md has no marks for {name}")
    files.write_text(page, f"{head}{mark}{text}\n{end}{tail}")
