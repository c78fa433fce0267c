"""Weights of a network from a local file, whose names may have a prefix or follow another library's convention."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sextet_common.errors import STRUCTURE, InputError, reading

_HEADS = ("fc.", "classifier.", "head.", "heads.")  # last layers of classifiers
_TABLES = ("state_dict", "model_state_dict", "model")  # where checkpoints keep the weights among other things
_OPTIONAL = "num_batches_tracked"  # counted since torch 0.4.1; older files lack it
_DEPTH = 6  # dots in a prefix
_LISTED = 5  # names in an error message


@dataclass(frozen=True)
class LoadedWeights:
    """What `load_weights` took from a file."""

    tensors: int
    """Number of tensors that were loaded."""
    unused: tuple[str, ...] = ()
    """Names in the file that the network lacks: the last layer of a classifier, or modules beside the network."""
    prefix: str = ""
    """Prefix of the network's names in the file, such as ``module.``."""

    def __str__(self) -> str:
        prefix = f" under {self.prefix!r}" if self.prefix else ""
        unused = f"; not used: {_some(self.unused)}" if self.unused else ""
        return f"{self.tensors} tensors loaded{prefix}{unused}"


def load_weights(module: nn.Module, path: Path) -> LoadedWeights:
    """Load a module's weights from a .safetensors file, or from a torch file without pickled objects.

    The file must contain every entry of the module, with equal shapes. Additional entries are ignored only if they
    belong to the last layer of a classifier (``fc``, ``classifier``, ``head``, ``heads``). The file's names may share
    any one prefix (``module.``, ``encoder.body.``); what lies outside the prefix is ignored then. A MobileNetV2's names
    may be those of torchvision, of timm, or of the release of tonylins; torchvision and timm have the same names for
    ResNet, ResNeXt, Wide ResNet and DenseNet. On error the module keeps its weights.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "weights.pt"
    >>> torch.save({"module.weight": torch.ones(1, 2), "module.bias": torch.zeros(1)}, file)
    >>> print(load_weights(nn.Linear(2, 1), file))
    2 tensors loaded under 'module.'
    """
    weights = _read(path)
    target = getattr(module, "network", module)
    own = target.state_dict()
    fits = [fit for fit in _fits(own, weights) if not fit.faults]
    if not fits:
        nearest = min(_fits(own, weights), key=lambda fit: fit.distance)
        raise InputError(f"{path} {'; '.join(nearest.faults)}", f"weights of this network, {len(own)} tensors")
    if len(fits) > 1:
        prefixes = ", ".join(repr(fit.prefix) for fit in fits)
        raise InputError(f"{path} holds this network's weights under {prefixes}", "a file with one of them")
    chosen = fits[0]
    with reading(path, "weights of this network", RuntimeError, NotImplementedError):
        target.load_state_dict({**own, **{name: weights[found] for name, found in chosen.source.items()}})
    used = set(chosen.source.values())
    return LoadedWeights(len(used), tuple(sorted(set(weights) - used)), chosen.prefix)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path} is missing", "a file of weights, .safetensors or .pt")
    with reading(path, "tensors by name, without pickled objects", *STRUCTURE, RuntimeError, AssertionError):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights: Any = load_file(path)
        else:
            # From memory: torch.load of a file allocates whatever length the file claims.
            weights = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    if isinstance(weights, dict):
        weights = next((weights[key] for key in _TABLES if isinstance(weights.get(key), dict)), weights)
    if not isinstance(weights, dict) or not all(
        isinstance(v, Tensor) and isinstance(n, str) for n, v in weights.items()
    ):
        raise InputError(f"{path} holds {type(weights).__name__}", "tensors by name")
    return weights


@dataclass(frozen=True)
class _Fit:
    """How the names of a file under one prefix meet those of a network."""

    prefix: str
    source: Mapping[str, str]  # the file's name for each of the network's names that it has
    faults: tuple[str, ...]
    distance: int  # number of the network's names that are not there or do not fit


def _fits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[_Fit]:
    """Compare a network with a file as it is, or else with what the file has under each of its prefixes."""
    whole = _fit(own, weights, "")
    if not whole.faults:
        return [whole]
    prefixes = {name[: dot.end()] for name in weights for dot in islice(re.finditer(r"\.", name), _DEPTH)}
    return [whole, *(_fit(own, weights, prefix) for prefix in sorted(prefixes))]


def _fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], prefix: str) -> _Fit:
    inner = {name.removeprefix(prefix): name for name in weights if name.startswith(prefix)}
    pairs = max((dict(_pairs(own, inner, plain)) for plain in (True, False)), key=len)
    missing = [name for name in own if name not in pairs and not name.endswith(_OPTIONAL)]
    used = set(pairs.values())
    extra = [found for name, found in inner.items() if found not in used and not name.startswith(_HEADS)]
    unlike = [
        f"{found}, {tuple(weights[found].shape)} where the network has {tuple(own[name].shape)}"
        for name, found in pairs.items()
        if own[name].shape != weights[found].shape
    ]
    kinds = (("lacks", missing), ("has the unknown", extra), ("has another shape of", unlike))
    faults = tuple(f"{fault} {_some(names)}" for fault, names in kinds if names)
    return _Fit(prefix, pairs, faults, len(missing) + len(unlike))


def _pairs(own: Mapping[str, Tensor], inner: Mapping[str, str], plain: bool) -> Iterator[tuple[str, str]]:
    """Yield the network's and the file's name of every tensor of both, if not plain by torchvision's names of both."""
    if plain:
        yield from ((name, inner[name]) for name in own if name in inner)
        return
    theirs = {_torchvision(name, inner): found for name, found in inner.items()}
    for name in own:
        if (common := _torchvision(name, own)) in theirs:
            yield name, theirs[common]


_FLAT = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}  # layers of a block, tonylins' numbers
_FLAT_FIRST = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}  # of the first block, which does not expand
_TIMM = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"}
_TIMM_FIRST = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
_TIMM_ENDS = {"conv_stem": "0.0", "bn1": "0.1", "conv_head": "18.0", "bn2": "18.1"}
_TIMM_STAGES = {"0": 1, "1": 2, "2": 4, "3": 7, "4": 11, "5": 14, "6": 17}  # torchvision's number of the first block


def _torchvision(name: str, names: Mapping[str, Any]) -> str:
    """Return torchvision's name of a tensor of MobileNetV2 in a file with some names; others are returned unchanged."""
    parts = name.split(".")
    if "blocks.1.0.conv_pwl.weight" in names:
        if parts[0] == "blocks" and len(parts) == 5 and parts[1] in _TIMM_STAGES and parts[2].isdecimal():
            block = _TIMM_STAGES[parts[1]] + int(parts[2])
            layer = (_TIMM_FIRST if block == 1 else _TIMM).get(parts[3], parts[3])
            return f"features.{block}.conv.{layer}.{parts[4]}"
        return f"features.{_TIMM_ENDS[parts[0]]}.{parts[1]}" if parts[0] in _TIMM_ENDS and len(parts) == 2 else name
    if "features.2.conv.7.weight" in names and parts[0] == "features" and len(parts) == 5:
        layer = (_FLAT_FIRST if parts[1] == "1" else _FLAT).get(parts[3], parts[3])
        return f"features.{parts[1]}.conv.{layer}.{parts[4]}"
    return name


def _some(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
