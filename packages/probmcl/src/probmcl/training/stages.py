"""The stages of a training as one job."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch
from sextet_common import training
from sextet_common.errors import DataWarning
from sextet_common.processes import Processes
from sextet_common.runs import Run
from sextet_common.seeding import torch_generator, torch_seed
from torch import Tensor, nn

from probmcl import metrics
from probmcl.data.sets import MultiLabelSet, unlabelled
from probmcl.losses.overlap import positive_rate
from probmcl.training.average import Average
from probmcl.training.batches import Batches, Rows
from probmcl.training.config import Config
from probmcl.training.network import Network, infer
from probmcl.training.objective import Objective
from probmcl.training.optimization import Optimization
from probmcl.training.sharding import WholeBatch

LOG_EVERY = 20  # steps; in between nothing waits for the device
UNIFORM = 0.01  # a contrastive term that is as near to its value for equal similarities has learned nothing
_CHECKED_FROM = 50  # steps that are taken before this is checked, or half of the stage: learning begins slowly


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage: its steps, the modules that learn in it, and their loss."""

    name: Literal["contrastive", "classifier", "joint", "whole"]
    first: int
    """Step of the training at which it begins."""
    steps: int
    lr: float
    modules: tuple[nn.Module, ...]
    objective: Objective

    @property
    def end(self) -> int:
        """Number of steps that are done when it ends."""
        return self.first + self.steps


