"""The packages of the workspace with their versions and dependencies, read from ``packages/*/pyproject.toml``.

The noxfile, the release tool and the tests share this module, so that no list of packages is kept by hand. It uses only
the standard library.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?\s*\(?([^;)]*)")


@dataclass(frozen=True)
class Package:
    """A package below ``packages/``.

    Parameters
    ----------
    name
        Distribution name, ``gmr-metric``.
    module
        Import name, ``gmr_metric``.
    version
        The version in pyproject.toml.
    path
        The package's folder.
    needs
        Required packages of the workspace with their version ranges: ``{"sextet-common": ">=0.1,<1"}``.
    extras
        Names of the optional dependency sets.
    """

    name: str
    module: str
    version: str
    path: Path
    needs: dict[str, str]
    extras: tuple[str, ...]

    @property
    def pyproject(self) -> Path:
        """The package's pyproject.toml."""
        return self.path / "pyproject.toml"


def normalize(name: str) -> str:
    """Normalise a distribution name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_requirement(text: str) -> tuple[str, str]:
    """Split ``"name[extra]>=1; marker"`` into ``("name", ">=1")``."""
    match = _REQUIREMENT.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a requirement such as 'numpy>=2'")
    return normalize(match[1]), match[3].replace(" ", "")


def discover(root: Path = ROOT) -> dict[str, Package]:
    """Return all packages, dependencies before dependants and otherwise by name."""
    tables = {}
    for pyproject in sorted(root.glob("packages/*/pyproject.toml")):
        table = tomllib.loads(pyproject.read_text(encoding="utf-8"))
        tables[normalize(table["project"]["name"])] = (pyproject.parent, table)
    packages = {}
    for name, (path, table) in tables.items():
        project = table["project"]
        declared = list(project.get("dependencies", ()))
        for extra in project.get("optional-dependencies", {}).values():
            declared += extra
        ranges: dict[str, dict[str, None]] = {}  # an extra may repeat a package with other limits
        for needed, limits in map(parse_requirement, declared):
            ranges.setdefault(needed, {}).update(dict.fromkeys(filter(None, limits.split(","))))
        (module,) = (Path(p).name for p in table["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
        packages[name] = Package(
            name=name,
            module=module,
            version=project["version"],
            path=path,
            needs={n: ",".join(r) for n, r in ranges.items() if n in tables and n != name},
            extras=tuple(project.get("optional-dependencies", ())),
        )
    order = TopologicalSorter({n: sorted(p.needs) for n, p in sorted(packages.items())})
    return {name: packages[name] for name in order.static_order()}


def closure(packages: dict[str, Package], name: str) -> list[Package]:
    """Return a package and the packages it needs, itself last."""
    chosen = {name}
    for package in reversed(packages.values()):
        if package.name in chosen:
            chosen |= set(package.needs)
    return [p for p in packages.values() if p.name in chosen]


def quiet_memory() -> dict[str, str]:
    """Return glibc's settings that keep freed memory: torch on a CPU asks for it again in every step."""
    return {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31)}


def dependants(packages: dict[str, Package], name: str) -> list[Package]:
    """Return the packages that require ``name`` directly."""
    return [p for p in packages.values() if name in p.needs]


def editables(packages: list[Package], *, extras: bool = False) -> list[str]:
    """Return the installer's arguments for editable installations, optionally with all extras."""
    arguments = []
    for package in packages:
        suffix = f"[{','.join(package.extras)}]" if extras and package.extras else ""
        arguments += ["-e", f"{package.path}{suffix}"]
    return arguments


def share_bytecode(environment: Path, others: Iterable[Path]) -> int:
    """Link the bytecode that other environments have of the files of this one, and return the number of links.

    Without it the first import of torch and its kind compiles for seconds. Bytecode holds its source's time and size,
    which the installer keeps where it links files of its cache into every environment.
    """

    def stamp(bytecode: Path) -> tuple[int, int]:
        source = os.stat(f"{bytecode.parent.parent / bytecode.name.partition('.')[0]}.py")
        return source.st_mtime_ns, source.st_size

    links = 0
    for other in others:
        for compiled in other.glob("lib/python*/site-packages/**/__pycache__/*.pyc"):
            own = environment / compiled.relative_to(other)
            with suppress(OSError):  # this environment has no such file, or its bytecode already
                if stamp(own) == stamp(compiled):
                    own.parent.mkdir(exist_ok=True)
                    os.link(compiled, own)
                    links += 1
    return links
