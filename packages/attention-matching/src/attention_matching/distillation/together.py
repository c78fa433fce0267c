"""Several distillations that share their draws and the pass of the real images: what they may differ in."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from sextet_common import runs
from sextet_common.checks import Count
from sextet_common.errors import InputError

from attention_matching.distillation.config import DistillConfig, PixelRange
from attention_matching.kinds import Method

# Settings of one set alone: nothing that is drawn, and no real image's features, depend on them.
_OWN = (
    "ipc",
    "method",
    "power",
    "feature_weight",
    "attention_weight",
    "loss_scale",
    "pixels",
    "image_lr",
    "image_momentum",
    "initial",
)
_PLAIN = ("method", "pixels", "initial")  # values that say what they are without the setting's name


@dataclasses.dataclass(frozen=True)
class DistillOptions(DistillConfig):
    """The options of the command: a configuration for every method, number of images and range of pixels."""

    method: tuple[Method, ...] = ("datadam",)  # type: ignore[assignment]  # several of them
    """datadam (spatial attention and features), atom (channel attention too), dm (features alone). Several are
    distilled together, in little more time than one."""
    ipc: tuple[Count, ...] = (1,)  # type: ignore[assignment]
    """Images per class; several numbers are distilled together."""
    pixels: tuple[PixelRange, ...] = ("valid",)  # type: ignore[assignment]
    """valid: after every step the pixels are clamped to [0, 1]. free: not clamped, as published; many leave [0, 1]."""

    def configs(self) -> list[DistillConfig]:
        """Return the configurations."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(DistillConfig)}
        several = itertools.product(self.method, self.ipc, self.pixels)
        return [DistillConfig(**{**settings, "method": m, "ipc": n, "pixels": p}) for m, n, p in several]


def names_of(configs: Sequence[DistillConfig]) -> list[str]:
    """Return a name for each of several resolved configurations, by the settings in which they differ.

    Examples
    --------
    >>> names_of([DistillConfig(ipc=ipc, method=method) for method in ("dm", "atom") for ipc in (1, 10)])
    ['dm-ipc1', 'dm-ipc10', 'atom-ipc1', 'atom-ipc10']
    >>> names_of([DistillConfig()])
    ['']
    """
    if not configs:
        raise InputError("configs must be at least one, got none")
    if len(configs) == 1:
        return [""]
    first = configs[0]
    for name, value in runs.to_json(first).items():
        other = next((c for c in configs if runs.to_json(c)[name] != value), None)
        if other is not None and name not in _OWN:
            raise InputError(
                f"configurations that are distilled together must have the same {name}, got {value!r} and "
                f"{getattr(other, name)!r}",
                f"differences only in {', '.join(_OWN)}",
            )
    names = [_name(config, _telling(configs)) for config in configs]
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise InputError(f"two of the configurations are the same ({twice or first.method})", "each once")
    return names


def record_of(configs: Sequence[DistillConfig], names: Sequence[str]) -> dict[str, Any]:
    """Return what a run folder records: the settings, those that differ as lists, and in full under ``options``."""
    if len(configs) == 1:
        return runs.to_json(configs[0])
    tables = [runs.to_json(config) for config in configs]
    shared = {key: value for key, value in tables[0].items() if all(table[key] == value for table in tables)}
    own = {name: {k: v for k, v in table.items() if k not in shared} for name, table in zip(names, tables, strict=True)}
    listed = {key: list(dict.fromkeys(table[key] for table in tables)) for key in ("method", "ipc", "pixels")}
    return {**shared, **{key: values for key, values in listed.items() if key not in shared}, "options": own}


def _telling(configs: Sequence[DistillConfig]) -> list[str]:
    """Return the settings that name the configurations: those that differ, but none that follows from the method."""
    differ = [name for name in (*_PLAIN, *_OWN) if len({getattr(c, name) for c in configs}) > 1]
    telling: list[str] = []
    for name in dict.fromkeys(differ):
        before = {_name(c, telling) for c in configs}
        if len({_name(c, [*telling, name]) for c in configs}) > len(before):
            telling.append(name)
    return telling


def _name(config: DistillConfig, settings: Sequence[str]) -> str:
    values = [(name, getattr(config, name)) for name in settings]
    return "-".join(f"{value}" if name in _PLAIN else f"{name.replace('_', '-')}{value}" for name, value in values)
