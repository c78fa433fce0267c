"""Measure the processor time of every package's import and ``--help``, and list the heavy modules they load.

``python tools/imports.py`` runs ``import X`` and ``python -m X --help`` five times for each package, alternating and in
new processes, and prints a table; ``python tools/imports.py gmr_metric`` measures one package. The exit code is 1 if a
heavy module is loaded: none is needed before a name of the package is used. The packages must be installed.
"""

from __future__ import annotations

import argparse
import os
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
_LINE = re.compile(r"import time:\s*\d+ \|\s*\d+ \|\s*(\S+)$")


def heavy_imports(report: str) -> set[str]:
    """Return the heavy modules in a report of ``-X importtime``.

    >>> report = '''import time: self [us] | cumulative | imported package
    ... import time:       100 |        200 |     torch.nn
    ... import time:       300 |    1500000 | gmr_metric'''
    >>> heavy_imports(report)
    {'torch'}
    """
    lines = [match for match in map(_LINE.match, report.splitlines()) if match]
    return {top for match in lines if (top := match[1].partition(".")[0]) in HEAVY}


def measure(*words: str) -> tuple[float, set[str]]:
    """Run python with these arguments in a new process; return its processor seconds and the heavy modules it loads."""
    before = os.times()
    done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=False)
    after = os.times()
    if done.returncode:
        raise SystemExit(f"python {' '.join(words)} failed: {done.stderr.strip().splitlines()[-1]}")
    seconds = after.children_user - before.children_user + after.children_system - before.children_system
    return seconds, heavy_imports(done.stderr)


def commands(module: str) -> tuple[tuple[str, ...], ...]:
    """Return the measured commands of a package: its import and its help.

    >>> commands("esac")
    (('-c', 'import esac'), ('-m', 'esac', '--help'))
    """
    return ("-c", f"import {module}"), ("-m", module, "--help")


def table(measured: dict[str, list[tuple[float, set[str]]]]) -> str:
    """Return a Markdown table of medians.

    >>> print(table({"-c import esac": [(0.3, set()), (0.1, set())], "-m esac --help": [(2.0, {"torch"})]}))
    | python | median processor seconds | heavy modules |
    | --- | --- | --- |
    | -c import esac | 0.200 | none |
    | -m esac --help | 2.000 | torch |
    """
    rows = ["| python | median processor seconds | heavy modules |", "| --- | --- | --- |"]
    for command, runs in measured.items():
        heavy = sorted(set().union(*(heavy for _, heavy in runs)))
        rows.append(f"| {command} | {statistics.median(s for s, _ in runs):.3f} | {', '.join(heavy) or 'none'} |")
    return "\n".join(rows)


def main(words: Iterable[str]) -> int:
    """Measure, print the table and return the exit code."""
    known = [package.module for package in workspace.discover().values()]
    parser = argparse.ArgumentParser(prog="imports.py", description="Measure what importing each package costs.")
    parser.add_argument("modules", metavar="MODULE", nargs="*", help="all packages by default")
    parser.add_argument("--runs", type=int, default=5, help="new processes for each")
    options = parser.parse_args(list(words))
    if unknown := set(options.modules) - set(known):
        parser.error(f"no package has the module {', '.join(sorted(unknown))}: one of {', '.join(known)}")
    measured: dict[str, list[tuple[float, set[str]]]] = {}
    for _ in range(options.runs):  # alternating, so that a busy minute affects one run of each
        for module in options.modules or known:
            for command in commands(module):
                measured.setdefault(" ".join(command), []).append(measure(*command))
    print(table(measured))
    return int(any(heavy for runs in measured.values() for _, heavy in runs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
