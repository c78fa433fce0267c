"""Random numbers as a function of their key, computed where they are used.

The state of a generator would have to be kept, moved and shared; here a number is a hash of its key: (seed, purpose,
step, class, position). So the draws of a step are made for all classes in a few launches on any device, without
transfers between host and device, are the same on a CPU and a GPU, and do not depend on which process draws them or
on earlier draws.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"), on 64-bit integers with wrap-around.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from sextet_common import seeding
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_MAX = torch.iinfo(torch.int64).max


def key(seed: int, purpose: str, device: torch.device | str = "cpu") -> Int[Tensor, ""]:
    """Return the key of one purpose, an int64 scalar; :func:`fold` derives those of steps and classes from it."""
    return torch.tensor(seeding.derive(seed, purpose), device=device)


def fold(keys: Int[Tensor, " *any"], number: Int[Tensor, " *any"] | int) -> Int[Tensor, " *any"]:
    """Derive the keys of parts, such as steps or classes; int64 ``number`` broadcasts with ``keys``."""
    return _mixed(keys + _mixed(torch.as_tensor(number, device=keys.device) * _GOLDEN + _FIRST))


def bits(keys: Int[Tensor, " *any"], count: int) -> Int[Tensor, "*any count"]:
    """Draw ``count`` whole numbers from 0 to 2^63 - 1 for each key."""
    places = torch.arange(1, count + 1, device=keys.device) * _GOLDEN
    return _mixed(keys[..., None] + places) & _MAX


def uniform(keys: Int[Tensor, " *any"], count: int) -> Float[Tensor, "*any count"]:
    """Draw ``count`` uniform float32 numbers in [0, 1) for each key, multiples of 2^-24.

    Examples
    --------
    >>> steps = fold(key(0, "augmentation"), torch.arange(3))
    >>> uniform(steps, 2).shape
    torch.Size([3, 2])
    >>> bool((uniform(steps, 2)[1] == uniform(fold(key(0, "augmentation"), 1), 2)).all())
    True
    """
    return (bits(keys, count) >> 39).float() * 2.0**-24


def choose(
    keys: Int[Tensor, " classes"], sizes: Int[Tensor, " classes"], largest: int, count: int
) -> Int[Tensor, "classes count"]:
    """Choose members of every class: without replacement from classes of at least ``count``, with it from smaller ones.

    ``keys`` holds one int64 key per class, ``sizes`` the numbers of members, at least 1, and ``largest`` is their
    maximum, known to the host. Row k of the result holds int64 numbers from 0 to ``sizes[k] - 1``.

    Examples
    --------
    >>> keys = fold(key(0, "batch"), torch.arange(2))
    >>> chosen = choose(keys, torch.tensor([4, 2]), largest=4, count=4)
    >>> chosen[0].sort().values.tolist(), bool((chosen[1] < 2).all())
    ([0, 1, 2, 3], True)
    """
    # One random number per member: the places of the smallest are a uniform choice.
    drawn = bits(keys, max(largest, count))
    places = torch.arange(drawn.shape[1], device=keys.device)
    distinct = drawn.masked_fill(places >= sizes[:, None], _MAX).topk(count, dim=1, largest=False).indices
    repeated = drawn[:, :count] % sizes[:, None]
    return torch.where((sizes >= count)[:, None], distinct, repeated)


def _mixed(z: Tensor) -> Tensor:
    """SplitMix64's finaliser; a right shift of int64 extends the sign, so its bits are masked off."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _FIRST
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _SECOND
    return z ^ ((z >> 31) & ((1 << 33) - 1))
