"""Files that are whole or not there: the one place that replaces a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SUFFIX = ".tmp"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path whose file takes the place of ``path`` at the end.

    The temporary file lies in the same folder (made where it is missing); it is
    flushed to the disk and renamed in one step, so that a reader, a crash or a
    SIGKILL at any moment finds the old file or the new one and never a part.

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
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
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


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that the rename itself outlives a power cut."""
    with suppress(OSError):  # not every file system can open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
