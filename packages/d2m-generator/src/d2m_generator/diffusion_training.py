"""Train a diffusion or a consistency model from nothing: predicting noise, or agreeing with oneself at less noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from sextet_common import optimizers
from sextet_common.errors import InputError
from sextet_common.seeding import torch_generator
from torch import Tensor
from torch.nn import functional

from d2m_generator.diffusion import DiffusionGenerator
from d2m_generator.ema import EMA
from d2m_generator.pretrain import PretrainConfig

# Improved consistency training, arXiv 2310.14189: levels of noise, their law and the loss's bend.
_FIRST_LEVELS, _LAST_LEVELS = 10, 160
_LOG_MEAN, _LOG_STD = -1.1, 2.0
_BEND = 0.00054


class _Learner(ABC):
    """What both share: Adam, the average of the weights, the state."""

    def __init__(self, generator: DiffusionGenerator, config: PretrainConfig) -> None:
        self.generator, self.config = generator, config
        learns = [(n, p) for n, p in generator.model.named_parameters() if p.requires_grad]
        if not learns:
            raise InputError("no parameter of the model learns", "one at least")
        self.average = EMA(generator.model, config.ema, [name for name, _ in learns])
        self.optimizer = torch.optim.Adam([p for _, p in learns], config.lr)

    def step(self, images: Tensor, labels: Tensor, number: int) -> dict[str, Tensor]:
        """Learn from images in [-1, 1]."""
        draw = torch_generator(self.config.seed, "noise", number)
        loss = self.loss(self.generator.encode(images), self._dropped(labels, draw), number, draw)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.average.update(self.generator.model)
        return {"loss": loss.detach()}

    @abstractmethod
    def loss(self, x: Tensor, labels: Tensor, number: int, draw: torch.Generator) -> Tensor:
        """Compute the loss of a batch."""

    def state(self) -> dict[str, Tensor]:
        """Return all that a stopped training goes on from."""
        found = {f"model.{n}": t for n, t in self.generator.model.state_dict().items()}
        found |= {f"average.{n}": t for n, t in self.average.weights.items()}
        return found | optimizers.state(self.optimizer, "adam")

    def load(self, arrays: dict[str, Tensor]) -> None:
        """Take such a state."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}}
        for name, tensor in arrays.items():
            head, _, rest = name.partition(".")
            if head in parts:
                parts[head][rest] = tensor
        self.generator.model.load_state_dict(parts["model"])
        self.average.load(parts["average"])
        optimizers.restore(self.optimizer, arrays, "adam")

    def finish(self) -> None:
        """Leave the averaged weights in the generator."""
        self.average.copy_to(self.generator.model)

    def _dropped(self, labels: Tensor, draw: torch.Generator) -> Tensor:
        if self.generator.null is None or self.generator.kind == "consistency" or not self.config.label_dropout:
            return labels
        left_out = torch.rand(len(labels), generator=draw).to(labels.device) < self.config.label_dropout
        return torch.where(left_out, torch.full_like(labels, self.generator.null), labels)


class DenoisingLearner(_Learner):
    """Mean squared error of the predicted noise, of the image or of the velocity, as the scheduler says."""

    def loss(self, x: Tensor, labels: Tensor, number: int, draw: torch.Generator) -> Tensor:
        """Compute the loss of a batch."""
        config = self.generator.scheduler.config
        alphas = self.generator.scheduler.alphas_cumprod.to(x.device)
        times = torch.randint(config["num_train_timesteps"], (len(x),), generator=draw).to(x.device)
        noise = torch.randn(x.shape, generator=draw).to(x.device)
        a, b = (part.sqrt().view(-1, 1, 1, 1) for part in (alphas[times], 1 - alphas[times]))
        wanted = {"epsilon": noise, "sample": x, "v_prediction": a * noise - b * x}[config["prediction_type"]]
        return functional.mse_loss(self.generator.predict(a * x + b * noise, times, labels), wanted)


class ConsistencyLearner(_Learner):
    """Improved consistency training: an image at two neighbouring levels of noise becomes the same clean image."""

    def loss(self, x: Tensor, labels: Tensor, number: int, draw: torch.Generator) -> Tensor:
        """Compute the loss of a batch."""
        sigmas = self._levels(number)
        middle = (torch.special.erf((sigmas.log() - _LOG_MEAN) / (math.sqrt(2) * _LOG_STD))).diff()
        index = torch.multinomial(middle, len(x), replacement=True, generator=draw)
        noise = torch.randn(x.shape, generator=draw).to(x.device)
        less, more = (sigmas[index + shift].float().to(x.device) for shift in (0, 1))
        with torch.no_grad():
            wanted = self.generator.consistent(x + less.view(-1, 1, 1, 1) * noise, less, labels)
        found = self.generator.consistent(x + more.view(-1, 1, 1, 1) * noise, more, labels)
        bend = _BEND * math.sqrt(x[0].numel())
        apart = ((found - wanted).square().sum(dim=(1, 2, 3)) + bend**2).sqrt() - bend
        return (apart / (more - less)).mean()

    def _levels(self, number: int) -> Tensor:
        """Return the levels of noise of a step, rising: ever more of them, doubled at equal intervals."""
        doublings = int(math.log2(_LAST_LEVELS / _FIRST_LEVELS)) + 1
        stage = min(doublings - 1, number * doublings // self.config.steps)
        count = min(_FIRST_LEVELS * 2**stage, _LAST_LEVELS) + 1
        config = self.generator.scheduler.config
        low, high, rho = config["sigma_min"], config["sigma_max"], config["rho"]
        ramp = torch.linspace(0, 1, count, dtype=torch.float64)
        levels: Tensor = (low ** (1 / rho) + ramp * (high ** (1 / rho) - low ** (1 / rho))) ** rho
        return levels


def learner_of(generator: DiffusionGenerator, config: PretrainConfig) -> _Learner:
    """Return what trains a generator of this kind."""
    return (ConsistencyLearner if generator.kind == "consistency" else DenoisingLearner)(generator, config)
