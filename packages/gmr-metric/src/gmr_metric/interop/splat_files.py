"""Files of 3-D Gaussian splats: .ply tables of numbers, one row per splat, through the `plyfile` library."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from sextet_common import files
from sextet_common.errors import InputError, reading, require

_EXPECTED = "a .ply file of Gaussian splats, with one element 'vertex' of numbers"
_HEADER = 2**16  # bytes that a header may have


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the columns (n,) of a .ply file's vertices by name, ASCII or binary, in their own types."""
    plyfile = require("plyfile", package="gmr-metric", extra="splats")
    with reading(path, _EXPECTED, plyfile.PlyParseError, KeyError, IndexError, UnicodeError):
        _check_header(path)
        table = plyfile.PlyData.read(os.fspath(path))["vertex"].data  # mapped into memory if binary
        return {name: table[name].astype(table.dtype[name].newbyteorder("=")) for name in table.dtype.names}


def write(path: str | os.PathLike[str], columns: Mapping[str, np.ndarray]) -> None:
    """Write columns (n,) as the vertices of a binary little-endian .ply file, whole or not at all."""
    plyfile = require("plyfile", package="gmr-metric", extra="splats")
    n = len(next(iter(columns.values())))
    table = np.empty(n, dtype=[(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        table[name] = column
    with files.replacing(path) as temporary:
        plyfile.PlyData([plyfile.PlyElement.describe(table, "vertex")], byte_order="<").write(str(temporary))


def _check_header(path: str | os.PathLike[str]) -> None:
    """Refuse what is not a table of splats, or claims more rows than the file has bytes for."""
    with open(path, "rb") as file:
        header, mark, _ = file.read(_HEADER).partition(b"end_header")
        size = os.fstat(file.fileno()).st_size
    lines = [line.split() for line in header.decode("ascii").splitlines()]
    if not mark or not lines or lines[0] != ["ply"]:
        raise InputError(f"{path} is not a .ply file", _EXPECTED)
    elements = [line for line in lines if line[:1] == ["element"]]
    properties = [line for line in lines if line[:1] == ["property"]]
    if len(elements) != 1 or elements[0][1:2] != ["vertex"] or len(elements[0]) != 3:
        named = ", ".join(" ".join(line[1:]) for line in elements) or "none"
        raise InputError(f"{path} has the elements {named}", _EXPECTED)
    if any(line[1:2] == ["list"] for line in properties):
        raise InputError(f"{path} has a list property", _EXPECTED)
    rows = int(elements[0][2])
    if not 0 < rows * max(1, len(properties)) <= size:  # a number takes a byte or more
        raise InputError(f"{path} claims {rows} splats in {size} bytes", "at least one splat, and all of them")


def stacked(columns: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Return some columns as float32, shape (n, names)."""
    missing = [name for name in names if name not in columns]
    if missing:
        raise InputError(f"property {missing[0]!r} is missing", ", ".join(names))
    with np.errstate(over="ignore"):  # infinite numbers are refused later
        return np.stack([columns[name].astype(np.float32) for name in names], axis=1)
