"""Settings of a training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sextet_common.checks import Count, Natural, NonNegative, Positive, PositiveShare, Running, check_fields
from sextet_common.options import Advanced

from subclass_kd.augment import Views


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained."""

    epochs: Count = 40
    """Passes over the training images: over the labelled or the unlabelled ones, whichever take more steps, while the
    others are repeated. The learning rate's schedule depends on them: a run of fewer cannot go on."""
    batch_size: Count = 64
    """Images per step, over all processes."""
    unlabelled_ratio: NonNegative = 3.0
    """Unlabelled images per labelled one in every step, if the data have any and there is a teacher."""
    lr: Positive = 2e-3
    """Peak learning rate of AdamW, after a linear warm-up over a tenth of the steps; a cosine decay follows."""
    weight_decay: Advanced[NonNegative] = 1e-3
    """Weight decay of AdamW, on matrices and kernels only."""
    seed: Natural = 0
    """Seed of the order of the images and of dropout."""
    views: Views = field(default_factory=Views)
    """Fixed views of every image, which the epochs take in turn."""
    curriculum: Advanced[Literal["none", "linear", "root", "step"]] = "none"
    """Easy images first, by their difficulty: linear, root or step; none uses all images from the first epoch."""
    curriculum_start: Advanced[PositiveShare] = 0.3
    """Share of the images with which a curriculum begins; all take part from halfway on."""
    patience: Advanced[Natural] = 0
    """Stop after this many epochs without a better F1 on the validation images and keep the best epoch; 0 keeps the
    last epoch."""
    precision: Advanced[Literal["float32", "bfloat16"]] = "float32"
    """Precision of the network, by autocast; losses are computed in float32."""
    checkpoint_every: Running[Count] = 5
    """Epochs between two checkpoints: the most that a kill loses."""
    device: Running[str] = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        check_fields(self)
