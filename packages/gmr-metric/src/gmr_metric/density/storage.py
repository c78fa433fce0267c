"""Files: mixtures as JSON (readable and exact), npz or safetensors, samples as CSV or npy."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from sextet_common import checkpoint, files, npy
from sextet_common.errors import STRUCTURE, InputError, reading

_FORMAT, _VERSION = "gmr-metric mixture", 1
_ARRAYS = ("weights", "means", "covariances")
SUFFIXES = (".json", ".npz", ".safetensors")
HUB_FILE = "mixture.safetensors"  # in folders for the Hugging Face Hub


def to_json(arrays: dict[str, np.ndarray]) -> str:
    """Return a mixture's arrays as JSON."""
    table = {"format": _FORMAT, "version": _VERSION, **{name: array.tolist() for name, array in arrays.items()}}
    return json.dumps(table)


def write(path: str | os.PathLike[str], arrays: dict[str, Any]) -> None:
    """Write a mixture's arrays, whole or not at all, as .json, .npz or .safetensors."""
    if Path(path).suffix == ".json":
        files.write_text(path, to_json(arrays) + "\n")
    elif Path(path).suffix == ".npz":
        with files.replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, format=_FORMAT, version=_VERSION, **arrays)
    elif Path(path).suffix == ".safetensors":
        checkpoint.save(path, arrays, {"format": _FORMAT, "version": _VERSION})
    else:
        raise InputError(f"{path} has an unknown suffix", " or ".join(SUFFIXES))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a mixture's arrays."""
    with reading(path, "a mixture's .json, .npz or .safetensors file", *STRUCTURE):
        table: Any
        if Path(path).suffix == ".npz":
            table = npy.read_npz(path, ("format", "version", *_ARRAYS))
        elif Path(path).suffix == ".safetensors":
            saved = checkpoint.load(path)
            table = {**saved.arrays, **saved.meta}
        else:
            table = json.loads(Path(path).read_text(encoding="utf-8"))
        if str(table["format"]) != _FORMAT or int(table["version"]) != _VERSION:
            raise InputError(
                f"{path} is a {table['format']} of version {table['version']}", f"a {_FORMAT} of version {_VERSION}"
            )
        return {name: table[name] for name in _ARRAYS}


def read_samples(path: Path) -> np.ndarray:
    """Read samples, one per row, from a .npy file or a .csv file with or without a header line."""
    with reading(path, "a .csv or .npy file of numbers"):
        return _array(path) if path.suffix == ".npy" else _table(path)


def sample_chunks(path: Path, rows: int = 10_000) -> Iterator[np.ndarray]:
    """Yield samples as :func:`read_samples` reads them, some rows at a time; - is a CSV on standard input."""
    with reading(path, "a .csv or .npy file of numbers"):
        if path.suffix == ".npy":
            array = npy.read_npy(path, mapped=True)
            for start in range(0, len(array), rows):
                yield _floats(array[start : start + rows])
            return
        with nullcontext(sys.stdin) if str(path) == "-" else open(path, encoding="utf-8") as file:
            lines = (line for line in file if line.strip())
            header = True
            while chunk := list(itertools.islice(lines, rows)):
                if header and not any(_is_number(word) for word in chunk[0].split(",")):
                    del chunk[0]  # the columns' names
                header = False
                if chunk:
                    yield np.loadtxt(chunk, delimiter=",", ndmin=2)


def _array(path: Path) -> np.ndarray:
    return _floats(npy.read_npy(path))


def _floats(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"its numbers are {array.dtype}")
    return (array[:, None] if array.ndim == 1 else array).astype(np.float64)


def _table(path: Path) -> np.ndarray:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if lines and not any(_is_number(word) for word in lines[0].split(",")):
        del lines[0]  # the columns' names
    if not lines:
        raise ValueError("it holds no numbers")
    return np.loadtxt(lines, delimiter=",", ndmin=2)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
