"""Bookkeeping shared by all pools of workers: pending tasks, results and failures of a generation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sextet_common import checks
from sextet_common.checks import Natural, Positive

from esac.play.rollout import Episode
from esac.play.task import Task

START_TIMEOUT = 60.0
"""Seconds that a worker may take to start, even if `Ledger.timeout` is shorter."""


class WorkerError(RuntimeError):
    """Workers died, hung or failed to start too often; the message includes the last one's error."""


@dataclass
class Ledger:
    """Tasks and episodes of a generation, and how often workers failed.

    Attributes
    ----------
    restarts
        How many workers in a row may be replaced without a task being finished in between.
    timeout
        Seconds that an episode may take.
    tasks
        The generation.
    queue
        Numbers of the tasks that no worker has, the next one last.
    episodes
        Episodes by the number of their task.
    timeouts
        How often each task took too long.
    failures
        Failures of workers since a task was last finished.

    Examples
    --------
    >>> ledger = Ledger(restarts=1, timeout=60.0)
    >>> ledger.begin([Task(0, 0, 0, 1, 0.1)])
    >>> number = ledger.queue.pop()
    >>> ledger.record_failure(number, "a worker died")
    >>> ledger.queue, ledger.failures
    ([0], 1)
    """

    restarts: Natural
    timeout: Positive
    tasks: Sequence[Task] = field(default=(), init=False)
    queue: list[int] = field(default_factory=list, init=False)
    episodes: dict[int, Episode] = field(default_factory=dict, init=False)
    timeouts: Counter[int] = field(default_factory=Counter, init=False)
    failures: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        checks.check("restarts", self.restarts, Natural)
        checks.check("timeout", self.timeout, Positive)

    def begin(self, tasks: Sequence[Task]) -> None:
        """Start a generation; its first task is handed out first."""
        self.tasks, self.queue, self.episodes = tasks, list(range(len(tasks)))[::-1], {}
        self.timeouts.clear()

    @property
    def done(self) -> bool:
        """Whether every task has its episode."""
        return len(self.episodes) == len(self.tasks)

    def in_order(self) -> list[Episode]:
        """Return the episodes in the order of the tasks."""
        return [self.episodes[number] for number in range(len(self.tasks))]

    def record(self, number: int, episode: Episode) -> None:
        """Record the episode of a task."""
        self.episodes[number] = episode
        self.failures = 0

    def record_timeout(self, number: int) -> str:
        """Record that a task took too long, and return that as a reason; the second time its episode has failed."""
        reason = f"an episode took more than {self.timeout:g} s"
        self.timeouts[number] += 1
        if self.timeouts[number] > 1:
            self.episodes[number] = Episode.failure(reason)
        return reason

    def record_failure(self, number: int | None, reason: str) -> None:
        """Record the loss of a worker and queue its task again; raise `WorkerError` after too many in a row."""
        self.failures += 1
        if number is not None and number not in self.episodes:
            self.queue.append(number)
            reason = f"{self.tasks[number]}: {reason}"
        if self.failures > self.restarts:
            raise WorkerError(f"workers failed {self.failures} times in a row; the last failure: {reason}")
        if self.failures > 1:  # back off
            time.sleep(min(1.0, 0.05 * 2**self.failures))
