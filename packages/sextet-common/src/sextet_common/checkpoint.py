"""Checkpoints: named arrays and a JSON description in one safetensors file, written atomically.

Any safetensors reader can open the file; it contains no pickle. Its header holds, as strings, the format name and
version, the description as JSON, and a SHA-256 of the whole file computed with the checksum's own digits set to zero.
Loading therefore detects any changed, missing or added byte. The same content always gives the same bytes, from NumPy
or torch, in any order and process: safetensors' own writer does not promise that.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sextet_common import checks, files
from sextet_common.errors import InputError, reading, require

if TYPE_CHECKING:
    import torch

FORMAT = "sextet-checkpoint"
VERSION = "1"
_WHOLE = "a whole file that checkpoint.save wrote"
_NO_DIGEST = "0" * 64
_MAX_HEADER = 100_000_000  # bytes; the limit of safetensors itself
_KEPT = 2  # checkpoints of a run: the newest one and another, should it be damaged
_DAMAGED = ".damaged"
_DTYPES = {  # safetensors' names of NumPy's and torch's types
    "bool": "BOOL",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    **{f"{kind}{bits}": f"{kind[0].upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
}


class DamagedError(InputError):
    """A checkpoint file that is truncated, changed, or not a checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file: NumPy arrays or torch tensors by name, and a description of plain JSON values."""

    arrays: dict[str, Any]
    meta: dict[str, Any]


def save(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray | torch.Tensor],
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically, creating missing folders.

    Arrays may have any shape and hold bools, integers or floats; the description takes plain JSON values.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "state.safetensors"
    >>> save(path, {"weights": np.arange(3.0)}, {"step": 7})
    >>> load(path).arrays["weights"].tolist(), load(path).meta
    ([0.0, 1.0, 2.0], {'step': 7})
    """
    try:
        description = json.dumps(dict(meta or {}), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"meta cannot be stored: {error}", "plain JSON values, no NaN or infinity") from error
    header: dict[str, Any] = {
        "__metadata__": {"format": FORMAT, "version": VERSION, "meta": description, "sha256": _NO_DIGEST}
    }
    stored = {name: (*_stored(name, array), array.itemsize) for name, array in arrays.items()}
    end, contents = 0, list[memoryview]()
    # The widest types come first, as in files of safetensors itself, so that all arrays are aligned.
    for name, (dtype, row, _) in sorted(stored.items(), key=lambda item: (-item[1][2], item[0])):
        offsets = [end, end := end + row.nbytes]
        header[name] = {"dtype": dtype, "shape": list(arrays[name].shape), "data_offsets": offsets}
        contents.append(row.data)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    length = len(text).to_bytes(8, "little")
    digest = hashlib.sha256(length + text)
    for content in contents:
        digest.update(content)
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(length + text.replace(_field(_NO_DIGEST), _field(digest.hexdigest())))
        file.writelines(contents)


def load(path: str | os.PathLike[str], framework: Literal["numpy", "torch"] = "numpy") -> Checkpoint:
    """Read a checkpoint as NumPy arrays or torch CPU tensors, and verify its checksum."""
    if os.path.islink(path) and not os.path.exists(path):
        raise DamagedError(f"{path} is a link to nothing", _WHOLE)
    with reading(path, _WHOLE, KeyError, TypeError):
        with open(path, "rb") as file:
            metadata, whole = _verify(file)
        if metadata.get("format") != FORMAT:
            raise DamagedError(f"{path} is truncated or not a checkpoint", _WHOLE)
        if metadata.get("version") != VERSION and (whole or "sha256" not in metadata):
            given = f"{path} has version {metadata.get('version')}"
            raise InputError(given, f"version {VERSION}: update sextet-common")
        if not whole:
            raise DamagedError(f"{path} is truncated or damaged: its checksum does not match its content", _WHOLE)
        return Checkpoint(_read_arrays(path, framework), dict(json.loads(metadata["meta"])))


