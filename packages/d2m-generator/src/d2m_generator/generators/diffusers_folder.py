"""Generators in the folder format of diffusers; untrusted files are refused before they take more memory than disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    UNet2DModel,
)
from sextet_common import files
from sextet_common.errors import STRUCTURE, InputError, reading

SETTINGS = "d2m.json"
_MAX_TIMESTEPS = 1_000_000  # models have about a thousand; schedulers allocate a table of this length
_MODELS = {"unet": UNet2DModel, "transformer": DiTTransformer2DModel}
_OF_DIFFUSERS = (RuntimeError, NotImplementedError, ZeroDivisionError)  # on settings and weights that do not fit
_SCHEDULERS = {s.__name__: s for s in (CMStochasticIterativeScheduler, DDIMScheduler, DDPMScheduler)}

Model: TypeAlias = UNet2DModel | DiTTransformer2DModel
Scheduler: TypeAlias = CMStochasticIterativeScheduler | DDIMScheduler | DDPMScheduler


class Parts(NamedTuple):
    """Contents of a folder: a model, its scheduler, an optional VAE, and the settings of the sampling."""

    model: Model
    scheduler: Scheduler
    vae: AutoencoderKL | None
    settings: dict[str, Any]


def replace_parts(folder: Path, parts: Parts) -> None:
    """Write a folder atomically; a folder of another kind is refused."""
    if folder.exists() and any(folder.iterdir()) and not (folder / SETTINGS).is_file():
        raise InputError(f"{folder} holds something else", "a new folder")
    with files.replacing_folder(folder) as part:
        write_parts(part, parts)


def write_parts(folder: Path, parts: Parts) -> None:
    """Write the files into an empty folder, with model_index.json where a pipeline of diffusers opens them."""
    named = {"scheduler": parts.scheduler} if parts.vae is None else {"scheduler": parts.scheduler, "vae": parts.vae}
    named |= {name: parts.model for name, kind in _MODELS.items() if isinstance(parts.model, kind)}
    for name, part in named.items():
        part.save_pretrained(folder / name)
    files.write_text(folder / SETTINGS, json.dumps(parts.settings, indent=1) + "\n")
    pipeline = pipeline_of(parts)
    if pipeline is not None:
        index = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__}
        index |= {name: ["diffusers", type(part).__name__] for name, part in sorted(named.items())}
        files.write_text(folder / "model_index.json", json.dumps(index, indent=2) + "\n")


def pipeline_of(parts: Parts) -> str | None:
    """Return the name of the pipeline of diffusers that generates images of given labels from these parts, if any."""
    consistency = isinstance(parts.scheduler, CMStochasticIterativeScheduler)
    if not isinstance(parts.model.config["sample_size"], int):
        return None
    if isinstance(parts.model, UNet2DModel):
        return "ConsistencyModelPipeline" if consistency and parts.vae is None else None
    return "DiTPipeline" if parts.vae is not None and not consistency else None


def read_parts(folder: Path) -> Parts:
    """Read a local folder onto the CPU: unet/ or transformer/, scheduler/, optionally vae/ and d2m.json."""
    settings: dict[str, Any] = {}
    if (folder / SETTINGS).is_file():
        with reading(folder / SETTINGS, "what save_pretrained wrote", TypeError):
            settings = dict(json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
    names = [name for name in _MODELS if (folder / name / "config.json").is_file()]
    if not names or not (folder / "scheduler" / "scheduler_config.json").is_file():
        raise InputError(f"{folder} lacks unet/ or transformer/, or scheduler/", "a folder in diffusers' format")
    _check_scheduler(folder / "scheduler" / "scheduler_config.json")
    with reading(folder, "complete files of one model", *STRUCTURE, *_OF_DIFFUSERS):
        model = _read(_MODELS[names[0]], folder / names[0])
        table = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        scheduler = _SCHEDULERS[table["_class_name"]].from_pretrained(folder / "scheduler", local_files_only=True)
        vae = _read(AutoencoderKL, folder / "vae") if (folder / "vae" / "config.json").is_file() else None
        return Parts(model, scheduler, vae, settings)


def _read(kind: Any, folder: Path) -> Any:
    _check_size(kind, folder)
    return kind.from_pretrained(folder, local_files_only=True)


def _check_scheduler(path: Path) -> None:
    """Refuse unknown schedulers and tables that would not fit into memory."""
    with reading(path, "the settings of a scheduler in diffusers' format", TypeError):
        table = dict(json.loads(path.read_text(encoding="utf-8")))
    name = str(table.get("_class_name"))
    if name not in _SCHEDULERS:
        raise InputError(f"{path} names the scheduler {name}", ", ".join(_SCHEDULERS))
    largest = max(_whole_numbers(table), default=0)
    if largest > _MAX_TIMESTEPS:
        raise InputError(f"{path} holds the number {largest}", f"at most {_MAX_TIMESTEPS}")


def _check_size(kind: Any, folder: Path) -> None:
    """Refuse settings that claim more weights than the files beside them have bytes, before any is allocated."""
    available = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    settings = kind.load_config(folder, local_files_only=True)
    if not isinstance(settings, dict):  # diffusers would take it for the name of a model to download
        raise InputError(f"{folder / 'config.json'} holds {type(settings).__name__}", "a table")
    claimed = max(_whole_numbers(settings), default=0)
    if claimed <= available:  # so that constructing the model on the meta device is cheap too
        with torch.device("meta"):
            claimed = sum(parameter.numel() for parameter in kind.from_config(settings).parameters())
    if claimed > available:
        given = f"{folder} holds {available} bytes of weights, and its config.json claims {claimed} numbers"
        raise InputError(given, "complete files of one model")


def _whole_numbers(value: object) -> Iterator[int]:
    """Yield every whole number in a JSON value."""
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _whole_numbers(item)
    elif isinstance(value, int):
        yield value
