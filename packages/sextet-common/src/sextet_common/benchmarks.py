"""Helpers for benchmark scripts: describe the machine, store results as JSON, put tables into a README."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sextet_common import files
from sextet_common.device import describe
from sextet_common.errors import InputError


def machine() -> str:
    """Return what `device.describe` says, on one line."""
    return ", ".join(f"{name} {value}" for name, value in describe().items())


def store(folder: str | os.PathLike[str], name: str, report: Mapping[str, Any]) -> Path:
    """Write a report of plain JSON values, with the machine's description, to ``folder/results/NAME.json``."""
    path = Path(folder) / "results" / f"{name}.json"
    files.write_text(path, json.dumps({"machine": describe(), **report}, indent=1) + "\n")
    return path


def into_readme(page: str | os.PathLike[str], name: str, text: str) -> None:
    """Replace the text between ``<!-- NAME -->`` and ``<!-- /NAME -->``, each on its own line, in a Markdown file."""
    head, mark, rest = Path(page).read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition(f"<!-- /{name} -->")
    if not (mark and end):
        raise InputError(f"{page} has no markers for {name}", f"<!-- {name} --> and <!-- /{name} -->")
    files.write_text(page, f"{head}{mark}{text}\n{end}{tail}")
