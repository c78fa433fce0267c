"""Synthetic images stored as latents of a generator."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from sextet_common import checkpoint, runs
from sextet_common.errors import STRUCTURE, InputError, reading
from sextet_common.networks import device_of
from torch import Tensor

from d2m_generator.generators.generator import Generator, ImageGenerator, check_layer
from d2m_generator.generators.storage import folder_of, load_generator, save_generator

FILE = "latents.safetensors"
_KIND = "latents"
_WRITTEN = "latents that LatentSet.save wrote"


@dataclass(frozen=True, eq=False)
class LatentSet:
    """A fixed number of images per class, as the latents at one layer of a generator.

    `synthesize`, `stream`, `evaluate_generator`, `Judge`, `save_samples` and `export_hub` take it as they take a
    generator; a seed changes nothing. ``latents`` are what `ImageGenerator.latents` returns, tensors of shape
    (images, ...), class after class with ``ipc`` rows each. The generator is not copied: its training changes the
    images.

    Examples
    --------
    >>> from d2m_generator import ConditionalGAN, synthesize
    >>> gan, labels = ConditionalGAN(2, (1, 8, 8), width=4), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> few = LatentSet(gan, "block-0", gan.latents(torch.randn(6, 64), labels, "block-0"))
    >>> few, len(synthesize(few, ipc=2))
    (LatentSet(ConditionalGAN, 'block-0', ipc=3, numbers per image=224), 4)
    """

    generator: ImageGenerator
    layer: str
    latents: Mapping[str, Float[Tensor, "images ..."]]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_layer(self.generator, self.layer)
        object.__setattr__(self, "latents", {n: t.detach().cpu().float() for n, t in self.latents.items()})
        with torch.no_grad():
            device = device_of(self.generator)
            noise = torch.zeros(1, *self.generator.noise_shape, device=device)
            like = self.generator.latents(noise, torch.zeros(1, dtype=torch.long, device=device), self.layer)
        expected = {name: tuple(tensor.shape[1:]) for name, tensor in like.items()}
        shapes = {name: tuple(tensor.shape[1:]) for name, tensor in self.latents.items()}
        if shapes != expected:
            raise InputError(f"latents of shapes {shapes} at layer {self.layer}", f"{expected}")
        counts = {len(tensor) for tensor in self.latents.values()}
        if len(counts) != 1 or not min(counts) or min(counts) % self.n_classes:
            given = f"latents of {', '.join(map(str, sorted(counts)))} images"
            raise InputError(given, f"equally many of each of {self.n_classes} classes")
        if not all(bool(tensor.isfinite().all()) for tensor in self.latents.values()):
            raise InputError("latents that are not finite", "finite numbers")

    def __repr__(self) -> str:
        numbers = sum(math.prod(tensor.shape[1:]) for tensor in self.latents.values())
        kind = type(self.generator).__name__
        return f"LatentSet({kind}, {self.layer!r}, ipc={self.ipc}, numbers per image={numbers})"

    def __len__(self) -> int:
        return len(next(iter(self.latents.values())))

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.generator.n_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.generator.image_shape

    @property
    def ipc(self) -> int:
        """Images per class."""
        return len(self) // self.n_classes

    def images(self, rows: Tensor) -> Float[Tensor, "rows channels height width"]:
        """Generate the images of some rows, pixels in about [0, 1], on the generator's device."""
        device = device_of(self.generator)
        latents = {name: tensor[rows].to(device) for name, tensor in self.latents.items()}
        pixels: Tensor = (self.generator.decode(latents, (rows // self.ipc).to(device)) + 1) / 2
        return pixels

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Save the generator and latents.safetensors into a folder, each atomically, and return the folder."""
        folder = Path(folder)
        save_generator(self.generator, folder / "generator")
        self.save_latents(folder / FILE)
        return folder

    def save_latents(self, path: str | os.PathLike[str]) -> None:
        """Save the latents alone as one safetensors file."""
        weights = fingerprint(self.generator)
        meta = {"kind": _KIND, "layer": self.layer, "generator_sha256": weights, "meta": self.meta}
        checkpoint.save(path, dict(self.latents), meta)

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str], *, revision: str | None = None) -> LatentSet:
        """Load a set from a folder of `save` or `export_hub`, a run folder, or OWNER/NAME on the Hugging Face Hub."""
        folder = folder_of(name_or_path, revision=revision)
        generator = load_generator(folder)
        loaded = checkpoint.load(folder / FILE, "torch")
        if loaded.meta.get("kind") != _KIND:
            raise InputError(f"{folder / FILE} holds {loaded.meta.get('kind', 'something else')}", _WRITTEN)
        if loaded.meta.get("generator_sha256") != fingerprint(generator):
            raise InputError(f"{folder / FILE} belongs to other weights than the generator beside it", _WRITTEN)
        with reading(folder / FILE, _WRITTEN, *STRUCTURE):
            layer, meta = str(loaded.meta["layer"]), dict(loaded.meta["meta"])
            return cls(generator, layer, loaded.arrays, meta)


ImageSource: TypeAlias = Generator | LatentSet
"""Where numbered images of classes come from: new samples of a generator, or a fixed set of latents."""


def rows_of(latents: LatentSet, labels: np.ndarray, numbers: np.ndarray) -> Tensor:
    """Return the rows of images of given numbers of their labels; more than the set has are refused."""
    if len(numbers) and numbers.max() >= latents.ipc:
        raise InputError(f"{numbers.max() + 1} images per class", f"at most {latents.ipc}, which the latent set has")
    return torch.from_numpy(labels * latents.ipc + numbers)


def load_source(name_or_path: str | os.PathLike[str], *, revision: str | None = None) -> ImageGenerator | LatentSet:
    """Load the latent set of a folder that has one, else its generator; see `LatentSet.load` and `load_generator`."""
    folder = folder_of(name_or_path, revision=revision)
    return LatentSet.load(folder) if (folder / FILE).is_file() else load_generator(folder)


def fingerprint(generator: ImageGenerator) -> str:
    """Return a SHA-256 of a generator's weights."""
    return runs.fingerprint(*(tensor for tensor in generator.state_dict().values() if tensor.numel()))
