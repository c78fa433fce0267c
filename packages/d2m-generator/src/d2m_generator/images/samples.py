"""Samples of a generator: pixels in batches, and pictures of every class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from sextet_common import figures
from sextet_common.networks import evaluating

from d2m_generator.generators.generator import Generator, ImageGenerator, noise_of

BATCH = 256
_MAX_CLASSES = 20  # rows of a picture


def batches(
    generator: Generator, labels: np.ndarray, numbers: Sequence[int], seed: int
) -> Iterator[Float[np.ndarray, "batch channels height width"]]:
    """Yield images of labels in batches, clipped to [0, 1]; image i uses the noise of (seed, numbers[i])."""
    for start in range(0, len(labels), BATCH):
        noise = noise_of(numbers[start : start + BATCH], generator.noise_shape, seed)
        with torch.inference_mode():
            images = generator.sample(torch.tensor(labels[start : start + BATCH]), noise=noise)
            pixels = images.float().clamp(0, 1).cpu().numpy()
        yield pixels


def pixels_of(generator: Generator, labels: np.ndarray, seed: int) -> Float[np.ndarray, "images channels height width"]:
    """Return images of labels, clipped to [0, 1]; image i uses the noise of (seed, i)."""
    return np.concatenate(list(batches(generator, labels, range(len(labels)), seed)))


def save_samples(generator: ImageGenerator, path: str | os.PathLike[str], *, seed: int = 0, columns: int = 8) -> Path:
    """Save a PNG picture with one row of images for each of the first twenty classes, and return its path.

    ``columns`` is the number of images per class. The generator's training mode is left as it is.
    """
    with evaluating(generator):
        labels = np.repeat(np.arange(min(generator.n_classes, _MAX_CLASSES)), columns)
        figures.save_grid(pixels_of(generator, labels, seed), path, columns)
    return Path(path)
