"""Compare what ESAC, its halves and Stable-Baselines3's SAC learn at equal environment steps and at equal seconds.

``python benchmarks/bench_learning.py`` takes about two hours on one core. Finished runs are kept in runs/bench_learning
and not repeated, so that several processes can share the work: ``--envs Swimmer``. All policies and critics have two
layers of 64 units, the population is that of the paper's public code, and all methods use one thread; seconds are
processor seconds without evaluations, so that other work on the machine has little influence.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from esac import ESAC, ESACConfig
from esac.config import changed
from esac.play.environment import horizon, make
from esac.play.rollout import episode
from esac.presets import PAPER, SB3_SAC
from sextet_common import files
from sextet_common.benchmarks import into_readme, machine, store

HERE = Path(__file__).resolve().parent

HIDDEN = (64, 64)
EPISODES = 5
SHARED: dict[str, Any] = {
    **PAPER, "hidden": HIDDEN, "es_hidden": HIDDEN,
    "population": 4, "elite": 0.5, "injected": 1, "sigma": 0.02, "es_lr": 0.01, "sac_every": 1,
    "sac_episodes": 4, "start_steps": 1000, "amt_every": 2, "amt_clip": 1e-3, "eval_episodes": EPISODES,
    "sac": SB3_SAC["sac"],
}  # fmt: skip
ENVS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "Pendulum": ("Pendulum-v1", {}, 10_000, 1000),
    "InvertedDoublePendulum": ("InvertedDoublePendulum-v5", {}, 10_000, 1000),
    "HalfCheetah": ("HalfCheetah-v5", {"max_episode_steps": 200}, 20_000, 2000),
    "Swimmer cut": ("Swimmer-v5", {"max_episode_steps": 200}, 20_000, 2000),
    "Swimmer": ("Swimmer-v5", {}, 40_000, 4000),
}
"""Name, options, environment steps and steps between evaluations."""
OWN: dict[str, dict[str, Any]] = {"Swimmer": {"sac_episodes": 1}}
"""Changes of SHARED by environment: episodes of Swimmer have 1000 steps, a generation stays a tenth of all steps."""
METHODS: dict[str, dict[str, Any]] = {
    "ESAC": {},
    "SAC": {"mode": "sac", "start_steps": 100},
    "ES": {"mode": "es", "elite": 0.0},
    "no crossover": {"crossover": "none"},
    "no tuning": {"amt_every": 0},
    "no injection": {"injected": 0},
    "stored": {"store": "all"},
}
PEERS = {"SB3 SAC": 0.99, "SB3 SAC, discount 0.9999": 0.9999}
MAIN = ("ESAC", "SAC", "ES", "SB3 SAC")
ABLATION = ("ESAC", "no crossover", "no tuning", "no injection", "stored")
ES_STEPS = 5  # times the steps of the others: it is that much faster


def ours(env: str, method: str, seed: int) -> dict[str, Any]:
    """Train with this package."""
    name, options, steps, every = ENVS[env]
    settings = {**SHARED, **OWN.get(env, {}), "eval_every": every, **METHODS[method]}
    model = ESAC(name, changed(settings, ESACConfig()), seed=seed, options=options)
    model.learn(steps * (ES_STEPS if method == "ES" else 1), progress_bar=False)
    history = model.evaluations
    rows = np.array(history.when)
    return {
        "steps": rows[:, 0].tolist(), "seconds": rows[:, 2].tolist(), "returns": history.returns,
        "updates": 0 if model.gradients is None else model.collector.updates,
        "total_seconds": model.cpu_seconds, "total_steps": model.steps,
    }  # fmt: skip


def theirs(env: str, method: str, seed: int) -> dict[str, Any]:
    """Train with Stable-Baselines3, evaluated in the same way."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback

    name, options, steps, every = ENVS[env]
    judge = make(name, options)
    resets = (np.random.SeedSequence((seed, 0xEA)).generate_state(EPISODES) >> 1).tolist()
    results: dict[str, Any] = {"steps": [], "seconds": [], "returns": {"sac": []}}

    class Watch(BaseCallback):
        spent = 0.0

        def _on_training_start(self) -> None:
            self.began = time.process_time()

        def _on_step(self) -> bool:
            if self.num_timesteps % every == 0:
                results["seconds"].append(time.process_time() - self.began - self.spent)
                began = time.process_time()
                policy = lambda seen: self.model.predict(seen, deterministic=True)[0]  # noqa: E731
                totals = [
                    episode(judge, policy, reset, max_steps=horizon(judge), on_nan="raise").total  # type: ignore[arg-type]
                    for reset in resets
                ]
                results["steps"].append(self.num_timesteps)
                results["returns"]["sac"].append(totals)
                self.spent += time.process_time() - began
            return True

    watch = Watch()
    model = SAC(
        "MlpPolicy", make(name, options), seed=seed, device="cpu", gamma=PEERS[method],
        policy_kwargs={"net_arch": list(HIDDEN)}, buffer_size=100_000,
    )  # fmt: skip
    model.learn(steps, callback=watch)
    total = time.process_time() - watch.began - watch.spent
    return {**results, "updates": model._n_updates, "total_seconds": total, "total_steps": steps}


