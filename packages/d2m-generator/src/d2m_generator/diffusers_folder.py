"""A generator's folder in diffusers' format, read as what it is: files from anywhere, bounded by their own size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import (
    AutoencoderKL,
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    UNet2DModel,
)
from sextet_common.errors import InputError, reading

FILE = "d2m.json"
_MOST_TIMESTEPS = 1_000_000  # of a schedule that is read: a thousand is what models have, and a table is made of them


class Parts(NamedTuple):
    """What is in such a folder: the model, its scheduler, perhaps a VAE, and what d2m.json says of the sampling."""

    model: UNet2DModel | DiTTransformer2DModel
    scheduler: CMStochasticIterativeScheduler | DDIMScheduler | DDPMScheduler
    vae: AutoencoderKL | None
    settings: dict[str, Any]


def read_parts(folder: Path) -> Parts:
    """Read a folder; nothing is fetched.

    Parameters
    ----------
    folder
        Holds unet/ or transformer/, scheduler/, perhaps vae/, perhaps d2m.json.

    Returns
    -------
    Parts
        The parts, on the CPU.

    Raises
    ------
    InputError
        Where a part is missing, damaged, of a kind that is not known here, or claims more than its files hold.
    """
    known: dict[str, Any] = {}
    if (folder / FILE).is_file():
        with reading(folder / FILE, "what save wrote"):
            known = dict(json.loads((folder / FILE).read_text(encoding="utf-8")))
    kinds = {"unet": UNet2DModel, "transformer": DiTTransformer2DModel}
    found = [name for name in kinds if (folder / name / "config.json").is_file()]
    if not found or not (folder / "scheduler" / "scheduler_config.json").is_file():
        raise InputError(f"{folder} lacks unet/ or transformer/, or scheduler/", "a folder in diffusers' format")
    with reading(folder / "scheduler" / "scheduler_config.json", "a scheduler's settings in diffusers' format"):
        table = dict(json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")))
    schedulers = {s.__name__: s for s in (CMStochasticIterativeScheduler, DDIMScheduler, DDPMScheduler)}
    name = str(table.get("_class_name"))
    if name not in schedulers:
        raise InputError(f"{folder} has the scheduler {name}", ", ".join(schedulers))
    if max(_whole_numbers(table), default=0) > _MOST_TIMESTEPS:
        raise InputError(f"{folder} has {max(_whole_numbers(table))} in its scheduler", f"at most {_MOST_TIMESTEPS}")
    with reading(folder, "whole files of one model"):
        _check_size(kinds[found[0]], folder / found[0])
        model = kinds[found[0]].from_pretrained(folder / found[0], local_files_only=True)
        scheduler = schedulers[name].from_pretrained(folder / "scheduler", local_files_only=True)
        vae = None
        if (folder / "vae" / "config.json").is_file():
            _check_size(AutoencoderKL, folder / "vae")
            vae = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True)
        return Parts(model, scheduler, vae, known)


def _check_size(kind: Any, folder: Path) -> None:
    """Raise InputError where settings claim more weights than the files beside them have bytes, before any is made."""
    held = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    settings = kind.load_config(folder, local_files_only=True)
    if not isinstance(settings, dict):  # diffusers would take it for the name of a model to fetch
        raise InputError(f"{folder / 'config.json'} holds {type(settings).__name__}", "a table")
    claimed = max(_whole_numbers(settings), default=0)
    if claimed <= held:  # so that this is not too large either
        with torch.device("meta"):
            claimed = sum(parameter.numel() for parameter in kind.from_config(settings).parameters())
    if claimed > held:
        given = f"{folder} holds {held} bytes of weights, and its config.json claims {claimed} numbers"
        raise InputError(given, "whole files of one model")


def _whole_numbers(value: object) -> Iterator[int]:
    """Give every whole number in a value of JSON."""
    if isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _whole_numbers(each)
    elif isinstance(value, int):
        yield value
