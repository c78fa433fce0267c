from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from esac.play import environment, rollout
from gymnasium import spaces
from sextet_common.errors import InputError

BOX = spaces.Box(-1.0, 1.0, (2,))


class Spaces(gymnasium.Env[Any, Any]):
    def __init__(self, seen: spaces.Space[Any], acts: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = seen, acts


@pytest.mark.parametrize(
    ("seen", "acts", "message"),
    [
        (spaces.Tuple((BOX, BOX)), BOX, r"a Tuple; expected: a flat Box: wrap it in gymnasium\.wrappers\.Flatten"),
        (spaces.Discrete(3), BOX, r"observations are Discrete\(3\); expected: a Box of one dimension"),
        (spaces.Box(0, 255, (84, 84, 3), np.uint8), BOX, r"images of shape \(84, 84, 3\); expected: .*features"),
        (spaces.Box(-1.0, 1.0, (3, 2)), BOX, r"a table of shape \(3, 2\); expected: .*FlattenObservation"),
        (BOX, spaces.Discrete(3), r"actions are Discrete\(3\); expected: a Box: .* continuous"),
        (BOX, spaces.Box(-np.inf, np.inf, (2,)), r"Box\(-inf.*; expected: a Box with finite bounds.*TransformAction"),
        (BOX, spaces.Box(-1.0, 1.0, (2, 2)), r"actions are of shape \(2, 2\); expected: .*TransformAction"),
    ],
)
def test_spaces_that_cannot_be_learned_name_their_remedy(
    seen: spaces.Space[Any], acts: spaces.Space[Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        environment.make(lambda: Spaces(seen, acts))


def test_the_remedies_are_remedies() -> None:
    class Wide(Spaces):
        def reset(self, **words: Any) -> tuple[Any, dict[str, Any]]:
            return {"a": np.zeros(2, np.float32)}, {}

        def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            assert action.shape == (2, 1)
            return {"a": np.ones(2, np.float32)}, 1.0, True, False, {}

    def mended() -> gymnasium.Env[Any, Any]:
        wide = Wide(spaces.Dict({"a": BOX}), spaces.Box(-np.inf, np.inf, (2, 1)))
        flat = gymnasium.wrappers.FlattenObservation(wide)
        return gymnasium.wrappers.TransformAction(flat, lambda action: action.reshape(2, 1), BOX)

    env = environment.make(mended)
    assert rollout.episode(env, rollout.numpy_policy(env, (4,)), 0).total == 1.0


def test_what_is_no_environment_is_refused() -> None:
    with pytest.raises(InputError, match="is a int; expected: a gymnasium environment"):
        environment.make(lambda: 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match=r"cannot be made: .*nonsense"):
        environment.make("Pendulum-v1", {"nonsense": 1})


def test_an_environment_s_own_limit_is_the_horizon() -> None:
    assert environment.horizon(environment.make("Pendulum-v1", {"max_episode_steps": 7})) == 7
    assert environment.horizon(Spaces(BOX, BOX), 99) == 99


@pytest.mark.parametrize("missing", ["shimmy", "dm_control"])
def test_dm_control_without_its_extra_says_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shimmy", "dm_control"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    monkeypatch.delitem(sys.modules, missing)
    monkeypatch.setattr(sys, "meta_path", [_Without(missing), *sys.meta_path])
    with pytest.raises(InputError, match=rf"{missing} is not installed; expected: pip install 'esac\[dm-control\]'"):
        environment.make("dm_control/cartpole-swingup-v0")


class _Without:
    """An import system that lacks one module."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == self.name:
            raise ModuleNotFoundError(name, name=name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dm_control's and its dependencies' own
def test_a_task_of_dm_control_is_one_vector_and_gives_equal_episodes(tmp_path: Path) -> None:
    pytest.importorskip("shimmy")
    pytest.importorskip("dm_control")
    env = environment.make("dm_control/cartpole-swingup-v0")
    assert env.observation_space.shape == (5,) and environment.horizon(env) == 1000
    policy = rollout.numpy_policy(env, (8,))
    policy.vector[:] = policy.shape.initial(np.random.default_rng(0))
    first, other, again = (rollout.episode(env, policy, seed, max_steps=100).total for seed in (3, 4, 3))
    fresh = rollout.episode(environment.make("dm_control/cartpole-swingup-v0"), policy, 3, max_steps=100).total
    assert first == again == fresh != other and first > 0
