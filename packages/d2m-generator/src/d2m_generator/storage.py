"""Generators in folders: a GAN as one safetensors file, a diffusion model in diffusers' own format."""

from __future__ import annotations

import os
from pathlib import Path

from sextet_common.errors import InputError

from d2m_generator.gan import ConditionalGAN
from d2m_generator.generator import ImageGenerator

GAN_FILE = "generator.safetensors"


def save_generator(generator: ImageGenerator, folder: str | os.PathLike[str]) -> Path:
    """Save a generator into a folder, whole or not at all.

    Parameters
    ----------
    generator
        A `ConditionalGAN` or a `DiffusionGenerator`.
    folder
        Where.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        For another kind of generator: a module of one's own is saved by its owner.
    """
    folder = Path(folder)
    if isinstance(generator, ConditionalGAN):
        generator.save(folder / GAN_FILE)
        return folder
    from d2m_generator.diffusion import DiffusionGenerator

    if not isinstance(generator, DiffusionGenerator):
        raise InputError(f"a {type(generator).__name__} to save", "a ConditionalGAN or a DiffusionGenerator")
    generator.save_pretrained(folder)
    return folder


def load_generator(folder: str | os.PathLike[str]) -> ImageGenerator:
    """Read a generator that `save_generator` wrote, or a run's.

    Parameters
    ----------
    folder
        Its folder, or the run folder of pretrain or distill, of which the generator is taken.

    Returns
    -------
    ImageGenerator
        The generator, on the CPU, in evaluation.

    Raises
    ------
    InputError
        Where the folder holds none.
    """
    folder = Path(folder)
    inner = folder / "generator"
    if inner.is_dir():
        folder = inner
    if (folder / GAN_FILE).is_file():
        return ConditionalGAN.load(folder / GAN_FILE)
    if (folder / "d2m.json").is_file():
        from d2m_generator.diffusion import DiffusionGenerator

        return DiffusionGenerator.from_pretrained(folder)
    raise InputError(f"{folder} holds no generator", f"a run folder, or {GAN_FILE} or diffusers' files with d2m.json")
