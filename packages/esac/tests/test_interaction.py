"""What passes between an environment and a policy: transitions that alias nothing, actions in [-1, 1], clear errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from esac import ESAC, ESACConfig, changed
from esac.engines.process import ProcessEngine
from esac.play import rollout
from esac.play.interaction import TransitionWriter
from esac.play.policy import PolicyShape
from esac.play.task import Job, Task
from esac.play.vector import Single
from esac.sac.collect import Collector
from esac.sac.config import SACConfig
from esac.sac.replay import Replay
from esac.sac.update import SAC
from gymnasium import spaces
from hypothesis import given, settings, strategies as st
from sextet_common.errors import InputError

MISUSES = {
    "four values": r"step of .* returned 4 values; expected: gymnasium's \(observation, reward, terminated, truncated",
    "reward array": r"the reward of .* is an array of shape \(1,\); expected: one number",
    "reward text": r"the reward of .* is 'high'; expected: one number",
    "reset without info": r"reset of .* returned an array of shape \(3,\); expected: gymnasium's \(observation, info\)",
}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)  # workers get this process's path


class Counter(gymnasium.Env[Any, Any]):
    """Observes the number of steps; may reuse its observation, change actions in place, or bound them narrowly."""

    def __init__(self, *, reuse: bool = False, spoil: bool = False, low: float = -1.0, high: float = 1.0) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), dtype=np.float64)
        self.action_space = spaces.Box(low, high, (2,), dtype=np.float32)
        self.reuse, self.spoil, self.state = reuse, spoil, np.zeros(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.state[:] = 0.5
        self.received: list[np.ndarray] = []
        return self.state if self.reuse else self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.received.append(action.copy())
        reward = float(action[0])
        self.state += 1
        if self.spoil:
            action[:] = 0
        return self.state if self.reuse else self.state.copy(), reward, False, self.state[0] > 6, {}


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {}, "reused observation": {"reuse": True}, "action changed in place": {"spoil": True},
    "both": {"reuse": True, "spoil": True}, "narrow": {"low": -0.01, "high": 0.01},
    "shifted": {"low": 3.0, "high": 7.0},
}  # fmt: skip


def check(rows: np.ndarray, env: Counter, env_actions: np.ndarray) -> None:
    middle, half = (
        (env.action_space.high + env.action_space.low) / 2,
        (env.action_space.high - env.action_space.low) / 2,
    )
    steps = np.arange(len(rows))[:, None]
    np.testing.assert_array_equal(rows[:, :2], np.repeat(steps + 0.5, 2, axis=1))
    np.testing.assert_allclose(rows[:, 2:4] * half + middle, env_actions, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(rows[:, 4], env_actions[:, 0])
    np.testing.assert_array_equal(rows[:, 5:7], np.repeat(steps + 1.5, 2, axis=1))
    assert np.abs(rows[:, 2:4]).max() <= 1 and np.ptp(rows[:, 2]) > 0.01


@pytest.mark.parametrize("variant", VARIANTS)
def test_stored_transitions_of_the_population_are_what_happened(variant: str) -> None:
    env = Counter(**VARIANTS[variant])
    policy = rollout.numpy_policy(env, (4,))
    policy.vector[:] = np.random.default_rng(0).normal(size=policy.vector.size)
    policy.vector *= 0.3
    episode = rollout.episode(env, policy, 0, keep=True, observe=True)
    assert episode.transitions is not None and episode.moments is not None
    check(episode.transitions, env, np.array(env.received))
    np.testing.assert_allclose(episode.moments.mean, [np.arange(len(env.received)).mean() + 0.5] * 2)


@pytest.mark.parametrize("start_steps", [0, 100])
@pytest.mark.parametrize("variant", VARIANTS)
def test_stored_transitions_of_the_gradient_trained_policy_are_what_happened(variant: str, start_steps: int) -> None:
    env = Counter(**VARIANTS[variant])
    torch.manual_seed(0)
    agent = SAC(PolicyShape(2, 2, (4,)), env.action_space.low, env.action_space.high, SACConfig())
    replay = Replay(50, 2, 2)
    Collector(Single(env), agent, replay, 0, updates_per_step=0.0, start_steps=start_steps).episodes(0, 0)
    check(replay.rows[: len(replay)], env, np.array(env.received))


def test_learning_does_not_depend_on_the_units_of_actions() -> None:
    """The temperature, the losses and the policy are those of the same problem with actions in [-1, 1]."""

    def learned(bound: float) -> ESAC:
        def make() -> gymnasium.Env[Any, Any]:
            env = gymnasium.wrappers.TransformReward(Counter(low=-bound, high=bound), lambda r: r / bound)
            return gymnasium.wrappers.TimeLimit(env, 6)

        sac = {"batch_size": 8, "auto_alpha": True, "alpha": 1.0, "lr": 3e-3}
        config = changed({"mode": "sac", "start_steps": 20, "hidden": (8,), "eval_every": 1000, "sac": sac})
        return ESAC(make, config, seed=1).learn(300, progress_bar=False)

    one, tiny = learned(1.0), learned(0.0078125)  # a power of two scales floats exactly
    for a, b in zip(one.sac.actor.parameters(), tiny.sac.actor.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert float(tiny.sac.log_alpha.detach().exp()) == pytest.approx(float(one.sac.log_alpha.detach().exp()), rel=1e-3)
    assert float(tiny.sac.log_alpha.detach().exp()) < 1.0  # it falls: it rose to 59 with actions in raw units
    seen = np.zeros((1, 2), np.float32)
    np.testing.assert_allclose(tiny.predict(seen)[0], 0.0078125 * one.predict(seen)[0], rtol=1e-2)
    sampled = tiny.predict(np.zeros((100, 2), np.float32), deterministic=False)[0]
    assert np.abs(sampled).max() <= 0.0078126 and sampled.std() > 0.0003


@settings(deadline=None, max_examples=50)
@given(st.floats(-100, 100, width=32), st.floats(0.001953125, 100, width=32), st.floats(-1, 1, width=32))
def test_an_action_passes_the_door_both_ways(low: float, width: float, action: float) -> None:
    writer = TransitionWriter(np.array([low]), np.array([low + width]))
    outside = writer.to_environment(np.float32([action]))
    writer.before(np.zeros(1), outside)
    assert writer.after(0.0, np.zeros(1), False)[1] == pytest.approx(action, abs=1e-5 * (1 + abs(low) / width))


@pytest.mark.parametrize("misuse", MISUSES)
@pytest.mark.parametrize("mode", ["es", "sac"])
def test_what_breaks_gymnasiums_interface_is_one_clear_error(misuse: str, mode: str) -> None:
    from faulty_environments import Misused

    config = ESACConfig(mode=mode, start_steps=100)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=MISUSES[misuse]):
        ESAC(lambda: Misused(misuse), config, seed=0).learn(50, progress_bar=False)


@pytest.mark.parametrize("misuse", ["four values", "reward array"])
def test_a_worker_reports_it_too(misuse: str) -> None:
    from faulty_environments import four_values, reward_array

    make = {"four values": four_values, "reward array": reward_array}[misuse]
    with ProcessEngine(Job(make, hidden=()), 1) as pool:
        pool.start(np.zeros((1, 4), np.float32), [Task(0, 0, 0, 0, 0.0)])
        with pytest.raises(InputError, match=MISUSES[misuse]):
            pool.finish()


def test_whole_number_actions_are_refused() -> None:
    class Whole(Counter):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = spaces.Box(-2, 2, (2,), dtype=np.int64)

    with pytest.raises(InputError, match=r"actions are whole numbers \(int64\); expected: a Box of floating-point"):
        ESAC(Whole)


def test_observations_beyond_float32_fail_the_episode() -> None:
    class Huge(Counter):
        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            observation, *rest = super().step(action)
            return observation * 1e39, *rest  # type: ignore[return-value]

    for mode in ("es", "sac"):
        episodes: list[Any] = []
        config = ESACConfig(mode=mode, most_failed=1.0, start_steps=10, eval_episodes=1)  # type: ignore[arg-type]
        model = ESAC(Huge, config).learn(1, lambda _, done, kept=episodes: kept.append(done.values), progress_bar=False)
        assert model.best.reward == -math.inf and model.moments.count == 0
    with pytest.raises(InputError, match="the first: the observation of step 1 is not finite in float32"):
        ESAC(Huge, ESACConfig(mode="es")).learn(1, progress_bar=False)