def save_step(
    folder: str | os.PathLike[str],
    step: int,
    arrays: Mapping[str, np.ndarray | torch.Tensor],
    meta: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``folder/step-00000042.safetensors``, of which no other process writes any; keep only the newest two."""
    checks.check("step", step, checks.Natural)
    folder = Path(folder)
    files.remove_leftovers(folder)
    path = folder / f"step-{step:08d}.safetensors"
    save(path, arrays, meta)
    for old in (*steps(folder)[:-_KEPT], *folder.glob(f"*{_DAMAGED}")):
        old.unlink(missing_ok=True)
    return path


def latest(folder: str | os.PathLike[str]) -> Path | None:
    """Return the checkpoint with the highest step that :func:`save_step` wrote, or None."""
    return next(reversed(steps(folder)), None)


def steps(folder: str | os.PathLike[str]) -> list[Path]:
    """Return a folder's checkpoints, oldest first."""
    numbered = (path for path in Path(folder).glob("step-*.safetensors") if path.stem[5:].isdecimal())
    return sorted(numbered, key=lambda path: int(path.stem[5:]))


def load_newest(folder: str | os.PathLike[str], framework: Literal["numpy", "torch"] = "numpy") -> Checkpoint | None:
    """Load the newest whole checkpoint of a folder, whose description has its ``step``; None where there is none.

    Damaged ones are reported by a warning and renamed; :func:`save_step` deletes them. If all are, they are refused.
    """
    faults: dict[Path, str] = {}
    for path in reversed(steps(folder)):
        try:
            loaded = load(path, framework)
            step = loaded.meta.get("step")
            if not isinstance(step, int) or step < 0:
                raise DamagedError(f"{path} is of step {step!r}")
        except DamagedError as error:
            faults[path] = error.given
            continue
        for damaged, fault in faults.items():
            warnings.warn(f"{fault}; resumed from {path.name}", stacklevel=2)
            with files.writing(damaged):
                os.replace(damaged, f"{damaged}{_DAMAGED}")
        return loaded
    if faults:
        raise DamagedError("; ".join(faults.values()), "a whole checkpoint; without these files the job starts again")
    return None


def _stored(name: str, array: np.ndarray | torch.Tensor) -> tuple[str, np.ndarray]:
    """Return safetensors' name of an array's type, and its elements as little-endian bytes."""
    kind: Any = getattr(array, "dtype", type(array).__name__)
    dtype = _DTYPES.get(getattr(kind, "name", str(kind)).removeprefix("torch."))
    if dtype is not None and name != "__metadata__":
        if isinstance(array, np.ndarray | np.generic):
            row = np.asarray(array, kind.newbyteorder("<"), order="C").reshape(-1)
            return dtype, row.view(np.uint8)
        if hasattr(array, "detach"):
            import torch

            return dtype, array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    given = f"array {name!r} is a {type(array).__name__} of {kind}"
    raise InputError(given, "a NumPy or torch array of bool, integers or floats")


def _read_arrays(path: str | os.PathLike[str], framework: str) -> dict[str, Any]:
    if framework == "torch":
        require("torch", package="sextet-common", extra="torch")
    from safetensors import SafetensorError

    reader = importlib.import_module("safetensors.torch" if framework == "torch" else "safetensors.numpy")
    try:
        return dict(reader.load_file(path))
    except (SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as {framework} arrays: {error}", "framework='torch'") from error


def _verify(file: BufferedReader) -> tuple[dict[str, Any], bool]:
    """Return the header's metadata, empty where there is none, and whether the checksum matches the whole file."""
    length = file.read(8)
    header = file.read(min(int.from_bytes(length, "little"), _MAX_HEADER))
    try:
        metadata = dict(json.loads(header)["__metadata__"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}, False
    field = _field(str(metadata.get("sha256")))
    digest = hashlib.sha256(length + header.replace(field, _field(_NO_DIGEST)))
    hashlib.file_digest(file, lambda: digest)
    return metadata, _field(digest.hexdigest()) == field


def _field(digest: str) -> bytes:
    # Quotes inside the JSON description are escaped, so this matches only the checksum.
    return f'"sha256":"{digest}"'.encode()
