"""The command `esac`: train, evaluate, plot, bench, video."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from sextet_common import cli, files
from sextet_common.device import describe
from sextet_common.errors import InputError, reading
from sextet_common.runs import Run

from esac import presets, rollout
from esac.config import ESACConfig, changed
from esac.policy import NumpyPolicy
from esac.rollout import Episode


def _train(default: ESACConfig) -> Callable[..., None]:
    """Return the command `train` with an environment's preset as its defaults."""

    def train(
        out: Path,
        env: str = "HalfCheetah-v5",
        steps: int | None = None,
        seed: int = 0,
        device: str = "cpu",
        compat: Literal["none", "release"] = "none",
        preset: bool = True,
        tensorboard: bool = False,
        final_episodes: int = 10,
        config: ESACConfig = default,
    ) -> None:
        """Train on an environment; the same command goes on with a stopped run, --steps may have grown.

        Parameters
        ----------
        out
            The run folder.
        env
            Its name in gymnasium, or dm_control/NAME with the extra dm-control. Its preset gives the defaults below.
        steps
            Environment steps; the preset's where not given.
        seed
            Of everything.
        device
            Of the networks: a CPU is faster for policies of this size.
        compat
            release: what the paper's public code does instead of what it means to.
        preset
            Use the environment's preset.
        tensorboard
            Write TensorBoard events at the end (extra tensorboard of sextet-common).
        final_episodes
            Of the evaluation at the end, on resets that training never saw.
        config
            The settings.
        """
        from esac.algorithm import ESAC

        chosen = presets.release(config) if compat == "release" else config
        model = ESAC(env, chosen, seed=seed, device=device)
        model.learn(presets.preset(env).steps if steps is None else steps, out=out)
        report: dict[str, Any] = {"env": env, "seed": seed, "steps": model.steps, "seconds": model.seconds}
        which = {"es": ("best", "mean"), "sac": ("best", "sac"), "esac": ("best", "mean", "sac")}[chosen.mode]
        for name in which:
            found = model.evaluate(name, final_episodes, seed=seed + 1)  # type: ignore[arg-type]
            report[name] = _told(found)
            print(f"{name}: return {report[name]['mean']:.1f} ± {report[name]['std']:.1f}, {final_episodes} episodes")
        files.write_text(out / "eval.json", json.dumps(report, indent=2) + "\n")
        if tensorboard:
            print(Run.read(out).export_tensorboard())

    return train


def evaluate(
    policy: tyro.conf.Positional[Path],
    /,
    env: str | None = None,
    episodes: int = 10,
    seed: int = 1,
    out: Path | None = None,
) -> None:
    """Run episodes of a trained policy and print their returns as JSON.

    Parameters
    ----------
    policy
        A run folder, or a policy's npz file.
    env
        The environment: that of the run folder where not given.
    episodes
        How many.
    seed
        Of the resets.
    out
        A file for the JSON too.
    """
    acting, name, options = _policy(policy, env)
    made = rollout.make(name, options)
    _check_fit(acting, made, name)
    resets = np.random.SeedSequence((seed, 0xEA)).generate_state(episodes) >> 1
    most = rollout.horizon(made)
    found = [rollout.episode(made, acting, int(reset), most=most, on_nan="penalise") for reset in resets]
    told = json.dumps({"env": name, "seed": seed, "policy": str(policy), **_told(found)}, indent=2)
    print(told)
    if out is not None:
        files.write_text(out, told + "\n")


def plot(runs: tyro.conf.Positional[tuple[Path, ...]], /, out: Path = Path("plots"), by: str | None = None) -> None:
    """Draw learning curves, the winners' origin, the mutation and the schedule of run folders.

    Parameters
    ----------
    runs
        Run folders; those of one environment and mode are one curve with a band over seeds.
    out
        The folder of the pictures.
    by
        A setting, such as crossover, whose values are told apart too.
    """
    from esac import plotting, summaries

    def label(folder: str | os.PathLike[str]) -> str:
        with reading(Path(folder) / "config.json", "a run of esac train"):
            settings = dict(Run.read(folder).config["config"])
            found = {**settings.get("sac", {}), **settings}
        if by not in found:
            raise InputError(f"the setting {by!r}", "one of " + ", ".join(sorted(found)))
        return f"{settings.get('mode')}, {by} {found[by]}"

    chosen = None if by is None else label

    if not runs:
        raise InputError("no run folder", "one or more")
    for path in plotting.draw_all(runs, out, chosen):
        print(path)
    for row in (*summaries.summary(runs, chosen), *summaries.improvements(runs, chosen)):
        print(row)


