"""Low-rank adapters by peft, in its own format: a distilled generator as a small folder beside its base model."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from sextet_common import checks, files
from sextet_common.errors import STRUCTURE, InputError, reading, require
from torch import nn

_SAVED = "a folder of LoRA adapters that save_lora or peft's save_pretrained wrote"
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_SETTINGS: dict[str, Any] = {  # that adapters may have; peft's others are left at their defaults
    "r": checks.Count, "lora_alpha": checks.Positive, "use_rslora": bool, "use_dora": bool,
}  # fmt: skip
_PATTERNS: dict[str, Any] = {"rank_pattern": checks.Count, "alpha_pattern": checks.Positive}


def add(model: nn.Module, rank: int, targets: tuple[str, ...]) -> Any:
    """Add adapters to the layers whose names end in one of the targets, freeze everything else, and return a PeftModel.

    It wraps the model, whose own layers change.
    """
    checks.check("rank", rank, checks.Count)
    peft = require("peft", package="d2m-generator", extra="lora")
    return _wrapped(model, peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)))


def has(model: nn.Module) -> bool:
    """Return whether a model has adapters."""
    return any(".lora_" in name for name, _ in model.named_parameters())


def save(adapters: Any, path: str | os.PathLike[str]) -> Path:
    """Save the adapters of a PeftModel as a folder, atomically."""
    with files.replacing_folder(path) as folder:
        adapters.save_pretrained(folder)
    return Path(path)


def load(model: nn.Module, path: str | os.PathLike[str]) -> Any:
    """Add saved adapters to a model and return a PeftModel; adapters that do not fit it leave it unchanged."""
    peft, folder = require("peft", package="d2m-generator", extra="lora"), Path(path)
    with reading(folder / _CONFIG, _SAVED, *STRUCTURE):
        settings = _settings(json.loads((folder / _CONFIG).read_text(encoding="utf-8")))
        claimed = max([settings["r"], *settings["rank_pattern"].values()])
    with reading(folder / _WEIGHTS, _SAVED, *STRUCTURE):
        if not (folder / _WEIGHTS).is_file():  # peft would look for it on the Hub
            raise FileNotFoundError(folder / _WEIGHTS)
        weights = peft.load_peft_weights(str(folder), device="cpu")
    highest = max((array.shape[0] for name, array in weights.items() if ".lora_A." in name), default=0)
    if claimed > highest:  # refused before adapters of that rank are allocated
        raise InputError(f"{folder} has adapters of rank {highest} and claims rank {claimed}", _SAVED)
    adapters = _wrapped(model, peft.LoraConfig(**settings))
    wrong = f"{folder} is of another architecture", "the model that the adapters were trained on"
    try:
        result = peft.set_peft_model_state_dict(adapters, weights)
        missing = [name for name in result.missing_keys if ".lora_" in name]
        if missing or result.unexpected_keys:
            named = ", ".join(sorted([*missing, *result.unexpected_keys])[:3])
            raise InputError(f"{wrong[0]}: it differs in {named}", wrong[1])
    except (RuntimeError, InputError) as error:
        _strip(model)
        raise error if isinstance(error, InputError) else InputError(*wrong) from error
    return adapters


def merge(adapters: Any) -> None:
    """Add the adapters of a PeftModel to the weights of its model, and restore the model's own layers."""
    adapters.merge_and_unload().requires_grad_(True)


def _settings(table: dict[str, Any]) -> dict[str, Any]:
    """Return the checked settings of an adapter_config.json."""
    if table["peft_type"] != "LORA" or table.get("bias", "none") != "none":
        raise InputError(f"adapters of the kind {table['peft_type']}, bias {table.get('bias', 'none')}", _SAVED)
    settings = {name: table[name] for name in _SETTINGS if name in table}
    for name, value in settings.items():
        checks.check(name, value, _SETTINGS[name])
    for name, kind in _PATTERNS.items():
        settings[name] = dict(table.get(name) or {})
        for pattern, value in settings[name].items():
            re.compile(pattern)
            checks.check(f"{name} of {pattern!r}", value, kind)
    checks.check("target_modules", table["target_modules"], tuple[str, ...])
    return {"r": 8, **settings, "target_modules": list(table["target_modules"])}


def _wrapped(model: nn.Module, config: Any) -> Any:
    """Add adapters of a configuration of peft."""
    if has(model):
        raise InputError("the model has adapters already", "merge_lora() first")
    peft = require("peft", package="d2m-generator", extra="lora")
    try:
        return peft.get_peft_model(model, config)
    except ValueError as error:
        _strip(model)
        given = f"no layer of the model takes adapters by the names {', '.join(sorted(config.target_modules))}"
        raise InputError(given, "ends of names of linear layers or convolutions") from error


def _strip(model: nn.Module) -> None:
    """Remove adapters that peft added, even to some layers only, and restore the model's own layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module.get_base_layer())
    model.requires_grad_(True)
