"""Memory that a process shares with its workers, and that nothing is left of when they have ended, however they did.

On Linux it is a file without a name, which workers open through their parent's entry in /proc: where a kill takes all
processes at once, nobody would be left to remove a name. Elsewhere it is multiprocessing's, whose names its tracker
removes.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
from multiprocessing import shared_memory

_numbers = itertools.count()


class Block:
    """Some bytes that workers can read.

    Parameters
    ----------
    size
        How many, at least 1.

    Attributes
    ----------
    size
        How many.
    buf
        The bytes, for `numpy.ndarray`.
    address
        What `View` opens it by; never that of an earlier block.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._named: shared_memory.SharedMemory | None = None
        self._file = _nameless(size)
        self.buf: mmap.mmap | memoryview | None
        if self._file is None:
            self._named = shared_memory.SharedMemory(create=True, size=size)
            self.buf, self.address = self._named.buf, self._named.name
        else:
            self.buf, self.address = mmap.mmap(self._file, size), f"{_place(self._file)} {next(_numbers)}"

    def close(self) -> None:
        """Give it back."""
        if self._file is not None:
            assert isinstance(self.buf, mmap.mmap)
            self.buf.close()
            os.close(self._file)
        elif self._named is not None:
            self._named.close()
            with contextlib.suppress(FileNotFoundError):
                self._named.unlink()


class View:
    """A block as a worker sees it.

    Parameters
    ----------
    address
        The block's.

    Attributes
    ----------
    address
        The block's.
    buf
        Its bytes, which are not to be written.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._named: shared_memory.SharedMemory | None = None
        self.buf: mmap.mmap | memoryview | None
        if address.startswith("/proc/"):
            with open(address.partition(" ")[0], "rb") as file:
                self.buf = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # unmapped with its last array
        else:
            self._named = _attached(address)
            self.buf = self._named.buf

    def close(self) -> None:
        """Give it back."""
        if self._named is not None:
            self._named.close()


def _nameless(size: int) -> int | None:
    """Return the descriptor of a file in memory, None where workers could not open it."""
    if not hasattr(os, "memfd_create"):
        return None
    file = os.memfd_create("esac")
    if not os.path.exists(_place(file)):  # no /proc
        os.close(file)
        return None
    os.ftruncate(file, size)
    return file


def _place(file: int) -> str:
    return f"/proc/{os.getpid()}/fd/{file}"


def _attached(name: str) -> shared_memory.SharedMemory:
    """Open the parent's block; workers share the parent's tracker, which the parent alone tells to forget it."""
    try:
        return shared_memory.SharedMemory(name=name, track=False)  # type: ignore[call-arg]
    except TypeError:  # before Python 3.13
        return shared_memory.SharedMemory(name=name)
