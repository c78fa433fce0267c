"""A distillation as a job of `sextet_common.training`: steps, checkpoints and checks of losses and first step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sextet_common.errors import DataWarning, InputError
from sextet_common.training import Job, Metrics
from torch import Tensor

from attention_matching.distillation.shards import Shard
from attention_matching.distillation.step import Step

_LEAST_COSINE = 0.8  # of real images before and after the first step: below, the initial images mean little


class Distillation(Job):
    """The steps of one process; checkpoints hold the images and velocities of all classes.

    ``names`` are those of the sets, by which checkpoints and metrics keep several apart; one set alone has none.
    """

    def __init__(self, step: Step, shard: Shard, classes: tuple[str, ...], names: Sequence[str]) -> None:
        config = step.sets[0].config
        self.steps, self.seed = config.steps or 0, config.seed
        self.shown = tuple(_key(name, "loss") for name in names)
        self._step, self._shard, self._classes, self._names = step, shard, classes, names
        self._unread: list[Tensor] = []  # losses since the last look at them: until then nothing waits for the device

    def step(self, number: int) -> Metrics:
        """Update the images."""
        losses = self._step(number)
        self._unread.append(losses)
        return dict(zip(self.shown, losses, strict=True))

    def read(self, done: int, metrics: Metrics) -> dict[str, float]:
        """Return each set's loss summed over all classes; refuse a non-finite loss since the last look."""
        losses = torch.stack(self._unread)  # (steps, sets, classes)
        losses = self._shard.all_gather(losses.movedim(2, 0)).movedim(0, 2).cpu()
        first = done - len(self._unread)
        self._unread.clear()
        wrong = (~losses.isfinite()).nonzero()
        if len(wrong):
            number, of, label = wrong[0].tolist()
            named = f"set {self._names[of]!r}, " if self._names[of] else ""
            raise InputError(
                f"the loss is {float(losses[number, of, label])} at step {first + number}, "
                f"{named}class {self._classes[label]!r}, seed {self.seed}",
                f"finite numbers: try an image_lr below {self._step.sets[of].config.image_lr:g}",
            )
        self._check_first_step()
        return dict(zip(self.shown, losses[-1].sum(dim=1).tolist(), strict=True))

    def _check_first_step(self) -> None:
        """Warn of a learning rate whose first step turns real images into others."""
        for each in self._step.sets:
            if each.first_cosine is None:
                continue
            cosine = float(self._shard.all_gather(each.first_cosine).mean())
            each.first_cosine = None
            config = each.config
            if cosine < _LEAST_COSINE and config.initial != "noise" and self._shard.processes.is_first:
                warnings.warn(
                    f"the first step of {config.method} left the initial images with a cosine of {cosine:.2f}, below "
                    f"{_LEAST_COSINE}: real initial images mean little at image_lr {config.image_lr:g}",
                    DataWarning,
                    stacklevel=2,
                )

    def state(self) -> dict[str, Tensor]:
        """Return the images and velocities of all classes, shape (classes, ipc, channels, height, width) each."""
        return {key: self._shard.all_gather(tensor) for key, tensor in self._tensors().items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Copy this process's part of the state."""
        rows = slice(self._shard.classes.start, self._shard.classes.stop)
        for key, tensor in self._tensors().items():
            shape = (self._shard.n_classes, *tensor.shape[1:])
            saved = state.get(key)
            if not isinstance(saved, Tensor) or saved.dtype != torch.float32 or tuple(saved.shape) != shape:
                content = f"{saved.dtype} {tuple(saved.shape)}" if isinstance(saved, Tensor) else "nothing"
                raise InputError(f"{key} of the newest checkpoint must be float32 {shape}, got {content}")
            tensor.copy_(saved[rows])

    def images(self) -> list[Tensor]:
        """Return each set's images of all classes on the CPU, class after class."""
        state = self.state()
        return [state[_key(name, "images")].flatten(0, 1).cpu() for name in self._names]

    def _tensors(self) -> dict[str, Tensor]:
        """Return views of the sets' images and velocities as (classes, ipc, ...), by their names in a checkpoint."""
        return {
            _key(name, kind): each.per_class(tensor)
            for name, each in zip(self._names, self._step.sets, strict=True)
            for kind, tensor in (("images", each.images.detach()), ("velocity", each.velocity))
        }


def _key(name: str, kind: str) -> str:
    return f"{name}.{kind}" if name else kind
