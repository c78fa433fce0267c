"""Deterministic evaluations of the learned policies, and the best policy so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from jaxtyping import Float
from sextet_common import checks

from esac.config import ESACConfig
from esac.es.population import Population
from esac.play import rollout
from esac.play.environment import horizon
from esac.play.policy import ActionMap, NumpyPolicy
from esac.play.rollout import Episode
from esac.results.outputs import Evaluations
from esac.sac.update import SAC

Which = Literal["best", "mean", "sac"]
_EVALUATED: dict[str, tuple[Which, ...]] = {"es": ("mean",), "sac": ("sac",), "esac": ("mean", "sac")}


class Best(NamedTuple):
    """The policy with the highest mean return, ``reward``, in any evaluation so far; -inf before the first one."""

    reward: float
    vector: Float[np.ndarray, " size"]
    action: ActionMap


class Evaluation:
    """Policies of a learner, their evaluations (``history``) and the ``best`` of them."""

    def __init__(
        self, env: gymnasium.Env[Any, Any], population: Population, sac: SAC, config: ESACConfig, seed: int
    ) -> None:
        self.env, self.population, self.sac, self.config, self.seed = env, population, sac, config, seed
        self.history = Evaluations()
        self.best = Best(-math.inf, population.mean.copy(), config.es_action)

    def policy(self, which: Which = "best") -> NumpyPolicy:
        """Return the best policy, the population's mean, or the gradient-trained policy."""
        checks.check("policy", which, Which)
        policies: dict[str, tuple[np.ndarray, ActionMap]] = {
            "best": (self.best.vector, self.best.action),
            "mean": (self.population.mean, self.config.es_action),
            "sac": (self.sac.actor.vector(), "tanh"),
        }
        return rollout.numpy_policy(self.env, self.config.hidden, *policies[which])

    def episodes(self, which: Which, count: int, seed: int | None = None) -> list[Episode]:
        """Run episodes of a policy from resets that learning does not use."""
        return run_episodes(self.env, self.policy(which), count, self.seed if seed is None else seed)

    def run(self, when: tuple[float, float, float]) -> dict[str, float]:
        """Evaluate the policies of this mode, update ``best`` and return metrics.

        With ``sync``, the mean is copied into the gradient-trained policy if it is better.
        """
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
                policy = self.policy(which)
                self.best = Best(means[which], policy.vector, policy.action)
        values["eval/best_mean_reward"] = self.best.reward
        if self.config.sync and len(means) == 2 and means["mean"] > means["sac"]:
            self.sac.actor.load_vector(self.population.mean)
        return values

    def state(self) -> dict[str, Any]:
        """Return the history and the best policy as arrays and plain values."""
        history = {f"evaluations.{key}": value for key, value in self.history.state().items()}
        reward = None if math.isinf(self.best.reward) else self.best.reward
        return {**history, "best": self.best.vector, "best_reward": reward, "best_action": self.best.action}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        prefix = "evaluations."
        self.history.load_state({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        reward = -math.inf if state["best_reward"] is None else float(state["best_reward"])
        self.best = Best(reward, np.array(state["best"]), state["best_action"])


def run_episodes(env: gymnasium.Env[Any, Any], policy: NumpyPolicy, count: int, seed: int) -> list[Episode]:
    """Run episodes of a policy from the resets of an evaluation seed."""
    resets = np.random.SeedSequence((seed, 0xEA)).generate_state(count) >> 1
    return [rollout.episode(env, policy, int(reset), max_steps=horizon(env), on_nan="penalise") for reset in resets]
