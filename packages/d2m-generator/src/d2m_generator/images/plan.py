"""Which images are generated, and the one loop that generates them: for sets in memory and on disk, and measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from attention_matching import farthest_first, nearest_mean
from jaxtyping import Float, Int
from sextet_common import checks
from sextet_common.checks import Count, Natural
from sextet_common.errors import InputError
from torch import Tensor

from d2m_generator.generators.generator import noise_of
from d2m_generator.images.latent_set import ImageSource, LatentSet, rows_of

BATCH = 256
_CANDIDATES = 64
Pixels = Float[np.ndarray, "batch channels height width"]
Selection = Literal["random", "herding", "diverse"]
_SELECT: dict[str, Callable[[Tensor, int], list[int]]] = {"herding": nearest_mean, "diverse": farthest_first}


@dataclass(frozen=True)
class Plan:
    """Which images of a generator or latent set are generated, class after class.

    Image j of a class depends on (seed, class, j) alone.

    Parameters
    ----------
    ipc
        Images per class: one number, or one for each of the ``labels``.
    seed
        Seed of the noise; of a latent set it changes nothing.
    labels
        Classes, in this order; all by default.
    selection
        "random" keeps all samples. "herding" generates `candidates` times as many, at least 64 of a class, and keeps
        those whose mean feature is closest to the mean of all candidates; "diverse" keeps those that are farthest
        apart. The candidates of a latent set are all of its images.
    features
        Maps pixels in [0, 1] to the features (batch, ...) that the selection compares; the pixels by default.
    """

    ipc: Count | tuple[Count, ...] = 10
    seed: Natural = 0
    labels: tuple[Natural, ...] = ()
    selection: Selection = "random"
    candidates: Count = 4
    features: Callable[[Pixels], Tensor] = torch.from_numpy

    def __post_init__(self) -> None:
        checks.check_fields(self)

    def counts(self, n_classes: int) -> dict[int, int]:
        """Return the number of images of each class, in order."""
        labels = self.labels or tuple(range(n_classes))
        if len(set(labels)) < len(labels) or max(labels) >= n_classes:
            given = f"labels {', '.join(map(str, labels[:10]))}{' ...' if len(labels) > 10 else ''}"
            raise InputError(given, f"distinct numbers from 0 to {n_classes - 1}")
        each = (self.ipc,) * len(labels) if isinstance(self.ipc, int) else self.ipc
        if len(each) != len(labels):
            raise InputError(f"{len(each)} numbers of images for {len(labels)} classes", "one number, or one of each")
        return dict(zip(labels, each, strict=True))

    def labels_of(self, n_classes: int) -> Int[np.ndarray, " images"]:
        """Return the class of every image."""
        counts = self.counts(n_classes)
        return np.repeat(np.array(list(counts)), list(counts.values()))


class Batch(NamedTuple):
    """Images of a plan: their places in it, their classes, and their pixels, clipped to [0, 1]."""

    rows: range
    labels: Int[np.ndarray, " batch"]
    pixels: Pixels


def batches(source: ImageSource, plan: Plan, rows: range | None = None) -> Iterator[Batch]:
    """Generate the images of a plan, batch after batch; ``rows`` are the places of those to generate, by default all.

    So a job that was stopped generates the rest, and each of several processes a part.

    Examples
    --------
    >>> from d2m_generator import ConditionalGAN
    >>> gan, plan = ConditionalGAN(5, (1, 8, 8), width=4), Plan(ipc=(2, 1), labels=(4, 0))
    >>> [batch.labels.tolist() for batch in batches(gan, plan)]
    [[4, 4, 0]]
    >>> [batch.pixels.shape for batch in batches(gan, plan, range(1, 3))]
    [(2, 1, 8, 8)]
    """
    counts = plan.counts(source.n_classes)
    labels = plan.labels_of(source.n_classes)
    numbers = np.concatenate([np.arange(count) for count in counts.values()])
    rows = range(len(labels)) if rows is None else rows
    selected: dict[int, np.ndarray] = {}
    for start in range(rows.start, rows.stop, BATCH):
        part = range(start, min(start + BATCH, rows.stop))
        classes, chosen = labels[part.start : part.stop], numbers[part.start : part.stop]
        if plan.selection != "random":
            present = np.unique(classes).tolist()
            selected = {k: selected[k] if k in selected else _selected(source, plan, k, counts[k]) for k in present}
            chosen = np.array([selected[label][number] for label, number in zip(classes, chosen, strict=True)])
        yield Batch(part, classes, _generated(source, classes, chosen, plan.seed))


def collect(source: ImageSource, plan: Plan) -> tuple[Pixels, Int[np.ndarray, " images"]]:
    """Return all images of a plan and their classes."""
    made = list(batches(source, plan))
    return np.concatenate([batch.pixels for batch in made]), np.concatenate([batch.labels for batch in made])


def _generated(source: ImageSource, labels: np.ndarray, numbers: np.ndarray, seed: int) -> Pixels:
    """Return images of given numbers of their classes."""
    with torch.inference_mode():
        if isinstance(source, LatentSet):
            images = source.images(rows_of(source, labels, numbers))
        else:
            noise = torch.empty(len(labels), *source.noise_shape)
            for label in np.unique(labels).tolist():
                mine = labels == label
                noise[torch.from_numpy(mine)] = noise_of(numbers[mine], source.noise_shape, seed, label)
            images = source.sample(torch.from_numpy(labels), noise=noise)
        pixels: np.ndarray = images.float().clamp(0, 1).cpu().numpy()
    if not np.isfinite(pixels).all():
        wrong = labels[~np.isfinite(pixels).all(axis=(1, 2, 3))][0]
        raise InputError(f"a pixel of class {wrong} is not finite", "a generator of finite images")
    return pixels


def _selected(source: ImageSource, plan: Plan, label: int, count: int) -> Int[np.ndarray, " images"]:
    """Return the numbers of the selected images of a class, among the first of its images."""
    most = source.ipc if isinstance(source, LatentSet) else max(plan.candidates * count, _CANDIDATES)
    numbers, points = np.arange(most), []
    for start in range(0, len(numbers), BATCH):
        part = numbers[start : start + BATCH]
        pixels = _generated(source, np.full(len(part), label), part, plan.seed)
        with torch.no_grad():
            points.append(plan.features(pixels).flatten(1).float().cpu())
    return np.array(_SELECT[plan.selection](torch.cat(points), count))
