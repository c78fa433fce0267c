from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from esac import ESAC, All, NumpyPolicy, PolicyShape, SaveEvery, StopOnReward, changed, paper, preset, release
from esac.__main__ import main
from esac.config import ESACConfig
from esac.presets import PRESETS, SB3_SAC
from esac.sac.actor import Explorer
from esac.sac.config import SACConfig
from esac.sac.replay import Replay
from esac.sac.update import SAC
from sextet_common import checkpoint
from sextet_common.errors import InputError
from sextet_common.runs import Run

TINY: dict[str, Any] = {
    "population": 4, "elite": 0.25, "injected": 1, "sac_schedule": "annealed", "sac_every": 1, "sac_episodes": 1,
    "start_steps": 20, "hidden": (8, 8), "eval_every": 200, "eval_episodes": 2, "checkpoint_every": 200, "amt_every": 1,
    "es_method": "openai", "es_hidden": (8, 8), "crossover": "row", "es_gradient": "all",
    "sac": {"batch_size": 8, "capacity": 5000},
}  # fmt: skip


def learner(seed: int = 0, **words: object) -> ESAC:
    return ESAC("Pendulum-v1", changed({**TINY, **words}), seed=seed, options={"max_episode_steps": 15})


def test_a_run_folder_holds_stable_baselines_files_and_a_resumed_run_the_same_ones(tmp_path: Path) -> None:
    made = learner().learn(700, out=tmp_path / "whole")
    learner().learn(300, out=tmp_path / "parts")
    learner().learn(700, out=tmp_path / "parts")
    both = []
    for name in ("whole", "parts"):
        with np.load(tmp_path / name / "evaluations.npz", allow_pickle=False) as table:
            both.append(dict(table))
    for key in ("timesteps", "results", "ep_lengths", "results_mean", "results_sac"):
        np.testing.assert_array_equal(both[0][key], both[1][key])
    found = both[0]
    assert found["timesteps"].dtype.kind == "i" and found["results"].shape == (len(found["timesteps"]), 2)
    assert (found["ep_lengths"] == 15).all() and (np.diff(found["timesteps"]) > 0).all()
    means = np.stack([found["results_mean"].mean(axis=1), found["results_sac"].mean(axis=1)])
    np.testing.assert_allclose(found["results"].mean(axis=1), means.max(axis=0))
    rows = list(csv.DictReader((tmp_path / "parts" / "progress.csv").read_text().splitlines()))
    assert [int(row["time/generation"]) for row in rows] == list(range(1, made.generation + 1))
    assert float(rows[-1]["time/env_steps"]) == made.steps and rows[-1]["es/sigma"]
    assert float(rows[-1]["time/total_timesteps"]) == made.steps and float(rows[-1]["time/time_elapsed"]) > 0
    for name in ("whole", "parts"):
        head, *lines = (tmp_path / name / "monitor.csv").read_text().splitlines()
        assert json.loads(head[1:])["env_id"] == "Pendulum-v1" and lines[0].startswith("r,l,t")
        assert len(lines) == made.episodes + 1
        assert sum(int(line.split(",")[1]) for line in lines[1:]) == made.steps


@pytest.mark.slow
def test_a_run_resumes_to_the_same_bits_with_other_running_settings(tmp_path: Path) -> None:
    whole = learner().learn(700, out=tmp_path / "whole")
    learner().learn(300, out=tmp_path / "parts")
    resumed = learner(workers=2, timeout=60.0, checkpoint_every=90, most_failed=0.9).learn(700, out=tmp_path / "parts")
    np.testing.assert_array_equal(resumed.population.mean, whole.population.mean)
    np.testing.assert_array_equal(resumed.sac.actor.vector(), whole.sac.actor.vector())
    found = json.loads((tmp_path / "parts" / "config.json").read_text())
    assert found["config"]["steps"] == 700 and found["config"]["config"]["workers"] == 2
    (earlier,) = found["earlier"]
    assert earlier["config"]["steps"] == 300 and earlier["config"]["config.workers"] == 0


