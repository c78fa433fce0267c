"""A custom environment with two worker processes; workers import it, so it must be in a module."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from esac import ESAC, ESACConfig
from gymnasium import spaces


class Hover(gymnasium.Env[Any, Any]):
    """A falling mass with an engine; the action is the thrust, the goal to stay at height 0."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,))
        self.action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start near height 0."""
        super().reset(seed=seed)
        self.state, self.time = self.np_random.normal(0, 0.5, size=2).astype(np.float32), 0
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply gravity and thrust."""
        height, speed = self.state
        speed += 0.1 * (2 * float(action[0]) - 0.5)
        self.state = np.array([height + 0.1 * speed, speed], dtype=np.float32)
        self.time += 1
        crashed = bool(abs(self.state[0]) > 5)
        return self.state.copy(), float(1 - min(1.0, abs(self.state[0]))), crashed, self.time >= 50, {}


def main() -> None:
    """Train for a few thousand steps."""
    config = ESACConfig(
        population=4, hidden=(16, 16), sigma=0.1, es_lr=0.05, sac_every=1, start_steps=200,
        eval_every=1000, eval_episodes=5, workers=2,
    )  # fmt: skip
    model = ESAC(Hover, config, seed=0).learn(4000)
    print(f"{model.steps} steps, best mean return {model.best.reward:.1f} of 50")


if __name__ == "__main__":  # otherwise a worker that imports this file would start the training again
    main()
