"""What benchmark scripts share: the machine in words, results as JSON, tables between their marks in a README."""

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
    """Return :func:`sextet_common.device.describe` in one line, for below a table.

    Examples
    --------
    >>> "cores" in machine()
    True
    """
    return ", ".join(f"{name} {value}" for name, value in describe().items())


def store(folder: str | os.PathLike[str], name: str, report: Mapping[str, Any]) -> Path:
    """Write a report, with the machine it is from, as results/NAME.json.

    Parameters
    ----------
    folder
        Where ``results`` is, or will be: the folder of the scripts.
    name
        The benchmark's name.
    report
        Plain JSON values.

    Returns
    -------
    Path
        The file.

    Examples
    --------
    >>> import tempfile
    >>> path = store(tempfile.mkdtemp(), "speed", {"seconds": 1.5})
    >>> path.name, json.loads(path.read_text())["seconds"]
    ('speed.json', 1.5)
    """
    path = Path(folder) / "results" / f"{name}.json"
    files.write_text(path, json.dumps({"machine": describe(), **report}, indent=1) + "\n")
    return path


def into_readme(page: str | os.PathLike[str], name: str, text: str) -> None:
    r"""Put a table between its marks, ``<!-- NAME -->`` and ``<!-- /NAME -->``, on lines of their own.

    Parameters
    ----------
    page
        The Markdown file.
    name
        The marks' name.
    text
        What stands between them afterwards.

    Raises
    ------
    InputError
        Where the page has no such marks; it is then left as it is.

    Examples
    --------
    >>> import tempfile
    >>> page = Path(tempfile.mkdtemp()) / "README.md"
    >>> _ = page.write_text("Speed\n<!-- speed -->\nold\n<!-- /speed -->\nEnd\n")
    >>> into_readme(page, "speed", "new")
    >>> page.read_text().splitlines()
    ['Speed', '<!-- speed -->', 'new', '<!-- /speed -->', 'End']
    """
    head, mark, rest = Path(page).read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition(f"<!-- /{name} -->")
    if not (mark and end):
        raise InputError(f"{page} has no marks for {name}", f"<!-- {name} --> and <!-- /{name} -->")
    files.write_text(page, f"{head}{mark}{text}\n{end}{tail}")
