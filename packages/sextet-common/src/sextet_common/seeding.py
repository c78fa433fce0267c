"""One seed to all random numbers of an experiment.

Each random decision is keyed: ``generator(seed, "augment", step, label)`` gives the
same stream wherever and in whatever order it is asked for. Nothing depends on what
was drawn before, so results are the same for any number of workers, and a resumed
job needs its step and no saved generator state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from sextet_common.errors import InputError

if TYPE_CHECKING:
    import torch

Key = int | str


def derive(seed: int, *keys: Key) -> int:
    """Derive a seed for one purpose.

    Parameters
    ----------
    seed
        The experiment's seed, at least 0.
    keys
        Names and numbers that say what the seed is for.

    Returns
    -------
    int
        An integer in [0, 2**63), equal on all machines: the first 63 bits of the
        SHA-256 hash of seed and keys.

    Raises
    ------
    InputError
        Where the seed is negative or not a whole number.

    Examples
    --------
    >>> derive(0, "network", 3) == derive(0, "network", 3)
    True
    >>> derive(0, "network", 3) == derive(0, "network", 4)
    False
    """
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed is {seed!r}", "a whole number >= 0")
    # repr keeps 1 and "1" apart, and the separator cannot occur in a repr of either.
    text = "\0".join([repr(int(seed)), *(repr(k) if isinstance(k, str) else repr(int(k)) for k in keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *keys: Key) -> np.random.Generator:
    """Make the NumPy generator of one purpose.

    Parameters
    ----------
    seed
        The experiment's seed, at least 0.
    keys
        Names and numbers that say what the generator is for.

    Returns
    -------
    numpy.random.Generator
        A fresh PCG64 stream.

    Examples
    --------
    >>> float(generator(0, "batch", 5).random()) == float(generator(0, "batch", 5).random())
    True
    """
    return np.random.default_rng(derive(seed, *keys))


def torch_generator(seed: int, *keys: Key, device: str | torch.device = "cpu") -> torch.Generator:
    """Make the torch generator of one purpose.

    Parameters
    ----------
    seed
        The experiment's seed, at least 0.
    keys
        Names and numbers that say what the generator is for.
    device
        Where the numbers are drawn. CPU and GPU draw different numbers.

    Returns
    -------
    torch.Generator
        A freshly seeded generator.

    Examples
    --------
    >>> import torch
    >>> a, b = (torch.rand(2, generator=torch_generator(1, "noise")) for _ in range(2))
    >>> bool((a == b).all())
    True
    """
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *keys))


@contextmanager
def torch_seed(seed: int, *keys: Key) -> Iterator[None]:
    """Seed torch's global CPU generator inside a block and restore it after.

    For code that draws from the global generator alone, such as the initialisation
    of layers. Build on the CPU and move afterwards: the same weights on any device.

    Parameters
    ----------
    seed
        The experiment's seed, at least 0.
    keys
        Names and numbers that say what the block is for.

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