class Training(training.Job):
    """Train a network in place. Every draw is keyed by (seed, stage, step), so that a resumed run draws the same.

    Several processes divide every batch among them, and learn what one process learns from the whole batch.
    """

    def __init__(
        self,
        network: Network,
        data: MultiLabelSet,
        config: Config,
        device: torch.device,
        processes: Processes | None = None,
    ) -> None:
        self.network, self.data, self.config, self.device = network, data, config, device
        self.processes = processes or Processes(device)
        self.seed = config.seed
        self.validate = False  # measure the classifier when its stage ends
        self.batches = Batches(data.train.labels, config, self.processes)
        self.stages = _stages(network, self.batches.epoch, config)
        self.steps = self.stages[-1].end
        epochs = -(-max(_CHECKED_FROM, self.stages[0].steps // 2) // self.batches.epoch)
        self.checked_at = epochs * self.batches.epoch if self.stages[0].objective.contrasts else 0
        self._enter(self.stages[0])

    @property
    def hint(self) -> str:  # type: ignore[override]  # it depends on the stage
        """What to try after a non-finite loss."""
        return f"a learning rate below {self.stage.lr:g} in the {self.stage.name} stage"

    def step(self, number: int) -> dict[str, Tensor]:
        """Take one step of the stage that this number belongs to."""
        if number == self.stage.end:
            self._enter(self.stages[self.stages.index(self.stage) + 1])
        stage, done = self.stage, number + 1
        number -= stage.first
        rows = self.batches.rows(stage.name, number, with_unlabelled=stage.objective.uses_unlabelled)
        labels = torch.from_numpy(self.data.train.labels[rows.whole]).to(self.device).repeat(2, 1)
        several = self.processes.world > 1
        with WholeBatch(rows, self.processes, self.device) if several else nullcontext() as whole:
            views = self._views(rows, number)
            with torch_seed(self.config.seed, "dropout", stage.name, number):
                losses = stage.objective(
                    views, labels, rows.n_labelled, gather=whole, measure=done % LOG_EVERY == 0 or self.milestone(done)
                )
        self.optimization.step(losses["loss"], self.processes)
        if self.average is not None:
            self.average.update(self.network, number)
            if done == stage.end:
                self.average.copy_to(self.network)
        return {name: value.detach() for name, value in losses.items()}

    def _views(self, rows: Rows, number: int) -> Tensor:
        """Return two views of this process's rows."""
        draw = torch_generator(self.config.seed, "views", self.stage.name, number, device=self.device)
        return self.config.augmentation.views(self.data.train.batch_on(rows.own, self.device), draw)

    def state(self) -> dict[str, Any]:
        """Return the network, its average and the optimizer of the current stage."""
        network = {f"model.{name}": tensor for name, tensor in self.network.state_dict().items()}
        average = {} if self.average is None else self.average.state()
        return network | average | self.optimization.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the network, and the optimizer unless a stage has just ended."""
        model = {name.removeprefix("model."): x for name, x in state.items() if name.startswith("model.")}
        self.network.load_state_dict(model)
        done = int(state["step"])
        for stage in self.stages:
            if stage.first <= done < stage.end:
                self._enter(stage, done - stage.first)
                if done > stage.first:
                    self.optimization.restore(state)
                    if self.average is not None:
                        self.average.restore(state)

    def milestone(self, done: int) -> bool:
        """Log the end of every stage, and where the contrastive term is checked."""
        return done in (self.stage.end, self.checked_at)

    def begin(self, run: Run, done: int) -> None:
        """Log what the threshold means on these data."""
        self.validate = True
        if done == 0 and self.config.is_contrastive:
            labels = torch.from_numpy(self.data.train.labels[~unlabelled(self.data.train.labels)])
            contrastive = self.config.contrastive
            run.log(0, positive_rate=positive_rate(labels, contrastive.threshold, contrastive.measure))

    def read(self, done: int, metrics: training.Metrics) -> dict[str, float | str]:
        """Add the stage's name and, when a classifier's stage ends, its validation score."""
        values = super().read(done, metrics)
        if done == self.checked_at and self.processes.is_first:
            self._check_that_it_learns(values)
        return {"stage": self.stage.name, **values, **self._validated(done)}

    def _check_that_it_learns(self, values: Mapping[str, Any]) -> None:
        uniform, contrastive = values.get("uniform_contrastive"), values.get("contrastive")
        if uniform and contrastive is not None and abs(contrastive / uniform - 1) < UNIFORM:
            warnings.warn(
                f"the contrastive term is {contrastive:.4g} after {self.checked_at} steps and would be {uniform:.4g} "
                "if all similarities were equal: it does not train the encoder. Try another temperature or similarity",
                DataWarning,
                stacklevel=2,
            )

    def _enter(self, stage: Stage, done: int = 0) -> None:
        self.stage = stage
        parameters = [parameter for module in stage.modules for parameter in module.parameters()]
        self.optimization = Optimization(parameters, stage.lr, stage.steps, self.config, self.device, done)
        self.average = Average(self.network, self.config.ema_decay) if self.config.ema_decay > 0 else None
        self._prepare()

    def _prepare(self) -> None:
        """Let the modules of the stage learn, and no others; frozen ones keep their batch statistics too."""
        for module in self.network.children():
            module.requires_grad_(module in self.stage.modules)
            module.train(module in self.stage.modules)

    def _validated(self, done: int) -> dict[str, float]:
        validation = self.data.validation
        if not self.validate or self.stage.name == "contrastive" or done != self.stage.end:
            return {}
        if not (validation.labels > 0).any():
            return {}
        probabilities = infer(self.network, validation, self.device, self.network.logits).sigmoid()
        self._prepare()
        scores = metrics.evaluate(probabilities, np.array(validation.labels), k=min(3, self.data.n_labels))
        return {"validation_map": scores.mean_ap}


def _stages(network: Network, epoch: int, config: Config) -> list[Stage]:
    whole = (config.epochs + config.classifier_epochs) * epoch
    both: tuple[nn.Module, ...] = (network.encoder, network.classifier)
    if not config.is_contrastive:
        return [Stage("whole", 0, whole, config.lr, both, Objective(network, config, classify=True))]
    extra = tuple(module for module in (network.head, network.loss) if module is not None)
    if not config.two_stages:
        objective = Objective(network, config, classify=True, contrast=True)
        return [Stage("joint", 0, whole, config.lr, (*both, *extra), objective)]
    objective = Objective(network, config, contrast=True)
    first = Stage("contrastive", 0, config.epochs * epoch, config.lr, (network.encoder, *extra), objective)
    learners, lr = (both, config.lr) if config.fine_tune else ((network.classifier,), config.classifier_lr)
    objective = Objective(network, config, classify=True)
    return [first, Stage("classifier", first.end, config.classifier_epochs * epoch, lr, learners, objective)]