def main(
    envs: tuple[str, ...] = tuple(ENVS),
    seeds: int = 3,
    work: Path = Path("runs/bench_learning"),
    ablation: tuple[str, ...] = ("InvertedDoublePendulum", "HalfCheetah"),
    collect: bool = True,
) -> None:
    """Run the benchmark.

    Parameters
    ----------
    envs
        Names from ENVS.
    seeds
        Number of seeds per method.
    work
        Folder of the runs.
    ablation
        Environments for which ESAC's parts are left out one at a time.
    collect
        Write the tables, which needs every run.
    """
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    for env in envs:
        methods = [*MAIN, *(["SB3 SAC, discount 0.9999"] if env.startswith("Swimmer") else [])]
        methods += [method for method in ABLATION if method not in methods and env in ablation]
        for seed in range(seeds):
            for method in methods:
                place = work / f"{env} {method} {seed}.json"
                if not place.exists():
                    results = (theirs if method in PEERS else ours)(env, method, seed)
                    files.write_text(place, json.dumps(results) + "\n")
                    last = {name: f"{np.mean(rows[-1]):.1f}" for name, rows in results["returns"].items()}
                    print(f"{env}, {method}, seed {seed}: {last}, {results['total_seconds']:.0f} s", flush=True)
    if collect:
        runs: dict[str, list[dict[str, Any]]] = {}
        for place in sorted(work.glob("*.json")):
            runs.setdefault(place.stem.rpartition(" ")[0], []).append(json.loads(place.read_text()))
        report = {"runs": runs, "seeds": seeds, "ablation": ablation}
        store(HERE, "learning", report)
        write(report)


def at(run: dict[str, Any], axis: str, where: float) -> dict[str, float]:
    """Return the mean return of each policy at the last evaluation up to a point of an axis."""
    last = max((i for i, value in enumerate(run[axis]) if value <= where), default=0)
    return {name: float(np.mean(rows[last])) for name, rows in run["returns"].items()}


def mean_and_std(runs: list[dict[str, Any]], axis: str, where: float, policy: str) -> str:
    """Return mean and standard deviation over seeds."""
    values = [at(run, axis, where)[policy] for run in runs]
    return f"{statistics.mean(values):.0f} ± {statistics.stdev(values) if len(values) > 1 else 0:.0f}"


COLUMNS = {
    "ESAC, gradient-trained": ("ESAC", "sac"), "ESAC, mean": ("ESAC", "mean"), "SAC": ("SAC", "sac"),
    "ES": ("ES", "mean"), "SB3 SAC": ("SB3 SAC", "sac"), "SB3, discount 0.9999": ("SB3 SAC, discount 0.9999", "sac"),
}  # fmt: skip


def write(report: dict[str, Any]) -> None:
    """Put the tables into the README."""
    runs = report["runs"]
    lines = ["| environment, at | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for env, (_, _, steps, _) in ENVS.items():
        seconds = min(run["total_seconds"] for m in ("ESAC", "SAC", "SB3 SAC") for run in runs[f"{env} {m}"])
        for axis, where, name in (("steps", steps, f"{steps:,} steps"), ("seconds", seconds, f"{seconds:.0f} s")):
            cells = [
                mean_and_std(runs[f"{env} {m}"], axis, where * (1.1 if axis == "steps" else 1), policy)
                if f"{env} {m}" in runs
                else ""
                for m, policy in COLUMNS.values()
            ]
            lines.append(f"| {env}, {name} | " + " | ".join(cells) + " |")
    lines += ["", "| gradient updates, in the same steps | ESAC | SAC | SB3 SAC |", "|---|---|---|---|"]
    for env in ENVS:
        cells = [
            f"{statistics.mean(run['updates'] for run in runs[f'{env} {m}']):,.0f}" for m in ("ESAC", "SAC", "SB3 SAC")
        ]
        lines.append(f"| {env} | " + " | ".join(cells) + " |")
    lines += ["", "| ESAC's parts, left out: gradient-trained / mean | " + " | ".join(ABLATION) + " |"]
    lines += ["|---" * (len(ABLATION) + 1) + "|"]
    for env in report["ablation"]:
        steps = ENVS[env][2]
        cells = [
            " / ".join(mean_and_std(runs[f"{env} {m}"], "steps", 1.1 * steps, policy) for policy in ("sac", "mean"))
            for m in ABLATION
        ]
        lines.append(f"| {env} | " + " | ".join(cells) + " |")
    lines += ["", f"Mean ± standard deviation over {report['seeds']} seeds, {EPISODES} deterministic episodes each; "
              f"`python benchmarks/bench_learning.py` on {machine()}."]  # fmt: skip
    into_readme(HERE.parent / "README.md", "bench_learning", "\n".join(lines))


if __name__ == "__main__":
    tyro.cli(main)
