"""Readers of the sources that :func:`sextet_common.data.load` accepts."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sextet_common import cache, datasets, hub, image_files, image_folders, npy, pixels
from sextet_common.errors import InputError, reading, require
from sextet_common.pixels import Parts
from sextet_common.seeding import generator

TEST_SHARE = 0.2  # of a class's images, if the source has no test set
_TORCHVISION = ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "SVHN")
_HALVES = ("train", "test")


class Options(NamedTuple):
    """The settings of :func:`sextet_common.data.load`."""

    size: int | None
    channels: int | None
    download: bool
    cache: Path | None
    on_bad_image: image_files.OnBadImage
    workers: int | None
    split: bool = True  # hold out test images of a folder without any


def read(source: Any, options: Options) -> Parts:
    """Read the source that a specification or a path names, or that is a dataset or arrays.

    The test part is empty where the source has none.
    """
    if not isinstance(source, str | os.PathLike):
        return _objects(source, options)
    text = os.fspath(source)
    if text == "digits":
        return _digits()
    kind, _, rest = text.partition(":")
    if not (kind in _READERS and rest):  # a path alone
        kind, rest = "folder" if text and Path(text).expanduser().is_dir() else Path(text).suffix[1:], text
    if kind not in ("npz", *_READERS):
        named = ", ".join(f"{name}:PATH" for name in _READERS if name != "npz-jpeg")
        accepted = f"digits, {named}, npz-jpeg:PREFIX, a map-style dataset or arrays"
        raise InputError(f"data {text!r} is unknown or missing", accepted)
    return _READERS[kind](Path(rest).expanduser(), options)


def fitted(images: np.ndarray, source: str, size: int | None, channels: int | None) -> np.ndarray:
    """Return (n, c, h, w) images with the requested size and channels; bytes are converted like image files."""
    _, depth, height, width = images.shape
    shape = (channels or depth, size or height, size or width)
    if images.shape[1:] == shape:
        return images
    if depth not in (1, 3):
        raise InputError(f"{source}: images of {depth} channels", f"1 or 3, to be changed to the shape {shape}")
    if images.dtype != np.uint8:
        given = f"{source}: float images of shape {images.shape[1:]}"
        raise InputError(given, f"{shape} as requested, or uint8 images")
    image_module = require("PIL.Image", package="sextet-common", extra="images")
    result = np.empty((len(images), *shape), np.uint8)
    for number, image in enumerate(images):
        picture = image_module.fromarray(image.transpose(1, 2, 0) if depth == 3 else image[0])
        result[number] = datasets.from_pil(picture, source, size, shape[0])
    return result


def split(labels: np.ndarray, classes: Sequence[str] | None, source: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Return the rows of the training and the test part, a fixed fifth of every class, and a note that says so."""
    held_out = []
    for label in np.unique(labels).tolist():
        name = classes[label] if classes and 0 <= label < len(classes) else str(label)
        rows = np.flatnonzero(labels == label)
        if len(rows) == 1:
            raise InputError(f"{source}: class {name!r} has 1 image", "2, one to test on, or load((data, test))")
        count = max(1, round(TEST_SHARE * len(rows)))
        held_out.append(rows[generator(0, "test split", name).permutation(len(rows))[:count]])
    test = np.sort(np.concatenate(held_out))
    train = np.setdiff1d(np.arange(len(labels)), test)
    note = f"{source} has no test images: {len(test)} of {len(labels)} images, a fifth of every class, are held out"
    return train, test, note


def _objects(source: Any, options: Options) -> Parts:
    first, second, notes = datasets.halves_of(source)
    if isinstance(first, str | os.PathLike) and isinstance(second, str | os.PathLike):
        return _pair(first, second, options)
    name = "the given arrays" if isinstance(first, tuple) else f"the given {type(first).__name__}"
    train, classes = datasets.read(first, name, options.size, options.channels)
    if second is None:
        absent = np.empty((0, *train[0].shape[1:]), np.uint8), np.empty(0, np.int64)
        return Parts(train, absent, classes, name, notes)
    test, names = datasets.read(second, f"{name}, test", options.size, options.channels, classes)
    if classes != names:
        raise InputError(f"{name}: training and test classes differ: {classes} and {names}", "the same classes")
    return Parts(train, test, classes, name, notes)


