"""Checkpoints: named arrays and a JSON description in one safetensors file, written atomically.

Any safetensors reader can open the file; it contains no pickle. Its header holds, as strings, the format name and
version, the description as JSON, and a SHA-256 of the whole file computed with the checksum's own digits set to zero.
Loading therefore detects any changed, missing or added byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NoReturn

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
    header = {"format": FORMAT, "version": str(VERSION), "meta": description, "sha256": _NO_DIGEST}
    with files.replacing(path) as temporary:
        _write_safetensors(temporary, arrays, header)
        with open(temporary, "rb+") as file:
            start, raw = _read_header(file, Path(path))
            digest = _digest(file, raw)
            file.seek(start + raw.index(_digest_field(_NO_DIGEST)))
            file.write(_digest_field(digest))


def load(path: str | os.PathLike[str], framework: Literal["numpy", "torch"] = "numpy") -> Checkpoint:
    """Read a checkpoint as NumPy arrays or torch CPU tensors, and verify its checksum."""
    path = Path(path)
    with reading(path, "a file that checkpoint.save wrote"):
        with open(path, "rb") as file:
            _, raw = _read_header(file, path)
            header = _parse_header(raw, os.fstat(file.fileno()).st_size, path)
            if header.get("format") != FORMAT:
                _refuse(path, "is a safetensors file of another program", "a file that checkpoint.save wrote")
            if header.get("version") != str(VERSION):
                _refuse(path, f"has version {header.get('version')}", f"version {VERSION}: update sextet-common")
            digest = header.get("sha256", "")
            if raw.count(_digest_field(digest)) != 1:
                _refuse(path, "has no checksum", "a file that checkpoint.save wrote")
            if _digest(file, raw.replace(_digest_field(digest), _digest_field(_NO_DIGEST))) != digest:
                _refuse(path, "is damaged: its checksum does not match its content", "delete it and use an older one")
        return Checkpoint(_read_arrays(path, framework), dict(json.loads(header["meta"])))


def save_step(
    folder: str | os.PathLike[str],
    step: int,
    arrays: Mapping[str, np.ndarray | torch.Tensor],
    meta: Mapping[str, Any] | None = None,
    *,
    keep: int = 2,
) -> Path:
    """Write ``folder/step-00000042.safetensors`` and delete all but the newest ``keep`` checkpoints.

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
    for old in _steps(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def latest(folder: str | os.PathLike[str]) -> Path | None:
    """Return the checkpoint with the highest step that :func:`save_step` wrote, or None."""
    steps = _steps(Path(folder))
    return steps[-1] if steps else None


def _steps(folder: Path) -> list[Path]:
    """Return a folder's checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := _STEP.fullmatch(path.name))]
    return [path for _, path in sorted(numbered)]


def _refuse(path: Path, fault: str, expected: str) -> NoReturn:
    raise InputError(f"{path} {fault}", expected)


def _is_torch(array: object) -> bool:
    return type(array).__module__.partition(".")[0] == "torch"


def _write_safetensors(path: Path, arrays: Mapping[str, np.ndarray | torch.Tensor], header: dict[str, str]) -> None:
    """Write arrays with safetensors' NumPy functions, or its torch functions if one of them is a tensor."""
    for name, array in arrays.items():
        if not (_is_torch(array) or (isinstance(array, np.ndarray | np.generic) and array.dtype.kind in "biuf")):
            kind = f"{type(array).__name__} of {array.dtype}" if hasattr(array, "dtype") else type(array).__name__
            raise InputError(f"array {name!r} is a {kind}", "a NumPy or torch array of bool, integers or floats")
    if any(_is_torch(array) for array in arrays.values()):
        import torch
        from safetensors.torch import save_file as save_torch

        def copy(array: np.ndarray | torch.Tensor) -> torch.Tensor:
            # safetensors refuses tensors that share memory; a view would store its whole base
            return torch.as_tensor(array).detach().cpu().clone(memory_format=torch.contiguous_format)

        save_torch({name: copy(array) for name, array in arrays.items()}, path, metadata=header)
    else:
        from safetensors.numpy import save_file as save_numpy

        plain = {n: np.asarray(a, dtype=np.asarray(a).dtype.newbyteorder("="), order="C") for n, a in arrays.items()}
        save_numpy(plain, path, metadata=header)


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


def _read_header(file: BinaryIO, path: Path) -> tuple[int, bytes]:
    """Return the header's position and bytes; its length is checked against the file's size."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8:
        _refuse(path, f"is truncated: {size} bytes", "a whole checkpoint")
    if length > _MAX_HEADER:
        _refuse(path, "is not a checkpoint", "a file that checkpoint.save wrote")
    if 8 + length > size:
        _refuse(path, f"is truncated or not a checkpoint: {size} bytes", "a whole file that checkpoint.save wrote")
    return 8, file.read(length)


def _parse_header(raw: bytes, size: int, path: Path) -> dict[str, str]:
    """Return the header's metadata; the file must be as long as the header says."""
    try:
        table = json.loads(raw)
        metadata = table.pop("__metadata__")
        end = 8 + len(raw) + max((int(entry["data_offsets"][1]) for entry in table.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        _refuse(path, "is not a checkpoint", "a file that checkpoint.save wrote")
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _refuse(path, "is not a checkpoint", "a file that checkpoint.save wrote")
    if size < end:
        _refuse(path, f"is truncated: {size} bytes of {end}", "a whole checkpoint: delete it and use an older one")
    return metadata


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
