"""Commands of `sextet-common`: inspect the machine, a data set, a checkpoint or a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from sextet_common import checkpoint, cli, data as image_data, device, figures, loggers, runs, text

MOST_ROWS = 100  # classes in a picture: a PNG of matplotlib's has at most 65,536 pixels a side


def machine() -> None:
    """Describe this machine, as in the head of a benchmark table."""
    for name, value in device.describe().items():
        print(f"{name:8} {value}")


def data(
    spec: tyro.conf.Positional[str],
    /,
    size: int | None = None,
    channels: Literal[1, 3] | None = None,
    download: bool = False,
    cache: Path | None = None,
    on_bad_image: Literal["refuse", "skip"] = "refuse",
    picture: Path | None = None,
) -> None:
    """Check a data set and print its size and classes.

    Parameters
    ----------
    spec
        The data: digits, folder:PATH, npz:PATH, npz-jpeg:PREFIX, mnist:PATH, cifar10:PATH, ...
    size
        Scale and crop every image to a square of this many pixels a side.
    channels
        1 for gray images, 3 for colour; by default what the files have.
    download
        Let torchvision download what is missing.
    cache
        Keep the decoded images of a folder here; later loads map them into memory.
    on_bad_image
        Refuse a folder with an image file that cannot be read, or skip such files.
    picture
        Save the first ten training images of each class as this PNG, of the first hundred classes at most.
    """
    images = image_data.DataOptions(spec, size, channels, download, cache, on_bad_image).load()
    shape = "x".join(map(str, images.image_shape))
    print(f"{len(images.train_labels)} training and {len(images.test_labels)} test images, {shape}")
    for label, name in enumerate(images.classes):
        counts = [int((labels == label).sum()) for labels in (images.train_labels, images.test_labels)]
        print(f"{text.terminal(name, text.SHORT):16} {counts[0]:8} {counts[1]:8}")
    if picture is not None:
        shown = images.classes[:MOST_ROWS]
        first = np.full((len(shown), 10, *images.image_shape), figures.BACKGROUND, dtype=np.float32)
        for label in range(len(shown)):
            numbers = (images.train_labels == label).nonzero()[0][:10]
            first[label, : len(numbers)] = image_data.to_float(image_data.take(images.train_images, numbers))
        figures.save_panels({"": first.reshape(-1, *images.image_shape)}, picture, 10, row_names=shown)
        print(picture)


def verify(file: tyro.conf.Positional[Path], /) -> None:
    """Verify the checksum of a checkpoint file and print its arrays and description."""
    saved = checkpoint.load(file)
    for name, array in sorted(saved.arrays.items()):
        print(f"{text.terminal(name, text.SHORT):40} {array.dtype!s:10} {array.shape}")
    print(saved.meta)


@cli.needs("tensorboard")
def tensorboard(run: tyro.conf.Positional[Path], /) -> None:
    """Write the metrics of a run folder as TensorBoard events."""
    print(loggers.export_tensorboard(runs.Run.read(run)))
