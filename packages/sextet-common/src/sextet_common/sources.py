"""Readers of the sources that :func:`sextet_common.data.load` accepts."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from sextet_common import cache, datasets, image_files, image_folders, npy
from sextet_common.errors import InputError, reading, require
from sextet_common.pixels import Parts, as_labels, take
from sextet_common.seeding import generator

TEST_SHARE = 0.2  # of a class's images, if the source has no test set

# The torchvision classes whose constructor takes train=True|False, and SVHN's split="train"|"test".
_TORCHVISION = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "fashionmnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "mnist": "MNIST",
    "svhn": "SVHN",
}
ACCEPTED = (
    "digits, folder:PATH, npz:PATH, npz-jpeg:PREFIX, "
    + ", ".join(f"{name}:PATH" for name in _TORCHVISION)
    + ", a map-style dataset or arrays"
)


class Options(NamedTuple):
    """The settings of :func:`sextet_common.data.load`."""

    size: int | None = None
    channels: int | None = None
    download: bool = False
    cache: Path | None = None
    on_bad_image: Literal["refuse", "skip"] = "refuse"
    workers: int | None = None


def read(source: Any, options: Options) -> Parts:
    """Read the source that a specification or a path names, or that is a dataset or arrays."""
    if not isinstance(source, str | os.PathLike):
        return _objects(source, options)
    text = os.fspath(source)
    kind, _, rest = text.partition(":")
    if kind == "digits" and not rest:
        return _digits()
    if kind in _TORCHVISION and rest:
        return _torchvision(kind, Path(rest).expanduser(), options.download)
    readers: dict[str, Callable[[Path], Parts]] = {
        "folder": lambda path: _folder(path, options),
        "npz": _npz,
        "npz-jpeg": lambda path: _npz_jpeg(path, options),
    }
    if kind in readers and rest:
        return readers[kind](Path(rest).expanduser())
    path = Path(text).expanduser()
    if text and path.is_dir():
        return _folder(path, options)
    if path.suffix == ".npz":
        return _npz(path)
    raise InputError(f"data {text!r} is unknown or missing", ACCEPTED)


def fitted(images: np.ndarray, source: str, size: int | None, channels: int | None) -> np.ndarray:
    """Return (n, c, h, w) images with the requested size and channels; bytes are converted like image files."""
    _, depth, height, width = images.shape
    shape = (channels or depth, size or height, size or width)
    if images.shape[1:] == shape:
        return images
    if images.dtype != np.uint8:
        raise InputError(
            f"{source}: float images of shape {images.shape[1:]}", f"{shape} as requested, or uint8 images"
        )
    image_module = require("PIL.Image", package="sextet-common", extra="images")
    result = np.empty((len(images), *shape), np.uint8)
    for number, image in enumerate(images):
        picture = image_module.fromarray(image.transpose(1, 2, 0) if depth == 3 else image[0])
        result[number] = datasets.from_pil(picture, source, size, shape[0])
    return result


def _split(labels: np.ndarray, classes: Sequence[str] | None, source: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Return the rows of the training and the test part, a fixed fifth of every class, and a note that says so."""
    held_out = []
    for label in np.unique(labels).tolist():
        name = classes[label] if classes and 0 <= label < len(classes) else str(label)
        rows = np.flatnonzero(labels == label)
        if len(rows) == 1:
            raise InputError(f"{source}: class {name!r} has 1 image", "at least 2: one is held out for the test set")
        count = max(1, round(TEST_SHARE * len(rows)))
        held_out.append(rows[generator(0, "test split", name).permutation(len(rows))[:count]])
    test = np.sort(np.concatenate(held_out)) if held_out else np.empty(0, np.int64)
    train = np.setdiff1d(np.arange(len(labels)), test)
    note = f"{source} has no test images: {len(test)} of {len(labels)} images, a fifth of every class, are held out"
    return train, test, note


def _objects(source: Any, options: Options) -> Parts:
    first, second, notes = datasets.halves_of(source)
    name = "the given arrays" if isinstance(first, tuple) else f"the given {type(first).__name__}"
    decoding = (options.size, options.channels)
    train, classes = datasets.read(first, name, *decoding)
    if second is not None:
        test, names = datasets.read(second, f"{name}, test", *decoding, classes)
        if classes != names:
            raise InputError(f"{name}: training and test classes differ: {classes} and {names}", "the same classes")
        return Parts(train, test, classes, name, notes)
    images, labels = train[0], as_labels(train[1], name)
    if len(images) != len(labels):
        raise InputError(f"{name}: {len(images)} images and {len(labels)} labels", "as many of each")
    rows, held_out, note = _split(labels, classes, name)
    parts = [(take(images, part), labels[part]) for part in (rows, held_out)]
    return Parts(parts[0], parts[1], classes, name, (*notes, note))


