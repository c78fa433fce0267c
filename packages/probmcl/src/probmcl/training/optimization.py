"""The optimizer of a stage, its schedule and, in half precision, the scale of the loss."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from sextet_common import optimizers
from sextet_common.processes import Processes
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from probmcl.training.config import Config

WARM_UP = 0.2  # of a stage's steps, as in the recipe of KMCL


class Optimization:
    """AdamW with a schedule. ``done`` are the steps of an earlier, interrupted run."""

    def __init__(
        self, parameters: list[nn.Parameter], lr: float, steps: int, config: Config, device: torch.device, done: int
    ) -> None:
        self.parameters = parameters
        self.optimizer = optimizers.adamw(parameters, lr, config.weight_decay)
        self.schedule: LRScheduler
        if config.schedule == "onecycle":
            self.schedule = _one_cycle(self.optimizer, lr, steps, done)
        else:
            self.schedule = optimizers.warmup_cosine(self.optimizer, steps, WARM_UP, done=done)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")

    def step(self, loss: Tensor, processes: Processes) -> None:
        """Take a step against the gradient of a loss, which is the mean over the processes."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss / processes.world).backward()
        processes.sum_gradients(self.parameters)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with warnings.catch_warnings():  # a first step that the scaler skips is none to torch's schedules
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
            self.schedule.step()

    def state(self) -> dict[str, Any]:
        """Return the state of the optimizer, and that of the scale if it is used."""
        scale = {"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}
        return {**optimizers.state(self.optimizer), **scale}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        optimizers.restore(self.optimizer, {name: x for name, x in state.items() if name.startswith("optimizer.")})
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(dict(state["scaler"]))


def _one_cycle(optimizer: torch.optim.Optimizer, lr: float, steps: int, done: int) -> OneCycleLR:
    """Return torch's schedule, whose rising part has two steps or more: it divides by zero in a part of one."""
    total = max(3, steps)
    schedule = OneCycleLR(optimizer, lr, total_steps=total, pct_start=max(WARM_UP, 2 / total))
    if done:
        schedule.last_epoch = done - 1
        optimizer._opt_called = True  # type: ignore[attr-defined]  # the steps before were taken by an earlier run
        schedule.step()
    return schedule
