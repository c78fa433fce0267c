"""A distillation as a job of `sextet_common.training`: steps, checkpoints and the check of the losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sextet_common.errors import InputError
from sextet_common.training import Job, Metrics
from torch import Tensor

from attention_matching.distillation.shards import Shard
from attention_matching.distillation.step import Step


class Distillation(Job):
    """The steps of one process; checkpoints hold the images and velocities of all classes."""

    def __init__(self, step: Step, shard: Shard, classes: tuple[str, ...]) -> None:
        config = step.config
        self.steps, self.seed = config.steps or 0, config.seed
        self._hint = f"finite numbers: try an image_lr below {config.image_lr:g}"
        self._step, self._shard, self._classes = step, shard, classes
        self._unread: list[Tensor] = []  # losses since the last look at them: until then nothing waits for the device

    def step(self, number: int) -> Metrics:
        """Update the images."""
        losses = self._step(number)
        self._unread.append(losses)
        return {"loss": losses}

    def read(self, done: int, metrics: Metrics) -> dict[str, float]:
        """Return the loss summed over all classes; refuse a non-finite loss of any class at any step since the last."""
        losses = self._shard.all_gather(torch.stack(self._unread, dim=1)).cpu()
        first = done - len(self._unread)
        self._unread.clear()
        wrong = (~losses.isfinite()).T.nonzero()
        if len(wrong):
            number, label = wrong[0].tolist()
            raise InputError(
                f"the loss is {float(losses[label, number])} at step {first + number}, "
                f"class {self._classes[label]!r}, seed {self.seed}",
                self._hint,
            )
        return {"loss": float(losses[:, -1].sum())}

    def state(self) -> dict[str, Tensor]:
        """Return the images and velocities of all classes, shape (classes, ipc, channels, height, width) each."""
        return {name: self._shard.all_gather(self._per_class(tensor)) for name, tensor in self._tensors().items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Copy this process's part of the state."""
        rows = slice(self._shard.classes.start, self._shard.classes.stop)
        for name, tensor in self._tensors().items():
            shape = (self._shard.n_classes, *self._per_class(tensor).shape[1:])
            saved = state.get(name)
            if not isinstance(saved, Tensor) or saved.dtype != torch.float32 or tuple(saved.shape) != shape:
                content = f"{saved.dtype} {tuple(saved.shape)}" if isinstance(saved, Tensor) else "nothing"
                raise InputError(f"{name} of the newest checkpoint must be float32 {shape}, got {content}")
            tensor.copy_(saved[rows].flatten(0, 1))

    def images(self) -> Tensor:
        """Return the images of all classes on the CPU, class after class."""
        return self.state()["images"].flatten(0, 1).cpu()

    def _tensors(self) -> dict[str, Tensor]:
        return {"images": self._step.images.detach(), "velocity": self._step.velocity}

    def _per_class(self, images: Tensor) -> Tensor:
        return images.view(-1, self._step.config.ipc, *images.shape[1:])
