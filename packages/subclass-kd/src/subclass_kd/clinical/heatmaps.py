"""Heat maps of what a network's decision for a class rests on: Grad-CAM (Selvaraju et al., 2017), by captum."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from sextet_common.errors import InputError, require
from sextet_common.networks import device_of, evaluating
from torch import Tensor, nn

from subclass_kd.hierarchy import Hierarchy


def heat_maps(
    network: nn.Module,
    images: Float[Tensor, "batch channels height width"],
    hierarchy: Hierarchy,
    label: int,
    *,
    opposed: bool = False,
    layer: str | None = None,
) -> Float[Tensor, "batch height width"]:
    """Return Grad-CAM maps of a class in [0, 1], at the images' size, on the CPU (extra ``captum``).

    The gradient is that of the class's log-odds, summed over its subclasses, with respect to the outputs of ``layer``,
    by default the last layer with outputs of (batch, channels, height, width). With ``opposed`` the maps show what
    speaks against the class instead. A map may be 0 everywhere. Not defined for transformers.

    Examples
    --------
    >>> from subclass_kd import build
    >>> parity = Hierarchy.from_dict({"even": ["0", "2"], "odd": ["1", "3"]})
    >>> heat_maps(build("convnet", (1, 8, 8), 4, width=4), torch.rand(2, 1, 8, 8), parity, 1).shape
    torch.Size([2, 8, 8])
    """
    attr: Any = require("captum.attr", package="subclass-kd", extra="captum")
    if not 0 <= label < hierarchy.n_classes:
        raise InputError(f"class {label}", f"0 to {hierarchy.n_classes - 1}")
    batch = images.detach().to(device_of(network), torch.float32)

    def log_odds(inputs: Tensor) -> Tensor:
        log_probs = hierarchy.class_log_probs(network(inputs))
        others = [other for other in range(hierarchy.n_classes) if other != label]
        odds = log_probs[:, label] - torch.logsumexp(log_probs[:, others], dim=1)
        return -odds if opposed else odds

    with evaluating(network), torch.enable_grad():
        target = _last_map(network, batch[:1]) if layer is None else _named(network, layer)
        maps = attr.LayerGradCam(log_odds, target).attribute(batch, relu_attributions=True)
    if maps.ndim != 4:
        raise InputError(f"layer {layer!r} has outputs of {maps.ndim} axes", "(batch, channels, height, width)")
    enlarged = attr.LayerAttribution.interpolate(maps.detach(), tuple(batch.shape[2:]), "bilinear")[:, 0]
    largest = enlarged.amax(dim=(1, 2), keepdim=True)
    scaled: Tensor = (enlarged / torch.where(largest > 0, largest, 1)).cpu()
    return scaled


def _named(network: nn.Module, layer: str) -> nn.Module:
    modules = dict(network.named_modules())
    if layer not in modules or not layer:
        raise InputError(f"the network has no layer {layer!r}", ", ".join([name for name in modules if name][-10:]))
    module: nn.Module = modules[layer]
    return module


def _last_map(network: nn.Module, image: Tensor) -> nn.Module:
    """Return the last module that returns a map of more than one position."""
    if any("attention" in type(module).__name__.lower() for module in network.modules()):
        raise InputError(
            f"{type(network).__name__} is a transformer", "a convolutional network, or the name of a layer"
        )
    maps: list[nn.Module] = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            maps.append(module)

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    if not maps:
        raise InputError(f"{type(network).__name__} has no convolutional layer", "a convolutional network")
    return maps[-1]
