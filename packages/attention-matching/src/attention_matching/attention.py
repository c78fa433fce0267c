"""Attention maps of convolutional features: the statistics that DataDAM matches."""

from __future__ import annotations

import torch
from jaxtyping import Float
from sextet_common.errors import InputError
from torch import Tensor

EPSILON = 1e-12  # the smallest norm divided by: a map of zeros stays zeros


def spatial_attention(
    features: Float[Tensor, "batch channels height width"], power: int = 4
) -> Float[Tensor, "batch positions"]:
    """Spatial attention map of each image, of unit length.

    ``a[h, w] = sum_c |f[c, h, w]| ** p``, then ``z = a / max(||a||, 1e-12)``.

    Parameters
    ----------
    features
        Activations, shape (batch, channels, height, width). Half precision is summed
        in float32, since a fourth power leaves float16's range.
    power
        The exponent p, at least 1. The papers' table has 4, DataDAM's public code 1.

    Returns
    -------
    Tensor
        The maps, shape (batch, height * width); each row has norm 1, or 0 for dead features.

    Raises
    ------
    InputError
        Where the shape or the power is another.

    References
    ----------
    DataDAM (arXiv 2310.00093), section 3; normalised per image, as its public code does.

    Examples
    --------
    >>> spatial_attention(torch.tensor([[[[3.0, 4.0]]]]), power=1)
    tensor([[0.6000, 0.8000]])
    """
    if features.ndim != 4:
        raise InputError(f"features have shape {tuple(features.shape)}", "(batch, channels, height, width)")
    if power < 1:
        raise InputError(f"power is {power}", "a whole number >= 1")
    wide = features if features.dtype == torch.float64 else features.float()
    return torch.nn.functional.normalize(_absolute_power(wide, power).sum(dim=1).flatten(1), dim=1, eps=EPSILON)


def class_means(maps: Float[Tensor, "batch size"], n_classes: int) -> Float[Tensor, "classes size"]:
    """Mean of each class's maps.

    Parameters
    ----------
    maps
        One row per image, class after class, equally many of each: shape (batch, size).
    n_classes
        How many classes the rows hold.

    Returns
    -------
    Tensor
        Shape (n_classes, size).

    Raises
    ------
    InputError
        Where the rows cannot be shared out equally.

    Examples
    --------
    >>> class_means(torch.tensor([[0.0], [2.0], [4.0], [8.0]]), n_classes=2)
    tensor([[1.],
            [6.]])
    """
    if n_classes < 1 or len(maps) % n_classes:
        raise InputError(f"{len(maps)} maps for {n_classes} classes", "equally many maps of every class")
    return maps.reshape(n_classes, -1, *maps.shape[1:]).mean(dim=1)


def _absolute_power(x: Tensor, power: int) -> Tensor:
    """|x|^p by multiplications: `pow` is several times slower, forward and backward."""
    if power % 2:
        return x.abs() if power == 1 else x.abs() * _absolute_power(x, power - 1)
    squared = x * x
    return squared if power == 2 else _absolute_power(squared, power // 2)
