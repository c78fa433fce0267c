"""Import every module of one installed package: an undeclared dependency fails here.

Run by nox before the extras and the test dependencies are installed:
``python tools/probe.py gmr_metric``. A module that is for an extra, such as
``gmr_metric.torch``, may say that this extra's package is missing, and nothing else.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from importlib.metadata import requires


def module_names(top: str) -> list[str]:
    """Return the package's name and those of all modules in it, but for ``__main__``."""
    package = importlib.import_module(top)
    inside = pkgutil.walk_packages(package.__path__, prefix=f"{top}.")
    return [top, *(m.name for m in inside if not m.name.endswith("__main__"))]


def optional_packages(top: str) -> set[str]:
    """Return the names of the packages that only an extra brings."""
    lines = requires(top.replace("_", "-")) or []
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in lines if "extra ==" in line}


def main(top: str) -> None:
    """Import all modules and say how many they were."""
    names, optional = module_names(top), optional_packages(top)
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").lower() not in optional:
                raise
            print(f"{name} waits for the extra that brings {error.name}")
    print(f"{top}: {len(names)} modules imported with its declared dependencies alone")


if __name__ == "__main__":
    main(sys.argv[1])