@pytest.mark.parametrize(
    ("seed", "words", "message"),
    [
        (1, {}, "seed=0, not 1"),
        (0, {"sigma": 0.3}, r"sigma=0\.03, not 0\.3"),
        (0, {"eval_every": 100}, "eval_every=200, not 100"),  # the best policy depends on it
        (0, {"sac": {**TINY["sac"], "gamma": 0.5}}, r"gamma=0\.99, not 0\.5"),
    ],
)
def test_a_run_with_another_method_or_seed_is_refused(
    tmp_path: Path, seed: int, words: dict[str, object], message: str
) -> None:
    learner().learn(60, out=tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(InputError, match=message):
        learner(seed, **words).learn(60, out=tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_a_run_folder_that_records_neither_steps_nor_workers_is_resumed(tmp_path: Path) -> None:
    whole = learner().learn(500, out=tmp_path / "whole")
    learner().learn(200, out=tmp_path / "old")
    table = json.loads((tmp_path / "old" / "config.json").read_text())  # as earlier versions wrote it
    for name in ("workers", "engine", "timeout"):
        del table["config"]["config"][name]
    del table["config"]["steps"], table["config"]["device"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(table))
    resumed = learner().learn(500, out=tmp_path / "old")
    np.testing.assert_array_equal(resumed.population.mean, whole.population.mean)


def test_a_second_learner_in_the_folder_is_refused_while_the_first_one_runs(tmp_path: Path) -> None:
    refusals = []

    def second(*_: object) -> bool:
        with pytest.raises(InputError, match="is in use by process"):
            learner().learn(100, out=tmp_path / "run")
        refusals.append(1)
        return False

    learner().learn(100, second, out=tmp_path / "run")
    assert refusals == [1]
    learner().learn(100, out=tmp_path / "run")  # the first one has closed it


def test_numpy_s_numbers_are_seeds_and_steps(tmp_path: Path) -> None:
    options = {"max_episode_steps": 15}
    made = ESAC("Pendulum-v1", changed(TINY), seed=np.int64(3), options=options)  # type: ignore[arg-type]
    made.learn(np.int32(100), out=tmp_path / "run")  # type: ignore[arg-type]
    same = ESAC("Pendulum-v1", changed(TINY), seed=3, options=options).learn(100)
    np.testing.assert_array_equal(made.population.mean, same.population.mean)
    with pytest.raises(InputError, match="seed must be a whole number >= 0, got -1"):
        learner(-1)
    with pytest.raises(InputError, match=r"total_steps must be a whole number >= 0, got 0\.5"):
        made.learn(0.5)  # type: ignore[arg-type]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full")

    def fill(*_: object) -> None:
        (tmp_path / "run" / "monitor.csv").unlink(missing_ok=True)
        (tmp_path / "run" / "monitor.csv").symlink_to("/dev/full")

    with pytest.raises(InputError, match=r"monitor\.csv cannot be written: No space left"):
        learner().learn(300, fill, out=tmp_path / "run")


def test_a_tracker_follows_generation_by_generation(tmp_path: Path) -> None:
    class Tracker:
        def __init__(self) -> None:
            self.calls: list[tuple[object, ...]] = []

        def start(self, run: Run) -> None:
            self.calls.append(("start", run.path))

        def log(self, step: int, values: Mapping[str, Any]) -> None:
            self.calls.append((step, dict(values)))

        def finish(self, status: str) -> None:
            self.calls.append(("finish", status))

    tracker = Tracker()
    learner().learn(200, out=tmp_path / "run", log=[tracker])
    assert tracker.calls[0] == ("start", tmp_path / "run") and tracker.calls[-1] == ("finish", "finished")
    rows = Run.read(tmp_path / "run").metrics()
    assert [{"step": step, **values} for step, values in tracker.calls[1:-1]] == rows and rows  # type: ignore[dict-item]
    with pytest.raises(InputError, match="run folder"):
        learner().learn(200, log=[tracker])


def test_a_kill_right_after_the_last_checkpoint_costs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def saving_the_last(folder: Path, step: int, *rest: object) -> None:
        save(folder, step, *rest)  # type: ignore[arg-type]
        if step == made.generation:
            raise Killed

    made, save = learner().learn(700, out=tmp_path / "whole"), checkpoint.save_step
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "save_step", saving_the_last)
        learner().learn(700, out=tmp_path / "killed")
    learner().learn(700, out=tmp_path / "killed")
    assert (tmp_path / "killed" / "best.npz").read_bytes() == (tmp_path / "whole" / "best.npz").read_bytes()
    for name in ("progress.csv", "monitor.csv"):
        whole, killed = ((tmp_path / run / name).read_text().splitlines() for run in ("whole", "killed"))
        assert len(killed) == len(whole)
    with np.load(tmp_path / "killed" / "evaluations.npz", allow_pickle=False) as table:
        assert len(table["timesteps"]) == len(made.evaluations.when)


def test_stable_baselines_reads_what_a_run_folder_holds(tmp_path: Path) -> None:
    monitor = pytest.importorskip("stable_baselines3.common.monitor")
    made = learner().learn(400, out=tmp_path / "run")
    table = monitor.load_results(str(tmp_path / "run"))
    assert table["l"].sum() == made.steps and {"r", "l", "t"} <= set(table.columns)


def test_stable_baselines_evaluates_a_learner() -> None:
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    vector = pytest.importorskip("stable_baselines3.common.vec_env")
    import gymnasium

    made = learner().learn(300)
    env = vector.DummyVecEnv([lambda: gymnasium.make("Pendulum-v1", max_episode_steps=15)])
    env.seed(7)
    returns, lengths = evaluation.evaluate_policy(made, env, 3, return_episode_rewards=True, warn=False)
    assert lengths == [15, 15, 15]
    plain, policy = gymnasium.make("Pendulum-v1", max_episode_steps=15), made.policy()
    seen, _ = plain.reset(seed=7)
    total = 0.0
    for _ in range(15):
        seen, reward, *_ = plain.step(policy(seen))
        total += float(reward)
    assert returns[0] == pytest.approx(total, rel=1e-4)


def test_actions_by_chance_are_the_gradient_trained_policy_s(tmp_path: Path) -> None:
    made = learner().learn(200)
    seen = np.zeros((500, 3), np.float32)
    actions, state = made.predict(seen, deterministic=False)
    assert state is None and actions.shape == (500, 1) and len(np.unique(actions)) > 100
    again = made.predict(np.zeros(3), deterministic=False)[0]
    assert again.shape == (1,) and abs(float(again[0])) <= 2


def test_exploring_by_numpy_is_the_module_s_sample_while_it_learns() -> None:
    import torch

    torch.manual_seed(0)
    shape, low, high = PolicyShape(5, 2, (16, 8)), np.array([-2.0, 0.0]), np.array([2.0, 1.0])
    sac = SAC(shape, low, high, SACConfig())
    explore, random = Explorer(sac.actor), np.random.default_rng(0)
    replay = Replay(64, 5, 2)
    replay.add(random.normal(size=(64, 14)).astype(np.float32))
    for _ in range(3):
        seen, noise = random.normal(size=5).astype(np.float32), random.normal(size=2).astype(np.float32)
        with torch.no_grad():
            wanted = sac.actor.sample(torch.tensor(seen)[None], torch.tensor(noise)[None])[0][0].numpy()
        np.testing.assert_allclose(explore(seen, noise), wanted, rtol=1e-5, atol=1e-6)
        sac.update(replay.sample(random, 16), torch.randn(2, 16, 2))


def test_a_saved_policy_acts_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    made = learner().learn(200)
    made.policy("sac").save(tmp_path / "p.npz")
    seen = np.array([0.5, -0.25, 1.0], np.float32)
    script = (
        "import sys, numpy as np; from esac import NumpyPolicy; "
        f"p = NumpyPolicy.load({str(tmp_path / 'p.npz')!r}); "
        "print(float(p(np.array([0.5, -0.25, 1.0]))[0]), 'torch' in sys.modules)"
    )
    value, torch_there = subprocess.check_output([sys.executable, "-c", script], text=True).split()
    module = made.to_module("sac")
    import torch

    assert torch_there == "False"
    with torch.no_grad():
        assert float(value) == pytest.approx(float(module(torch.tensor(seen)[None])[0, 0]), abs=1e-5)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY"])
def test_a_damaged_policy_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        NumpyPolicy.load(tmp_path / "p.npz")
    with pytest.raises(InputError, match="does not exist"):
        NumpyPolicy.load(tmp_path / "none.npz")


def test_a_policy_file_whose_weights_do_not_fit_its_layers_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", vector=np.zeros(3, np.float32), low=[-1.0], high=[1.0], hidden=[4], observations=2,
             action="tanh")  # fmt: skip
    with pytest.raises(InputError, match="3 weights; expected: 17"):
        NumpyPolicy.load(tmp_path / "p.npz")


