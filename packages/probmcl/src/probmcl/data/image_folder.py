"""Folders of images with metadata in Hugging Face's convention, with a list of labels for every image."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sextet_common.errors import InputError, reading

from probmcl.data.assembly import FileOptions, assemble, check_all_exist, inside
from probmcl.data.sets import MultiLabelSet

TABLES = ("metadata.jsonl", "metadata.csv")
_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_COLUMNS = ("labels", "label", "tags", "categories", "objects")
_EXPECTED = "file_name, and labels: a list of names for every image, in CSV separated by |"


def image_folder(folder: Path, options: FileOptions) -> MultiLabelSet:
    """Read a folder whose images are named in a metadata.jsonl or metadata.csv, at the top or in each part's folder.

    A row has a ``file_name``, and in ``labels`` a list of names, in CSV separated by ``|``; or ``objects`` with
    ``categories``, as for object detection. A column ``split``, or the folder of the table or of the file, is the part.
    """
    tables = [(folder / name, "") for name in TABLES if (folder / name).is_file()]
    with reading(folder, "a folder of images with metadata.jsonl or metadata.csv"):
        folders = sorted(path for path in folder.iterdir() if path.is_dir())
    for sub in folders:
        part = _PARTS.get(sub.name.lower(), "")
        tables += [(sub / name, part) for name in TABLES if part and (sub / name).is_file()]
    if not tables:
        raise InputError(f"{folder} has no metadata.jsonl or metadata.csv", _EXPECTED)
    paths: list[Path] = []
    lists: list[list[str]] = []
    parts: list[str] = []
    for table, default in tables:
        for number, row in enumerate(_rows(table), start=1):
            where = f"{table}, row {number}"
            name = str(row.get("file_name") or "")
            paths.append(inside(table.parent, name))
            lists.append(_labels(row, where))
            top = str(row.get("split") or Path(name).parts[0]).lower()
            if row.get("split") and top not in _PARTS:
                raise InputError(f"{where}: the split is {top!r}", "train, validation or test")
            parts.append(default or _PARTS.get(top, "train"))
    if len(set(paths)) < len(paths):
        raise InputError(f"{folder}: two rows name one image", "every image once")
    check_all_exist(tuple(paths))
    names = tuple(sorted({name for row in lists for name in row}))
    if not names:
        raise InputError(f"{folder} has no label", _EXPECTED)
    table_of = np.array([[name in row for name in names] for row in map(set, lists)], dtype=np.uint8)
    notes = _unused(folder, paths)
    return assemble(tuple(paths), table_of, names, parts, options, f"folder:{folder}", notes)


def _rows(path: Path) -> list[Mapping[str, Any]]:
    with reading(path, "a table with a header, or one JSON object per line"):
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            rows: list[Any] = list(csv.DictReader(io.StringIO(content, newline="")))
        else:
            rows = [json.loads(line) for line in content.split("\n") if line.strip()]
    for row in rows:
        if not isinstance(row, Mapping) or not isinstance(row.get("file_name"), str):
            raise InputError(f"{path} has the row {str(row)[:80]!r}", _EXPECTED)
    return rows


def _labels(row: Mapping[str, Any], where: str) -> list[str]:
    """Return the names of an image's labels."""
    column = next((name for name in _COLUMNS if name in row), None)
    if column is None:
        raise InputError(f"{where}: no labels", _EXPECTED)
    value = row[column]
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("categories", "category", "labels", "label") if key in value), None)
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [name for name in value.split("|") if name]
    if isinstance(value, list) and all(isinstance(name, str | int) for name in value):
        return [str(name) for name in value]
    raise InputError(f"{where}: the labels are {str(value)[:80]!r}", _EXPECTED)


def _unused(folder: Path, paths: list[Path]) -> tuple[str, ...]:
    from sextet_common.image_files import IMAGE_SUFFIXES

    known = set(paths)
    unused = [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.name.lower().endswith(IMAGE_SUFFIXES) and path not in known and path.is_file()
    ]
    if not unused:
        return ()
    return (f"{folder}: images without a row in the metadata are ignored ({len(unused)}: {unused[0]!r} ...)",)
