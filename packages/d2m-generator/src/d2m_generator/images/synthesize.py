"""Distilled sets of any size from one generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from attention_matching import DistilledSet, Preprocessing, farthest_first, nearest_mean
from jaxtyping import Float
from sextet_common import checks, data as image_data
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from sextet_common.networks import device_of, evaluating
from torch import Tensor, nn

from d2m_generator.images.latent_set import ImageSource, LatentSet
from d2m_generator.images.samples import BATCH, batches

Selection = Literal["random", "herding", "diverse"]


def synthesize(
    generator: ImageSource,
    ipc: int,
    seed: int = 0,
    selection: Selection = "random",
    *,
    data: image_data.Source | None = None,
    preprocessing: Preprocessing | None = None,
    candidates: int = 4,
    features: Callable[[Tensor], Tensor] | None = None,
    teacher: nn.Module | None = None,
    temperature: float = 1.0,
) -> DistilledSet:
    """Generate a distilled set with `ipc` images per class, ordered by class, or take them from a latent set.

    Image j of a class depends on (seed, class, j) alone: up to rounding, the first images of a larger random set are
    those of a smaller one.

    Parameters
    ----------
    selection
        "random" keeps all samples. "herding" generates `candidates` times as many and keeps those whose mean feature is
        closest to the mean of all candidates; "diverse" keeps those that are farthest apart.
    data
        Source of the class names and of the preprocessing's mean and std. Without it the classes are named by their
        numbers, and pixels are centred.
    preprocessing
        Preprocessing of pixels, instead of the data's mean and std.
    features
        Maps inputs (batch, channels, height, width) to the features (batch, size) that the selection compares; the
        inputs themselves by default.
    teacher, temperature
        A classifier of inputs, whose probabilities at this temperature become the soft labels of the set.

    Examples
    --------
    >>> from d2m_generator import ConditionalGAN
    >>> gan = ConditionalGAN(3, (1, 8, 8), width=4)
    >>> few, more = synthesize(gan, 2, seed=1), synthesize(gan, 5, seed=1)
    >>> torch.allclose(few.images[2:4], more.images[5:7], atol=1e-5)
    True
    """
    data = None if data is None else image_data.load(data)
    classes, preprocessing = classes_and_preprocessing(generator, data, preprocessing)
    check_counts(ipc, seed, temperature)
    checks.check("selection", selection, Selection)
    checks.check("candidates", candidates, checks.Count)
    select = {"random": None, "herding": nearest_mean, "diverse": farthest_first}[selection]
    parts: list[Tensor] = []
    for label in range(generator.n_classes):
        count = ipc if select is None else candidates * ipc
        inputs = torch.cat([preprocessing(pixels) for pixels in class_batches(generator, label, count, seed)])
        if select is not None:
            points = inputs if features is None else _embedded(inputs, features)
            inputs = inputs[select(points.flatten(1), ipc)]
        parts.append(inputs)
    images = torch.cat(parts)
    meta = {"method": f"d2m-generator, {selection}", "ipc": ipc, "seed": seed, **origin(generator)}
    if data is not None:
        meta["data"] = data.source
    soft_labels = None if teacher is None else probabilities(teacher, images, temperature)
    labels = torch.arange(generator.n_classes).repeat_interleave(ipc)
    return DistilledSet(images, labels, classes, preprocessing, meta, soft_labels)


def classes_and_preprocessing(
    generator: ImageSource, data: ImageSet | None, preprocessing: Preprocessing | None
) -> tuple[tuple[str, ...], Preprocessing]:
    """Return the class names and the preprocessing of a set; without data, numbers and centred pixels."""
    if data is None:
        half = torch.full((generator.image_shape[0],), 0.5)
        return tuple(map(str, range(generator.n_classes))), preprocessing or Preprocessing(half, half)
    if data.image_shape != generator.image_shape or data.n_classes != generator.n_classes:
        given = f"a generator of {generator.n_classes} classes of {generator.image_shape} images"
        raise InputError(given, f"{data.n_classes} classes of {data.image_shape}, as {data.source}")
    return data.classes, preprocessing or Preprocessing.fit(data)


def origin(source: ImageSource) -> dict[str, Any]:
    """Return what a set's meta tells about where its images come from."""
    if isinstance(source, LatentSet):
        return {"generator": type(source.generator).__name__, "latents": source.layer}
    return {"generator": type(source).__name__}


def check_counts(ipc: int, seed: int, temperature: float) -> None:
    """Check the arguments that sets in memory and on disk share."""
    checks.check("ipc", ipc, checks.Count)
    checks.check("seed", seed, checks.Natural)
    checks.check("temperature", temperature, checks.Positive)


def class_batches(
    generator: ImageSource, label: int, count: int, seed: int
) -> Iterator[Float[np.ndarray, "batch channels height width"]]:
    """Yield the first images of a class in batches, clipped to [0, 1]."""
    for pixels in batches(generator, np.full(count, label), np.arange(count), seed):
        if not np.isfinite(pixels).all():
            raise InputError(f"a pixel of class {label} is not finite", "a generator of finite images")
        yield pixels


def probabilities(teacher: nn.Module, inputs: Tensor, temperature: float) -> Float[Tensor, "images classes"]:
    """Return a classifier's probabilities at a temperature, on the CPU."""
    device = device_of(teacher)
    with evaluating(teacher), torch.inference_mode():
        logits = torch.cat([teacher(part.to(device)).float().cpu() for part in inputs.split(BATCH)])
    return (logits / temperature).softmax(dim=1).clone()


def _embedded(inputs: Tensor, features: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([features(part).flatten(1).float().cpu() for part in inputs.split(BATCH)]).clone()
