"""The interface of engines, and the engine that evaluates in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from esac.play.rollout import Episode
from esac.play.task import Evaluator, Job, Task


class Engine(ABC):
    """Evaluates generations: `start`, then `finish`, which returns the episodes in the order of the tasks.

    The bases are sent to all workers once a generation; a task is a few numbers, and workers draw its noise
    themselves. The result of a task therefore does not depend on which worker runs it, when, or how often.
    """

    @abstractmethod
    def start(self, bases: Float[np.ndarray, "bases width"], tasks: Sequence[Task]) -> None:
        """Start a generation, abandoning an unfinished one."""

    @abstractmethod
    def finish(self) -> list[Episode]:
        """Wait for the end of the generation."""

    @abstractmethod
    def close(self) -> None:
        """Free the engine's resources."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class SerialEngine(Engine):
    """Evaluates all tasks in this process, in `finish`; see `Evaluator` for `task_tries`."""

    def __init__(self, job: Job, *, task_tries: int = 3) -> None:
        self.evaluator = Evaluator(job, task_tries)
        self._bases: np.ndarray = np.empty((0, self.evaluator.width), dtype=np.float32)
        self._tasks: Sequence[Task] = ()

    def start(self, bases: Float[np.ndarray, "bases width"], tasks: Sequence[Task]) -> None:
        """Store the generation."""
        self._bases, self._tasks = bases.copy(), tasks

    def finish(self) -> list[Episode]:
        """Evaluate the generation."""
        return [self.evaluator(task, self._bases) for task in self._tasks]

    def close(self) -> None:
        """Close the environment."""
        self.evaluator.close()
