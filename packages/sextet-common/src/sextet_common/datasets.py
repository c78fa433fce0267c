"""Arrays, tensors and map-style datasets (torch, torchvision, Hugging Face) as arrays of one type."""

from __future__ import annotations

import io
import itertools
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sextet_common import image_files, progress
from sextet_common.errors import InputError, reading, require
from sextet_common.pixels import Half

TEST_NAMES = ("test", "val", "valid", "validation")
_ACCEPTED = "a map-style dataset of (image, label), arrays (images, labels), or both for training and test"


def halves_of(source: Any) -> tuple[Any, Any | None, tuple[str, ...]]:
    """Return the training part of a source, the test part or None, and notes about parts that are not used."""
    if isinstance(source, Mapping):
        names = {str(name).lower(): name for name in source}
        test = next((name for name in TEST_NAMES if name in names), None)
        if "train" not in names:
            raise InputError(
                f"the parts of the data are {', '.join(map(str, source))}", "train, and " + " or ".join(TEST_NAMES)
            )
        unused = [repr(name) for key, name in names.items() if key not in ("train", test)]
        notes = (f"not used: {', '.join(unused)}",) if unused else ()
        return source[names["train"]], source[names[test]] if test else None, notes
    if isinstance(source, tuple):
        if len(source) == 4:
            return source[:2], source[2:], ()
        if len(source) == 2 and not (_is_array(source[0]) and not isinstance(source[1], tuple)):
            return source[0], source[1], ()
    return source, None, ()


def read(
    part: Any, name: str, size: int | None, channels: int | None, classes: tuple[str, ...] | None = None
) -> tuple[Half, tuple[str, ...] | None]:
    """Return images, labels and class names of arrays or a dataset; text labels are numbers of ``classes``."""
    if isinstance(part, tuple) and len(part) == 2:
        return (array_of(part[0], name), array_of(part[1], name)), classes
    if type(part).__name__ == "TensorDataset" and len(part.tensors) == 2:
        return (array_of(part.tensors[0], name), array_of(part.tensors[1], name)), classes
    if hasattr(part, "features") and hasattr(part, "column_names"):
        return _hugging_face(part, name, size, channels, classes)
    if _is_array(part) or not hasattr(part, "__getitem__"):
        raise InputError(f"{name} is of type {type(part).__name__}", _ACCEPTED)
    _check_length(part, name)
    items = (part[index] for index in range(len(part)))
    return _collect(items, len(part), _names_of(part) or classes, name, size, channels)


