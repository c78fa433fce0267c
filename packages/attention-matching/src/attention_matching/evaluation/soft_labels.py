"""Soft labels of a small set: probabilities by a teacher, of each image or of each augmented view of it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch
from jaxtyping import Float
from sextet_common import checkpoint, data as image_data, device, progress, seeding
from sextet_common.checks import Count, Positive, check
from sextet_common.errors import InputError, reading
from torch import Tensor, nn

from attention_matching.evaluation.config import VIEWS, EvaluateConfig, identity
from attention_matching.evaluation.training import train_networks
from attention_matching.images.augment import SiameseAugmentation, augmentation_for
from attention_matching.images.distilled import DistilledSet, check_same_form
from attention_matching.images.inputs import RealInputs
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.view_labels import ViewLabels, view_of

_KIND = "teacher"
_BATCH = 256  # images that pass through a teacher at once


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
        teacher = _own_teacher(training, data, config)
    labels = probabilities(teacher, training.images, len(training.classes), temperature)
    meta = {**training.meta, "soft_labels": {"temperature": temperature}}
    return dataclasses.replace(training, soft_labels=labels, meta=meta)


def view_labels_from(
    training: DistilledSet,
    data: image_data.Source,
    config: EvaluateConfig | None = None,
    *,
    views: int = VIEWS,
    keep: int | None = None,
    temperature: float = 1.0,
    teacher: nn.Module | None = None,
    augment: SiameseAugmentation | None = None,
    seed: int = 0,
) -> DistilledSet:
    """Return the set with a teacher's probabilities of augmented views of every image, as FKD (arXiv 2112.01528).

    With ``labels="views"``, networks see view e modulo ``views`` in epoch e with the labels of that very view. Only the
    probabilities are stored, in half precision: ``2 * views * classes`` bytes per image; with ``keep``, those of the
    most probable classes alone, at 3 bytes each up to 256 classes and else 4. The transforms are those of ``augment``,
    by default of ``config`` and the data, their amounts a hash of (seed, view, image). The other parameters are those
    of :func:`soft_labels_from`.

    Examples
    --------
    >>> from attention_matching.images.select import random_real
    >>> from sextet_common.data import load
    >>> digits = load("digits")
    >>> quick = EvaluateConfig(epochs=1, width=8)
    >>> view_labels_from(random_real(digits, 1), digits, quick, views=4).view_labels.bytes_per_image
    80
    """
    check("temperature", temperature, Positive)
    check("views", views, Count)
    check("keep", keep, Count | None)
    if teacher is None:
        teacher = _own_teacher(training, data, config)
    if augment is None:
        augment = augmentation_for(training.classes, None if config is None else config.augment)
    everything = torch.arange(len(training))
    rows = [
        probabilities(
            teacher, view_of(augment, seed, training.images, everything, number), len(training.classes), temperature
        )
        for number in range(views)
    ]
    labels = ViewLabels.of(torch.stack(rows, dim=1), augment, seed, keep)
    meta = {**training.meta, "view_labels": {"views": views, "temperature": temperature}}
    return dataclasses.replace(training, view_labels=labels, meta=meta)


def _own_teacher(training: DistilledSet, data: image_data.Source, config: EvaluateConfig | None) -> nn.Module:
    data = image_data.load(data)
    check_same_form(training, data)
    return train_teacher(data, config, training.preprocessing)


def probabilities(
    teacher: nn.Module, inputs: Float[Tensor, "n channels height width"], n_classes: int, temperature: float = 1.0
) -> Float[Tensor, "n classes"]:
    """Return ``softmax(logits / temperature)`` of a teacher in evaluation mode, on the CPU."""
    where = next((parameter.device for parameter in teacher.parameters()), inputs.device)
    mode = teacher.training
    teacher.eval()
    with torch.no_grad():
        logits = torch.cat([teacher(images.to(where)).float().cpu() for images in torch.split(inputs, _BATCH)])
    teacher.train(mode)
    if tuple(logits.shape) != (len(inputs), n_classes) or not bool(logits.isfinite().all()):
        raise InputError(
            f"the teacher gives {tuple(logits.shape)} numbers, {int(logits.isfinite().sum())} of them finite",
            f"finite logits of shape {(len(inputs), n_classes)}",
        )
    return torch.softmax(logits / temperature, dim=1)


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