def _pair(first: str | os.PathLike[str], second: str | os.PathLike[str], options: Options) -> Parts:
    """Read training images from one source and test images from another, which name the same classes."""
    test = read(second, options._replace(split=False, cache=None))
    half = test.test if len(test.test[1]) else test.train
    channels = options.channels or pixels.as_nchw(half[0], test.source).shape[1]
    train = read(first, options._replace(split=False, channels=channels))
    source, names = f"{train.source}, tested on {test.source}", train.classes
    if test.classes is not None and names not in (None, test.classes, hub.folder_names(test.classes)):
        raise InputError(f"{source}: training and test classes differ: {names} and {test.classes}", "the same classes")
    return replace(train, test=half, classes=test.classes or names, source=source, notes=(*train.notes, *test.notes),
                   owned=False, statistics=None, fingerprint="")  # fmt: skip


def _digits() -> Parts:
    library = require("sklearn.datasets", package="sextet-common", extra="digits")
    selection = require("sklearn.model_selection", package="sextet-common", extra="digits")
    values, labels = library.load_digits(return_X_y=True)
    images = (values / 16).astype(np.float32).reshape(-1, 8, 8)
    train, test = selection.train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    return Parts((images[train], labels[train]), (images[test], labels[test]), tuple("0123456789"), "digits")


def _torchvision(name: str, path: Path, options: Options) -> Parts:
    kind, source = require("torchvision.datasets", package="sextet-common", extra="torch"), f"{name.lower()}:{path}"
    halves = []
    for half in _HALVES:
        chosen = {"split": half} if name == "SVHN" else {"train": half == "train"}
        with reading(source, "the data on disk, or --download", RuntimeError, LookupError, TypeError, AssertionError):
            dataset = getattr(kind, name)(str(path), download=options.download, **chosen)
        labels = dataset.labels if name == "SVHN" else dataset.targets
        halves.append((np.asarray(dataset.data), np.asarray(labels, dtype=np.int64)))
    classes = tuple(map(str, getattr(dataset, "classes", ()))) or None
    return Parts(halves[0], halves[1], classes, source, owned=True)


def _folder(path: Path, options: Options) -> Parts:
    source, listing = f"folder:{path}", image_folders.scan(path)
    paths, notes, n_train = (*listing.train, *listing.test), listing.notes, len(listing.train)
    labels = np.concatenate([listing.train_labels, listing.test_labels])
    if not listing.test and options.split:
        train, test, note = split(labels, listing.classes, source)
        order, n_train = np.concatenate([train, test]), len(train)
        paths, labels, notes = tuple(paths[row] for row in order), labels[order], (*notes, note)
    parts = cache.decoded(
        paths, labels, n_train, root=path, folder=options.cache, classes=listing.classes, workers=options.workers,
        size=options.size, channels=options.channels, on_bad_image=options.on_bad_image,
    )  # fmt: skip
    return replace(parts, source=source, notes=(*notes, *parts.notes))


def _read_npz(path: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    arrays = npy.read_npz(path, names, ("classes",))
    with reading(path, "classes of shape (n,)", TypeError):
        return arrays, tuple(map(str, arrays["classes"])) if "classes" in arrays else None


def _npz(path: Path, options: Options) -> Parts:
    names = [(f"{half}_images", f"{half}_labels") for half in _HALVES]
    arrays, classes = _read_npz(path, list(itertools.chain(*names)))
    train, test = ((arrays[images], arrays[labels]) for images, labels in names)
    return Parts(train, test, classes, f"npz:{path}", owned=True)


def _npz_jpeg(prefix: Path, options: Options) -> Parts:
    halves = []
    for half in _HALVES:
        path = f"{prefix}-{half}.npz"
        arrays, classes = _read_npz(Path(path), ("jpeg", "offsets", "labels"))
        content, offsets = arrays["jpeg"].data, arrays["offsets"]
        cuts = offsets.tolist() if offsets.ndim == 1 and offsets.dtype.kind in "iu" else []
        if len(cuts) < 2 or (cuts[0], cuts[-1]) != (0, len(content)) or cuts != sorted(set(cuts)):
            raise InputError(f"{path}: offsets do not cut jpeg into files", "n + 1 rising offsets from 0 to its length")
        encoded = [(content[start:stop], 0) for start, stop in itertools.pairwise(cuts)]
        (images, _), _ = datasets.read(encoded, path, options.size, options.channels)
        halves.append((images, arrays["labels"]))
    return Parts(halves[0], halves[1], classes, f"npz-jpeg:{prefix}", owned=True)


_READERS: Mapping[str, Callable[[Path, Options], Parts]] = {
    "folder": _folder,
    "npz": _npz,
    "npz-jpeg": _npz_jpeg,
    **{name.lower(): functools.partial(_torchvision, name) for name in _TORCHVISION},
}
