"""esac reads: policies, saved learners and replays, and run folders: settings, metrics, evaluations, monitor.csv."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from esac import ESAC, ESACConfig, NumpyPolicy, PolicyShape, commands
from esac.results.outputs import Outputs
from esac.results.records import Record, read
from harness import EXAMPLES, fuzz, holds
from hostile import archives, checkpoints, documents, mutated, npy, stored
from hypothesis import example, given, settings, strategies as st
from run_folders import gone_on_from, left_by
from sextet_common import checkpoint
from sextet_common.errors import InputError
from sextet_common.runs import Run

FEW = settings(fuzz, max_examples=max(1, EXAMPLES // 3))  # a learner is made for each
ENV = "Pendulum-v1"
SHAPE = PolicyShape(3, 1, (4,))
POLICY: dict[str, np.ndarray] = {
    "low": np.float32([-2]), "high": np.float32([2]), "vector": np.zeros(SHAPE.size, np.float32),
    "hidden": np.array([4]), "observations": np.array(3), "action": np.array("tanh"),
}  # fmt: skip


def policy(found: NumpyPolicy) -> None:
    assert found(np.zeros(found.shape.observations)).shape == (found.shape.actions,)


@fuzz
@given(archives(POLICY))
def test_policies(content: bytes) -> None:
    holds(NumpyPolicy.load, content, "best.npz", sound=policy)


@cache
def learner() -> ESAC:
    config = ESACConfig(hidden=(4,), population=2, elite=0.5, injected=1, start_steps=10, sac_episodes=1)
    return ESAC(ENV, config, seed=0, options={"max_episode_steps": 20})


@cache
def saved() -> bytes:
    with TemporaryDirectory() as folder:
        return Path(learner().save(Path(folder, "x"))).read_bytes()


@cache
def replay() -> bytes:
    with TemporaryDirectory() as folder:
        return Path(learner().save_replay(Path(folder, "x"))).read_bytes()


@FEW
@given(data=st.data())
def test_saved_learners(data: st.DataObject) -> None:
    holds(ESAC.load, data.draw(checkpoints(saved())), "model.safetensors")


@FEW
@given(data=st.data())
def test_saved_replays(data: st.DataObject) -> None:
    holds(learner().load_replay, data.draw(checkpoints(replay())), "replay.safetensors")


SETTINGS = {"job": "esac train", "config": {"env": ENV, "options": {}, "seed": 0, "config": {"mode": "es"}}}
ROWS = [{"step": 1, "es/sigma": 0.1, "time/env_steps": 10.0, "time/seconds": 1.0}]
EVALUATIONS = {"timesteps": np.array([10, 20]), "results": np.array([[1.0, 2.0], [3.0, 4.0]])}
CONFIG, METRICS = json.dumps(SETTINGS).encode(), "\n".join(json.dumps(row) for row in ROWS).encode()
STORED = stored([(f"{name}.npy", npy(array)) for name, array in EVALUATIONS.items()])


def record(path: Path) -> Record:
    return read([path])[0]


@fuzz
@given(documents(SETTINGS))
def test_settings_of_a_run(content: bytes) -> None:
    holds(record, {"config.json": content, "metrics.jsonl": METRICS, "evaluations.npz": STORED}, "run")


@fuzz
@given(documents(ROWS[0]))
@example(b"[" * 100_000)
def test_metrics_of_a_run(content: bytes) -> None:
    holds(record, {"config.json": CONFIG, "metrics.jsonl": content, "evaluations.npz": STORED}, "run")


@fuzz
@given(archives(EVALUATIONS))
def test_evaluations_of_a_run(content: bytes) -> None:
    holds(record, {"config.json": CONFIG, "metrics.jsonl": METRICS, "evaluations.npz": content}, "run")


MONITOR = b'#{"t_start": 0.0, "env_id": "Pendulum-v1"}\nr,l,t,generation,origin\n-1.0,20,0.5,1,mean\n'


@fuzz
@given(mutated(MONITOR))
@example(MONITOR.replace(b",1,", b",\xff,"))
@example(MONITOR.replace(b",1,", b"," + b"9" * 5000 + b","))
def test_a_monitor_that_is_gone_on_with(content: bytes) -> None:
    def go_on(path: Path) -> None:
        Outputs(Run.read(path), ENV, 2)

    holds(go_on, {"config.json": CONFIG, "monitor.csv": content}, "run")


@fuzz
@given(documents(SETTINGS))
@example(json.dumps({**SETTINGS, "config": {**SETTINGS["config"], "env": "antigravity:X-v0"}}).encode())  # type: ignore[dict-item]
def test_what_a_runs_policy_is_for(content: bytes) -> None:
    best = stored([(f"{name}.npy", npy(array)) for name, array in POLICY.items()])
    holds(lambda path: commands._load_policy(path, None), {"config.json": content, "best.npz": best}, "run")


def test_a_file_chooses_no_module_to_import(tmp_path: Path) -> None:
    def named(name: str) -> bytes:
        return json.dumps({"job": "esac train", "config": {"env": name, "options": {}}}).encode()

    (tmp_path / "config.json").write_bytes(named("antigravity:X-v0"))
    with pytest.raises(InputError, match="names the environment 'antigravity:X-v0'"):
        commands._load_policy(tmp_path, None)


def test_a_saved_learner_chooses_no_module_to_import(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(saved())
    found = checkpoint.load(tmp_path / "x", "torch")
    config = {**found.meta["config"], "env": "antigravity:X-v0"}
    checkpoint.save(tmp_path / "x", found.arrays, {**found.meta, "config": config})
    with pytest.raises(InputError, match="names the environment 'antigravity:X-v0'"):
        ESAC.load(tmp_path / "x")


def test_a_learner_that_claims_to_be_huge_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(saved())
    found = checkpoint.load(tmp_path / "x", "torch")
    config = {**found.meta["config"]["config"], "hidden": [10**5, 10**5]}
    checkpoint.save(tmp_path / "x", found.arrays, {**found.meta, "config": {**found.meta["config"], "config": config}})
    assert holds(ESAC.load, (tmp_path / "x").read_bytes(), "model.safetensors") is None


def learned(out: Path) -> ESAC:
    config = dataclasses.replace(learner().config, eval_episodes=1)
    made = ESAC(ENV, config, seed=0, options={"max_episode_steps": 20})
    return made.learn(60, out=out, progress_bar=False)


@cache
def left() -> dict[str, bytes]:
    return left_by(learned)


@FEW
@given(data=st.data())
def test_a_learner_that_goes_on(data: st.DataObject) -> None:
    holds(learned, data.draw(gone_on_from(left())), "run")


def test_what_the_fuzz_starts_from_is_valid() -> None:
    members = [(f"{name}.npy", npy(array)) for name, array in POLICY.items()]
    assert holds(NumpyPolicy.load, stored(members), "best.npz", valid=True) is not None
    assert holds(ESAC.load, saved(), "model.safetensors", valid=True) is not None
    holds(learner().load_replay, replay(), "replay.safetensors", valid=True)
    run: dict[str, Any] = {"config.json": CONFIG, "metrics.jsonl": METRICS, "evaluations.npz": STORED}
    assert holds(record, run, "run", valid=True) is not None
    assert holds(learned, left(), "run", valid=True) is not None
