"""How to distill: every setting, and the two presets that the paper's table and its public code are."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from sextet_common.data import ImageSet
from sextet_common.errors import InputError

from attention_matching.images.augment import Operation, augmentation_for
from attention_matching.images.preprocess import Whitening
from attention_matching.matching.losses import Method
from attention_matching.networks.build import Architecture
from attention_matching.networks.convnet import default_depth, default_width
from attention_matching.networks.layers import Norm

Preset = Literal["paper", "official"]

# DataDAM's table of settings, and the defaults of the code that its authors published: they disagree.
_PRESETS: dict[Preset, dict[str, Any]] = {
    "paper": {"power": 4, "norm": "instance", "steps": 8000},
    "official": {"power": 1, "norm": "batch", "steps": 20000},
}
_SMALL_STEPS = 600  # *ours*, for images below 28 pixels, whatever the preset


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """How to distill. Settings that are None are chosen by the preset and the images: see :meth:`resolved`."""

    ipc: int = 1
    """Images per class."""
    method: Method = "datadam"
    """datadam (spatial attention and features), atom (channel attention too), dm (features alone)."""
    preset: Preset = "paper"
    """paper: DataDAM's table; official: the defaults of its public code. Neither gives the other's results."""
    steps: int | None = None
    """Steps: paper 8000, official 20000; *ours* for images below 28 pixels, 600."""
    seed: int = 0
    """The seed of all random numbers."""
    power: int | None = None
    """The exponent of the attention maps: paper 4, official 1."""
    feature_weight: float | None = None
    """The weight lambda of the last block's features: 0.01 below 64 pixels, 0.02 from there."""
    loss_scale: float | None = None
    """The factor of the whole loss: 100 in DataDAM's public code, which image_lr assumes; 1 in DM's."""
    image_lr: float | None = None
    """Learning rate of the pixels: 1 up to 50 images per class, 10 above."""
    image_momentum: float = 0.5
    """Momentum of the pixels' SGD."""
    real_batch: int = 64
    """Real images per class and step, as in DataDAM's public code."""
    initial: Literal["random", "k-centre", "herding", "noise"] = "random"
    """What the synthetic images start as: real images so chosen, or noise."""
    whitening: Whitening | None = None
    """zca or none. Paper: zca for colour images of 28 to 32 pixels; official: none."""
    architecture: Architecture = "convnet"
    """The random networks; the papers' is the ConvNet."""
    width: int | None = None
    """Channels of a ConvNet: 128 in the papers; *ours* for images below 28 pixels, 64."""
    depth: int | None = None
    """Blocks of a ConvNet: 3 for 32 pixels, 4 for 64, 5 for 128; 2 below 28."""
    norm: Norm | None = None
    """Normalisation of the random networks: paper instance, official batch."""
    augment: tuple[Operation, ...] | None = None
    """The siamese augmentation's transforms: all six; no flip for digits."""
    images_at_once: int | None = None
    """Images that pass the network together: all on a GPU; as many as its caches like on a CPU.
    Less memory for more launches, and but for rounding the same result; not with batch norm."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What convolutions compute in; attention maps and losses are float32 always."""
    channels_last: bool | None = None
    """Order of the activations in memory: where not said, last with batch norm on a CPU and with bfloat16 on a GPU."""
    compile: bool = False
    """Compile network and loss with torch.compile: a minute at the start, faster steps after."""
    cuda_graph: bool = False
    """Record a step once and replay it: no launch costs. CUDA alone."""
    checkpoint_every: int = 100
    """Steps between two checkpoints: the most that a kill loses."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        counts = ("ipc", "steps", "power", "real_batch", "width", "depth", "images_at_once", "checkpoint_every")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}", "a whole number >= 1")
        for name in ("feature_weight", "image_momentum"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise InputError(f"{name} is {value}", "a number >= 0")
        for name in ("image_lr", "loss_scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name} is {value}", "a number > 0")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}", "a whole number >= 0")
        if self.preset not in _PRESETS:
            raise InputError(f"preset is {self.preset!r}", " or ".join(_PRESETS))

    def resolved(self, data: ImageSet) -> DistillConfig:
        """Return the same configuration with the preset's values, and those for these images, in the place of None.

        Parameters
        ----------
        data
            The images to distill.

        Returns
        -------
        DistillConfig
            What the run folder's config.json records. ``images_at_once`` and
            ``channels_last`` stay open: they depend on the device.

        Examples
        --------
        >>> from sextet_common.data import load
        >>> chosen = DistillConfig(preset="official").resolved(load("digits"))
        >>> chosen.power, chosen.norm, chosen.steps, chosen.width
        (1, 'batch', 600, 64)
        """
        channels, *sides = data.image_shape
        side = min(sides)
        convnet = self.architecture == "convnet"
        chosen: dict[str, Any] = {
            **_PRESETS[self.preset],
            **({} if side >= 28 else {"steps": _SMALL_STEPS}),
            "loss_scale": 1.0 if self.method == "dm" else 100.0,
            "feature_weight": 0.01 if side < 64 else 0.02,
            "image_lr": 1.0 if self.ipc <= 50 else 10.0,
            "whitening": "zca" if self.preset == "paper" and channels == 3 and 28 <= side <= 32 else "none",
            "width": default_width(side) if convnet else None,
            "depth": default_depth(side) if convnet else None,
            "augment": augmentation_for(data.classes).operations,
        }
        return dataclasses.replace(self, **{k: v for k, v in chosen.items() if getattr(self, k) is None})
