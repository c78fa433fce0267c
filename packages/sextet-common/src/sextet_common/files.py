"""Atomic writes of files and folders, and a limit on how much a file may expand when it is read."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sextet_common.errors import InputError

_SUFFIX = ".tmp"
_ALWAYS_ALLOWED = 64 << 20  # bytes that any file may unpack to
_MAX_GROWTH = 100  # times the file's size; photographs as JPEG reach 20, drawings as PNG 50


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder; at the end its file replaces ``path`` atomically.

    The file is flushed to disk and renamed in one step, so that ``path`` is always the old file or the new one,
    whenever a crash or SIGKILL occurs. If the block raises, ``path`` keeps its content. Temporary files that killed
    writers of the same path left are deleted, and missing folders are created.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}{_SUFFIX}")
    _remove_abandoned(target)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


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
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (target.with_name(f".{target.name}.{os.getpid()}{end}") for end in (_SUFFIX, f".old{_SUFFIX}"))
    _remove_abandoned(target)
    for leftover in (temporary, old):  # of an earlier process with the same id, as after a container restart
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        if target.exists():
            os.replace(target, old)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _sync_folder(target.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically, creating missing folders."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Delete all temporary files in a folder. Only one process at a time may write there."""
    for leftover in Path(folder).glob(f".*{_SUFFIX}"):
        leftover.unlink(missing_ok=True)


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


def _remove_abandoned(target: Path) -> None:
    """Delete the temporary files and folders of a target whose processes have ended."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"(\d+)(?:\.old)?" + re.escape(_SUFFIX))
    with suppress(OSError):  # some writable folders cannot be listed
        for path in target.parent.iterdir():
            match = pattern.fullmatch(path.name)
            if match and not _is_running(int(match[1])):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


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
