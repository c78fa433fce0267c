"""Attention maps of convolutional features: the statistics that DataDAM and ATOM match."""

from __future__ import annotations

from typing import Literal, get_args

from jaxtyping import Float
from sextet_common.errors import InputError
from torch import Tensor

from attention_matching.matching import reference

Backend = Literal["auto", "reference", "triton"]
_BACKENDS = get_args(Backend)
LARGEST_POWER = 32  # whose sums over any image stay in float32's range once the features are scaled to 1


def spatial_attention(
    features: Float[Tensor, "batch channels height width"], power: int = 4, backend: Backend = "auto"
) -> Float[Tensor, "batch positions"]:
    """Spatial attention map of each image, of unit length.

    ``a[h, w] = sum_c |f[c, h, w]| ** p``, then ``z = a / ||a||``.

    Parameters
    ----------
    features
        Activations, shape (batch, channels, height, width). Half precision is summed
        in float32, since a fourth power leaves float16's range.
    power
        The exponent p, a whole number from 1 to 32. The papers' table has 4, DataDAM's
        public code 1.
    backend
        As in :func:`attention_maps`.

    Returns
    -------
    Tensor
        The maps, shape (batch, height * width), float64 for float64 and else float32;
        each row has norm 1, or 0 where an image's features are all 0.

    Raises
    ------
    InputError
        Where the shape, the power or the backend is another.

    References
    ----------
    DataDAM (arXiv 2310.00093), section 3; normalised per image, as its public code does.

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

    ``a[c] = sum_hw |f[c, h, w]| ** p``, then ``z = a / ||a||``.

    Parameters
    ----------
    features
        Activations, shape (batch, channels, height, width).
    power
        The exponent p, a whole number from 1 to 32.
    backend
        As in :func:`attention_maps`.

    Returns
    -------
    Tensor
        The maps, shape (batch, channels), float64 for float64 and else float32;
        each row has norm 1, or 0 where an image's features are all 0.

    Raises
    ------
    InputError
        Where the shape, the power or the backend is another.

    References
    ----------
    ATOM (arXiv 2405.01373), section 3.

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
    """Spatial and channel attention maps, from one pass over the features.

    Parameters
    ----------
    features
        Activations, shape (batch, channels, height, width), of any scale: the maps are
        computed without overflow or underflow wherever the features themselves are finite
        and not below the smallest normal number.
    spatial_power, channel_power
        The exponents, whole numbers from 1 to 32; None leaves that map out.
    backend
        ``triton`` runs the fused kernels and needs a CUDA device; ``reference`` is plain
        torch, on any device, and can be differentiated twice; ``auto`` takes the kernels
        for float32, bfloat16 and float16 on CUDA where Triton is installed.

    Returns
    -------
    tuple
        The spatial maps, (batch, height * width), and the channel maps, (batch, channels),
        or None for what was left out.

    Raises
    ------
    InputError
        Where the shape or a power is another, both powers are None, or the backend is
        unknown or cannot run here.

    Notes
    -----
    The papers' code divides by ``max(||a||, 1e-12)``, which shrinks the maps of images
    whose raw map is shorter than that, such as features of 1e-4 under a fourth power. Here
    a map's length is 1 at any scale, and 0 for features that are all 0 (whose gradient is
    0 too): the same numbers elsewhere.

    References
    ----------
    ATOM (arXiv 2405.01373), section 3: both maps are matched.

    Examples
    --------
    >>> import torch
    >>> spatial, channel = attention_maps(torch.ones(2, 4, 3, 3))
    >>> spatial.shape, channel.shape
    (torch.Size([2, 9]), torch.Size([2, 4]))
    """
    if _checked(features, spatial_power, channel_power, backend):
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

    Parameters
    ----------
    features
        Activations, class after class, equally many images of each: shape
        (batch, channels, height, width).
    n_classes
        How many classes the images are of.
    spatial_power, channel_power, backend
        As in :func:`attention_maps`.

    Returns
    -------
    tuple
        The mean spatial maps, (n_classes, height * width), and the mean channel maps,
        (n_classes, channels), or None for what was left out.

    Raises
    ------
    InputError
        As :func:`attention_maps` and :func:`class_means` do.

    Examples
    --------
    >>> import torch
    >>> spatial, channel = attention_means(torch.ones(6, 4, 3, 3), n_classes=2, channel_power=None)
    >>> spatial.shape, channel
    (torch.Size([2, 9]), None)
    """
    kernels = _checked(features, spatial_power, channel_power, backend)
    images = _images_per_class(features, n_classes)
    if kernels:
        from attention_matching.matching import fused

        means: reference.Pair = fused.maps(features, spatial_power, channel_power, images)
        return means
    spatial, channel = reference.maps(features, spatial_power, channel_power)
    return (
        None if spatial is None else class_means(spatial, n_classes),
        None if channel is None else class_means(channel, n_classes),
    )


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
    >>> import torch
    >>> class_means(torch.tensor([[0.0], [2.0], [4.0], [8.0]]), n_classes=2)
    tensor([[1.],
            [6.]])
    """
    return maps.reshape(n_classes, _images_per_class(maps, n_classes), *maps.shape[1:]).mean(dim=1)


def checked_power(power: int) -> int:
    """Return the power, or refuse what cannot be one.

    Parameters
    ----------
    power
        The exponent.

    Returns
    -------
    int
        The same.

    Raises
    ------
    InputError
        Where it is not a whole number from 1 to 32.
    """
    if isinstance(power, bool) or not isinstance(power, int) or not 1 <= power <= LARGEST_POWER:
        raise InputError(f"power is {power!r}", f"a whole number from 1 to {LARGEST_POWER}")
    return power


def _images_per_class(rows: Tensor, n_classes: int) -> int:
    if n_classes < 1 or not len(rows) or len(rows) % n_classes:
        raise InputError(f"{len(rows)} images for {n_classes} classes", "equally many of every class")
    return len(rows) // n_classes


def _checked(features: Tensor, spatial_power: int | None, channel_power: int | None, backend: Backend) -> bool:
    """Refuse what cannot be computed, and say whether the kernels are to do it."""
    if features.ndim != 4 or not features.numel():
        raise InputError(
            f"features have shape {tuple(features.shape)}", "(batch, channels, height, width), none of them 0"
        )
    if not features.is_floating_point():
        raise InputError(f"features are {features.dtype}", "floating-point numbers")
    powers = [checked_power(power) for power in (spatial_power, channel_power) if power is not None]
    if not powers:
        raise InputError("both powers are None", "one of them or both")
    if backend not in _BACKENDS:
        raise InputError(f"backend is {backend!r}", ", ".join(_BACKENDS))
    if backend == "reference" or (backend == "auto" and not features.is_cuda):
        return False
    from attention_matching.matching import fused

    obstacle = fused.obstacle(features)
    if obstacle and backend == "triton":
        raise InputError(f"backend 'triton' cannot run: {obstacle}", "auto, or reference")
    return obstacle is None
