"""The training of a network as a job for `sextet_common.training`: one step is one epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sextet_common import optimizers
from sextet_common.processes import Processes
from sextet_common.seeding import torch_seed
from sextet_common.training import Job
from torch import Tensor, nn

from subclass_kd.batches import Batches
from subclass_kd.config import TrainConfig
from subclass_kd.data import SubclassSet
from subclass_kd.inference import evaluate
from subclass_kd.losses import Objective
from subclass_kd.teacher import TeacherSource

WARMUP = 0.1  # share of the steps in which the learning rate rises


class Epochs(Job):
    """Trains a network in place with an objective, an epoch at a time.

    Under torchrun the images of every step are shared out among the processes, and gradients are averaged.
    """

    def __init__(
        self,
        network: nn.Module,
        data: SubclassSet,
        objective: Objective,
        teacher: TeacherSource | None,
        config: TrainConfig,
        processes: Processes,
    ) -> None:
        self.network, self.data, self.objective, self.config = network, data, objective, config
        self.teacher = teacher if objective.needs_teacher else None
        self.processes = processes
        self.steps, self.seed, self.hint = config.epochs, config.seed, f"an lr below {config.lr:g}"
        self.batches = Batches(data.train, config, with_unlabelled=objective.needs_teacher)
        self.optimizer = optimizers.adamw(network.parameters(), config.lr, config.weight_decay)
        self._start_schedule(0)
        self.learner = nn.parallel.DistributedDataParallel(network) if processes.world > 1 else network
        self.best = copy.deepcopy(network.state_dict()) if config.patience else {}
        self.best_f1, self.epochs_since_best = -1.0, 0

    def step(self, number: int) -> dict[str, float]:
        """Train for an epoch, and score the validation images if there is early stopping."""
        loss = self._epoch(number)
        if not self.config.patience or not math.isfinite(loss):
            return {"loss": loss}
        f1 = evaluate(self.network, self.data, "validation").f1
        f1 = self.processes.broadcast(f1)  # the processes' statistics of batch norm may differ
        self.epochs_since_best += 1
        if f1 > self.best_f1:
            self.best_f1, self.epochs_since_best = f1, 0
            self.best = copy.deepcopy(self.network.state_dict())
        return {"loss": loss, "validation_f1": f1}

    def finished(self) -> bool:
        """Return whether the patience is exhausted."""
        return 0 < self.config.patience <= self.epochs_since_best

    def finish(self) -> None:
        """Load the weights of the best epoch if there is early stopping, and switch to evaluation mode."""
        if self.config.patience:
            self.network.load_state_dict(self.best)
        self.network.eval()

    def state(self) -> dict[str, Any]:
        """Return the weights, the best weights, the optimizer's state and the progress of early stopping."""
        model = {f"model.{name}": tensor for name, tensor in self.network.state_dict().items()}
        best = {f"best.{name}": tensor for name, tensor in self.best.items()}
        early_stopping = {"best": self.best_f1, "since": self.epochs_since_best}
        return {**model, **best, **optimizers.state(self.optimizer), **early_stopping}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        if self.best:  # through the network, which checks names and shapes
            self.network.load_state_dict(_with_prefix(state, "best."))
            self.best = copy.deepcopy(self.network.state_dict())
        self.network.load_state_dict(_with_prefix(state, "model."))
        optimizers.restore(self.optimizer, _with_prefix(state, "optimizer.", keep=True))
        self.best_f1, self.epochs_since_best = float(state["best"]), int(state["since"])
        self._start_schedule(int(state["step"]))

    def _start_schedule(self, epochs_done: int) -> None:
        steps, done = (epochs * self.batches.steps for epochs in (self.config.epochs, epochs_done))
        self.schedule = optimizers.warmup_cosine(self.optimizer, steps, WARMUP, done=done)

    def _epoch(self, epoch: int) -> float:
        """Train for an epoch and return the mean loss."""
        self.learner.train()
        view = epoch % self.config.views.count
        total = torch.zeros((), device=self.processes.device)
        batches = self.batches.epoch(epoch, self.processes.rank, self.processes.world)
        for number, (rows, count) in enumerate(batches):
            loss = self._loss(epoch, number, view, rows) * (len(rows) * self.processes.world / count)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.detach()
        return float(self.processes.sum(total)) / self.batches.steps / self.processes.world

    def _loss(self, epoch: int, number: int, view: int, rows: np.ndarray) -> Tensor:
        """Compute the loss of this process's images of a batch."""
        device, train = self.processes.device, self.data.train
        images = self.config.views.apply(train.batch(rows, device), view, rows, len(train))
        labels = torch.from_numpy(train.labels[rows]).to(device)
        teacher = self.teacher(view, rows).to(device) if self.teacher is not None else None
        with (
            torch_seed(self.config.seed, "dropout", epoch, number, self.processes.rank),
            torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"),
        ):
            outputs = self.learner(images)
        if train.weights is None:
            return self.objective(outputs, teacher, labels)
        weights = torch.from_numpy(train.weights[rows].astype(np.float32)).to(device)
        return self.objective(outputs, teacher, labels, sample_weights=weights)  # type: ignore[call-arg]


def _with_prefix(state: Mapping[str, Any], prefix: str, *, keep: bool = False) -> dict[str, Tensor]:
    return {name if keep else name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
