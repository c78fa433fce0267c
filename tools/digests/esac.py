"""Small seeded jobs of esac: learning in every mode and with every switch, through run folders, files and workers."""

from __future__ import annotations

import csv
import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import esac.scaling as scaling
import esac.statistics as statistics
import esac.summaries as summaries
import gymnasium
import numpy as np
from esac import ESAC, ESACConfig, NumpyPolicy, changed, release
from esac.evaluation import Which
from gymnasium import spaces

TINY: dict[str, Any] = {
    "population": 4, "elite": 0.5, "injected": 1, "sac_every": 1, "sac_episodes": 1, "start_steps": 20,
    "es_method": "openai", "es_hidden": (8, 8), "normalize": False, "crossover": "row", "es_gradient": "all",
    "hidden": (8, 8), "sigma": 0.1, "es_lr": 0.03, "sigma_max": 0.2, "amt_clip": 0.01,
    "eval_every": 200, "eval_episodes": 2, "checkpoint_every": 200, "amt_every": 1,
    "sac": {"batch_size": 8, "capacity": 300},
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "sgd": {"es_optimizer": "sgd", "l2": 0.01},
    "clipup": {"es_optimizer": "clipup"},
    "neuron": {"crossover": "neuron"},
    "no crossover": {"crossover": "none"},
    "softmax": {"selection": "softmax", "temperature": 0.5},
    "forward": {"mirrored": "forward"},
    "mean gradient": {"es_gradient": "mean"},
    "ars": {"es_method": "ars", "es_top": 2, "crossover": "none", "amt_every": 0},
    "pgpe": {"mode": "es", "es_method": "pgpe", "crossover": "none", "amt_every": 0},
    "cma": {"mode": "es", "es_method": "cma", "es_hidden": (), "crossover": "none", "amt_every": 0},
    "normalised": {"normalize": True, "es_episodes": 2, "reward_shift": 0.5},
    "linear": {"es_hidden": (), "transfer": "both", "sac_schedule": "adaptive"},
    "clip": {"es_action": "clip"},
    "ranks": {"amt_input": "ranks", "amt_apply": "gradient"},
    "store all": {"store": "all", "transfer": "both"},
    "store injected": {"store": "injected"},
    "generation counter": {"step_counter": "generation", "sac_least": 0.5, "sac_decay": 100.0},
    "auto alpha": {"sac": {"batch_size": 8, "capacity": 5000, "auto_alpha": True, "alpha": 0.5, "gamma": 0.9}},
    "many updates": {"updates_per_step": 1.5, "sac_every": 2, "sac_episodes": 2},
}


class Faulty(gymnasium.Env[Any, Any]):
    """A point that is pushed; some episodes have a NaN reward."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,))
        self.action_space = spaces.Box(-2.0, 2.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start at a random place."""
        super().reset(seed=seed)
        self.state, self.time = self.np_random.normal(size=3).astype(np.float32), 0
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Push the point."""
        self.time += 1
        push = np.array([action[0], self.state[0], 1], np.float32)
        self.state = np.float32(0.9) * self.state + np.float32(0.1) * push
        reward = np.nan if self.time == 5 and self.state[2] > 1.2 else -float(self.state[0] ** 2)
        return self.state.copy(), float(reward), bool(self.state[1] > 1.5), self.time >= 12, {}


def learner(**settings: Any) -> ESAC:
    """Return a tiny learner."""
    return ESAC("Pendulum-v1", changed({**TINY, **settings}), seed=3, options={"max_episode_steps": 15})


def numbers(model: ESAC) -> dict[str, Any]:
    """Return what a learner has learned, without times."""
    history = model.evaluations
    policies: tuple[Which, ...] = ("best", "mean") if model.gradients is None else ("best", "mean", "sac")
    seen = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    return {
        "counters": [model.generation, model.steps, model.counted, model.episodes],
        "state": {key: value for key, value in model.state().items() if "." in key and key != "evaluations.when"},
        "best": [model.best.reward, model.best.vector, model.best.action],
        "evaluations": [[when[0] for when in history.when], history.returns, history.lengths],
        "predictions": [model.predict(seen, deterministic=model.gradients is None or k > 0)[0] for k in (0, 1)],
        "modules": [model.to_module(which)(_tensor(seen)) for which in policies],
        "evaluated": [[e.total, e.length] for which in policies for e in model.evaluate(which, 2, seed=9)],
    }  # fmt: skip


def _tensor(rows: np.ndarray) -> Any:
    import torch

    return torch.tensor(rows)


def files(folder: Path) -> dict[str, Any]:
    """Return what a run folder holds, without times."""

    def timeless(row: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in row.items() if k == "time/env_steps" or (not k.startswith("time/") and k != "seconds")}

    with np.load(folder / "evaluations.npz") as table:
        evaluations = {name: table[name] for name in table.files if "seconds" not in name}
    _, *monitor = (folder / "monitor.csv").read_text().splitlines()
    progress = csv.DictReader((folder / "progress.csv").read_text().splitlines())
    return {
        "metrics": [timeless(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()],
        "progress": [timeless(row) for row in progress],
        "monitor": [[cell for number, cell in enumerate(row.split(",")) if number != 2] for row in monitor],
        "evaluations": evaluations,
        "best": NumpyPolicy.load(folder / "best.npz").vector,
        "config": json.loads((folder / "config.json").read_text()),
    }


def resumed(**settings: Any) -> Any:
    """Learn in a run folder, in two parts."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        learner(**settings).learn(300, out=out)
        model = learner(**settings).learn(700, out=out)
        return numbers(model), files(out)


