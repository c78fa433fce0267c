"""Measure what the population learns alone: the presets on three tasks, and which parts make the mean stall.

``python benchmarks/bench_population.py`` takes some ten minutes on one free core. Finished runs are kept in
runs/bench_population and not repeated. Seconds are processor seconds of learning, without evaluations.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from esac import ESAC
from esac.config import changed
from esac.presets import PAPER, preset
from sextet_common import files
from sextet_common.benchmarks import into_readme, machine, store

HERE = Path(__file__).resolve().parent
TARGETS = {
    "MountainCarContinuous-v0": (90, 25_000), "InvertedPendulum-v5": (1000, 30_000), "Swimmer-v5": (340, 400_000),
}  # fmt: skip
"""Return that the mean should reach, and the environment steps that it may take."""
SOLVED: list[tuple[str, str, dict[str, Any]]] = [
    *((env, "preset", {}) for env in TARGETS), ("Swimmer-v5", "with biases", {"es_bias": True}),
]  # fmt: skip
"""Rows of the first table."""
NEW: dict[str, dict[str, Any]] = {
    "preset": {},
    "crossover": {"crossover": "row", "elite": 0.5},
    "mutation tuning": {"amt_every": 1, "amt_clip": 0.01, "sigma_max": 10.0},
    "ranks": {"es_shaping": "ranks"},
    "ranks and Adam": {"es_method": "openai"},
    "no normalisation": {"normalize": False},
    "64 x 64 units": {"es_hidden": (64, 64)},
    "sigma and step 0.005": {"sigma": 0.005, "es_lr": 0.005},
    "weight decay 0.1": {"l2": 0.1},
}
"""The preset with one part of the paper's public code, or one weakness, put back."""
OLD: dict[str, dict[str, Any]] = {
    "paper": {},
    "paper, no crossover": {"crossover": "none"},
    "paper, no tuning": {"amt_every": 0},
    "paper, linear": {"es_hidden": ()},
    "paper, normalised": {"normalize": True},
    "paper, sigma and step 0.1": {"sigma": 0.1, "es_lr": 0.1},
    "paper, linear, normalised, sigma and step 0.1": {
        "es_hidden": (), "normalize": True, "sigma": 0.1, "es_lr": 0.1,
    },
}  # fmt: skip
"""The paper's public code as it is meant, with one part changed."""


def run(env: str, settings: dict[str, Any], seed: int, every: int) -> dict[str, Any]:
    """Learn by evolution alone; return the evaluations, and ten last episodes of the mean and of the best policy."""
    config = changed({**settings, "mode": "es", "eval_every": every, "eval_episodes": 5})
    model = ESAC(env, config, seed=seed)
    model.learn(preset(env).steps, progress_bar=False)
    when = [[int(steps), cpu] for steps, _, cpu in model.evaluations.when]
    returns = [float(np.mean(row)) for row in model.evaluations.returns["mean"]]
    final = {name: [e.total for e in model.evaluate(name, 10, seed=seed + 1000)] for name in ("mean", "best")}
    return {"when": when, "curve": returns, "steps": model.steps, "cpu": model.cpu_seconds, **final}


def main(
    seeds: int = 5, work: Path = Path("runs/bench_population"), causes: tuple[str, ...] = ("MountainCarContinuous-v0",)
) -> None:
    """Run the benchmark.

    Parameters
    ----------
    seeds
        Number of seeds.
    work
        Folder of the runs.
    causes
        Environments of the ablation.
    """
    work.mkdir(parents=True, exist_ok=True)
    jobs = [(*row, "target") for row in SOLVED]
    jobs += [(env, name, words, "new") for env in causes for name, words in NEW.items() if name != "preset"]
    jobs += [(env, name, words, "old") for env in causes for name, words in OLD.items()]
    for env, name, words, kind in jobs:
        base = PAPER if kind == "old" else preset(env).settings
        for seed in range(seeds):
            place = work / f"{env} {name} {seed}.json"
            if not place.exists():
                every = TARGETS[env][1] // 10 if kind == "target" else 10**9
                result = run(env, {**base, **words}, seed, every)
                files.write_text(place, json.dumps(result) + "\n")
                print(env, name, seed, f"{np.mean(result['mean']):.1f}, {result['cpu']:.1f} s", flush=True)
    names = {(env, name) for env, name, _, _ in jobs}
    runs = {
        f"{env} {name}": [json.loads((work / f"{env} {name} {seed}.json").read_text()) for seed in range(seeds)]
        for env, name in sorted(names)
    }
    store(HERE, "population", {"seeds": seeds, "runs": runs})
    write(runs, causes, seeds)


def write(runs: dict[str, list[dict[str, Any]]], causes: tuple[str, ...], seeds: int) -> None:
    """Put the tables into the README."""
    lines = ["| preset, mode es | aim | steps, at most | return of the mean, by seed | of the best | seconds |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for env, name, _ in SOLVED:
        each = runs[f"{env} {name}"]
        returns = " | ".join(", ".join(f"{np.mean(run[which]):.1f}" for run in each) for which in ("mean", "best"))
        seconds = [run["cpu"] for run in each]
        title = env if name == "preset" else f"{env}, {name}"
        lines.append(f"| {title} | {TARGETS[env][0]} | {max(run['steps'] for run in each):,} | {returns} | "
                     f"{min(seconds):.1f} to {max(seconds):.1f} |")  # fmt: skip
    if causes:
        for title, table in (("the preset, with one thing put back", NEW), ("the paper's public code", OLD)):
            lines += ["", f"| {title} | " + " | ".join(causes) + " |", "|---" * (len(causes) + 1) + "|"]
            for name in table:
                cells = []
                for env in causes:
                    values = [float(np.mean(run["mean"])) for run in runs[f"{env} {name}"]]
                    cells.append(f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", f"Deterministic returns in 10 fresh episodes, {seeds} seeds; below, of the mean: average (smallest "
              f"to largest); `python benchmarks/bench_population.py` on {machine()}."]  # fmt: skip
    into_readme(HERE.parent / "README.md", "bench_population", "\n".join(lines))


if __name__ == "__main__":
    tyro.cli(main)
