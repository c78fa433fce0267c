"""Attention maps of convolutional features: the statistics that DataDAM and ATOM match."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from jaxtyping import Float
from sextet_common.checks import Bounds
from sextet_common.errors import InputError
from torch import Tensor

from attention_matching.matching import reference

Backend = Literal["auto", "reference", "triton"]
_BACKENDS = get_args(Backend)
MAX_POWER = 32  # its sums over any image stay in float32's range once the features are scaled to 1
Power = Annotated[int, Bounds(1, MAX_POWER)]


def spatial_attention(
    features: Float[Tensor, "batch channels height width"], power: int = 4, backend: Backend = "auto"
) -> Float[Tensor, "batch positions"]:
    """Spatial attention map of each image, of unit length.

    ``a[h, w] = sum_c |f[c, h, w]| ** p``, then ``z = a / ||a||``, or 0 where all features of an image are 0 (DataDAM,
    arXiv 2310.00093, section 3; normalised per image, as its public code does). The power p is from 1 to 32: 4 in the
    papers' table, 1 in DataDAM's public code. Half precision is summed in float32, because a fourth power exceeds
    float16's range. See :func:`attention_maps` for ``backend``.

    Examples
    --------
    >>> import torch
    >>> spatial_attention(torch.tensor([[[[3.0, 4.0]]]]), power=1)
    tensor([[0.6000, 0.8000]])
    """
    spatial, _ = attention_maps(features, power, None, backend)
    assert spatial is not None
    return spatial


def channel_attention(
    features: Float[Tensor, "batch channels height width"], power: int = 4, backend: Backend = "auto"
) -> Float[Tensor, "batch channels"]:
    """Channel attention map of each image, of unit length.

    ``a[c] = sum_hw |f[c, h, w]| ** p``, then ``z = a / ||a||`` (ATOM, arXiv 2405.01373, section 3). Parameters and
    types are those of :func:`spatial_attention`.

    Examples
    --------
    >>> import torch
    >>> channel_attention(torch.tensor([[[[1.0, -2.0]], [[4.0, 0.0]]]]), power=1)
    tensor([[0.6000, 0.8000]])
    """
    _, channel = attention_maps(features, None, power, backend)
    assert channel is not None
    return channel


def attention_maps(
    features: Float[Tensor, "batch channels height width"],
    spatial_power: int | None = 4,
    channel_power: int | None = 4,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "batch positions"] | None, Float[Tensor, "batch channels"] | None]:
    """Spatial and channel attention maps, both of which ATOM matches, from one pass over the features.

    The maps are float64 for float64 and else float32. They neither overflow nor underflow where the features are finite
    and not below the smallest normal number.

    Parameters
    ----------
    spatial_power, channel_power
        The exponents, from 1 to 32; None omits that map.
    backend
        ``triton`` runs the fused kernels and needs a CUDA device; ``reference`` is plain torch, on any device, and
        twice differentiable; ``auto`` uses the kernels for float32, bfloat16 and float16 on CUDA where Triton is
        installed.

    Notes
    -----
    The papers' code divides by ``max(||a||, 1e-12)``, which shrinks the maps of images whose raw map is shorter than
    that, such as features of 1e-4 under a fourth power. Here a map has length 1 at any scale, and length 0 (with
    gradient 0) for features that are all 0. All other results are the same.

    Examples
    --------
    >>> import torch
    >>> spatial, channel = attention_maps(torch.ones(2, 4, 3, 3))
    >>> spatial.shape, channel.shape
    (torch.Size([2, 9]), torch.Size([2, 4]))
    """
    if _uses_kernels(features, spatial_power, channel_power, backend):
        from attention_matching.matching import fused

        maps: reference.Pair = fused.maps(features, spatial_power, channel_power)
        return maps
    return reference.maps(features, spatial_power, channel_power)


def attention_means(
    features: Float[Tensor, "batch channels height width"],
    n_classes: int,
    spatial_power: int | None = 4,
    channel_power: int | None = 4,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "classes positions"] | None, Float[Tensor, "classes channels"] | None]:
    """Mean attention maps of each class: :func:`class_means` of :func:`attention_maps`.

    The features lie class after class, with equally many images of each. The fused kernels add up the maps where they
    compute them, so the maps themselves are never stored.

    Examples
    --------
    >>> import torch
    >>> spatial, channel = attention_means(torch.ones(6, 4, 3, 3), n_classes=2, channel_power=None)
    >>> spatial.shape, channel
    (torch.Size([2, 9]), None)
    """
    kernels = _uses_kernels(features, spatial_power, channel_power, backend)
    per_class = _images_per_class(features, n_classes)
    if kernels:
        from attention_matching.matching import fused

        means: reference.Pair = fused.maps(features, spatial_power, channel_power, per_class)
        return means
    spatial, channel = reference.maps(features, spatial_power, channel_power)
    return (
        None if spatial is None else class_means(spatial, n_classes),
        None if channel is None else class_means(channel, n_classes),
    )


def class_means(maps: Float[Tensor, "batch size"], n_classes: int) -> Float[Tensor, "classes size"]:
    """Mean of each class's rows, which lie class after class, equally many of each.

    Examples
    --------
    >>> import torch
    >>> class_means(torch.tensor([[0.0], [2.0], [4.0], [8.0]]), n_classes=2)
    tensor([[1.],
            [6.]])
    """
    return maps.reshape(n_classes, _images_per_class(maps, n_classes), *maps.shape[1:]).mean(dim=1)


# The checks below run in every step, also inside torch.compile, which cannot trace those of sextet_common.checks.


def _images_per_class(rows: Tensor, n_classes: int) -> int:
    if n_classes < 1 or not len(rows) or len(rows) % n_classes:
        raise InputError(f"images must be equally many of each of n_classes = {n_classes}, got {len(rows)}")
    return len(rows) // n_classes


def _uses_kernels(features: Tensor, spatial_power: int | None, channel_power: int | None, backend: Backend) -> bool:
    """Check the arguments and return whether the fused kernels compute the maps."""
    if features.ndim != 4 or not features.numel():
        shape = tuple(features.shape)
        raise InputError(f"features must be non-empty, of shape (batch, channels, height, width), got shape {shape}")
    if not features.is_floating_point():
        raise InputError(f"features must be floating-point numbers, got {features.dtype}")
    for name, power in (("spatial_power", spatial_power), ("channel_power", channel_power)):
        whole = isinstance(power, int) and not isinstance(power, bool)
        if power is not None and not (whole and 1 <= power <= MAX_POWER):
            raise InputError(f"{name} must be a whole number in [1, {MAX_POWER}], got {power!r}")
    if spatial_power is None and channel_power is None:
        raise InputError("spatial_power or channel_power must be a whole number, got None for both")
    if backend not in _BACKENDS:
        raise InputError(f"backend must be {', '.join(_BACKENDS)}, got {backend!r}")
    if backend == "reference" or (backend == "auto" and not features.is_cuda):
        return False
    from attention_matching.matching import fused  # torch.compiler.disable imports much at import time

    obstacle = fused.obstacle(features)
    if obstacle and backend == "triton":
        raise InputError(f"backend 'triton' cannot run: {obstacle}", "auto, or reference")
    return obstacle is None
