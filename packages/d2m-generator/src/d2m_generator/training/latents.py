"""Distillation into latents: one set of latents for each image, of a generator that is frozen or lightly tuned."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from attention_matching import Preprocessing, select
from sextet_common import data as image_data, loggers, runs, training
from sextet_common.data import ImageSet
from sextet_common.processes import Processes
from sextet_common.seeding import torch_generator
from torch import Tensor, nn
from torch.nn import functional

from d2m_generator.generators.generator import ImageGenerator, check_layer, chosen_parameters
from d2m_generator.generators.storage import check_savable
from d2m_generator.images.latent_set import LatentSet
from d2m_generator.images.plan import BATCH
from d2m_generator.training.config import LatentConfig
from d2m_generator.training.distill import learning_rate
from d2m_generator.training.job import GeneratorJob, fit
from d2m_generator.training.matcher import Matcher

_CANDIDATES = 64  # samples of each class, of which the nearest one starts the inversion of a real image


class LatentDistiller:
    """Distill a data set into the latents of a fixed number of images of a pre-trained generator.

    The latents start from real images: from those of the nearest of some samples, fitted to the image's pixels. Each
    further step draws and compares as `D2M` does, and updates the latents; the generator stays as it is, unless
    ``generator_lr`` is positive.

    References
    ----------
    GLaD, arXiv 2305.01649, for latents inside a generator; the losses are those of `D2M`.

    Examples
    --------
    >>> from d2m_generator import ConditionalGAN, LatentConfig, PoolConfig
    >>> from sextet_common.data import load
    >>> config = LatentConfig(ipc=2, steps=2, inversion_steps=2, pool=PoolConfig(networks=1, untrained=1.0, width=8))
    >>> LatentDistiller(config).fit(ConditionalGAN(10, (1, 8, 8), width=4), load("digits"))
    LatentSet(ConditionalGAN, 'block-0', ipc=2, numbers per image=224)
    """

    def __init__(self, config: LatentConfig | None = None, *, preprocessing: Preprocessing | None = None) -> None:
        self.config, self._preprocessing = config or LatentConfig(), preprocessing

    def fit(
        self,
        generator: ImageGenerator,
        data: image_data.Source,
        out: str | os.PathLike[str] | None = None,
        *,
        log: Sequence[loggers.Name | loggers.Logger] = (),
    ) -> LatentSet:
        """Distill and return the set with its averaged latents; a tuned generator is changed in place.

        ``out`` is a run folder for checkpoints, metrics.jsonl, pictures and the set, which `LatentSet.load` reads. A
        stopped run resumes from its newest checkpoint, bit-identically. ``log`` are trackers that follow it.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C or SIGTERM, once the step is finished and saved.
        """
        if out is not None:
            check_savable(generator)

        def make(images: ImageSet, joined: Processes) -> LatentJob:
            return LatentJob(generator, images, self.config, joined, self._preprocessing)

        return fit(make, "latents", generator, data, self.config, out, log).result()


class LatentJob(GeneratorJob):
    """The latents, fitted to real images first and matched afterwards, and weights of the generator, if tuned."""

    def __init__(
        self,
        generator: ImageGenerator,
        data: ImageSet,
        config: LatentConfig,
        joined: Processes,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        preprocessing = preprocessing or Preprocessing.fit(data)
        self.layer = config.layer or generator.latent_layers()[-1 if len(generator.latent_layers()) < 3 else 2]
        check_layer(generator, self.layer)
        generator.eval().requires_grad_(False)
        tuned: list[tuple[str, nn.Parameter]] = []
        if config.generator_lr:
            tuned = chosen_parameters(generator, config.parameters, generator.groups())
        self.targets = None if config.initial == "samples" else _real_images(data, config, preprocessing)
        latents = _initial(generator, self.layer, config, self.targets)
        self.latents = nn.ParameterDict({name: nn.Parameter(tensor) for name, tensor in latents.items()})
        trained = nn.ModuleDict({"latents": self.latents, "generator": generator})
        names = [f"latents.{name}" for name in self.latents] + [f"generator.{name}" for name, _ in tuned]
        super().__init__(generator, data, config, joined, trained, names)
        self.config, self.trained = config, trained
        self.parameters = {name: parameter for name, parameter in trained.named_parameters() if name in names}
        self.inversion = 0 if self.targets is None else config.inversion_steps
        self.steps = self.inversion + config.steps
        self.shown = ("loss", "inversion")
        spreads = [float(tensor.detach().std()) if tensor.numel() > 1 else 0.0 for tensor in self.latents.values()]
        groups: list[dict[str, Any]] = [
            {"params": [tensor], "scale": spread or 1.0}
            for tensor, spread in zip(self.latents.values(), spreads, strict=True)
        ]
        if tuned:
            groups.append({"params": [parameter for _, parameter in tuned], "scale": config.generator_lr / config.lr})
        self.optimizer = torch.optim.Adam(groups, config.lr)
        self.optimizers = {"adam": self.optimizer}
        self.matcher = Matcher(config, data, preprocessing, joined)

    def step(self, number: int) -> dict[str, Tensor]:
        """Fit the latents to the real images, or match; return the loss before the update."""
        matching = number - self.inversion
        if matching == 0:
            self.optimizer.state.clear()
        self.optimizer.zero_grad(set_to_none=True)
        if matching < 0:
            loss, rate = self._fit_pixels(), learning_rate(self.config.inversion_lr, number, self.inversion)
        else:
            loss = self.matcher.backward(matching, self._generated)
            rate = learning_rate(self.config.lr, matching, self.config.steps)
        self.processes.sum_gradients(self.parameters.values())
        if matching >= 0:
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimizer.step()
        if matching < 0:
            return {"inversion": loss}
        self.average.update(self.averaged)
        return {"loss": loss}

    def _fit_pixels(self) -> Tensor:
        """Set the gradients of the latents and return the mean squared error of the pixels."""
        assert self.targets is not None
        total = torch.zeros((), device=self.device)
        share = self.processes.shares(len(self.targets))[self.processes.rank]
        for rows in torch.arange(share.start, share.stop).split(BATCH):
            errors = functional.mse_loss(self._decoded(rows), self.targets[rows].to(self.device), reduction="none")
            loss = errors.flatten(1).mean(dim=1).sum() / len(self.targets)
            loss.backward()
            total += loss.detach()
        return self.processes.sum(total)

    def _generated(self, classes: np.ndarray) -> Tensor:
        """Return all images of some classes."""
        ipc = self.config.ipc
        rows = torch.from_numpy((classes[:, None] * ipc + np.arange(ipc)).flatten())
        return (self._decoded(rows) + 1) / 2

    def _decoded(self, rows: Tensor) -> Tensor:
        chosen = rows.to(self.device)
        with self.autocast():
            latents = {name: tensor[chosen] for name, tensor in self.latents.items()}
            return self.generator.decode(latents, chosen // self.config.ipc).float()

    def finish(self) -> None:
        """Replace the latents by their average, if any was taken."""
        if self.config.steps:
            super().finish()

    def result(self) -> LatentSet:
        """Return the set of the present latents."""
        meta = {"ipc": self.config.ipc, "seed": self.seed, "steps": self.config.steps, "initial": self.config.initial}
        return LatentSet(self.generator, self.layer, dict(self.latents), meta)

    def save(self, folder: runs.Run) -> None:
        """Save the set and the curve of the loss."""
        self.result().save(folder.path)
        training.save_curve(folder, "loss" if self.config.steps else "inversion")


def _real_images(data: ImageSet, config: LatentConfig, preprocessing: Preprocessing) -> Tensor:
    """Return the chosen real images, class after class, pixels in [-1, 1]."""
    assert config.initial != "samples"
    chosen = select(config.initial, data, config.ipc, config.seed, preprocessing)
    return 2 * torch.from_numpy(chosen.pixels()) - 1


@torch.no_grad()
def _initial(generator: ImageGenerator, layer: str, config: LatentConfig, targets: Tensor | None) -> dict[str, Tensor]:
    """Return latents of samples of the generator: the first of each class, or those nearest to the targets."""
    rows: list[dict[str, Tensor]] = []
    where = next(generator.parameters()).device
    for label in range(generator.n_classes):
        count = config.ipc if targets is None else _CANDIDATES
        source = torch_generator(config.seed, "latents", label)
        noise = torch.randn(count, *generator.noise_shape, generator=source).to(where)
        labels = torch.full((count,), label, device=where)
        if targets is not None:
            images = torch.cat([generator(z, y) for z, y in zip(noise.split(BATCH), labels.split(BATCH), strict=True)])
            wanted = targets[label * config.ipc : (label + 1) * config.ipc].to(where)
            nearest = torch.cdist(wanted.flatten(1), images.float().flatten(1)).argmin(dim=1)
            noise, labels = noise[nearest], labels.new_full((config.ipc,), label)
        rows.append(generator.latents(noise, labels, layer))
    return {name: torch.cat([row[name] for row in rows]).float().clone() for name in rows[0]}
