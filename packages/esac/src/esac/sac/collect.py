"""Episodes of the gradient-trained policy, with updates after every step."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from sextet_common.errors import InputError
from sextet_common.seeding import generator

from esac.play import interaction
from esac.play.normalize import Moments
from esac.play.rollout import Episode, NonFiniteError, OnNan
from esac.play.vector import Lockstep
from esac.sac.actor import Explorer
from esac.sac.replay import Batch, Replay
from esac.sac.update import SAC


class Collector:
    """Runs episodes of the gradient-trained policy, stores their transitions and updates the policy after each step.

    Parameters
    ----------
    env
        One environment, or several that are stepped together.
    updates_per_step
        Updates for each environment step, of which n environments take n at once; may be below 1.
    start_steps
        Number of first steps with uniformly random actions.
    horizon
        Steps after which an episode is truncated.
    """

    def __init__(
        self, env: Lockstep, sac: SAC, replay: Replay, seed: int, *, updates_per_step: float = 1.0,
        start_steps: int = 10_000, on_nan: OnNan = "penalise", horizon: int = 10_000,
    ) -> None:  # fmt: skip
        self.env, self.sac, self.replay, self.seed = env, sac, replay, seed
        self.updates_per_step, self.start_steps, self.on_nan = updates_per_step, start_steps, on_nan
        self.horizon = horizon
        self.steps = self.updates = 0
        self._explore = Explorer(sac.actor)
        self._writer = interaction.TransitionWriter(sac.actor.low.cpu().numpy(), sac.actor.high.cpu().numpy())

    def episodes(
        self, generation: int, number: int, inputs: Float[np.ndarray, "2 observations"] | None = None
    ) -> tuple[list[Episode], dict[str, float]]:
        """Run an episode in every environment, from the `number`-th of a generation on.

        An environment whose episode has ended waits for the others: what it does until then is not stored. Return the
        episodes with the losses of the last update. ``inputs`` are the offset and the scale of the observations, for
        policy and critics alike.

        Raises
        ------
        NonFiniteError
            If an environment returns non-finite numbers and ``on_nan`` is "raise".
        """
        random = generator(self.seed, "episode", generation, number)
        noises = torch.Generator(self.sac.device).manual_seed(int(random.integers(2**62)))
        observations = self.env.reset(int(random.integers(2**31)))
        totals, lengths = np.zeros(self.env.count), np.zeros(self.env.count, dtype=int)
        faults = {i: "the first observation" for i, row in enumerate(observations) if not interaction.finite(row)}
        running = np.array([i for i in range(self.env.count) if i not in faults], dtype=int)
        seen: list[np.ndarray] = []
        length, due = 0, 0.0
        losses: dict[str, torch.Tensor] = {}
        while len(running) and length < self.horizon:
            if inputs is not None:
                seen.append(np.array(observations, dtype=np.float64))
            actions = self._writer.to_environment(self._actions(observations[running], random, inputs))
            self._writer.before(observations[running], actions)
            observations, rewards, terminated, truncated = self.env.step(self._everywhere(actions, running))
            length += 1
            lengths[running] = length
            self.steps += len(running)
            totals[running] += rewards[running]
            rows = self._writer.after(rewards[running], observations[running], terminated[running])
            sound = np.isfinite(rows).all(axis=1)
            faults |= {int(i): f"step {length}" for i in running[~sound]}
            self.replay.add(rows[sound])
            due += self.updates_per_step * int(sound.sum())
            while due >= 1 and len(self.replay) > self.sac.config.batch_size:
                losses = self.sac.update(*self._batch(random, noises, inputs))
                self._explore.refresh()
                self.updates += 1
                due -= 1
            due = min(due, 1.0)  # updates missed for lack of a whole batch are not made up for
            running = running[sound & ~(terminated | truncated)[running]]
        values = self._finite_values(losses, generation)
        return [
            self._episode(generation, totals[i], int(lengths[i]), faults.get(i, ""), [rows[i] for rows in seen])
            for i in range(self.env.count)
        ], values

    def _episode(self, generation: int, total: float, length: int, fault: str, seen: list[np.ndarray]) -> Episode:
        """Return the episode of an environment, given the observations of this and of later steps."""
        if fault:
            fault += " of the gradient-trained policy's episode has a non-finite number"
            if self.on_nan == "raise":
                raise NonFiniteError(f"{fault}, generation {generation}, seed {self.seed}")
            return Episode.failure(fault, length)
        return Episode(float(total), length, moments=Moments.of(np.stack(seen[:length])) if seen else None)

    def _finite_values(self, losses: dict[str, torch.Tensor], generation: int) -> dict[str, float]:
        """Return the losses as numbers, which must be finite."""
        values = {f"sac/{name}": float(value) for name, value in losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise InputError(f"a loss of soft actor-critic is not finite in generation {generation}, seed {self.seed}",
                             f"finite losses: try an lr below {self.sac.config.lr:g}")  # fmt: skip
        return values

    def _actions(
        self, observations: np.ndarray, random: np.random.Generator, inputs: np.ndarray | None
    ) -> Float[np.ndarray, "n actions"]:
        """Return actions in [-1, 1]."""
        shape = len(observations), self.replay.actions
        if self.steps < self.start_steps:
            return random.uniform(-1, 1, shape).astype(np.float32)
        rows = observations if inputs is None else (observations - inputs[0]) * inputs[1]
        return self._explore(rows, random.standard_normal(shape, dtype=np.float32))

    def _everywhere(self, actions: np.ndarray, running: np.ndarray) -> Float[np.ndarray, "n actions"]:
        """Return the actions of all environments, given those of the running ones; the others get one that exists."""
        if len(running) == self.env.count:
            return actions
        filled = np.repeat(actions[:1], self.env.count, axis=0)
        filled[running] = actions
        return filled

    def _batch(
        self, random: np.random.Generator, noises: torch.Generator, inputs: np.ndarray | None
    ) -> tuple[Batch, torch.Tensor]:
        """Draw the transitions and the noise of an update."""
        size, device = self.sac.config.batch_size, self.sac.device
        batch = self.replay.sample(random, size, device, inputs)
        return batch, torch.randn(2, size, batch.actions.shape[1], generator=noises, device=device)
