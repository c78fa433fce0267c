"""Attention maps of convolutional features: the statistics that DataDAM and ATOM match."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import torch
from jaxtyping import Float
from sextet_common.errors import InputError
from torch import Tensor

from attention_matching.kinds import MAX_POWER
from attention_matching.matching import blockwise, reference
from attention_matching.matching.reference import Pair, Powers

Backend = Literal["auto", "reference", "triton"]
_BACKENDS = get_args(Backend)


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
    powers = (spatial_power, channel_power)
    return _implementation(features, powers, backend).maps(features, powers)


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
    powers = (spatial_power, channel_power)
    implementation = _implementation(features, powers, backend)
    return implementation.maps(features, powers, _images_per_class(features, n_classes))


def attention_distances(
    features: Float[Tensor, "batch channels height width"],
    real: Pair,
    n_classes: int,
    spatial_power: int | None = 4,
    channel_power: int | None = 4,
    weights: tuple[float, float] = (1.0, 1.0),
    backend: Backend = "auto",
) -> Float[Tensor, " classes"]:
    """Squared distances of each class's :func:`attention_means` from given ones, summed over kinds with weights.

    The means ``real``, spatial and channel, are constants. The normalised maps are not stored, and the gradient with
    respect to the sums of powers is computed with the distance, so that one read and one write of the features remain.

    Examples
    --------
    >>> import torch
    >>> features = torch.rand(6, 4, 3, 3)
    >>> distances = attention_distances(features, attention_means(features, 2), 2)
    >>> distances.shape, bool((distances < 1e-6).all())
    (torch.Size([2]), True)
    """
    powers = (spatial_power, channel_power)
    implementation = _implementation(features, powers, backend)
    _images_per_class(features, n_classes)
    sizes = (features.shape[2] * features.shape[3], features.shape[1])
    for kind, power, mean, size in zip(("spatial", "channel"), powers, real, sizes, strict=True):
        shape = None if mean is None else tuple(mean.shape)
        expected = None if power is None else (n_classes, size)
        if shape != expected:
            raise InputError(f"real must hold {kind} means of shape {expected}, got {shape}")
    return implementation.distances(features, powers, real, weights, n_classes)


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


class _Implementation(Protocol):
    """A module that computes maps of checked arguments."""

    def maps(self, features: Tensor, powers: Powers, images_per_mean: int = 1) -> Pair: ...

    def distances(
        self, features: Tensor, powers: Powers, real: Pair, weights: tuple[float, float], n_classes: int
    ) -> Tensor: ...


def _implementation(features: Tensor, powers: Powers, backend: Backend) -> _Implementation:
    """Check the arguments and return the module that computes."""
    if features.ndim != 4 or not features.numel():
        shape = tuple(features.shape)
        raise InputError(f"features must be non-empty, of shape (batch, channels, height, width), got shape {shape}")
    if not features.is_floating_point():
        raise InputError(f"features must be floating-point numbers, got {features.dtype}")
    for name, power in zip(("spatial_power", "channel_power"), powers, strict=True):
        whole = isinstance(power, int) and not isinstance(power, bool)
        if power is not None and not (whole and 1 <= power <= MAX_POWER):
            raise InputError(f"{name} must be a whole number in [1, {MAX_POWER}], got {power!r}")
    if powers == (None, None):
        raise InputError("spatial_power or channel_power must be a whole number, got None for both")
    if backend not in _BACKENDS:
        raise InputError(f"backend must be {', '.join(_BACKENDS)}, got {backend!r}")
    if backend == "reference" or (backend == "auto" and not features.is_cuda):
        # Checking the sums first would wait for a device, or break a compiled graph.
        return blockwise if features.device.type == "cpu" and not torch.compiler.is_compiling() else reference
    from attention_matching.matching import fused  # torch.compiler.disable imports much at import time

    obstacle = fused.obstacle(features)
    if obstacle and backend == "triton":
        raise InputError(f"backend 'triton' cannot run: {obstacle}", "auto, or reference")
    return fused if obstacle is None else reference