def test_the_replay_goes_its_own_way(tmp_path: Path) -> None:
    first = learner().learn(300)
    first.save(tmp_path / "e.safetensors", replay=False)
    first.save_replay(tmp_path / "r.safetensors")
    loaded = ESAC.load(tmp_path / "e.safetensors")
    assert len(loaded.replay) == 0
    loaded.load_replay(tmp_path / "r.safetensors")
    first.learn(600), loaded.learn(600)
    np.testing.assert_array_equal(first.population.mean, loaded.population.mean)
    np.testing.assert_array_equal(first.sac.actor.vector(), loaded.sac.actor.vector())
    with pytest.raises(InputError, match="expected: a saved replay"):
        loaded.load_replay(tmp_path / "e.safetensors")


def test_callbacks_stop_and_save(tmp_path: Path) -> None:
    made = learner().learn(10_000, All(SaveEvery(tmp_path / "kept", 100), StopOnReward(-1e9)))
    assert made.generation == 1 and len(list((tmp_path / "kept").iterdir())) == 1
    assert ESAC.load(next((tmp_path / "kept").iterdir())).steps == made.steps


def test_presets_are_settings_that_exist_and_the_papers_own_ones() -> None:
    for name, each in PRESETS.items():
        assert changed(each.settings).population and each.source, name
        assert changed(each.paper, paper()).population, name
    assert preset("Swimmer-v5").paper == {"sac_episodes": 1, "injected": 1}
    assert preset("NoSuch-v3").source.startswith("defaults")
    assert changed(SB3_SAC).sac.auto_alpha


