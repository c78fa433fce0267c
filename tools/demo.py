"""Run every package's examples/demo.py, as many at once as there are cores, and show the results on one page.

A demo takes ``--out FOLDER`` and writes result.json there: title, sentence, columns, rows, note and picture; and, if it
has them, number (the figure that counts), about (what it is) and pictures (file of each caption, shown instead of the
one picture). The page is self-contained and is written again whenever a demo ends. If a demo fails, the page shows its
error, the others still run, and the exit code is 1.
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
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import workspace
from sextet_common import files

# The longest first, so that no core is idle at the end.
LONGEST_FIRST = ("probmcl", "attention-matching", "subclass-kd", "d2m-generator", "esac", "gmr-metric")
STYLE = """
:root { color-scheme: light dark; --line: #8884; --accent: light-dark(#00695c, #4db6ac);
  --card: light-dark(#fff, #222); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem;
  background: light-dark(#f4f5f5, #161616); }
h1 { font-size: 1.6rem; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 0; }
h2 small { font-weight: normal; color: var(--accent); display: block; font-size: .9rem; }
main { columns: 2 27rem; column-gap: 1rem; }
section { break-inside: avoid; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 1rem; margin: 0 0 1rem; }
.number { font-size: 2rem; line-height: 1.2; color: var(--accent); margin: .5rem 0; }
.number small { display: block; font-size: .9rem; line-height: 1.4; color: CanvasText; }
figure { margin: .8rem 0; } figcaption { font-size: .85rem; opacity: .85; }
img { display: block; width: 100%; height: auto; background: #fff; border-radius: 4px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); font-size: .9rem; }
td + td { white-space: nowrap; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8881; padding: .6rem; border-radius: 4px; }
pre, .note { font-size: .85rem; }
.note { opacity: .85; } .failed { color: #d1495b; }
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
    pictures
        PNG file of each caption; empty if the demo failed.
    fault
        Last lines of the output if the demo failed.
    """

    package: str
    command: str
    seconds: float
    result: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    fault: str = ""


def run_demo(package: workspace.Package, out: Path, *, alone: bool) -> Shown:
    """Run one package's demo in an empty folder and read its result."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, str(package.path / "examples" / "demo.py"), "--out", str(out)]
    readable = f"python3 tools/dev.py demo --only {package.name}"
    began = time.perf_counter()
    # The networks are small: on a busy machine a second thread makes them many times slower.
    settings = {"OMP_NUM_THREADS": "1", **workspace.quiet_memory(), **os.environ}
    # The progress bar of a demo alone goes to the terminal; otherwise the output is kept for the page.
    stderr = None if alone and sys.stderr.isatty() else subprocess.PIPE
    done = subprocess.run(command, stderr=stderr, text=True, check=False, env=settings)
    seconds = time.perf_counter() - began
    if done.returncode == 0:
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        named = result.get("pictures", {result["title"]: result["picture"]})
        pictures = {caption: (out / file).read_bytes() for caption, file in named.items()}
        return Shown(package.name, readable, seconds, result, pictures)
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


def as_figure(caption: str, picture: bytes, *, titled: bool) -> str:
    """Format a picture with its caption, which a title on top of it may already say."""
    name, data = html.escape(caption), base64.b64encode(picture).decode()
    below = "" if titled else f"<figcaption>{name}</figcaption>"
    return f"<figure><img alt='{name}' src='data:image/png;base64,{data}'>{below}</figure>"


def as_html(shown: Shown) -> str:
    """Format a result as a card of the page."""
    name = html.escape(shown.package)
    command = f"<pre>{html.escape(shown.command)}</pre><p class='note'>{shown.seconds:.0f} seconds</p>"
    if shown.fault:
        body = f"<p class='failed'>This demo failed.</p><pre>{html.escape(shown.fault)}</pre>{command}"
        return f"<section><h2>{name}</h2>{body}</section>"
    result = {key: html.escape(value) if isinstance(value, str) else value for key, value in shown.result.items()}
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in result["columns"])
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in result["rows"])
    number = f"<p class='number'>{result['number']} <small>{result['about']}</small></p>" if "number" in result else ""
    figures = (as_figure(*each, titled=each[0] == shown.result["title"]) for each in shown.pictures.items())
    return (
        f"<section><h2>{result['title']}<small>{name}</small></h2>{number}<p>{result['sentence']}</p>"
        f"{''.join(figures)}"
        f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f"<p class='note'>{result['note']}</p>{command}</section>"
    )


def page(parts: list[Shown], waiting: list[str] | None = None) -> str:
    """Return the whole page, without scripts or external resources; while demos run, a browser reads it again."""
    body = "".join(as_html(shown) for shown in parts)
    still = f"<p class='note'>Still to come: {html.escape(', '.join(waiting))}.</p>" if waiting else ""
    again = "<meta http-equiv='refresh' content='5'>" if waiting else ""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Sextet: the demo</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'>{again}"
        f"<link rel='icon' href='data:,'><style>{STYLE}</style></head><body><h1>Sextet: the demo</h1>"
        f"<p>Each package's main job, run on this machine, on real data that ships with a dependency.</p>{still}"
        f"<main>{body}</main></body></html>\n"
    )


def run_demos(packages: list[workspace.Package], out: Path, jobs: int) -> list[Shown]:
    """Run the demos side by side, the longest first; print each result and write the page when one ends."""
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    parts: dict[str, Shown] = {}
    with ThreadPoolExecutor(jobs) as pool:
        queue = sorted(packages, key=lambda package: ranks.get(package.name, len(ranks)))
        alone = len(packages) == 1
        futures = [pool.submit(run_demo, package, out / package.name, alone=alone) for package in queue]
        try:
            for future in as_completed(futures):
                shown = future.result()
                parts[shown.package] = shown
                print(f"\n{as_text(shown)}", flush=True)
                waiting = [package.name for package in packages if package.name not in parts]
                done = [parts[package.name] for package in packages if package.name in parts]
                files.write_text(out / "index.html", page(done, waiting))
        finally:
            pool.shutdown(cancel_futures=True)
    return done


def main(words: list[str]) -> int:
    """Run the demos, print their tables, write the page and return the exit code."""
    packages = workspace.discover()
    scripted = [p for p in packages.values() if (p.path / "examples" / "demo.py").exists()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(prog="demo", description="Run the main jobs on real data.")
    parser.add_argument("--only", metavar="PACKAGE", choices=[p.name for p in scripted], help="one package's demo")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=workspace.ROOT / "demo", help="where to write")
    parser.add_argument("--jobs", metavar="N", type=int, default=cores, help="demos at once; by default one per core")
    chosen = parser.parse_args(words)
    if chosen.jobs < 1:
        parser.error(f"--jobs {chosen.jobs}: at least 1")
    wanted = [package for package in scripted if chosen.only in (None, package.name)]
    print(f"running {len(wanted)} demos, {min(chosen.jobs, len(wanted))} at a time ...", flush=True)
    shown = run_demos(wanted, chosen.out, chosen.jobs)
    print(chosen.out / "index.html")
    return 1 if any(part.fault for part in shown) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
