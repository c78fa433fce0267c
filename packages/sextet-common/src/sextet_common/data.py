"""Image sets from many sources: ``load("digits")``, ``load("folder:/photos")``, ``load("cifar10:/data")``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer

from sextet_common import checks, image_files, npy
from sextet_common.errors import InputError, reading, require
from sextet_common.image_files import IMAGE_SUFFIXES as IMAGE_SUFFIXES, decode as decode
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
ACCEPTED = "digits, folder:PATH, npz:PATH, npz-jpeg:PREFIX, " + ", ".join(f"{name}:PATH" for name in _TORCHVISION)


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, split into training and test; the arrays are read-only.

    Parameters
    ----------
    train_images, test_images
        Float32 in [0, 1], shape (images, channels, height, width).
    train_labels, test_labels
        Class numbers, int64, shape (images,).
    classes
        Class names by class number.
    mean, std
        Per channel over the training images, float32, shape (channels,). A constant channel has std 1.
    source
        The specification that was passed to :func:`load`.
    """

    train_images: Float[np.ndarray, "train channels height width"]
    train_labels: Integer[np.ndarray, " train"]
    test_images: Float[np.ndarray, "test channels height width"]
    test_labels: Integer[np.ndarray, " test"]
    classes: tuple[str, ...]
    mean: Float[np.ndarray, " channels"]
    std: Float[np.ndarray, " channels"]
    source: str = ""

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
    ) -> ImageSet:
        """Build and check a set from plain arrays in any usual layout.

        Parameters
        ----------
        train_images, test_images
            uint8 in 0..255 or floats in [0, 1]; (n, h, w), (n, c, h, w) or (n, h, w, c) with 1 or 3 channels.
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
        images = [_as_nchw(array, f"{source}, {part}") for part, array in _parts(train_images, test_images)]
        labels = [_as_labels(array, f"{source}, {part}") for part, array in _parts(train_labels, test_labels)]
        for part, x, y in zip(("training", "test"), images, labels, strict=True):
            if len(x) != len(y):
                raise InputError(f"{source}, {part}: {len(x)} images and {len(y)} labels", "as many of each")
        if not len(labels[0]):
            raise InputError(f"{source} has no training image", "at least one image per class")
        if images[0].shape[1:] != images[1].shape[1:]:
            raise InputError(
                f"{source}: training images are {images[0].shape[1:]}, test images {images[1].shape[1:]}",
                "one (channels, height, width) for all",
            )
        if classes is None and labels[0].max() >= len(
            labels[0]
        ):  # a class is absent; a huge label must not create as many names
            absent = min(set(range(len(labels[0]))) - set(labels[0].tolist()))
            raise InputError(f"{source}: class '{absent}' has no training image", "at least one per class")
        names = classes or tuple(str(k) for k in range(int(labels[0].max(initial=0)) + 1))
        for part, y in zip(("training", "test"), labels, strict=True):
            wrong = np.flatnonzero((y < 0) | (y >= len(names)))
            if wrong.size:
                raise InputError(
                    f"{source}, {part}: label {y[wrong[0]]} of image {wrong[0]} is out of range",
                    f"0 to {len(names) - 1}",
                )
        empty = np.flatnonzero(np.bincount(labels[0], minlength=len(names)) == 0)
        if empty.size:
            raise InputError(f"{source}: class {names[empty[0]]!r} has no training image", "at least one per class")
        mean = images[0].mean(axis=(0, 2, 3), dtype=np.float64)
        std = images[0].std(axis=(0, 2, 3), dtype=np.float64)
        arrays = (images[0], labels[0], images[1], labels[1])
        statistics = (mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32))
        for array in (*arrays, *statistics):
            array.setflags(write=False)
        return cls(*arrays, tuple(names), *statistics, source)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)


def load(spec: str, *, size: int | None = None, download: bool = False) -> ImageSet:
    """Load labelled images.

    Parameters
    ----------
    spec
        One of:

        - ``digits``: the 1797 handwritten digits that ship with scikit-learn, 1437 of them for training
        - ``folder:PATH`` or a path: ``PATH/train/CLASS/*.png`` and ``PATH/test/CLASS/*.png``, or ``PATH/CLASS/*.png``,
          of which a fifth of every class becomes the test set
        - ``npz:PATH`` with train_images, train_labels, test_images, test_labels and optionally classes
        - ``npz-jpeg:PREFIX``: ``PREFIX-train.npz`` and ``PREFIX-test.npz`` with JPEG files in one array (``jpeg``,
          ``offsets``, ``labels``, optionally ``classes``)
        - ``mnist:PATH``, ``cifar10:PATH`` and so on: a torchvision data set on disk
    size
        Resize and crop every image of a folder to this many pixels a side.
    download
        Let torchvision download what is missing.

    Examples
    --------
    >>> digits = load("digits")
    >>> digits.train_images.shape, digits.test_images.shape
    ((1437, 1, 8, 8), (360, 1, 8, 8))
    """
    kind, _, rest = spec.partition(":")
    if kind == "digits" and not rest:
        return _digits()
    if kind in _TORCHVISION and rest:
        return _torchvision(kind, Path(rest).expanduser(), download)
    readers: dict[str, Callable[[Path], ImageSet]] = {
        "folder": lambda path: _folder(path, size),
        "npz": _npz,
        "npz-jpeg": _npz_jpeg,
    }
    if kind in readers and rest:
        return readers[kind](Path(rest).expanduser())
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        return _folder(path, size)
    if path.suffix == ".npz":
        return _npz(path)
    raise InputError(f"data {spec!r} is unknown or missing", ACCEPTED)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]], classes: tuple[str, ...] | None, source: str) -> ImageSet:
    (train_images, train_labels), (test_images, test_labels) = parts
    return ImageSet.of(train_images, train_labels, test_images, test_labels, classes, source=source)


def _parts(train: np.ndarray, test: np.ndarray) -> tuple[tuple[str, np.ndarray], ...]:
    return ("training", train), ("test", test)


def _as_nchw(images: np.ndarray, source: str) -> np.ndarray:
    """Return images as float32 (n, c, h, w) in [0, 1]."""
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[1:]:
        accepted = "(n, h, w), (n, c, h, w) or (n, h, w, c), c 1 or 3"
        raise InputError(f"{source}: images of shape {images.shape}", accepted)
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images, dtype=np.float32) / np.float32(255)
    if images.dtype.kind != "f":
        raise InputError(f"{source}: images of {images.dtype}", "uint8 in 0..255 or floats in [0, 1]")
    wrong = np.flatnonzero(~((images >= 0) & (images <= 1)).all(axis=(1, 2, 3)))
    if wrong.size:
        raise InputError(f"{source}: image {wrong[0]} has values outside [0, 1]", "uint8 in 0..255 or floats in [0, 1]")
    return np.array(images, dtype=np.float32, order="C")


def _as_labels(labels: np.ndarray, source: str) -> np.ndarray:
    """Return labels as a new int64 array of shape (n,)."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"{source}: labels of {labels.dtype}, shape {labels.shape}", "whole numbers of shape (n,)")
    return np.array(labels, dtype=np.int64)


def _digits() -> ImageSet:
    datasets = require("sklearn.datasets", package="sextet-common", extra="digits")
    selection = require("sklearn.model_selection", package="sextet-common", extra="digits")
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 8, 8)
    train, test = selection.train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    return ImageSet.of(images[train], labels[train], images[test], labels[test], tuple("0123456789"), source="digits")


def _torchvision(kind: str, path: Path, download: bool) -> ImageSet:
    datasets = require("torchvision.datasets", package="sextet-common", extra="torch")
    constructor = getattr(datasets, _TORCHVISION[kind])
    splits = []
    names: tuple[str, ...] | None = None
    for split in ("train", "test"):
        part = {"split": split} if kind == "svhn" else {"train": split == "train"}
        with reading(f"{kind}:{path}", "the data on disk, or --download"):
            dataset = constructor(str(path), download=download, **part)
        labels = dataset.labels if kind == "svhn" else dataset.targets
        splits.append((np.asarray(dataset.data), np.asarray(labels).astype(np.int64)))
        names = tuple(map(str, getattr(dataset, "classes", ()))) or None
    return _joined(splits, names, f"{kind}:{path}")


def _folder(path: Path, size: int | None) -> ImageSet:
    checks.check("size", size, checks.Count | None)
    test_folder = next((path / name for name in ("test", "val") if (path / name).is_dir()), None)
    split = (path / "train").is_dir() and test_folder is not None
    folders = {"train": image_files.class_folders(path / "train" if split else path)}
    classes = tuple(folder.name for folder in folders["train"])
    if split and test_folder is not None:
        folders["test"] = image_files.class_folders(test_folder)
        extra = sorted({f.name for f in folders["test"]} ^ set(classes))
        if extra:
            both = f"{path / 'train'} and {test_folder}"
            raise InputError(f"class {extra[0]!r} is not in both {both}", "the same classes")
    parts: dict[str, tuple[list[Path], list[int]]] = {"train": ([], []), "test": ([], [])}
    for part, class_folders in folders.items():
        for label, folder in enumerate(class_folders):
            images = image_files.images_of(folder)
            test_size = 0 if split else max(1, round(TEST_SHARE * len(images)))
            if not split and len(images) < 2:
                raise InputError(f"{folder} has 1 image", "at least 2: one is held out for the test set")
            held_out = set(generator(0, "test split", folder.name).permutation(len(images))[:test_size].tolist())
            for number, file in enumerate(images):
                paths, labels = parts["test" if number in held_out else part]
                paths.append(file)
                labels.append(label)
    train = image_files.read_images(parts["train"][0], size, None)
    test = image_files.read_images(parts["test"][0], size, (parts["train"][0][0], train.shape[1:]))
    return ImageSet.of(
        train, np.asarray(parts["train"][1]), test, np.asarray(parts["test"][1]), classes, source=f"folder:{path}"
    )


def _read_npz(path: Path, names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    arrays = npy.read_npz(path, names, ("classes",))
    with reading(path, "classes of shape (n,)"):
        classes = tuple(map(str, arrays["classes"])) if "classes" in arrays else None
    return arrays, classes


def _npz(path: Path) -> ImageSet:
    arrays, classes = _read_npz(path, ("train_images", "train_labels", "test_images", "test_labels"))
    splits = [(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test")]
    return _joined(splits, classes, f"npz:{path}")


def _npz_jpeg(prefix: Path) -> ImageSet:
    splits = []
    classes: tuple[str, ...] | None = None
    for part in ("train", "test"):
        path = Path(f"{os.fspath(prefix)}-{part}.npz")
        arrays, classes = _read_npz(path, ("jpeg", "offsets", "labels"))
        content, offsets = arrays["jpeg"].tobytes(), arrays["offsets"]
        if (
            offsets.ndim != 1
            or offsets.dtype.kind not in "iu"
            or len(offsets) < 2
            or np.any(offsets[1:] <= offsets[:-1])
            or offsets[0] != 0
            or offsets[-1] != len(content)
        ):
            raise InputError(f"{path}: offsets do not cut jpeg into files", "n + 1 rising offsets from 0 to its length")
        pixels = [
            decode(content[start:stop], f"{path}, image {number}")
            for number, (start, stop) in enumerate(itertools.pairwise(offsets))
        ]
        shapes = {image.shape for image in pixels}
        if len(shapes) > 1:
            raise InputError(f"{path} has images of {len(shapes)} sizes", "images of one size")
        splits.append((np.stack(pixels), arrays["labels"]))
    return _joined(splits, classes, f"npz-jpeg:{prefix}")
