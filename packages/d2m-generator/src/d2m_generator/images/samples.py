"""Pictures of a generator's images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from sextet_common import figures
from sextet_common.networks import evaluating
from torch import nn

from d2m_generator.images.latent_set import ImageSource, LatentSet
from d2m_generator.images.plan import Plan, collect

_MAX_CLASSES = 20  # rows of a picture


def save_samples(
    source: ImageSource,
    path: str | os.PathLike[str],
    *,
    seed: int = 0,
    columns: int = 8,
    classes: Sequence[str] = (),
) -> Path:
    """Save a PNG picture with the first images of each of the first twenty classes, a row each, and return its path.

    ``columns`` is the number of images per class, fewer where a latent set has fewer; ``classes`` are the names of the
    classes, by default their numbers. The generator's training mode is left as it is.
    """
    module: object = source
    if isinstance(source, LatentSet):
        module, columns = source.generator, min(columns, source.ipc)
    labels = tuple(range(min(source.n_classes, _MAX_CLASSES)))
    names = [classes[label] if classes else str(label) for label in labels]
    with evaluating(module) if isinstance(module, nn.Module) else nullcontext():
        images, _ = collect(source, Plan(columns, seed, labels))
    figures.save_panels({"": images}, path, columns, row_names=names)
    return Path(path)
