"""The transitions seen, in a ring of packed float32 rows: one row, one transition, one `take` for a batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sextet_common.errors import InputError
from torch import Tensor


class Batch(NamedTuple):
    """A batch of transitions, float32; `mask` is 0 where an episode terminated, and 1 where it was cut off."""

    observations: Float[Tensor, "batch observations"]
    actions: Float[Tensor, "batch actions"]
    rewards: Float[Tensor, " batch"]
    following: Float[Tensor, "batch observations"]
    mask: Float[Tensor, " batch"]


class Replay:
    """A ring of transitions.

    Parameters
    ----------
    capacity
        Rows.
    observations, actions
        How many numbers an observation and an action have.

    Examples
    --------
    >>> replay = Replay(10, 3, 1)
    >>> replay.add(np.zeros((4, 9), dtype=np.float32))
    >>> len(replay), replay.sample(np.random.default_rng(0), 2).observations.shape
    (4, torch.Size([2, 3]))
    """

    def __init__(self, capacity: int, observations: int, actions: int) -> None:
        if capacity < 1:
            raise InputError(f"the replay's capacity is {capacity}", "a whole number >= 1")
        self.observations, self.actions = observations, actions
        width = 2 * observations + actions + 2
        try:
            self.rows = np.zeros((capacity, width), dtype=np.float32)
        except (MemoryError, ValueError) as error:
            told = f"the replay's capacity is {capacity}, of {4 * width} bytes each"
            raise InputError(told, "as many as memory can hold") from error
        self.at, self.filled = 0, 0

    def __len__(self) -> int:
        return self.filled

    def add(self, rows: Float[np.ndarray, "n width"]) -> None:
        """Add transitions, packed as `rollout.packed` does; of more than fit the last ones stay."""
        rows = rows[-len(self.rows) :]
        if rows.ndim != 2 or rows.shape[1] != self.rows.shape[1] or not np.isfinite(rows).all():
            raise InputError(f"transitions of shape {rows.shape}", f"finite rows of {self.rows.shape[1]} numbers")
        places = (self.at + np.arange(len(rows))) % len(self.rows)
        self.rows[places] = rows
        self.at = int((self.at + len(rows)) % len(self.rows))
        self.filled = min(len(self.rows), self.filled + len(rows))

    def sample(self, random: np.random.Generator, size: int, where: torch.device | str = "cpu") -> Batch:
        """Draw transitions with replacement."""
        chosen = torch.from_numpy(self.rows.take(random.integers(self.filled, size=size), axis=0)).to(where)
        seen, acts = self.observations, self.actions
        return Batch(
            chosen[:, :seen], chosen[:, seen : seen + acts], chosen[:, seen + acts],
            chosen[:, seen + acts + 1 : -1], chosen[:, -1],
        )  # fmt: skip

    def state(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint holds: the rows that are filled, and where the ring stands."""
        return {"rows": self.rows[: self.filled], "at": np.array(self.at)}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take such a state.

        Raises
        ------
        InputError
            Where it does not fit.
        """
        rows = np.asarray(state["rows"])
        if rows.ndim != 2 or rows.shape[1] != self.rows.shape[1] or len(rows) > len(self.rows):
            raise InputError(f"a replay of shape {rows.shape}", f"at most {self.rows.shape}")
        if not (np.isfinite(rows).all() and 0 <= int(state["at"]) < len(self.rows)):
            raise InputError(f"a replay that stands at {state['at']}", f"finite rows, and a place in {len(self.rows)}")
        self.filled, self.at = len(rows), int(state["at"])
        self.rows[: self.filled] = rows
