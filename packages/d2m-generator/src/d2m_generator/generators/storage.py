"""Generators in folders: a GAN as one safetensors file, a diffusion model in the format of diffusers."""

from __future__ import annotations

import os
from pathlib import Path

from sextet_common import hub
from sextet_common.errors import InputError

from d2m_generator.generators.adapted import FILE as ADAPTED, AdaptedGenerator
from d2m_generator.generators.gan import FILE, ConditionalGAN
from d2m_generator.generators.generator import ImageGenerator


def check_savable(generator: ImageGenerator, *, adapters: bool = False) -> None:
    """Refuse a generator that `save_generator` cannot save; ``adapters`` are saved alone where they are trained."""
    if isinstance(generator, AdaptedGenerator):
        return check_savable(generator.generator, adapters=adapters)
    if isinstance(generator, ConditionalGAN):
        return None
    from d2m_generator.generators.diffusion import DiffusionGenerator

    if not isinstance(generator, DiffusionGenerator):
        raise InputError(f"a {type(generator).__name__} cannot be saved", "a ConditionalGAN or a DiffusionGenerator")
    return None if adapters else generator.check_merged()


def save_generator(generator: ImageGenerator, folder: str | os.PathLike[str]) -> Path:
    """Save a generator into a folder, atomically, and return the folder.

    It is a `ConditionalGAN`, a `DiffusionGenerator` or an `AdaptedGenerator` of one. Others, such as a
    `ModuleGenerator`, are the user's own code and are refused.
    """
    check_savable(generator)
    folder = Path(folder)
    if isinstance(generator, AdaptedGenerator):
        save_generator(generator.generator, folder)
        generator.save_settings(folder)
        return folder
    (folder / ADAPTED).unlink(missing_ok=True)
    if isinstance(generator, ConditionalGAN):
        generator.save(folder / FILE)
        return folder
    from d2m_generator.generators.diffusion import DiffusionGenerator

    assert isinstance(generator, DiffusionGenerator)
    return generator.save_pretrained(folder)


def folder_of(name_or_path: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """Return a local folder; what does not exist and has the form OWNER/NAME is taken from the Hugging Face Hub."""
    folder = Path(name_or_path)
    if not folder.exists() and not folder.is_absolute() and len(folder.parts) == 2:
        return hub.local_folder(folder, revision=revision)
    return folder


def load_generator(name_or_path: str | os.PathLike[str], *, revision: str | None = None) -> ImageGenerator:
    """Load a generator onto the CPU, in evaluation mode.

    The folder is one that `save_generator` or `export_hub` wrote, or a run folder of pretrain or distill. OWNER/NAME is
    a repository of the Hugging Face Hub (extra ``hub``), and ``revision`` a branch, tag or commit of it.
    """
    folder = folder_of(name_or_path, revision=revision)
    if (folder / "generator").is_dir():
        folder = folder / "generator"
    generator = _plain(folder)
    return AdaptedGenerator.with_settings(generator, folder / ADAPTED) if (folder / ADAPTED).is_file() else generator


def _plain(folder: Path) -> ImageGenerator:
    if (folder / FILE).is_file():
        return ConditionalGAN.load(folder / FILE)
    if (folder / "d2m.json").is_file() or (folder / "scheduler").is_dir():
        from d2m_generator.generators.diffusion import DiffusionGenerator

        return DiffusionGenerator.from_pretrained(folder)
    accepted = f"a run folder, or a folder with {FILE} or of a pipeline of diffusers"
    raise InputError(f"{folder} holds no generator", accepted)
