"""An environment that fails on demand, where worker processes can import it: "faulty_environments:Faulty-v0"."""

from __future__ import annotations

import multiprocessing as mp
import os
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
from gymnasium import spaces

STEPS = 12


class Faulty(gymnasium.Env[Any, Any]):
    """A point that is pushed about. What it does wrong, it does at the fifth step of episodes that begin on the right.

    Parameters
    ----------
    wrong
        raise, hang, exit, or start: raise, or exit, where a worker makes it.
    folder
        Where it notes that it has done so, to do it no more; without one, it does so every time.
    pause
        Seconds of every step.
    """

    def __init__(self, wrong: str = "", folder: str = "", pause: float = 0.0) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), dtype=np.float32)
        self.action_space = spaces.Box(-2.0, 2.0, (1,), dtype=np.float32)
        self.wrong, self.folder, self.pause, self.broken = wrong, folder, pause, False
        if mp.parent_process() is not None:
            if wrong == "start raise":
                raise OSError("no licence for a worker")
            if wrong == "start exit":
                os._exit(7)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        assert not self.broken, "it was not made anew"
        self.state, self.number = self.np_random.normal(size=3).astype(np.float32), 0
        self.right = bool(self.state[0] > 0)
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.number += 1
        time.sleep(self.pause)
        if self.number == 5 and self.right and self.wrong and self._first():
            self.broken = True
            if self.wrong == "raise":
                raise RuntimeError("the simulator diverged")
            if self.wrong == "hang":
                time.sleep(1000)
            os._exit(3)
        push = np.array([action[0], self.state[0], 1], np.float32)
        self.state = np.float32(0.9) * self.state + np.float32(0.1) * push
        return self.state.copy(), -float(self.state[0] ** 2), False, self.number >= STEPS, {}

    def _first(self) -> bool:
        if not self.folder:
            return True
        try:
            (Path(self.folder) / "done").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def own() -> gymnasium.Env[Any, Any]:
    """Make one that does nothing wrong."""
    return Faulty()


if "Faulty-v0" not in gymnasium.registry:  # pytest and the workers may import this module under two names
    gymnasium.register("Faulty-v0", "faulty_environments:Faulty")


class Misused(Faulty):
    """Breaks gymnasium's interface, in the way that ``misuse`` names."""

    def __init__(self, misuse: str = "") -> None:
        super().__init__()
        self.misuse = misuse

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        answer = super().reset(seed=seed)
        return answer[0] if self.misuse == "reset without info" else answer

    def step(self, action: np.ndarray) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.misuse == "four values":
            return observation, reward, truncated, info
        rewards: dict[str, Any] = {"reward array": np.array([reward]), "reward text": "high"}
        return observation, rewards.get(self.misuse, reward), terminated, truncated, info


def four_values() -> gymnasium.Env[Any, Any]:
    """Make one whose steps return four values."""
    return Misused("four values")


def reward_array() -> gymnasium.Env[Any, Any]:
    """Make one whose rewards are arrays."""
    return Misused("reward array")


class Telling(Faulty):
    """A reward of 1 where torch is imported, of 2 where the process has more than 150 MB, else of 0."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        large = psutil.Process().memory_info().rss > 150e6
        observation, _, *rest = super().step(action)
        return observation, 2.0 * large + ("torch" in sys.modules), *rest  # type: ignore[return-value]
