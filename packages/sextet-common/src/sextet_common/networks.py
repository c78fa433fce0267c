"""Networks of others by name, weights from local files, and what a network costs."""

from __future__ import annotations

import contextlib
import difflib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sextet_common.errors import InputError, reading, require


def published(name: str, outputs: int | None, *, package: str, own: tuple[str, ...] = ()) -> nn.Module:
    """Make torchvision's or timm's network of a name, from random weights.

    Parameters
    ----------
    name
        A classifier's name, such as ``resnet18``. torchvision goes first where both know it; ``timm:NAME`` and
        ``torchvision:NAME`` ask for one of them.
    outputs
        How many outputs its last layer has; None leaves that layer out.
    package
        Whose extra ``timm`` an error asks for.
    own
        Further names, which an error suggests too.

    Returns
    -------
    torch.nn.Module
        The network.

    Raises
    ------
    InputError
        Where the name is unknown (the nearest are suggested), or the last layer cannot be left out.

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
            made: nn.Module = timm.create_model(bare, pretrained=False, num_classes=outputs or 0)
            return made
    known = [*own, *models.list_models(module=models), *(_timm_names(package) if _has_timm(package) else [])]
    near = difflib.get_close_matches(bare, known, n=3)
    expected = f"{', '.join(near)}, perhaps" if near else f"{', '.join([*own, 'a name of torchvision or timm'])}"
    raise InputError(f"the network {name!r} is unknown", expected)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load weights from a local file into a module.

    Parameters
    ----------
    module
        What they are for. Entries that it lacks are passed over only where they belong to a classifier's last layer
        (``fc``, ``classifier``, ``head``, ``heads``), and all that it has must be there.
    path
        A .safetensors file, or one of torch's, read without pickled objects.

    Raises
    ------
    InputError
        Where the file is missing, broken or holds another network's weights: the first differing names are told.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing", "a file of weights, .safetensors or .pt")
    with reading(path, "tensors by name, without pickled objects"):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            # In memory, where nothing can be read that is not there; a file asks for what a length in it says.
            found = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) and isinstance(n, str) for n, v in found.items()):
        raise InputError(f"{path} holds {type(found).__name__}", "tensors by name")
    target = getattr(module, "network", module)
    wanted = target.state_dict()
    missing = sorted(set(wanted) - set(found))
    heads = ("fc.", "classifier.", "head.", "heads.")
    extra = sorted(name for name in set(found) - set(wanted) if not name.startswith(heads))
    unlike = sorted(name for name in set(wanted) & set(found) if wanted[name].shape != found[name].shape)
    for fault, names in (("lacks", missing), ("has the unknown", extra), ("has another shape of", unlike)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{path} {fault} {names[0]}{more}", "weights of this network")
    with reading(path, "weights of this network"):
        target.load_state_dict({name: found[name] for name in wanted})


def complexity(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Count a module's parameters and the multiply-adds of one input.

    Parameters
    ----------
    module
        Maps (batch, *input_shape) to anything.
    input_shape
        The shape of one input.

    Returns
    -------
    tuple of int
        Parameters, and multiply-adds of convolutions and matrix products, as torch's counter has them (it counts two
        operations for each).

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
    """Replace the last layer of a torchvision classifier by nothing."""
    for last in ("fc", "classifier", "head", "heads"):
        found = getattr(network, last, None)
        if isinstance(found, nn.Linear):
            setattr(network, last, nn.Identity())
            return network
        if isinstance(found, nn.Sequential):
            numbers = [number for number, layer in enumerate(found) if isinstance(layer, nn.Linear)]
            if numbers:
                found[numbers[-1]] = nn.Identity()
                return network
    raise InputError(f"torchvision's {name!r} has no last linear layer that could be left out", "a classifier")


def _has_timm(package: str) -> bool:
    try:
        require("timm", package=package, extra="timm")
    except InputError:
        return False
    return True


def _timm_names(package: str) -> list[str]:
    return list(require("timm", package=package, extra="timm").list_models())


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's parameters; the CPU where it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation for a while, and every part of it back as it was."""
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, was in training.items():
            part.training = was
