"""Import every module of one installed package: an undeclared dependency fails here.

Run by nox before the test dependencies are installed: ``python tools/probe.py gmr_metric``.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys


def module_names(top: str) -> list[str]:
    """Return the package's name and those of all modules in it, but for ``__main__``."""
    package = importlib.import_module(top)
    inside = pkgutil.walk_packages(package.__path__, prefix=f"{top}.")
    return [top, *(m.name for m in inside if not m.name.endswith("__main__"))]


def main(top: str) -> None:
    """Import all modules and say how many they were."""
    names = module_names(top)
    for name in names:
        importlib.import_module(name)
    print(f"{top}: {len(names)} modules imported with its declared dependencies alone")


if __name__ == "__main__":
    main(sys.argv[1])
