"""Grid of ConvNets that an architecture search chooses from."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, fields

from sextet_common.errors import InputError

from attention_matching.kinds import Activation, Norm, Pooling
from attention_matching.networks.convnet import ConvNet


@dataclass(frozen=True)
class Candidate:
    """One ConvNet of a grid: the arguments of :class:`~attention_matching.ConvNet`.

    Examples
    --------
    >>> print(Candidate(width=8, depth=2, norm="batch", activation="relu", pooling="max"))
    8x2 batch relu max
    """

    width: int
    depth: int
    norm: Norm
    activation: Activation
    pooling: Pooling

    def __str__(self) -> str:
        return f"{self.width}x{self.depth} {self.norm} {self.activation} {self.pooling}"

    def build(self, image_shape: tuple[int, int, int], n_classes: int) -> ConvNet:
        """Build the untrained network on the CPU, from torch's global generator."""
        return ConvNet(image_shape, n_classes, **asdict(self))


@dataclass(frozen=True)
class Grid:
    """All combinations of these settings; the default has 96, for small images, and is not from a paper."""

    widths: tuple[int, ...] = (8, 32)
    """Channels of every block."""
    depths: tuple[int, ...] = (1, 2)
    """Numbers of blocks."""
    norms: tuple[Norm, ...] = ("none", "batch", "layer", "instance")
    """Normalisations."""
    activations: tuple[Activation, ...] = ("sigmoid", "relu")
    """Activations."""
    poolings: tuple[Pooling, ...] = ("none", "max", "avg")
    """Poolings."""

    def architectures(self) -> tuple[Candidate, ...]:
        """Return all combinations, narrow and shallow ones first.

        Examples
        --------
        >>> len(Grid().architectures()), len(PAPERS_GRID.architectures())
        (96, 720)
        """
        for field in fields(self):
            values = getattr(self, field.name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"{field.name} are {values}", "at least one, each once")
        axes = (self.widths, self.depths, self.norms, self.activations, self.poolings)
        return tuple(Candidate(*values) for values in itertools.product(*axes))


PAPERS_GRID = Grid(
    (32, 64, 128, 256),
    (1, 2, 3, 4),
    ("none", "batch", "layer", "instance", "group"),
    ("sigmoid", "relu", "leaky_relu"),
    ("none", "max", "avg"),
)
"""The 720 ConvNets of the distillation papers, for 32x32 images (arXiv 2006.05929)."""
