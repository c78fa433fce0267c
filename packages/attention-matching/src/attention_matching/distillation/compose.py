"""The decoupled mode: real patches chosen by a teacher and composed, with its labels; nothing is optimised.

RDED (Sun et al., arXiv 2312.03526) scores random crops of real images by a trained network, keeps the best and puts
several of them into one image. It needs no optimisation loop, so it scales to 64 to 224 pixels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sextet_common import data as image_data, pixels, runs, seeding, training
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import Tensor, nn

from attention_matching.distillation.config import ComposeConfig
from attention_matching.distillation.patches import Patches, best_patches, compose, draw_boxes
from attention_matching.distillation.result import result_path
from attention_matching.evaluation.config import EvaluateConfig, identity
from attention_matching.evaluation.soft_labels import (
    probabilities,
    soft_labels_from,
    train_teacher,
    view_labels_from,
)
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import class_members

JOB = "attention-matching compose"


def compose_patches(
    data: image_data.Source,
    config: ComposeConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    teacher: nn.Module | None = None,
    teacher_config: EvaluateConfig | None = None,
    preprocessing: Preprocessing | None = None,
) -> DistilledSet:
    """Compose ``ipc`` images of each class from the real patches that a teacher recognises best, and label them.

    Random crops of real images are scored by the teacher's cross entropy of their class, at the size of an image (the
    published code scores them reduced, in the middle of black). The best are kept, one of each source image first, and
    ``side`` x ``side`` of them are scaled down into one image: RDED's 2 x 2 needs a training that crops to single ones,
    which the evaluation here has not. The set has hard labels, the teacher's soft labels and its labels of augmented
    views; see ``labels`` of `EvaluateConfig`.

    ``teacher`` is any module from inputs of the ``preprocessing`` to logits: for one trained on ImageNet, give its mean
    and std as `Preprocessing`. By default one network of ``teacher_config`` is trained, by default for 60 epochs.
    ``out`` is a run folder; an interrupted job resumes with the next class. Images are read in blocks, so memory maps
    stay on disk.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> brief = EvaluateConfig(epochs=1, width=8)
    >>> made = compose_patches(load("digits"), ComposeConfig(ipc=1, candidates=8, views=2), teacher_config=brief)
    >>> tuple(made.images.shape), tuple(made.soft_labels.shape), made.view_labels.views
    ((10, 1, 8, 8), (10, 10), 2)
    """
    config, data = config or ComposeConfig(), image_data.load(data)
    _check_enough(data, config)
    teacher_config = teacher_config or EvaluateConfig(epochs=60, seed=config.seed)
    preprocessing = preprocessing or Preprocessing.fit(data, config.whitening)
    preprocessing.check(data.train_images.shape)
    record: dict[str, Any] = {
        "method": "composed patches",
        "data": data.source,
        "data_sha256": pixels.fingerprint(data.train_images, data.train_labels),
        **runs.to_json(config),
        "whitening": preprocessing.whitening,
        "preprocessing_sha256": preprocessing.sha256,
        **_described(teacher, teacher_config),
    }
    job = _Composition(data, config, preprocessing, teacher, teacher_config)
    if out is None:
        job.prepare(None)
    cadence = training.Cadence(log=1, checkpoint=max(1, data.n_classes // 50))
    run = training.run(job, name=JOB, out=out, record=record, cadence=cadence, label="compose")
    result = job.result(record)
    if run is not None:
        result.save(result_path(run.path))
        result.save_grid(run.path / "images.png")
    return result


class _Composition(training.Job):
    """Choose the patches of one class per step; the checkpoint holds where they are."""

    def __init__(
        self,
        data: ImageSet,
        config: ComposeConfig,
        preprocessing: Preprocessing,
        teacher: nn.Module | None,
        teacher_config: EvaluateConfig,
    ) -> None:
        self.steps, self.seed = data.n_classes, config.seed
        self._data, self._config, self._preprocessing = data, config, preprocessing
        self._teacher, self._teacher_config = teacher, teacher_config
        self._members = class_members(data)
        count = config.ipc * config.side**2
        self._rows = torch.zeros(data.n_classes, count, dtype=torch.int64)
        self._boxes = torch.zeros(data.n_classes, count, 4, dtype=torch.int64)
        self._losses = torch.zeros(data.n_classes, count)

    def begin(self, run: runs.Run, done: int) -> None:
        """Train the teacher, or read it from the run folder."""
        self.prepare(run.path / "teacher.safetensors")

    def prepare(self, path: Path | None) -> None:
        """Train the teacher, unless one was given."""
        if self._teacher is None:
            self._teacher = train_teacher(self._data, self._teacher_config, self._preprocessing, path)

    def step(self, number: int) -> dict[str, Tensor]:
        """Choose the patches of class ``number``."""
        config, members = self._config, self._members[number]
        drawn = seeding.generator(config.seed, "candidates", number)
        rows = np.sort(drawn.choice(members, min(config.candidates, len(members)), replace=False))
        height, width = self._data.image_shape[1:]
        boxes = draw_boxes(config.seed, torch.from_numpy(rows), config.crops, config.smallest, height, width)

        def losses_of(regions: Tensor) -> Tensor:
            inputs = self._preprocessing(regions)
            true = probabilities(self._known_teacher, inputs, self._data.n_classes)[:, number]
            return -true.clamp(min=torch.finfo(torch.float32).tiny).log()

        patches = best_patches(self._data.train_images, rows, boxes, self._rows.shape[1], losses_of)
        for mine, chosen in zip(self.state().values(), (patches.rows, patches.boxes, patches.losses), strict=True):
            mine[number] = chosen
        return {"loss": patches.losses.mean()}

    def state(self) -> dict[str, Tensor]:
        """Return the rows of the source images, the regions and their losses, class after class."""
        return {"rows": self._rows, "boxes": self._boxes, "losses": self._losses}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the patches chosen so far."""
        for name, mine in self.state().items():
            saved = state.get(name)
            if not isinstance(saved, Tensor) or saved.dtype != mine.dtype or saved.shape != mine.shape:
                raise InputError(f"the newest checkpoint has no {name} of {tuple(mine.shape)}", "that of this run")
            mine.copy_(saved)

    def result(self, meta: dict[str, Any]) -> DistilledSet:
        """Compose the images of all classes and label them."""
        config, data = self._config, self._data
        composed = [
            compose(data.train_images, Patches(*(part[label] for part in self.state().values())), config.side)
            for label in range(data.n_classes)
        ]
        labels = torch.arange(data.n_classes).repeat_interleave(config.ipc)
        made = DistilledSet(
            self._preprocessing(np.concatenate(composed)), labels, data.classes, self._preprocessing, meta
        )
        options: dict[str, Any] = {"teacher": self._known_teacher, "temperature": config.temperature}
        soft = soft_labels_from(made, data, **options)
        return view_labels_from(soft, data, views=config.views, keep=config.keep, seed=config.seed, **options)

    @property
    def _known_teacher(self) -> nn.Module:
        assert self._teacher is not None  # prepare or begin came first
        return self._teacher


def _check_enough(data: ImageSet, config: ComposeConfig) -> None:
    side, smallest = config.side, min(data.image_shape[1:])
    if side > smallest:
        raise InputError(f"side must be at most {smallest}, the images' pixels, got {side}")
    for name, members in zip(data.classes, class_members(data), strict=True):
        available = min(config.candidates, len(members)) * config.crops
        if available < config.ipc * side**2:
            raise InputError(
                f"{config.ipc} images of {side} x {side} patches from {available} crops of class {name!r}",
                "fewer images per class, or more candidates or crops",
            )


def _described(teacher: nn.Module | None, config: EvaluateConfig) -> dict[str, Any]:
    """Return what identifies the teacher in a run's record."""
    if teacher is None:
        return {"teacher": identity(config)}
    weights = [value for _, value in sorted(teacher.state_dict().items())]
    return {"teacher": type(teacher).__qualname__, "teacher_sha256": runs.fingerprint(*weights)}
