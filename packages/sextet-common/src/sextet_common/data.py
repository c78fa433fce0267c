"""Image sets from many sources: ``load("digits")``, ``load("folder:/photos")``, ``load(torch_dataset)``."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float, Integer, UInt8

from sextet_common import checks, pixels, sources
from sextet_common.errors import DataWarning, InputError
from sextet_common.image_files import IMAGE_SUFFIXES as IMAGE_SUFFIXES, decode as decode
from sextet_common.pixels import take as take, to_float as to_float
from sextet_common.sources import ACCEPTED as ACCEPTED


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, split into training and test; the arrays are read-only.

    Parameters
    ----------
    train_images, test_images
        uint8 in 0..255 or float32 in [0, 1], shape (images, channels, height, width), in memory or memory-mapped.
        :func:`take` copies a batch of rows, :func:`to_float` converts it.
    train_labels, test_labels
        Class numbers, int64, shape (images,).
    classes
        Class names by class number.
    mean, std
        Per channel over the training images in [0, 1], float32, shape (channels,). A constant channel has std 1.
    source
        The specification that was passed to :func:`load`.
    notes
        What was ignored, skipped or split while loading, one sentence each.
    """

    train_images: Float[np.ndarray, "train channels height width"] | UInt8[np.ndarray, "train channels height width"]
    train_labels: Integer[np.ndarray, " train"]
    test_images: Float[np.ndarray, "test channels height width"] | UInt8[np.ndarray, "test channels height width"]
    test_labels: Integer[np.ndarray, " test"]
    classes: tuple[str, ...]
    mean: Float[np.ndarray, " channels"]
    std: Float[np.ndarray, " channels"]
    source: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        train_images: np.ndarray,
        train_labels: np.ndarray,
        test_images: np.ndarray,
        test_labels: np.ndarray,
        classes: tuple[str, ...] | None = None,
        *,
        source: str = "the given arrays",
        notes: tuple[str, ...] = (),
    ) -> ImageSet:
        """Build and check a set from plain arrays in any usual layout.

        Parameters
        ----------
        train_images, test_images
            uint8 in 0..255 or floats in [0, 1]; (n, h, w), (n, c, h, w) or (n, h, w, c) with 1 or 3 channels.
            Contiguous uint8 and float32 arrays of the second form, memory maps too, are used without a copy.
        train_labels, test_labels
            Class numbers from 0, shape (n,) or (n, 1).
        classes
            Class names; by default the numbers.
        source
            Name of the data, used in error messages.

        Examples
        --------
        >>> pixels = np.zeros((4, 8, 8), dtype=np.uint8)
        >>> ImageSet.of(pixels, np.array([0, 1, 0, 1]), pixels, np.array([0, 1, 0, 1])).image_shape
        (1, 8, 8)
        """
        parts = pixels.Parts((train_images, train_labels), (test_images, test_labels), classes, source, notes)
        return _checked(parts)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over training images and labels, then those of the test, as ``runs.fingerprint`` computes it."""
        return pixels.fingerprint(self.train_images, self.train_labels, self.test_images, self.test_labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)


class Indexable(Protocol):
    """A map-style dataset, a mapping or a tuple."""

    def __getitem__(self, key: Any, /) -> Any: ...


Source: TypeAlias = str | os.PathLike[str] | ImageSet | Indexable
"""Everything that :func:`load` accepts."""


def load(
    source: Source,
    *,
    size: int | None = None,
    channels: int | None = None,
    download: bool = False,
    cache: str | os.PathLike[str] | None = None,
    on_bad_image: Literal["refuse", "skip"] = "refuse",
    workers: int | None = None,
) -> ImageSet:
    """Load labelled images.

    What is ignored, skipped or split is said once by a :class:`~sextet_common.errors.DataWarning` and kept in
    ``notes``. A source without test images gives a fifth of every class, always the same, to the test set.

    Parameters
    ----------
    source
        One of:

        - ``digits``: the 1797 handwritten digits that ship with scikit-learn, 1437 of them for training
        - ``folder:PATH`` or a path: ``PATH/train/CLASS/*.png`` and ``PATH/test/CLASS/*.png``, or ``PATH/CLASS/*.png``,
          and the other forms of :func:`sextet_common.image_files.scan`
        - ``npz:PATH`` with train_images, train_labels, test_images, test_labels and optionally classes
        - ``npz-jpeg:PREFIX``: ``PREFIX-train.npz`` and ``PREFIX-test.npz`` with JPEG files in one array (``jpeg``,
          ``offsets``, ``labels``, optionally ``classes``)
        - ``mnist:PATH``, ``cifar10:PATH`` and so on: a torchvision data set on disk
        - a torch ``Dataset`` of (image, label), a Hugging Face ``Dataset``, or arrays or tensors ``(images, labels)``
        - ``(train, test)`` or ``{"train": ..., "test": ...}`` of these, a ``DatasetDict``, or
          ``(train_images, train_labels, test_images, test_labels)``
        - an :class:`ImageSet`, which is returned as it is
    size
        Scale and crop every image to a square of this many pixels a side.
    channels
        1 for gray images, 3 for colour; by default what the files have.
    download
        Let torchvision download what is missing.
    cache
        A folder for the decoded images of a folder. Later loads of the same files map them into memory.
    on_bad_image
        ``skip`` leaves out the image files of a folder that cannot be read, and says which.
    workers
        Processes that decode image files; by default one per processor.

    Examples
    --------
    >>> digits = load("digits")
    >>> digits.train_images.shape, digits.test_images.shape
    ((1437, 1, 8, 8), (360, 1, 8, 8))
    """
    if isinstance(source, ImageSet):
        return source
    checks.check("size", size, checks.Count | None)
    checks.check("channels", channels, Literal[1, 3, None])
    checks.check("on_bad_image", on_bad_image, Literal["refuse", "skip"])
    options = sources.Options(size, channels, download, None if cache is None else Path(cache), on_bad_image, workers)
    parts = sources.read(source, options)
    if cache is not None and not parts.statistics:
        note = f"{parts.source} is not a folder of images: the cache is not used"
        parts = dataclasses.replace(parts, notes=(*parts.notes, note))
    loaded = _checked(parts, size, channels)
    for note in loaded.notes:
        warnings.warn(note, DataWarning, stacklevel=2)
    return loaded


@dataclass(frozen=True)
class DataOptions:
    """The options that name a data set."""

    data: str = "digits"
    """The images: digits, folder:PATH, npz:PATH, npz-jpeg:PREFIX, mnist:PATH, cifar10:PATH, ..."""
    size: int | None = None
    """Scale and crop every image to this many pixels per side."""
    channels: Literal[1, 3] | None = None
    """1 for gray images, 3 for colour; by default what the files have."""
    download: bool = False
    """Let torchvision download missing files."""
    cache: Path | None = None
    """Keep the decoded images of a folder here; later loads map them into memory."""
    on_bad_image: Literal["refuse", "skip"] = "refuse"
    """Refuse a folder with an image file that cannot be read, or skip such files."""

    def load(self) -> ImageSet:
        """Load the images."""
        options: Mapping[str, Any] = {name: value for name, value in vars(self).items() if name != "data"}
        return load(self.data, **options)


def _checked(parts: pixels.Parts, size: int | None = None, channels: int | None = None) -> ImageSet:
    """Check images and labels, and compute the statistics."""
    source = parts.source
    halves = (("training", parts.train), ("test", parts.test))
    images = [pixels.as_nchw(half[0], f"{source}, {part}", owned=parts.owned) for part, half in halves]
    images = [sources.fitted(array, source, size, channels) for array in images]
    labels = [pixels.as_labels(half[1], f"{source}, {part}") for part, half in halves]
    for (part, _), x, y in zip(halves, images, labels, strict=True):
        if len(x) != len(y):
            raise InputError(f"{source}, {part}: {len(x)} images and {len(y)} labels", "as many of each")
    if not len(labels[0]):
        raise InputError(f"{source} has no training image", "at least one image per class")
    if images[0].shape[1:] != images[1].shape[1:]:
        raise InputError(
            f"{source}: training images are {images[0].shape[1:]}, test images {images[1].shape[1:]}",
            "one (channels, height, width) for all",
        )
    names = _checked_classes(labels, parts.classes, source)
    moments = parts.statistics or pixels.statistics(images[0])
    x, y, test_x, test_y, mean, std = (_read_only(a) for a in (images[0], labels[0], images[1], labels[1], *moments))
    result = ImageSet(x, y, test_x, test_y, names, mean, std, source, parts.notes)
    if parts.fingerprint:
        vars(result)["fingerprint"] = parts.fingerprint
    return result


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.setflags(write=False)
    return view


def _checked_classes(labels: list[np.ndarray], classes: tuple[str, ...] | None, source: str) -> tuple[str, ...]:
    """Return the class names; refuse labels out of range and classes without training images."""
    # A class is absent; a huge label must not create as many names.
    if classes is None and labels[0].max() >= len(labels[0]):
        absent = min(set(range(len(labels[0]))) - set(labels[0].tolist()))
        raise InputError(f"{source}: class '{absent}' has no training image", "at least one per class")
    names = tuple(classes or (str(k) for k in range(int(labels[0].max(initial=0)) + 1)))
    for part, y in zip(("training", "test"), labels, strict=True):
        wrong = np.flatnonzero((y < 0) | (y >= len(names)))
        if wrong.size:
            raise InputError(
                f"{source}, {part}: label {y[wrong[0]]} of image {wrong[0]} is out of range", f"0 to {len(names) - 1}"
            )
    empty = np.flatnonzero(np.bincount(labels[0], minlength=len(names)) == 0)
    if empty.size:
        raise InputError(f"{source}: class {names[empty[0]]!r} has no training image", "at least one per class")
    return names
