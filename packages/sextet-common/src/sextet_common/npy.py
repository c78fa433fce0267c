"""NumPy files, written whole and read from untrusted sources.

Reading opens no pickle, and takes no more memory than the file's size justifies: the header of an ``.npy`` file states
the size of its array, the directory of an ``.npz`` archive the sizes of its members, and both are compared with the
bytes that are present before any data is read.
"""

from __future__ import annotations

import io
import math
import os
import tokenize
import zipfile
from collections.abc import Callable, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from sextet_common import files
from sextet_common.errors import InputError, reading

_KINDS = "biufcSU"  # numbers and text; no objects, no records, no dates
_HEADER = 1 << 16  # bytes; NumPy itself reads no header of more than 10,000
_CHUNK = 1 << 22  # bytes unpacked at once
_MAX_EMPTY = 1 << 28  # bytes of an empty array's non-zero dimensions


class Header(NamedTuple):
    """Header of an ``.npy`` file: the array's shape, whether its first index varies fastest, and its type."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def read_npz(
    path: str | os.PathLike[str], names: Sequence[str], optional: Sequence[str] = (), *, expected: str = ""
) -> dict[str, np.ndarray]:
    """Read arrays of an ``.npz`` file.

    The file must contain ``names`` and may contain ``optional``; no other arrays are read. ``expected`` says in error
    messages what the file should be, by default an archive with these names.

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
        present = set(archive.namelist())
        missing = [name for name in names if f"{name}.npy" not in present]
        if missing:
            raise InputError(f"{path} has no array {missing[0]!r}", expected)
        chosen = [*names, *(name for name in optional if f"{name}.npy" in present)]
        claimed = sum(member.file_size for member in archive.infolist())
        files.check_growth(path, claimed, os.fstat(file.fileno()).st_size)
        return {name: _read_member(archive, f"{name}.npy") for name in chosen}


def read_npy(path: str | os.PathLike[str], *, expected: str = "an .npy file", mapped: bool = False) -> np.ndarray:
    """Read the array of an ``.npy`` file; ``mapped`` returns a read-only memory map.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/some.npy"
    >>> np.save(path, np.arange(3))
    >>> read_npy(path).tolist()
    [0, 1, 2]
    """
    with reading(path, expected):
        with open(path, "rb") as file:
            header = _read_header(file, os.fstat(file.fileno()).st_size, "it")
            if not mapped:
                return _read_values(file, header)
        mapping: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapping


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
        npy_format.write_array(_Unreal(file.write), array, allow_pickle=False)


class _Unreal(NamedTuple):
    """A file that NumPy writes to by this function."""

    write: Callable[[bytes], int]


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # LZMA's header can ask for gigabytes
        raise ValueError(f"{name} has compression method {info.compress_type}, not stored or deflated")
    if info.flag_bits & 1:
        raise ValueError(f"{name} is encrypted")
    with archive.open(info) as member:
        return _read_values(member, _read_header(member, info.file_size, name))


def _read_header(file: IO[bytes], size: int, named: str) -> Header:
    """Read a header, compare it with the file's size and leave the file at its first value."""
    start = io.BytesIO(file.read(_HEADER))  # the header's length is a claim as well
    version = npy_format.read_magic(start)
    if version not in ((1, 0), (2, 0)):  # 3.0 is for record fields with Unicode names
        raise ValueError(f"{named} has version {version[0]}.{version[1]} of .npy, not 1.0 or 2.0")
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    try:
        header = Header(*read(start))
    except (TypeError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"the header of {named} is damaged") from error
    file.seek(start.tell())
    if header.dtype.kind not in _KINDS or not header.dtype.itemsize:
        raise ValueError(f"{named} holds values of {header.dtype}, not numbers or text")
    claimed, present = math.prod(header.shape) * header.dtype.itemsize, size - start.tell()
    if claimed != present or min(header.shape, default=0) < 0:
        raise ValueError(f"{named} claims {header.shape} of {header.dtype}, and has {present} bytes")
    if not claimed and math.prod(filter(None, header.shape)) * header.dtype.itemsize > _MAX_EMPTY:
        raise ValueError(f"{named} claims {header.shape}")
    return header


def _read_values(file: IO[bytes], header: Header) -> np.ndarray:
    content = np.empty(math.prod(header.shape) * header.dtype.itemsize, dtype=np.uint8)
    for start in range(0, len(content), _CHUNK):
        chunk = content[start : start + _CHUNK]
        data = file.read(len(chunk))
        if len(data) < len(chunk):
            raise ValueError("it ends too early")
        chunk[:] = np.frombuffer(data, dtype=np.uint8)
    return content.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
