"""Files of 3-D Gaussian splats: .ply tables of numbers, one row per splat, through the `plyfile` library."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sextet_common import files
from sextet_common.errors import InputError, reading, require

_EXPECTED = "a .ply file of Gaussian splats, with one element 'vertex' of numbers"
_POSITION, _NORMAL = ("x", "y", "z"), ("nx", "ny", "nz")
_ROTATION, _SCALE = ("rot_0", "rot_1", "rot_2", "rot_3"), ("scale_0", "scale_1", "scale_2")
_COLOUR = ("f_dc_0", "f_dc_1", "f_dc_2")
_HEADER = 2**16  # bytes that a header may have


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the arrays of a .ply file, ASCII or binary, by the names of their fields in `Splats`."""
    plyfile = require("plyfile", package="gmr-metric", extra="splats")
    with reading(path, _EXPECTED, plyfile.PlyParseError, KeyError, IndexError, UnicodeError):
        _check_header(path)
        table = plyfile.PlyData.read(os.fspath(path))["vertex"].data  # mapped into memory if binary
        columns = {name: table[name].astype(table.dtype[name].newbyteorder("=")) for name in table.dtype.names}
    rest = [f"f_rest_{k}" for k in range(sum(name.startswith("f_rest_") for name in columns))]
    if len(rest) not in (0, 9, 24, 45):
        raise InputError(f"there are {len(rest)} properties f_rest_*", "0, 9, 24 or 45, for degrees 0 to 3")
    harmonics = _stacked(columns, _COLOUR)[:, None]
    if rest:  # all coefficients of red, then of green, then of blue
        others = _stacked(columns, rest).reshape(len(harmonics), 3, -1)
        harmonics = np.concatenate([harmonics, np.swapaxes(others, 1, 2)], axis=1)
    known = {*_POSITION, *_ROTATION, *_SCALE, *_COLOUR, *rest, "opacity"}
    return {
        "positions": _stacked(columns, _POSITION),
        "rotations": _stacked(columns, _ROTATION),
        "log_scales": _stacked(columns, _SCALE),
        "logits": _stacked(columns, ("opacity",))[:, 0],
        "harmonics": harmonics,
        "extra": {name: column for name, column in columns.items() if name not in known},
    }


def write(
    path: str | os.PathLike[str],
    positions: np.ndarray,
    rotations: np.ndarray,
    log_scales: np.ndarray,
    logits: np.ndarray,
    harmonics: np.ndarray,
    extra: Mapping[str, np.ndarray],
) -> None:
    """Write the fields of `Splats` to a binary little-endian .ply file, whole or not at all."""
    plyfile = require("plyfile", package="gmr-metric", extra="splats")
    n = len(positions)
    rest = np.swapaxes(harmonics[:, 1:], 1, 2).reshape(n, -1)
    columns = dict(zip(_POSITION, positions.T, strict=True))
    columns |= {name: extra.get(name, np.zeros(n, dtype=np.float32)) for name in _NORMAL}
    columns |= dict(zip(_COLOUR, harmonics[:, 0].T, strict=True))
    columns |= {f"f_rest_{k}": column for k, column in enumerate(rest.T)}
    columns |= {"opacity": logits}
    columns |= dict(zip(_SCALE, log_scales.T, strict=True))
    columns |= dict(zip(_ROTATION, rotations.T, strict=True))
    columns |= {name: column for name, column in extra.items() if name not in columns}
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


def _stacked(columns: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Return some columns as float32, shape (n, names)."""
    missing = [name for name in names if name not in columns]
    if missing:
        raise InputError(f"property {missing[0]!r} is missing", ", ".join(names))
    with np.errstate(over="ignore"):  # infinite numbers are refused later
        return np.stack([columns[name].astype(np.float32) for name in names], axis=1)
