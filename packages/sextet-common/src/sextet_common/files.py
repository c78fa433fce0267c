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
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sextet_common.errors import InputError

if TYPE_CHECKING:
    from filelock import FileLock

_SUFFIX = ".tmp"
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})\.(?P<process>\d+)\.\d+(?P<old>\.old)?\.tmp")
_EXPECTED = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space there"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO), "a place that can be written"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a name whose parents are folders"),
    errno.EFBIG: "a smaller file",
    errno.ENAMETOOLONG: "a shorter name",
    errno.EISDIR: "the name of a file",
}  # what the system refuses to write; any other error inside a block is a bug
_in_use: set[str] = set()  # the names of this process's temporary files
_numbers = itertools.count()
_ALWAYS_ALLOWED = 64 << 20  # bytes that any file may unpack to
_MAX_GROWTH = 100  # times the file's size; photographs as JPEG reach 20, drawings as PNG 50


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
        named = error.filename if isinstance(error.filename, str) and _SUFFIX not in error.filename else name
        if os.path.islink(named) and not os.path.exists(named):
            raise InputError(f"{named} is a link to nothing", "a link to an existing folder") from error
        expected = _EXPECTED.get(error.errno or 0, "a place that can be written")
        raise InputError(f"{named} cannot be written: {error.strerror or error}", expected) from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder; at the end its file replaces ``path`` atomically.

    The file is flushed to disk and renamed in one step, so that ``path`` is always the old file or the new one,
    whenever a crash or SIGKILL occurs, and keeps its mode. If the block raises, ``path`` keeps its content; a full disk
    or a refused path becomes an InputError. Temporary files that killed writers of the same path left are deleted, and
    missing folders are created.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    with _temporary(Path(path)) as temporary:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        _keep_mode(Path(path), temporary)
        os.replace(temporary, path)


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new, empty folder that replaces ``path`` at the end.

    The folder is created beside ``path`` and renamed once the block ends. ``path`` is the old folder or the new one, or
    is absent for the moment between two renames. If the block raises, ``path`` keeps its content. Folders that killed
    writers of the same path left are deleted.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "set"
    >>> with replacing_folder(target) as folder:
    ...     _ = (folder / "a.txt").write_text("whole")
    >>> [file.name for file in target.iterdir()], [file.name for file in target.parent.iterdir()]
    (['a.txt'], ['set'])
    """
    target = Path(path)
    with _temporary(target) as temporary:
        old = temporary.with_name(f"{temporary.name.removesuffix(_SUFFIX)}.old{_SUFFIX}")
        temporary.mkdir()
        yield temporary
        _keep_mode(target, temporary)
        try:
            if target.exists():
                os.replace(target, old)
            os.replace(temporary, target)
        except BaseException:
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise
        _remove(old)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically, creating missing folders."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder: str | os.PathLike[str], name: str | None = None, *, alone: bool = False) -> None:
    """Delete the temporary files and folders in a folder whose writers have ended, of one file or of all.

    Whether a writer on another machine has ended can't be known: only with ``alone``, where no other job may write to
    the folder, are its files deleted too.
    """
    with suppress(OSError):  # some writable folders cannot be listed
        for path in Path(folder).iterdir():
            match = _TEMPORARY.fullmatch(path.name)
            in_use = path.name.replace(f".old{_SUFFIX}", _SUFFIX) in _in_use
            if match is None or in_use or name not in (None, match["name"]):
                continue
            process = int(match["process"])  # ours where an earlier one had the same id, as after a container's restart
            if (not _is_running(process) or process == os.getpid()) if match["host"] == _host() else alone:
                if match["old"] and not path.with_name(match["name"]).exists():  # killed between two renames
                    os.replace(path, path.with_name(match["name"]))
                _remove(path)


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
        words = _words(path)
        holder = f" by process {words[0]} on {words[1]}" if len(words) > 1 else ""
        raise InputError(f"{folder} is in use{holder}", "another folder, or wait until that job has ended") from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
        warnings.warn(f"{folder} is on a file system without locks: start only one job in it", stacklevel=3)
        return None
    if _words(path)[:1] != [str(os.getpid())]:  # filelock's substitute for the system's locks has it already
        with suppress(OSError):  # it only helps whoever is refused
            path.write_text(f"{os.getpid()} {socket.gethostname()}\n", encoding="utf-8")
    return locked


def check_growth(path: str | os.PathLike[str], claimed: int, there: int) -> None:
    """Refuse compressed content that claims to unpack to more than 64 MiB and more than 100 times its stored size.

    Call it before unpacking: a malicious file of a few kilobytes can unpack to gigabytes. ``claimed`` and ``there`` are
    the bytes after and before unpacking.

    Examples
    --------
    >>> check_growth("zeros.npz", 10**9, 10**6)
    Traceback (most recent call last):
    sextet_common.errors.InputError: zeros.npz unpacks to 1000000000 bytes from 1000000; expected: at most 100000000
    """
    limit = max(_ALWAYS_ALLOWED, _MAX_GROWTH * there)
    if claimed > limit:
        raise InputError(f"{path} unpacks to {claimed} bytes from {there}", f"at most {limit}")


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """Yield an unused path beside a target, and remove what is there at the end."""
    with writing(target if target.name else ""):  # "." and "/" have no name
        target.parent.mkdir(parents=True, exist_ok=True)
    name = f".{target.name}.{_host()}.{os.getpid()}.{next(_numbers)}{_SUFFIX}"
    temporary = target.with_name(name)
    remove_leftovers(target.parent, target.name)
    _in_use.add(name)
    try:
        yield temporary
        _sync_folder(target.parent)
    except OSError as error:
        if error.errno in _EXPECTED:
            with writing(target):
                raise
        raise
    finally:
        _remove(temporary)
        _in_use.discard(name)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return []


@functools.cache
def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _keep_mode(target: Path, temporary: Path) -> None:
    """Give the file or folder that replaces a target the target's permissions, if there is one."""
    with suppress(OSError):
        temporary.chmod(stat.S_IMODE(target.stat().st_mode))


def _remove(path: Path) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _is_running(process: int) -> bool:
    """Return whether a process exists. Assume so on Windows, where the check would disturb the process."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's process; not a process id
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power failure."""
    with suppress(OSError):  # some file systems cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
