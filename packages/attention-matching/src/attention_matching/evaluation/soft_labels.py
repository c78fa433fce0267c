"""Soft labels: the probabilities that a teacher, trained on all training images, gives each image of a small set."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch
from sextet_common import checkpoint, data as image_data, device, progress, seeding
from sextet_common.checks import Positive, check
from sextet_common.errors import InputError, reading
from torch import nn

from attention_matching.evaluation.config import EvaluateConfig, identity
from attention_matching.evaluation.training import train_networks
from attention_matching.images.augment import augmentation_for
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.inputs import RealInputs
from attention_matching.images.preprocess import Preprocessing

_KIND = "teacher"


def soft_labels_from(
    training: DistilledSet,
    data: image_data.Source,
    config: EvaluateConfig | None = None,
    *,
    temperature: float = 1.0,
    teacher: nn.Module | None = None,
) -> DistilledSet:
    """Return the set with soft labels: a teacher's probabilities, ``softmax(logits / temperature)``.

    The teacher is trained on the images of ``data`` with their hard labels; fewer epochs than for a small set will do.
    A trained ``teacher`` must take inputs of the set's preprocessing. A temperature above 1 flattens the labels, below
    1 it sharpens them. The students' own softmax has none.

    Examples
    --------
    >>> from attention_matching.images.select import random_real
    >>> from sextet_common.data import load
    >>> digits = load("digits")
    >>> soft = soft_labels_from(random_real(digits, 1), digits, EvaluateConfig(epochs=1, width=8), temperature=4.0)
    >>> tuple(soft.soft_labels.shape)
    (10, 10)
    """
    check("temperature", temperature, Positive)
    if teacher is None:
        teacher = train_teacher(data, config, training.preprocessing)
    where = next(teacher.parameters()).device
    mode = teacher.training
    teacher.eval()
    with torch.no_grad():
        logits = torch.cat([teacher(images.to(where)).cpu() for images in torch.split(training.images, 256)])
    teacher.train(mode)
    meta = {**training.meta, "soft_labels": {"temperature": temperature}}
    return dataclasses.replace(training, soft_labels=torch.softmax(logits / temperature, dim=1), meta=meta)


def train_teacher(
    data: image_data.Source,
    config: EvaluateConfig | None = None,
    preprocessing: Preprocessing | None = None,
    path: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Train one network on all training images; it is returned on the training device.

    If the file ``path`` exists, the teacher is read from it, otherwise saved to it. Inputs are standardised by default.
    """
    config, data = config or EvaluateConfig(), image_data.load(data)
    preprocessing = preprocessing or Preprocessing.fit(data)
    record = {
        "kind": _KIND,
        "data": data.source,
        "data_sha256": data.fingerprint,
        "preprocessing_sha256": preprocessing.sha256,
        **identity(config),
    }

    def make(number: int) -> nn.Module:
        return config.network(data.image_shape, data.n_classes)

    if path is not None and Path(path).exists():
        loaded = checkpoint.load(path, "torch")
        if loaded.meta != record:
            raise InputError(f"{path} holds no teacher of these settings", "another folder")
        with seeding.torch_seed(config.seed, "form"):
            teacher = make(0)
        with reading(path, "a teacher of these settings", RuntimeError):
            teacher.load_state_dict(loaded.arrays)
        return teacher.to(device.pick(config.device))
    settings = dataclasses.replace(config, seed=seeding.derive(config.seed, "teacher"))
    with progress.bar("train a teacher", config.epochs) as bar:
        [teacher] = train_networks(
            make,
            [0],
            RealInputs(data.train_images, preprocessing),
            torch.tensor(data.train_labels),
            augmentation_for(data.classes, config.augment),
            settings,
            advance=bar.advance,
        )
    if path is not None:
        checkpoint.save(path, teacher.state_dict(), record)
    return teacher
