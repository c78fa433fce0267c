"""Import every module of one installed package, so that an undeclared dependency fails.

nox runs ``python tools/probe.py gmr_metric`` before it installs extras and test dependencies. A module that belongs to
an extra, such as ``gmr_metric.torch``, may fail only because that extra's package is missing.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from importlib.metadata import requires


def module_names(top: str) -> list[str]:
    """Return the names of the package and all its modules except ``__main__``."""
    package = importlib.import_module(top)
    inside = pkgutil.walk_packages(package.__path__, prefix=f"{top}.")
    return [top, *(m.name for m in inside if not m.name.endswith("__main__"))]


def optional_packages(top: str) -> set[str]:
    """Return the names of the packages that only extras install."""
    lines = requires(top.replace("_", "-")) or []
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in lines if "extra ==" in line}


def main(top: str) -> None:
    """Import all modules and print their number."""
    names, optional = module_names(top), optional_packages(top)
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").lower() not in optional:
                raise
            print(f"{name} needs the extra that installs {error.name}")
    print(f"{top}: {len(names)} modules imported with only the declared dependencies")


if __name__ == "__main__":
    main(sys.argv[1])