def test_the_released_code_s_mistakes_are_what_a_generation_then_does() -> None:
    made = ESAC("Pendulum-v1", release(changed(TINY)), seed=0, options={"max_episode_steps": 15})
    offspring = made.population.offspring(0, made.sac.actor.vector())
    assert [task.sign for task in offspring.tasks] == [1, 0] * 4  # forward differences
    assert set(offspring.origins) == {"mean", "sac"}  # nobody is crossed
    made.learn(60)
    assert made.counted == 60 == made.generation * 15 and made.steps > 60  # a horizon a generation
    assert made.population.sigma > made.config.sigma  # tuned by ranks, whose gap never vanishes
    assert {task.sigma for task in made.population.offspring(9, made.population.mean).tasks} == {
        made.config.sigma
    }  # for nobody
    seen = np.array([9.0, -9.0, 9.0], np.float32)
    raw = made.policy("mean")
    x = (seen - raw.inputs[0]) * raw.inputs[1]
    for number, (w, b) in enumerate(raw.shape.parts(raw.vector)):
        x = w @ x + b if number == 2 else np.maximum(w @ x + b, 0)
    np.testing.assert_allclose(raw(seen), np.clip(x, -1, 1), rtol=1e-5)
    import torch

    for which in ("mean", "sac", "best"):  # the module acts as the policy does, under either map
        with torch.no_grad():
            wanted = made.to_module(which)(torch.tensor(seen)[None])[0].numpy()  # type: ignore[arg-type]
        np.testing.assert_allclose(made.policy(which)(seen), wanted, rtol=1e-5, atol=1e-6)  # type: ignore[arg-type]
    assert made.policy("mean").action == "clip" and made.policy("sac").action == "tanh"


def test_the_best_policy_keeps_the_map_that_it_was_evaluated_with(tmp_path: Path) -> None:
    made = learner(mode="es", es_action="clip").learn(300)
    assert made.policy().action == "clip"
    made.save(tmp_path / "e.safetensors")
    assert ESAC.load(tmp_path / "e.safetensors").policy().action == "clip"
    returns = [e.total for e in made.evaluate("best", 3 * made.config.eval_episodes)]
    assert np.mean(returns) == pytest.approx(made.best.reward)


