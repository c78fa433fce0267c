"""The search over settings."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from esac import ESAC, changed, preset, tune
from esac.__main__ import main
from sextet_common.errors import InputError

ENV = "MountainCarContinuous-v0"
SEARCH: dict[str, Any] = {"trials": 3, "steps": 9000, "seed": 2}


def config(mode: str = "es") -> Any:
    settings = {"mode": mode, "injected": 0, "eval_episodes": 1, "eval_every": 3000, "hidden": (8,), "start_steps": 50}
    return changed({**preset(ENV).settings, **settings, "updates_per_step": 0.01})


def trials_of(folder: Path) -> list[Any]:
    """Parameters and values of the finished trials, read by Optuna."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(folder / "study.log")))
    study = optuna.load_study(study_name="esac", storage=storage)
    return [(t.params, t.value) for t in study.trials if t.state != optuna.trial.TrialState.FAIL]


@pytest.mark.parametrize("mode", ["es", "esac"])
def test_the_result_is_the_best_trial_and_its_settings_reproduce_it(mode: str, tmp_path: Path) -> None:
    found = tune(ENV, config(mode), out=tmp_path, **SEARCH)
    trials = trials_of(tmp_path)
    assert found.reward == max(value for _, value in trials) and found.trials == len(trials) == 3
    assert len({params["sigma"] for params, _ in trials}) == 3 and ("lr" in trials[0][0]) == (mode == "esac")
    again = ESAC(ENV, found.config, seed=2).learn(9000)
    assert again.best.reward == found.reward
    (tmp_path / "best.toml").unlink()
    assert tune(ENV, config(mode), out=tmp_path, **SEARCH) == found  # a finished search
    written = tomllib.loads((tmp_path / "best.toml").read_text())
    assert written["env"] == ENV and written["sigma"] == found.config.sigma
    assert written.get("sac", {}).get("lr") == (found.config.sac.lr if mode == "esac" else None)


def test_a_killed_search_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    whole = tune(ENV, config(), out=tmp_path / "whole", **{**SEARCH, "trials": 5})
    script = f"""
import os
from esac import tune
from test_tuning import ENV, SEARCH, config
def after(trial):
    if trial.number == 2:
        import esac.tuning
        esac.tuning.changed = lambda *_: os._exit(9)  # in the middle of the next trial
tune(ENV, config(), out={str(tmp_path / "killed")!r}, after=after, **{{**SEARCH, "trials": 5}})
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, check=False, timeout=120)
    assert ended.returncode == 9 and len(trials_of(tmp_path / "killed")) == 4  # one of them is still running
    resumed = tune(ENV, config(), out=tmp_path / "killed", **{**SEARCH, "trials": 5})
    assert resumed == whole and trials_of(tmp_path / "killed") == trials_of(tmp_path / "whole")


def test_hopeless_trials_are_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    monkeypatch.setattr("esac.tuning._FEWEST", 1)
    asked = []
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: asked.append(trial.number) or trial.number == 2)
    states = []
    tune(ENV, config(), out=tmp_path, **{**SEARCH, "after": lambda trial: states.append(trial.state.name)})
    assert states == ["COMPLETE", "COMPLETE", "PRUNED"] and asked.count(2) == 1 and asked.count(0) > 1


def test_bad_input_is_refused_with_one_error(tmp_path: Path) -> None:
    tune(ENV, config(), out=tmp_path, **{**SEARCH, "trials": 1})
    for words, message in (
        ({"trials": 0}, "trials must be"), ({"steps": 0}, "steps must be"), ({"seed": 3}, "with other settings"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            tune(ENV, config(), out=tmp_path, **{**SEARCH, **words})


def test_the_command_searches_and_train_takes_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--mode", "es", "--steps", "1500", "--eval-episodes", "1"]
    assert main(["tune", "--env", ENV, "--trials", "2", "--out", str(tmp_path / "t"), *few]) == 0
    assert "best of 2 trials" in capsys.readouterr().out
    assert main(["train", "--config", str(tmp_path / "t" / "best.toml"), "--out", str(tmp_path / "r")]) == 0
    assert (tmp_path / "r" / "best.npz").exists()
