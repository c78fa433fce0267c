"""A small search over an environment's settings with Optuna (extra tune)."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sextet_common import checks, files, runs
from sextet_common.checks import Count
from sextet_common.errors import InputError, require
from sextet_common.progress import bar
from sextet_common.seeding import derive

from esac.config import ESACConfig, changed
from esac.presets import preset

if TYPE_CHECKING:
    import optuna

_STUDY = "esac"
_FEWEST = 4  # finished trials before others are pruned


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The best settings of a search, the mean return that its best policy had, and the number of finished trials."""

    config: ESACConfig
    reward: float
    trials: int


def tune(
    env: str,
    config: ESACConfig | None = None,
    *,
    out: str | os.PathLike[str],
    trials: int = 20,
    steps: int | None = None,
    seed: int = 0,
    after: Callable[[optuna.trial.FrozenTrial], None] | None = None,
) -> Tuned:
    """Search the settings around ``config``, by default the environment's preset, with Optuna's TPE.

    Each trial learns with other settings from the same seed; its value is the return of its best policy. A trial whose
    evaluations are below the median of the others is pruned. The search resumes if it was stopped or killed, with the
    same numbers.

    Parameters
    ----------
    out
        Folder of the study (``study.log``, Optuna's journal) and of ``best.toml``, which ``esac train --config`` takes.
    trials
        Finished trials, with those of an interrupted search.
    steps
        Environment steps of a trial; by default the preset's.
    after
        Called after each trial.
    """
    optuna = require("optuna", package="esac", extra="tune")
    checks.check("trials", trials, Count)
    checks.check("steps", steps, Count | None)
    config = config or changed(preset(env).settings)
    steps = preset(env).steps if steps is None else steps
    folder = Path(out)
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    study = _open(folder, {"env": env, "steps": steps, "seed": seed, "config": runs.to_json(config)})
    done = len(_finished(study))
    if done > trials:
        raise InputError(f"{folder} has {done} finished trials", f"trials >= {done}")
    with bar("tune", trials, done=done) as progress:
        for number in range(done, trials):
            study.sampler = optuna.samplers.TPESampler(seed=derive(seed, "tune", number) % 2**32)
            trial = study.ask()
            state, reward = _run(trial, env, changed(suggested(trial, config), config), steps, seed)
            study.tell(trial, state=state, values=reward)
            progress.advance(best=_best(study).value)
            if after is not None:
                after(study.trials[-1])
    best = _best(study)
    found = changed(suggested(best, config), config)
    files.write_text(folder / "best.toml", _toml(env, steps, found))
    return Tuned(found, float(best.value), trials)


def suggested(trial: optuna.Trial, config: ESACConfig) -> dict[str, Any]:
    """Return the settings that a trial changes: those of the population, and of soft actor-critic unless mode is es."""
    settings: dict[str, Any] = {}
    if config.mode != "sac":
        least = max(1, config.population // 2, config.gradient_members + 1, config.es_top or 1)
        settings["population"] = trial.suggest_int("population", least, max(least, 4 * config.population), log=True)
        settings["sigma"] = _around(trial, "sigma", config.sigma)
        if config.es_method != "cma":
            settings["es_lr"] = _around(trial, "es_lr", config.es_lr)
    if config.mode != "es":
        gamma = 1 - trial.suggest_float("1 - gamma", 1e-4, 0.1, log=True)
        settings["sac"] = dataclasses.replace(config.sac, lr=_around(trial, "lr", config.sac.lr), gamma=gamma)
    return settings


def _around(trial: optuna.Trial, name: str, value: float) -> float:
    return float(trial.suggest_float(name, value / 10, value * 10, log=True))


def _open(folder: Path, record: dict[str, Any]) -> optuna.Study:
    """Open a study or begin one; fail the trials that an interruption left."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # its lines would tear the progress bar
    path = folder / "study.log"
    storage = JournalStorage(JournalFileBackend(str(path)))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_FEWEST, n_warmup_steps=1)
    study = optuna.create_study(
        storage=storage, study_name=_STUDY, load_if_exists=True, direction="maximize", pruner=pruner
    )
    text = json.dumps(record, sort_keys=True)
    before = study.user_attrs.get("record", text)
    if before != text:
        raise InputError(f"{path} is a search with other settings", "the same environment, steps, seed and settings")
    study.set_user_attr("record", text)
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _finished(study: optuna.Study) -> list[Any]:
    import optuna

    states = optuna.trial.TrialState
    return study.get_trials(states=[states.COMPLETE, states.PRUNED], deepcopy=False)


def _best(study: optuna.Study) -> Any:
    return max(_finished(study), key=lambda trial: trial.value)


def _run(trial: optuna.Trial, env: str, config: ESACConfig, steps: int, seed: int) -> tuple[Any, float | None]:
    """Learn with the settings of a trial; return its state and its value, which Optuna knows of a pruned one."""
    import optuna

    from esac.algorithm import ESAC
    from esac.generation import Generation

    reports = 0

    def watch(model: ESAC, _: Generation) -> bool:
        nonlocal reports
        if len(model.evaluations.when) > reports:
            reports = len(model.evaluations.when)
            trial.report(model.best.reward, reports)
            return not trial.should_prune()
        return True

    model = ESAC(env, config, seed=seed)
    model.learn(steps, watch, progress_bar=False)
    if model.counted < steps:
        return optuna.trial.TrialState.PRUNED, None
    return optuna.trial.TrialState.COMPLETE, model.best.reward


def _toml(env: str, steps: int, config: ESACConfig) -> str:
    """Return the options of ``esac train`` for settings: those that differ from the preset's."""
    own, usual = runs.to_json(config), runs.to_json(changed(preset(env).settings))
    sac = {name: value for name, value in own.pop("sac").items() if value != usual["sac"][name]}
    rows = {"env": env, "steps": steps, **{name: value for name, value in own.items() if value != usual[name]}}
    lines = [f"{name} = {json.dumps(value)}" for name, value in rows.items() if value is not None]
    lines += ["[sac]", *(f"{name} = {json.dumps(value)}" for name, value in sac.items())] if sac else []
    return "\n".join(lines) + "\n"
