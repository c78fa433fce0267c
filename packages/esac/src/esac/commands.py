"""The commands of `esac`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro
from sextet_common import cli, files, loggers
from sextet_common.device import describe
from sextet_common.errors import STRUCTURE, InputError, reading
from sextet_common.runs import Run

from esac import presets
from esac.config import ESACConfig, Mode, changed
from esac.play import environment, rollout
from esac.play.policy import HUB_FILE, NumpyPolicy
from esac.play.rollout import Episode

if TYPE_CHECKING:
    from esac.algorithm import ESAC

_ENV = "HalfCheetah-v5"
_POLICIES: dict[Mode, tuple[Literal["best", "mean", "sac"], ...]] = {
    "es": ("best", "mean"), "sac": ("best", "sac"), "esac": ("best", "mean", "sac"),
}  # fmt: skip


@cli.from_options
def train(options: Sequence[str]) -> Callable[..., None]:
    """Train on an environment; the same command resumes a stopped run, also with more --steps."""
    return _train_command(_default_config(options))


def _train_command(default: ESACConfig) -> Callable[..., None]:
    """Return the command `train` with the preset of an environment as its defaults."""

    def train(
        out: Path,
        env: str = _ENV,
        steps: int | None = None,
        seed: int = 0,
        device: str = "cpu",
        compat: Literal["none", "paper", "release"] = "none",
        preset: bool = True,
        log: tuple[loggers.Name, ...] = (),
        final_episodes: int = 10,
        config: ESACConfig = default,
    ) -> None:
        """Train on an environment; the same command resumes a stopped run, also with more --steps.

        Parameters
        ----------
        out
            Run folder.
        env
            Its name in gymnasium, or dm_control/NAME (extra dm-control). Its preset gives the defaults below.
        steps
            Environment steps; by default those of the preset.
        seed
            Seed of all random draws.
        device
            Device of the networks: a CPU is faster for policies of this size.
        compat
            The defaults below are those of the paper's public code as it is meant (paper), or with its bugs (release).
        preset
            Use the preset of the environment.
        log
            Trackers that follow the run: tensorboard, wandb, mlflow (extras of sextet-common of the same names).
        final_episodes
            Episodes of the final evaluation, from resets that training did not use.
        config
            Settings.
        """
        loggers.open(log)  # refuses a missing extra before the work
        from esac.algorithm import ESAC

        model = ESAC(env, config, seed=seed, device=device)
        model.learn(presets.preset(env).steps if steps is None else steps, out=out, log=log)
        report = {"env": env, "seed": seed, "steps": model.steps, "seconds": model.seconds}
        report |= _final_evaluation(model, final_episodes)
        files.write_text(out / "eval.json", json.dumps(report, indent=2) + "\n")

    return train


@cli.needs("tune")
@cli.from_options
def tune(options: Sequence[str]) -> Callable[..., None]:
    """Search the settings around an environment's preset; the same command resumes a stopped search (extra tune)."""
    return _tune_command(_default_config(options))


