"""Data-to-model distillation: a generator learns to make images that networks take for the real ones."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from typing import Literal

import numpy as np
import torch
from attention_matching import FeatureNetwork, Preprocessing, augmentation_for
from sextet_common import checkpoint, device, figures, optimizers, progress, runs
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from sextet_common.seeding import generator as random_of
from sextet_common.seeding import torch_generator
from torch import Tensor

from d2m_generator.ema import EMA
from d2m_generator.generator import ImageGenerator, chosen_parameters
from d2m_generator.matching import MatchingLoss
from d2m_generator.pool import Pool, PoolConfig
from d2m_generator.pretrain import check_finite, check_fit, check_training, save_samples
from d2m_generator.storage import save_generator

JOB = "d2m-generator distill"
Parameters = Literal["all", "last", "classes", "lora"]


@dataclasses.dataclass(frozen=True)
class D2MConfig:
    """How a generator is distilled."""

    steps: int = 1000
    """Steps."""
    parameters: Parameters = "all"
    """Which parameters learn: all, the last blocks, the class embeddings (classes), or adapters (lora)."""
    lr: float = 1e-3
    """Adam's learning rate, down a cosine to a tenth."""
    images: int = 2
    """Generated images of a class in a step: the fewer, the nearer is each of them to its class's mean, and the more
    alike they are. Few are good for a few images per class, more for many."""
    real_batch: int = 64
    """Real images of a class in a step."""
    classes: int | None = None
    """Classes in a step, in turn: all where not given. Fewer need less memory."""
    accumulate: int = 1
    """Parts of a step's classes that pass the generator one after another: less memory, the same step."""
    loss: MatchingLoss = dataclasses.field(default_factory=MatchingLoss)
    """What is matched."""
    pool: PoolConfig = dataclasses.field(default_factory=PoolConfig)
    """The networks that look."""
    augment: bool = True
    """Show real and generated images of a class through the same siamese augmentation."""
    ema: float = 0.99
    """How much of the averaged weights stays at each step; the average is what is returned."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    seed: int = 0
    """The seed of all random numbers."""
    sample_every: int = 250
    """Steps between two pictures of samples."""
    checkpoint_every: int = 100
    """Steps between two checkpoints: the most that a kill loses."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the generator computes in, by autocast; networks and losses are float32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        counts = ("steps", "images", "real_batch", "accumulate", "sample_every", "checkpoint_every")
        check_training(self, counts)
        if self.classes is not None and self.classes < 1:
            raise InputError(f"classes is {self.classes}", "a whole number >= 1")
        if not self.clip > 0:
            raise InputError(f"clip is {self.clip}", "a number > 0")
        if self.loss.reduction == "sample" and self.loss.prediction == "kl" and self.images != self.real_batch:
            raise InputError(f"{self.images} images to pair with {self.real_batch} real ones", "as many of both")


class D2M:
    """Distills a data set into the weights of a pre-trained generator.

    Every step takes a network of the pool, real images and fresh samples of each class, one augmentation for both, and
    moves the generator's chosen parameters so that class means of attention maps, embeddings and predictions agree. All
    draws are keyed by (seed, step).

    Parameters
    ----------
    config
        The settings.
    preprocessing
        One that is fitted already, in the place of the images' own mean and std.

    References
    ----------
    D2M, arXiv 2411.12841.

    Examples
    --------
    >>> from d2m_generator import ConditionalGAN
    >>> from sextet_common.data import load
    >>> config = D2MConfig(steps=2, images=2, pool=PoolConfig(networks=1, epochs=1, trained_on=64, width=8))
    >>> generator = D2M(config).fit(ConditionalGAN(10, (1, 8, 8), width=4), load("digits"))
    """

    def __init__(self, config: D2MConfig | None = None, *, preprocessing: Preprocessing | None = None) -> None:
        self.config, self._preprocessing = config or D2MConfig(), preprocessing

    def fit(
        self, generator: ImageGenerator, data: ImageSet, out: str | os.PathLike[str] | None = None
    ) -> ImageGenerator:
        """Distill, in place.

        Parameters
        ----------
        generator
            The generator, trained already.
        data
            The images.
        out
            A run folder, for checkpoints, metrics.jsonl, pictures of samples and the generator; a stopped run is gone
            on with, to the same weights.

        Returns
        -------
        ImageGenerator
            The generator with the averaged weights, on its device.

        Raises
        ------
        InputError
            Where generator and data do not fit, no parameter is of the kind that learns, a loss is no longer finite
            (step and seed are named), or the folder holds something else.
        KeyboardInterrupt
            After Ctrl-C or SIGTERM, once the step is done and checkpointed.
        """
        config = self.config
        check_fit(generator, data)
        if config.classes is not None and config.classes > data.n_classes:
            raise InputError(f"classes is {config.classes}", f"1 to {data.n_classes}")
        generator.to(device.pick(config.device)).eval()
        step = _Step(generator, data, config, self._preprocessing or Preprocessing.fit(data))
        run = None if out is None else runs.Run.open(out, JOB, _record(generator, data, config))
        done = 0
        found = None if run is None else run.resume()
        if run is not None and found is not None:
            with reading(run.checkpoints, "checkpoints of this distillation"):
                step.load(found.arrays)
            done = int(found.meta["step"])
        began = time.perf_counter()
        with progress.bar("D2M", config.steps, done=done) as bar, runs.interruptible() as stopping:
            for number in range(done, config.steps):
                loss = step(number)
                finished = number + 1
                last = stopping() or finished == config.steps
                look = last or finished % 10 == 0 or finished % config.checkpoint_every == 0
                values = {"loss": float(loss)} if look else {}
                check_finite(values, finished, config.seed, config.lr)
                bar.advance(1, **values)
                if run is not None:
                    if look:
                        run.log(finished, **values, seconds=round(time.perf_counter() - began, 3))
                    if finished % config.sample_every == 0:  # before the checkpoint: a step it holds comes no more
                        save_samples(generator, run.path / f"samples-{finished:06d}.png")
                    if last or finished % config.checkpoint_every == 0:
                        checkpoint.save_step(run.checkpoints, finished, step.state(), {"step": finished})
                if last:
                    break
        step.average.copy_to(generator)
        generator.requires_grad_(True)
        if run is not None:
            save_samples(generator, run.path / "samples.png")
            _save(generator, run, config)
            with reading(run.path, "a folder in which a distillation was begun"):
                rows = [(int(row["step"]), float(row["loss"])) for row in run.metrics()]
            curve = ([step for step, _ in rows], [loss for _, loss in rows])
            figures.save_curves({"loss": curve}, run.path / "loss.png", x_label="step", y_label="loss")
        return generator


