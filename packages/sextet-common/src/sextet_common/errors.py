"""The one error that a user's input can cause."""

from __future__ import annotations

import importlib
from types import ModuleType


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
        self.given = given
        self.expected = expected
        super().__init__(f"{given}; expected: {expected}" if expected else given)


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
