"""Distilled sets of any size from one generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attention_matching import DistilledSet, Preprocessing
from jaxtyping import Float
from sextet_common import checks, data as image_data, processes
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from sextet_common.networks import device_of, evaluating
from torch import Tensor, nn

from d2m_generator.images.latent_set import ImageSource, LatentSet
from d2m_generator.images.plan import BATCH, Pixels, Plan, Selection, batches


def synthesize(
    generator: ImageSource,
    ipc: int | tuple[int, ...],
    seed: int = 0,
    selection: Selection = "random",
    *,
    labels: tuple[int, ...] = (),
    data: image_data.Source | None = None,
    preprocessing: Preprocessing | None = None,
    candidates: int = 4,
    features: Callable[[Tensor], Tensor] | None = None,
    teacher: nn.Module | None = None,
    temperature: float = 1.0,
) -> DistilledSet:
    """Generate a distilled set, class after class, or take its images from a latent set.

    The images are those of a `Plan`: up to rounding, the first images of a class in a larger random set are those in a
    smaller one. Under torchrun every process generates a part of them and returns the whole set.

    Parameters
    ----------
    ipc
        Images per class: one number, or one for each of the ``labels``.
    selection, labels, candidates
        As in `Plan`.
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
    checks.check("temperature", temperature, checks.Positive)

    def compared(pixels: Pixels) -> Tensor:
        inputs = preprocessing(pixels)
        return inputs if features is None else features(inputs)

    plan = Plan(ipc, seed, labels, selection, candidates, compared)
    targets = torch.from_numpy(plan.labels_of(generator.n_classes))
    with processes.join("cpu") as joined:  # where the images are gathered
        shares = joined.shares(len(targets))
        parts = [preprocessing(batch.pixels) for batch in batches(generator, plan, shares[joined.rank])]
        mine = torch.cat([torch.empty(0, *generator.image_shape), *parts])
        images = joined.all_gather(mine, [len(share) for share in shares])
    meta: dict[str, Any] = {"method": f"d2m-generator, {selection}", **origin(generator, plan)}
    if data is not None:
        meta["data"] = data.source
    soft_labels = None if teacher is None else probabilities(teacher, images, temperature)
    return DistilledSet(images, targets, classes, preprocessing, meta, soft_labels)


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


def origin(source: ImageSource, plan: Plan) -> dict[str, Any]:
    """Return what a set's meta tells about where its images come from."""
    meta: dict[str, Any] = {"ipc": plan.ipc, "seed": plan.seed}
    if plan.labels:
        meta["labels"] = plan.labels
    if isinstance(source, LatentSet):
        return {**meta, "generator": type(source.generator).__name__, "latents": source.layer}
    return {**meta, "generator": type(source).__name__}


def probabilities(teacher: nn.Module, inputs: Tensor, temperature: float) -> Float[Tensor, "images classes"]:
    """Return a classifier's probabilities at a temperature, on the CPU."""
    device = device_of(teacher)
    with evaluating(teacher), torch.inference_mode():
        logits = torch.cat([teacher(part.to(device)).float().cpu() for part in inputs.split(BATCH)])
    return (logits / temperature).softmax(dim=1).clone()
