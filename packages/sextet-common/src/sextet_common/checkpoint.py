"""Checkpoints: named arrays and a JSON description in one safetensors file, written atomically.

Any safetensors reader can open the file; it contains no pickle. Its header holds, as strings, the format name and
version, the description as JSON, and a SHA-256 of the whole file computed with the checksum's own digits set to zero.
Loading therefore detects any changed, missing or added byte. The same content always gives the same bytes, from NumPy
or torch, in any order and process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from sextet_common import checks, files
from sextet_common.errors import InputError, reading, require

if TYPE_CHECKING:
    import torch

FORMAT = "sextet-checkpoint"
VERSION = 1
_NO_DIGEST = "0" * 64
_MAX_HEADER = 100_000_000  # bytes; the limit of safetensors itself
_STEP = re.compile(r"step-(\d+)\.safetensors")
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
    """Content of a checkpoint file.

    Parameters
    ----------
    arrays
        NumPy arrays or torch tensors by name.
    meta
        The description: plain JSON values.
    """

    arrays: dict[str, Any]
    meta: dict[str, Any]


def save(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray | torch.Tensor],
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically, creating missing folders.

    Parameters
    ----------
    path
        The file to write.
    arrays
        NumPy arrays or torch tensors of any shape: bool, integers, floats (bfloat16 from torch).
    meta
        A description of plain JSON values.

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
        "__metadata__": {"format": FORMAT, "version": str(VERSION), "meta": description, "sha256": _NO_DIGEST}
    }
    contents: list[memoryview] = []
    end = 0
    stored = {name: _stored(name, array) for name, array in arrays.items()}
    # The widest types come first, as in files of safetensors itself, so that all arrays are aligned.
    for name, (dtype, shape, content) in sorted(stored.items(), key=lambda item: (-item[1][2].itemsize, item[0])):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + content.nbytes]}
        contents.append(content.data)
        end += content.nbytes
    raw = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    total = hashlib.sha256(len(raw).to_bytes(8, "little") + raw)
    for part in contents:
        total.update(part)
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(len(raw).to_bytes(8, "little"))
        file.write(raw.replace(_digest_field(_NO_DIGEST), _digest_field(total.hexdigest())))
        for part in contents:
            file.write(part)


def load(path: str | os.PathLike[str], framework: Literal["numpy", "torch"] = "numpy") -> Checkpoint:
    """Read a checkpoint as NumPy arrays or torch CPU tensors, and verify its checksum."""
    path = Path(path)
    with reading(path, "a file that checkpoint.save wrote", KeyError, TypeError):
        with open(path, "rb") as file:
            raw, header = _read_header(file, path)
            if header.get("format") != FORMAT:
                raise _damaged(path, "is a safetensors file of another program")
            field = _digest_field(header.get("sha256", ""))
            has_digest = raw.count(field) == 1
            whole = has_digest and _digest_field(_digest(file, raw.replace(field, _digest_field(_NO_DIGEST)))) == field
            if header.get("version") != str(VERSION) and (whole or not has_digest):
                given = f"{path} has version {header.get('version')}"
                raise InputError(given, f"version {VERSION}: update sextet-common")
            if not whole:
                checksum = "its checksum does not match its content" if has_digest else "it has no checksum"
                raise _damaged(path, f"is damaged: {checksum}")
        return Checkpoint(_read_arrays(path, framework), dict(json.loads(header["meta"])))


def save_step(
    folder: str | os.PathLike[str],
    step: int,
    arrays: Mapping[str, np.ndarray | torch.Tensor],
    meta: Mapping[str, Any] | None = None,
    *,
    keep: int = 2,
) -> Path:
    """Write ``folder/step-00000042.safetensors``; delete all but the newest ``keep`` checkpoints, and damaged ones.

    Only one process at a time may write to the folder. ``arrays`` and ``meta`` are as in :func:`save`.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> for step in (10, 20, 30):
    ...     _ = save_step(folder, step, {"x": np.zeros(2)})
    >>> latest(folder).name, len(list(Path(folder).iterdir()))
    ('step-00000030.safetensors', 2)
    """
    checks.check("step", step, checks.Natural)
    checks.check("keep", keep, checks.Count)
    folder = Path(folder)
    files.remove_leftovers(folder)
    path = folder / f"step-{step:08d}.safetensors"
    save(path, arrays, meta)
    for old in (*steps(folder)[:-keep], *folder.glob(f"*{_DAMAGED}")):
        old.unlink(missing_ok=True)
    return path


def latest(folder: str | os.PathLike[str]) -> Path | None:
    """Return the checkpoint with the highest step that :func:`save_step` wrote, or None."""
    return next(reversed(steps(folder)), None)


def steps(folder: str | os.PathLike[str]) -> list[Path]:
    """Return a folder's checkpoints, oldest first."""
    names = os.listdir(folder) if os.path.isdir(folder) else ()
    return [Path(folder) / name for _, name in sorted((int(m[1]), m[0]) for m in map(_STEP.fullmatch, names) if m)]


