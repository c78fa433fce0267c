"""Train a generator on the user's own images before any distillation: a GAN, a diffusion or a consistency model."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from attention_matching import SiameseAugmentation, augmentation_for
from sextet_common import checkpoint, device, figures, optimizers, progress, runs
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from sextet_common.seeding import generator as random_of
from sextet_common.seeding import torch_generator
from torch import Tensor, nn
from torch.nn import functional

from d2m_generator.ema import EMA
from d2m_generator.gan import ConditionalGAN
from d2m_generator.generator import ImageGenerator
from d2m_generator.quality import pixels_of
from d2m_generator.storage import save_generator

JOB = "d2m-generator pretrain"
_STANDING = 64  # batches from which a GAN's kept statistics are computed anew
_ROWS = 8


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """How a generator is trained on real images."""

    steps: int = 1000
    """Steps of the generator."""
    batch_size: int = 64
    """Images in a step."""
    lr: float = 5e-4
    """Adam's learning rate of the generator, or of the denoising network."""
    discriminator_lr: float = 1e-3
    """Adam's learning rate of a GAN's discriminator."""
    discriminator_steps: int = 1
    """Steps of the discriminator for each of the generator."""
    discriminator_width: int | None = None
    """Channels of its first block: twice the generator's width, and 64 at least, where not given."""
    ema: float = 0.995
    """How much of the averaged weights stays at each step; the average is what is returned."""
    label_dropout: float = 0.1
    """A diffusion model's share of labels that are left out, for guidance; without a class for it, none."""
    augment: bool = True
    """Show real and generated images to a GAN's discriminator through the siamese augmentation."""
    seed: int = 0
    """The seed of all random numbers but the initial weights."""
    sample_every: int = 500
    """Steps between two pictures of samples."""
    checkpoint_every: int = 250
    """Steps between two checkpoints: the most that a kill loses."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What networks compute in, by autocast."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        check_training(self, ("steps", "batch_size", "discriminator_steps", "sample_every", "checkpoint_every"))
        if not 0 <= self.label_dropout < 1:
            raise InputError(f"label_dropout is {self.label_dropout}", "a share in [0, 1)")


def check_training(config: object, counts: tuple[str, ...]) -> None:
    """Raise InputError where a setting that trainers share is outside what is accepted."""
    for name in counts:
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}", "a whole number >= 1")
    for name in ("lr", "discriminator_lr"):
        if hasattr(config, name) and not 0 < getattr(config, name) < math.inf:
            raise InputError(f"{name} is {getattr(config, name)}", "a number > 0")
    if not 0 <= getattr(config, "ema", 0.0) < 1:
        raise InputError(f"ema is {config.ema}", "a share in [0, 1)")  # type: ignore[attr-defined]
    if getattr(config, "seed", 0) < 0:
        raise InputError(f"seed is {config.seed}", "a whole number >= 0")  # type: ignore[attr-defined]
    precision = getattr(config, "precision", "float32")
    if precision not in ("float32", "bfloat16"):
        raise InputError(f"precision is {precision!r}", "float32 or bfloat16")


class Learner(Protocol):
    """What differs between the kinds of generators: a step, and a state to go on from."""

    def step(self, images: Tensor, labels: Tensor, number: int) -> dict[str, Tensor]:
        """Learn from images in [-1, 1]; return the losses."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return all that a stopped training goes on from."""
        ...

    def load(self, arrays: dict[str, Tensor]) -> None:
        """Take such a state."""
        ...

    def finish(self) -> None:
        """Leave the averaged weights in the generator."""
        ...


