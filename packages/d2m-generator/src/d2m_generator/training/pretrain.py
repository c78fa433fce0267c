"""Pre-training: train a GAN, a diffusion model or a consistency model on real images."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sextet_common import data as image_data, loggers
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from sextet_common.processes import Processes

from d2m_generator.generators.gan import ConditionalGAN
from d2m_generator.generators.generator import ImageGenerator
from d2m_generator.training.config import PretrainConfig
from d2m_generator.training.gan import GANJob
from d2m_generator.training.job import PretrainJob, fit


def pretrain(
    generator: ImageGenerator,
    data: image_data.Source,
    config: PretrainConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    log: Sequence[loggers.Name | loggers.Logger] = (),
) -> ImageGenerator:
    """Train a generator on real images in place, and return it with the averaged weights, in evaluation mode.

    The generator is a `ConditionalGAN` or a `DiffusionGenerator`. ``out`` is a run folder for checkpoints,
    metrics.jsonl, pictures of samples and the generator. A stopped run resumes from its newest checkpoint,
    bit-identically. ``log`` are trackers that follow it: tensorboard, wandb, mlflow, or any
    `sextet_common.loggers.Logger`. Under torchrun the processes share every batch, and learn what one process learns.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the step is finished and saved.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> gan = pretrain(ConditionalGAN(10, (1, 8, 8), width=4), load("digits"), PretrainConfig(steps=2))
    """
    config = config or PretrainConfig()

    def make(images: ImageSet, joined: Processes) -> PretrainJob:
        return _job(generator, images, config, joined)

    fit(make, "pretrain", generator, data, config, out, log)
    return generator


def _job(generator: ImageGenerator, data: ImageSet, config: PretrainConfig, joined: Processes) -> PretrainJob:
    if isinstance(generator, ConditionalGAN):
        return GANJob(generator, data, config, joined)
    from d2m_generator.generators.diffusion import DiffusionGenerator
    from d2m_generator.training.diffusion import job_for

    if isinstance(generator, DiffusionGenerator):
        return job_for(generator, data, config, joined)
    kind = type(generator).__name__
    raise InputError(f"a {kind} cannot be pre-trained here", "a ConditionalGAN or a DiffusionGenerator")
