"""Image files on disk: decoding, class folders and sets of images of one size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from sextet_common import files
from sextet_common.errors import InputError, reading, require

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
# The formats of these suffixes; some of Pillow's other formats start programs.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")


def decode(content: bytes, name: str, size: int | None = None) -> Integer[np.ndarray, "height width 3"]:
    """Decode an image file as RGB, rotated according to its EXIF data.

    ``content`` is PNG, JPEG, BMP, WebP, TIFF or PPM; ``name`` is for error messages. With ``size`` the image is scaled
    and cropped to a square of this many pixels a side. The result is uint8. Incomplete files are refused, and those
    that claim far more pixels than their bytes can hold.

    Examples
    --------
    >>> white = b"P5 2 1 255 " + bytes([255, 255])
    >>> decode(white, "white.ppm").shape
    (1, 2, 3)
    """
    image_module = require("PIL.Image", package="sextet-common", extra="images")
    operations = require("PIL.ImageOps", package="sextet-common", extra="images")
    with reading(name, "a whole image file"), image_module.open(io.BytesIO(content), formats=_FORMATS) as image:
        files.check_growth(name, 3 * image.width * image.height, len(content))
        pixels = operations.exif_transpose(image).convert("RGB")
        return np.asarray(operations.fit(pixels, (size, size)) if size else pixels)


def class_folders(path: Path) -> list[Path]:
    """Return the folders of a folder, one per class, in the order of their names."""
    if not path.is_dir():
        raise InputError(f"{path} is not a folder", "a folder with one folder of images per class")
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise InputError(f"{path} has no class folders", "one folder of images per class")
    return folders


def images_of(folder: Path) -> list[Path]:
    """Return the image files of a folder in the order of their names."""
    images = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise InputError(f"{folder} has no image", "at least one of " + ", ".join(IMAGE_SUFFIXES))
    return images


def read_images(paths: list[Path], size: int | None, first: tuple[Path, tuple[int, ...]] | None) -> np.ndarray:
    """Read images of one size; ``first`` is the file and shape that all are compared with."""
    pixels = []
    for path in paths:
        image = decode(path.read_bytes(), str(path), size)
        first = first or (path, image.shape)
        if image.shape != first[1]:
            sizes = [f"{shape[1]}x{shape[0]}" for shape in (image.shape, first[1])]
            raise InputError(f"{path} is {sizes[0]}, {first[0]} is {sizes[1]}", "images of one size, or --size N")
        pixels.append(image)
    return np.stack(pixels)
