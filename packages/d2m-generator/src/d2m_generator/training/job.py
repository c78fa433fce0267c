"""What pre-training and distillation share: average, precision, pictures, and the record of a run."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from attention_matching import Preprocessing
from sextet_common import checks, data as image_data, loggers, optimizers, pixels, processes, runs, seeding, training
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from sextet_common.processes import Processes
from torch import Tensor, nn

from d2m_generator.generators.generator import ImageGenerator, unchanged_flags
from d2m_generator.generators.storage import save_generator
from d2m_generator.images.latent_set import ImageSource
from d2m_generator.images.samples import save_samples
from d2m_generator.training.config import D2MConfig, LatentConfig, PretrainConfig
from d2m_generator.training.ema import EMA

Config: TypeAlias = PretrainConfig | D2MConfig | LatentConfig
_LOG_EVERY = 10


class GeneratorJob(training.Job):
    """A job that trains a generator and averages its weights; `names` are the averaged parameters of `averaged`."""

    may_grow = False
    """Whether no step depends on the number of all, so that a finished run may be continued."""

    def __init__(
        self,
        generator: ImageGenerator,
        data: ImageSet,
        config: Config,
        joined: Processes,
        averaged: nn.Module,
        names: list[str] | None = None,
    ) -> None:
        self.generator, self.averaged, self.checkpoint_every = generator, averaged, config.checkpoint_every
        self.steps, self.seed, self.hint = config.steps, config.seed, f"an lr below {config.lr:g}"
        self.classes, self.processes, self.device = data.classes, joined, joined.device
        self.bfloat16 = config.precision == "bfloat16"
        self.average = EMA(averaged, config.ema, names)
        self.modules: dict[str, nn.Module] = {}
        self.parameters: dict[str, nn.Parameter] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}

    def state(self) -> dict[str, Tensor]:
        """Return the state of modules, single parameters, average and optimizers, each under its name."""
        state = {f"average.{name}": tensor for name, tensor in self.average.weights.items()}
        state |= {f"learning.{name}": parameter.detach() for name, parameter in self.parameters.items()}
        for prefix, module in self.modules.items():
            state |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
        for prefix, optimizer in self.optimizers.items():
            state |= optimizers.state(optimizer, prefix)
        return state

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        for name, parameter in self.parameters.items():
            value = state[f"learning.{name}"]
            if value.shape != parameter.shape:
                raise InputError(f"{name} has the shape {tuple(value.shape)}", f"{tuple(parameter.shape)}")
            parameter.copy_(value)
        for prefix, module in self.modules.items():
            module.load_state_dict(_part(state, prefix))
        self.average.load_state(_part(state, "average"))
        for prefix, optimizer in self.optimizers.items():
            optimizers.restore(optimizer, state, prefix)

    def autocast(self) -> torch.autocast:
        """Return the context for the configured precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def milestone(self, done: int) -> bool:
        """Log at every checkpoint."""
        return done % self.checkpoint_every == 0

    def picture(self, folder: Path, done: int) -> None:
        """Save samples of the current weights."""
        save_samples(self.result(), folder / f"samples-{done:06d}.png", classes=self.classes)

    def finish(self) -> None:
        """Replace the trained weights by their average."""
        self.average.copy_to(self.averaged)

    def result(self) -> ImageSource:
        """Return what the images come from at present."""
        return self.generator

    @abstractmethod
    def save(self, folder: runs.Run) -> None:
        """Save the result into the run folder."""


