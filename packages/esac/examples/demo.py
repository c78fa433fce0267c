"""Drive a car out of a valley: evolution, soft actor-critic and both together, for equal processor seconds.

Run by ``python3 tools/dev.py demo``; alone: ``python examples/demo.py --out demo``.
Writes result.json (what the page shows), picture.png and the best policy.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tyro
from esac import ESAC, Generation, changed, preset
from sextet_common import figures, files

ENV = "MountainCarContinuous-v0"
SOLVED = 90.0  # 100 at the flag, less the energy
METHODS = {"evolution": "es", "soft actor-critic": "sac", "both (ESAC)": "esac"}
POINTS = 10


def main(out: Path, seed: int = 0, seconds: float = 4.0) -> None:
    """Run the demo.

    Parameters
    ----------
    out
        Where to write.
    seed
        Seed of all random draws.
    seconds
        Processor seconds of each method, without evaluations.
    """
    models = {name: learned(mode, seed, seconds) for name, mode in METHODS.items()}
    curves, rows = {}, []
    for name, model in models.items():
        returns = [[float(np.mean(row)) for row in each] for each in model.evaluations.returns.values()]
        best = np.maximum.accumulate(np.max(returns, axis=0))
        times = [cpu for _, _, cpu in model.evaluations.when]
        curves[name] = (times, best.tolist())
        first = next((f"{at:.1f} s" for at, value in zip(times, best, strict=True) if value >= SOLVED), "never")
        final = round(float(np.mean([e.total for e in model.evaluate("best", 10, seed=seed + 1)])), 1) + 0.0
        rows.append([name, f"{model.steps:,}", f"{final:.1f}", first])
    figures.save_curves(curves, out / "picture.png", x_label="processor seconds", y_label="best mean return so far")
    evolved = models["evolution"]
    evolved.policy().save(out / "best.npz")
    returns_of_best = [e.total for e in evolved.evaluate("best", 10, seed=seed + 1)]
    result = {
        "title": "A car out of a valley",
        "number": f"{np.mean(returns_of_best):.0f}",
        "about": f"mean return of a policy that evolution found; soft actor-critic's has {rows[1][2]}",
        "sentence": (
            "Evolution of a linear policy drives the car to the flag in all of ten episodes, with a mean return of "
            f"{np.mean(returns_of_best):.0f}; soft actor-critic with the same processor time gets {rows[1][2]}: it "
            "must first reach the flag by chance."
        ),
        "columns": ["method", "environment steps", "mean return of 10 episodes", f"first evaluation over {SOLVED:.0f}"],
        "rows": rows,
        "note": (
            f"{ENV}, seed {seed}, {seconds:g} processor seconds on one core for each method; the returns are those of "
            "the best policy on resets that it never saw."
        ),
        "picture": "picture.png",
        "returns": returns_of_best,
        "seconds": sum(model.cpu_seconds for model in models.values()),
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")


def learned(mode: str, seed: int, seconds: float) -> ESAC:
    """Learn for some processor seconds with evaluations in between."""
    settings = {**preset(ENV).settings, "mode": mode, "hidden": (64, 64), "start_steps": 1000}
    model = ESAC(ENV, changed({**settings, "eval_every": 10**9, "eval_episodes": 5}), seed=seed)

    def watch(model: ESAC, _: Generation) -> bool:
        if model.cpu_seconds >= seconds * len(model.evaluations.when) / POINTS:
            model.evaluation.run((model.steps, model.seconds, model.cpu_seconds))
        return model.cpu_seconds < seconds

    return model.learn(10**9, watch)


if __name__ == "__main__":
    tyro.cli(main)
