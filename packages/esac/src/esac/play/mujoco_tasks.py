"""Observations, rewards and terminations of gymnasium's MuJoCo v5 tasks for many copies of a task at once.

Formulas and defaults are gymnasium's; parameters are read from an environment that `gymnasium.make` made, whatever its
keyword arguments were. Each function sums in gymnasium's order, so that results agree to the last bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Bool, Float

Arrays = dict[str, np.ndarray]
"""Fields of MuJoCo's data by name, such as "qpos", each of shape (members, ...)."""


@dataclass(frozen=True)
class Formulas:
    """What a task reads and how it judges it.

    Attributes
    ----------
    fields
        Names of the fields of MuJoCo's data that the functions need.
    observe
        From the environment and the fields to observations, shape (members, observations).
    judge
        From the environment, the fields, actions and velocities along x to rewards, shape (members,), and terminations.
    centre
        From the environment and the fields to places along x, whose differences are the velocities.
    """

    fields: tuple[str, ...]
    observe: Callable[[Any, Arrays], Float[np.ndarray, "members observations"]]
    judge: Callable[
        [Any, Arrays, np.ndarray, np.ndarray], tuple[Float[np.ndarray, " members"], Bool[np.ndarray, " members"]]
    ]
    centre: Callable[[Any, Arrays], Float[np.ndarray, " members"]]


def formulas(env: gymnasium.Env[Any, Any]) -> Formulas | None:
    """Return the formulas of an environment, or None if it is none of gymnasium's MuJoCo v5 tasks."""
    kind = type(env.unwrapped)
    if not (kind.__module__.startswith("gymnasium.envs.mujoco.") and kind.__module__.endswith("_v5")):
        return None
    return _TASKS.get(kind.__name__)


def _x(env: Any, data: Arrays) -> np.ndarray:
    x: np.ndarray = data["qpos"][:, 0]
    return x


def _torso_x(env: Any, data: Arrays) -> np.ndarray:
    x: np.ndarray = data["xpos"][:, env.data.body(env._main_body).id, 0]
    return x


def _mass_centre_x(env: Any, data: Arrays) -> np.ndarray:
    x: np.ndarray = np.einsum("b,nbj->nj", env.model.body_mass, data["xipos"])[:, 0] / env.model.body_mass.sum()
    return x


def _squares(actions: np.ndarray) -> np.ndarray:
    squares: np.ndarray = np.square(actions).sum(axis=1)
    return squares


