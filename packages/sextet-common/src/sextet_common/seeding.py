"""Random numbers of an experiment, derived from one seed.

Every random decision has a key: ``generator(seed, "augment", step, label)`` gives the same stream wherever and in
whatever order it is created. Results therefore do not depend on the number of workers, and a resumed job needs its
step but no saved generator state.
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

    Parameters
    ----------
    seed
        The experiment's seed, at least 0.
    keys
        Names and numbers that identify the purpose.

    Examples
    --------
    >>> derive(0, "network", 3) == derive(0, "network", 3), derive(0, "network", 3) == derive(0, "network", 4)
    (True, False)
    """
    checks.check("seed", seed, checks.Natural)
    # repr distinguishes 1 from "1" and never contains the separator.
    text = "\0".join([repr(int(seed)), *(repr(k) if isinstance(k, str) else repr(int(k)) for k in keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *keys: Key) -> np.random.Generator:
    """Return a new NumPy generator (PCG64) seeded by :func:`derive`.

    Examples
    --------
    >>> float(generator(0, "batch", 5).random()) == float(generator(0, "batch", 5).random())
    True
    """
    return np.random.default_rng(derive(seed, *keys))


def torch_generator(seed: int, *keys: Key, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a new torch generator seeded by :func:`derive`. CPU and GPU draw different numbers."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *keys))


@contextmanager
def torch_seed(seed: int, *keys: Key) -> Iterator[None]:
    """Seed torch's global CPU generator by :func:`derive` inside a block, then restore it.

    Use it for code that only draws from the global generator, such as the initialisation of layers. Build modules on
    the CPU and move them afterwards, so that they have the same weights on any device.

    Examples
    --------
    >>> import torch
    >>> with torch_seed(0, "network", 1):
    ...     a = torch.nn.Linear(2, 2)
    >>> with torch_seed(0, "network", 1):
    ...     b = torch.nn.Linear(2, 2)
    >>> bool((a.weight == b.weight).all())
    True
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *keys))
        yield
