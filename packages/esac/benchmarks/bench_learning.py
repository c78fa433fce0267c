"""Compare ESAC, its two halves and Stable-Baselines3's SAC at equal processor seconds.

``python benchmarks/bench_learning.py`` takes three hours on one free core. A run ends when it has spent its budget of
processor seconds, without evaluations, on one thread. Finished runs are kept in runs/bench_learning and not repeated.
Every method reports its best policy by ten evaluations within the budget, judged by ten fresh episodes.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from esac import ESAC, NumpyPolicy, changed, preset
from esac.evaluation import run_episodes
from esac.play.environment import make
from esac.play.policy import PolicyShape
from learning_report import write
from sextet_common import files
from sextet_common.benchmarks import store

HERE = Path(__file__).resolve().parent
HIDDEN = (64, 64)
POINTS, EPISODES, FINAL = 10, 5, 10  # evaluations of a run, episodes of each, and episodes of the last one
FAR = 5.0  # metres
NEVER = 10**9


class Far(gymnasium.Wrapper):
    """A reward of 1 for each step beyond five metres from the start, as in VIME's sparse HalfCheetah."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step."""
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, float(info["x_position"] > FAR), terminated, truncated, info


def sparse_cheetah(**options: Any) -> gymnasium.Env:
    """Make HalfCheetah-v5 with the sparse reward."""
    return Far(gymnasium.make("HalfCheetah-v5", **options))


gymnasium.register("SparseHalfCheetah-v0", sparse_cheetah, max_episode_steps=1000)


@dataclass(frozen=True)
class Setting:
    """Processor seconds of a run, seeds, and settings of the methods of this package."""

    seconds: float
    seeds: int = 5
    settings: dict[str, Any] = field(default_factory=dict)


ENVS = {
    "MountainCarContinuous-v0": Setting(20),
    "Pendulum-v1": Setting(40),
    "InvertedDoublePendulum-v5": Setting(30),
    "Swimmer-v5": Setting(70),
    "Hopper-v5": Setting(40),
    "HalfCheetah-v5": Setting(40),
    "SparseHalfCheetah-v0": Setting(40, settings={"es_method": "cma", "population": 6, "sigma": 0.5}),  # it explores
}
SHARED: dict[str, Any] = {
    "hidden": HIDDEN, "start_steps": 100, "sac_cost": 60.0,
    "eval_every": NEVER, "eval_episodes": EPISODES, "sac": {"auto_alpha": True, "alpha": 1.0},
}  # fmt: skip
BATCH = ("InvertedDoublePendulum-v5", "Swimmer-v5", "Hopper-v5", "HalfCheetah-v5")
METHODS: dict[str, dict[str, Any]] = {"ESAC": {}, "SAC": {"mode": "sac"}, "ES": {"mode": "es"}}
PEERS = {"SB3 SAC": 0.99, "SB3 SAC, discount 0.9999": 0.9999}
PARTS: dict[str, dict[str, Any]] = {
    "annealed schedule": {"sac_schedule": "annealed"},
    "no normalisation": {"normalize": False},
    "transfer": {"transfer": "both"},
    "transitions stored": {"store": "all"},
    "crossover": {"crossover": "row", "elite": 0.5},
    "mutation tuning": {"amt_every": 1, "amt_clip": 0.01, "sigma_max": 10.0},
}
"""ESAC with one part changed, on ABLATION."""
ABLATION = ("MountainCarContinuous-v0", "Hopper-v5")
INJECTION: dict[str, dict[str, Any]] = {"injection": {"injected": 1}}
CMA = ("InvertedDoublePendulum-v5", "SparseHalfCheetah-v0")  # their population takes no injected member


def ours(env: str, method: str, seed: int) -> dict[str, Any]:
    """Train with this package."""
    setting = ENVS[env]
    engine = "batch" if env in BATCH else "processes"
    own = (METHODS | PARTS | INJECTION)[method]
    settings = {**preset(env).settings, **setting.settings, **SHARED, "engine": engine, **own}
    model = ESAC(env, changed(settings), seed=seed)
    rows: list[tuple[float, ...]] = []

    def watch(model: ESAC, _: Any) -> bool:
        if setting.seconds >= model.cpu_seconds >= setting.seconds * len(rows) / POINTS:
            model.evaluation.run((model.steps, model.seconds, model.cpu_seconds))
            sac_steps = 0 if model.gradients is None else model.collector.steps
            rows.append((model.cpu_seconds, model.steps, model.best.reward, sac_steps))
        return model.cpu_seconds < setting.seconds

    model.learn(NEVER, watch, progress_bar=False)
    final = [e.total for e in model.evaluate("best", FINAL, seed=seed + 1000)]
    return {"rows": rows, "final": final, "updates": 0 if model.gradients is None else model.collector.updates}