def _digits() -> Parts:
    library = require("sklearn.datasets", package="sextet-common", extra="digits")
    selection = require("sklearn.model_selection", package="sextet-common", extra="digits")
    values, labels = library.load_digits(return_X_y=True)
    images = (values / 16).astype(np.float32).reshape(-1, 8, 8)
    train, test = selection.train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    return Parts((images[train], labels[train]), (images[test], labels[test]), tuple("0123456789"), "digits")


def _torchvision(kind: str, path: Path, download: bool) -> Parts:
    library = require("torchvision.datasets", package="sextet-common", extra="torch")
    constructor = getattr(library, _TORCHVISION[kind])
    halves = []
    names: tuple[str, ...] | None = None
    for name in ("train", "test"):
        part = {"split": name} if kind == "svhn" else {"train": name == "train"}
        with reading(f"{kind}:{path}", "the data on disk, or --download", RuntimeError, LookupError, TypeError):
            dataset = constructor(str(path), download=download, **part)
        labels = dataset.labels if kind == "svhn" else dataset.targets
        halves.append((np.asarray(dataset.data), np.asarray(labels).astype(np.int64)))
        names = tuple(map(str, getattr(dataset, "classes", ()))) or None
    return Parts(halves[0], halves[1], names, f"{kind}:{path}", owned=True)


def _folder(path: Path, options: Options) -> Parts:
    source, listing = f"folder:{path}", image_folders.scan(path)
    train, test, notes = listing.train, listing.test, listing.notes
    labels = (listing.train_labels, listing.test_labels)
    if not test:
        rows, held_out, note = _split(labels[0], listing.classes, source)
        train, test = tuple(train[k] for k in rows), tuple(train[k] for k in held_out)
        labels, notes = (labels[0][rows], labels[0][held_out]), (*notes, note)
    paths, numbers = (*train, *test), np.concatenate(labels)
    decoding: dict[str, Any] = {
        "size": options.size,
        "channels": options.channels,
        "on_bad_image": options.on_bad_image,
    }

    def decode(create: Callable[[tuple[int, ...]], np.ndarray]) -> Parts:
        read = image_files.read_images(paths, workers=options.workers, create=create, **decoding)
        n = int(np.searchsorted(read.rows, len(train)))
        kept = numbers[read.rows]
        halves = (read.images[:n], kept[:n]), (read.images[n:], kept[n:])
        return Parts(*halves, listing.classes, source, read.notes)

    if options.cache is None:
        parts = decode(lambda shape: np.empty(shape, np.uint8))
    else:
        settings = {**decoding, "classes": listing.classes, "train": len(train)}
        parts = cache.load(options.cache.expanduser(), cache.key(settings, paths, path, numbers), decode)
    return replace(parts, source=source, notes=(*notes, *parts.notes))


def _read_npz(path: Path, names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    arrays = npy.read_npz(path, names, ("classes",))
    with reading(path, "classes of shape (n,)"):
        classes = tuple(map(str, arrays["classes"])) if "classes" in arrays else None
    return arrays, classes


def _npz(path: Path) -> Parts:
    arrays, classes = _read_npz(path, ("train_images", "train_labels", "test_images", "test_labels"))
    halves = [(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test")]
    return Parts(halves[0], halves[1], classes, f"npz:{path}", owned=True)


def _npz_jpeg(prefix: Path, options: Options) -> Parts:
    halves = []
    classes: tuple[str, ...] | None = None
    for part in ("train", "test"):
        path = Path(f"{os.fspath(prefix)}-{part}.npz")
        arrays, classes = _read_npz(path, ("jpeg", "offsets", "labels"))
        content, offsets = arrays["jpeg"].data, arrays["offsets"]
        if (
            offsets.ndim != 1
            or offsets.dtype.kind not in "iu"
            or len(offsets) < 2
            or np.any(offsets[1:] <= offsets[:-1])
            or offsets[0] != 0
            or offsets[-1] != len(content)
        ):
            raise InputError(f"{path}: offsets do not cut jpeg into files", "n + 1 rising offsets from 0 to its length")
        images = np.empty(0, np.uint8)
        for number, (start, stop) in enumerate(itertools.pairwise(offsets)):
            image = image_files.decode(bytes(content[start:stop]), f"{path}, image {number}", options.size)
            if not number:
                images = np.empty((len(offsets) - 1, *image.shape), np.uint8)
            if image.shape != images.shape[1:]:
                raise InputError(f"{path} has images of several sizes", "images of one size, or --size N")
            images[number] = image
        halves.append((images, arrays["labels"]))
    return Parts(halves[0], halves[1], classes, f"npz-jpeg:{prefix}", owned=True)
