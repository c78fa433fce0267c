"""What a generator is: noise and a class in, an image out, with gradients through all of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from sextet_common.errors import InputError
from sextet_common.networks import device_of
from sextet_common.seeding import generator as random_of
from torch import Tensor, nn


@runtime_checkable
class Generator(Protocol):
    """What everything here asks of a generator.

    Attributes
    ----------
    n_classes
        How many classes it knows.
    image_shape
        Channels, height and width of its images.
    noise_shape
        Shape of the noise that one image begins with.
    """

    n_classes: int
    image_shape: tuple[int, int, int]
    noise_shape: tuple[int, ...]

    def sample(
        self,
        labels: Int[Tensor, " batch"],
        seed: int | None = None,
        noise: Float[Tensor, "batch ..."] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Make an image of each label, pixels in [0, 1], differentiable."""
        ...


class ImageGenerator(nn.Module, ABC):
    """A generator that is a module: what one of one's own may derive from.

    A subclass sets the three attributes of `Generator` and defines `forward`, which maps noise and labels to images.
    """

    n_classes: int
    image_shape: tuple[int, int, int]
    noise_shape: tuple[int, ...]

    @abstractmethod
    def forward(
        self, noise: Float[Tensor, "batch ..."], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Make images, pixels in [-1, 1] or a little outside."""

    def groups(self) -> dict[str, Callable[[str], bool]]:
        """Tell, for every group of parameters that may learn alone, which parameters' names belong to it."""
        return {}

    def sample(
        self,
        labels: Int[Tensor, " batch"],
        seed: int | None = None,
        noise: Float[Tensor, "batch ..."] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Make an image of each label.

        Parameters
        ----------
        labels
            Class numbers, shape (batch,).
        seed
            Of the noise: image i of the batch has the noise of (seed, i).
        noise
            The noise itself, in the place of a seed, standard normal, shape (batch, *noise_shape).

        Returns
        -------
        Tensor
            Pixels, shape (batch, channels, height, width), on the generator's device. Gradients flow to parameters and
            noise. Values a little outside [0, 1] are left as they are, since clipping would stop their gradients.

        Raises
        ------
        InputError
            Where a label is out of range, or not exactly one of seed and noise is given, or the noise does not fit.
        """
        where = device_of(self)
        labels = check_labels(labels, self.n_classes).to(where)
        if (seed is None) == (noise is None):
            raise InputError("both a seed and noise" if noise is not None else "no seed and no noise", "one of them")
        if noise is None:
            noise = noise_of(range(len(labels)), self.noise_shape, seed or 0)
        if tuple(noise.shape) != (len(labels), *self.noise_shape):
            raise InputError(f"noise of shape {tuple(noise.shape)}", f"{(len(labels), *self.noise_shape)}")
        pixels: Tensor = (self(noise.to(where), labels) + 1) / 2
        return pixels


class ModuleGenerator(ImageGenerator):
    """Any module that maps (noise, labels) to images, as a generator.

    Parameters
    ----------
    module
        The module.
    n_classes
        How many classes it knows.
    image_shape
        Channels, height and width of its images.
    noise_shape
        Of the noise that one image begins with.
    value_range
        Which of the module's values are black and white.
    one_hot
        Give labels as rows of zeros and ones.

    Raises
    ------
    InputError
        Where the module makes images of another shape.

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
            raise InputError(f"value_range is {value_range}", "black before white")
        with torch.no_grad():
            where = device_of(module)
            made = self(torch.zeros(1, *noise_shape, device=where), torch.zeros(1, dtype=torch.long, device=where))
        if tuple(made.shape) != (1, *image_shape):
            raise InputError(f"the module makes images of shape {tuple(made.shape[1:])}", f"{image_shape}")

    def forward(
        self, noise: Float[Tensor, "batch ..."], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Make images, pixels in [-1, 1]."""
        given = nn.functional.one_hot(labels, self.n_classes).to(noise.dtype) if self.one_hot else labels
        images: Tensor = self.module(noise, given)
        return 2 * (images - self.low) / (self.high - self.low) - 1


def noise_of(numbers: Sequence[int], shape: tuple[int, ...], seed: int) -> Float[Tensor, "numbers ..."]:
    """Draw standard normal noise, a row for each number: the same row whatever else is asked for beside it.

    Parameters
    ----------
    numbers
        Whole numbers from 0 that name the rows.
    shape
        Of a row.
    seed
        Of all rows.

    Returns
    -------
    Tensor
        Float32, shape (numbers, *shape), on the CPU.

    Examples
    --------
    >>> bool((noise_of([5], (3,), seed=0) == noise_of(range(9), (3,), seed=0)[5]).all())
    True
    """
    rows = [random_of(seed, "noise", number).standard_normal(shape, dtype=np.float32) for number in numbers]
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, *shape)


def check_labels(labels: Int[Tensor, " batch"], n_classes: int) -> Int[Tensor, " batch"]:
    """Return labels as int64, or raise InputError where one is out of range or they are no whole numbers."""
    if labels.ndim != 1 or labels.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
        raise InputError(f"labels are {labels.dtype} of shape {tuple(labels.shape)}", "whole numbers, shape (batch,)")
    if labels.device.type == "cpu" and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        wrong = int(labels[(labels < 0) | (labels >= n_classes)][0])
        raise InputError(f"label {wrong}", f"0 to {n_classes - 1}")
    return labels.long()


def chosen_parameters(
    generator: nn.Module, which: str, groups: dict[str, Callable[[str], bool]]
) -> list[tuple[str, nn.Parameter]]:
    """Return a generator's parameters of a group by name, and freeze all others.

    Parameters
    ----------
    generator
        The module.
    which
        "all", or one of the groups.
    groups
        For each further group what tells whether a parameter's name belongs to it.

    Returns
    -------
    list
        Names and parameters, one at least.

    Raises
    ------
    InputError
        Where the group is unknown or empty.
    """
    if which != "all" and which not in groups:
        raise InputError(f"parameters {which!r} of a {type(generator).__name__}", ", ".join({"all": None, **groups}))
    found = []
    for name, parameter in generator.named_parameters():
        mine = groups[which](name) if which in groups else True
        parameter.requires_grad_(mine)
        if mine:
            found.append((name, parameter))
    if not found:
        raise InputError(f"no parameter of the {type(generator).__name__} is of {which!r}", "another group")
    return found
