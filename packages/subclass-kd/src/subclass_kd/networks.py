"""Students and teachers: small convolutional networks, or any network of torchvision or timm by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from sextet_common.checks import Count, check
from sextet_common.errors import InputError
from sextet_common.networks import complexity, evaluating, load_weights, published
from sextet_common.seeding import torch_seed
from torch import Tensor, nn

__all__ = ["ConvNet", "architecture_of", "build", "complexity", "features_of", "load_weights"]

_BUILT = "subclass_kd_built"  # attribute of built networks


class ConvNet(nn.Module):
    """Small convolutional classifier: blocks of convolution, batch norm and ReLU, global average pooling, linear layer.

    The first block has ``width`` channels, and they double with every block. All but the first of ``depth`` blocks
    begin by halving height and width.
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
        """Map images to the inputs of the last layer."""
        return cast(Tensor, self.blocks(images)).mean(dim=(2, 3))

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs"]:
        """Map images to logits."""
        return cast(Tensor, self.classifier(self.features(images)))


class _ThreeChannels(nn.Module):
    """Feeds grey or colour images to a network for three channels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images))


def build(
    name: str,
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    width: int | None = None,
    weights: Path | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build a classifier that maps (batch, *input_shape) to (batch, outputs).

    ``name`` is ``convnet`` (one convolution per block, width 16), ``convnet-deep`` (two, width 48), or a network of
    torchvision or timm (extra ``timm``); ``width`` is only for the first two. ``input_shape`` is (channels, height,
    width). ``weights`` is a local file of weights for all layers but the last, whose number of outputs may differ.

    Examples
    --------
    >>> build("convnet", (1, 8, 8), 10, width=4)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    own = ("convnet", "convnet-deep")
    check("width", width, Count | None)
    check("outputs", outputs, Count)
    if width is not None and name not in own:
        raise InputError(f"width {width} for {name}", f"no width, or one of the networks {' and '.join(own)}")
    depth = 2 if min(input_shape[1:]) < 16 else 3
    with torch_seed(seed, "network", name):
        if name == "convnet":
            network: nn.Module = ConvNet(input_shape[0], outputs, width or 16, depth)
        elif name == "convnet-deep":
            network = ConvNet(input_shape[0], outputs, width or 48, depth, convolutions=2)
        else:
            network = _ThreeChannels(published(name, outputs, package="subclass-kd", own=own))
    if weights is not None:
        _load_body(network, weights)
    vars(network)[_BUILT] = {"network": name, "width": width}
    return network


def architecture_of(network: nn.Module) -> dict[str, Any] | None:
    """Return the name and the width from which `build` built a network; None for any other module."""
    return vars(network).get(_BUILT)


def features_of(network: nn.Module, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch n"]:
    """Return the inputs of the last linear layer of any classifier, flattened to (batch, features)."""
    inputs: list[Tensor] = []
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach())) for module in linear]
    try:
        with evaluating(network), torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not inputs:
        raise InputError(f"{type(network).__name__} has no linear layer", "a classifier with one, or features")
    return inputs[-1].flatten(1)


def _load_body(network: nn.Module, path: Path) -> None:
    """Load all weights but those of the last linear layer, whose outputs may be those of another data set."""
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