def _inside(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return (bounds[0] < values) & (values < bounds[1])


def _never(data: Arrays) -> np.ndarray:
    return np.zeros(len(data["qpos"]), dtype=bool)


def _positions_and_velocities(skipped: int, limit: float = np.inf) -> Callable[[Any, Arrays], np.ndarray]:
    def observe(env: Any, data: Arrays) -> np.ndarray:
        start = skipped if env._exclude_current_positions_from_observation else 0
        velocities = data["qvel"] if limit == np.inf else np.clip(data["qvel"], -limit, limit)
        return np.concatenate([data["qpos"][:, start:], velocities], axis=1)

    return observe


def _runs(env: Any, data: Arrays, actions: np.ndarray, speeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return env._forward_reward_weight * speeds - env._ctrl_cost_weight * _squares(actions), _never(data)


def _hop(env: Any, data: Arrays, actions: np.ndarray, speeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    state = np.concatenate([data["qpos"][:, 2:], data["qvel"]], axis=1)
    healthy = np.all(_inside(state, env._healthy_state_range), axis=1)
    return _upright(env, data, actions, speeds, healthy)


def _walk(env: Any, data: Arrays, actions: np.ndarray, speeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _upright(env, data, actions, speeds, np.ones(len(data["qpos"]), dtype=bool))


def _upright(
    env: Any, data: Arrays, actions: np.ndarray, speeds: np.ndarray, healthy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    qpos = data["qpos"]
    healthy = healthy & _inside(qpos[:, 1], env._healthy_z_range) & _inside(qpos[:, 2], env._healthy_angle_range)
    rewards = env._forward_reward_weight * speeds + healthy * env._healthy_reward
    return rewards - env._ctrl_cost_weight * _squares(actions), ~healthy & env._terminate_when_unhealthy


def _balance_observed(env: Any, data: Arrays) -> np.ndarray:
    return np.concatenate([data["qpos"], data["qvel"]], axis=1)


def _balance(env: Any, data: Arrays, actions: np.ndarray, speeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    observations = _balance_observed(env, data)
    fell = ~np.isfinite(observations).all(axis=1) | (np.abs(observations[:, 1]) > 0.2)
    return (~fell).astype(np.float64), fell


def _balance_two_observed(env: Any, data: Arrays) -> np.ndarray:
    angles, force = data["qpos"][:, 1:], np.clip(data["qfrc_constraint"], -10, 10)[:, :1]
    parts = [data["qpos"][:, :1], np.sin(angles), np.cos(angles), np.clip(data["qvel"], -10, 10), force]
    return np.concatenate(parts, axis=1)


def _balance_two(env: Any, data: Arrays, actions: np.ndarray, speeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, _, y = data["site_xpos"][:, 0].T
    fell = y <= 1
    penalty = 0.01 * x**2 + (y - 2) ** 2
    turning = 1e-3 * data["qvel"][:, 1] ** 2 + 5e-3 * data["qvel"][:, 2] ** 2
    return env._healthy_reward * ~fell - penalty - turning, fell


def _between(env: Any, data: Arrays, first: str, second: str) -> np.ndarray:
    bodies = [env.data.body(name).id for name in (first, second)]
    difference: np.ndarray = data["xpos"][:, bodies[0]] - data["xpos"][:, bodies[1]]
    return difference


def _reach_observed(env: Any, data: Arrays) -> np.ndarray:
    theta, vector = data["qpos"][:, :2], _between(env, data, "fingertip", "target")[:, :2]
    return np.concatenate([np.cos(theta), np.sin(theta), data["qpos"][:, 2:], data["qvel"][:, :2], vector], axis=1)


def _reach(env: Any, data: Arrays, actions: np.ndarray, speeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distance = np.linalg.norm(_between(env, data, "fingertip", "target"), axis=1)
    return -distance * env._reward_dist_weight - _squares(actions) * env._reward_control_weight, _never(data)


def _push_observed(env: Any, data: Arrays) -> np.ndarray:
    places = [data["xpos"][:, env.data.body(name).id] for name in ("tips_arm", "object", "goal")]
    return np.concatenate([data["qpos"][:, :7], data["qvel"][:, :7], *places], axis=1)


def _push(env: Any, data: Arrays, actions: np.ndarray, speeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    near = -np.linalg.norm(_between(env, data, "object", "tips_arm"), axis=1) * env._reward_near_weight
    distance = -np.linalg.norm(_between(env, data, "object", "goal"), axis=1) * env._reward_dist_weight
    return distance - _squares(actions) * env._reward_control_weight + near, _never(data)


def _ant_observed(env: Any, data: Arrays) -> np.ndarray:
    observations = _positions_and_velocities(2)(env, data)
    if not env._include_cfrc_ext_in_observation:
        return observations
    forces = np.clip(data["cfrc_ext"], *env._contact_force_range)[:, 1:].reshape(len(observations), -1)
    return np.concatenate([observations, forces], axis=1)


def _crawl(env: Any, data: Arrays, actions: np.ndarray, speeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = env._healthy_z_range
    height, state = data["qpos"][:, 2], np.concatenate([data["qpos"], data["qvel"]], axis=1)
    healthy = np.isfinite(state).all(axis=1) & (low <= height) & (height <= high)
    forces = np.clip(data["cfrc_ext"], *env._contact_force_range)
    contact = env._contact_cost_weight * np.square(forces).sum(axis=(1, 2))
    rewards = speeds * env._forward_reward_weight + healthy * env._healthy_reward
    costs = env._ctrl_cost_weight * _squares(actions) + contact
    return rewards - costs, ~healthy & env._terminate_when_unhealthy


def _humanoid_observed(env: Any, data: Arrays) -> np.ndarray:
    parts = [_positions_and_velocities(2)(env, data)]
    for name, first in (("cinert", 1), ("cvel", 1), ("qfrc_actuator", 6), ("cfrc_ext", 1)):
        if getattr(env, f"_include_{name}_in_observation") is True:
            parts.append(data[name][:, first:].reshape(len(parts[0]), -1))
    return np.concatenate(parts, axis=1)


def _humanoid_runs(env: Any, data: Arrays, actions: np.ndarray, speeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    healthy = _inside(data["qpos"][:, 2], env._healthy_z_range)
    contact = env._contact_cost_weight * np.square(data["cfrc_ext"]).sum(axis=(1, 2))
    rewards = env._forward_reward_weight * speeds + healthy * env._healthy_reward
    costs = env._ctrl_cost_weight * _squares(data["ctrl"]) + np.clip(contact, *env._contact_cost_range)
    return rewards - costs, ~healthy & env._terminate_when_unhealthy


def _stand_up(env: Any, data: Arrays, actions: np.ndarray, speeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    impact = env._impact_cost_weight * np.square(data["cfrc_ext"]).sum(axis=(1, 2))
    effort = env._ctrl_cost_weight * _squares(data["ctrl"])
    height = data["qpos"][:, 2] / env.model.opt.timestep
    return height - effort - np.clip(impact, *env._impact_cost_range) + 1, _never(data)


_STATE = ("qpos", "qvel")
_BODY = (*_STATE, "ctrl", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")
_TASKS = {
    "SwimmerEnv": Formulas(_STATE, _positions_and_velocities(2), _runs, _x),
    "HalfCheetahEnv": Formulas(_STATE, _positions_and_velocities(1), _runs, _x),
    "HopperEnv": Formulas(_STATE, _positions_and_velocities(1, 10), _hop, _x),
    "Walker2dEnv": Formulas(_STATE, _positions_and_velocities(1, 10), _walk, _x),
    "InvertedPendulumEnv": Formulas(_STATE, _balance_observed, _balance, _x),
    "InvertedDoublePendulumEnv": Formulas(
        (*_STATE, "qfrc_constraint", "site_xpos"), _balance_two_observed, _balance_two, _x
    ),
    "ReacherEnv": Formulas((*_STATE, "xpos"), _reach_observed, _reach, _x),
    "PusherEnv": Formulas((*_STATE, "xpos"), _push_observed, _push, _x),
    "AntEnv": Formulas((*_STATE, "xpos", "cfrc_ext"), _ant_observed, _crawl, _torso_x),
    "HumanoidEnv": Formulas((*_BODY, "xipos"), _humanoid_observed, _humanoid_runs, _mass_centre_x),
    "HumanoidStandupEnv": Formulas(_BODY, _humanoid_observed, _stand_up, _x),
}
