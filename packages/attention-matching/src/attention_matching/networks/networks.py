"""Networks that show their features block by block: the papers' ConvNet, and how the others are named."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from jaxtyping import Float
from sextet_common.errors import InputError
from torch import Tensor, nn

from attention_matching.networks.layers import Activation, Norm, Pooling, activation_of, normalisation, pooling_of

Architecture = Literal["convnet", "alexnet", "vgg11", "resnet18", "vit"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)


class Features(NamedTuple):
    """What a network computed on the way to its logits.

    Attributes
    ----------
    maps
        The output of every block's activation, before pooling: (batch, channels, height, width) each.
    embedding
        The flattened input of the last linear layer: (batch, size).
    """

    maps: tuple[Tensor, ...]
    embedding: Tensor


class FeatureNetwork(nn.Module, ABC):
    """A classifier whose features can be matched: what a network of one's own derives from.

    A subclass sets ``classifier`` and defines :meth:`features`. To be trained beside others
    in one ``torch.func.vmap``, its control flow must not depend on the images' values.

    Attributes
    ----------
    classifier
        From the embedding to the logits.
    """

    classifier: nn.Module

    @abstractmethod
    def features(self, images: Float[Tensor, "batch channels height width"]) -> Features:
        """Compute every block's activations.

        Parameters
        ----------
        images
            Network inputs, shape (batch, channels, height, width).

        Returns
        -------
        Features
            The blocks' maps and the embedding.
        """

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Compute the logits.

        Parameters
        ----------
        images
            Network inputs, shape (batch, channels, height, width).

        Returns
        -------
        Tensor
            Shape (batch, n_classes).
        """
        logits: Tensor = self.classifier(self.features(images).embedding)
        return logits


class Block(NamedTuple):
    """One line of a convolutional network's table.

    Attributes
    ----------
    width
        Channels that the convolution returns.
    kernel
        Side of the convolution's kernel, an odd number of pixels.
    pool
        Whether 2x2 pooling follows.
    """

    width: int
    kernel: int = 3
    pool: bool = True


