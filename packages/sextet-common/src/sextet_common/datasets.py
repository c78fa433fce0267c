"""Arrays, tensors and map-style datasets (torch, torchvision, Hugging Face) as arrays of one type."""

from __future__ import annotations

import io
import itertools
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sextet_common import image_files, pixels, progress
from sextet_common.errors import InputError, reading, require

TEST_NAMES = ("test", "val", "valid", "validation")
_ACCEPTED = (
    "a map-style dataset of (image, label) with a length, arrays (images, labels), or both for training and test"
)
Labelled = tuple[pixels.Half, tuple[str, ...] | None]  # with class names, where they are known


def halves_of(source: Any) -> tuple[Any, Any | None, tuple[str, ...]]:
    """Return the training part of a source, the test part or None, and notes about parts that are not used."""
    if isinstance(source, Mapping):
        names = {str(name).lower(): name for name in source}
        if "train" not in names:
            given = f"the parts of the data are {', '.join(map(str, source))}"
            raise InputError(given, "train, and " + " or ".join(TEST_NAMES))
        used = [names[name] for name in ("train", *TEST_NAMES) if name in names][:2]
        unused = ", ".join(repr(name) for name in source if name not in used)
        test = source[used[1]] if len(used) == 2 else None
        return source[used[0]], test, (f"not used: {unused}",) if unused else ()
    if isinstance(source, tuple) and len(source) == 4:
        return source[:2], source[2:], ()
    if isinstance(source, tuple) and len(source) == 2 and not _is_array(source[0]):
        return source[0], source[1], ()
    return source, None, ()


def read(
    part: Any, name: str, size: int | None, channels: int | None, classes: tuple[str, ...] | None = None
) -> Labelled:
    """Return images, labels and class names of arrays or a dataset; text labels are numbers of ``classes``."""
    if isinstance(part, tuple) and len(part) == 2:
        return (array_of(part[0], name), array_of(part[1], name)), classes
    if _is_array(part) or not (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
        raise InputError(f"{name} is of type {type(part).__name__}", _ACCEPTED)
    if not len(part):
        raise InputError(f"{name} has no image", "at least one per class")
    if hasattr(part, "features") and hasattr(part, "column_names"):
        image, label = _columns(part, name)
        classes = tuple(getattr(part.features[label], "names", None) or ()) or classes
        items = ((row[image], row[label]) for row in part.select_columns([image, label]))
    else:
        classes = _class_names(part) or classes
        items = (part[row] for row in range(len(part)))
    images, labels = _collect(items, len(part), name, size, channels)
    if any(isinstance(label, str) for label in labels):
        classes = classes or tuple(sorted(set(map(str, labels))))
        numbers = {label: number for number, label in enumerate(classes)}
        labels = [numbers.get(str(label), -1) for label in labels]
    return (images, np.array(labels, dtype=np.int64)), classes


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
    return image_files.decode(file.getvalue(), name, size, channels).transpose(2, 0, 1)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    """Return the class names of a torchvision dataset, also inside Subset and ConcatDataset."""
    if hasattr(dataset, "classes"):
        return tuple(map(str, dataset.classes))
    inner = getattr(dataset, "dataset", None) or next(iter(getattr(dataset, "datasets", ())), None)
    return None if inner is None else _class_names(inner)


def _columns(part: Any, name: str) -> tuple[str, str]:
    """Return the columns of images and of labels of a Hugging Face dataset."""
    kinds = {column: type(feature).__name__ for column, feature in part.features.items()}
    images = [column for column, kind in kinds.items() if kind == "Image"]
    labels = ["label"] if "label" in kinds else [column for column, kind in kinds.items() if kind == "ClassLabel"]
    if len(images) != 1 or len(labels) != 1:
        listed = ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
        given = f"{name} has {len(images)} image and {len(labels)} label columns among {listed}"
        raise InputError(given, "one Image and one ClassLabel; see select_columns and rename_column of datasets")
    return images[0], labels[0]


def _collect(
    items: Iterable[Any], count: int, name: str, size: int | None, channels: int | None
) -> tuple[np.ndarray, list[int | str]]:
    """Collect the images of (image, label) items in one array, and their labels."""
    images, labels = np.empty(0), list[int | str]()
    for number, item in enumerate(progress.track(itertools.islice(items, count), "read", count)):
        if not (isinstance(item, tuple | list) and len(item) == 2):
            raise InputError(f"item {number} of {name} is a {type(item).__name__}", "(image, label)")
        image = _image(item[0], f"image {number} of {name}", size, channels)
        if not number:
            images = np.empty((count, *image.shape), image.dtype)
            channels = channels or (3 if len(image) == 3 else None)
        if image.shape != images.shape[1:] or image.dtype != images.dtype:
            given = f"image {number} of {name} is {image.dtype} of shape {image.shape}, the first {images.shape[1:]}"
            raise InputError(given, "images of one type and shape, or size=N and channels=1 or 3")
        images[number] = image
        try:
            labels.append(item[1] if isinstance(item[1], str) else operator.index(item[1]))
        except TypeError:
            raise InputError(f"a label of {name} is {item[1]!r}", "a class number or a class name") from None
    return images, labels


def _image(image: Any, name: str, size: int | None, channels: int | None) -> np.ndarray:
    """Return an encoded file, a PIL image, or an array in any usual layout as (c, h, w)."""
    if isinstance(image, Mapping) and {"bytes", "path"} <= set(image):  # an undecoded column of Hugging Face
        with reading(name, "an image file"):
            image = image["bytes"] or Path(image["path"]).read_bytes()
    if isinstance(image, bytes | memoryview):
        return image_files.decode(bytes(image), name, size, channels).transpose(2, 0, 1)
    if hasattr(image, "getbands"):
        is_gray = image.mode.partition(";")[0] in ("1", "L", "LA", "I", "F")
        return from_pil(image, name, size, channels or (1 if is_gray else 3))
    array: np.ndarray = pixels.as_nchw(array_of(image, name)[None], name)[0]
    return array