def theirs(env: str, method: str, seed: int) -> dict[str, Any]:
    """Train with Stable-Baselines3, evaluated in the same way."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback

    budget = ENVS[env].seconds
    judge = make(env)
    rows: list[tuple[float, ...]] = []

    class Watch(BaseCallback):
        spent, best, reward = 0.0, None, -np.inf

        def _on_training_start(self) -> None:
            self.began = time.process_time()

        def _on_step(self) -> bool:
            seconds = time.process_time() - self.began - self.spent
            if seconds >= budget * len(rows) / POINTS:
                began = time.process_time()
                policy = as_numpy(self.model)
                reward = float(np.mean([e.total for e in run_episodes(judge, policy, EPISODES, seed)]))
                if reward > self.reward:  # as this package chooses its best policy
                    more = run_episodes(judge, policy, 2 * EPISODES, seed, skip=EPISODES)
                    reward = (reward + 2 * float(np.mean([e.total for e in more]))) / 3
                    if reward > self.reward:
                        self.best, self.reward = policy, reward
                rows.append((seconds, self.num_timesteps, self.reward, self.num_timesteps))
                self.spent += time.process_time() - began
            return seconds < budget

    watch = Watch()
    model = SAC(
        "MlpPolicy", make(env), seed=seed, device="cpu", gamma=PEERS[method], buffer_size=1_000_000,
        policy_kwargs={"net_arch": list(HIDDEN)},
    )  # fmt: skip
    model.learn(NEVER, callback=watch)
    final = [e.total for e in run_episodes(judge, watch.best, FINAL, seed + 1000)]
    return {"rows": rows, "final": final, "updates": model._n_updates}


def as_numpy(model: Any) -> NumpyPolicy:
    """Return the deterministic policy of Stable-Baselines3's SAC, which then acts faster."""
    space = model.action_space
    layers = [*model.actor.latent_pi, model.actor.mu]
    parts = [p.detach().numpy().flatten() for layer in layers for p in layer.parameters()]
    shape = PolicyShape(model.observation_space.shape[0], space.shape[0], HIDDEN)
    return NumpyPolicy(shape, space.low, space.high, np.concatenate(parts))


def main(
    envs: tuple[str, ...] = tuple(ENVS),
    methods: tuple[str, ...] = (*METHODS, *PEERS, *PARTS, *INJECTION),
    work: Path = Path("runs/bench_learning"),
    run: bool = True,
    collect: bool = True,
) -> None:
    """Run the benchmark.

    Parameters
    ----------
    envs
        Names from ENVS.
    methods
        Names from METHODS, PEERS, PARTS and INJECTION.
    work
        Folder of the runs.
    run
        Run what is missing.
    collect
        Write the tables and the picture from the finished runs.
    """
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    every = itertools.product(range(5), envs, methods)  # a seed of everything, then the next one
    jobs = [(env, method, seed) for seed, env, method in every if belongs(env, method, seed)]
    for env, method, seed in jobs:
        place = work / f"{env} {method} {seed}.json"
        if run and not place.exists():
            result = (theirs if method in PEERS else ours)(env, method, seed)
            files.write_text(place, json.dumps(result) + "\n")
            steps = result["rows"][-1][1]
            print(f"{env}, {method}, seed {seed}: {np.mean(result['final']):.1f}, {steps:,} steps", flush=True)
    if collect:
        runs: dict[str, list[dict[str, Any]]] = {}
        for env, method, seed in sorted(jobs):
            if (place := work / f"{env} {method} {seed}.json").exists():
                runs.setdefault(f"{env} {method}", []).append(json.loads(place.read_text()))
        store(HERE, "learning", {"runs": runs})
        write(HERE.parent, runs, {env: setting.seconds for env, setting in ENVS.items()}, tuple(PARTS))


def belongs(env: str, method: str, seed: int) -> bool:
    """Return whether a run is part of the benchmark."""
    if seed >= ENVS[env].seeds or (method in PARTS and env not in ABLATION) or (method in INJECTION and env in CMA):
        return False
    return method != "SB3 SAC, discount 0.9999" or env == "Swimmer-v5"


if __name__ == "__main__":
    tyro.cli(main)
