"""Quality of the reductions: every method on a suite of more than a hundred mixtures.

``python benchmarks/bench_quality.py`` prints a table, writes results/quality.json and results/quality.png, and updates
the table in README.md, with the sentences of results/restarts.json (by `restarts`) below it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from gmr_metric import distance, reduce
from measure import one_core
from sextet_common import figures
from sextet_common.benchmarks import into_readme, store
from suite import Case, cases

HERE = Path(__file__).resolve().parent
TIE = 1e-6  # angles within this relative difference are equal
METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "oggmr": ("oggmr", {}),
    "oggmr, greedy alone": ("oggmr", {"refine": "none"}),
    "gmrc": ("gmrc", {}),
    "williams": ("williams", {}),
    "cowa": ("cowa", {}),
    "runnalls": ("runnalls", {}),
    "ctd, KL": ("ctd", {"cost": "kl"}),
    "ctd, CS": ("ctd", {"cost": "cs"}),
    "ctd, W2": ("ctd", {"cost": "w2"}),
    "salmond": ("salmond", {}),
    "west": ("west", {}),
    "threshold": ("threshold", {}),
    "prune": ("prune", {}),
    "brute-force (N 10)": ("brute-force", {}),
}


def measured(case: Case) -> dict[str, dict[str, float]]:
    """Reduce one mixture by every method."""
    results = {}
    for name, (method, options) in METHODS.items():
        if method == "brute-force" and len(case.mixture) > 10:
            continue
        began = time.process_time()
        reduced = reduce(case.mixture, case.n_components, method, **options).mixture
        seconds = time.process_time() - began
        ise = distance(case.mixture, reduced, "ise")
        results[name] = {"angle": distance(case.mixture, reduced), "ise": ise, "seconds": seconds}
    return results


def main() -> None:
    """Measure, print and store."""
    one_core()
    publish([row(case) for case in cases()])


def row(case: Case) -> dict:
    """Return a case's name, size and results."""
    results = measured(case)
    print(f"{case.name}, L {case.n_components}: {results['oggmr']['angle']:.4g}", flush=True)
    size = {"N": len(case.mixture), "d": case.mixture.dim, "L": case.n_components}
    return {"name": case.name, **size, "results": results}


def publish(rows: list[dict]) -> None:
    """Summarise the rows, and write the JSON, the picture and the table."""
    lines = [
        "| method | lowest angle of all | lowest with an ISE within Runnalls' | angle, median ratio to oggmr's "
        "| ISE below Runnalls' | median processor seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    shares = {}
    for name in METHODS:
        here = [row["results"] for row in rows if name in row["results"]]
        lowest = [r[name]["angle"] <= min(other["angle"] for other in r.values()) * (1 + TIE) for r in here]
        bounded = [_lowest_within(r, name) for r in here]
        ratio = float(np.median([r[name]["angle"] / max(r["oggmr"]["angle"], 1e-12) for r in here]))
        below = [r[name]["ise"] < r["runnalls"]["ise"] for r in here]
        seconds = float(np.median([r[name]["seconds"] for r in here]))
        shares[name] = {
            "lowest": np.mean(lowest),
            "bounded": np.mean(bounded),
            "ratio": ratio,
            "below": np.mean(below),
            "cases": len(here),
        }
        below_text = "" if name == "runnalls" else f"{np.mean(below):.1%}"
        lines.append(
            f"| {name} | {np.mean(lowest):.1%} | {np.mean(bounded):.1%} | {ratio:.3g} | {below_text} | {seconds:.3g} |"
        )
    starts = [(row["results"][name]["angle"] for name in ("oggmr", "oggmr, greedy alone")) for row in rows]
    above = [angle for angle, start in starts if angle > start * (1 + TIE)]
    summary = f"{len(rows)} reductions; oggmr above its own greedy start: {len(above)}"
    print("\n".join([summary, *lines]))
    store(HERE, "quality", {"summary": summary, "shares": shares, "rows": rows})
    picture(rows)
    restarts = json.loads((HERE / "results" / "restarts.json").read_text(encoding="utf-8"))["sentences"]
    text = "\n".join([f"{summary}.", "", *lines, "", *restarts])
    into_readme(HERE.parent / "README.md", "bench_quality", text)


def _lowest_within(results: dict[str, dict[str, float]], name: str) -> bool:
    """Return whether a method has the lowest angle of those whose squared error is at most Runnalls'."""
    most = results["runnalls"]["ise"] * (1 + TIE)
    angles = {other: r["angle"] for other, r in results.items() if r["ise"] <= most}
    return name in angles and angles[name] <= min(angles.values()) * (1 + TIE)


def picture(rows: list[dict]) -> None:
    """Draw a box plot of each method's angle relative to oggmr's, cut at a ratio of 30."""
    names = [name for name in METHODS if name not in ("oggmr",)]
    ratios = []
    for name in names:
        here = [row["results"] for row in rows if name in row["results"]]
        ratios.append([min(30.0, r[name]["angle"] / max(r["oggmr"]["angle"], 1e-12)) for r in here])
    with figures.figure_file(HERE / "results" / "quality.png", (6.5, 4.2)) as figure:
        axis = figure.subplots()
        median = {"color": figures.COLOURS[1]}
        axis.boxplot(ratios[::-1], orientation="horizontal", widths=0.6, showfliers=False, medianprops=median)
        axis.set_yticks(range(1, len(names) + 1), names[::-1])
        axis.set_xscale("log")
        ticks = [0.5, 1, 2, 5, 10, 20]
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        axis.axvline(1, color=figures.COLOURS[0], linewidth=1)
        axis.set_xlabel("angle over oggmr's (boxes: quartiles; whiskers: 1.5 boxes)")
        axis.grid(visible=False, axis="y")


if __name__ == "__main__":
    main()