def load_newest(folder: str | os.PathLike[str], framework: Literal["numpy", "torch"] = "numpy") -> Checkpoint | None:
    """Load the newest whole checkpoint of a folder, whose description has its ``step``; None where there is none.

    Damaged ones are reported by a warning and set aside under other names; :func:`save_step` deletes them. If all are
    damaged, they are refused.
    """
    faults: dict[Path, DamagedError] = {}
    for path in reversed(steps(folder)):
        try:
            if not path.exists():
                raise DamagedError(f"{path} is a link to nothing", "a whole checkpoint")
            loaded = load(path, framework)
            step = loaded.meta.get("step")
            if not isinstance(step, int) or step < 0:
                raise DamagedError(f"{path} is of step {step!r}", "a step >= 0")
        except DamagedError as error:
            faults[path] = error
            continue
        for damaged, fault in faults.items():
            warnings.warn(f"{fault.given}; resumed from {path.name}", stacklevel=2)
            with files.writing(damaged):
                os.replace(damaged, f"{damaged}{_DAMAGED}")
        return loaded
    if len(faults) == 1:
        raise faults.popitem()[1]
    if faults:
        details = "; ".join(fault.given for fault in faults.values())
        raise DamagedError(details, "a whole checkpoint; delete these to start again")
    return None


def _stored(name: str, array: np.ndarray | torch.Tensor) -> tuple[str, list[int], np.ndarray]:
    """Return an array's type as safetensors names it, its shape, and its elements in a row, in little-endian bytes."""
    dtype = str(getattr(array, "dtype", "")).removeprefix("torch.")
    if isinstance(array, np.ndarray | np.generic):
        dtype = array.dtype.name
    elif type(array).__module__.partition(".")[0] != "torch":
        dtype = ""
    if dtype not in _DTYPES or name == "__metadata__":
        kind = f"{type(array).__name__} of {array.dtype}" if hasattr(array, "dtype") else type(array).__name__
        raise InputError(f"array {name!r} is a {kind}", "a NumPy or torch array of bool, integers or floats")
    if isinstance(array, np.ndarray | np.generic):
        content = np.asarray(array, dtype=np.asarray(array).dtype.newbyteorder("<"), order="C").reshape(-1)
    else:
        import torch

        flat = array.detach().cpu().contiguous().reshape(-1)
        content = flat.view(getattr(torch, f"int{8 * flat.element_size()}")).numpy()
    return _DTYPES[dtype], list(array.shape), content


def _read_arrays(path: Path, framework: str) -> dict[str, Any]:
    from safetensors import SafetensorError

    try:
        if framework == "torch":
            require("torch", package="sextet-common", extra="torch")
            from safetensors.torch import load_file as load_torch

            return dict(load_torch(path))
        from safetensors.numpy import load_file as load_numpy

        return dict(load_numpy(path))
    except (SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as {framework} arrays: {error}", "framework='torch'") from error


def _read_header(file: BinaryIO, path: Path) -> tuple[bytes, dict[str, str]]:
    """Return the header's bytes and metadata; the file must be as long as the header says."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if length > _MAX_HEADER:
        raise _damaged(path, "is not a checkpoint")
    if 8 + length > size:
        raise _damaged(path, f"is truncated or not a checkpoint: {size} bytes")
    try:
        raw = file.read(length)
        table = json.loads(raw)
        metadata = table.pop("__metadata__")
        end = 8 + length + max((int(entry["data_offsets"][1]) for entry in table.values()), default=0)
        header = {key: value for key, value in metadata.items() if isinstance(value, str)}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise _damaged(path, "is not a checkpoint") from error
    if size < end:
        raise _damaged(path, f"is truncated: {size} bytes of {end}")
    return raw, header


def _damaged(path: Path, fault: str) -> DamagedError:
    return DamagedError(f"{path} {fault}", "a whole file that checkpoint.save wrote")


def _digest_field(digest: str) -> bytes:
    # Quotes inside the JSON description are escaped, so this matches only the checksum field.
    return f'"sha256":"{digest}"'.encode()


def _digest(file: BinaryIO, header: bytes) -> str:
    """Hash the whole file with its header replaced by ``header``."""
    total = hashlib.sha256(len(header).to_bytes(8, "little") + header)
    file.seek(8 + len(header))
    while chunk := file.read(1 << 20):
        total.update(chunk)
    return total.hexdigest()
