"""Samples of a generator: pixels in batches, and pictures of every class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from sextet_common import figures
from sextet_common.networks import evaluating
from torch import Tensor, nn

from d2m_generator.generators.generator import noise_of
from d2m_generator.images.latent_set import ImageSource, LatentSet, rows_of

BATCH = 256
_MAX_CLASSES = 20  # rows of a picture


def batches(
    source: ImageSource, labels: np.ndarray, numbers: np.ndarray, seed: int
) -> Iterator[Float[np.ndarray, "batch channels height width"]]:
    """Yield images of given numbers of their labels in batches, clipped to [0, 1].

    The noise of image j of a class depends on (seed, class, j) alone; a latent set has its own image j.
    """
    for start in range(0, len(labels), BATCH):
        classes, chosen = labels[start : start + BATCH], numbers[start : start + BATCH]
        with torch.inference_mode():
            if isinstance(source, LatentSet):
                images = source.images(rows_of(source, classes, chosen))
            else:
                noise = _noise(classes, chosen, source.noise_shape, seed)
                images = source.sample(torch.tensor(classes), noise=noise)
            pixels = images.float().clamp(0, 1).cpu().numpy()
        yield pixels


def _noise(labels: np.ndarray, numbers: np.ndarray, shape: tuple[int, ...], seed: int) -> Tensor:
    noise = torch.empty(len(labels), *shape)
    for label in np.unique(labels).tolist():
        mine = labels == label
        noise[torch.from_numpy(mine)] = noise_of(numbers[mine], shape, seed, label)
    return noise


def pixels_of(source: ImageSource, labels: np.ndarray, seed: int) -> Float[np.ndarray, "images channels height width"]:
    """Return images of labels, clipped to [0, 1]: of each label the first images, in order."""
    numbers = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        numbers[labels == label] = np.arange((labels == label).sum())
    return np.concatenate(list(batches(source, labels, numbers, seed)))


def save_samples(source: ImageSource, path: str | os.PathLike[str], *, seed: int = 0, columns: int = 8) -> Path:
    """Save a PNG picture with the first images of each of the first twenty classes, a row each, and return its path.

    ``columns`` is the number of images per class, fewer where a latent set has fewer. The generator's training mode is
    left as it is.
    """
    module: object = source
    if isinstance(source, LatentSet):
        module, columns = source.generator, min(columns, source.ipc)
    labels = np.repeat(np.arange(min(source.n_classes, _MAX_CLASSES)), columns)
    with evaluating(module) if isinstance(module, nn.Module) else nullcontext():
        figures.save_grid(pixels_of(source, labels, seed), path, columns)
    return Path(path)
