"""NumPy files, written whole and read from untrusted sources.

Reading opens no pickle, and takes no more memory than the file's size justifies: what the header of an ``.npy`` file
and the directory of an ``.npz`` archive claim is compared with the bytes that are present before any data is read.
"""

from __future__ import annotations

import io
import math
import os
import tokenize
import zipfile
from collections.abc import Sequence
from types import SimpleNamespace
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy_format

from sextet_common import files
from sextet_common.errors import InputError, reading

_KINDS = "biufcSU"  # numbers and text; no objects, no records, no dates
_HEADER = 1 << 16  # bytes; NumPy itself reads no header of more than 10,000
_MAX_EMPTY = 1 << 28  # bytes of an empty array's non-zero dimensions


def read_npz(
    path: str | os.PathLike[str], names: Sequence[str], optional: Sequence[str] = (), *, expected: str = ""
) -> dict[str, np.ndarray]:
    """Read the arrays ``names`` of an ``.npz`` file, and those of ``optional`` that it has.

    ``expected`` says in error messages what the file should be, by default an archive with these names.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/some.npz"
    >>> np.savez(path, a=np.arange(3), b=np.ones(2))
    >>> read_npz(path, ["a"])["a"].tolist()
    [0, 1, 2]
    """
    expected = expected or "an .npz file with " + ", ".join(names)
    with reading(path, expected, NotImplementedError), open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        missing = [name for name in names if name not in members]
        if missing:
            raise InputError(f"{path} has no array {missing[0]!r}", expected)
        claimed = sum(info.file_size for info in archive.infolist())
        files.check_growth(path, claimed, os.fstat(file.fileno()).st_size)
        chosen = [*names, *(name for name in optional if name in members)]
        return {name: _read_member(archive, members[name]) for name in chosen}


def read_npy(path: str | os.PathLike[str], *, expected: str = "an .npy file", mapped: bool = False) -> np.ndarray:
    """Read the array of an ``.npy`` file; ``mapped`` returns a read-only memory map."""
    with reading(path, expected), open(path, "rb") as file:
        _check_header(file, os.fstat(file.fileno()).st_size, "it")
        if mapped:
            return cast(np.ndarray, np.load(path, mmap_mode="r", allow_pickle=False))
        return npy_format.read_array(file, allow_pickle=False)


def write(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write an ``.npy`` file; a full disk is an error, where ``numpy.save`` may leave a short file without a word.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/some.npy"
    >>> write(path, np.arange(3))
    >>> read_npy(path).tolist()
    [0, 1, 2]
    """
    with open(path, "wb") as file:
        # NumPy writes to a real file through the C library, whose last error it does not check.
        npy_format.write_array(cast(Any, SimpleNamespace(write=file.write)), array, allow_pickle=False)


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    # LZMA's header can ask for gigabytes; bit 0 stands for encryption.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise ValueError(f"{info.filename} is encrypted, or not stored or deflated")
    with archive.open(info) as member:
        _check_header(member, info.file_size, info.filename)
        return npy_format.read_array(member, allow_pickle=False)


def _check_header(file: IO[bytes], size: int, name: str) -> None:
    """Compare a header with the file's size, and leave the file at its start."""
    start = io.BytesIO(file.read(_HEADER))  # the header's length is a claim as well
    version = npy_format.read_magic(start)
    if version not in ((1, 0), (2, 0)):  # 3.0 is for record fields with Unicode names
        raise ValueError(f"{name} has version {version[0]}.{version[1]} of .npy, not 1.0 or 2.0")
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    try:
        shape, _, dtype = read(start)
    except (TypeError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"the header of {name} is damaged") from error
    if dtype.kind not in _KINDS or not dtype.itemsize:
        raise ValueError(f"{name} holds values of {dtype}, not numbers or text")
    claimed, present = math.prod(shape) * dtype.itemsize, size - start.tell()
    unused = math.prod(filter(None, shape)) * dtype.itemsize if not claimed else 0
    if claimed != present or min(shape, default=0) < 0 or unused > _MAX_EMPTY:
        raise ValueError(f"{name} claims {shape} of {dtype}, and has {present} bytes")
    file.seek(0)
