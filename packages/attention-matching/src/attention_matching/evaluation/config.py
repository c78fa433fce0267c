"""Settings of training and evaluation; the defaults are DM's protocol, which DataDAM follows."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from sextet_common import runs
from sextet_common.checks import (
    Count,
    Growing,
    Natural,
    NonNegative,
    OpenShare,
    Positive,
    Running,
    changeable,
    check_fields,
)
from sextet_common.data import DataOptions

from attention_matching.kinds import Architecture, Norm, Operation

if TYPE_CHECKING:
    from attention_matching.networks.base import FeatureNetwork

Labels = Literal["hard", "soft", "views"]
Choice = Literal["last", "held-out"]
VIEWS = 50  # augmented views of an image that a teacher labels


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How fresh networks are trained."""

    epochs: Count = 1000
    """Passes over the set (the papers use 1000 to 1800)."""
    batch: Count = 256
    """Images per gradient step."""
    lr: Positive = 0.01
    """Learning rate of SGD; a tenth of it in the second half."""
    momentum: NonNegative = 0.9
    """Momentum of SGD."""
    weight_decay: NonNegative = 5e-4
    """Weight decay of SGD."""
    seed: Natural = 0
    """Seed of all random numbers."""
    device: Running[str] = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(TrainConfig):
    """How a set is evaluated. None leaves a setting to the size of the images, as in distillation."""

    networks: Growing[Count] = 3
    """Networks, each with its own initialisation (the papers use 5 to 20)."""
    architecture: Architecture = "convnet"
    """convnet, alexnet, vgg11, resnet18 or vit."""
    width: Count | None = None
    """Channels of a ConvNet: 128; 64 below 28 pixels."""
    depth: Count | None = None
    """Blocks of a ConvNet: 3 for 32 pixels, 4 for 64, 5 for 128; 2 below 28."""
    norm: Norm = "instance"
    """Normalisation of the network."""
    augment: tuple[Operation, ...] | None = None
    """Transforms of the augmentation: all six; no flip for digits."""
    labels: Labels = "hard"
    """Targets: class numbers, the soft labels of the set, or those of augmented views, one view per epoch."""
    choose: Choice = "last"
    """Step whose accuracy counts: the last, or the best of twenty on held-out training images."""
    held_out: OpenShare = 0.1
    """Share of the training images of each class that is held out to choose the step."""

    def network(self, image_shape: tuple[int, int, int], n_classes: int) -> FeatureNetwork:
        """Build an untrained network on the CPU, from torch's global generator."""
        from attention_matching.networks.build import build  # here, as --help needs no torch

        return build(self.architecture, image_shape, n_classes, width=self.width, depth=self.depth, norm=self.norm)


@dataclasses.dataclass(frozen=True)
class TestData(DataOptions):
    """The options that name the images to test on."""

    data: str = ""
    """The images to test on, as for distill; by default those of the distillation."""


def identity(config: EvaluateConfig) -> dict[str, Any]:
    """Return the settings that determine a network's result, as plain JSON values.

    Examples
    --------
    >>> identity(EvaluateConfig(device="cpu")) == identity(EvaluateConfig(networks=20))
    True
    """
    marks = changeable(type(config))
    return {name: value for name, value in runs.to_json(config).items() if (name,) not in marks}
