"""Networks of torchvision and timm by name, weights from local files, and the cost of a network."""

from __future__ import annotations

import contextlib
import difflib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sextet_common.errors import STRUCTURE, InputError, reading, require


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
    library, _, bare = name.rpartition(":")
    if library not in ("", "torchvision", "timm"):
        raise InputError(f"the network {name!r} names {library!r}", "torchvision:NAME or timm:NAME")
    from torchvision import models

    if library != "timm" and bare in models.list_models(module=models):
        options = {} if outputs is None else {"num_classes": outputs}
        if bare in ("googlenet", "inception_v3"):
            options |= {"init_weights": True, "aux_logits": False}
        network: nn.Module = models.get_model(bare, weights=None, **options)
        return _headless(network, bare) if outputs is None else network
    if library == "timm" or _has_timm(package):
        timm = require("timm", package=package, extra="timm")
        if bare in timm.list_models():
            model: nn.Module = timm.create_model(bare, pretrained=False, num_classes=outputs or 0)
            return model
    known = [*own, *models.list_models(module=models), *(_timm_names(package) if _has_timm(package) else [])]
    near = difflib.get_close_matches(bare, known, n=3)
    expected = f"{', '.join(near)}, perhaps" if near else f"{', '.join([*own, 'a name of torchvision or timm'])}"
    raise InputError(f"the network {name!r} is unknown", expected)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a module's weights from a .safetensors file, or from a torch file without pickled objects.

    The file must contain every entry of the module. Additional entries are ignored only if they belong to the last
    layer of a classifier (``fc``, ``classifier``, ``head``, ``heads``). On error the module keeps its weights.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing", "a file of weights, .safetensors or .pt")
    with reading(path, "tensors by name, without pickled objects", *STRUCTURE, RuntimeError, AssertionError):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights: Any = load_file(path)
        else:
            # From memory: torch.load of a file allocates whatever length the file claims.
            weights = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    weights = weights.get("state_dict", weights) if isinstance(weights, dict) else weights
    if not isinstance(weights, dict) or not all(
        isinstance(v, Tensor) and isinstance(n, str) for n, v in weights.items()
    ):
        raise InputError(f"{path} holds {type(weights).__name__}", "tensors by name")
    target = getattr(module, "network", module)
    own = target.state_dict()
    missing = sorted(set(own) - set(weights))
    heads = ("fc.", "classifier.", "head.", "heads.")
    extra = sorted(name for name in set(weights) - set(own) if not name.startswith(heads))
    unlike = sorted(name for name in set(own) & set(weights) if own[name].shape != weights[name].shape)
    for fault, names in (("lacks", missing), ("has the unknown", extra), ("has another shape of", unlike)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{path} {fault} {names[0]}{more}", "weights of this network")
    with reading(path, "weights of this network", RuntimeError, NotImplementedError):
        target.load_state_dict({name: weights[name] for name in own})


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


def _has_timm(package: str) -> bool:
    try:
        require("timm", package=package, extra="timm")
    except InputError:
        return False
    return True


def _timm_names(package: str) -> list[str]:
    return list(require("timm", package=package, extra="timm").list_models())


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
