"""Soft labels: what a teacher, trained on all training images, says of each image of a small set."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import torch
from sextet_common import checkpoint, device, progress, runs, seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from torch import nn

from attention_matching.evaluation.evaluate import EvaluateConfig
from attention_matching.evaluation.training import train_networks
from attention_matching.images.augment import augmentation_for
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import Preprocessing

_KIND = "teacher"


def soft_labels_from(
    training: DistilledSet,
    data: ImageSet,
    config: EvaluateConfig | None = None,
    *,
    temperature: float = 1.0,
    teacher: nn.Module | None = None,
) -> DistilledSet:
    """Give a set soft labels: a teacher's probabilities, ``softmax(logits / temperature)``.

    Parameters
    ----------
    training
        The set.
    data
        The images that the teacher is trained on: all training images, with their hard labels.
    config
        The teacher's network, and how it is trained. Fewer epochs than for a small set will do.
    temperature
        Above 1 it flattens the labels, below it sharpens them. The students' own softmax has none.
    teacher
        A teacher that is trained already, on inputs of the set's preprocessing.

    Returns
    -------
    DistilledSet
        The same set with its ``soft_labels``.

    Raises
    ------
    InputError
        Where the temperature is not above 0.

    Examples
    --------
    >>> from attention_matching.images.select import random_real
    >>> from sextet_common.data import load
    >>> digits = load("digits")
    >>> soft = soft_labels_from(random_real(digits, 1), digits, EvaluateConfig(epochs=1, width=8), temperature=4.0)
    >>> tuple(soft.soft_labels.shape)
    (10, 10)
    """
    if not 0 < temperature < math.inf:
        raise InputError(f"temperature is {temperature}", "a number > 0")
    if teacher is None:
        teacher = train_teacher(data, config, training.preprocessing)
    where = next(teacher.parameters()).device
    before = teacher.training
    teacher.eval()
    with torch.no_grad():
        logits = torch.cat([teacher(part.to(where)).cpu() for part in torch.split(training.images, 256)])
    teacher.train(before)
    meta = {**training.meta, "soft_labels": {"temperature": temperature}}
    return dataclasses.replace(training, soft_labels=torch.softmax(logits / temperature, dim=1), meta=meta)


def train_teacher(
    data: ImageSet,
    config: EvaluateConfig | None = None,
    preprocessing: Preprocessing | None = None,
    path: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Train one network on all training images.

    Parameters
    ----------
    data
        The images.
    config
        The network, and how it is trained.
    preprocessing
        From pixels to inputs; by default the training images' mean and std.
    path
        A file that keeps the teacher: where it is there, the teacher is read from it.

    Returns
    -------
    torch.nn.Module
        The teacher, on the training device.

    Raises
    ------
    InputError
        Where the file holds something else, or a teacher trained otherwise.
    """
    config = config or EvaluateConfig()
    preprocessing = preprocessing or Preprocessing.fit(data)
    known = {"kind": _KIND, "data": data.source, "whitening": preprocessing.whitening, **runs.to_json(config)}

    def make(number: int) -> nn.Module:
        return config.network(data.image_shape, data.n_classes)

    if path is not None and Path(path).exists():
        loaded = checkpoint.load(path, "torch")
        if loaded.meta != known:
            raise InputError(f"{path} holds no teacher of these settings", "another folder")
        with seeding.torch_seed(config.seed, "form"):
            teacher = make(0)
        with reading(path, "a teacher of these settings"):
            teacher.load_state_dict(loaded.arrays)
        return teacher.to(device.pick(config.device))
    own = dataclasses.replace(config, seed=seeding.derive(config.seed, "teacher"))
    with progress.bar("train a teacher", config.epochs) as bar:
        [teacher] = train_networks(
            make,
            [0],
            preprocessing(data.train_images),
            torch.tensor(data.train_labels),
            augmentation_for(data.classes, config.augment),
            own,
            advance=bar.advance,
        )
    if path is not None:
        checkpoint.save(path, teacher.state_dict(), known)
    return teacher