@pytest.mark.parametrize("words", [{"es_optimizer": "clipup"}, {"es_optimizer": "sgd"}, {"selection": "softmax"},
                                   {"transfer": "both"}, {"crossover": "neuron"}, {"store": "injected"},
                                   {"es_gradient": "mean"}])  # fmt: skip
def test_every_switch_learns_and_changes_what_is_learned(words: dict[str, object]) -> None:
    seen: list[list[np.ndarray]] = [[], []]
    plain, other = (
        learner(**{"elite": 0.5, **changes}).learn(700, lambda _, done, rows=rows: rows.append(done.returns))
        for changes, rows in (({}, seen[0]), (words, seen[1]))
    )
    assert np.isfinite(other.population.mean).all()
    same = all(np.array_equal(a, b) for a, b in zip(*seen, strict=False)) and len(seen[0]) == len(seen[1])
    assert not same or not np.array_equal(plain.sac.actor.vector(), other.sac.actor.vector())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"mode": "evolution"}, "mode must be esac, es or sac, got 'evolution'"),
        ({"crossover": "columns"}, "crossover must be row, neuron or none, got 'columns'"),
        ({"es_top": 5, "population": 4}, "es_top is 5; expected: at most the population, 4"),
        ({"es_method": "cma", "injected": 1}, "es_method cma with crossover, injected members"),
        ({"hidden": (8, 0)}, r"hidden\[1\] must be a whole number >= 1, got 0"),
        ({"updates_per_step": -1}, "updates_per_step must be a number >= 0, got -1"),
        ({"threads": 0}, "threads must be a whole number >= 1, got 0"),
        ({"nonsense": 1}, "unknown setting 'nonsense'"),
        ({"sac": {"nonsense": 1}}, "a field of SACConfig"),
    ],
)
def test_settings_that_are_none(words: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(words)


def test_the_command_line_trains_goes_on_evaluates_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = "--hidden 8 8 --population 4 --elite 0.25 --injected 1 --sac-episodes 1 --start-steps 200 --batch-size 8"
    words = f"train --env Pendulum-v1 --out run --eval-episodes 1 --final-episodes 2 {small}".split()
    assert main([*words, "--steps", "1000"]) == 0
    assert main([*words, "--steps", "3000"]) == 0
    report = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert report["steps"] >= 3000 and len(report["best"]["returns"]) == 2
    capsys.readouterr()
    assert main(["evaluate", "run", "--episodes", "2", "--seed", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["returns"] == report["best"]["returns"]
    assert main(["evaluate", "run/best.npz", "--episodes", "1"]) == 2
    assert "does not state its environment" in capsys.readouterr().err
    assert main(["evaluate", "run/best.npz", "--env", "InvertedPendulum-v5", "--episodes", "1"]) == 2
    assert "a policy of 3 observations" in capsys.readouterr().err
    assert main(["plot", "run", "--out", "plots"]) == 0
    assert {"curves-steps.png", "sigma.png"} <= {path.name for path in (tmp_path / "plots").iterdir()}
    assert main(["plot", "run", "--out", "plots", "--by", "crossover"]) == 0
    assert "esac, crossover none" in capsys.readouterr().out
    assert main(["plot", "run", "--out", "plots", "--by", "nonsense"]) == 2
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text('{"job": "esac train", "config": {"config": 1}}')
    assert main(["plot", "damaged", "--out", "plots", "--by", "crossover"]) == 2
    capsys.readouterr()
    assert main(["train", "--env", "CartPole-v1", "--out", "other"]) == 2
    assert "continuous actions" in capsys.readouterr().err and not (tmp_path / "other").exists()
    assert main(["plot", "nothing", "--out", "plots"]) == 2


COMMAND = (
    "train --env Pendulum-v1 --steps 1000 --hidden 8 8 --population 4 --elite 0.25 --injected 1 --sac-episodes 1 "
    "--start-steps 200 --batch-size 8 --eval-episodes 1 --final-episodes 2"
)


def test_the_command_line_takes_the_settings_of_an_earlier_run_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND.split(), "--out", "first", "--sigma", "0.05", "--workers", "1"]) == 0
    assert main(["train", "--config", "first", "--out", "again", "--workers", "0", "--final-episodes", "2"]) == 0
    assert (tmp_path / "again" / "best.npz").read_bytes() == (tmp_path / "first" / "best.npz").read_bytes()
    recorded = [json.loads((tmp_path / name / "config.json").read_text())["config"] for name in ("first", "again")]
    assert recorded[1] == {**recorded[0], "config": {**recorded[0]["config"], "workers": 0}}
    lines = ['env = "InvertedPendulum-v5"', "preset = false", "steps = 100", "final-episodes = 1", "[config]",
             "sac_every = 1", "population = 2", "elite = 0.5", "injected = 1", "eval_episodes = 1"]  # fmt: skip
    (tmp_path / "run.toml").write_text("\n".join(lines))
    assert main(["train", "--config", "run.toml", "--steps", "60", "--out", "third", "--hidden", "8"]) == 0
    found = json.loads((tmp_path / "third" / "config.json").read_text())["config"]
    assert found["env"] == "InvertedPendulum-v5" and found["steps"] == 60 and found["config"]["hidden"] == [8]
    assert found["config"]["sigma"] == ESACConfig().sigma  # not the preset's
    capsys.readouterr()
    (tmp_path / "run.toml").write_text("sigmas = 1")
    assert main(["train", "--config", "run.toml", "--out", "fourth"]) == 2
    told = capsys.readouterr().err
    assert "sigmas is not an option" in told and "sigma" in told and len(told.splitlines()) == 1


def test_the_command_line_s_tracker_is_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND.split(), "--out", "run", "--log", "tensorboard"]) == 0
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    written = [(e.step, e.value) for e in events.Scalars("es/sigma")]
    rows = Run.read("run").metrics()
    assert written == [(row["step"], pytest.approx(row["es/sigma"], rel=1e-6)) for row in rows] and rows