def _tune_command(default: ESACConfig) -> Callable[..., None]:
    """Return the command `tune` with the preset of an environment as its defaults."""

    def tune(
        out: Path,
        env: str = _ENV,
        trials: int = 20,
        steps: int | None = None,
        seed: int = 0,
        preset: bool = True,
        config: ESACConfig = default,
    ) -> None:
        """Search the settings around an environment's preset; the same command resumes a stopped search (extra tune).

        Parameters
        ----------
        out
            Folder of the search; ``esac train --config OUT/best.toml`` takes its result.
        env
            Its name in gymnasium, or dm_control/NAME (extra dm-control). Its preset gives the defaults below.
        trials
            Finished trials, with those of an interrupted search.
        steps
            Environment steps of a trial; by default those of the preset.
        seed
            Seed of the search and of every trial.
        preset
            Use the preset of the environment.
        config
            Settings around which the search is made.
        """
        from esac import tuning

        def after(trial: Any) -> None:
            print(f"trial {trial.number}, {trial.state.name.lower()}: {trial.value:.1f}, {trial.params}")

        found = tuning.tune(env, config, out=out, trials=trials, steps=steps, seed=seed, after=after)
        print(f"best of {found.trials} trials: {found.reward:.1f}; {out / 'best.toml'}")

    return tune


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
        A run folder, the file of a policy (npz, safetensors), a folder of export, or OWNER/NAME on the Hub.
    env
        The environment; by default that of the run folder.
    episodes
        Number of episodes.
    seed
        Seed of the resets.
    out
        A file for the JSON.
    """
    from esac.evaluation import run_episodes

    acting, name, options = _load_policy(policy, env)
    instance = environment.make(name, options)
    _check_fit(acting, instance, name)
    statistics = _episode_statistics(run_episodes(instance, acting, episodes, seed))
    report = json.dumps({"env": name, "seed": seed, "policy": str(policy), **statistics}, indent=2)
    print(report)
    if out is not None:
        files.write_text(out, report + "\n")


def export(run: tyro.conf.Positional[Path], /, to: Path, license: str = "unknown") -> None:
    """Write the best policy of a run as a folder for the Hugging Face Hub.

    Parameters
    ----------
    run
        A run folder.
    to
        The folder, new or empty.
    license
        The Hub's identifier of the licence, such as mit.
    """
    from esac.results.hub_folder import export_hub

    policy, name, options = _load_policy(run, None)
    returns: list[float] = []
    if (run / "eval.json").exists():
        with reading(run / "eval.json", "the evaluation of a run of esac train", *STRUCTURE):
            returns = [float(value) for value in json.loads((run / "eval.json").read_text("utf-8"))["best"]["returns"]]
    export_hub(policy, to, name, options, returns=returns, license=license)
    print(to)


def plot(runs: tyro.conf.Positional[tuple[Path, ...]], /, out: Path = Path("plots"), by: str | None = None) -> None:
    """Draw learning curves, winners, sigma and schedule of run folders, and print statistics.

    Parameters
    ----------
    runs
        Run folders; those of one environment and mode are seeds of one curve.
    out
        Folder of the figures.
    by
        A setting, such as crossover, whose values are curves of their own.
    """
    from esac.results import plotting, summaries

    def label(folder: str | os.PathLike[str]) -> str:
        config = Run.read(folder).config
        with reading(Path(folder) / "config.json", "a run of esac train", KeyError, TypeError):
            settings = dict(config["config"])
            values = {**settings.get("sac", {}), **settings}
        if by not in values:
            raise InputError(f"unknown setting {by!r}", "one of " + ", ".join(sorted(values)))
        return f"{settings.get('mode')}, {by} {values[by]}"

    if not runs:
        raise InputError("no run folder", "one or more")
    labels = None if by is None else label
    for path in plotting.draw_all(runs, out, labels):
        print(path)
    for row in (*summaries.summary(runs, labels), *summaries.improvements(runs, labels)):
        print(row)


def bench(
    env: str = _ENV,
    workers: tuple[int, ...] = (1, 2, 4),
    out: Path | None = None,
    steps: int = 5000,
    pairs: int = 10,
    horizon: int | None = None,
    hidden: tuple[int, ...] = (256, 256),
) -> None:
    """Measure environment steps per second and the time of a generation; predict it for up to 1024 workers.

    Parameters
    ----------
    env
        The environment.
    workers
        Numbers of worker processes to measure.
    out
        A folder for scaling.json and scaling.png.
    steps
        Environment steps per rate.
    pairs
        Members of a generation.
    horizon
        Steps of an episode; by default those of the environment.
    hidden
        Units of the hidden layers.
    """
    from esac import scaling
    from esac.play.task import Job
    from esac.results import plotting

    job = Job(env, {} if horizon is None else {"max_episode_steps": horizon}, hidden)
    rates = scaling.rates(job, steps)
    print(f"{env}: {rates.numpy:.0f} steps per second, {rates.numpy / rates.torch:.1f} times the rate of a torch "
          f"policy, {100 * rates.numpy / rates.bare:.0f} % of that of the bare environment")  # fmt: skip
    table = scaling.scaling_table(job, workers, os.cpu_count(), pairs)
    for number, seconds in table["measured"].items():
        print(f"{number} workers: {seconds:.2f} s per generation, predicted {table['here'][number]:.2f} s")
    for number, seconds in zip(table["workers"], table["predicted"], strict=True):
        print(f"{number} workers, each on its own core: predicted {seconds:.3f} s")
    if out is not None:
        with files.writing(out):
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
    steps: int | None = None,
    width: int | None = None,
) -> None:
    """Record a video of a trained policy (extra video).

    Parameters
    ----------
    policy
        A run folder, the file of a policy (npz, safetensors), a folder of export, or OWNER/NAME on the Hub.
    out
        A .mp4 or .gif file.
    env
        The environment; by default that of the run folder.
    seed
        Seed of the first reset.
    episodes
        Number of episodes.
    steps
        Steps of an episode; by default all.
    width
        Width in pixels; by default that of the environment's frames.
    """
    from esac.results.video import record

    acting, name, options = _load_policy(policy, env)
    print(record(name, acting, out, options=options, seed=seed, episodes=episodes, steps=steps, width=width))


def _load_policy(path: Path, env: str | None) -> tuple[NumpyPolicy, str, dict[str, Any]]:
    """Return the policy of a file, run folder or repository, and the name and options of its environment."""
    if path.suffix in (".npz", ".safetensors"):
        if env is None:
            raise InputError(f"{path} does not state its environment", "--env NAME")
        return NumpyPolicy.load(path), env, {}
    if not path.exists() or (path / HUB_FILE).exists():
        from esac.results.hub_folder import read_hub

        policy, name, options = read_hub(path)
        return policy, env or name, options
    run = Run.read(path)
    with reading(path / "config.json", "a run of esac train", KeyError, TypeError):
        name, options = env or run.config["env"], dict(run.config["options"])
    name = env or environment.name_from_file(name, path)
    return NumpyPolicy.load(path / "best.npz"), name, options


def _check_fit(policy: NumpyPolicy, env: Any, name: str) -> None:
    expected = rollout.numpy_policy(env, policy.shape.hidden, bias=policy.shape.bias).shape
    if expected != policy.shape:
        raise InputError(
            f"a policy of {policy.shape.observations} observations and {policy.shape.actions} actions",
            f"one for {name}: {expected.observations} and {expected.actions}",
        )


def _final_evaluation(model: ESAC, episodes: int) -> dict[str, Any]:
    """Evaluate all policies of a learner, and print their returns."""
    report: dict[str, Any] = {}
    for name in _POLICIES[model.config.mode]:
        row = report[name] = _episode_statistics(model.evaluate(name, episodes, seed=model.seed + 1))
        print(f"{name}: return {row['mean']:.1f} ± {row['std']:.1f}, {episodes} episodes")
    return report


def _episode_statistics(episodes: Sequence[Episode]) -> dict[str, Any]:
    totals = [e.total for e in episodes]
    return {"episodes": len(totals), "mean": float(np.mean(totals)), "std": float(np.std(totals)), "returns": totals,
            "lengths": [e.length for e in episodes]}  # fmt: skip


def _default_config(options: Sequence[str]) -> ESACConfig:
    """Return the defaults of `train` for the environment and the behaviour that its options name."""
    compat = _value(options, "--compat", "none")
    config = changed(presets.COMPATIBILITY.get(compat, {}))
    if "--no-preset" in options:
        return config
    chosen = presets.preset(_value(options, "--env", _ENV))
    return changed(chosen.settings if compat == "none" else chosen.paper, config)


def _value(options: Sequence[str], name: str, default: str) -> str:
    """Return the value of an option."""
    value = default
    for number, word in enumerate(options):
        if word == name and number + 1 < len(options):
            value = options[number + 1]
        elif word.startswith(f"{name}="):
            value = word.partition("=")[2]
    return value
