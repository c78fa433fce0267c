"""Run every package's examples/demo.py and show the results on one self-contained page.

A demo takes ``--out FOLDER`` and writes result.json (title, sentence, columns, rows, note, picture) and the picture
there. If a demo fails, the page shows its error, the others still run, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import workspace

STYLE = """
:root { color-scheme: light dark; --line: #8884; --accent: #0b6e99; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } 
h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h2 small { font-weight: normal; color: var(--accent); display: block; font-size: .9rem; }
img { width: 100%; height: auto; background: #fff; border-radius: 4px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
pre { overflow-x: auto; background: #8881; padding: .6rem; border-radius: 4px; font-size: .85rem; }
.note { font-size: .85rem; opacity: .8; } .failed { color: #d1495b; }
"""


@dataclass(frozen=True)
class Shown:
    """Result of one package's demo.

    Parameters
    ----------
    package
        The package's name.
    command
        Command that a reader can run.
    seconds
        Duration.
    result
        Content of result.json; empty if the demo failed.
    picture
        The PNG file's bytes; empty if the demo failed.
    fault
        Last lines of the output if the demo failed.
    """

    package: str
    command: str
    seconds: float
    result: dict[str, Any] = field(default_factory=dict)
    picture: bytes = b""
    fault: str = ""


def run_demo(package: workspace.Package, out: Path) -> Shown:
    """Run one package's demo in an empty folder and read its result."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, str(package.path / "examples" / "demo.py"), "--out", str(out)]
    readable = f"python3 tools/dev.py demo --only {package.name}"
    began = time.perf_counter()
    # The networks are small: on a busy machine a second thread makes them many times slower.
    settings = {"OMP_NUM_THREADS": "1", **os.environ}
    # Progress bars go to a terminal directly; otherwise the output is kept for the page.
    stderr = None if sys.stderr.isatty() else subprocess.PIPE
    done = subprocess.run(command, stderr=stderr, text=True, check=False, env=settings)
    seconds = time.perf_counter() - began
    if done.returncode == 0:
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        return Shown(package.name, readable, seconds, result, (out / result["picture"]).read_bytes())
    output = (done.stderr or "").strip().splitlines()[-12:]
    fault = "\n".join([*output, f"exit code {done.returncode}"])
    return Shown(package.name, readable, seconds, fault=fault)


def as_text(shown: Shown) -> str:
    """Format a result as a plain table for the terminal."""
    if shown.fault:
        return f"{shown.package}: FAILED\n{shown.fault}\n"
    table = [shown.result["columns"], *shown.result["rows"]]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([f"{shown.package}: {shown.result['title']}", "", *lines, "", shown.result["sentence"], ""])


def as_html(shown: Shown) -> str:
    """Format a result as a section of the page."""
    name = html.escape(shown.package)
    command = f"<pre>{html.escape(shown.command)}</pre><p class='note'>{shown.seconds:.0f} seconds</p>"
    if shown.fault:
        body = f"<p class='failed'>This demo failed.</p><pre>{html.escape(shown.fault)}</pre>{command}"
        return f"<section><h2>{name}</h2>{body}</section>"
    result = shown.result
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in result["columns"])
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in result["rows"])
    picture = base64.b64encode(shown.picture).decode()
    return (
        f"<section><h2>{html.escape(result['title'])}<small>{name}</small></h2><p>{html.escape(result['sentence'])}</p>"
        f"<img alt='{html.escape(result['title'])}' src='data:image/png;base64,{picture}'>"
        f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f"<p class='note'>{html.escape(result['note'])}</p>{command}</section>"
    )


def page(parts: list[Shown]) -> str:
    """Return the whole page, without scripts or external resources."""
    body = "".join(as_html(shown) for shown in parts)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Sextet: the demo</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<link rel='icon' href='data:,'><style>{STYLE}</style></head><body><h1>Sextet: the demo</h1>"
        f"<p>Each package's main job, run on this machine, on real data that ships with a dependency.</p>{body}"
        "</body></html>\n"
    )


def main(words: list[str]) -> int:
    """Run the demos, print their tables, write the page and return the exit code."""
    packages = workspace.discover()
    scripted = [p for p in packages.values() if (p.path / "examples" / "demo.py").exists()]
    parser = argparse.ArgumentParser(prog="demo", description="Run the main jobs on real data.")
    parser.add_argument("--only", metavar="PACKAGE", choices=[p.name for p in scripted], help="one package's demo")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=workspace.ROOT / "demo", help="where to write")
    chosen = parser.parse_args(words)
    parts = []
    for package in scripted:
        if chosen.only in (None, package.name):
            print(f"{package.name}: running its demo ...", flush=True)
            parts.append(run_demo(package, chosen.out / package.name))
            print(f"\n{as_text(parts[-1])}", flush=True)
            if parts[-1].picture:
                (chosen.out / f"{package.name}.png").write_bytes(parts[-1].picture)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "index.html").write_text(page(parts), encoding="utf-8")
    print(chosen.out / "index.html")
    return 1 if any(shown.fault for shown in parts) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
