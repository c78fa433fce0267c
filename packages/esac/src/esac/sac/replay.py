"""Replay buffer: a ring of packed float32 rows, from which one `take` makes a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sextet_common import checks
from sextet_common.checks import Count
from sextet_common.errors import InputError
from torch import Tensor


class Batch(NamedTuple):
    """Transitions as float32 tensors; `mask` is 0 where an episode terminated and 1 elsewhere, also at truncations."""

    observations: Float[Tensor, "batch observations"]
    actions: Float[Tensor, "batch actions"]
    rewards: Float[Tensor, " batch"]
    next_observations: Float[Tensor, "batch observations"]
    mask: Float[Tensor, " batch"]


class Replay:
    """Ring buffer of `capacity` transitions in pre-allocated memory.

    Examples
    --------
    >>> replay = Replay(10, observations=3, actions=1)
    >>> replay.add(np.zeros((4, 9), dtype=np.float32))
    >>> len(replay), replay.sample(np.random.default_rng(0), 2).observations.shape
    (4, torch.Size([2, 3]))
    """

    def __init__(self, capacity: int, observations: int, actions: int) -> None:
        checks.check("capacity", capacity, Count)
        self.observations, self.actions = observations, actions
        width = 2 * observations + actions + 2
        try:
            self.rows = np.zeros((capacity, width), dtype=np.float32)
        except (MemoryError, ValueError) as error:
            raise InputError(
                f"the replay's capacity is {capacity} transitions of {4 * width} bytes", "as many as fit in memory"
            ) from error
        self.at, self.filled = 0, 0

    def __len__(self) -> int:
        return self.filled

    def add(self, rows: Float[np.ndarray, "n width"]) -> None:
        """Add rows of `esac.play.interaction.TransitionWriter`; of more than fit, the last ones stay."""
        rows = rows[-len(self.rows) :]
        if rows.ndim != 2 or rows.shape[1] != self.rows.shape[1] or not np.isfinite(rows).all():
            raise InputError(f"transitions of shape {rows.shape}", f"finite rows of {self.rows.shape[1]} numbers")
        places = (self.at + np.arange(len(rows))) % len(self.rows)
        self.rows[places] = rows
        self.at = int((self.at + len(rows)) % len(self.rows))
        self.filled = min(len(self.rows), self.filled + len(rows))

    def sample(
        self,
        random: np.random.Generator,
        size: int,
        device: torch.device | str = "cpu",
        inputs: Float[np.ndarray, "2 observations"] | None = None,
    ) -> Batch:
        """Draw transitions with replacement; ``inputs`` are an offset and a scale that normalise observations."""
        drawn = self.rows.take(random.integers(self.filled, size=size), axis=0)
        seen, acts = self.observations, self.actions
        if inputs is not None:
            for columns in (drawn[:, :seen], drawn[:, seen + acts + 1 : -1]):
                columns -= inputs[0]
                columns *= inputs[1]
        rows = torch.from_numpy(drawn).to(device)
        return Batch(
            rows[:, :seen], rows[:, seen : seen + acts], rows[:, seen + acts],
            rows[:, seen + acts + 1 : -1], rows[:, -1],
        )  # fmt: skip

    def state(self) -> dict[str, np.ndarray]:
        """Return the filled rows and the position of the ring."""
        return {"rows": self.rows[: self.filled], "at": np.array(self.at)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        rows, at = np.asarray(state["rows"]), int(state["at"])
        if rows.ndim != 2 or rows.shape[1] != self.rows.shape[1] or len(rows) > len(self.rows):
            raise InputError(f"a replay of shape {rows.shape}", f"at most {self.rows.shape}")
        if not (np.isfinite(rows).all() and 0 <= at < len(self.rows)):
            raise InputError(f"a replay at position {at}", f"finite rows and a position below {len(self.rows)}")
        self.filled, self.at = len(rows), at
        self.rows[: self.filled] = rows
