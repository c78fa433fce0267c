"""What a generation still needs, and how often its workers failed: what all pools of workers keep alike."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sextet_common.errors import InputError

from esac.rollout import Episode
from esac.worker import Task

STARTING = 60.0
"""Seconds that a worker may take to start, where an episode may not take longer."""


class WorkerError(RuntimeError):
    """Workers died, hung or could not start more often than they may; the last one's words are told."""


@dataclass
class Ledger:
    """A generation's tasks and episodes, and how often workers failed.

    Parameters
    ----------
    restarts
        How often workers may be replaced in a row, without a finished task between.
    timeout
        Seconds that an episode may take.

    Attributes
    ----------
    tasks
        The generation.
    queue
        Numbers of the tasks that nobody does yet, the next one last.
    found
        Episodes by their tasks' numbers.
    hung
        How often each task took too long.
    failures
        Of workers, since the last finished task.

    Raises
    ------
    InputError
        Where a number is out of range.

    Examples
    --------
    >>> ledger = Ledger(restarts=1, timeout=60.0)
    >>> ledger.begin([Task(0, 0, 0, 1, 0.1)])
    >>> number = ledger.queue.pop()
    >>> ledger.lost(number, "a worker is gone")
    >>> ledger.queue, ledger.failures
    ([0], 1)
    """

    restarts: int
    timeout: float
    tasks: Sequence[Task] = field(default=(), init=False)
    queue: list[int] = field(default_factory=list, init=False)
    found: dict[int, Episode] = field(default_factory=dict, init=False)
    hung: Counter[int] = field(default_factory=Counter, init=False)
    failures: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.restarts < 0:
            raise InputError(f"restarts is {self.restarts}", "a whole number >= 0")
        if not self.timeout > 0:
            raise InputError(f"timeout is {self.timeout}", "seconds > 0")

    def begin(self, tasks: Sequence[Task]) -> None:
        """Take a generation; the first task is handed out first."""
        self.tasks, self.queue, self.found = tasks, list(range(len(tasks)))[::-1], {}
        self.hung.clear()

    @property
    def done(self) -> bool:
        """Whether every task has its episode."""
        return len(self.found) == len(self.tasks)

    def episodes(self) -> list[Episode]:
        """Return the episodes in the order of the tasks."""
        return [self.found[number] for number in range(len(self.tasks))]

    def took(self, number: int, episode: Episode) -> None:
        """Note a task's episode."""
        self.found[number] = episode
        self.failures = 0

    def overslept(self, number: int) -> str:
        """Note that a task took too long: it is done once more, then its episode has failed."""
        reason = f"an episode took more than {self.timeout:g} s"
        self.hung[number] += 1
        if self.hung[number] > 1:
            self.found[number] = Episode(-math.inf, 0, True, None, reason)
        return reason

    def lost(self, number: int | None, reason: str) -> None:
        """Note that a worker is gone, and queue its task again.

        Raises
        ------
        WorkerError
            Where that happened too often.
        """
        self.failures += 1
        if number is not None and number not in self.found:
            self.queue.append(number)
            reason = f"{self.tasks[number]}: {reason}"
        if self.failures > self.restarts:
            raise WorkerError(f"workers failed {self.failures} times in a row; the last: {reason}")
        if self.failures > 1:  # what one failure did not end, a pause might
            time.sleep(min(1.0, 0.05 * 2**self.failures))
