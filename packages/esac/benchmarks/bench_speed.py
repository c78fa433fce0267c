"""Compare the speed of environment steps, updates and generations with torch and Stable-Baselines3.

``python benchmarks/bench_speed.py`` takes about five minutes on two free cores. Every figure is a median; peers take
turns; rates of one process are per processor second.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from esac import SAC, PolicyShape, Replay, SACConfig
from esac.play.environment import make
from esac.play.interaction import TransitionWriter
from esac.play.task import Job
from esac.plotting import scaling as draw_scaling
from esac.scaling import rates, scaling_table
from sextet_common.benchmarks import into_readme, machine, store
from stable_baselines3 import SAC as Theirs
from stable_baselines3.common.logger import configure

HERE = Path(__file__).resolve().parent


def updates(repeats: int = 7, each: int = 20) -> dict[str, float]:
    """Return the median milliseconds of an update, batch 256, two layers of 256, HalfCheetah's sizes."""
    env = make("HalfCheetah-v5")
    peer = Theirs("MlpPolicy", env, seed=0, device="cpu", batch_size=256, buffer_size=20_000)
    peer.set_logger(configure(None, []))
    replay, random = Replay(20_000, 17, 6), np.random.default_rng(0)
    seen, _ = env.reset(seed=0)
    env.action_space.seed(0)
    writer = TransitionWriter(env.action_space.low, env.action_space.high)  # type: ignore[attr-defined]
    for _ in range(5000):
        action = env.action_space.sample()
        next_observation, reward, terminated, truncated, _ = env.step(action)
        peer.replay_buffer.add(seen, next_observation, action, np.array([reward]), np.array([terminated]), [{}])
        writer.before(seen, action)
        replay.add(writer.after(float(reward), next_observation, terminated)[None])
        seen = next_observation if not (terminated or truncated) else env.reset()[0]
    noises = torch.Generator().manual_seed(0)
    shape, acts = PolicyShape(17, 6), env.action_space

    def ours(compiled: bool) -> Callable[[], Any]:
        agent = SAC(shape, acts.low, acts.high, SACConfig(auto_alpha=True, alpha=1.0, compile=compiled))  # type: ignore[attr-defined]
        return lambda: agent.update(replay.sample(random, 256), torch.randn(2, 256, 6, generator=noises))

    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "esac": (1, ours(False)),
        "esac, torch.compile": (1, ours(True)),
        "esac, two threads": (2, ours(False)),
        "Stable-Baselines3": (1, lambda: peer.train(1, 256)),
        "Stable-Baselines3, two threads": (2, lambda: peer.train(1, 256)),
    }
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, (threads, way) in ways.items():
            torch.set_num_threads(threads)
            clock = time.process_time if threads == 1 else time.perf_counter
            began = clock()
            for _ in range(each):
                way()
            if turn:  # the first turn compiles and fills caches
                milliseconds[name].append(1000 * (clock() - began) / each)
    torch.set_num_threads(1)
    return {name: statistics.median(values) for name, values in milliseconds.items()}


def main(steps: int = 5000, repeats: int = 5, workers: tuple[int, ...] = (1, 2, 4)) -> None:
    """Run the benchmark.

    Parameters
    ----------
    steps
        Environment steps per turn.
    repeats
        Number of turns.
    workers
        Numbers of worker processes to measure.
    """
    torch.set_num_threads(1)
    job = Job("HalfCheetah-v5")
    peer = Theirs("MlpPolicy", make("HalfCheetah-v5"), seed=0, device="cpu", buffer_size=1)
    rate = rates(
        job, steps, repeats, {"Stable-Baselines3's predict": lambda seen: peer.predict(seen, None, None, True)[0]}
    )
    table = scaling_table(job, workers, os.cpu_count(), repeats=repeats)
    milliseconds = updates()
    store(HERE, "speed", {"rates": dataclasses.asdict(rate), "scaling": table, "updates": milliseconds})
    draw_scaling(table, HERE / "results" / "scaling.png")
    lines = [
        "| HalfCheetah-v5, policy 256 x 256 | steps a second | of the bare environment's |", "|---|---|---|",
        *(f"| {name} | {value:,.0f} | {100 * value / rate.bare:.0f} % |" for name, value in
          (("random actions", rate.bare), ("esac's policy", rate.numpy), ("the same as a torch module", rate.torch),
           *rate.peers.items())),
        "", "| one update, batch 256, 256 x 256 | ms | times Stable-Baselines3's rate, one thread |", "|---|---|---|",
        *(f"| {name} | {value:.1f} | {milliseconds['Stable-Baselines3'] / value:.2f} |"
          for name, value in milliseconds.items()),
        "", "| workers | a generation of 20 episodes, measured | predicted on these cores | predicted, a core each |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for number, seconds in zip(table["workers"], table["predicted"], strict=True):
        done, here = (table[key].get(str(number)) for key in ("measured", "here"))
        cells = [f"{value:.2f} s" if value is not None else "" for value in (done, here)]
        lines.append(f"| {number} | {cells[0]} | {cells[1]} | {seconds:.2f} s |")
    lines += ["", f"`python benchmarks/bench_speed.py`, on {machine()}."]
    into_readme(HERE.parent / "README.md", "bench_speed", "\n".join(lines))


if __name__ == "__main__":
    tyro.cli(main)
