"""The gradient-trained half at work: it acts, its transitions are kept, and it learns after each step."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from sextet_common.errors import InputError
from sextet_common.seeding import generator as random_of

from esac import rollout
from esac.config import ESACConfig
from esac.replay import Replay
from esac.rollout import Episode
from esac.sac import SAC, Explorer


class Collector:
    """Runs episodes of the gradient-trained policy with updates after each of their steps.

    Parameters
    ----------
    env
        The environment.
    most
        Steps after which an episode is cut off.
    sac
        What learns.
    replay
        Where transitions go, and come from.
    config
        The settings.
    seed
        Of all that is drawn.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], most: int, sac: SAC, replay: Replay, config: ESACConfig, seed: int
    ) -> None:
        self.env, self.most, self.sac, self.replay, self.config, self.seed = env, most, sac, replay, config, seed
        self.steps = self.updates = 0
        self._explore = Explorer(sac.actor)

    def chance(self, t: int, counted: int) -> tuple[float, bool]:
        """Return the probability of gradient-based learning at this time, and whether a generation takes its chance."""
        config = self.config
        share = config.sac_least + (1 - config.sac_least) * math.exp(-counted / config.sac_decay)
        due = (t + 1) % config.sac_every == 0
        return share, due and bool(random_of(self.seed, "chance", t).random() < share)

    def episode(self, t: int, number: int) -> tuple[Episode, dict[str, float]]:
        """Run an episode.

        Parameters
        ----------
        t, number
            The generation's number, and the episode's within it: what its random numbers depend on.

        Returns
        -------
        tuple
            The episode, and the last update's losses.

        Raises
        ------
        InputError
            Where a loss is not finite.
        NotANumber
            With ``on_nan="raise"``, where the environment's numbers are none.
        """
        config = self.config
        random = random_of(self.seed, "episode", t, number)
        noises = torch.Generator(self.sac.where).manual_seed(int(random.integers(2**62)))
        acts = self.env.action_space
        assert isinstance(acts, gymnasium.spaces.Box)
        observation, _ = self.env.reset(seed=int(random.integers(2**31)))
        total, length, owed, done, message = 0.0, 0, 0.0, False, ""
        found: dict[str, torch.Tensor] = {}
        while not done and length < self.most:
            if self.steps < config.start_steps:
                action = random.uniform(acts.low, acts.high).astype(np.float32)
            else:
                action = self._explore(observation, random.standard_normal(acts.shape[0], dtype=np.float32))
            following, reward, terminated, truncated, _ = self.env.step(action)
            length += 1
            self.steps += 1
            if not math.isfinite(float(reward)) or not np.isfinite(following).all():
                message = f"step {length} of the gradient-trained policy's episode brought a number that is none"
                if config.on_nan == "raise":
                    raise rollout.NotANumber(f"{message}, generation {t}, seed {self.seed}")
                break
            self.replay.add(rollout.packed(observation, action, float(reward), following, bool(terminated))[None])
            total += float(reward)
            owed += config.updates_per_step
            while owed >= 1 and len(self.replay) > config.sac.batch_size:
                found = self._updated(random, noises)
                owed -= 1
            owed = min(owed, 1.0)  # what was owed while there was no whole batch is not made up for
            observation, done = following, bool(terminated or truncated)
        values = {f"sac/{name}": float(value) for name, value in found.items()}
        if any(not math.isfinite(value) for value in values.values()):
            raise InputError(f"a loss of soft actor-critic is not finite in generation {t}, seed {self.seed}",
                             f"finite numbers: try an lr below {config.sac.lr:g}")  # fmt: skip
        return Episode(-math.inf if message else total, length, bool(message), None, message), values

    def _updated(self, random: np.random.Generator, noises: torch.Generator) -> dict[str, torch.Tensor]:
        size, where = self.config.sac.batch_size, self.sac.where
        batch = self.replay.sample(random, size, where)
        noise = torch.randn(2, size, batch.actions.shape[1], generator=noises, device=where)
        found = self.sac.update(batch, noise)
        self.updates += 1
        if where.type != "cpu":
            self._explore.refresh()
        return found
