"""The promises that every file reader must keep for any file content.

``@fuzz`` sets a test's number of examples: a few fixed ones, or as many new ones as the variable SEXTET_FUZZ_EXAMPLES
says. ``holds`` writes files into a folder, reads them and fails unless the reader returns a value or raises InputError,
opens or changes nothing outside the folder, opens no pickle, process or connection, and allocates at most ``MEMORY``.
hostile.py generates the malicious files.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from sextet_common.errors import InputError

MEMORY = 1 << 30  # bytes that a reader may allocate in all; valid files here have a few kilobytes
_ASKED = os.environ.get("SEXTET_FUZZ_EXAMPLES")
EXAMPLES = int(_ASKED or 25)

fuzz = settings(
    max_examples=EXAMPLES,
    derandomize=not _ASKED,
    deadline=None,
    print_blob=bool(_ASKED),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


def holds(
    read: Callable[[Path], Any],
    content: bytes | Mapping[str, bytes],
    name: str = "file",
    *,
    sound: Callable[[Any], object] = lambda value: None,
    valid: bool = False,
) -> Any:
    """Read hostile content and fail unless every promise is kept.

    Parameters
    ----------
    read
        Reads the path of the file or folder.
    content
        The file's bytes, or a folder's files by name (names may contain "/").
    name
        Name of the file or folder.
    sound
        Receives the value; raises if the reader must not return it.
    valid
        Whether the content is valid and must not be refused.

    Returns
    -------
    object
        The value, or None if the content was refused.
    """
    with tempfile.TemporaryDirectory() as root:
        given = Path(root, "given")
        given.mkdir()
        path = given / name
        files = {name: content} if isinstance(content, bytes) else {f"{name}/{k}": v for k, v in content.items()}
        for relative, each in files.items():
            target = given / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(each)
            for above in {given, Path(root)} - {target.parent}:  # so that a path that leaves the folder finds a file
                (above / target.name).write_bytes(each)
        allowed = path if path.is_dir() else given
        before = _outside(Path(root), allowed)
        value = None
        with _watched(allowed) as trespasses, _bounded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as for a user; as errors they would hide later failures
            try:
                value = read(path)
                sound(value)
            except InputError as error:
                str(error).encode("utf-8")  # it must be printable
                _not_for_want_of_memory(error)
                if valid:
                    raise
                value = None
        assert not trespasses, f"outside of the folder: {trespasses}"
        assert _outside(Path(root), allowed) == before
        return value


def _outside(root: Path, allowed: Path) -> dict[Path, bytes]:
    """Return every file below the root that is not in the folder."""
    found = (path for path in root.rglob("*") if path.is_file() and allowed not in path.parents)
    return {path: path.read_bytes() for path in found}


def _not_for_want_of_memory(error: BaseException) -> None:
    cause: BaseException | None = error
    while cause is not None:
        starved = isinstance(cause, MemoryError) or "allocate memory" in str(cause)
        assert not starved, f"more than {MEMORY} bytes were allocated: {error}"
        cause = cause.__cause__ or cause.__context__


@contextmanager
def _bounded() -> Iterator[None]:
    """Limit the growth of the process to MEMORY, on systems that support it."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = now + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (min(x for x in (limit, soft, hard) if x != resource.RLIM_INFINITY), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


_FORBIDDEN = (
    "pickle.find_class",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
    "socket.getaddrinfo",
)
_PATHS = {  # the arguments of an audit event that are paths
    "open": (0,), "os.listdir": (0,), "os.scandir": (0,), "os.remove": (0,), "os.rmdir": (0,), "os.mkdir": (0,),
    "os.rename": (0, 1), "os.link": (0, 1), "os.symlink": (0, 1), "os.truncate": (0,), "os.chmod": (0,),
    "shutil.rmtree": (0,), "shutil.copyfile": (0, 1), "shutil.move": (0, 1),
}  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ITS_OWN = ("/proc/", "/sys/", "/dev/", "/usr/share/zoneinfo/")
_watching: list[tuple[int, Path, list[str]]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or _watching[0][0] != threading.get_ident():
        return
    _, allowed, heard = _watching[0]
    if event in _FORBIDDEN:
        heard.append(f"{event} {arguments[:2]}")
    for position in _PATHS.get(event, ()):
        argument = arguments[position]
        if not isinstance(argument, str | bytes | os.PathLike):
            continue  # the number of a file that is open
        if not os.path.isabs(os.fsdecode(argument)) and _removes_a_tree():
            continue  # relative to a folder inside the one whose removal was heard
        path = os.path.abspath(os.fsdecode(argument))
        reads = event in ("os.listdir", "os.scandir") or (event == "open" and not arguments[2] & _WRITES)
        of_python = (sys.prefix, sys.base_prefix, *filter(None, sys.path))  # what is imported meanwhile
        if reads and path.startswith((*of_python, *_ITS_OWN)):
            continue
        if Path(path) != allowed and allowed not in Path(path).parents:
            heard.append(f"{event} {path}")


def _removes_a_tree() -> bool:
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code.co_name.startswith("_rmtree") and frame.f_code.co_filename == shutil.__file__:
            return True
    return False


sys.addaudithook(_hear)


@contextmanager
def _watched(allowed: Path) -> Iterator[list[str]]:
    """Collect what this thread does with files outside the folder, and with pickles, processes and the network."""
    heard: list[str] = []
    as_it_was, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a first import in a reader writes nothing
    _watching.append((threading.get_ident(), allowed, heard))
    try:
        yield heard
    finally:
        _watching.pop()
        sys.dont_write_bytecode = as_it_was