def array_of(values: Any, name: str) -> np.ndarray:
    """Return an array or a tensor as an array, without a copy where possible."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array: np.ndarray = np.asanyarray(values)  # a memory map stays one
    if array.dtype == object:
        raise InputError(f"{name} holds {type(values).__name__}", _ACCEPTED)
    return array


def from_pil(image: Any, name: str, size: int | None, channels: int | None) -> np.ndarray:
    """Return a Pillow image as uint8 (c, h, w), by the rules of :func:`sextet_common.image_files.decode`."""
    upright = require("PIL.ImageOps", package="sextet-common", extra="images").exif_transpose(image)
    file = io.BytesIO()
    with reading(name, "an image that can be converted to RGB"):
        upright.save(file, "PPM" if upright.mode in ("1", "L", "RGB") else "TIFF")
    pixels: np.ndarray = image_files.decode(file.getvalue(), name, size, channels)
    return pixels.transpose(2, 0, 1)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _check_length(part: Any, name: str) -> None:
    try:
        count = len(part)
    except TypeError:
        accepted = "a map-style dataset with a length; collect the items of a streaming one first"
        raise InputError(f"{name} ({type(part).__name__}) is an iterable without a length", accepted) from None
    if not count:
        raise InputError(f"{name} has no image", "at least one per class")


def _names_of(dataset: Any) -> tuple[str, ...] | None:
    """Return the class names of a torchvision dataset, also inside Subset and ConcatDataset."""
    while not hasattr(dataset, "classes"):
        inner = getattr(dataset, "dataset", None) or next(iter(getattr(dataset, "datasets", ())), None)
        if inner is None:
            return None
        dataset = inner
    return tuple(map(str, dataset.classes))


def _hugging_face(
    part: Any, name: str, size: int | None, channels: int | None, classes: tuple[str, ...] | None
) -> tuple[Half, tuple[str, ...] | None]:
    _check_length(part, name)
    kinds = {column: type(feature).__name__ for column, feature in part.features.items()}
    columns = ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
    images = [column for column, kind in kinds.items() if kind == "Image"]
    labels = ["label"] if "label" in kinds else [column for column, kind in kinds.items() if kind == "ClassLabel"]
    for kind, found, wanted in (("image", images, "Image"), ("label", labels, "ClassLabel")):
        if len(found) != 1:
            given = f"{name} has {len(found)} {kind} columns among {columns}"
            raise InputError(given, f"one column of type {wanted}; see select_columns and rename_column of datasets")
    image, label = images[0], labels[0]
    classes = tuple(getattr(part.features[label], "names", None) or ()) or classes
    items = ((row[image], row[label]) for row in part.select_columns([image, label]))
    return _collect(items, len(part), classes, name, size, channels)


def _collect(
    items: Iterable[Any], count: int, classes: tuple[str, ...] | None, name: str, size: int | None, channels: int | None
) -> tuple[Half, tuple[str, ...] | None]:
    """Collect (image, label) items in one array."""
    images = np.empty(0)
    labels: list[Any] = []
    for number, item in enumerate(progress.track(itertools.islice(items, count), "read", count)):
        if not (isinstance(item, tuple | list) and len(item) == 2):
            raise InputError(f"item {number} of {name} is a {type(item).__name__}", "(image, label)")
        image = _image(item[0], f"image {number} of {name}", size, channels)
        if not number:
            images = np.empty((count, *image.shape), np.uint8 if image.dtype == np.uint8 else np.float32)
            channels = channels or (3 if len(image) == 3 else None)
        if image.shape != images.shape[1:] or (image.dtype == np.uint8) != (images.dtype == np.uint8):
            given = f"image {number} of {name} is {image.dtype} of shape {image.shape}, the first {images.shape[1:]}"
            raise InputError(given, "images of one type and shape, or size=N and channels=1 or 3")
        images[number] = image
        labels.append(item[1])
    if all(isinstance(label, str) for label in labels):
        classes = classes or tuple(sorted(set(labels)))
        numbers = {label: number for number, label in enumerate(classes)}
        labels = [numbers.get(label, -1) for label in labels]
    try:
        return (images, np.array([operator.index(label) for label in labels], dtype=np.int64)), classes
    except TypeError:
        wrong = next(label for label in labels if not hasattr(label, "__index__"))
        raise InputError(f"a label of {name} is {wrong!r}", "a class number or a class name") from None


def _image(image: Any, name: str, size: int | None, channels: int | None) -> np.ndarray:
    """Return a PIL image, a tensor (c, h, w), an array (h, w, c) or (h, w), or an encoded file as (c, h, w)."""
    if isinstance(image, Mapping) and {"bytes", "path"} & set(image):  # an undecoded column of Hugging Face
        content = image.get("bytes") or Path(str(image.get("path"))).read_bytes()
        return image_files.decode(content, name, size, channels).transpose(2, 0, 1)
    if hasattr(image, "getbands"):
        gray = image.mode.partition(";")[0] in ("1", "L", "LA", "I", "F")
        return from_pil(image, name, size, channels or (1 if gray else 3))
    array = array_of(image, name)
    if array.ndim == 3 and array.shape[0] not in (1, 3) and array.shape[2] in (1, 3):
        array = array.transpose(2, 0, 1)
    elif array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or (array.dtype.kind not in "f" and array.dtype != np.uint8):
        raise InputError(
            f"{name} is {array.dtype} of shape {array.shape}", "uint8 or floats, (channels, height, width)"
        )
    return array
