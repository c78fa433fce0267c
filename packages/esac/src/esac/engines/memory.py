"""Memory shared with worker processes, of which nothing remains after they end, however they end.

On Linux it is an anonymous file that workers open through the parent's entry in /proc: if a kill takes all processes at
once, nobody is left to remove a name. Elsewhere it is multiprocessing's shared memory, whose resource tracker removes
the name.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
from multiprocessing import shared_memory

_numbers = itertools.count()


class Block:
    """Bytes that workers can read.

    Attributes
    ----------
    size
        Number of bytes, at least 1.
    buf
        The bytes, for `numpy.ndarray`.
    address
        What `View` opens the block by; no two blocks have the same one.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._named: shared_memory.SharedMemory | None = None
        self._file = _anonymous_file(size)
        self.buf: mmap.mmap | memoryview | None
        if self._file is None:
            self._named = shared_memory.SharedMemory(create=True, size=size)
            self.buf, self.address = self._named.buf, self._named.name
        else:
            self.buf, self.address = mmap.mmap(self._file, size), f"{_path(self._file)} {next(_numbers)}"

    def close(self) -> None:
        """Free the memory."""
        if self._file is not None:
            assert isinstance(self.buf, mmap.mmap)
            self.buf.close()
            os.close(self._file)
        elif self._named is not None:
            self._named.close()
            with contextlib.suppress(FileNotFoundError):
                self._named.unlink()


class View:
    """A worker's read-only view of a block, opened by its address; ``buf`` holds the bytes."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._named: shared_memory.SharedMemory | None = None
        self.buf: mmap.mmap | memoryview | None
        if address.startswith("/proc/"):
            with open(address.partition(" ")[0], "rb") as file:
                self.buf = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # unmapped with its last array
        else:
            self._named = _attach(address)
            self.buf = self._named.buf

    def close(self) -> None:
        """Detach from the block."""
        if self._named is not None:
            self._named.close()


def _anonymous_file(size: int) -> int | None:
    """Return the descriptor of a file in memory, or None where workers could not open it."""
    if not hasattr(os, "memfd_create"):
        return None
    file = os.memfd_create("esac")
    if not os.path.exists(_path(file)):  # no /proc
        os.close(file)
        return None
    os.ftruncate(file, size)
    return file


def _path(file: int) -> str:
    return f"/proc/{os.getpid()}/fd/{file}"


def _attach(name: str) -> shared_memory.SharedMemory:
    """Open the parent's block without tracking it: workers share the parent's tracker, and the parent unregisters."""
    try:
        return shared_memory.SharedMemory(name=name, track=False)  # type: ignore[call-arg]
    except TypeError:  # before Python 3.13
        return shared_memory.SharedMemory(name=name)
