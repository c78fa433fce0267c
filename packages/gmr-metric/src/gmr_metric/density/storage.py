"""Mixtures in files: JSON, readable and exact, or npz."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from sextet_common import files, npy
from sextet_common.errors import InputError, reading

_FORMAT, _VERSION = "gmr-metric mixture", 1
_ARRAYS = ("weights", "means", "covariances")


def write(path: str | os.PathLike[str], arrays: dict[str, Any]) -> None:
    """Write a mixture's arrays whole or not at all; the ending decides, .json or .npz."""
    if Path(path).suffix == ".json":
        table = {"format": _FORMAT, "version": _VERSION, **{name: array.tolist() for name, array in arrays.items()}}
        files.write_text(path, json.dumps(table) + "\n")
    elif Path(path).suffix == ".npz":
        with files.replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, format=_FORMAT, version=_VERSION, **arrays)
    else:
        raise InputError(f"{path} has no known ending", ".json or .npz")


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a mixture's arrays; an InputError names the file where it is missing, broken or of another kind."""
    with reading(path, "a mixture's .json or .npz file"):
        names = ("format", "version", *_ARRAYS)
        table: Any = (
            npy.read_npz(path, names)
            if Path(path).suffix == ".npz"
            else json.loads(Path(path).read_text(encoding="utf-8"))
        )
        if str(table["format"]) != _FORMAT or int(table["version"]) != _VERSION:
            raise InputError(
                f"{path} is a {table['format']} of version {table['version']}", f"a {_FORMAT} of version {_VERSION}"
            )
        return {name: table[name] for name in _ARRAYS}
