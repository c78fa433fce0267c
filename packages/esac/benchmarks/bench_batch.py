"""Measure environment steps per processor second of the batch engine and of an episode at a time.

``python benchmarks/bench_batch.py``: a generation of 64 candidates with linear policies of zero mean and small noise,
by both engines in turn, in one thread. Processor seconds, so that other work on the machine matters little.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from esac import BatchEngine, SerialEngine
from esac.play.task import Evaluator, Job, Task
from sextet_common.benchmarks import into_readme, machine, store

HERE = Path(__file__).resolve().parent
ENVS = ("Swimmer-v5", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "InvertedPendulum-v5",
        "InvertedDoublePendulum-v5", "Reacher-v5", "Pusher-v5", "HumanoidStandup-v5")  # fmt: skip
MEMBERS = 32  # two candidates each


def rate(engine: Any, bases: np.ndarray, tasks: list[Task]) -> float:
    """Return steps per processor second of a generation."""
    began = time.process_time()
    engine.start(bases, tasks)
    steps = sum(episode.length for episode in engine.finish())
    return steps / (time.process_time() - began)


def main(horizon: int = 50, repeats: int = 3, envs: tuple[str, ...] = ENVS) -> None:
    """Run the benchmark.

    Parameters
    ----------
    horizon
        Steps of an episode.
    repeats
        Generations of each engine; medians count.
    envs
        Environments.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in envs:
        job = Job(name, {"max_episode_steps": horizon}, (), normalize=True)
        bases = np.zeros((MEMBERS, Evaluator(job).width), np.float32)
        tasks = [Task(m, 0, m, sign, 0.03) for m in range(MEMBERS) for sign in (1, -1)]
        with SerialEngine(job) as one, BatchEngine(job, 1) as batch:
            pairs = [(rate(one, bases, tasks), rate(batch, bases, tasks)) for _ in range(repeats + 1)][1:]
        ratios = sorted(b / a for a, b in pairs)
        rows[name] = {
            "one": statistics.median(a for a, _ in pairs), "batch": statistics.median(b for _, b in pairs),
            "ratio": statistics.median(ratios), "range": [ratios[0], ratios[-1]],
        }  # fmt: skip
        print(name, rows[name], flush=True)
    store(HERE, "batch", {"horizon": horizon, "members": MEMBERS, "repeats": repeats, "rows": rows})
    lines = ["| 64 candidates, linear policies, one thread | an episode at a time, steps a second | batch | ratio |",
             "|---|---|---|---|"]  # fmt: skip
    for name, row in rows.items():
        ratio = "{:.2f} ({:.2f} to {:.2f})".format(row["ratio"], *row["range"])
        lines.append(f"| {name} | {row['one']:,.0f} | {row['batch']:,.0f} | {ratio} |")
    lines += ["", f"Medians of {repeats} generations in turn, smallest and largest ratio; per processor second; "
              f"`python benchmarks/bench_batch.py` on {machine()}."]  # fmt: skip
    into_readme(HERE.parent / "README.md", "bench_batch", "\n".join(lines))


if __name__ == "__main__":
    tyro.cli(main)
