"""Settings of a distillation, and its two presets: the paper's table and its public code."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from sextet_common import data as image_data
from sextet_common.checks import Count, Growing, Natural, NonNegative, Positive, PositiveShare, Running, check_fields
from sextet_common.options import Advanced

from attention_matching.evaluation.config import VIEWS
from attention_matching.kinds import Architecture, Method, Norm, Operation, Power, Whitening

Preset = Literal["paper", "official"]
PixelRange = Literal["valid", "free"]

# DataDAM's table of settings and the defaults of its authors' public code, which disagree.
_PRESETS: dict[Preset, dict[str, Any]] = {
    "paper": {"power": 4, "norm": "instance", "steps": 8000},
    "official": {"power": 1, "norm": "batch", "steps": 20000},
}
_SMALL_STEPS = 600  # for images below 28 pixels, which the papers do not cover, under both presets


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """How to distill. Settings that are None follow from the preset and the images, see :meth:`resolved`."""

    ipc: Count = 1
    """Images per class."""
    method: Method = "datadam"
    """datadam (spatial attention and features), atom (channel attention too), dm (features alone)."""
    preset: Preset = "paper"
    """paper: DataDAM's table; official: the defaults of its public code. Neither gives the other's results."""
    steps: Growing[Count | None] = None
    """Steps: paper 8000, official 20000; below 28 pixels, not in the papers, 600. More continue a finished run."""
    seed: Natural = 0
    """Seed of all random numbers."""
    power: Advanced[Power | None] = None
    """Exponent of the attention maps: paper 4, official 1."""
    feature_weight: Advanced[NonNegative | None] = None
    """Weight lambda of the last block's features, as published: 0.01 below 64 pixels, else 0.02."""
    attention_weight: Advanced[NonNegative | None] = None
    """Weight of the attention maps: 1 for the papers' ConvNet; in others such that its balance with lambda is kept."""
    loss_scale: Advanced[Positive | None] = None
    """Factor of the whole loss: 100 in DataDAM's public code, which image_lr assumes; 1 in DM's."""
    pixels: PixelRange = "valid"
    """valid: after every step the pixels are clamped to [0, 1]. free: not clamped, as published; many leave [0, 1]."""
    image_lr: Positive | None = None
    """Learning rate of the images: 1 up to 50 images per class, 10 above, as published for standardised 32x32 colour
    images. It is multiplied by the squared norm of the network inputs relative to those, if less: 0.06 for whitened
    CIFAR-10, 0.02 for 8x8 digits. The published code lacks this factor."""
    image_momentum: Advanced[NonNegative] = 0.5
    """Momentum of the pixels' SGD."""
    real_batch: Advanced[Count] = 64
    """Real images per class and step, as in DataDAM's public code."""
    steps_per_draw: Advanced[Count] = 1
    """Steps that share a network, a batch of real images and an augmentation. The papers have 1; more are faster."""
    initial: Advanced[Literal["random", "k-centre", "herding", "noise"]] = "random"
    """Initial synthetic images: real images chosen by this rule, or noise."""
    whitening: Whitening | None = None
    """zca or none. Paper: zca for colour images of 28 to 32 pixels; official: none."""
    architecture: Architecture = "convnet"
    """The random networks; the papers' is the ConvNet."""
    width: Count | None = None
    """Channels of a ConvNet: 128 in the papers; below 28 pixels, not in the papers, 64."""
    depth: Advanced[Count | None] = None
    """Blocks of a ConvNet: 3 for 32 pixels, 4 for 64, 5 for 128; 2 below 28."""
    norm: Advanced[Norm | None] = None
    """Normalisation of the random networks: paper instance, official batch."""
    augment: Advanced[tuple[Operation, ...] | None] = None
    """Transforms of the siamese augmentation: all six; no flip for digits."""
    images_at_once: Advanced[Running[Count | None]] = None
    """Images that pass through the network together: all on a GPU, as many as fit the caches on a CPU.
    Fewer need less memory and more launches, with the same result up to rounding; all with batch norm."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of convolutions; attention maps and losses are always float32."""
    channels_last: Advanced[Running[bool | None]] = None
    """Memory format of the activations: by default last with batch norm on a CPU and with bfloat16 on a GPU."""
    compile: Running[bool] = False
    """Compile network and loss with torch.compile: a minute at the start, then faster steps."""
    cuda_graph: Advanced[Running[bool]] = False
    """Record a step once and replay it, without launch costs. CUDA only."""
    checkpoint_every: Running[Count] = 100
    """Steps between two checkpoints: the most that a kill loses."""
    device: Running[str] = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        check_fields(self)

    def resolved(self, data: image_data.Source) -> DistillConfig:
        """Return the configuration with None replaced by the preset's values and those for these images.

        The run folder's config.json records this one. ``images_at_once`` and ``channels_last`` stay None where they
        depend on the device.

        Examples
        --------
        >>> from sextet_common.data import load
        >>> config = DistillConfig(preset="official").resolved(load("digits"))
        >>> config.power, config.norm, config.steps, config.width
        (1, 'batch', 600, 64)
        """
        from attention_matching.images.augment import augmentation_for  # here, as --help needs no torch
        from attention_matching.matching.balance import balanced_attention_weight
        from attention_matching.networks.convnet import default_depth, default_width

        data = image_data.load(data)
        channels, *sides = data.image_shape
        side = min(sides)
        convnet = self.architecture == "convnet"
        width, depth = self.width or default_width(side), self.depth or default_depth(side)
        chosen: dict[str, Any] = {
            **_PRESETS[self.preset],
            **({} if side >= 28 else {"steps": _SMALL_STEPS}),
            "loss_scale": 1.0 if self.method == "dm" else 100.0,
            "feature_weight": 0.01 if side < 64 else 0.02,
            "image_lr": 1.0 if self.ipc <= 50 else 10.0,
            "whitening": "zca" if self.preset == "paper" and channels == 3 and 28 <= side <= 32 else "none",
            "attention_weight": balanced_attention_weight(sides, width, depth) if convnet else 1.0,
            "width": width if convnet else None,
            "depth": depth if convnet else None,
            "augment": augmentation_for(data.classes).operations,
        }
        return dataclasses.replace(self, **{k: v for k, v in chosen.items() if getattr(self, k) is None})


@dataclasses.dataclass(frozen=True)
class ComposeConfig:
    """How images are composed of real patches and labelled."""

    ipc: Count = 10
    """Images per class."""
    side: Count = 1
    """Patches per side of an image. RDED puts 2 x 2 into large images, and crops to single ones in training."""
    candidates: Count = 300
    """Random training images of each class that patches are taken from (RDED: 300)."""
    crops: Count = 5
    """Random crops of each of them that the teacher scores (RDED: 5)."""
    smallest: PositiveShare = 0.08
    """Smallest share of the image's area that a crop has; the largest is 1."""
    views: Count = VIEWS
    """Augmented views of each image that the teacher labels."""
    keep: Count | None = None
    """Probabilities that are stored for each view: the largest; by default all."""
    temperature: Positive = 1.0
    """Of the teacher's labels; above 1 they are flatter."""
    whitening: Whitening = "none"
    """zca or none, of the teacher's inputs and of the set."""
    seed: Natural = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_fields(self)
