"""The layers that the papers' networks are made of, by name."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from sextet_common.errors import InputError
from torch import Tensor, nn

Norm = Literal["instance", "batch", "group", "layer", "none"]
Activation = Literal["relu", "sigmoid", "leaky_relu"]
Pooling = Literal["avg", "max", "none"]

_GROUPS = 4  # of the group norm, as in the condensation papers' code
# Where a matrix product averages faster than torch's pooling on a CPU: rows up to this wide, and as many numbers.
_WIDEST, _FEWEST = 64, 2**16


class AveragePool(nn.AvgPool2d):
    """Average 2x2 pixels: torch's own, but for a CPU, where one matrix product is several times faster.

    Two rows of pixels in memory, side by side, times a matrix of quarters are one row of
    averages; so is its backward pass.

    Examples
    --------
    >>> AveragePool()(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    tensor([[[[2.5000]]]])
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels half_height half_width"]:
        """Average.

        Parameters
        ----------
        images
            Shape (batch, channels, height, width).

        Returns
        -------
        Tensor
            Shape (batch, channels, height // 2, width // 2).
        """
        *_, height, width = images.shape
        fits = not (height % 2 or width % 2) and width <= _WIDEST and images.numel() >= _FEWEST
        if images.device.type != "cpu" or not fits or not images.is_contiguous():
            return super().forward(images)
        quarters = torch.eye(width // 2, dtype=images.dtype).repeat_interleave(2, dim=0).repeat(2, 1) / 4
        return images.reshape(*images.shape[:2], height // 2, 2 * width) @ quarters


def normalisation(norm: Norm, width: int) -> nn.Module:
    """Make the layer that normalises a block's channels.

    Parameters
    ----------
    norm
        See :class:`ConvNet`.
    width
        How many channels.

    Returns
    -------
    torch.nn.Module
        The layer, with a scale and a shift per channel, as the papers' networks have; the
        identity for ``none``.

    Raises
    ------
    InputError
        Where the norm is unknown, or the width is not positive or no multiple of 4 groups.

    Examples
    --------
    >>> layer = normalisation("group", 8)
    >>> layer.num_groups, layer.affine
    (4, True)
    """
    if width < 1 or (norm == "group" and width % _GROUPS):
        raise InputError(f"width is {width} with norm {norm!r}", f"1 or more, and multiples of {_GROUPS} with 'group'")
    groups = {"instance": width, "group": _GROUPS, "layer": 1}
    if norm in groups:
        return nn.GroupNorm(groups[norm], width)
    if norm == "batch":
        return nn.BatchNorm2d(width)
    if norm == "none":
        return nn.Identity()
    raise InputError(f"norm is {norm!r}", " or ".join(get_args(Norm)))


def activation_of(name: Activation) -> nn.Module:
    """Make the layer that follows a block's normalisation.

    Parameters
    ----------
    name
        ``relu``, ``sigmoid`` or ``leaky_relu``.

    Returns
    -------
    torch.nn.Module
        The layer.

    Raises
    ------
    InputError
        Where the name is unknown.
    """
    if name not in get_args(Activation):
        raise InputError(f"activation is {name!r}", " or ".join(get_args(Activation)))
    if name == "relu":
        return nn.ReLU()
    return nn.Sigmoid() if name == "sigmoid" else nn.LeakyReLU()


def pooling_of(name: Pooling) -> nn.Module:
    """Make the layer that halves an image's sides.

    Parameters
    ----------
    name
        ``avg``, ``max`` or ``none``.

    Returns
    -------
    torch.nn.Module
        The layer; the identity for ``none``.

    Raises
    ------
    InputError
        Where the name is unknown.
    """
    if name not in get_args(Pooling):
        raise InputError(f"pooling is {name!r}", " or ".join(get_args(Pooling)))
    return AveragePool() if name == "avg" else nn.MaxPool2d(2) if name == "max" else nn.Identity()
