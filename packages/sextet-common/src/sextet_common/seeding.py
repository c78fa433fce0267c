"""Random numbers of an experiment, derived from one seed.

Every random decision has a key: ``generator(seed, "augment", step, label)`` gives the same stream wherever and in
whatever order it is created, so results depend neither on the number of workers nor on interruptions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from sextet_common import checks

if TYPE_CHECKING:
    import torch

Key = int | str


def derive(seed: int, *keys: Key) -> int:
    """Derive the seed of one purpose: the first 63 bits of the SHA-256 of seed and keys, equal on all machines.

    Examples
    --------
    >>> derive(0, "network", 3) == derive(0, "network", 3), derive(0, "network", 3) == derive(0, "network", 4)
    (True, False)
    """
    checks.check("seed", seed, checks.Natural)
    # repr distinguishes 1 from "1" and never contains the separator; int, as keys may be NumPy's.
    text = "\0".join(repr(key if isinstance(key, str) else int(key)) for key in (seed, *keys))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *keys: Key) -> np.random.Generator:
    """Return a new NumPy generator (PCG64) seeded by :func:`derive`."""
    return np.random.default_rng(derive(seed, *keys))


def torch_generator(seed: int, *keys: Key, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a new torch generator seeded by :func:`derive`. CPU and GPU draw different numbers."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *keys))


@contextmanager
def torch_seed(seed: int, *keys: Key) -> Iterator[None]:
    """Seed torch's global CPU generator by :func:`derive` inside a block, then restore it.

    It is for the initialisation of layers. Build them on the CPU and move them afterwards: equal weights on any device.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *keys))
        yield
