"""Encoders: two small ones, any of torchvision's or timm's by name, or a custom module."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from sextet_common.errors import InputError
from sextet_common.networks import (
    IMAGENET,
    LoadedWeights,
    Normalisation,
    complexity,
    device_of,
    evaluating,
    load_weights,
    normalisation,
    published,
)
from torch import Tensor, nn

__all__ = ["MLP", "OWN", "ConvNet", "Encoder", "Normalise", "build", "complexity", "load_weights", "wrap"]

OWN = ("convnet", "mlp")
Normalise = Literal["auto", "imagenet", "none"]


class Encoder(nn.Module):
    """A module that maps inputs (batch, *input_shape) to features (batch, out_features).

    With a ``normalisation``, the mean and the standard deviation of each of three channels, images in [0, 1] are
    normalised first; those of one channel are repeated. ``loaded`` says what was loaded from a file of weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, out_features: int, normalisation: Normalisation | None = None) -> None:
        super().__init__()
        self.body, self.out_features, self.normalisation = body, out_features, normalisation
        self.loaded: LoadedWeights | None = None
        if normalisation is not None:
            for name, values in zip(("mean", "std"), normalisation, strict=True):
                # Settings, not weights: they are no part of the state.
                self.register_buffer(name, torch.tensor(values).reshape(-1, 1, 1), persistent=False)

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch features"]:
        """Map inputs to features."""
        features: Tensor = self.body(inputs if self.normalisation is None else (inputs - self.mean) / self.std)
        return features


class ConvNet(nn.Module):
    """A small convolutional network: two of convolution, batch norm, ReLU a block, then each map's mean and maximum.

    The first block has ``width`` channels, and every block doubles them. All but the first of ``depth`` blocks begin by
    halving height and width.
    """

    def __init__(self, channels: int, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for block in range(depth):
            after = width * 2**block
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if block else []
            for _ in range(2):
                layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(True)]
                before = after
        self.blocks = nn.Sequential(*layers)
        self.out_features = 2 * before

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Map images to features."""
        maps = self.blocks(images)
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)


class MLP(nn.Module):
    """A perceptron for plain features: `depth` layers of linear, batch norm, ReLU and dropout."""

    def __init__(self, in_features: int, width: int = 256, depth: int = 2, dropout: float = 0.3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before in [in_features, *[width] * (depth - 1)]:
            layers += [nn.Linear(before, width), nn.BatchNorm1d(width), nn.ReLU(True), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.out_features = width

    def forward(self, features: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch features"]:
        """Map inputs to features."""
        hidden: Tensor = self.layers(features)
        return hidden


def build(
    name: str,
    input_shape: tuple[int, ...],
    *,
    width: int | None = None,
    weights: Path | str | None = None,
    normalise_images: Normalise | Normalisation = "auto",
) -> Encoder:
    """Build an encoder by name.

    Parameters
    ----------
    name
        ``convnet``, ``mlp``, or the name of a classifier in torchvision (``resnet18``) or timm (extra ``timm``), whose
        last layer is left out. torchvision is asked first; ``timm:NAME`` asks timm. Both start from random weights.
    input_shape
        (channels, height, width) or (features,). Grey images are repeated for networks with three channels.
    width
        Width of ``convnet`` (32) and ``mlp`` (256); not accepted for other networks.
    weights
        A local file of weights, .safetensors or torch's .pt. Its names may have a prefix, and a classifier's last layer
        in it is ignored; see `sextet_common.weights.load_weights`.
    normalise_images
        Normalisation of images inside the encoder: ``imagenet`` (mean and standard deviation of ImageNet's channels),
        ``none``, a pair of them, or ``auto``: with weights for a network of torchvision or timm that which the library
        states for its own weights (almost always ``imagenet``), otherwise none.

    Examples
    --------
    >>> build("convnet", (1, 32, 32)).out_features
    256
    >>> build("resnet18", (3, 32, 32), normalise_images="imagenet").normalisation[0]
    (0.485, 0.456, 0.406)
    """
    if width is not None and (width < 1 or name not in OWN):
        raise InputError(f"width {width} is given for {name}", f"a whole number >= 1, for {' or '.join(OWN)}")
    if (name == "mlp") != (len(input_shape) == 1):
        fits = "mlp for plain features, any other encoder for images"
        raise InputError(f"the encoder {name!r} does not fit inputs of shape {input_shape}", fits)
    if normalise_images == "auto":
        pretrained = weights is not None and name not in OWN
        normalise_images = normalisation(name, package="probmcl") if pretrained else "none"
    constants = _constants(normalise_images)
    if constants is not None and name in OWN and input_shape[0] != 3:
        raise InputError(
            f"normalise_images={normalise_images!r} with {name} and inputs of shape {input_shape}", "three channels"
        )
    if name == "convnet":
        convnet = ConvNet(input_shape[0], width or 32)
        encoder = Encoder(convnet, convnet.out_features, constants)
    elif name == "mlp":
        encoder = Encoder(MLP(input_shape[0], width or 256), width or 256)
    else:
        encoder = wrap(_ThreeChannels(published(name, None, package="probmcl", own=OWN)), input_shape, constants)
    if weights is not None:
        encoder.loaded = load_weights(encoder.body, Path(weights))
    return encoder


def wrap(
    module: nn.Module, input_shape: tuple[int, ...], normalise_images: Normalise | Normalisation | None = "none"
) -> Encoder:
    """Turn a module from (batch, *input_shape) to (batch, features) into an encoder, measuring its width with zeros.

    ``normalise_images`` is ``imagenet`` or a mean and a standard deviation for each channel of images in [0, 1]; by
    default the module sees its inputs as they are.

    Examples
    --------
    >>> wrap(nn.Flatten(), (1, 4, 4)).out_features
    16
    """
    constants = _constants(normalise_images)
    if constants is not None and len(input_shape) != 3:
        raise InputError(f"normalise_images={normalise_images!r} with inputs of shape {input_shape}", "images")
    encoder = Encoder(module, 0, constants)
    try:
        with evaluating(module), torch.no_grad():
            features = encoder.to(device_of(module))(torch.zeros(2, *input_shape, device=device_of(module)))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        summary = f"the encoder does not take inputs of shape {input_shape}: {first}"
        raise InputError(summary, "one that does") from error
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
        received = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(f"the encoder returns {received} for two inputs", "a tensor (batch, features)")
    encoder.out_features = features.shape[1]
    return encoder


def _constants(normalise_images: Normalise | Normalisation | None) -> Normalisation | None:
    """Return the mean and the standard deviation of every channel; None where nothing is normalised."""
    if normalise_images in ("auto", "none", None):
        return None
    if normalise_images == "imagenet":
        return IMAGENET
    try:
        mean, std = (tuple(float(value) for value in values) for values in normalise_images)
    except (TypeError, ValueError):
        mean = std = ()
    if not (
        len(mean) == len(std) == 3 and all(map(math.isfinite, mean)) and all(0 < value < math.inf for value in std)
    ):
        expected = "auto, imagenet, none, or the means and the standard deviations of three channels"
        raise InputError(f"normalise_images is {normalise_images!r}", expected)
    return mean, std


class _ThreeChannels(nn.Module):
    """A network for three channels that accepts images with one or three."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images)
        return features
