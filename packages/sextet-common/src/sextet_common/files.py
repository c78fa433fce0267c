"""Files that are whole or not there, the one place that replaces a file; and how much a file may swell when read."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sextet_common.errors import InputError

_SUFFIX = ".tmp"
_FREE = 64 << 20  # bytes that any file may unpack to
_GROWTH = 100  # times its size, where that is more: photographs as JPEG files reach 20, drawings as PNG files 50


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path whose file takes the place of ``path`` at the end.

    The temporary file lies in the same folder (made where it is missing); it is
    flushed to the disk and renamed in one step, so that a reader, a crash or a
    SIGKILL at any moment finds the old file or the new one and never a part. What a
    killed writer of the same file left beside it is deleted.

    Parameters
    ----------
    path
        The file to write.

    Yields
    ------
    Path
        Where to write the new content. It must exist when the block ends.

    Raises
    ------
    BaseException
        Whatever the block raises; ``path`` is then as it was before.

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
    _remove_those_of_killed_writers(target)
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
    """Give a new, empty folder that takes the place of ``path`` at the end.

    It lies beside it (in a folder made where it is missing), and is renamed once its files are written: ``path`` is the
    old folder, or the new one, or for the moment between two renames not there. What a killed writer of the same
    folder left is deleted.

    Parameters
    ----------
    path
        The folder to make. What is there is replaced.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    BaseException
        Whatever the block raises; ``path`` is then as it was before.

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
    _remove_those_of_killed_writers(target)
    for leftover in (temporary, old):  # of a writer that had this process's number, as in a container started again
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
    r"""Write a whole UTF-8 text file in one atomic replace.

    Parameters
    ----------
    path
        The file to write.
    text
        Its content.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a" / "b.txt"
    >>> write_text(target, "one line\n")
    >>> target.read_text()
    'one line\n'
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Delete the temporary files that killed writers left in a folder.

    Parameters
    ----------
    folder
        A folder that one process at a time writes to.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / ".a.txt.1.tmp").touch()
    >>> remove_leftovers(folder)
    >>> list(folder.iterdir())
    []
    """
    for leftover in Path(folder).glob(f".*{_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def check_growth(path: str | os.PathLike[str], claimed: int, there: int) -> None:
    """Refuse compressed content that says it unpacks to far more than it holds, before it is unpacked.

    A few kilobytes can be made to unpack to gigabytes, none of them worth anything.

    Parameters
    ----------
    path
        The file, for the error.
    claimed
        Bytes that its content says it unpacks to.
    there
        Bytes of the content as it is stored.

    Raises
    ------
    InputError
        Where more than 64 MiB are claimed and more than 100 times what is there.

    Examples
    --------
    >>> check_growth("zeros.npz", 10**9, 10**6)
    Traceback (most recent call last):
    sextet_common.errors.InputError: zeros.npz unpacks to 1000000000 bytes from 1000000; expected: at most 100000000
    """
    most = max(_FREE, _GROWTH * there)
    if claimed > most:
        raise InputError(f"{path} unpacks to {claimed} bytes from {there}", f"at most {most}")


def _remove_those_of_killed_writers(target: Path) -> None:
    """Delete the temporary files and folders of a target whose processes are no more."""
    form = re.compile(re.escape(f".{target.name}.") + r"(\d+)(?:\.old)?" + re.escape(_SUFFIX))
    with suppress(OSError):  # not every folder that can be written to can be listed
        for path in target.parent.iterdir():
            match = form.fullmatch(path.name)
            if match and not _is_running(int(match[1])):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    """Tell whether there is a process of this number; where asking would disturb it, as on Windows, suppose so."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no number of a process
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that the rename itself outlives a power cut."""
    with suppress(OSError):  # not every file system can open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
