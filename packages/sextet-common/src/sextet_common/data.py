"""Image sets from many sources: ``load("digits")``, ``load("folder:/photos")``, ``load(torch_dataset)``."""

from __future__ import annotations

import functools
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float, Integer, UInt8

from sextet_common import checks, pixels, sources
from sextet_common.errors import DataWarning, InputError
from sextet_common.image_files import OnBadImage, decode as decode
from sextet_common.pixels import take as take, to_float as to_float


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, split into training and test; the arrays are read-only.

    Images are uint8 in 0..255 or float32 in [0, 1], in memory or memory-mapped: :func:`take` copies a batch of rows,
    :func:`to_float` converts it. Labels are class numbers, int64. Mean and standard deviation are those of a channel's
    training pixels in [0, 1]; a constant channel has 1. ``notes`` say what was ignored, skipped or split by
    :func:`load`, in one sentence each.
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

        Images are uint8 in 0..255 or floats in [0, 1] of shape (n, h, w), (n, c, h, w) or (n, h, w, c) with any number
        of channels; contiguous uint8 and float32 arrays of the second form, memory maps too, are used without a copy.
        Labels are numbers from 0, (n,) or (n, 1). Classes are named by their numbers unless ``classes`` names them.

        Examples
        --------
        >>> pixels = np.zeros((4, 8, 8), dtype=np.uint8)
        >>> ImageSet.of(pixels, np.array([0, 1, 0, 1]), pixels, np.array([0, 1, 0, 1])).image_shape
        (1, 8, 8)
        """
        return _checked(pixels.Parts((train_images, train_labels), (test_images, test_labels), classes, source, notes))

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
    on_bad_image: OnBadImage = "refuse",
    workers: int | None = None,
) -> ImageSet:
    """Load labelled images.

    A source without test images gives a fifth of every class, always the same, to the test set. This, and what is
    ignored or skipped, is said once by a :class:`~sextet_common.errors.DataWarning` and kept in ``notes``. The options
    are those of :class:`DataOptions`; ``workers`` is the number of processes that decode image files.

    Parameters
    ----------
    source
        One of:

        - ``digits``: the 1797 handwritten digits that ship with scikit-learn, 1437 of them for training
        - ``folder:PATH`` or a path, in one of the forms of :func:`sextet_common.image_folders.scan`
        - ``npz:PATH`` with train_images, train_labels, test_images, test_labels and optionally classes
        - ``npz-jpeg:PREFIX``: ``PREFIX-train.npz`` and ``PREFIX-test.npz`` with JPEG files in one array (``jpeg``,
          ``offsets``, ``labels``, optionally ``classes``)
        - ``mnist:PATH``, ``cifar10:PATH`` and so on: a torchvision data set on disk
        - a torch ``Dataset`` of (image, label), a Hugging Face ``Dataset``, or arrays or tensors ``(images, labels)``
        - ``(train, test)`` or ``{"train": ..., "test": ...}`` of these, a ``DatasetDict``, or
          ``(train_images, train_labels, test_images, test_labels)``
        - ``(train, test)`` of specifications or paths: the training images of one and the test images of the other, or
          all images where there is one part; a folder's may have the names that :func:`~sextet_common.hub.folder_names`
          gives the classes, as a distilled set's do
        - an :class:`ImageSet`, which is returned as it is

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
    checks.check("on_bad_image", on_bad_image, OnBadImage)
    options = sources.Options(size, channels, download, None if cache is None else Path(cache), on_bad_image, workers)
    loaded = _checked(sources.read(source, options), options)
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
    on_bad_image: OnBadImage = "refuse"
    """Refuse a folder with an image file that cannot be read, or skip such files."""

    def load(self) -> ImageSet:
        """Load the images."""
        options = {name: getattr(self, name) for name in ("size", "channels", "download", "cache", "on_bad_image")}
        return load(self.data, **options)


def _checked(parts: pixels.Parts, options: sources.Options | None = None) -> ImageSet:
    """Check what a source holds; with options, fit the images to them and split off a test set where there is none."""
    source, notes = parts.source, parts.notes
    arrays = []
    for part, (images, labels) in (("training", parts.train), ("test", parts.test)):
        x = pixels.as_nchw(images, f"{source}, {part}", owned=parts.owned)
        y = pixels.as_labels(labels, f"{source}, {part}")
        if len(x) != len(y):
            raise InputError(f"{source}, {part}: {len(x)} images and {len(y)} labels", "as many of each")
        arrays += [sources.fitted(x, source, options.size, options.channels) if options else x, y]
    train, train_labels, test, test_labels = arrays
    if not len(train_labels):
        raise InputError(f"{source} has no training image", "at least one image per class")
    if options and not len(test_labels):
        rows, held_out, note = sources.split(train_labels, parts.classes, source)
        test, test_labels = pixels.take(train, held_out), train_labels[held_out]
        train, train_labels, notes = pixels.take(train, rows), train_labels[rows], (*notes, note)
    if options and options.cache is not None and not parts.statistics:
        notes = (*notes, f"{source} is not a folder of images: the cache is not used")
    if train.shape[1:] != test.shape[1:]:
        given = f"{source}: training images are {train.shape[1:]}, test images {test.shape[1:]}"
        raise InputError(given, "one (channels, height, width) for all")
    classes = _class_names(parts.classes, train_labels, test_labels, source)
    arrays = [train, train_labels, test, test_labels, *(parts.statistics or pixels.statistics(train))]
    views = [array.view() for array in arrays]
    for view in views:
        view.setflags(write=False)
    train, train_labels, test, test_labels, mean, std = views
    result = ImageSet(train, train_labels, test, test_labels, classes, mean, std, source, notes)
    if parts.fingerprint:
        vars(result)["fingerprint"] = parts.fingerprint
    return result


def _class_names(classes: tuple[str, ...] | None, train: np.ndarray, test: np.ndarray, source: str) -> tuple[str, ...]:
    """Return the class names; refuse labels out of range and classes without training images."""
    # Of more classes than images one is absent: a huge label must not create as many names.
    names = classes or tuple(map(str, range(min(int(train.max()), len(train)) + 1)))
    absent = np.setdiff1d(np.arange(len(names)), train)
    if absent.size:
        raise InputError(f"{source}: class {names[absent[0]]!r} has no training image", "at least one per class")
    for part, labels in (("training", train), ("test", test)):
        wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
        if wrong.size:
            given = f"{source}, {part}: label {labels[wrong[0]]} of image {wrong[0]} is out of range"
            raise InputError(given, f"0 to {len(names) - 1}")
    return names