class BlockNetwork(FeatureNetwork):
    """Blocks of a convolution, a normalisation, an activation and pooling; then a linear layer.

    Convolutions keep the image's size, except that 28x28 images become 32x32 in the first,
    by its padding, as in the condensation papers' code for MNIST. A pooling between two blocks
    that would leave a single pixel is left out (*ours*: the papers have no images so small),
    since an instance norm turns a single pixel into a constant. torch's default initialisation.

    Parameters
    ----------
    image_shape
        Channels, height and width of the images.
    n_classes
        How many logits.
    blocks
        The network's table.
    norm, activation, pooling
        See :class:`ConvNet`.

    Raises
    ------
    InputError
        Where the norm, the activation or the pooling is unknown, or a width is not positive or,
        with group norm, not a multiple of 4.
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
        channels, *given = image_shape
        sides = _padded(given)
        self.blocks, self.pools = nn.ModuleList(), nn.ModuleList()
        for number, block in enumerate(blocks):
            padding = block.kernel // 2 + (0 if number else (sides[0] - given[0]) // 2)
            normalise = normalisation(norm, block.width)  # before the convolution: it checks the width
            convolve = nn.Conv2d(channels, block.width, block.kernel, padding=padding)
            self.blocks.append(nn.Sequential(convolve, normalise, activation_of(activation)))
            left = min(sides) // 2
            pools = block.pool and pooling != "none" and (left > 1 or number + 1 == len(blocks))
            self.pools.append(pooling_of(pooling) if pools else nn.Identity())
            sides = [side // 2 for side in sides] if pools else sides
            channels = block.width
        self.classifier = nn.Linear(channels * sides[0] * sides[1], n_classes)

    def features(self, images: Float[Tensor, "batch channels height width"]) -> Features:
        """Compute every block's activations.

        Parameters
        ----------
        images
            Network inputs, shape (batch, channels, height, width).

        Returns
        -------
        Features
            The blocks' maps and the embedding.
        """
        maps = []
        x = images
        for block, pool in zip(self.blocks, self.pools, strict=True):
            activation = block(x)
            maps.append(activation)
            x = pool(activation)
        return Features(tuple(maps), x.flatten(1))


class ConvNet(BlockNetwork):
    """The convolutional network of the distillation papers.

    Each block is a 3x3 convolution, a normalisation, a ReLU and 2x2 average pooling;
    a linear layer follows. The other activations and poolings span the papers' search space.

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
        ``instance`` (each channel of each image by itself; the papers'), ``batch``, ``group``
        (4 groups), ``layer`` (each image by itself; one scale and shift per channel) or ``none``.
    activation
        ``relu``, ``sigmoid`` or ``leaky_relu`` (slope 0.01).
    pooling
        ``avg``, ``max`` or ``none``.

    Raises
    ------
    InputError
        Where an option is unknown or the image is too small for so many blocks.

    References
    ----------
    Zhao, Mopuri and Bilen, "Dataset condensation with gradient matching" (arXiv 2006.05929):
    the network, and the search space of 720 of its kind.

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
        height, wide = image_shape[1:]
        depth = default_depth(min(height, wide)) if depth is None else depth
        if depth < 1 or (pooling != "none" and min(_padded([height, wide])) >> depth < 1):
            raise InputError(f"depth is {depth} for {height}x{wide} images", "1 or more halvings that leave a pixel")
        super().__init__(
            image_shape, n_classes, [Block(width)] * depth, norm=norm, activation=activation, pooling=pooling
        )


def build(
    architecture: Architecture,
    image_shape: tuple[int, int, int],
    n_classes: int,
    *,
    width: int | None = None,
    depth: int | None = None,
    norm: Norm = "instance",
) -> FeatureNetwork:
    """Build an untrained network by its name.

    Parameters
    ----------
    architecture
        ``convnet``, ``alexnet``, ``vgg11``, ``resnet18`` or ``vit``.
    image_shape
        Channels, height and width of the images: from 8x8.
    n_classes
        How many logits.
    width, depth
        Of the ConvNet alone: by default :func:`default_width` and :func:`default_depth` of the
        image's smaller side.
    norm
        The normalisation of every convolutional network: see :class:`ConvNet`. Their authors have
        none in AlexNet and VGG-11, and batch norm in ResNet-18; the distillation papers compare
        architectures with instance or batch norm. A ViT keeps its layer norms whatever is said here.

    Returns
    -------
    FeatureNetwork
        The network, on the CPU, from torch's global generator.

    Raises
    ------
    InputError
        Where the name is unknown, a width or depth is given for another network than the ConvNet,
        or the network cannot be built for such images.

    Examples
    --------
    >>> import torch
    >>> tuple(build("vgg11", (1, 28, 28), 10)(torch.zeros(2, 1, 28, 28)).shape)
    (2, 10)
    """
    if architecture not in ARCHITECTURES:
        raise InputError(f"architecture is {architecture!r}", " or ".join(ARCHITECTURES))
    if architecture == "convnet":
        width = default_width(min(image_shape[1:])) if width is None else width
        return ConvNet(image_shape, n_classes, width=width, depth=depth, norm=norm)
    for name, value in (("width", width), ("depth", depth)):
        if value is not None:
            raise InputError(f"{name} is {value} for {architecture}", f"no {name}: only a convnet has a choice of it")
    # Here, and not above: that module derives its networks from this one's, and needs torchvision.
    from attention_matching.networks import architectures

    if architecture == "alexnet":
        return architectures.AlexNet(image_shape, n_classes, norm=norm)
    if architecture == "vgg11":
        return architectures.VGG11(image_shape, n_classes, norm=norm)
    if architecture == "resnet18":
        return architectures.ResNet18(image_shape, n_classes, norm=norm)
    return architectures.ViT(image_shape, n_classes)


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


def _padded(sides: Sequence[int]) -> list[int]:
    """Return the height and width in which a block network works: 28x28 as 32x32."""
    return [32, 32] if list(sides) == [28, 28] else list(sides)
