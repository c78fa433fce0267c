"""The commands of `sextet-common`: look at a machine, a data set, a checkpoint, a run."""

from __future__ import annotations

from pathlib import Path

import tyro

from sextet_common import checkpoint, device, figures, runs
from sextet_common import data as image_data


def machine() -> None:
    """Print what machine this is: the head of a benchmark table."""
    for name, value in device.describe().items():
        print(f"{name:8} {value}")


def data(
    spec: tyro.conf.Positional[str],
    /,
    size: int | None = None,
    download: bool = False,
    picture: Path | None = None,
) -> None:
    """Check a data set and print what is in it, before a long job relies on it.

    Parameters
    ----------
    spec
        The data: digits, folder:PATH, npz:PATH, npz-jpeg:PREFIX, mnist:PATH, cifar10:PATH, ...
    size
        Resize and crop the images of a folder to this many pixels a side.
    download
        Let torchvision fetch what is not on disk.
    picture
        Save the first ten training images of every class as this PNG.
    """
    found = image_data.load(spec, size=size, download=download)
    channels, height, width = found.image_shape
    print(f"{len(found.train_labels)} training and {len(found.test_labels)} test images, {channels}x{height}x{width}")
    for label, name in enumerate(found.classes):
        counts = [int((labels == label).sum()) for labels in (found.train_labels, found.test_labels)]
        print(f"{name:16} {counts[0]:8} {counts[1]:8}")
    if picture is not None:
        first = [number for k in range(found.n_classes) for number in (found.train_labels == k).nonzero()[0][:10]]
        figures.save_grid(found.train_images[first], picture, columns=10)
        print(picture)


def verify(file: tyro.conf.Positional[Path], /) -> None:
    """Verify a checkpoint's checksum and print what it holds.

    Parameters
    ----------
    file
        A file that checkpoint.save wrote.
    """
    found = checkpoint.load(file)
    for name, array in sorted(found.arrays.items()):
        print(f"{name:40} {array.dtype!s:10} {array.shape}")
    print(found.meta)


def tensorboard(run: tyro.conf.Positional[Path], /) -> None:
    """Write a run's metrics as TensorBoard events.

    Parameters
    ----------
    run
        The run folder.
    """
    print(runs.Run.read(run).export_tensorboard())
