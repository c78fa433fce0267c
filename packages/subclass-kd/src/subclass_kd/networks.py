"""Students and teachers: small networks made here, or any of torchvision's or timm's by name."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from sextet_common.errors import InputError
from sextet_common.networks import complexity, device_of, evaluating, load_weights, published
from sextet_common.seeding import torch_seed
from torch import Tensor, nn

__all__ = ["ConvNet", "build", "complexity", "features_of", "latency", "load_weights"]


class ConvNet(nn.Module):
    """A small convolutional classifier: convolution, batch norm and ReLU per block, mean over positions, linear.

    Parameters
    ----------
    channels
        Of the images.
    outputs
        Logits.
    width
        Channels of the first block; every block doubles them.
    depth
        Blocks; each but the first halves height and width before it begins.
    convolutions
        In each block.
    """

    def __init__(self, channels: int, outputs: int, width: int = 16, depth: int = 3, convolutions: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for block in range(depth):
            after = width * 2**block
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if block else []
            for _ in range(convolutions):
                layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(True)]
                before = after
        self.blocks, self.classifier = nn.Sequential(*layers), nn.Linear(before, outputs)

    def features(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Map images to what the last layer sees."""
        found: Tensor = self.blocks(images).mean(dim=(2, 3))
        return found

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs"]:
        """Map images to logits."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


class _Three(nn.Module):
    """A network for three channels that is given images of one or three."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images)
        return logits


def build(
    name: str,
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    width: int | None = None,
    weights: Path | None = None,
    seed: int = 0,
) -> nn.Module:
    """Make a classifier.

    Parameters
    ----------
    name
        ``convnet`` (one convolution a block, width 16), ``convnet-deep`` (two, width 48), or a name of torchvision or
        timm (extra ``timm``).
    input_shape
        (channels, height, width) of an image.
    outputs
        Logits.
    width
        Of the first two.
    weights
        A local file of weights for all layers but the last, which may be another's.
    seed
        Of the initial weights.

    Returns
    -------
    torch.nn.Module
        Maps (batch, *input_shape) to (batch, outputs).

    Raises
    ------
    InputError
        For an unknown name, a width that a network has not, or weights of another network.

    Examples
    --------
    >>> build("convnet", (1, 8, 8), 10, width=4)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    own = ("convnet", "convnet-deep")
    if width is not None and (width < 1 or name not in own):
        raise InputError(f"width {width} is given for {name}", f"a whole number >= 1, for {' or '.join(own)}")
    if outputs < 1:
        raise InputError(f"outputs is {outputs}", "a whole number >= 1")
    depth = 2 if min(input_shape[1:]) < 16 else 3
    with torch_seed(seed, "network", name):
        if name == "convnet":
            network: nn.Module = ConvNet(input_shape[0], outputs, width or 16, depth)
        elif name == "convnet-deep":
            network = ConvNet(input_shape[0], outputs, width or 48, depth, convolutions=2)
        else:
            network = _Three(published(name, outputs, package="subclass-kd", own=own))
    if weights is not None:
        _load_body(network, weights)
    return network


def features_of(network: nn.Module, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch n"]:
    """Return what a classifier's last linear layer is given, whatever the classifier.

    Parameters
    ----------
    network
        A classifier with a linear layer.
    images
        A batch.

    Returns
    -------
    Tensor
        Shape (batch, features).

    Raises
    ------
    InputError
        Where no linear layer is met.
    """
    seen: list[Tensor] = []
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach())) for module in linear]
    try:
        with evaluating(network), torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise InputError(f"{type(network).__name__} has no linear layer", "a classifier with one, or features")
    return seen[-1].flatten(1)


def latency(network: nn.Module, input_shape: tuple[int, ...], *, batch: int = 1, rounds: int = 30) -> float:
    """Return the median seconds of one pass of a batch, on the network's device.

    Parameters
    ----------
    network
        The network.
    input_shape
        The shape of one input.
    batch
        Inputs at once.
    rounds
        Passes that are timed, after three that are not.

    Returns
    -------
    float
        Seconds.
    """
    where = device_of(network)
    images = torch.zeros(batch, *input_shape, device=where)
    wait: Callable[[], None] = torch.cuda.synchronize if where.type == "cuda" else (lambda: None)
    times = []
    with evaluating(network), torch.inference_mode():
        for number in range(rounds + 3):
            wait()
            began = time.perf_counter()
            network(images)
            wait()
            if number >= 3:
                times.append(time.perf_counter() - began)
    return statistics.median(times)


def _load_body(network: nn.Module, path: Path) -> None:
    """Load all weights but those of the last linear layer, whose outputs may be another data set's."""
    target = getattr(network, "network", network)
    last = [name for name, module in target.named_modules() if isinstance(module, nn.Linear)][-1:]
    parent, _, leaf = (last[0] if last else "").rpartition(".")
    holder = target.get_submodule(parent) if parent else target
    layer = getattr(holder, leaf, None)
    if layer is None:
        load_weights(target, path)
        return
    setattr(holder, leaf, nn.Identity())
    try:
        load_weights(target, path)
    finally:
        setattr(holder, leaf, layer)