def variant(**settings: Any) -> Any:
    """Learn without a folder."""
    returns: list[Any] = []
    model = learner(**settings).learn(500, lambda _, generation: returns.append(generation.returns))
    return numbers(model), returns


def saved() -> Any:
    """Save, load and learn on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "esac.safetensors")
        model = learner(sac={"batch_size": 8, "capacity": 300, "auto_alpha": True}).learn(300)
        model.save(path)
        return numbers(ESAC.load(path).learn(600))


def faulty() -> Any:
    """Learn where some episodes fail."""
    config = changed({**TINY, "store": "all", "most_failed": 1.0, "sac_episodes": 2}, ESACConfig())
    seen: list[Any] = []
    model = ESAC(Faulty, config, seed=1).learn(600, lambda _, generation: seen.append(generation.returns))
    return numbers(model), seen


def summarised() -> Any:
    """Summarise runs."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder, f"{mode}-{seed}") for mode in ("esac", "es") for seed in (0, 1)]
        for run in runs:
            mode, seed = run.name.split("-")
            model = ESAC("Pendulum-v1", changed({**TINY, "mode": mode}), seed=int(seed),
                         options={"max_episode_steps": 15})  # fmt: skip
            model.learn(300, out=run, progress_bar=False)
        return [str(row) for row in (*summaries.summary(runs), *summaries.improvements(runs))]


def calculated() -> Any:
    """Return statistics of fixed scores, and the scaling model's times."""
    scores = np.random.default_rng(0).normal(size=(6, 3))
    costs = scaling.Costs(tuple(np.linspace(0.5, 2, 20).tolist()), 0.01, 0.05, 3.0)
    return [
        list(statistics.interval(statistics.iqm, scores)), list(statistics.band(scores)),
        statistics.optimality_gap(scores, 0.3), statistics.performance_profile(scores, np.linspace(-1, 1, 5)),
        [scaling.generation_seconds(costs, workers, cores) for workers in (1, 3, 40) for cores in (None, 2)],
    ]  # fmt: skip


def jobs() -> dict[str, Callable[[], object]]:
    """Return the jobs by name."""
    return {
        **{f"run {mode}": functools.partial(resumed, mode=mode) for mode in ("esac", "es", "sac")},
        **{name: functools.partial(variant, **settings) for name, settings in VARIANTS.items()},
        "release": lambda: numbers(
            ESAC("Pendulum-v1", release(changed(TINY)), seed=3, options={"max_episode_steps": 15}).learn(120)
        ),
        "two workers": functools.partial(resumed, workers=2),
        "saved": saved,
        "faulty": faulty,
        "summaries": summarised,
        "calculated": calculated,
    }
