"""Attention maps and their distances in plain torch: the formulas that the other implementations are held against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Powers = tuple[int | None, int | None]
"""The exponents of the spatial and the channel map; None omits a map."""
Pair = tuple[Tensor | None, Tensor | None]
"""Something of the spatial and of the channel map."""


def maps(features: Tensor, powers: Powers, images_per_mean: int = 1) -> Pair:
    """Compute the maps of checked arguments, or their means over runs of ``images_per_mean`` consecutive images.

    The maps do not depend on the scale of an image's features, so features whose powers overflow or underflow are
    divided by a power of two near their largest: result and derivatives stay exact.
    """
    x = wide(features)
    spatial, channel = sums(x * shrinking(x), powers)
    return mean_of_units(spatial, images_per_mean), mean_of_units(channel, images_per_mean)


def distances(features: Tensor, powers: Powers, real: Pair, weights: tuple[float, float], n_classes: int) -> Tensor:
    """Compute each class's weighted squared distance of its mean maps from the real ones: shape (classes,)."""
    return weighted_distances(maps(features, powers, len(features) // n_classes), real, weights)


def weighted_distances(means: Pair, real: Pair, weights: tuple[float, float]) -> Tensor:
    """Sum both kinds' weighted squared distances of each class."""
    terms = [
        weight * (mean - of_real).square().sum(dim=1)
        for mean, of_real, weight in zip(means, real, weights, strict=True)
        if mean is not None and of_real is not None
    ]
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def wide(features: Tensor) -> Tensor:
    """Return float32 or float64: a fourth power exceeds float16's range, a sum bfloat16's precision."""
    return features if features.dtype == torch.float64 else features.float()


def sums(x: Tensor, powers: Powers) -> Pair:
    """Sum |x|^p over the channels, and |x|^q over the positions."""
    p, q = powers
    spatial = None if p is None else absolute_power(x, p).sum(dim=1).flatten(1)
    return spatial, None if q is None else absolute_power(x, q).sum(dim=(2, 3))


def unit(sums: Tensor) -> Tensor:
    """Divide each row by its length; a row of zeros stays zero, with gradient zero.

    A row is first divided by its largest entry, so that no square overflows. Then every non-zero row has a squared
    length of at least 1, and the bound of 1/2 applies to zero rows only.
    """
    top = sums.detach().amax(dim=1, keepdim=True)
    scaled = sums / (top + (top == 0))
    return scaled / scaled.square().sum(dim=1, keepdim=True).clamp(min=0.5).sqrt()


def mean_of_units(sums: Tensor | None, images_per_mean: int) -> Tensor | None:
    """Normalise rows, and average runs of consecutive ones."""
    if sums is None or images_per_mean == 1:
        return None if sums is None else unit(sums)
    return unit(sums).view(-1, images_per_mean, sums.shape[1]).mean(dim=1)


def absolute_power(x: Tensor, power: int, out: Tensor | None = None) -> Tensor:
    """Return |x|^p for p >= 1 by multiplications: `pow` is several times slower, forward and backward."""
    result = _power(x, power, out)
    return torch.abs(result, out=out) if power % 2 else result


def _power(x: Tensor, power: int, out: Tensor | None) -> Tensor:
    """Return x^n; for n = 1 x itself, not a copy."""
    result = x
    for bit in f"{power:b}"[1:]:  # 13 is 1101 in binary: x, x^3, x^6, x^13
        result = torch.mul(result, result, out=out)
        if bit == "1":
            result = torch.mul(result, x, out=out)
    return result


def slope(x: Tensor, power: int, out: Tensor | None = None) -> Tensor:
    """Return the derivative of |x|^p without its factor p: |x|^(p-1) sign(x), and 0 at 0."""
    if power == 1:
        return torch.sign(x, out=out)
    result = _power(x, power - 1, out)
    return torch.mul(result, torch.sign(x), out=out) if power % 2 else result


def shrinking(wide: Tensor) -> Tensor:
    """Return the power of two, shape (batch, 1, 1, 1), that brings each image's largest |x| into [1, 2)."""
    info = torch.finfo(wide.dtype)
    largest = torch.linalg.vector_norm(wide.detach(), math.inf, dim=(1, 2, 3), keepdim=True)
    return torch.exp2(-largest.clamp(info.tiny, info.max / 4).log2().floor())
