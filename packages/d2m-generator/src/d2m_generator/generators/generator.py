"""The generator interface: noise and a class label in, a differentiable image out."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from sextet_common import seeding
from sextet_common.errors import InputError
from sextet_common.networks import device_of
from torch import Tensor, nn

Noise = Float[Tensor, "batch ..."]
Labels = Int[Tensor, " batch"]
Images = Float[Tensor, "batch channels height width"]
Groups = dict[str, Callable[[str], bool]]
"""For each named group of parameters, whether a parameter of a given name belongs to it."""

_BLOCK = 64  # rows of noise that one generator of random numbers draws: creating it costs more than they do


@runtime_checkable
class Generator(Protocol):
    """A class-conditional image generator.

    ``image_shape`` is channels, height and width; ``noise_shape`` is the shape of the noise for one image.
    """

    n_classes: int
    image_shape: tuple[int, int, int]
    noise_shape: tuple[int, ...]

    def sample(self, labels: Labels, seed: int | None = None, noise: Noise | None = None) -> Images:
        """Generate one image per label, pixels in [0, 1], differentiable."""
        ...


class ImageGenerator(nn.Module, ABC):
    """Base class of generators that are modules, including user-defined ones.

    A subclass sets the three attributes of `Generator` and defines `forward`, which maps noise and labels to images.
    """

    n_classes: int
    image_shape: tuple[int, int, int]
    noise_shape: tuple[int, ...]

    @abstractmethod
    def forward(self, noise: Noise, labels: Labels) -> Images:
        """Generate images, pixels in [-1, 1] or slightly outside."""

    def groups(self) -> Groups:
        """Return the groups of parameters that can be trained alone."""
        return {}

    def latent_layers(self) -> tuple[str, ...]:
        """Return the names of the layers at which an image can have latents of its own; the first is the noise."""
        return ("noise",)

    def latents(self, noise: Noise, labels: Labels, layer: str = "noise") -> dict[str, Tensor]:
        """Return what `decode` makes the images of noise and labels from, at one of the `latent_layers`."""
        check_layer(self, layer)
        return {"noise": noise}

    def decode(self, latents: Mapping[str, Tensor], labels: Labels) -> Images:
        """Generate images from `latents`, one row per label, pixels in [-1, 1] or slightly outside."""
        images: Tensor = self(latents["noise"], labels)
        return images

    def sample(self, labels: Labels, seed: int | None = None, noise: Noise | None = None) -> Images:
        """Generate one image per label (a class index), on the generator's device.

        Image i of the batch uses the noise of (seed, i), unless standard normal noise of shape (batch, *noise_shape) is
        given. Gradients flow to the parameters and the noise. Values slightly outside [0, 1] are not clipped, since
        clipping would stop their gradients.
        """
        device = device_of(self)
        labels = check_labels(labels, self.n_classes).to(device)
        if (seed is None) == (noise is None):
            raise InputError("both a seed and noise" if noise is not None else "no seed and no noise", "one of them")
        if noise is None:
            noise = noise_of(range(len(labels)), self.noise_shape, seed or 0)
        if tuple(noise.shape) != (len(labels), *self.noise_shape):
            raise InputError(f"noise of shape {tuple(noise.shape)}", f"{(len(labels), *self.noise_shape)}")
        pixels: Tensor = (self(noise.to(device), labels) + 1) / 2
        return pixels


class ModuleGenerator(ImageGenerator):
    """Adapter that makes a generator of any module that maps (noise, labels) to images.

    ``value_range`` holds the values of the module's output that are black and white; ``one_hot`` passes labels as
    one-hot rows instead of class indices. The other parameters are the attributes of `Generator`.

    Examples
    --------
    >>> class Constant(nn.Module):
    ...     def forward(self, noise, labels):
    ...         return noise[:, :1, None, None].expand(-1, 1, 8, 8)
    >>> ModuleGenerator(Constant(), 10, (1, 8, 8), (4,)).sample(torch.tensor([0, 3]), seed=1).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        module: nn.Module,
        n_classes: int,
        image_shape: tuple[int, int, int],
        noise_shape: tuple[int, ...],
        *,
        value_range: tuple[float, float] = (-1.0, 1.0),
        one_hot: bool = False,
    ) -> None:
        super().__init__()
        self.module = module
        self.n_classes, self.image_shape, self.noise_shape = n_classes, image_shape, noise_shape
        self.low, self.high = value_range
        self.one_hot = one_hot
        if not self.low < self.high:
            raise InputError(f"value_range must be (black, white) with black < white, got {value_range}")
        with torch.no_grad():
            device = device_of(module)
            image = self(torch.zeros(1, *noise_shape, device=device), torch.zeros(1, dtype=torch.long, device=device))
        if tuple(image.shape) != (1, *image_shape):
            raise InputError(f"the module generates images of shape {tuple(image.shape[1:])}", f"{image_shape}")

    def forward(self, noise: Noise, labels: Labels) -> Images:
        """Generate images, pixels in [-1, 1]."""
        inputs = nn.functional.one_hot(labels, self.n_classes).to(noise.dtype) if self.one_hot else labels
        images: Tensor = self.module(noise, inputs)
        return 2 * (images - self.low) / (self.high - self.low) - 1


