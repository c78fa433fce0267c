"""Networks of torchvision and timm by name, the normalisation of their inputs, and the cost of a network."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from sextet_common.errors import InputError, require
from sextet_common.weights import LoadedWeights as LoadedWeights, load_weights as load_weights

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of every channel, for images in [0, 1]."""

IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def published(name: str, outputs: int | None, *, package: str, own: tuple[str, ...] = ()) -> nn.Module:
    """Build a randomly initialised classifier of torchvision or timm.

    ``name`` is ``resnet18``, ``timm:NAME`` or ``torchvision:NAME``; without a prefix torchvision is searched first.
    Without ``outputs`` the last layer is left out. Error messages suggest the extra ``timm`` of the distribution
    ``package``, and the names ``own`` beside torchvision's.

    Examples
    --------
    >>> published("resnet18", 4, package="sextet-common").fc.out_features
    4
    """
    library, bare = _library(name, package, own)
    if library == "timm":
        model: nn.Module = _timm(package).create_model(bare, pretrained=False, num_classes=outputs or 0)
        return model
    from torchvision import models

    options = {} if outputs is None else {"num_classes": outputs}
    if bare in ("googlenet", "inception_v3"):
        options |= {"init_weights": True, "aux_logits": False}
    network: nn.Module = models.get_model(bare, weights=None, **options)
    return _headless(network, bare) if outputs is None else network


def normalisation(name: str, *, package: str) -> Normalisation:
    """Return the normalisation that the published weights of a network expect, as torchvision or timm states it.

    ``name`` and ``package`` are those of `published`. For almost all networks this is `IMAGENET`; a few, such as some
    of timm's vision transformers, expect a mean and a deviation of 0.5.

    Examples
    --------
    >>> normalisation("mobilenet_v2", package="sextet-common") == IMAGENET
    True
    """
    library, bare = _library(name, package, ())
    if library == "timm":
        stated = _timm(package).models.get_pretrained_cfg(bare)
    else:
        from torchvision import models

        stated = models.get_model_weights(bare).DEFAULT.transforms()
    return (tuple(stated.mean), tuple(stated.std)) if stated is not None else IMAGENET


def complexity(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Count a module's parameters and its multiply-adds for one input of a shape.

    Multiply-adds are those of convolutions and matrix products, half of what torch's ``FlopCounterMode`` counts.

    Examples
    --------
    >>> complexity(nn.Linear(10, 5), (10,))
    (55, 50)
    """
    from torch.utils.flop_counter import FlopCounterMode

    with evaluating(module), torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, *input_shape, device=device_of(module)))
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() // 2


def _headless(network: nn.Module, name: str) -> nn.Module:
    """Replace the last linear layer of a torchvision classifier by the identity."""
    for last in ("fc", "classifier", "head", "heads"):
        layers = getattr(network, last, None)
        if isinstance(layers, nn.Linear):
            setattr(network, last, nn.Identity())
            return network
        if isinstance(layers, nn.Sequential):
            numbers = [number for number, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
            if numbers:
                layers[numbers[-1]] = nn.Identity()
                return network
    raise InputError(f"torchvision's {name!r} has no last linear layer to leave out", "a classifier")


def _library(name: str, package: str, own: tuple[str, ...]) -> tuple[str, str]:
    """Return the library that has a network, torchvision or timm, and the network's name there."""
    library, _, bare = name.rpartition(":")
    if library not in ("", "torchvision", "timm"):
        raise InputError(f"the network {name!r} names {library!r}", "torchvision:NAME or timm:NAME")
    from torchvision import models

    known = models.list_models(module=models)
    if library != "timm" and bare in known:
        return "torchvision", bare
    names: list[str] = []
    if library == "timm" or _has_timm(package):
        names = _timm(package).list_models()
        if bare in names:
            return "timm", bare
    near = difflib.get_close_matches(bare, [*own, *known, *names], n=3)
    expected = f"{', '.join(near)}, perhaps" if near else ", ".join([*own, "a name of torchvision or timm"])
    raise InputError(f"the network {name!r} is unknown", expected)


def _timm(package: str) -> Any:
    return require("timm", package=package, extra="timm")


def _has_timm(package: str) -> bool:
    try:
        _timm(package)
    except InputError:
        return False
    return True


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's parameters; the CPU if it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode inside a block, then restore the mode of every submodule."""
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, was in training.items():
            part.training = was
