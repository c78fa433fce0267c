"""Tables and pictures of bench_learning.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from esac.statistics import Interval, interval, iqm, on_grid, probability_of_improvement
from sextet_common.benchmarks import into_readme, machine
from sextet_common.figures import COLOURS, figure_file

Runs = Mapping[str, list[dict[str, Any]]]
COLUMNS = ("ESAC", "ES", "SAC", "SB3 SAC", "SB3 SAC, discount 0.9999")
OTHERS = COLUMNS[1:]


def finals(runs: Runs, env: str, method: str) -> np.ndarray:
    """Return the mean of the last episodes of each run."""
    return np.array([np.mean(run["final"]) for run in runs[f"{env} {method}"]])


def number(value: float) -> str:
    """Return a return with as many digits as matter."""
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"


def cell(values: np.ndarray) -> str:
    """Return the interquartile mean with its interval."""
    if len(values) == 1:
        return f"{number(values[0])}, one seed"
    mean: Interval = interval(iqm, values)
    return f"{number(mean.value)} ({number(mean.low)} to {number(mean.high)})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def write(package: Path, runs: Runs, seconds: Mapping[str, float], parts: Sequence[str]) -> None:
    """Put the tables into the README, and draw the picture."""
    named = {env: f"{env}, {budget:g} s" for env, budget in seconds.items()}
    methods = {env: [m for m in COLUMNS if f"{env} {m}" in runs] for env in seconds}
    columns = [m for m in COLUMNS if any(m in of_env for of_env in methods.values())]
    rows = [
        [named[env], *(cell(finals(runs, env, m)) if m in methods[env] else "" for m in columns)] for env in seconds
    ]
    lines = table(["environment, processor seconds of a run", *columns], rows)
    rows = []
    for env in seconds:
        steps = {m: np.mean([run["rows"][-1][1] for run in runs[f"{env} {m}"]]) for m in methods[env]}
        share = np.mean([run["rows"][-1][3] / run["rows"][-1][1] for run in runs[f"{env} ESAC"]])
        better = {
            m: f"{probability_of_improvement(finals(runs, env, 'ESAC'), finals(runs, env, m)):.2f}"
            for m in methods[env][1:4]
        }
        rows.append([env, *(f"{steps[m]:,.0f}" for m in COLUMNS[:4]), f"{100 * share:.1f} %", *better.values()])
    head = ["environment", *(f"steps of {m}" for m in COLUMNS[:4]), "of ESAC's by gradients"]
    lines += ["", *table([*head, *(f"P(ESAC > {m})" for m in COLUMNS[1:4])], rows)]
    changed = [env for env in seconds if all(f"{env} {part}" in runs for part in parts)]
    if parts and changed:
        seeds = {env: min(len(runs[f"{env} {part}"]) for part in parts) for env in changed}  # the same ones for all
        rows = [
            [name, *(cell(finals(runs, env, name)[:count]) for env, count in seeds.items())]
            for name in ("ESAC", *parts)
        ]
        heads = [f"{env}, seeds 0 to {count - 1}" for env, count in seeds.items()]
        lines += ["", *table(["ESAC with one thing changed", *heads], rows)]
    injected = [env for env in seconds if f"{env} injection" in runs]
    rows = [[named[env], *(cell(finals(runs, env, m)) for m in ("ESAC", "injection"))] for env in injected]
    lines += ["", *table(["environment, processor seconds of a run", "ESAC", "with one injected member"], rows)]
    lines += ["", "Interquartile means with 95 % bootstrap intervals over seeds: the best policy by five evaluation "
              f"episodes, in ten fresh ones; `python benchmarks/bench_learning.py` on {machine()}."]  # fmt: skip
    into_readme(package / "README.md", "bench_learning", "\n".join(lines))
    draw(package / "images" / "learning.png", runs, seconds, methods)


def draw(path: Path, runs: Runs, seconds: Mapping[str, float], methods: Mapping[str, Sequence[str]]) -> None:
    """Draw the best evaluation so far over processor seconds."""
    path.parent.mkdir(exist_ok=True)
    with figure_file(path, (13.0, 6.4)) as figure:
        panels = figure.subplots(2, 4).ravel()
        panels[-1].remove()
        for axis, env in zip(panels[:-1], seconds, strict=True):
            for method in methods[env]:
                colour = COLOURS[COLUMNS.index(method)]
                table = [np.array(run["rows"]) for run in runs[f"{env} {method}"]]
                x = np.linspace(max(rows[0, 0] for rows in table), seconds[env], 60)
                best = np.array([on_grid(rows[:, 0], rows[:, 2], x) for rows in table])
                found = [interval(iqm, column, resamples=300) for column in best.T]
                axis.plot(x, [each.value for each in found], label=method, color=colour, linewidth=1.6)
                axis.fill_between(x, [e.low for e in found], [e.high for e in found], color=colour, alpha=0.15, lw=0)
            axis.set_title(env, loc="left", fontsize=9)
            axis.set(xlabel="processor seconds", ylabel="best evaluation so far", xlim=(0, None))
        handles: dict[str, Any] = {}
        for axis in figure.axes:
            for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
                handles.setdefault(name, handle)
        figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=5, frameon=False)