def noise_of(numbers: Sequence[int], shape: tuple[int, ...], seed: int, *key: int) -> Float[Tensor, "numbers ..."]:
    """Draw one row of standard normal float32 noise per number; a row depends on seed, key and its number alone.

    Numbers that follow one another are drawn in blocks of 64.

    Examples
    --------
    >>> bool((noise_of([5], (3,), seed=0) == noise_of(range(9), (3,), seed=0)[5]).all())
    True
    """
    rows = np.empty((len(numbers), *shape), dtype=np.float32)
    blocks, within = np.divmod(np.asarray(numbers, dtype=np.int64), _BLOCK)
    ends = np.flatnonzero(np.diff(blocks)) + 1
    for start, stop in itertools.pairwise([0, *ends.tolist(), len(rows)]):
        if start < stop:
            chosen = within[start:stop]
            source = seeding.generator(seed, "noise", *key, int(blocks[start]))
            rows[start:stop] = source.standard_normal((chosen.max() + 1, *shape), dtype=np.float32)[chosen]
    return torch.from_numpy(rows)


def check_labels(labels: Labels, n_classes: int) -> Labels:
    """Return labels as int64; refuse other types and, on the CPU, labels out of range."""
    if labels.ndim != 1 or labels.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
        raise InputError(f"labels are {labels.dtype} of shape {tuple(labels.shape)}", "whole numbers, shape (batch,)")
    if labels.device.type == "cpu" and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        wrong = int(labels[(labels < 0) | (labels >= n_classes)][0])
        raise InputError(f"label {wrong}", f"0 to {n_classes - 1}")
    return labels.long()


def check_layer(generator: ImageGenerator, layer: str) -> None:
    """Refuse a layer that the generator does not have."""
    if layer not in generator.latent_layers():
        raise InputError(f"layer {layer!r} of a {type(generator).__name__}", ", ".join(generator.latent_layers()))


@contextmanager
def unchanged_flags(generator: nn.Module) -> Iterator[None]:
    """Restore at the end which parameters take gradients."""
    flags = [(parameter, parameter.requires_grad) for parameter in generator.parameters()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def chosen_parameters(generator: nn.Module, group: str, groups: Groups) -> list[tuple[str, nn.Parameter]]:
    """Return the names and parameters of "all" or of one of the groups, at least one, and freeze all others."""
    kind = type(generator).__name__
    if group != "all" and group not in groups:
        raise InputError(f"parameters {group!r} of a {kind}", ", ".join({"all": None, **groups}))
    chosen = []
    for name, parameter in generator.named_parameters():
        trained = groups[group](name) if group in groups else True
        parameter.requires_grad_(trained)
        if trained:
            chosen.append((name, parameter))
    if not chosen:
        raise InputError(f"no parameter of the {kind} is in the group {group!r}", "another group")
    return chosen