def pretrain(
    generator: ImageGenerator,
    data: ImageSet,
    config: PretrainConfig | None = None,
    out: str | os.PathLike[str] | None = None,
) -> ImageGenerator:
    """Train a generator on real images, in place.

    Parameters
    ----------
    generator
        A `ConditionalGAN` or a `DiffusionGenerator`.
    data
        The images.
    config
        How.
    out
        A run folder, for checkpoints, metrics.jsonl, pictures of samples and the generator; a stopped run is gone on
        with, to the same weights.

    Returns
    -------
    ImageGenerator
        The generator with the averaged weights, in evaluation, on its device.

    Raises
    ------
    InputError
        Where generator and data do not fit, a loss is no longer finite (step and seed are named), or the folder holds
        something else.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the step is done and checkpointed.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> gan = pretrain(ConditionalGAN(10, (1, 8, 8), width=4), load("digits"), PretrainConfig(steps=2))
    """
    config = config or PretrainConfig()
    check_fit(generator, data)
    where = device.pick(config.device)
    generator.to(where)
    learner = _learner(generator, data, config)
    run = None if out is None else runs.Run.open(out, JOB, _record(generator, data, config))
    done = 0
    found = None if run is None else run.resume()
    if run is not None and found is not None:
        with reading(run.checkpoints, "checkpoints of this training"):
            learner.load({name: tensor.to(where) for name, tensor in found.arrays.items()})
        done = int(found.meta["step"])
    began = time.perf_counter()
    images = torch.tensor(data.train_images) * 2 - 1
    labels = torch.tensor(data.train_labels)
    with progress.bar("pretrain", config.steps, done=done) as bar, runs.interruptible() as stopping:
        for number in range(done, config.steps):
            rows = random_of(config.seed, "batch", number).integers(len(images), size=config.batch_size)
            with torch.autocast(where.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                losses = learner.step(images[rows].to(where), labels[rows].to(where), number)
            step = number + 1
            last = stopping() or step == config.steps
            look = step % 10 == 0 or last or step % config.checkpoint_every == 0
            values = {name: float(loss) for name, loss in losses.items()} if look else {}
            bar.advance(1, **values)
            check_finite(values, step, config.seed, config.lr)
            if run is not None:
                if look:
                    run.log(step, **values, seconds=round(time.perf_counter() - began, 3))
                if step % config.sample_every == 0:  # before the checkpoint: a step that it holds comes no more
                    save_samples(generator, run.path / f"samples-{step:06d}.png")
                if last or step % config.checkpoint_every == 0:
                    checkpoint.save_step(run.checkpoints, step, learner.state(), {"step": step})
            if last:
                break
    learner.finish()
    generator.eval()
    if run is not None:
        save_samples(generator, run.path / "samples.png")
        save_generator(generator, run.path / "generator")
    return generator


def check_fit(generator: ImageGenerator, data: ImageSet) -> None:
    """Raise InputError where a generator makes other images than the data's."""
    if generator.image_shape != data.image_shape or generator.n_classes != data.n_classes:
        raise InputError(
            f"a generator of {generator.n_classes} classes of {generator.image_shape} images",
            f"{data.n_classes} classes of {data.image_shape}, as {data.source or 'the data'}",
        )


def check_finite(values: dict[str, float], step: int, seed: int, lr: float) -> None:
    """Raise InputError where a loss is no longer finite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise InputError(
                f"the {name} is {value} at step {step}, seed {seed}", f"finite numbers: try an lr below {lr:g}"
            )


def save_samples(
    generator: ImageGenerator, path: str | os.PathLike[str], *, seed: int = 0, columns: int = _ROWS
) -> Path:
    """Draw some images of every class, a row each, of the first twenty classes.

    Parameters
    ----------
    generator
        The generator, which is left in the mode that it was in.
    path
        The PNG file.
    seed
        Of the noise.
    columns
        Images of each class.

    Returns
    -------
    Path
        The file.
    """
    training = generator.training
    generator.eval()
    pixels = pixels_of(generator, np.repeat(np.arange(min(generator.n_classes, 20)), columns), seed)
    generator.train(training)
    figures.save_grid(pixels, path, columns)
    return Path(path)


class GANLearner:
    """Hinge losses for generator and discriminator, an average of the generator's weights."""

    def __init__(self, generator: ConditionalGAN, config: PretrainConfig, augment: SiameseAugmentation) -> None:
        self.generator, self.config, self.augment = generator, config, augment
        where = next(generator.parameters()).device
        self.discriminator = generator.discriminator(config.discriminator_width, config.seed).to(where).train()
        generator.train()
        self.average = EMA(generator, config.ema)
        betas = (0.0, 0.99)
        self.of_generator = torch.optim.Adam(generator.parameters(), config.lr, betas)
        self.of_discriminator = torch.optim.Adam(self.discriminator.parameters(), config.discriminator_lr, betas)

    def step(self, images: Tensor, labels: Tensor, number: int) -> dict[str, Tensor]:
        """Learn: the discriminator first."""
        self.generator.train()
        for turn in range(self.config.discriminator_steps):
            fake, rows = self._fake(len(images), labels, number, turn)
            with torch.no_grad():
                made = self.generator(fake, labels)
            real = self.discriminator(self._seen(images, rows[0]), labels)
            score = self.discriminator(self._seen(made, rows[1]), labels)
            apart = functional.relu(1 - real).mean() + functional.relu(1 + score).mean()
            self.of_discriminator.zero_grad(set_to_none=True)
            apart.backward()
            self.of_discriminator.step()
        fake, rows = self._fake(len(images), labels, number, self.config.discriminator_steps)
        loss = -self.discriminator(self._seen(self.generator(fake, labels), rows[0]), labels).mean()
        self.of_generator.zero_grad(set_to_none=True)
        loss.backward()
        self.of_generator.step()
        self.average.update(self.generator)
        return {"generator": loss.detach(), "discriminator": apart.detach()}

    def state(self) -> dict[str, Tensor]:
        """Return all that a stopped training goes on from."""
        found = {f"generator.{n}": t for n, t in self.generator.state_dict().items()}
        found |= {f"discriminator.{n}": t for n, t in self.discriminator.state_dict().items()}
        found |= {f"average.{n}": t for n, t in self.average.weights.items()}
        found |= optimizers.state(self.of_generator, "adam-g")
        return found | optimizers.state(self.of_discriminator, "adam-d")

    def load(self, arrays: dict[str, Tensor]) -> None:
        """Take such a state."""
        self.generator.load_state_dict(_part(arrays, "generator."))
        self.discriminator.load_state_dict(_part(arrays, "discriminator."))
        self.average.load(_part(arrays, "average."))
        optimizers.restore(self.of_generator, arrays, "adam-g")
        optimizers.restore(self.of_discriminator, arrays, "adam-d")

    def finish(self) -> None:
        """Take the averaged weights, and compute the statistics of the normalisations anew for them."""
        self.average.copy_to(self.generator)
        norms = [m for m in self.generator.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # an equal mean over the batches
        self.generator.train()
        where = next(self.generator.parameters()).device
        with torch.no_grad():
            for number in range(_STANDING):
                labels = torch.arange(self.config.batch_size, device=where) % self.generator.n_classes
                noise = torch.randn(
                    len(labels),
                    *self.generator.noise_shape,
                    generator=torch_generator(self.config.seed, "standing", number),
                )
                self.generator(noise.to(where), labels)
        for norm in norms:
            norm.momentum = 0.1
        self.generator.eval()

    def _fake(self, count: int, labels: Tensor, number: int, turn: int) -> tuple[Tensor, Tensor]:
        draw = torch_generator(self.config.seed, "fake", number, turn)
        noise = torch.randn(count, *self.generator.noise_shape, generator=draw)
        rows = torch.rand(2, count, 4, generator=draw)
        return noise.to(labels.device), rows.to(labels.device)

    def _seen(self, images: Tensor, rows: Tensor) -> Tensor:
        # The transforms fill up with zeros: so that this is black, the images are shown as 0 to 2, and taken back.
        return self.augment(images + 1, rows) - 1 if self.config.augment else images


def _learner(generator: ImageGenerator, data: ImageSet, config: PretrainConfig) -> Learner:
    if isinstance(generator, ConditionalGAN):
        return GANLearner(generator, config, augmentation_for(data.classes))
    from d2m_generator.diffusion import DiffusionGenerator
    from d2m_generator.diffusion_training import learner_of

    if isinstance(generator, DiffusionGenerator):
        return learner_of(generator, config)
    raise InputError(
        f"a {type(generator).__name__}", "a ConditionalGAN or a DiffusionGenerator: others train elsewhere"
    )


def _record(generator: ImageGenerator, data: ImageSet, config: PretrainConfig) -> dict[str, object]:
    return {
        **runs.to_json(config),
        "generator": type(generator).__name__,
        "generator_sha256": runs.fingerprint(*(t for t in generator.state_dict().values() if t.numel())),
        "data": data.source,
        "data_sha256": runs.fingerprint(data.train_images, data.train_labels),
    }


def _part(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in arrays.items() if name.startswith(prefix)}
