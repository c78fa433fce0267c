"""The exception for invalid input, and functions that convert other exceptions to it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_MAX_DETAIL = 300  # characters of another library's message that are kept
_MAX_MESSAGE = 1200  # characters of one of the parts of an error
_PARSING = (OSError, ValueError, EOFError, OverflowError, MemoryError, RecursionError)
_PARSERS = (
    ("csv", "Error"),
    ("lzma", "LZMAError"),
    ("pickle", "UnpicklingError"),
    ("struct", "error"),
    ("xml.etree.ElementTree", "ParseError"),
    ("zipfile", "BadZipFile"),
    ("zlib", "error"),
    ("PIL.Image", "DecompressionBombError"),
    ("safetensors", "SafetensorError"),
)
#: What indexing a parsed document of another form raises; for `reading` around that indexing alone.
STRUCTURE = (KeyError, IndexError, TypeError, AttributeError)


class InputError(ValueError):
    """Invalid input: what is wrong, with the value, file or option, and the accepted form or next step, if any.

    A command prints it as one line and exits with 2.
    """

    def __init__(self, given: str, expected: str = "") -> None:
        self.given = _printable(given)
        self.expected = _printable(expected)
        super().__init__(f"{self.given}; expected: {self.expected}" if expected else self.given)


class DataWarning(UserWarning):
    """Part of a data set was ignored, skipped or split."""


def require(module: str, *, package: str, extra: str) -> ModuleType:
    """Import an optional dependency; if it is missing, name the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module is installed, one of its dependencies is not
        raise InputError(f"{module} is not installed", f"pip install '{package}[{extra}]'") from error


@contextmanager
def reading(path: str | os.PathLike[str], expected: str, *also: type[Exception]) -> Iterator[None]:
    """Convert what parsers raise for missing, damaged or malicious files to one InputError that names the file.

    An InputError passes unchanged; so does any exception that is not a parser's or in ``also``, such as a missing
    attribute of anything but plain data: it is a bug, not bad input. Keep the block as small as the parsing.

    Examples
    --------
    >>> with reading("weights.json", "a table of numbers"):
    ...     int("seven")
    Traceback (most recent call last):
    sextet_common.errors.InputError: weights.json cannot be read: invalid ... 'seven'; expected: a table of numbers
    """
    try:
        yield
    except InputError:
        raise
    except (FileNotFoundError, IsADirectoryError) as error:
        fault = "is a folder" if isinstance(error, IsADirectoryError) else "does not exist"
        raise InputError(f"{error.filename or path} {fault}", expected) from None
    except Exception as error:
        if not isinstance(error, (*_PARSING, *_of_imported_parsers(), *also)) or _is_of_our_objects(error):
            raise
        named, detail = path, " ".join(str(error).split())[:_MAX_DETAIL]
        if isinstance(error, OSError) and error.strerror:
            named, detail = error.filename or path, error.strerror
        raise InputError(f"{named} cannot be read: {detail or type(error).__name__}", expected) from error


def _is_of_our_objects(error: Exception) -> bool:
    """Return whether an attribute is missing of anything but plain data, where it is the code that is wrong."""
    if not isinstance(error, AttributeError):
        return False
    kind = type(error.obj)
    return error.name is None or kind is ModuleType or kind.__module__ not in ("builtins", "numpy", "torch")


def _of_imported_parsers() -> Iterator[type[Exception]]:
    """Yield the exceptions of parsers; a module that is not imported has raised none."""
    for module, name in _PARSERS:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type):
            yield kind


def _printable(message: str) -> str:
    """Return a message on one line, without control characters and of limited length."""
    from sextet_common import text  # not at the top: most programs raise no error

    return text.terminal(" ".join(message.splitlines()), _MAX_MESSAGE)
