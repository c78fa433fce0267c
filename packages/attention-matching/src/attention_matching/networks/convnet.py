"""Networks of convolutional blocks, and the ConvNet of the distillation papers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from sextet_common.errors import InputError
from torch import Tensor, nn

from attention_matching.kinds import Activation, Norm, Pooling
from attention_matching.networks.base import FeatureNetwork, Features
from attention_matching.networks.layers import activation_of, normalisation, pooling_of


class Block(NamedTuple):
    """One convolutional block: output channels, side of the (odd) kernel, and whether 2x2 pooling follows."""

    width: int
    kernel: int = 3
    pool: bool = True


class BlockNetwork(FeatureNetwork):
    """Blocks of a convolution, a normalisation, an activation and pooling, then a linear layer.

    Convolutions keep the image's size, except that the first one pads 28x28 images to 32x32, as in the condensation
    papers' code for MNIST. A pooling between two blocks that would leave a single pixel is left out, because an
    instance norm turns a single pixel into a constant (not specified in the papers, whose images are larger). Weights
    start from torch's default initialisation. Parameters are those of :class:`ConvNet`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        blocks: Sequence[Block],
        *,
        norm: Norm,
        activation: Activation = "relu",
        pooling: Pooling = "avg",
    ) -> None:
        super().__init__()
        channels, *image_sides = image_shape
        sides = _padded(image_sides)
        self.blocks, self.pools = nn.ModuleList(), nn.ModuleList()
        for number, block in enumerate(blocks):
            padding = block.kernel // 2 + (0 if number else (sides[0] - image_sides[0]) // 2)
            normalise = normalisation(norm, block.width)  # before the convolution: it checks the width
            convolve = nn.Conv2d(channels, block.width, block.kernel, padding=padding)
            self.blocks.append(nn.Sequential(convolve, normalise, activation_of(activation)))
            pools = block.pool and pooling != "none" and _may_pool(sides, last=number + 1 == len(blocks))
            self.pools.append(pooling_of(pooling) if pools else nn.Identity())
            sides = [side // 2 for side in sides] if pools else sides
            channels = block.width
        self.classifier = nn.Linear(channels * sides[0] * sides[1], n_classes)

    def features(self, images: Float[Tensor, "batch channels height width"]) -> Features:
        """Compute the maps of all blocks and the embedding."""
        maps = []
        x = images
        for block, pool in zip(self.blocks, self.pools, strict=True):
            activation = block(x)
            maps.append(activation)
            x = pool(activation)
        return Features(tuple(maps), x.flatten(1))


class ConvNet(BlockNetwork):
    """The convolutional network of the distillation papers (arXiv 2006.05929).

    Each of ``depth`` blocks is a 3x3 convolution of ``width`` channels, a normalisation, a ReLU and 2x2 average
    pooling; a linear layer follows. The other activations and poolings span the papers' search space of 720 networks.
    ``image_shape`` is (channels, height, width); ``depth`` is by default :func:`default_depth` of the smaller side.

    Parameters
    ----------
    norm
        ``instance`` (each channel of each image separately; the papers'), ``batch``, ``group`` (4 groups), ``layer``
        (each image separately; one scale and shift per channel) or ``none``.
    activation
        ``leaky_relu`` has slope 0.01.

    Examples
    --------
    >>> import torch
    >>> network = ConvNet((3, 32, 32), 10)
    >>> [tuple(m.shape) for m in network.features(torch.zeros(1, 3, 32, 32)).maps]
    [(1, 128, 32, 32), (1, 128, 16, 16), (1, 128, 8, 8)]
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        *,
        width: int = 128,
        depth: int | None = None,
        norm: Norm = "instance",
        activation: Activation = "relu",
        pooling: Pooling = "avg",
    ) -> None:
        sides = list(image_shape[1:])
        depth = default_depth(min(sides)) if depth is None else depth
        if depth < 1 or (pooling != "none" and min(_padded(sides)) >> depth < 1):
            size = f"{sides[0]}x{sides[1]}"
            raise InputError(f"depth must be >= 1 and leave at least one pixel of {size} images, got {depth}")
        super().__init__(
            image_shape, n_classes, [Block(width)] * depth, norm=norm, activation=activation, pooling=pooling
        )


def default_depth(side: int) -> int:
    """Return the number of blocks for the smaller image side in pixels, which leaves about 4x4 positions.

    The papers use 3 at 32, 4 at 64 and 5 at 128. Sides below 28 are not specified in the papers; we use 2.

    Examples
    --------
    >>> [default_depth(side) for side in (8, 28, 32, 64, 128)]
    [2, 3, 3, 4, 5]
    """
    return max(1 if side < 4 else 2, round(math.log2(side)) - 2)


def default_width(side: int) -> int:
    """Return the number of channels: the papers' 128; for image sides below 28, not in the papers, 64.

    Examples
    --------
    >>> default_width(8), default_width(32)
    (64, 128)
    """
    return 128 if side >= 28 else 64


def embedding_positions(sides: Sequence[int], depth: int) -> int:
    """Return the number of positions in the embedding of a pooling ConvNet, for images of a height and width.

    Examples
    --------
    >>> embedding_positions((32, 32), depth=3), embedding_positions((8, 8), depth=2)
    (16, 4)
    """
    sides = _padded(sides)
    for number in range(depth):
        if _may_pool(sides, last=number + 1 == depth):
            sides = [side // 2 for side in sides]
    return math.prod(sides)


def _may_pool(sides: Sequence[int], *, last: bool) -> bool:
    return min(sides) // 2 > 1 or last


def _padded(sides: Sequence[int]) -> list[int]:
    """Return the height and width after the first convolution's padding."""
    return [32, 32] if list(sides) == [28, 28] else list(sides)
