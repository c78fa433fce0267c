"""CSV tables as people save them: any usual delimiter and case of the header, spaces around the values."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from sextet_common.errors import InputError, reading

IMAGE = ("path", "file", "file_name", "filename", "image_name")
"""Other names of the column ``image``."""
_DELIMITERS = ",;\t|"


class Line(NamedTuple):
    """A line of a table: its number in the file, from 1, and its trimmed values by the names of the columns."""

    number: int
    values: dict[str, str]


def read_csv(
    path: str | os.PathLike[str], aliases: Mapping[str, Collection[str]], needed: Collection[str]
) -> list[Line]:
    """Read a table with a header in UTF-8.

    ``aliases`` has the accepted names of each column, in lower case; those of ``needed`` must be there. The delimiter
    is the one with which most columns are known. Other columns are not read, and lines without any value are skipped.
    """
    path = Path(path)
    expected = f"a UTF-8 CSV table with the columns {' and '.join(needed)} in its first line"
    with reading(path, expected):
        text = path.read_text(encoding="utf-8-sig")
        header, delimiter = max(
            ((next(csv.reader(io.StringIO(text, newline=""), delimiter=each), []), each) for each in _DELIMITERS),
            key=lambda tried: sum(_column(name, aliases) is not None for name in tried[0]),
        )
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    columns = [_column(name, aliases) for name in header]
    for column in aliases:
        if columns.count(column) > 1:
            names = [name for name, known in zip(header, columns, strict=True) if known == column]
            raise InputError(
                f"{path} has the column {column} twice: {', '.join(map(repr, names))}", "every column once"
            )
        if column in needed and column not in columns:
            listed = ", ".join(repr(name.strip()) for name in header[:20])
            raise InputError(f"{path} lacks a column {column!r} among {listed or 'none'}", expected)
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise InputError(f"{path}, line {number} has {len(cells)} values", f"{len(header)}, as its first line")
        values = {name: cell.strip() for name, cell in zip(columns, cells, strict=True) if name is not None}
        rows.append(Line(number, dict.fromkeys(aliases, "") | values))
    return rows


def _column(name: str, aliases: Mapping[str, Collection[str]]) -> str | None:
    """Return the column that a name in a header stands for."""
    plain = "_".join(name.strip().lower().split())
    return next((column for column, names in aliases.items() if plain == column or plain in names), None)