def bench(
    env: str = "HalfCheetah-v5",
    workers: tuple[int, ...] = (1, 2, 4),
    out: Path | None = None,
    steps: int = 5000,
    pairs: int = 10,
    horizon: int | None = None,
    hidden: tuple[int, ...] = (256, 256),
) -> None:
    """Measure environment steps a second, and a generation's time by workers; predict it for up to 1024.

    Parameters
    ----------
    env
        The environment.
    workers
        Numbers of worker processes to measure.
    out
        A folder for scaling.json and scaling.png.
    steps
        Environment steps of each rate.
    pairs
        Members of a generation.
    horizon
        Steps of an episode; the environment's own where not given.
    hidden
        Units of the policies' layers.
    """
    from esac import plotting, scaling
    from esac.worker import Job

    job = Job(env, {} if horizon is None else {"max_episode_steps": horizon}, hidden)
    rates = scaling.rates(job, steps)
    print(f"{env}: {rates.numpy:.0f} steps a second, {rates.numpy / rates.torch:.1f} times those with a torch policy, "
          f"{100 * rates.numpy / rates.bare:.0f} % of the bare environment's")  # fmt: skip
    table = scaling.scaling_table(job, workers, os.cpu_count(), pairs)
    for number, seconds in table["measured"].items():
        print(f"{number} workers: {seconds:.2f} s a generation, predicted {table['here'][number]:.2f} s")
    for number, seconds in zip(table["workers"], table["predicted"], strict=True):
        print(f"{number} workers, each on its own core: predicted {seconds:.3f} s")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        report = {"env": env, "machine": describe(), "rates": dataclasses.asdict(rates), **table}
        files.write_text(out / "scaling.json", json.dumps(report, indent=1) + "\n")
        plotting.scaling(table, out / "scaling.png")


def video(
    policy: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    /,
    env: str | None = None,
    seed: int = 1,
    episodes: int = 1,
) -> None:
    """Film a trained policy (extra video).

    Parameters
    ----------
    policy
        A run folder, or a policy's npz file.
    out
        A .mp4 or .gif file.
    env
        The environment: that of the run folder where not given.
    seed
        Of the reset.
    episodes
        How many.
    """
    from esac.video import record

    acting, name, options = _policy(policy, env)
    print(record(name, acting, out, options=options, seed=seed, episodes=episodes))


def _policy(path: Path, env: str | None) -> tuple[NumpyPolicy, str, dict[str, Any]]:
    """Read a run folder's best policy or a policy's file, and say what environment it is for."""
    if path.suffix == ".npz":
        if env is None:
            raise InputError(f"{path} does not say its environment", "--env NAME")
        return NumpyPolicy.load(path), env, {}
    run = Run.read(path)
    with reading(path / "config.json", "a run of esac train"):
        name, options = env or rollout.named_in_a_file(run.config["env"], path), dict(run.config["options"])
    return NumpyPolicy.load(path / "best.npz"), name, options


def _check_fit(policy: NumpyPolicy, env: Any, name: str) -> None:
    wanted = rollout.numpy_policy(env, policy.shape.hidden).shape
    if wanted != policy.shape:
        raise InputError(
            f"a policy of {policy.shape.observations} observations and {policy.shape.actions} actions",
            f"one for {name}: {wanted.observations} and {wanted.actions}",
        )


def _told(episodes: Sequence[Episode]) -> dict[str, Any]:
    totals = [e.total for e in episodes]
    return {"episodes": len(totals), "mean": float(np.mean(totals)), "std": float(np.std(totals)), "returns": totals,
            "lengths": [e.length for e in episodes]}  # fmt: skip


def _default(words: Sequence[str]) -> ESACConfig:
    """Return what `train` has as its defaults for the environment that a command line names."""
    env = "HalfCheetah-v5"
    for number, word in enumerate(words):
        if word == "--env" and number + 1 < len(words):
            env = words[number + 1]
        elif word.startswith("--env="):
            env = word.partition("=")[2]
    return ESACConfig() if "--no-preset" in words else changed(presets.preset(env).settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[..., Any]] = {
        "train": _train(_default(words)), "evaluate": evaluate, "plot": plot, "bench": bench, "video": video,
    }  # fmt: skip
    return cli.run("esac", commands, words)


if __name__ == "__main__":
    sys.exit(main())
