"""Pre-training of a diffusion model (denoising) or a consistency model (improved consistency training)."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from sextet_common.processes import Processes
from sextet_common.seeding import torch_generator
from torch import Tensor
from torch.nn import functional

from d2m_generator.generators.diffusion import DiffusionGenerator
from d2m_generator.generators.sampling import noise_levels
from d2m_generator.training.config import PretrainConfig
from d2m_generator.training.job import PretrainJob

# Improved consistency training, arXiv 2310.14189: number of noise levels, their distribution, constant of the loss.
_FIRST_LEVELS, _LAST_LEVELS = 10, 160
_LOG_MEAN, _LOG_STD = -1.1, 2.0
_HUBER = 0.00054


class DiffusionJob(PretrainJob):
    """Adam on the loss of a batch, and an average of the model's weights."""

    generator: DiffusionGenerator

    def __init__(
        self, generator: DiffusionGenerator, data: ImageSet, config: PretrainConfig, joined: Processes
    ) -> None:
        trained = {name: p for name, p in generator.model.named_parameters() if p.requires_grad}
        if not trained:
            raise InputError("all parameters of the model are frozen", "at least one with requires_grad")
        super().__init__(generator, data, config, joined, generator.model, list(trained))
        self.optimizer = torch.optim.Adam(list(trained.values()), config.lr)
        self.modules, self.optimizers = {"model": generator.model}, {"adam": self.optimizer}

    def learn(self, images: Tensor, labels: Tensor, number: int) -> dict[str, Tensor]:
        """Update the weights and return the loss."""
        draw = torch_generator(self.seed, "noise", number)
        loss = self.loss(self.generator.encode(images), self._dropped(labels, draw), number, draw)
        self.descend(self.optimizer, loss)
        self.average.update(self.generator.model)
        return {"loss": loss.detach()}

    @abstractmethod
    def loss(self, x: Tensor, labels: Tensor, number: int, draw: torch.Generator) -> Tensor:
        """Return the loss of this process's rows of a batch; ``draw`` draws for all rows."""

    def _dropped(self, labels: Tensor, draw: torch.Generator) -> Tensor:
        """Replace a share of the labels by the null class."""
        if self.generator.null is None or self.generator.kind == "consistency" or not self.config.label_dropout:
            return labels
        dropped = self._rows(torch.rand(self.config.batch_size, generator=draw)) < self.config.label_dropout
        return torch.where(dropped, torch.full_like(labels, self.generator.null), labels)

    def _rows(self, draws: Tensor) -> Tensor:
        """Return this process's rows of random numbers for a batch, on its device."""
        return draws[self.mine].to(self.device)

    def _noise(self, x: Tensor, draw: torch.Generator) -> Tensor:
        return self._rows(torch.randn(self.config.batch_size, *x.shape[1:], generator=draw))


class DenoisingJob(DiffusionJob):
    """Mean squared error of the predicted noise, image or velocity, as the scheduler's prediction_type says."""

    may_grow = True

    def loss(self, x: Tensor, labels: Tensor, number: int, draw: torch.Generator) -> Tensor:
        """Return the loss of a batch at random timesteps."""
        config = self.generator.scheduler.config
        alphas = self.generator.scheduler.alphas_cumprod.to(x.device)
        times = torch.randint(config["num_train_timesteps"], (self.config.batch_size,), generator=draw)
        times, noise = self._rows(times), self._noise(x, draw)
        a, b = (part.sqrt().view(-1, 1, 1, 1) for part in (alphas[times], 1 - alphas[times]))
        target = {"epsilon": noise, "sample": x, "v_prediction": a * noise - b * x}[config["prediction_type"]]
        return functional.mse_loss(self.generator.predict(a * x + b * noise, times, labels), target)


class ConsistencyJob(DiffusionJob):
    """Improved consistency training: an image at two neighbouring noise levels maps to the same clean image."""

    def loss(self, x: Tensor, labels: Tensor, number: int, draw: torch.Generator) -> Tensor:
        """Return the loss of a batch at random noise levels."""
        sigmas = self.levels(number)
        weights = torch.special.erf((sigmas.log() - _LOG_MEAN) / (math.sqrt(2) * _LOG_STD)).diff()
        index = torch.multinomial(weights, self.config.batch_size, replacement=True, generator=draw)
        noise = self._noise(x, draw)
        less, more = (self._rows(sigmas[index + shift].float()) for shift in (0, 1))
        with torch.no_grad():
            target = self.generator.consistent(x + less.view(-1, 1, 1, 1) * noise, less, labels)
        clean = self.generator.consistent(x + more.view(-1, 1, 1, 1) * noise, more, labels)
        return (pseudo_huber(clean, target) / (more - less)).mean()

    def levels(self, number: int) -> Tensor:
        """Return the noise levels of a step in ascending order; their number doubles at equal intervals."""
        doublings = int(math.log2(_LAST_LEVELS / _FIRST_LEVELS)) + 1
        stage = min(doublings - 1, number * doublings // self.steps)
        count = min(_FIRST_LEVELS * 2**stage, _LAST_LEVELS) + 1
        config = self.generator.scheduler.config
        return noise_levels(config["sigma_min"], config["sigma_max"], config["rho"], count)


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """Return sqrt(|a - b|^2 + c^2) - c of each image, with c = 0.00054 sqrt(numbers of an image)."""
    c = _HUBER * math.sqrt(a[0].numel())
    return ((a - b).square().sum(dim=(1, 2, 3)) + c**2).sqrt() - c


def job_for(generator: DiffusionGenerator, data: ImageSet, config: PretrainConfig, joined: Processes) -> DiffusionJob:
    """Return the job that trains a generator of this kind."""
    return (ConsistencyJob if generator.kind == "consistency" else DenoisingJob)(generator, data, config, joined)
