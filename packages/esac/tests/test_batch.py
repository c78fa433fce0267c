"""The batch engine against gymnasium, task by task, and against the other engines."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import pytest
from esac import ESAC, BatchEngine, Episode, SerialEngine, changed
from esac.play.mujoco_tasks import formulas
from esac.play.rollout import NonFiniteError
from esac.play.task import Evaluator, Job, Task
from sextet_common.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # gymnasium's, of a model file
TASKS: dict[str, dict[str, Any]] = {
    "Ant-v5": {}, "HalfCheetah-v5": {}, "Hopper-v5": {}, "Humanoid-v5": {}, "HumanoidStandup-v5": {},
    "InvertedDoublePendulum-v5": {}, "InvertedPendulum-v5": {}, "Pusher-v5": {}, "Reacher-v5": {}, "Swimmer-v5": {},
    "Walker2d-v5": {},
}  # fmt: skip
CHANGED: dict[str, dict[str, Any]] = {
    "Ant-v5": {"include_cfrc_ext_in_observation": False, "healthy_z_range": (0.5, 0.8), "frame_skip": 3},
    "Hopper-v5": {"terminate_when_unhealthy": False, "healthy_reward": 2.0, "ctrl_cost_weight": 0.1},
    "Humanoid-v5": {"exclude_current_positions_from_observation": False, "include_cinert_in_observation": False},
    "Swimmer-v5": {"forward_reward_weight": 3.0, "exclude_current_positions_from_observation": False},
}
CASES = [*TASKS.items(), *CHANGED.items()]
NAMES = [*TASKS, *(f"{name} changed" for name in CHANGED)]


def workload(job: Job, members: int = 3, std: float = 0.5) -> tuple[np.ndarray, list[Task]]:
    evaluator = Evaluator(job)
    bases = np.zeros((members, evaluator.width), np.float32)
    size = evaluator.policy.shape.size
    if job.normalize:
        bases[:, size + evaluator.policy.shape.observations :] = 0.5  # scales
    return bases, [Task(m, 0, m, sign, std, keep=True, episode=m % 2) for m in range(members) for sign in (1, -1)]


def run(engine: Any, bases: np.ndarray, tasks: list[Task]) -> list[Episode]:
    with engine:
        engine.start(bases, tasks)
        found: list[Episode] = engine.finish()
        return found


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_a_batch_steps_as_gymnasium_does(name: str, options: dict[str, Any]) -> None:
    job = Job(name, {"max_episode_steps": 60, **options}, (), normalize=True)
    bases, tasks = workload(job)
    batch = run(BatchEngine(job, 2, size=2), bases, tasks)
    evaluator = Evaluator(job)
    for task, episode in zip(tasks, batch, strict=True):
        evaluator.load(task, bases)
        env = gymnasium.make(name, max_episode_steps=60, **options)
        observation, _ = env.reset(seed=evaluator.reset_seed(task))
        rows, total, done = [], 0.0, False
        while not done:
            action = evaluator.policy(observation)
            following, reward, terminated, truncated, _ = env.step(action)
            rows.append([*observation, float(reward), *following, float(not terminated)])
            total, observation, done = total + float(reward), following, terminated or truncated
        assert episode.length == len(rows) and episode.transitions is not None and episode.moments is not None
        assert episode.total == pytest.approx(total, abs=1e-10 * max(1, abs(total)))
        seen = np.array(rows)[:, : observation.size]
        np.testing.assert_allclose(episode.moments.mean, seen.mean(axis=0), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(episode.moments.squares, np.square(seen - seen.mean(axis=0)).sum(axis=0), rtol=1e-8,
                                   atol=1e-10)  # fmt: skip
        written = np.delete(episode.transitions, np.s_[observation.size : observation.size + action.size], axis=1)
        np.testing.assert_array_equal(written, np.float32(rows))


@pytest.mark.parametrize("hidden", [(), (16, 8)])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", ["Hopper-v5", "Swimmer-v5"])
def test_engines_give_the_same_bits(name: str, hidden: tuple[int, ...], normalize: bool) -> None:
    job = Job(name, {"max_episode_steps": 40}, hidden, normalize=normalize)
    bases, tasks = workload(job, 5)
    serial = run(SerialEngine(job), bases, tasks)
    for threads, size in ((1, 64), (3, 2)):
        batch = run(BatchEngine(job, threads, size=size), bases, tasks)
        for a, b in zip(serial, batch, strict=True):
            assert (a.total, a.length, a.moments) == (b.total, b.length, b.moments)
            np.testing.assert_array_equal(a.transitions, b.transitions)


def test_learning_is_the_same_with_every_engine() -> None:
    settings = {"mode": "es", "es_top": 2, "eval_episodes": 1}
    means = [
        ESAC("Hopper-v5", changed({**settings, **words}), options={"max_episode_steps": 50}).learn(1500).population.mean
        for words in ({}, {"engine": "batch"}, {"engine": "batch", "workers": 3})
    ]
    assert means[0].any() and (means[0] == means[1]).all() and (means[0] == means[2]).all()


def test_non_finite_numbers_fail_an_episode_or_raise() -> None:
    job = Job("Swimmer-v5", {"max_episode_steps": 10}, ())
    bases, tasks = workload(job)
    bases[1, 0] = np.nan
    found = run(BatchEngine(job), bases, tasks)
    expected = run(SerialEngine(job), bases, tasks)
    assert [e.failed for e in found] == [False, False, True, True, False, False]
    assert [(e.message, e.length, e.total) for e in found] == [(e.message, e.length, e.total) for e in expected]
    with BatchEngine(dataclasses.replace(job, on_nan="raise")) as engine:
        engine.start(bases, tasks)
        with pytest.raises(NonFiniteError, match="the action of step 0 is not finite, seed"):
            engine.finish()
        engine.start(bases[:1], tasks[:2])
        assert len(engine.finish()) == 2


def test_other_environments_are_refused() -> None:
    for env in ("Pendulum-v1", lambda: gymnasium.make("Swimmer-v5")):
        with pytest.raises(InputError, match="engine batch with the environment"):
            BatchEngine(Job(env, {}, ()))
    assert formulas(gymnasium.make("Pendulum-v1")) is None
