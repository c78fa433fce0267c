"""Data-to-model distillation: train a generator until its images act on networks as real ones do."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
import torch
from attention_matching import Preprocessing
from sextet_common import data as image_data, loggers, runs, training
from sextet_common.data import ImageSet
from sextet_common.processes import Processes
from sextet_common.seeding import torch_generator
from torch import Tensor

from d2m_generator.generators.adapted import unadapted
from d2m_generator.generators.generator import ImageGenerator, chosen_parameters
from d2m_generator.generators.storage import check_savable, save_generator
from d2m_generator.training.config import D2MConfig
from d2m_generator.training.job import GeneratorJob, fit
from d2m_generator.training.matcher import Matcher


class D2M:
    """Distill a data set into the weights of a pre-trained generator.

    Each step draws a network from the pool, real images, generated images of fresh noise and one augmentation for both,
    and updates the trained parameters so that the class means of attention maps, embeddings and predictions agree. All
    draws are keyed by (seed, step). Under torchrun the processes divide the classes of every step among them, and learn
    what one process learns. A fitted ``preprocessing`` replaces the mean and std of the images.

    References
    ----------
    D2M, arXiv 2411.12841.

    Examples
    --------
    >>> from d2m_generator import ConditionalGAN, PoolConfig
    >>> from sextet_common.data import load
    >>> config = D2MConfig(steps=2, images=2, pool=PoolConfig(networks=1, epochs=1, trained_on=64, width=8))
    >>> generator = D2M(config).fit(ConditionalGAN(10, (1, 8, 8), width=4), load("digits"))
    """

    def __init__(self, config: D2MConfig | None = None, *, preprocessing: Preprocessing | None = None) -> None:
        self.config, self._preprocessing = config or D2MConfig(), preprocessing

    def fit(
        self,
        generator: ImageGenerator,
        data: image_data.Source,
        out: str | os.PathLike[str] | None = None,
        *,
        log: Sequence[loggers.Name | loggers.Logger] = (),
    ) -> ImageGenerator:
        """Distill in place, and return the generator with the averaged weights.

        ``out`` is a run folder for checkpoints, metrics.jsonl, pictures of samples and the generator. A stopped run
        resumes from its newest checkpoint, bit-identically. ``log`` are trackers that follow it: tensorboard, wandb,
        mlflow, or any `sextet_common.loggers.Logger`.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C or SIGTERM, once the step is finished and saved.
        """
        if out is not None:
            check_savable(generator, adapters=self.config.parameters == "lora")

        def make(images: ImageSet, joined: Processes) -> DistillationJob:
            return DistillationJob(generator, images, self.config, joined, self._preprocessing)

        fit(make, "distill", generator, data, self.config, out, log)
        return generator


class DistillationJob(GeneratorJob):
    """The trained parameters, their average and Adam's moments."""

    def __init__(
        self,
        generator: ImageGenerator,
        data: ImageSet,
        config: D2MConfig,
        joined: Processes,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        trained = chosen_parameters(generator.eval(), config.parameters, generator.groups())
        super().__init__(generator, data, config, joined, generator, [name for name, _ in trained])
        self.config, self.parameters = config, dict(trained)
        self.optimizer = torch.optim.Adam(list(self.parameters.values()), config.lr)
        self.optimizers = {"adam": self.optimizer}
        self.matcher = Matcher(config, data, preprocessing or Preprocessing.fit(data), joined)

    def step(self, number: int) -> dict[str, Tensor]:
        """Update the trained parameters and return the loss before the update."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.lr, number, self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.matcher.backward(number, lambda classes: self._generated(number, classes))
        self.processes.sum_gradients(self.parameters.values())
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.config.clip)
        self.optimizer.step()
        self.average.update(self.generator)
        return {"loss": loss}

    def _generated(self, number: int, classes: np.ndarray) -> Tensor:
        """Return new images of some classes."""
        shape = (self.config.images, *self.generator.noise_shape)
        sources = [torch_generator(self.seed, "noise", number, label) for label in classes.tolist()]
        noise = torch.cat([torch.randn(shape, generator=source) for source in sources])
        with self.autocast():
            return self.generator.sample(torch.tensor(np.repeat(classes, self.config.images)), noise=noise)

    def save(self, folder: runs.Run) -> None:
        """Save the generator, or the adapters alone where they were trained, and the curve of the loss."""
        if self.config.parameters == "lora":
            from d2m_generator.generators.diffusion import DiffusionGenerator

            model = unadapted(self.generator)
            assert isinstance(model, DiffusionGenerator)
            model.save_lora(folder.path / "lora")
        else:
            save_generator(self.generator, folder.path / "generator")
        training.save_curve(folder, "loss")


def learning_rate(highest: float, step: int, steps: int) -> float:
    """Return the learning rate of a step: half a cosine from the highest value to a tenth of it.

    Examples
    --------
    >>> [round(learning_rate(1.0, step, 100), 3) for step in (0, 50, 100)]
    [1.0, 0.55, 0.1]
    """
    return highest * (0.55 + 0.45 * math.cos(math.pi * step / steps))
