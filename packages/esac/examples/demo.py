"""Train a policy that balances a pendulum on a cart, by evolution and gradients together.

Run by ``python3 tools/dev.py demo``; alone: ``python examples/demo.py --out demo``.
Writes result.json (what the page shows), picture.png and the run folder.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import tyro
from esac import ESAC, Generation, StopOnReward, changed, preset
from sextet_common import figures, files

ENV = "InvertedPendulum-v5"
SOLVED = 1000.0  # a reward of 1 per step upright; an episode has 1000 steps


def main(out: Path, seed: int = 0, workers: int = 2) -> None:
    """Run the demo.

    Parameters
    ----------
    out
        Where to write.
    seed
        Seed of all random draws.
    workers
        Processes that evaluate the population.
    """
    chosen = preset(ENV)
    config = changed({**chosen.settings, "workers": workers})
    model = ESAC(ENV, config, seed=seed)
    winners: Counter[str] = Counter()
    solved = StopOnReward(SOLVED)

    def watch(model: ESAC, generation: Generation) -> bool:
        winners.update(generation.winners)
        return solved(model, generation)

    model.learn(chosen.steps, watch, out / "run")
    final = {name: model.evaluate(name, 10, seed=seed + 1) for name in ("best", "mean", "sac")}
    means = {name: float(np.mean([e.total for e in episodes])) for name, episodes in final.items()}
    history = model.evaluations
    steps = [int(when[0]) for when in history.when]
    curves = {
        "gradient-trained policy": [float(np.mean(row)) for row in history.returns["sac"]],
        "population's mean": [float(np.mean(row)) for row in history.returns["mean"]],
    }
    figures.save_curves(
        {name: (steps, values) for name, values in curves.items()}, out / "picture.png",
        x_label="environment steps", y_label="mean return of 10 episodes",
    )  # fmt: skip
    total = max(1, sum(winners.values()))
    names = {"sac": "gradient-trained", "mean": "mean"}
    rows = [
        ["best so far", f"{means['best']:.0f}", ""],
        *([names[o], f"{means[o]:.0f}" if o in means else "", f"{100 * winners[o] / total:.0f} %"] for o in names),
    ]
    result = {
        "title": "A pendulum that stands",
        "sentence": (
            f"After {model.steps:,} environment steps and {model.seconds:.0f} s of learning the best policy balances "
            f"for {means['best']:.0f} of 1000 steps in ten episodes on resets that it never saw."
        ),
        "columns": ["policy", "mean return of 10 episodes", "share of the winners"],
        "rows": rows,
        "note": (
            f"MuJoCo's {ENV}, {workers} worker processes, seed {seed}. Winners are the best mutations of each "
            "generation, by what was mutated. The picture: deterministic evaluations during training."
        ),
        "picture": "picture.png",
        "returns": [e.total for e in final["best"]],
        "seconds": model.seconds,
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
