"""Compare ESAC and its halves on one environment over seeds: curves and statistics with confidence intervals."""

from __future__ import annotations

from pathlib import Path

import tyro
from esac import ESAC, ESACConfig, changed
from esac.plotting import draw_all
from esac.summaries import improvements, summary


def main(out: Path, steps: int = 3000, seeds: int = 2, env: str = "Pendulum-v1") -> None:
    """Train, then draw."""
    small = ESACConfig(
        population=4, hidden=(32, 32), sac_every=1, sac_episodes=1, start_steps=400,
        eval_every=1000, eval_episodes=3,
    )  # fmt: skip
    runs = []
    for mode in ("esac", "sac", "es"):
        for seed in range(seeds):
            runs.append(out / f"{mode}-{seed}")
            ESAC(env, changed({"mode": mode}, small), seed=seed).learn(steps, out=runs[-1])
    for path in draw_all(runs, out / "plots"):
        print(path)
    for row in (*summary(runs), *improvements(runs)):
        print(row)


if __name__ == "__main__":
    tyro.cli(main)
