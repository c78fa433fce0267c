"""What the workspace holds: every package, its version and who needs whom.

Read from ``packages/*/pyproject.toml`` with the standard library alone, so that
the noxfile, the release tool and the tests all ask one place and no list of
packages is kept by hand.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?\s*\(?([^;)]*)")


@dataclass(frozen=True)
class Package:
    """One folder below ``packages/``.

    Parameters
    ----------
    name
        The distribution's name, ``gmr-metric``.
    module
        The import name, ``gmr_metric``.
    version
        The version that pyproject.toml states.
    path
        The package's folder.
    needs
        The siblings that it requires, each with its version range:
        ``{"sextet-common": ">=0.1,<1"}``.
    extras
        The names of its optional dependency sets.
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
    """Spell a distribution's name the way indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_requirement(text: str) -> tuple[str, str]:
    """Split ``"name[extra]>=1; marker"`` into ``("name", ">=1")``."""
    match = _REQUIREMENT.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a requirement such as 'numpy>=2'")
    return normalize(match[1]), match[3].replace(" ", "")


def discover(root: Path = ROOT) -> dict[str, Package]:
    """Find every package, dependencies before dependants and else by name."""
    tables = {}
    for pyproject in sorted(root.glob("packages/*/pyproject.toml")):
        table = tomllib.loads(pyproject.read_text(encoding="utf-8"))
        tables[normalize(table["project"]["name"])] = (pyproject.parent, table)
    found = {}
    for name, (path, table) in tables.items():
        project = table["project"]
        declared = list(project.get("dependencies", ()))
        for extra in project.get("optional-dependencies", {}).values():
            declared += extra
        ranges: dict[str, dict[str, None]] = {}  # an extra may name a sibling again, with the same or other limits
        for needed, limits in map(parse_requirement, declared):
            ranges.setdefault(needed, {}).update(dict.fromkeys(filter(None, limits.split(","))))
        (module,) = (Path(p).name for p in table["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
        found[name] = Package(
            name=name,
            module=module,
            version=project["version"],
            path=path,
            needs={n: ",".join(r) for n, r in ranges.items() if n in tables and n != name},
            extras=tuple(project.get("optional-dependencies", ())),
        )
    order = TopologicalSorter({n: sorted(p.needs) for n, p in sorted(found.items())})
    return {name: found[name] for name in order.static_order()}


def closure(packages: dict[str, Package], name: str) -> list[Package]:
    """Return a package and all siblings it needs, itself last."""
    wanted = {name}
    for package in reversed(packages.values()):
        if package.name in wanted:
            wanted |= set(package.needs)
    return [p for p in packages.values() if p.name in wanted]


def dependants(packages: dict[str, Package], name: str) -> list[Package]:
    """Return the packages that require ``name`` directly."""
    return [p for p in packages.values() if name in p.needs]


def editables(packages: list[Package], *, extras: bool = False) -> list[str]:
    """Return the installer's arguments that install these packages from the tree, with all their extras if wanted."""
    arguments = []
    for package in packages:
        wanted = f"[{','.join(package.extras)}]" if extras and package.extras else ""
        arguments += ["-e", f"{package.path}{wanted}"]
    return arguments
