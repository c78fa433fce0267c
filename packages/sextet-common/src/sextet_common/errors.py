"""The one error that a user's input can cause, and what turns others into it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_TOLD = 300  # characters of another library's complaint that are passed on


class InputError(ValueError):
    """Input that cannot be used: says what was given and what is accepted.

    The command line prints it as one line and exits with code 2.

    Parameters
    ----------
    given
        What is wrong, naming the offending value, file or option.
    expected
        The accepted form, or the next step; empty where ``given`` says it all.

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


def require(module: str, *, package: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Parameters
    ----------
    module
        The module to import, ``"matplotlib.pyplot"``.
    package
        The distribution whose extra is missing, ``"sextet-common"``.
    extra
        The extra's name, ``"figures"``.

    Returns
    -------
    ModuleType
        The imported module.

    Raises
    ------
    InputError
        Where the module is not installed.

    Examples
    --------
    >>> require("json", package="sextet-common", extra="figures").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # installed, but one of its own dependencies is not: not ours to explain
        raise InputError(f"{module} is not installed", f"pip install '{package}[{extra}]'") from error


@contextmanager
def reading(path: str | os.PathLike[str], expected: str) -> Iterator[None]:
    """Turn whatever a file's content makes a parser raise into one error that names the file.

    A file that is missing, damaged or made to hurt can raise nearly anything inside the libraries that read it. What
    the block itself raises as InputError passes as it is.

    Parameters
    ----------
    path
        The file that the block reads.
    expected
        What it should be.

    Raises
    ------
    InputError
        In the place of any other exception; that one is its cause.

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
        told = " ".join(str(error).split())[:_TOLD] or type(error).__name__
        raise InputError(f"{path} cannot be read: {told}", expected) from error


def _printable(text: str) -> str:
    """Return text without halves of characters, which a JSON file can hold and no terminal takes."""
    return text.encode("utf-8", "backslashreplace").decode()
