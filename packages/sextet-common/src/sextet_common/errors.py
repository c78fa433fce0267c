"""The exception for invalid input, and functions that convert other exceptions to it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_MAX_DETAIL = 300  # characters of another library's message that are kept


class InputError(ValueError):
    """Invalid input: says what was given and what is accepted. A command line prints it as one line and exits with 2.

    ``given`` is what is wrong, with the offending value, file or option. ``expected`` is the accepted form or the next
    step; it may be empty.

    Examples
    --------
    >>> raise InputError("ipc is 0", "a whole number >= 1")
    Traceback (most recent call last):
    sextet_common.errors.InputError: ipc is 0; expected: a whole number >= 1
    """

    def __init__(self, given: str, expected: str = "") -> None:
        self.given = _printable(given)
        self.expected = _printable(expected)
        super().__init__(f"{self.given}; expected: {self.expected}" if expected else self.given)


class DataWarning(UserWarning):
    """Part of a data set was ignored, skipped or split."""


def require(module: str, *, package: str, extra: str) -> ModuleType:
    """Import an optional dependency; if it is missing, name the extra that installs it.

    Examples
    --------
    >>> require("json", package="sextet-common", extra="figures").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module is installed, one of its dependencies is not
        raise InputError(f"{module} is not installed", f"pip install '{package}[{extra}]'") from error


@contextmanager
def reading(path: str | os.PathLike[str], expected: str) -> Iterator[None]:
    """Convert any exception raised while reading a file to one InputError that names the file and what it should be.

    Parsers raise nearly any exception for missing, damaged or malicious files. An InputError raised in the block passes
    unchanged; any other exception becomes its cause.

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
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or path} does not exist", expected) from None
    except IsADirectoryError as error:
        raise InputError(f"{error.filename or path} is a folder", expected) from None
    except Exception as error:
        detail = " ".join(str(error).split())[:_MAX_DETAIL] or type(error).__name__
        raise InputError(f"{path} cannot be read: {detail}", expected) from error


def _printable(text: str) -> str:
    """Escape lone surrogates, which JSON allows but a terminal cannot print."""
    return text.encode("utf-8", "backslashreplace").decode()