class PretrainJob(GeneratorJob):
    """Training on batches of real images in [-1, 1]."""

    def __init__(
        self,
        generator: ImageGenerator,
        data: ImageSet,
        config: PretrainConfig,
        joined: Processes,
        averaged: nn.Module,
        names: list[str] | None = None,
    ) -> None:
        if config.batch_size % joined.world:
            given = f"batch_size {config.batch_size} of {joined.world} processes"
            raise InputError(given, "a multiple of their number")
        super().__init__(generator, data, config, joined, averaged, names)
        self.config = config
        share = joined.shares(config.batch_size)[joined.rank]
        self.mine = slice(share.start, share.stop)
        """The rows of a batch that this process learns from."""
        self._images, self._labels = data.train_images, torch.tensor(data.train_labels)
        half = torch.full((data.image_shape[0],), 0.5)
        self._centre = Preprocessing(half, half)

    def step(self, number: int) -> dict[str, Tensor]:
        """Learn from the batch of this step."""
        rows = seeding.generator(self.seed, "batch", number).integers(len(self._images), size=self.config.batch_size)
        rows = rows[self.mine]
        images = self._centre(torch.from_numpy(image_data.take(self._images, rows)).to(self.device))
        with self.autocast():
            losses = self.learn(images, self._labels[rows].to(self.device), number)
        return {name: self.processes.sum(loss) / self.processes.world for name, loss in losses.items()}

    @abstractmethod
    def learn(self, images: Tensor, labels: Tensor, number: int) -> dict[str, Tensor]:
        """Update the weights by this process's rows of a batch, and return its losses."""

    def descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """Take a step against the gradient of the mean loss of all processes."""
        optimizer.zero_grad(set_to_none=True)
        (loss / self.processes.world).backward()
        self.processes.sum_gradients(parameter for group in optimizer.param_groups for parameter in group["params"])
        optimizer.step()

    def save(self, folder: runs.Run) -> None:
        """Save the generator."""
        save_generator(self.generator, folder.path / "generator")


J = TypeVar("J", bound=GeneratorJob)


def fit(
    make: Callable[[ImageSet, Processes], J],
    name: str,
    generator: ImageGenerator,
    data: image_data.Source,
    config: Config,
    out: str | os.PathLike[str] | None,
    log: Sequence[loggers.Name | loggers.Logger] = (),
) -> J:
    """Run or resume a job, in the processes that torchrun started, and save its result and a picture."""
    data = image_data.load(data)
    check_fit(generator, data)
    with processes.join(config.device) as joined:
        generator.to(joined.device)
        with unchanged_flags(generator):
            job = make(data, joined)
            folder = _run(job, name, data, config, out, log)
        job.finish()
        if folder is not None:
            save_samples(job.result(), folder.path / "samples.png", classes=data.classes)
            job.save(folder)
    return job


def _run(
    job: GeneratorJob,
    name: str,
    data: ImageSet,
    config: Config,
    out: str | os.PathLike[str] | None,
    log: Sequence[loggers.Name | loggers.Logger],
) -> runs.Run | None:
    """Run or resume a job; its run folder belongs to the settings, the initial weights and the images."""
    record = {
        **runs.to_json(config),
        "generator": type(job.generator).__name__,
        "generator_sha256": runs.fingerprint(*(t for t in job.generator.state_dict().values() if t.numel())),
        "data": data.source,
        "data_sha256": pixels.fingerprint(data.train_images, data.train_labels),
    }
    marks = {path[0]: mark for path, mark in checks.changeable(type(config)).items()}
    return training.run(
        job,
        name=f"d2m-generator {name}",
        out=out,
        record=record,
        settings=marks | {"steps": "growing"} if job.may_grow else marks,
        cadence=training.Cadence(_LOG_EVERY, config.checkpoint_every, config.sample_every),
        processes=job.processes,
        label=name,
        log=log,
    )


def check_fit(generator: ImageGenerator, data: ImageSet) -> None:
    """Refuse a generator of other images or classes than the data's."""
    if generator.image_shape != data.image_shape or generator.n_classes != data.n_classes:
        raise InputError(
            f"a generator of {generator.n_classes} classes of {generator.image_shape} images",
            f"{data.n_classes} classes of {data.image_shape}, as {data.source or 'the data'}; AdaptedGenerator "
            "(--class-ids, --resize) makes it one",
        )


def _part(state: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: value for name, value in state.items() if name.startswith(f"{prefix}.")}
