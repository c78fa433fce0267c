"""Vector environments: soft actor-critic stores what happened in each of them, and nothing of automatic resets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from esac import ESAC, changed
from esac.play.environment import make
from esac.play.policy import PolicyShape
from esac.play.vector import GymnasiumVector, StableBaselinesVector, VectorSource
from esac.sac.collect import Collector
from esac.sac.config import SACConfig
from esac.sac.replay import Replay
from esac.sac.update import SAC
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from sextet_common.errors import InputError
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

SMALL = changed({"hidden": (8, 8), "sac_episodes": 1, "start_steps": 40, "eval_every": 400, "eval_episodes": 1,
                 "population": 2, "sac": {"batch_size": 8}})  # fmt: skip


class Walk(gymnasium.Env[Any, Any]):
    """A random walk whose seed decides how long it is and whether it terminates or is truncated."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), dtype=np.float64)
    action_space = spaces.Box(-2.0, 2.0, (1,), dtype=np.float32)

    def __init__(self, fault: int | None = None) -> None:
        self.fault = fault

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.last = np.array([self.np_random.normal(), 0.0]), int(self.np_random.integers(2, 12))
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.state += float(action[0]) + self.np_random.normal(), 1.0
        done = self.state[1] >= self.last
        reward = np.nan if self.state[1] == self.fault else float(self.state[0] - action[0])
        action[:] = 0
        return self.state.copy(), reward, bool(done and self.last % 2), bool(done and not self.last % 2), {}


def synchronous(mode: AutoresetMode) -> Callable[[list[Any]], Any]:
    return lambda functions: SyncVectorEnv(functions, autoreset_mode=mode, copy=mode is AutoresetMode.NEXT_STEP)


VECTORS: dict[str, Callable[[list[Any]], Any]] = {
    "next step": synchronous(AutoresetMode.NEXT_STEP),
    "same step": synchronous(AutoresetMode.SAME_STEP),
    "no automatic reset": synchronous(AutoresetMode.DISABLED),
    "processes": AsyncVectorEnv,
    "processes, same step": lambda functions: AsyncVectorEnv(functions, autoreset_mode=AutoresetMode.SAME_STEP),
    "statistics": lambda functions: gymnasium.wrappers.vector.RecordEpisodeStatistics(SyncVectorEnv(functions)),
    "Stable-Baselines3": DummyVecEnv,
    "Stable-Baselines3, monitored": lambda functions: VecMonitor(DummyVecEnv(functions)),
}


def collector(vector: Any, **words: Any) -> Collector:
    lockstep = StableBaselinesVector if hasattr(vector, "venv") or isinstance(vector, DummyVecEnv) else GymnasiumVector
    agent = SAC(PolicyShape(2, 1, (4,)), Walk.action_space.low, Walk.action_space.high, SACConfig(batch_size=8))
    return Collector(lockstep(vector), agent, Replay(1000, 2, 1), seed=7, **words)


def replayed(rows: np.ndarray, seed: int, count: int) -> tuple[list[np.ndarray], list[float], list[int]]:
    """Play stored actions in single environments; return the rows expected, the returns and the lengths."""
    envs = [Walk() for _ in range(count)]
    observations = [env.reset(seed=seed + i)[0] for i, env in enumerate(envs)]
    totals, lengths, alive, expected = [0.0] * count, [0] * count, [True] * count, []
    while any(alive):
        for i in [i for i in range(count) if alive[i]]:
            action = rows[len(expected), 2]
            before = observations[i]
            observations[i], reward, terminated, truncated, _ = envs[i].step(np.float32([2 * action]))
            expected.append(np.array([*before, action, reward, *observations[i], not terminated], dtype=np.float32))
            totals[i], lengths[i], alive[i] = totals[i] + reward, lengths[i] + 1, not (terminated or truncated)
    return expected, totals, lengths


@pytest.mark.parametrize("start_steps", [0, 1000])
@pytest.mark.parametrize("kind", VECTORS)
def test_stored_transitions_are_those_of_single_environments(kind: str, start_steps: int) -> None:
    vector = VECTORS[kind]([Walk] * 5)
    seeds: list[int] = []
    collect = collector(vector, updates_per_step=0.0, start_steps=start_steps)
    reset = collect.env.reset
    collect.env.reset = lambda seed: (seeds.append(seed), reset(seed))[1]  # type: ignore[method-assign, func-returns-value]
    filled, ends = 0, set()
    for generation in range(3):
        episodes, _ = collect.episodes(generation, 0, np.array([[0.0, 0.0], [1.0, 0.5]]))
        rows = collect.replay.rows[filled : len(collect.replay)]
        expected, totals, lengths = replayed(rows, seeds[-1], 5)
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)  # actions are rounded to float32 twice
        assert [e.length for e in episodes] == lengths and len(rows) == sum(lengths) == len(expected)
        np.testing.assert_allclose([e.total for e in episodes], totals, rtol=1e-5, atol=1e-5)
        assert [e.moments.count for e in episodes if e.moments is not None] == lengths
        filled, ends = len(collect.replay), ends | {row[-1] for row in rows}
    assert collect.steps == filled and ends == {0.0, 1.0} and len({e.length for e in episodes}) > 1
    vector.close()


