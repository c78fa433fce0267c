"""Distill a data set: synthetic images are optimised to give random networks the statistics of the real ones."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence

import torch
from sextet_common import data as image_data, loggers, pixels, runs, training
from sextet_common.errors import DataWarning, InputError

from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.job import Distillation
from attention_matching.distillation.result import result_path
from attention_matching.distillation.shards import Shard, join_shards
from attention_matching.distillation.step import Step
from attention_matching.distillation.together import names_of, record_of
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import check_members
from attention_matching.matching.losses import Loss
from attention_matching.networks.base import FeatureNetwork
from attention_matching.networks.memory import explain_out_of_memory

JOB = "attention-matching distill"
LOG_EVERY = 10  # steps
_MOST_OUTSIDE = 0.05  # share of pixels outside [0, 1] above which a run warns


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
        if network is not None and self.config.attention_weight is None:
            self.config = dataclasses.replace(self.config, attention_weight=1.0)  # its balance is not known
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
        return self._fit([self.config], data, out, log)[0]

    @classmethod
    def fit_many(
        cls,
        configs: Sequence[DistillConfig],
        data: image_data.Source,
        out: str | os.PathLike[str] | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        log: Sequence[loggers.Name | loggers.Logger] = (),
    ) -> list[DistilledSet]:
        """Distill several sets from the same draws: the real images pass through each network once for all of them.

        Each set is bit-identical to that of :meth:`fit` alone. The configurations may differ in the method and its
        weights, ``ipc``, ``pixels``, learning rate and momentum, and initial images. ``out`` is one run folder with a
        sub-folder for each set, named by the settings that differ, such as ``out/dm`` and ``out/datadam``.

        Examples
        --------
        >>> from sextet_common.data import load
        >>> configs = [DistillConfig(method=method, steps=2, width=8) for method in ("dm", "datadam", "atom")]
        >>> [one.meta["method"] for one in Distiller.fit_many(configs, load("digits"))]
        ['dm', 'datadam', 'atom']
        """
        return cls(preprocessing=preprocessing)._fit(configs, data, out, log)

    def _fit(
        self,
        configs: Sequence[DistillConfig],
        data: image_data.Source,
        out: str | os.PathLike[str] | None,
        log: Sequence[loggers.Name | loggers.Logger],
    ) -> list[DistilledSet]:
        data = image_data.load(data)
        configs = [config.resolved(data) for config in configs]
        names, config = names_of(configs), configs[0]
        for each in configs:
            if each.initial != "noise":
                check_members(data, each.ipc)  # before the whitening, which takes a while
        with join_shards(data.n_classes, config.device) as shard:
            _check(config, shard)
            preprocessing = self._preprocessing or Preprocessing.fit(data, config.whitening or "none")
            content = pixels.fingerprint(data.train_images, data.train_labels)
            source = {"data": data.source, "data_sha256": content}
            replaced = self._user_defined(preprocessing)
            record = {**source, **record_of(configs, names), **replaced}
            with explain_out_of_memory("images_at_once, or precision bfloat16"):
                # The step is built before the folder is opened: a configuration that cannot run must not take it.
                step = Step(configs, data, shard, preprocessing, loss=self._loss, network=self._network)
                if config.cuda_graph and not step.draws.real.resident:
                    raise InputError("cuda_graph with images that do not fit into the GPU's memory", "no cuda_graph")
                job = Distillation(step, shard, data.classes, names)
                run = training.run(
                    job,
                    name=JOB,
                    out=out,
                    record=record,
                    settings=DistillConfig,
                    log=log,
                    cadence=training.Cadence(log=LOG_EVERY, checkpoint=config.checkpoint_every),
                    processes=shard.processes,
                    label=" ".join(dict.fromkeys(f"{each.method} ipc {each.ipc}" for each in configs)),
                )
            images = job.images()
        results = [
            DistilledSet(
                images=each,
                labels=torch.arange(data.n_classes).repeat_interleave(settings.ipc),
                classes=data.classes,
                preprocessing=preprocessing,
                meta={**source, **runs.to_json(settings), **replaced},
            )
            for each, settings in zip(images, configs, strict=True)
        ]
        _warn_of_invalid_pixels(results)
        if run is not None:
            for name, metric, result in zip(names, job.shown, results, strict=True):
                folder = run.path / name
                folder.mkdir(exist_ok=True)
                result.save(result_path(folder))
                result.save_grid(folder / "images.png")
                training.save_curve(run, metric)
        return results

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


def _check(config: DistillConfig, shard: Shard) -> None:
    if config.norm == "batch" and shard.processes.world > 1:
        raise InputError(
            f"batch normalisation needs one process, got {shard.processes.world}: its statistics are not synchronised",
            "one process, or norm instance, group, layer or none",
        )
    if config.cuda_graph and shard.device.type != "cuda":
        raise InputError(f"cuda_graph needs a CUDA device, got {shard.device.type}")
    if config.cuda_graph and config.steps_per_draw > 1:
        raise InputError(f"cuda_graph needs steps_per_draw 1, got {config.steps_per_draw}")


def _warn_of_invalid_pixels(results: Sequence[DistilledSet]) -> None:
    for result in results:
        share = result.share_outside()
        if share > _MOST_OUTSIDE:
            warnings.warn(
                f"{100 * share:.0f} % of the pixels of {result.meta['method']} lie outside [0, 1]: as pictures and PNG "
                "files, which clip them, the images are others than those distilled; pixels valid avoids this",
                DataWarning,
                stacklevel=4,  # the caller of Distiller.fit
            )
