"""How long each package takes to import, and which heavy modules that pulls.

``python tools/imports.py`` runs ``python -X importtime -c "import X"`` five times for each package, in fresh processes
and in turn, and prints a table; ``python tools/imports.py gmr_metric`` does so for one. Exit code 1 where an import
pulls a heavy module that is not in ``NEEDED``. It needs the packages installed, and else the standard library alone.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable

import workspace

HEAVY = {
    "PIL", "diffusers", "gymnasium", "matplotlib", "mujoco", "numba", "pandas", "ray", "scipy", "sklearn", "timm",
    "torch", "torchmetrics", "torchvision", "transformers", "triton", "tyro",
}  # fmt: skip

# What `import X` may pull of these, by package: the only place where that is decided.
NEEDED: dict[str, frozenset[str]] = {
    "sextet_common": frozenset(),
    "gmr_metric": frozenset(),  # its names are imported when they are first used
    "esac": frozenset(),  # so are its: workers need no torch
    "attention_matching": frozenset({"torch"}),
    "d2m_generator": frozenset({"torch"}),  # a GAN needs no diffusers
    "probmcl": frozenset({"PIL", "torch"}),
    "subclass_kd": frozenset({"PIL", "torch", "tyro"}),  # tyro's marks stand in the settings' types
}

_LINE = re.compile(r"import time:\s*\d+ \|\s*(\d+) \|\s*(\S+)$")


def parse(report: str, module: str) -> tuple[float, set[str]]:
    """Read what ``-X importtime`` wrote: a module's seconds with all that it imports, and the heavy ones among these.

    >>> report = '''import time: self [us] | cumulative | imported package
    ... import time:       100 |        200 |     torch.nn
    ... import time:       300 |    1500000 | gmr_metric
    ... import time:         5 |          5 | atexit'''
    >>> parse(report, "gmr_metric")
    (1.5, {'torch'})
    """
    lines = [match for match in map(_LINE.match, report.splitlines()) if match]
    (seconds,) = (int(match[1]) / 1e6 for match in lines if match[2] == module)
    return seconds, {top for match in lines if (top := match[2].partition(".")[0]) in HEAVY}


def measure(module: str) -> tuple[float, set[str]]:
    """Import a module in a fresh process."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"import {module} failed: {done.stderr.strip().splitlines()[-1]}")
    return parse(done.stderr, module)


def table(found: dict[str, list[tuple[float, set[str]]]]) -> str:
    """Return a Markdown table of medians.

    >>> print(table({"gmr_metric": [(0.3, set()), (0.1, set()), (0.2, set())], "probmcl": [(2.0, {"torch", "PIL"})]}))
    | import | median seconds | heavy modules |
    | --- | --- | --- |
    | gmr_metric | 0.200 | none |
    | probmcl | 2.000 | PIL, torch |
    """
    rows = ["| import | median seconds | heavy modules |", "| --- | --- | --- |"]
    for module, runs in found.items():
        pulled = sorted(set().union(*(heavy for _, heavy in runs)))
        seconds = statistics.median(seconds for seconds, _ in runs)
        rows.append(f"| {module} | {seconds:.3f} | {', '.join(pulled) or 'none'} |")
    return "\n".join(rows)


def main(words: Iterable[str]) -> int:
    """Measure, print the table and return the exit code."""
    known = [package.module for package in workspace.discover().values()]
    parser = argparse.ArgumentParser(prog="imports.py", description="Measure what importing each package costs.")
    parser.add_argument("modules", metavar="MODULE", nargs="*", help="all where not given")
    parser.add_argument("--runs", type=int, default=5, help="fresh processes for each")
    options = parser.parse_args(list(words))
    modules = options.modules or known
    if unknown := set(modules) - set(known):
        parser.error(f"no package has the module {', '.join(sorted(unknown))}: one of {', '.join(known)}")
    found: dict[str, list[tuple[float, set[str]]]] = {module: [] for module in modules}
    for _ in range(options.runs):
        for module in modules:  # in turn, so that a busy minute spoils one run of each and not all of one
            found[module].append(measure(module))
    print(table(found))
    code = 0
    for module, runs in found.items():
        if more := set().union(*(heavy for _, heavy in runs)) - NEEDED[module]:
            print(f"import {module} pulls {', '.join(sorted(more))}, and need not", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
