"""Generators in folders: a GAN as one safetensors file, a diffusion model in the format of diffusers."""

from __future__ import annotations

import os
from pathlib import Path

from sextet_common import hub
from sextet_common.errors import InputError

from d2m_generator.generators.gan import FILE, ConditionalGAN
from d2m_generator.generators.generator import ImageGenerator


def check_savable(generator: ImageGenerator) -> None:
    """Refuse a generator that `save_generator` cannot save."""
    if isinstance(generator, ConditionalGAN):
        return
    from d2m_generator.generators.diffusion import DiffusionGenerator

    if not isinstance(generator, DiffusionGenerator):
        raise InputError(f"a {type(generator).__name__} cannot be saved", "a ConditionalGAN or a DiffusionGenerator")


def save_generator(generator: ImageGenerator, folder: str | os.PathLike[str]) -> Path:
    """Save a `ConditionalGAN` or a `DiffusionGenerator` into a folder, atomically, and return the folder.

    Other generators, such as a `ModuleGenerator`, are the user's own code and are refused.
    """
    check_savable(generator)
    folder = Path(folder)
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
    if (folder / FILE).is_file():
        return ConditionalGAN.load(folder / FILE)
    if (folder / "d2m.json").is_file():
        from d2m_generator.generators.diffusion import DiffusionGenerator

        return DiffusionGenerator.from_pretrained(folder)
    accepted = f"a run folder, or a folder with {FILE} or with d2m.json beside files of diffusers"
    raise InputError(f"{folder} holds no generator", accepted)
