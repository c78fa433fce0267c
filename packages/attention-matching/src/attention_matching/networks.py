"""Networks that show their features block by block."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

from jaxtyping import Float
from sextet_common.errors import InputError
from torch import Tensor, nn

Norm = Literal["instance", "batch", "group", "none"]


class Features(NamedTuple):
    """What a network computed on the way to its logits.

    Attributes
    ----------
    maps
        The output of every block's ReLU, before pooling: (batch, channels, height, width) each.
    embedding
        The flattened output of the last block, after pooling: (batch, size).
    """

    maps: tuple[Tensor, ...]
    embedding: Tensor


class ConvNet(nn.Module):
    """The convolutional network of the distillation papers.

    Each block is a 3x3 convolution, a normalisation, a ReLU and 2x2 average pooling;
    a linear layer follows. torch's default initialisation.

    Parameters
    ----------
    image_shape
        Channels, height and width of the images.
    n_classes
        How many logits.
    width
        Channels of every block.
    depth
        How many blocks; by default :func:`default_depth` of the image's smaller side.
    norm
        ``instance`` (each channel of each image by itself; the papers'), ``batch``,
        ``group`` (4 groups) or ``none``.

    Raises
    ------
    InputError
        Where the norm is unknown or the image is too small for so many blocks.

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
    ) -> None:
        super().__init__()
        channels, *sides = image_shape
        depth = default_depth(min(sides)) if depth is None else depth
        if depth < 1 or min(sides) >> depth < 1:
            size = f"{sides[0]}x{sides[1]}"
            raise InputError(f"depth is {depth} for {size} images", "1 or more halvings that leave a pixel")
        blocks = []
        for number in range(depth):
            blocks.append(
                nn.Sequential(
                    nn.Conv2d(width if number else channels, width, kernel_size=3, padding=1),
                    _normalisation(norm, width),
                    nn.ReLU(),
                )
            )
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.AvgPool2d(2)
        self.classifier = nn.Linear(width * (sides[0] >> depth) * (sides[1] >> depth), n_classes)

    def features(self, images: Float[Tensor, "batch channels height width"]) -> Features:
        """Compute every block's activations.

        Parameters
        ----------
        images
            Normalised images, shape (batch, channels, height, width).

        Returns
        -------
        Features
            The blocks' maps and the embedding.
        """
        maps = []
        x = images
        for block in self.blocks:
            activation = block(x)
            maps.append(activation)
            x = self.pool(activation)
        return Features(tuple(maps), x.flatten(1))

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Compute the logits.

        Parameters
        ----------
        images
            Normalised images, shape (batch, channels, height, width).

        Returns
        -------
        Tensor
            Shape (batch, n_classes).
        """
        logits: Tensor = self.classifier(self.features(images).embedding)
        return logits


def default_depth(side: int) -> int:
    """Return the papers' number of blocks for an image side: 3 at 32, 4 at 64, 5 at 128; *ours*: 2 below 28.

    Parameters
    ----------
    side
        The smaller of height and width, in pixels.

    Returns
    -------
    int
        The number of blocks, which leaves about 4x4 positions.

    Examples
    --------
    >>> [default_depth(side) for side in (8, 28, 32, 64, 128)]
    [2, 3, 3, 4, 5]
    """
    return max(1 if side < 4 else 2, round(math.log2(side)) - 2)


def default_width(side: int) -> int:
    """Return the papers' number of channels, 128; *ours* for image sides below 28: 64.

    Parameters
    ----------
    side
        The smaller of height and width, in pixels.

    Returns
    -------
    int
        The number of channels.

    Examples
    --------
    >>> default_width(8), default_width(32)
    (64, 128)
    """
    return 128 if side >= 28 else 64


def _normalisation(norm: str, width: int) -> nn.Module:
    if norm == "instance":
        return nn.GroupNorm(width, width)  # with an affine part, as the papers' networks have
    if norm == "batch":
        return nn.BatchNorm2d(width)
    if norm == "group":
        return nn.GroupNorm(4, width)
    if norm == "none":
        return nn.Identity()
    raise InputError(f"norm is {norm!r}", " or ".join(get_args(Norm)))
