"""Settings of pre-training and distillation: dataclasses that are the options of the command line at once."""

from __future__ import annotations

import dataclasses
from typing import Literal

from sextet_common import checks
from sextet_common.checks import Count, Natural, NonNegative, Positive, Running, ShareBelowOne
from sextet_common.errors import InputError
from sextet_common.options import Advanced

from d2m_generator.training.matching import MatchingLoss
from d2m_generator.training.pool import PoolConfig

Precision = Literal["float32", "bfloat16"]
Initial = Literal["random", "k-centre", "herding", "samples"]


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """How a generator is trained on real images."""

    steps: Count = 1000
    """Steps of the generator. More continue a finished run, except of a consistency model, whose noise levels depend on
    them."""
    batch_size: Count = 64
    """Images per step."""
    lr: Positive = 5e-4
    """Adam's learning rate for the generator or the denoising network."""
    discriminator_lr: Advanced[Positive] = 1e-3
    """Adam's learning rate for the discriminator of a GAN."""
    discriminator_steps: Advanced[Count] = 1
    """Steps of the discriminator per step of the generator."""
    discriminator_width: Advanced[Count | None] = None
    """Channels of its first block; by default twice the generator's width, at least 64."""
    ema: Advanced[ShareBelowOne] = 0.995
    """Decay of the exponential moving average of the weights, which is the result."""
    label_dropout: Advanced[ShareBelowOne] = 0.1
    """Share of labels that a diffusion model with a null class replaces by it, for guidance."""
    augment: Advanced[bool] = True
    """Apply the siamese augmentation to the real and generated images that a GAN's discriminator sees."""
    seed: Natural = 0
    """Seed of all random numbers except the initial weights."""
    sample_every: Running[Count] = 500
    """Steps between pictures of samples."""
    checkpoint_every: Running[Count] = 250
    """Steps between checkpoints: the most that a killed run loses."""
    precision: Advanced[Precision] = "float32"
    """Precision of the networks, by autocast."""
    device: Running[str] = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        checks.check_fields(self)


@dataclasses.dataclass(frozen=True)
class MatchConfig:
    """What a step of distillation draws and compares."""

    real_batch: Count = 64
    """Real images per class and step."""
    steps_per_draw: Count = 4
    """Steps that share a network, real images and an augmentation; the statistics of the real images are computed once.
    More are faster."""
    classes: Count | None = None
    """Classes per step, in turn; all by default. Fewer need less memory."""
    accumulate: Advanced[Count] = 1
    """Parts into which the classes of a step are split: less memory, the same step."""
    loss: MatchingLoss = dataclasses.field(default_factory=MatchingLoss)
    """What is matched."""
    pool: PoolConfig = dataclasses.field(default_factory=PoolConfig)
    """The networks that embed the images."""
    augment: Advanced[bool] = True
    """Apply the same siamese augmentation to the real and generated images of a class."""
    ema: Advanced[ShareBelowOne] = 0.99
    """Decay of the exponential moving average of what is trained, which is the result."""
    clip: Advanced[Positive] = 1.0
    """Largest norm of the gradient."""
    seed: Natural = 0
    """Seed of all random numbers."""
    sample_every: Running[Count] = 250
    """Steps between pictures of samples."""
    checkpoint_every: Running[Count] = 100
    """Steps between checkpoints: the most that a killed run loses."""
    precision: Advanced[Precision] = "float32"
    """Precision of the generator, by autocast; networks and losses use float32."""
    device: Running[str] = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        checks.check_fields(self)

    def check_pairs(self, name: str, images: int) -> None:
        """Refuse to pair unequal numbers of generated and real images per class."""
        if self.loss.reduction == "sample" and self.loss.prediction == "kl" and images != self.real_batch:
            raise InputError(
                f"reduction='sample' pairs images, and a step has {images} generated and {self.real_batch} real "
                "images per class",
                f"{name} = real_batch",
            )


@dataclasses.dataclass(frozen=True)
class D2MConfig(MatchConfig):
    """How a data set is distilled into a generator's weights."""

    steps: Count = 400
    """Number of steps, over which the learning rate falls."""
    parameters: str = "all"
    """Trained parameters: all, last (the last blocks), classes (the class embeddings), lora (adapters), or a group of a
    custom generator."""
    lr: Positive = 1e-3
    """Adam's learning rate, which a cosine lowers to a tenth."""
    images: Count = 4
    """Generated images per class and step. With one or two each of them comes close to the mean of its class and they
    look alike, which is good for one image per class; more give more variety."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_pairs("images", self.images)


@dataclasses.dataclass(frozen=True)
class LatentConfig(MatchConfig):
    """How a data set is distilled into the latents of some images of a generator."""

    ipc: Count = 10
    """Images per class."""
    layer: str | None = None
    """Where the latents enter the generator: noise, condition or block-L of a GAN, noise or class of a diffusion model;
    by default block-0 or class."""
    steps: Natural = 300
    """Steps of matching, over which the learning rate falls, after those of the inversion; 0 only inverts."""
    lr: Positive = 0.03
    """Adam's learning rate in standard deviations of the initial latents, which a cosine lowers to a tenth."""
    initial: Initial = "random"
    """Images that the latents start from: real ones chosen by this rule and inverted, or samples of the generator."""
    inversion_steps: Natural = 200
    """Steps that fit the latents to the initial real images."""
    inversion_lr: Advanced[Positive] = 0.05
    """Adam's learning rate of the inversion, in the unit of lr."""
    generator_lr: NonNegative = 0.0
    """Adam's learning rate for the generator's weights; 0 leaves them as they are."""
    parameters: Advanced[str] = "all"
    """Weights that generator_lr trains: all, or a group as in distill."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_pairs("ipc", self.ipc)
