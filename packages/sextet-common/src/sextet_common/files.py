"""Atomic writes of files and folders, and a limit on how much a file may expand when it is read."""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import os
import re
import shutil
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sextet_common.errors import InputError

if TYPE_CHECKING:
    from filelock import FileLock

_TEMPORARY = re.compile(r"(?P<stem>\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})\.(?P<process>\d+)\.\d+)(?P<old>\.old)?\.tmp")
_EXPECTED = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space there"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO), "a place that can be written"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a name whose parents are folders"),
    errno.EFBIG: "a smaller file",
    errno.ENAMETOOLONG: "a shorter name",
    errno.EISDIR: "the name of a file",
}  # what the system refuses to write; any other error inside a block is a bug
_in_use: set[str] = set()  # the stems of this process's temporary names
_numbers = itertools.count()


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Convert the system's refusal to write, such as a full disk, to one InputError that names the file.

    Examples
    --------
    >>> with writing("results.csv"):
    ...     raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    Traceback (most recent call last):
    sextet_common.errors.InputError: results.csv cannot be written: No space left on device; expected: free space there
    """
    name = os.fspath(path)
    if not name or "\0" in name:
        raise InputError(f"{name!r} cannot be written", "the name of a file or folder")
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) and ".tmp" not in error.filename else name
        if os.path.islink(named) and not os.path.exists(named):
            raise InputError(f"{named} is a link to nothing", "a link to an existing folder") from error
        expected = _EXPECTED.get(error.errno or 0, "a place that can be written")
        raise InputError(f"{named} cannot be written: {error.strerror or error}", expected) from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder; at the end its file replaces ``path`` atomically, keeping its mode.

    Whenever a crash or SIGKILL occurs, ``path`` is the whole old file or the whole new one. If the block raises, it is
    the old one; a full disk or a refused path becomes an InputError. Missing folders are created, and temporary files
    of killed writers of the same path are deleted.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    with _replacing(Path(path), folder=False) as temporary:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new, empty folder that replaces ``path`` at the end, as :func:`replacing` replaces a file.

    ``path`` is absent for the moment between two renames; after a kill there, the next write brings the old one back.
    """
    with _replacing(Path(path), folder=True) as temporary:
        temporary.mkdir()
        yield temporary


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically, creating missing folders."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder: str | os.PathLike[str], name: str | None = None, *, alone: bool = False) -> None:
    """Delete the temporary files and folders in a folder whose writers have ended, of one file or of all.

    Those of another machine, whose processes can't be known, are deleted only if no other job may write (``alone``).
    """
    with suppress(OSError):  # some writable folders cannot be listed
        for path in Path(folder).iterdir():
            match = _TEMPORARY.fullmatch(path.name)
            if match is None or name not in (None, match["name"]):
                continue
            if _has_ended(match) if match["host"] == _host() else alone:
                _remove(path, path.with_name(match["name"]) if match["old"] else None)


def lock(folder: str | os.PathLike[str]) -> FileLock | None:
    """Lock a folder for one job, through ``.lock`` in it, or warn and return None where the file system has no locks.

    The system releases the lock when the process ends. A second lock is refused, in the same process too.
    """
    from filelock import FileLock, Timeout

    path = Path(folder, ".lock")
    locked = FileLock(path, timeout=0, thread_local=False)
    try:
        locked.acquire()
    except Timeout:
        holder = ""
        with suppress(OSError, ValueError):
            process, host, *_ = path.read_text(encoding="utf-8").split()
            holder = f" by process {process} on {host}"
        raise InputError(f"{folder} is in use{holder}", "another folder, or wait until that job has ended") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # of ENOSYS filelock makes a lock of its own
            raise
        warnings.warn(f"{folder} is on a file system without locks: start only one job in it", stacklevel=3)
        return None
    with suppress(OSError):  # it only names the job to one that is refused
        path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n", encoding="utf-8")  # the form of filelock's own
    return locked


def check_growth(path: str | os.PathLike[str], claimed: int, there: int) -> None:
    """Refuse compressed content that claims to unpack to more than 64 MiB and more than 100 times its stored size.

    ``claimed`` and ``there`` are the bytes after and before unpacking. A malicious file can fill the memory.
    """
    limit = max(64 << 20, 100 * there)  # photographs as JPEG grow to 20 times their size, drawings as PNG to 50
    if claimed > limit:
        raise InputError(f"{path} unpacks to {claimed} bytes from {there}", f"at most {limit}")


@contextmanager
def _replacing(target: Path, *, folder: bool) -> Iterator[Path]:
    """Yield an unused path beside a target, and rename what is there at the end; clear all other temporary names."""
    with writing(target if target.name else ""):  # "." and "/" have no name
        target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, target.name)
    stem = f".{target.name}.{_host()}.{os.getpid()}.{next(_numbers)}"
    new, old = target.with_name(f"{stem}.tmp"), target.with_name(f"{stem}.old.tmp")
    _in_use.add(stem)
    try:
        yield new
        with suppress(OSError):
            shutil.copymode(target, new)
        if folder and target.exists():
            os.replace(target, old)
        os.replace(new, target)
        _sync(target.parent)
    except OSError as error:
        if error.errno in _EXPECTED:
            with writing(target):
                raise
        raise
    finally:
        _remove(new)
        _remove(old, target)
        _in_use.discard(stem)


def _remove(path: Path, target: Path | None = None) -> None:
    """Delete a temporary file or folder; what a target was becomes the target again where that is missing."""
    with suppress(OSError):
        if target and not target.exists():
            os.replace(path, target)
        elif os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _has_ended(temporary: re.Match[str]) -> bool:
    """Return whether the process of this machine that chose a temporary name has ended, as far as can be known."""
    process = int(temporary["process"])
    if process == os.getpid():  # or of an earlier process with the same id, as after a container's restart
        return temporary["stem"] not in _in_use
    if os.name == "posix":  # on Windows the check would disturb the process
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):  # another user's process; not a process id
            pass
    return False


@functools.cache
def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _sync(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power failure."""
    with suppress(OSError):  # some file systems cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
