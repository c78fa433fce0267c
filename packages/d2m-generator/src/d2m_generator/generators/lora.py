"""Low-rank adapters by peft: a distilled generator as a small file beside its base model."""

from __future__ import annotations

import os
from pathlib import Path

from sextet_common import checkpoint, checks
from sextet_common.errors import STRUCTURE, InputError, reading, require
from torch import nn

_KIND = "lora"
_SAVED = "adapters that save_lora wrote"


def add(model: nn.Module, rank: int, targets: tuple[str, ...]) -> None:
    """Add adapters to the layers whose names end in one of the targets, and freeze everything else."""
    checks.check("rank", rank, checks.Count)
    if has(model):
        raise InputError("the model has adapters already", "merge_lora() first")
    peft = require("peft", package="d2m-generator", extra="lora")
    try:
        peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)), model)
    except ValueError as error:
        given = f"no layer of the model has a name that ends in {', '.join(targets)}"
        raise InputError(given, "names of linear layers or convolutions") from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def has(model: nn.Module) -> bool:
    """Return whether a model has adapters."""
    return any(".lora_" in name for name, _ in model.named_parameters())


def merge(model: nn.Module) -> None:
    """Add the adapters to the weights and restore the original layers."""
    if not has(model):
        raise InputError("the model has no adapters", "add_lora() first")
    require("peft", package="d2m-generator", extra="lora")
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module.get_base_layer())
    for extra in ("peft_config", "_hf_peft_config_loaded"):
        if hasattr(model, extra):
            delattr(model, extra)
    model.requires_grad_(True)


def save(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Save the adapters alone."""
    arrays = {name: tensor.cpu() for name, tensor in model.state_dict().items() if ".lora_" in name}
    if not arrays:
        raise InputError("the model has no adapters", "add_lora() first")
    ranks = {array.shape[0] for name, array in arrays.items() if ".lora_A." in name}
    targets = sorted({name.split(".lora_")[0] for name in arrays})
    checkpoint.save(path, arrays, {"kind": _KIND, "rank": min(ranks), "targets": targets})
    return Path(path)


def load(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Add saved adapters to a model; adapters that do not fit it leave it unchanged."""
    loaded = checkpoint.load(path, "torch")
    if loaded.meta.get("kind") != _KIND:
        raise InputError(f"{path} holds {loaded.meta.get('kind', 'something else')}", _SAVED)
    names = dict(model.named_modules())
    with reading(path, _SAVED, *STRUCTURE):
        rank, targets = int(loaded.meta["rank"]), tuple(map(str, loaded.meta["targets"]))
        ranks = {array.shape[0] for name, array in loaded.arrays.items() if ".lora_A." in name}
        if rank not in ranks:  # refused before adapters of that rank are allocated
            raise InputError(f"{path} has adapters of rank {sorted(ranks)} and claims rank {rank}", _SAVED)
    missing = [target for target in targets if target not in names]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise _other_architecture(path, f"no {', '.join(missing[:3])}{more}")
    added = not has(model)
    if added:
        with reading(path, _SAVED, TypeError, RuntimeError):
            add(model, rank, targets)
    state = model.state_dict()
    wrong = sorted(n for n, a in loaded.arrays.items() if n not in state or state[n].shape != a.shape)
    if wrong:
        if added:
            merge(model)  # untrained adapters change no weight
        raise _other_architecture(path, f"it differs in {', '.join(wrong[:3])}")
    model.load_state_dict(loaded.arrays, strict=False)


def _other_architecture(path: str | os.PathLike[str], difference: str) -> InputError:
    return InputError(f"{path} is of another architecture: {difference}", "the model that the adapters were trained on")