class _Step:
    """A distillation's state: the parameters that learn, their average, Adam's moments."""

    def __init__(
        self, generator: ImageGenerator, data: ImageSet, config: D2MConfig, preprocessing: Preprocessing
    ) -> None:
        self.generator, self.config, self.data = generator, config, data
        self.where = next(generator.parameters()).device
        groups = generator.groups()
        self.learning = chosen_parameters(generator, config.parameters, groups)
        self.average = EMA(generator, config.ema, [name for name, _ in self.learning])
        self.optimizer = torch.optim.Adam([p for _, p in self.learning], config.lr)
        self.augment = augmentation_for(data.classes, None if config.augment else ())
        self.pool = Pool(config.pool, data, preprocessing, augmentation_for(data.classes), config.seed, self.where)
        if preprocessing.zca is not None:
            raise InputError(
                "ZCA whitening", "mean and std: a generator's images pass the preprocessing with gradients"
            )
        self.mean, self.std = (t.view(-1, 1, 1).to(self.where) for t in (preprocessing.mean, preprocessing.std))
        self.members = [np.flatnonzero(data.train_labels == label) for label in range(data.n_classes)]
        self.real = preprocessing(data.train_images)

    def __call__(self, number: int) -> Tensor:
        """Move the parameters once; return the loss before."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * (0.55 + 0.45 * math.cos(math.pi * number / config.steps))
        network = self.pool.draw(number)
        classes = self._classes(number)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.where)
        for part in np.array_split(classes, min(config.accumulate, len(classes))):
            loss = self._loss(number, network, part).sum() / len(classes)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_([p for _, p in self.learning], config.clip)
        self.optimizer.step()
        self.average.update(self.generator)
        return total

    def _loss(self, number: int, network: FeatureNetwork, classes: np.ndarray) -> Tensor:
        config = self.config
        real, noise, rows = [], [], []
        for label in classes.tolist():
            draw = random_of(config.seed, "class", number, label)
            chosen = draw.choice(
                self.members[label], config.real_batch, replace=len(self.members[label]) < config.real_batch
            )
            real.append(self.real[chosen])
            source = torch_generator(config.seed, "noise", number, label)
            noise.append(torch.randn(config.images, *self.generator.noise_shape, generator=source))
            rows.append(torch.rand(1, 4, generator=source))
        labels = torch.tensor(np.repeat(classes, config.images))
        with torch.autocast(self.where.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            made = self.generator.sample(labels, noise=torch.cat(noise))
        inputs = (made.float() - self.mean) / self.std
        transforms = torch.cat(rows).to(self.where)
        seen = self.augment(torch.cat(real).to(self.where), transforms), self.augment(inputs, transforms)
        return config.loss(network, *seen, len(classes))

    def _classes(self, number: int) -> np.ndarray:
        """Return a step's classes: all, or some of a permutation that is gone through in turn."""
        count, each = self.data.n_classes, self.config.classes or self.data.n_classes
        if each == count:
            return np.arange(count)
        turns = -(-count // each)
        order = random_of(self.config.seed, "classes", number // turns).permutation(count)
        return np.sort(np.array_split(order, turns)[number % turns])

    def state(self) -> dict[str, Tensor]:
        """Return all that a stopped run goes on from."""
        found = {f"learning.{name}": p.detach() for name, p in self.learning}
        found |= {f"average.{name}": tensor for name, tensor in self.average.weights.items()}
        return found | optimizers.state(self.optimizer, "adam")

    @torch.no_grad()
    def load(self, arrays: dict[str, Tensor]) -> None:
        """Take such a state."""
        for name, parameter in self.learning:
            learned = arrays[f"learning.{name}"]
            if learned.shape != parameter.shape:
                raise InputError(f"{name} has the shape {tuple(learned.shape)}", f"{tuple(parameter.shape)}")
            parameter.copy_(learned)
        self.average.load({n[8:]: tensor for n, tensor in arrays.items() if n.startswith("average.")})
        optimizers.restore(self.optimizer, arrays, "adam")


def _save(generator: ImageGenerator, run: runs.Run, config: D2MConfig) -> None:
    """Leave the generator in the run folder: of adapters they alone, where the model is the user's anyway."""
    if config.parameters == "lora":
        from d2m_generator.diffusion import DiffusionGenerator

        assert isinstance(generator, DiffusionGenerator)
        generator.save_lora(run.path / "lora.safetensors")
        return
    save_generator(generator, run.path / "generator")


def _record(generator: ImageGenerator, data: ImageSet, config: D2MConfig) -> dict[str, object]:
    return {
        **runs.to_json(config),
        "generator": type(generator).__name__,
        "generator_sha256": runs.fingerprint(*(t for t in generator.state_dict().values() if t.numel())),
        "data": data.source,
        "data_sha256": runs.fingerprint(data.train_images, data.train_labels),
    }
