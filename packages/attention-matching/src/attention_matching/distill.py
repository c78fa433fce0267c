"""The distillation itself: synthetic images learn to look, to random networks, like the real ones."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sextet_common import checkpoint, device, figures, progress, runs, seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import Tensor

from attention_matching.augment import N_RANDOM, Operation, SiameseAugmentation, augmentation_for
from attention_matching.distilled import DistilledSet
from attention_matching.losses import AttentionMatchingLoss
from attention_matching.networks import ConvNet, Norm, default_depth, default_width
from attention_matching.preprocess import Preprocessing
from attention_matching.select import class_members, random_real

JOB = "attention-matching distill"
RESULT = "distilled.safetensors"


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """How to distill. Where nothing else is said, the defaults are those of DataDAM's table.

    Settings that are None are chosen by the image's size: see :meth:`resolved`.
    """

    ipc: int = 1
    """Images per class."""
    steps: int | None = None
    """Steps: 8000 in the paper; *ours* for images below 28 pixels, 600."""
    seed: int = 0
    """The seed of all random numbers."""
    power: int = 4
    """The exponent of the attention maps."""
    feature_weight: float | None = None
    """The weight lambda of the last block's features: 0.01 below 64 pixels, 0.02 from there."""
    loss_scale: float = 100.0
    """The factor of the whole loss in DataDAM's public code, which image_lr assumes."""
    image_lr: float | None = None
    """Learning rate of the pixels: 1 up to 50 images per class, 10 above."""
    image_momentum: float = 0.5
    """Momentum of the pixels' SGD."""
    real_batch: int = 64
    """Real images per class and step, as in DataDAM's public code."""
    initial: Literal["real", "noise"] = "real"
    """What the synthetic images start as: random real images, or noise."""
    width: int | None = None
    """Channels of the random networks: 128 in the paper; *ours* for images below 28 pixels, 64."""
    depth: int | None = None
    """Blocks of the random networks: 3 for 32 pixels, 4 for 64, 5 for 128; 2 below 28."""
    norm: Norm = "instance"
    """Normalisation of the random networks."""
    augment: tuple[Operation, ...] | None = None
    """The siamese augmentation's transforms: all six; no flip for digits."""
    checkpoint_every: int = 100
    """Steps between two checkpoints: the most that a kill loses."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        for name in ("ipc", "steps", "power", "real_batch", "width", "depth", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}", "a whole number >= 1")
        for name in ("feature_weight", "image_momentum"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise InputError(f"{name} is {value}", "a number >= 0")
        for name in ("image_lr", "loss_scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name} is {value}", "a number > 0")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}", "a whole number >= 0")

    def resolved(self, data: ImageSet) -> DistillConfig:
        """Return the same configuration with every None replaced by the value for these images.

        Parameters
        ----------
        data
            The images to distill.

        Returns
        -------
        DistillConfig
            Without None: what the run folder's config.json records.
        """
        side = min(data.image_shape[1:])
        chosen: dict[str, Any] = {
            "steps": 8000 if side >= 28 else 600,
            "feature_weight": 0.01 if side < 64 else 0.02,
            "image_lr": 1.0 if self.ipc <= 50 else 10.0,
            "width": default_width(side),
            "depth": default_depth(side),
            "augment": augmentation_for(data.classes).operations,
        }
        return dataclasses.replace(self, **{k: v for k, v in chosen.items() if getattr(self, k) is None})


class Distiller:
    """Distills a data set into a few images per class (DataDAM).

    Every step draws a freshly initialised network that is never trained, a batch of
    real images of each class and one augmentation per class; the loss compares
    attention maps and features of real and synthetic images, and its gradient moves
    the synthetic pixels. All draws are keyed by (seed, step, class).

    Parameters
    ----------
    config
        The settings; the paper's by default.

    References
    ----------
    DataDAM (arXiv 2310.00093), algorithm 1.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> result = Distiller(DistillConfig(ipc=1, steps=2, width=8)).fit(load("digits"))
    >>> tuple(result.images.shape)
    (10, 1, 8, 8)
    """

    def __init__(self, config: DistillConfig | None = None) -> None:
        self.config = config or DistillConfig()

    def fit(self, data: ImageSet, out: str | os.PathLike[str] | None = None) -> DistilledSet:
        """Distill.

        Parameters
        ----------
        data
            The images.
        out
            A run folder, for checkpoints, metrics.jsonl, the result (distilled.safetensors)
            and its pictures. A folder that holds an unfinished run with the same settings
            and the same data is gone on with, to the same images as without the break.

        Returns
        -------
        DistilledSet
            ``ipc`` images of each class, class after class.

        Raises
        ------
        InputError
            Where a setting does not fit the data, the folder holds something else, or
            the loss is no longer finite (the step, the class and the seed are named).
        KeyboardInterrupt
            After Ctrl-C or SIGTERM, once the step is done and checkpointed.
        """
        config = self.config.resolved(data)
        task = _Task(config, data)
        run = None if out is None else runs.Run.open(out, JOB, _recorded(config, data))
        start = 0
        if run is not None and (found := run.resume()) is not None:
            start = int(found.meta["step"])
            task.restore(found.arrays)
        began = time.perf_counter()
        steps = config.steps or 0
        with progress.bar(f"distill ipc {config.ipc}", steps, done=start) as bar, runs.interruptible() as stopping:
            for step in range(start, steps):
                loss = task.step(step)
                done = step + 1
                bar.advance(loss=loss)
                last = done == steps or stopping()
                if run is not None and (last or done % 10 == 0):
                    run.log(done, loss=loss, seconds=round(time.perf_counter() - began, 3))
                if run is not None and (last or done % config.checkpoint_every == 0):
                    checkpoint.save_step(run.checkpoints, done, task.state(), {"step": done})
                if last:
                    break
        result = task.result({"method": "datadam", "data": data.source, **runs.to_json(config)})
        if run is not None:
            result.save(run.path / RESULT)
            result.save_grid(run.path / "images.png")
            rows = run.metrics()
            curve = ([row["step"] for row in rows], [row["loss"] for row in rows])
            figures.save_curves({"loss": curve}, run.path / "loss.png", x_label="step", y_label="loss")
        return result


class _Task:
    """The state of one distillation: pixels, their optimiser, and the data on the device."""

    def __init__(self, config: DistillConfig, data: ImageSet) -> None:
        self.config = config
        self.data = data
        self.device = device.pick(config.device)
        self.augment = SiameseAugmentation(config.augment or ())
        self.loss = AttentionMatchingLoss(config.power, config.feature_weight or 0.0, config.loss_scale)
        self.members = class_members(data)
        few = [data.classes[k] for k, members in enumerate(self.members) if len(members) < config.real_batch]
        if few:
            warnings.warn(
                f"class {few[0]!r} has fewer images than real_batch = {config.real_batch}: "
                f"{len(few)} of {data.n_classes} classes are sampled with replacement",
                stacklevel=3,
            )
        self.preprocessing = Preprocessing.fit(data)
        self.real = self.preprocessing(data.train_images).to(self.device)
        initial = self._initial().to(self.device)
        self.images = initial.detach().clone().requires_grad_(True)
        self.optimiser = torch.optim.SGD([self.images], lr=config.image_lr or 1.0, momentum=config.image_momentum)

    def _initial(self) -> Tensor:
        config, data = self.config, self.data
        if config.initial == "real":
            return random_real(data, config.ipc, config.seed, self.preprocessing).images
        shape = (data.n_classes * config.ipc, *data.image_shape)
        return torch.randn(shape, generator=seeding.torch_generator(config.seed, "noise"))

    def step(self, step: int) -> float:
        """Move the pixels once and return the loss of before."""
        config, classes = self.config, self.data.n_classes
        draws = [seeding.generator(config.seed, "step", step, label) for label in range(classes)]
        chosen = np.concatenate([self._batch(draw, members) for draw, members in zip(draws, self.members, strict=True)])
        rows = torch.tensor(np.stack([draw.random(N_RANDOM, dtype=np.float32) for draw in draws]))
        with seeding.torch_seed(config.seed, "network", step):
            network = ConvNet(
                self.data.image_shape, classes, width=config.width or 0, depth=config.depth, norm=config.norm
            )
        network.to(self.device).requires_grad_(False)
        with torch.no_grad():
            index = torch.from_numpy(chosen).to(self.device)
            real = network.features(self.augment(self.real[index], rows))
        synthetic = network.features(self.augment(self.images, rows))
        losses = self.loss(real, synthetic, classes)
        total: Tensor = losses.sum()
        self.optimiser.zero_grad()
        total.backward()
        self.optimiser.step()
        value = float(total.detach())
        if not np.isfinite(value):
            label = int((~losses.isfinite()).nonzero()[0, 0]) if not losses.isfinite().all() else 0
            raise InputError(
                f"the loss is {value} at step {step}, class {self.data.classes[label]!r}, seed {config.seed}",
                f"finite numbers: try an image_lr below {config.image_lr:g}",
            )
        return value

    def _batch(self, draw: np.random.Generator, members: np.ndarray) -> np.ndarray:
        size = self.config.real_batch
        chosen: np.ndarray = draw.choice(members, size, replace=len(members) < size, shuffle=False)
        return chosen

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed task needs."""
        momentum = self.optimiser.state[self.images].get("momentum_buffer")
        return {"images": self.images, "momentum": torch.zeros_like(self.images) if momentum is None else momentum}

    def restore(self, arrays: dict[str, Tensor]) -> None:
        """Take the state of an interrupted task."""
        with torch.no_grad():
            self.images.copy_(arrays["images"])
        if self.config.image_momentum:
            self.optimiser.state[self.images]["momentum_buffer"] = arrays["momentum"].to(self.device)

    def result(self, meta: dict[str, object]) -> DistilledSet:
        """Return the pixels as a distilled set."""
        data, ipc = self.data, self.config.ipc
        return DistilledSet(
            images=self.images.detach().cpu().clone(),
            labels=torch.arange(data.n_classes).repeat_interleave(ipc),
            classes=data.classes,
            preprocessing=self.preprocessing,
            meta=meta,
        )


def _recorded(config: DistillConfig, data: ImageSet) -> dict[str, object]:
    """Return what config.json records: the settings, and which images they were used on."""
    content = hashlib.sha256(np.ascontiguousarray(data.train_images).tobytes())
    content.update(np.ascontiguousarray(data.train_labels).tobytes())
    return {"data": data.source, "data_sha256": content.hexdigest(), **runs.to_json(config)}


def result_path(out: str | os.PathLike[str]) -> Path:
    """Return where a run folder keeps its distilled set."""
    return Path(out) / RESULT
