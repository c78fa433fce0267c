"""Distill a data set: synthetic images are optimised to give random networks the statistics of the real ones."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from sextet_common import data as image_data, loggers, pixels, runs, training
from sextet_common.errors import InputError

from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.job import Distillation
from attention_matching.distillation.result import result_path
from attention_matching.distillation.shards import Shard, join_shards
from attention_matching.distillation.step import Step
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import Preprocessing
from attention_matching.matching.losses import Loss
from attention_matching.networks.base import FeatureNetwork
from attention_matching.networks.memory import explain_out_of_memory

JOB = "attention-matching distill"
LOG_EVERY = 10  # steps


class Distiller:
    """Distills a data set into a few images per class (DataDAM, ATOM, DM).

    Every step draws a freshly initialised network that is never trained, a batch of real images and one augmentation
    per class (DataDAM, arXiv 2310.00093, algorithm 1; ATOM, arXiv 2405.01373; DM, arXiv 2110.04181). The loss compares
    statistics of the features of real and synthetic images, and its gradient updates the synthetic pixels. All draws
    are keyed by (seed, step, class). Under ``torchrun`` the classes are divided among the processes; the result is that
    of one process.

    A user-defined ``loss`` or ``network`` (one of the family to draw from) replaces ``config.method``'s or
    ``config.architecture``'s. A fitted ``preprocessing`` replaces ``config.whitening``'s: whitening a large set takes a
    while, and several distillations may share it.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> result = Distiller(DistillConfig(ipc=1, steps=2, width=8)).fit(load("digits"))
    >>> tuple(result.images.shape)
    (10, 1, 8, 8)
    """

    def __init__(
        self,
        config: DistillConfig | None = None,
        *,
        loss: Loss | None = None,
        network: FeatureNetwork | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        self.config = config or DistillConfig()
        self._loss, self._network, self._preprocessing = loss, network, preprocessing

    def fit(
        self,
        data: image_data.Source,
        out: str | os.PathLike[str] | None = None,
        *,
        log: Sequence[loggers.Name | loggers.Logger] = (),
    ) -> DistilledSet:
        """Distill into ``ipc`` images of each class, class after class.

        The run folder ``out`` receives checkpoints, metrics.jsonl, the result (distilled.safetensors) and its pictures.
        An unfinished run with the same settings and data is resumed, bit-identically; more steps continue one that is
        done. ``log`` names trackers that follow the run: tensorboard, wandb, mlflow, or objects. Ctrl-C or SIGTERM
        raises KeyboardInterrupt once the step is done and saved.
        """
        data = image_data.load(data)
        config = self.config.resolved(data)
        with join_shards(data.n_classes, config.device) as shard:
            _check_device(config, shard)
            preprocessing = self._preprocessing or Preprocessing.fit(data, config.whitening or "none")
            content = pixels.fingerprint(data.train_images, data.train_labels)
            settings = {**runs.to_json(config), **self._user_defined(preprocessing)}
            record = {"data": data.source, "data_sha256": content, **settings}
            with explain_out_of_memory("images_at_once, or precision bfloat16"):
                # The step is built before the folder is opened: a configuration that cannot run must not take it.
                step = Step(config, data, shard, preprocessing, loss=self._loss, network=self._network)
                if config.cuda_graph and not step.draws.real.resident:
                    raise InputError("cuda_graph with images that do not fit into the GPU's memory", "no cuda_graph")
                job = Distillation(step, shard, data.classes)
                run = training.run(
                    job,
                    name=JOB,
                    out=out,
                    record=record,
                    settings=DistillConfig,
                    log=log,
                    cadence=training.Cadence(log=LOG_EVERY, checkpoint=config.checkpoint_every),
                    processes=shard.processes,
                    label=f"{config.method} ipc {config.ipc}",
                )
            images = job.images()
        result = DistilledSet(
            images=images,
            labels=torch.arange(data.n_classes).repeat_interleave(config.ipc),
            classes=data.classes,
            preprocessing=preprocessing,
            meta=record,
        )
        if run is not None:
            result.save(result_path(run.path))
            result.save_grid(run.path / "images.png")
            training.save_curve(run)
        return result

    def _user_defined(self, preprocessing: Preprocessing) -> dict[str, object]:
        """Return what to record in place of settings that were not used."""
        record: dict[str, object] = {}
        if self._loss is not None:
            record["method"] = f"own loss {type(self._loss).__qualname__}"
        if self._network is not None:
            record["architecture"] = f"own network {type(self._network).__qualname__}"
        if self._preprocessing is not None:
            record["whitening"] = preprocessing.whitening
            record["preprocessing_sha256"] = preprocessing.sha256
        return record


def _check_device(config: DistillConfig, shard: Shard) -> None:
    if config.norm == "batch" and shard.processes.world > 1:
        raise InputError(
            f"batch normalisation needs one process, got {shard.processes.world}: its statistics are not synchronised",
            "one process, or norm instance, group, layer or none",
        )
    if config.cuda_graph and shard.device.type != "cuda":
        raise InputError(f"cuda_graph needs a CUDA device, got {shard.device.type}")
