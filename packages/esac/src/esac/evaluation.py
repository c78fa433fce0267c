"""Deterministic evaluations of the learned policies, and the best policy so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from jaxtyping import Float
from sextet_common import checks
from sextet_common.errors import InputError

from esac.config import ESACConfig
from esac.play import environment, rollout
from esac.play.policy import ActionMap, NumpyPolicy, PolicyShape
from esac.play.rollout import Episode
from esac.results.outputs import Evaluations

Which = Literal["best", "mean", "sac"]
_CONFIRMING = 2  # times eval_episodes: episodes more of a policy that may be the best
_EVALUATED: dict[str, tuple[Which, ...]] = {"es": ("mean",), "sac": ("sac",), "esac": ("mean", "sac")}


class Best(NamedTuple):
    """The policy with the highest mean return, ``reward``, so far; -inf before the first evaluation.

    A policy whose mean return in an evaluation is higher is run in twice as many episodes more, and replaces the best
    one if the mean of all of them is higher too: the best of many evaluations of few episodes is the luckiest one.

    The others are the arguments of `NumpyPolicy`; ``inputs`` is None if observations are not normalised.
    """

    reward: float
    vector: Float[np.ndarray, " size"]
    action: ActionMap
    hidden: tuple[int, ...]
    inputs: Float[np.ndarray, "2 observations"] | None


class Evaluation:
    """Evaluations (``history``) of the policies that ``current`` returns, and the ``best`` of them."""

    def __init__(
        self, env: gymnasium.Env[Any, Any], config: ESACConfig, seed: int, current: Callable[[Which], NumpyPolicy],
        horizon: int,
    ) -> None:  # fmt: skip
        self.env, self.config, self.seed, self._current, self.horizon = env, config, seed, current, horizon
        self.history = Evaluations()
        self.best = _best(-math.inf, current("mean"))

    def policy(self, which: Which = "best") -> NumpyPolicy:
        """Return the best policy, the population's mean, or the gradient-trained policy."""
        checks.check("policy", which, Which)
        if which != "best":
            return self._current(which)
        best = self.best
        return rollout.numpy_policy(self.env, best.hidden, best.vector, best.action, best.inputs)

    def episodes(self, which: Which, count: int, seed: int | None = None) -> list[Episode]:
        """Run episodes of a policy from resets that learning does not use."""
        seed = self.seed if seed is None else seed
        return run_episodes(self.env, self.policy(which), count, seed, self.horizon)

    def run(self, when: tuple[float, float, float]) -> dict[str, float]:
        """Evaluate the policies of this mode, update ``best`` and return metrics."""
        episodes = {which: self.episodes(which, self.config.eval_episodes) for which in _EVALUATED[self.config.mode]}
        self.history.add(when, {str(which): each for which, each in episodes.items()})
        values: dict[str, float] = {}
        means: dict[str, float] = {}
        for which, each in episodes.items():
            totals = [e.total for e in each]
            means[which] = float(np.mean(totals))
            values[f"eval/{which}_mean_reward"] = means[which]
            values[f"eval/{which}_std_reward"] = float(np.std(totals)) if math.isfinite(means[which]) else math.nan
            if means[which] > self.best.reward:
                self._challenge(which, totals)
        values["eval/best_mean_reward"] = self.best.reward
        return values

    def _challenge(self, which: Which, totals: list[float]) -> None:
        """Let a policy replace the best one if it is better in more episodes too, from the same resets for all."""
        policy, count = self.policy(which), self.config.eval_episodes
        more = run_episodes(self.env, policy, _CONFIRMING * count, self.seed, self.horizon, skip=count)
        reward = float(np.mean([*totals, *(e.total for e in more)]))
        if reward > self.best.reward:
            self.best = _best(reward, policy)

    def state(self) -> dict[str, Any]:
        """Return the history and the best policy as arrays and plain values."""
        history = {f"evaluations.{key}": value for key, value in self.history.state().items()}
        best = self.best
        inputs = {} if best.inputs is None else {"best_inputs": best.inputs}
        return {
            **history, **inputs, "best": best.vector, "best_reward": None if math.isinf(best.reward) else best.reward,
            "best_action": best.action, "best_hidden": list(best.hidden),
        }  # fmt: skip

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        prefix = "evaluations."
        self.history.load_state({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        reward = -math.inf if state["best_reward"] is None else float(state["best_reward"])
        hidden, vector = tuple(int(units) for units in state["best_hidden"]), np.array(state["best"])
        inputs = np.array(state["best_inputs"]) if "best_inputs" in state else None
        shape = self._current("mean").shape
        expected = PolicyShape.holding(vector.size, shape.observations, shape.actions, hidden)
        if vector.shape != (expected.size,) or vector.dtype != np.float32:
            raise InputError(f"best has shape {vector.shape}, {vector.dtype}", f"({expected.size},), float32")
        self.best = Best(reward, vector, state["best_action"], hidden, inputs)
        self.policy()  # checks the rest


def _best(reward: float, policy: NumpyPolicy) -> Best:
    return Best(reward, policy.vector, policy.action, policy.shape.hidden, policy.inputs)


def run_episodes(
    env: gymnasium.Env[Any, Any], policy: NumpyPolicy, count: int, seed: int, max_steps: int | None = None, *,
    skip: int = 0,
) -> list[Episode]:  # fmt: skip
    """Run episodes of a policy from the resets of an evaluation seed, without the first ``skip``."""
    resets = np.random.SeedSequence((seed, 0xEA)).generate_state(skip + count)[skip:] >> 1
    most = max_steps or environment.horizon(env)
    return [rollout.episode(env, policy, int(reset), max_steps=most, on_nan="penalise") for reset in resets]
