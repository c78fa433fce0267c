"""Episodes of the gradient-trained policy, with updates after every step."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from jaxtyping import Float
from sextet_common.errors import InputError
from sextet_common.seeding import generator

from esac.play import interaction
from esac.play.normalize import Moments
from esac.play.rollout import Episode, NonFiniteError, OnNan
from esac.sac.actor import Explorer
from esac.sac.replay import Batch, Replay
from esac.sac.update import SAC


class Collector:
    """Runs episodes of the gradient-trained policy, stores their transitions and updates the policy after each step.

    Parameters
    ----------
    updates_per_step
        Updates for each environment step; may be below 1.
    start_steps
        Number of first steps with uniformly random actions.
    horizon
        Steps after which an episode is truncated.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], sac: SAC, replay: Replay, seed: int, *, updates_per_step: float = 1.0,
        start_steps: int = 10_000, on_nan: OnNan = "penalise", horizon: int = 10_000,
    ) -> None:  # fmt: skip
        self.env, self.sac, self.replay, self.seed = env, sac, replay, seed
        self.updates_per_step, self.start_steps, self.on_nan = updates_per_step, start_steps, on_nan
        self.horizon = horizon
        self.steps = self.updates = 0
        self._explore = Explorer(sac.actor)
        space = env.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        self._writer = interaction.TransitionWriter(space.low, space.high)

    def episode(
        self, generation: int, number: int, inputs: Float[np.ndarray, "2 observations"] | None = None
    ) -> tuple[Episode, dict[str, float]]:
        """Run episode `number` of a generation; return it with the losses of its last update.

        ``inputs`` are the offset and the scale of the observations, for policy and critics alike.

        Raises
        ------
        NonFiniteError
            If the environment returns non-finite numbers and ``on_nan`` is "raise".
        """
        random = generator(self.seed, "episode", generation, number)
        noises = torch.Generator(self.sac.device).manual_seed(int(random.integers(2**62)))
        observation = interaction.reset(self.env, int(random.integers(2**31)))
        observations: list[np.ndarray] = []
        total, length, due, done = 0.0, 0, 0.0, False
        fault = "" if interaction.finite(observation) else "the first observation"
        losses: dict[str, torch.Tensor] = {}
        while not (done or fault) and length < self.horizon:
            if inputs is not None:
                observations.append(np.array(observation, dtype=np.float64))
            action = self._writer.to_environment(self._action(observation, random, inputs))
            self._writer.before(observation, action)
            observation, reward, terminated, truncated = interaction.step(self.env, action)
            length += 1
            self.steps += 1
            if not math.isfinite(reward) or not interaction.finite(observation):
                fault = f"step {length}"
                break
            self.replay.add(self._writer.after(reward, observation, terminated)[None])
            total += reward
            due += self.updates_per_step
            while due >= 1 and len(self.replay) > self.sac.config.batch_size:
                losses = self.sac.update(*self._batch(random, noises, inputs))
                self._explore.refresh()
                self.updates += 1
                due -= 1
            due = min(due, 1.0)  # updates missed for lack of a whole batch are not made up for
            done = terminated or truncated
        values = {f"sac/{name}": float(value) for name, value in losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise InputError(f"a loss of soft actor-critic is not finite in generation {generation}, seed {self.seed}",
                             f"finite losses: try an lr below {self.sac.config.lr:g}")  # fmt: skip
        if fault:
            fault += " of the gradient-trained policy's episode has a non-finite number"
            if self.on_nan == "raise":
                raise NonFiniteError(f"{fault}, generation {generation}, seed {self.seed}")
            return Episode.failure(fault, length), values
        moments = Moments.of(np.stack(observations)) if observations else None
        return Episode(total, length, moments=moments), values

    def _action(self, observation: np.ndarray, random: np.random.Generator, inputs: np.ndarray | None) -> np.ndarray:
        """Return an action in [-1, 1]."""
        if self.steps < self.start_steps:
            return random.uniform(-1, 1, self.replay.actions).astype(np.float32)
        seen = observation if inputs is None else (observation - inputs[0]) * inputs[1]
        return self._explore(seen, random.standard_normal(self.replay.actions, dtype=np.float32))

    def _batch(
        self, random: np.random.Generator, noises: torch.Generator, inputs: np.ndarray | None
    ) -> tuple[Batch, torch.Tensor]:
        """Draw the transitions and the noise of an update."""
        size, device = self.sac.config.batch_size, self.sac.device
        batch = self.replay.sample(random, size, device, inputs)
        return batch, torch.randn(2, size, batch.actions.shape[1], generator=noises, device=device)
