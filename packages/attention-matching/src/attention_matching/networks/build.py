"""Build a network by its name."""

from __future__ import annotations

from sextet_common.checks import check
from sextet_common.errors import InputError

from attention_matching.kinds import Architecture, Norm
from attention_matching.networks import zoo
from attention_matching.networks.base import FeatureNetwork
from attention_matching.networks.convnet import ConvNet, default_width


def build(
    architecture: Architecture,
    image_shape: tuple[int, int, int],
    n_classes: int,
    *,
    width: int | None = None,
    depth: int | None = None,
    norm: Norm = "instance",
) -> FeatureNetwork:
    """Build an untrained network on the CPU, initialised from torch's global generator.

    Parameters
    ----------
    image_shape
        Channels, height and width; sides of at least 8 pixels.
    width, depth
        Of a ConvNet only; by default :func:`~attention_matching.networks.convnet.default_width` and
        :func:`~attention_matching.networks.convnet.default_depth` of the image's smaller side.
    norm
        Normalisation of every convolutional network. The original AlexNet and VGG-11 have none, ResNet-18 has batch
        norm; the distillation papers compare architectures with instance or batch norm. A ViT always has its layer
        norms.

    Examples
    --------
    >>> import torch
    >>> tuple(build("vgg11", (1, 28, 28), 10)(torch.zeros(2, 1, 28, 28)).shape)
    (2, 10)
    """
    check("architecture", architecture, Architecture)
    if architecture == "convnet":
        width = default_width(min(image_shape[1:])) if width is None else width
        return ConvNet(image_shape, n_classes, width=width, depth=depth, norm=norm)
    for name, value in (("width", width), ("depth", depth)):
        if value is not None:
            raise InputError(f"{name} must be None for {architecture} (only a convnet has a {name}), got {value}")
    if architecture == "alexnet":
        return zoo.AlexNet(image_shape, n_classes, norm=norm)
    if architecture == "vgg11":
        return zoo.VGG11(image_shape, n_classes, norm=norm)
    if architecture == "resnet18":
        return zoo.ResNet18(image_shape, n_classes, norm=norm)
    return zoo.ViT(image_shape, n_classes)
