"""Generators in the folder format of diffusers; untrusted files are refused before they take more memory than disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    UNet2DModel,
)
from sextet_common import files
from sextet_common.errors import STRUCTURE, InputError, reading

SETTINGS = "d2m.json"
_MAX_TIMESTEPS = 1_000_000  # models have about a thousand; schedulers allocate a table of this length
_MODELS = {"unet": UNet2DModel, "transformer": DiTTransformer2DModel}
_OF_DIFFUSERS = (RuntimeError, NotImplementedError, ZeroDivisionError)  # on settings and weights that do not fit
_VAES = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny)}
_KINDS = (CMStochasticIterativeScheduler, DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler)
_SCHEDULERS = {kind.__name__: kind for kind in _KINDS}
_PREDICTIONS = ("epsilon", "sample", "v_prediction")

Model: TypeAlias = UNet2DModel | DiTTransformer2DModel
VAE: TypeAlias = AutoencoderKL | AutoencoderTiny
Scheduler: TypeAlias = CMStochasticIterativeScheduler | DDIMScheduler | DDPMScheduler | DPMSolverMultistepScheduler


class Parts(NamedTuple):
    """Contents of a folder: a model, its scheduler, an optional VAE, the settings of the sampling and class names."""

    model: Model
    scheduler: Scheduler
    vae: VAE | None
    settings: dict[str, Any]
    id2label: dict[str, str]


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
    pipeline = _index_of(parts)
    if pipeline is not None:
        index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__}
        index |= {name: ["diffusers", type(part).__name__] for name, part in sorted(named.items())}
        index |= {"id2label": parts.id2label} if parts.id2label else {}
        files.write_text(folder / "model_index.json", json.dumps(index, indent=2) + "\n")


def pipeline_of(parts: Parts) -> str | None:
    """Return the name of the pipeline of diffusers that generates images of given labels from these parts, if any."""
    consistency = isinstance(parts.scheduler, CMStochasticIterativeScheduler)
    if not isinstance(parts.model.config["sample_size"], int):
        return None
    if isinstance(parts.model, UNet2DModel):
        return "ConsistencyModelPipeline" if consistency and parts.vae is None else None
    return "DiTPipeline" if parts.vae is not None and not consistency else None


def _index_of(parts: Parts) -> str | None:
    """Return the pipeline that opens the folder; those of DDIM and DDPM pass no labels to the model."""
    if isinstance(parts.model, UNet2DModel) and parts.vae is None and not pipeline_of(parts):
        return {"DDPMScheduler": "DDPMPipeline", "CMStochasticIterativeScheduler": None}.get(
            type(parts.scheduler).__name__, "DDIMPipeline"
        )
    return pipeline_of(parts)


def read_parts(folder: Path, variant: str | None = None) -> Parts:
    """Read a local folder onto the CPU: the parts of model_index.json or, without it, those with the usual names."""
    settings = _table(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    index = _table(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    name = next((name for name in _MODELS if (folder / name / "config.json").is_file()), None)
    if name is None or not (folder / "scheduler" / "scheduler_config.json").is_file():
        raise InputError(f"{folder} lacks unet/ or transformer/, or scheduler/", "a folder in diffusers' format")
    _check_index(index, folder)
    table = _check_scheduler(folder / "scheduler" / "scheduler_config.json")
    with reading(folder, "complete files of one model", *STRUCTURE, *_OF_DIFFUSERS):
        model = _read({_MODELS[name].__name__: _MODELS[name]}, folder / name, variant)
        scheduler = _SCHEDULERS[table["_class_name"]].from_pretrained(folder / "scheduler", local_files_only=True)
        vae = _read(_VAES, folder / "vae", variant) if (folder / "vae" / "config.json").is_file() else None
        id2label = {str(key): str(label) for key, label in dict(index.get("id2label") or {}).items()}
        return Parts(model, scheduler, vae, settings, id2label)


def check_scheduler(scheduler: Any) -> None:
    """Refuse schedulers whose models are not sampled by DDIM or as consistency models."""
    kind, config = type(scheduler).__name__, scheduler.config
    if kind not in _SCHEDULERS:
        raise InputError(f"the scheduler {kind}", f"{', '.join(_SCHEDULERS)}: DDIMScheduler.from_config makes one")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise InputError(f"a scheduler with prediction_type {prediction}", ", ".join(_PREDICTIONS))
    if str(config.get("algorithm_type", "")).startswith("sde") or config.get("use_flow_sigmas"):
        given = f"a {kind} with algorithm_type {config['algorithm_type']}, use_flow_sigmas {config['use_flow_sigmas']}"
        raise InputError(given, "dpmsolver or dpmsolver++ without flow sigmas, or DDIMScheduler.from_config")


def _table(path: Path) -> dict[str, Any]:
    with reading(path, "a table that diffusers or save_pretrained wrote", TypeError):
        return dict(json.loads(path.read_text(encoding="utf-8")))


def _check_index(index: dict[str, Any], folder: Path) -> None:
    """Refuse a pipeline whose parts are of classes that are not sampled here."""
    known = {"scheduler": _SCHEDULERS, "vae": _VAES, **{n: {k.__name__: k} for n, k in _MODELS.items()}}
    for name, value in index.items():
        if isinstance(value, list) and value[:1] != [None] and value != [None, None]:
            kind = value[1] if len(value) == 2 else value
            if name not in known:
                raise InputError(f"{folder / 'model_index.json'} names the part {name}", ", ".join(known))
            if str(kind) not in known[name]:
                raise InputError(f"{folder / 'model_index.json'} names the {name} {kind}", ", ".join(known[name]))


def _read(kinds: Mapping[str, Any], folder: Path, variant: str | None) -> Any:
    """Read a model of one of some classes; its weights must be complete."""
    settings = _table(folder / "config.json")
    name = settings.get("_class_name", next(iter(kinds)))
    if name not in kinds:
        raise InputError(f"{folder / 'config.json'} names the class {name}", ", ".join(kinds))
    kind = kinds[name]
    _check_size(kind, folder)
    model, info = kind.from_pretrained(
        folder, local_files_only=True, variant=variant, torch_dtype=torch.float32, output_loading_info=True
    )
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        given = f"the weights of {folder} differ from its config.json in {', '.join(map(str, wrong[:3]))}{more}"
        raise InputError(given, "complete files of one model")
    return model


def _check_scheduler(path: Path) -> dict[str, Any]:
    """Refuse unknown schedulers and tables that would not fit into memory; return the settings."""
    table = _table(path)
    name = str(table.get("_class_name"))
    if name not in _SCHEDULERS:
        raise InputError(f"{path} names the scheduler {name}", f"{', '.join(_SCHEDULERS)}: from_config makes one")
    largest = max(_whole_numbers(table), default=0)
    if largest > _MAX_TIMESTEPS:
        raise InputError(f"{path} holds the number {largest}", f"at most {_MAX_TIMESTEPS}")
    return table


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
