"""NumPy's files, read without trust: no pickle, and no more memory than the file can fill.

The header of a ``.npy`` file says how large its array is, and the folder of an ``.npz`` how large its members are.
Both are only claims. Here they are held against the bytes that are there before anything is read.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from sextet_common import files
from sextet_common.errors import InputError, reading

_KINDS = "biufcSU"  # numbers and text; no objects, no records, no dates
_HEADER = 1 << 16  # bytes; NumPy itself reads no header of more than 10,000
_PIECE = 1 << 22  # bytes that are unpacked at once
_ROWS = 1 << 28  # bytes of a row, at most, where an array has no rows


class Header(NamedTuple):
    """What a ``.npy`` file says it holds.

    Parameters
    ----------
    shape
        Of the array.
    fortran
        Whether its first index runs fastest.
    dtype
        Of its values: numbers or text.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def read_npz(
    path: str | os.PathLike[str], names: Sequence[str], optional: Sequence[str] = (), *, expected: str = ""
) -> dict[str, np.ndarray]:
    """Read arrays of an ``.npz`` file.

    Parameters
    ----------
    path
        The file.
    names
        The arrays that it must have; others are not read.
    optional
        Those that it may have.
    expected
        What it should be, for an error; by default an archive with these names.

    Returns
    -------
    dict
        The arrays by name, each its own.

    Raises
    ------
    InputError
        Where the file is missing or damaged, lacks an array, holds objects or claims more than it has.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/some.npz"
    >>> np.savez(path, a=np.arange(3), b=np.ones(2))
    >>> read_npz(path, ["a"])["a"].tolist()
    [0, 1, 2]
    """
    expected = expected or "an .npz file with " + ", ".join(names)
    with reading(path, expected), open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        there = set(archive.namelist())
        missing = [name for name in names if f"{name}.npy" not in there]
        if missing:
            raise InputError(f"{path} has no array {missing[0]!r}", expected)
        wanted = [*names, *(name for name in optional if f"{name}.npy" in there)]
        claimed = sum(member.file_size for member in archive.infolist())
        files.check_growth(path, claimed, os.fstat(file.fileno()).st_size)
        return {name: _read_member(archive, f"{name}.npy") for name in wanted}


def read_npy(path: str | os.PathLike[str], *, expected: str = "an .npy file", mapped: bool = False) -> np.ndarray:
    """Read the array of an ``.npy`` file.

    Parameters
    ----------
    path
        The file.
    expected
        What it should be, for an error.
    mapped
        Leave it on the disk and map it into memory, read-only.

    Returns
    -------
    numpy.ndarray
        The array.

    Raises
    ------
    InputError
        Where the file is missing or damaged, holds objects or claims more than it has.

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
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return found


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # LZMA's header can ask for gigabytes
        raise ValueError(f"{name} is compressed in the way number {info.compress_type}, not stored or deflated")
    with archive.open(info) as member:
        return _read_values(member, _read_header(member, info.file_size, name))


def _read_header(file: IO[bytes], size: int, named: str) -> Header:
    """Read a header, hold it against the number of bytes in the file and leave the file where its values begin."""
    start = io.BytesIO(file.read(_HEADER))  # a header's own length is a claim too
    version = npy_format.read_magic(start)
    if version not in ((1, 0), (2, 0)):  # 3.0 is for names of fields, which no array of ours has
        raise ValueError(f"{named} has version {version[0]}.{version[1]} of .npy, not 1.0 or 2.0")
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    header = Header(*read(start))
    file.seek(start.tell())
    if header.dtype.kind not in _KINDS or not header.dtype.itemsize:
        raise ValueError(f"{named} holds values of {header.dtype}, not numbers or text")
    claimed, there = math.prod(header.shape) * header.dtype.itemsize, size - start.tell()
    if claimed != there or min(header.shape, default=0) < 0:
        raise ValueError(f"{named} claims {header.shape} of {header.dtype}, and has {there} bytes")
    if not claimed and math.prod(filter(None, header.shape)) * header.dtype.itemsize > _ROWS:
        raise ValueError(f"{named} claims {header.shape}")
    return header


def _read_values(file: IO[bytes], header: Header) -> np.ndarray:
    content = np.empty(math.prod(header.shape) * header.dtype.itemsize, dtype=np.uint8)
    for start in range(0, len(content), _PIECE):
        place = content[start : start + _PIECE]
        piece = file.read(len(place))
        if len(piece) < len(place):
            raise ValueError("it ends too early")
        place[:] = np.frombuffer(piece, dtype=np.uint8)
    return content.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
