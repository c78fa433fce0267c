"""Normalisation, activation and pooling layers of the networks, by name."""

from __future__ import annotations

import torch
from jaxtyping import Float
from sextet_common.checks import Count, check
from sextet_common.errors import InputError
from torch import Tensor, nn

from attention_matching.kinds import Activation, Norm, Pooling

_GROUPS = 4  # of the group norm, as in the condensation papers' code
# On a CPU a matrix product averages faster than torch's pooling for rows up to this wide and at least this many values.
_MAX_WIDTH, _MIN_VALUES = 64, 2**16


class AveragePool(nn.AvgPool2d):
    """2x2 average pooling that uses one matrix product on a CPU, where this is several times faster.

    Two adjacent rows of pixels, side by side in memory, times a matrix of quarters give one row of averages. The
    backward pass is a matrix product too.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels half_height half_width"]:
        """Average every 2x2 block of pixels; an odd last row or column is dropped."""
        *_, height, width = images.shape
        fits = not (height % 2 or width % 2) and width <= _MAX_WIDTH and images.numel() >= _MIN_VALUES
        if images.device.type != "cpu" or not fits or not images.is_contiguous():
            return super().forward(images)
        quarters = torch.eye(width // 2, dtype=images.dtype).repeat_interleave(2, dim=0).repeat(2, 1) / 4
        return images.reshape(*images.shape[:2], height // 2, 2 * width) @ quarters


def normalisation(norm: Norm, width: int) -> nn.Module:
    """Return the layer that normalises ``width`` channels, with a scale and a shift per channel."""
    check("norm", norm, Norm)
    check("width", width, Count)
    if norm == "group" and width % _GROUPS:
        raise InputError(f"width must be a multiple of {_GROUPS} with norm 'group', got {width}")
    groups = {"instance": width, "group": _GROUPS, "layer": 1}
    if norm in groups:
        return nn.GroupNorm(groups[norm], width)
    return nn.BatchNorm2d(width) if norm == "batch" else nn.Identity()


def activation_of(name: Activation) -> nn.Module:
    """Return the activation layer."""
    check("activation", name, Activation)
    return nn.ReLU() if name == "relu" else nn.Sigmoid() if name == "sigmoid" else nn.LeakyReLU()


def pooling_of(name: Pooling) -> nn.Module:
    """Return the layer that halves height and width; the identity for ``none``."""
    check("pooling", name, Pooling)
    return AveragePool() if name == "avg" else nn.MaxPool2d(2) if name == "max" else nn.Identity()