def test_a_missing_tracker_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main([*COMMAND.split(), "--out", str(tmp_path / "run"), "--log", "wandb"]) == 2
    assert "sextet-common[wandb]" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_saved_learner_starts_no_workers(tmp_path: Path) -> None:
    made = learner(workers=2, timeout=5.0, checkpoint_every=70)
    made.save(tmp_path / "x")
    assert ESAC.load(tmp_path / "x").config == learner(checkpoint_every=70).config


def test_a_preset_is_the_command_line_s_default(capsys: pytest.CaptureFixture[str]) -> None:
    from esac.commands import _default_config

    assert _default_config(["train", "--env", "Ant-v5"]).sac_episodes == 10
    assert _default_config(["train", "--env=Ant-v5", "--no-preset"]) == ESACConfig()
    assert _default_config(["--env", "Swimmer-v5", "--env", "Ant-v5"]).sac_episodes == 10


def test_the_scaling_model_simulates_what_a_loop_over_time_does() -> None:
    from esac.scaling import Costs, generation_seconds

    random = np.random.default_rng(0)
    tasks = tuple(random.uniform(0.5, 2.0, size=20).tolist())
    assert generation_seconds(Costs(tasks, 0.0, 0.0), 1) == pytest.approx(sum(tasks))
    assert generation_seconds(Costs(tasks, 0.0, 0.0), 1024) == pytest.approx(max(tasks))
    assert generation_seconds(Costs(tasks, 0.0, 0.0, gradients=99.0), 4) == 99.0
    free = [0.0] * 3  # greedy list scheduling, literally
    for seconds in tasks:
        worker = min(range(3), key=lambda k: free[k])
        free[worker] += seconds
    assert generation_seconds(Costs(tasks, 0.0, 0.0), 3) == pytest.approx(max(free))
    assert generation_seconds(Costs((1.0,) * 4, 0.0, 0.0), 4, cores=2) == pytest.approx(2.0)
    with pytest.raises(InputError, match="workers must be a whole number >= 1, got 0"):
        generation_seconds(Costs(tasks, 0.0, 0.0), 0)


def test_bench_measures_and_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "bench --env Pendulum-v1 --workers 1 --steps 200 --pairs 2 --horizon 20 --hidden 8 8 --out"
    assert main([*words.split(), str(tmp_path / "b")]) == 0
    table = json.loads((tmp_path / "b" / "scaling.json").read_text())
    assert table["workers"][-1] == 1024 and min(table["predicted"]) > 0 and table["measured"]["1"] > 0
    assert table["rates"]["bare"] > 0 and (tmp_path / "b" / "scaling.png").exists()