@pytest.mark.parametrize("kind", ["next step", "same step", "no automatic reset", "processes", "Stable-Baselines3"])
def test_one_environment_in_a_vector_learns_like_the_environment(kind: str) -> None:
    def pendulum() -> gymnasium.Env[Any, Any]:
        return gymnasium.make("Pendulum-v1", max_episode_steps=20)

    config = changed({"mode": "sac"}, SMALL)
    vector = VECTORS[kind]([pendulum])
    alone, one = (ESAC(env, config, seed=3).learn(160, progress_bar=False) for env in (pendulum(), vector))
    assert one.collector.updates == alone.collector.updates > 100
    np.testing.assert_array_equal(one.replay.rows, alone.replay.rows)
    np.testing.assert_array_equal(one.sac.actor.vector(), alone.sac.actor.vector())
    np.testing.assert_array_equal(one.best.vector, alone.best.vector)
    vector.close()


def test_there_are_as_many_updates_as_steps() -> None:
    vector = SyncVectorEnv([Walk] * 3)
    collect = collector(vector, start_steps=0)
    collect.episodes(0, 0)
    assert len(collect.replay) > 8
    steps, updates = collect.steps, collect.updates
    for generation in range(1, 4):
        collect.episodes(generation, 0)
    assert collect.updates - updates == collect.steps - steps > 20


def test_a_non_finite_reward_fails_the_episode_of_its_environment() -> None:
    collect = collector(SyncVectorEnv([Walk, lambda: Walk(fault=2), Walk]), updates_per_step=0.0)
    episodes, _ = collect.episodes(0, 0)
    assert [e.failed for e in episodes] == [False, True, False] and episodes[1].length == 2
    assert len(collect.replay) == collect.steps - 1 and "step 2 of the gradient-trained" in episodes[1].message


def test_a_horizon_ends_the_episodes_of_all() -> None:
    collect = collector(SyncVectorEnv([Walk] * 3), updates_per_step=0.0, horizon=2)
    episodes, _ = collect.episodes(0, 0)
    assert [e.length for e in episodes] == [2, 2, 2] and len(collect.replay) == 6


@pytest.mark.parametrize("mode", ["sac", "esac"])
def test_a_run_resumes_bit_identically_and_with_workers(mode: str, tmp_path: Any) -> None:
    words = {"mode": mode, "checkpoint_every": 100, "sac_schedule": "annealed", "sac_every": 1}
    config = changed(words, SMALL)

    def learned(steps: int, workers: int = 0, **words: Any) -> ESAC:
        env = gymnasium.make_vec("Pendulum-v1", num_envs=3, max_episode_steps=20)
        return ESAC(env, changed({"workers": workers}, config), seed=1).learn(steps, progress_bar=False, **words)

    whole = learned(480)
    learned(240, out=tmp_path / "run")
    parts = learned(480, workers=1 if mode == "esac" else 0, out=tmp_path / "run")
    assert whole.collector.steps == parts.collector.steps > 0
    np.testing.assert_array_equal(whole.sac.actor.vector(), parts.sac.actor.vector())
    np.testing.assert_array_equal(whole.population.mean, parts.population.mean)
    with pytest.raises(InputError, match="3 at once"):  # another number of environments is another run
        ESAC(gymnasium.make_vec("Pendulum-v1", 2, max_episode_steps=20), config, seed=1).learn(
            950, out=tmp_path / "run"
        )


def rescaled(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    return gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))


@pytest.mark.parametrize(
    "vector",
    [
        gymnasium.make_vec("Pendulum-v1", 2, max_episode_steps=7),
        gymnasium.make_vec("Pendulum-v1", 2, max_episode_steps=7, wrappers=[rescaled]),
        make_vec_env("Pendulum-v1", 2, env_kwargs={"max_episode_steps": 7}),
    ],
    ids=["make_vec", "wrapped", "make_vec_env"],
)
def test_evaluations_use_an_environment_like_the_first(vector: Any) -> None:
    model = ESAC(vector, SMALL)
    assert model.horizon == 7 and model.collector.env.count == vector.num_envs
    assert f"({vector.num_envs} at once)" in model.record()["env"] and model.get_env() is vector


def test_set_env_takes_a_vector_environment() -> None:
    model = ESAC("Pendulum-v1", SMALL, options={"max_episode_steps": 20}).learn(200, progress_bar=False)
    model.set_env(gymnasium.make_vec("Pendulum-v1", 2, max_episode_steps=10))
    assert model.learn(400, progress_bar=False).collector.env.count == 2 and model.horizon == 10


class Parts(Walk):
    observation_space = spaces.Dict({"all": Walk.observation_space})  # type: ignore[assignment]


def stacked() -> SyncVectorEnv:
    """Return a vector environment that says it observes more than its environments do."""
    vector = SyncVectorEnv([Walk])
    vector.single_observation_space = spaces.Box(-1, 1, (5,))
    return vector


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (
            lambda: DummyVecEnv([Walk]),
            "DummyVecEnv, whose environments cannot be made again; expected: environments made",
        ),
        (
            lambda: gymnasium.wrappers.vector.NormalizeObservation(SyncVectorEnv([Walk])),
            "in the wrapper NormalizeObserv",
        ),
        (lambda: VecNormalize(DummyVecEnv([Walk])), "in the wrapper VecNormalize; expected: wrappers around each"),
        (lambda: DummyVecEnv([Parts]), "a vector environment whose observations are dictionaries; expected: .*Flatten"),
        (stacked, r"^the first environment of .*, made again, has Box\(-inf, inf, \(2,\), float64\)"),
        (lambda: gymnasium.make_vec("CartPole-v1", 2), r"actions are Discrete\(2\); expected: a Box"),
    ],
    ids=["without spec", "gymnasium's wrapper", "its wrapper", "dictionaries", "other spaces", "discrete"],
)
def test_what_is_not_accepted(vector: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ESAC(vector(), SMALL)


def test_a_source_makes_what_esac_accepts() -> None:
    assert make(VectorSource(SyncVectorEnv([Walk]))).observation_space == Walk.observation_space
