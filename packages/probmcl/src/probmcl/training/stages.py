"""The stages of a training as one job: mixtures become alike where labels overlap, then a classifier learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from sextet_common import optimizers, training
from sextet_common.runs import Run
from sextet_common.seeding import generator, torch_generator, torch_seed
from torch import Tensor, nn

from probmcl import metrics
from probmcl.data.sets import MultiLabelSet
from probmcl.losses.overlap import positive_rate
from probmcl.mixtures.head import MixtureDensityHead
from probmcl.training.config import Config
from probmcl.training.network import Network, infer

LOG_EVERY = 20  # steps; in between nothing waits for the device
WARM_UP = 0.2  # of a stage's steps, as in the recipe of KMCL

Losses = Callable[[Tensor, Tensor], dict[str, Tensor]]  # two views and their labels to "loss" and its parts


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage: its steps, the modules that learn in it, and their loss."""

    name: Literal["contrastive", "classifier", "whole"]
    first: int
    """Step of the training at which it begins."""
    steps: int
    lr: float
    modules: tuple[nn.Module, ...]
    losses: Losses

    @property
    def end(self) -> int:
        """Number of steps that are done when it ends."""
        return self.first + self.steps


class Training(training.Job):
    """Train a network in place. Every draw is keyed by (seed, stage, step), so that a resumed run draws the same."""

    def __init__(self, network: Network, data: MultiLabelSet, config: Config, device: torch.device) -> None:
        self.network, self.data, self.config, self.device = network, data, config, device
        self.seed = config.seed
        self.validate = False  # measure the classifier when its stage ends
        self.stages = _stages(network, len(data.train), config)
        self.steps = self.stages[-1].end
        self._enter(self.stages[0])

    @property
    def hint(self) -> str:  # type: ignore[override]  # it depends on the stage
        """What to try after a non-finite loss."""
        return f"a learning rate below {self.stage.lr:g} in the {self.stage.name} stage"

    def step(self, number: int) -> dict[str, Tensor]:
        """Take one step of the stage that this number belongs to."""
        if number == self.stage.end:
            self._enter(self.stages[self.stages.index(self.stage) + 1])
        stage, config = self.stage, self.config
        number -= stage.first
        rows = _rows(len(self.data.train), stage, config, number)
        draw = torch_generator(config.seed, "views", stage.name, number, device=self.device)
        views = config.augmentation.views(self.data.train.batch_on(rows, self.device), draw)
        labels = torch.from_numpy(self.data.train.labels[rows]).to(self.device).repeat(2, 1)
        with torch_seed(config.seed, "dropout", stage.name, number):
            losses = stage.losses(views, labels)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        self.optimizer.step()
        self.schedule.step()
        return {name: value.detach() for name, value in losses.items()}

    def state(self) -> dict[str, Tensor]:
        """Return the network and the optimizer of the current stage."""
        network = {f"model.{name}": tensor for name, tensor in self.network.state_dict().items()}
        return network | optimizers.state(self.optimizer)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the network, and the optimizer unless a stage has just ended."""
        model = {name.removeprefix("model."): x for name, x in state.items() if name.startswith("model.")}
        self.network.load_state_dict(model)
        done = int(state["step"])
        for stage in self.stages:
            if stage.first <= done < stage.end:
                self._enter(stage, done - stage.first)
                if done > stage.first:
                    optimizers.restore(self.optimizer, state)

    def milestone(self, done: int) -> bool:
        """Log the end of every stage."""
        return done == self.stage.end

    def begin(self, run: Run, done: int) -> None:
        """Log what the threshold means on these data."""
        self.validate = True
        if done == 0 and self.config.two_stages:
            labels = torch.from_numpy(np.array(self.data.train.labels))
            contrastive = self.config.contrastive
            run.log(0, positive_rate=positive_rate(labels, contrastive.threshold, contrastive.measure))

    def read(self, done: int, metrics: training.Metrics) -> dict[str, float | str]:
        """Add the stage's name and, when a classifier's stage ends, its validation score."""
        return {"stage": self.stage.name, **super().read(done, metrics), **self._validated(done)}

    def _enter(self, stage: Stage, done: int = 0) -> None:
        self.stage = stage
        parameters = [parameter for module in stage.modules for parameter in module.parameters()]
        self.optimizer = optimizers.adamw(parameters, stage.lr, self.config.weight_decay)
        self.schedule = optimizers.warmup_cosine(self.optimizer, stage.steps, WARM_UP, done=done)
        self._prepare()

    def _prepare(self) -> None:
        """Let the modules of the stage learn, and no others; frozen ones keep their batch statistics too."""
        for module in (self.network.encoder, self.network.head, self.network.classifier):
            if module is not None:
                module.requires_grad_(module in self.stage.modules)
                module.train(module in self.stage.modules)

    def _validated(self, done: int) -> dict[str, float]:
        validation = self.data.validation
        if not self.validate or self.stage.name == "contrastive" or done != self.stage.end:
            return {}
        if not validation.labels.any():
            return {}
        probabilities = infer(self.network, validation, self.device, self.network.logits).sigmoid()
        self._prepare()
        scores = metrics.evaluate(probabilities, np.array(validation.labels), k=min(3, self.data.n_labels))
        return {"validation_map": scores.mean_ap}


def _stages(network: Network, rows: int, config: Config) -> list[Stage]:
    epoch = max(1, rows // config.batch_size)  # steps; the remainder appears in the order of another epoch
    classify = config.classification_loss()

    def classified(views: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": classify(network.classifier(_features(network, views, config)), labels)}

    both: tuple[nn.Module, ...] = (network.encoder, network.classifier)
    if not config.two_stages:
        return [Stage("whole", 0, (config.epochs + config.classifier_epochs) * epoch, config.lr, both, classified)]
    assert network.head is not None
    learners: tuple[nn.Module, ...] = (network.encoder, network.head)
    first = Stage("contrastive", 0, config.epochs * epoch, config.lr, learners, _contrastive(network, config))
    learners, lr = (both, config.lr) if config.fine_tune else ((network.classifier,), config.classifier_lr)
    return [first, Stage("classifier", first.end, config.classifier_epochs * epoch, lr, learners, classified)]


def _contrastive(network: Network, config: Config) -> Losses:
    probabilistic, supervised = config.contrastive.probmcl_loss(), config.contrastive.supcon_loss()

    def losses(views: Tensor, labels: Tensor) -> dict[str, Tensor]:
        features = _features(network, views, config)
        head = network.head
        if isinstance(head, MixtureDensityHead):
            points = head.project(features)
            other_views = points.roll(len(points) // 2, dims=0)
            parts = probabilistic.parts(head.mixture(points), other_views, labels)
            return {"loss": parts.total, "likelihood": parts.likelihood, "contrastive": parts.contrastive}
        assert head is not None
        return {"loss": supervised(head(features), labels)}

    return losses


def _features(network: Network, views: Tensor, config: Config) -> Tensor:
    with torch.autocast(views.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        features: Tensor = network.encoder(views)
    return features.float()


def _rows(n_rows: int, stage: Stage, config: Config, number: int) -> np.ndarray:
    """Return a step's rows: consecutive ones in the order of their epoch."""
    epoch, place = divmod(number, max(1, n_rows // config.batch_size))
    order = generator(config.seed, "order", stage.name, epoch).permutation(n_rows)
    return order[place * config.batch_size : (place + 1) * config.batch_size]
