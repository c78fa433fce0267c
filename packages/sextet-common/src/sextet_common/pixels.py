"""Arrays of images, uint8 or float32, in memory or memory-mapped: checks, batches and statistics in blocks."""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Integer

from sextet_common.errors import InputError

_BLOCK = 1 << 20  # values processed at once
ACCEPTED = "uint8 in 0..255 or floats in [0, 1]"

Half: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Images and labels."""


@dataclass(frozen=True)
class Parts:
    """What a source holds, before the checks; ``owned`` arrays may be changed in place."""

    train: Half
    test: Half
    classes: tuple[str, ...] | None
    source: str
    notes: tuple[str, ...] = ()
    owned: bool = False
    statistics: Half | None = None
    fingerprint: str = ""


def to_float(images: np.ndarray) -> Float[np.ndarray, ...]:
    """Convert uint8 images to float32 in [0, 1]; return float32 images unchanged."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return np.asarray(images, dtype=np.float32)


def take(images: np.ndarray, rows: Any) -> np.ndarray:
    """Copy the rows of an index array, a mask or a slice, keeping their type; pages of a memory map are released."""
    batch = np.array(images[rows], order="C", subok=False)
    release(images)
    return batch


def release(images: np.ndarray) -> None:
    """Drop the pages of a shared memory map from this process's memory; they are read again when needed."""
    mapping = getattr(images, "_mmap", None)
    if mapping is not None and getattr(images, "mode", "c") != "c" and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def blocks(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield consecutive rows in blocks of about a million values; those of a memory map are released after use."""
    rows = max(1, _BLOCK // max(1, math.prod(images.shape[1:])))
    for start in range(0, len(images), rows):
        yield images[start : start + rows]
        release(images)


def statistics(images: np.ndarray) -> tuple[Float[np.ndarray, " channels"], Float[np.ndarray, " channels"]]:
    """Return mean and standard deviation per channel of (n, c, h, w) as float32; a constant channel has std 1."""
    count, mean, squares = 0, np.zeros(images.shape[1]), np.zeros(images.shape[1])
    for block in map(to_float, blocks(images)):  # merges the moments of blocks (Chan et al., 1979)
        change = block.mean(axis=(0, 2, 3), dtype=np.float64) - mean
        total = count + len(block)
        squares += len(block) * (block.var(axis=(0, 2, 3), dtype=np.float64) + change**2 * (count / total))
        mean += change * (len(block) / total)
        count = total
    std = np.sqrt(squares / count)
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


def fingerprint(*arrays: np.ndarray) -> str:
    """Return :func:`sextet_common.runs.fingerprint` of arrays, reading memory maps in blocks."""
    content = hashlib.sha256()
    for array in arrays:
        for block in blocks(array):
            content.update(np.ascontiguousarray(block).data)
    return content.hexdigest()


def as_nchw(images: np.ndarray, source: str, *, owned: bool = False) -> np.ndarray:
    """Return images as (n, c, h, w), uint8 or float32 in [0, 1], without a copy where none is needed.

    The channels of (n, h, w, c) are recognised by being 1 or 3, by square images, or as the smaller number. ``owned``
    arrays may be rearranged in place.
    """
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and _is_channels_last(*images.shape[1:]):
        in_place = owned and images.flags.c_contiguous and images.flags.writeable
        images = _channels_first(images) if in_place else images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise InputError(f"{source}: images of shape {images.shape}", "(n, h, w), (n, c, h, w) or (n, h, w, c)")
    if images.dtype == np.uint8:
        return images if images.flags.c_contiguous else np.ascontiguousarray(images)  # a memory map stays one
    if images.dtype.kind != "f":
        raise InputError(f"{source}: images of {images.dtype}", ACCEPTED)
    done = 0
    for block in blocks(images):
        wrong = ~((block >= 0) & (block <= 1)).all(axis=(1, 2, 3))
        if wrong.any():
            raise InputError(f"{source}: image {done + wrong.argmax()} has values outside [0, 1]", ACCEPTED)
        done += len(block)
    return images.astype(np.float32, order="C", copy=False)


def _is_channels_last(first: int, middle: int, last: int) -> bool:
    """Whether an image's last axis holds the channels, and not the first; of undecided shapes the first does."""
    usual = first in (1, 3), last in (1, 3)
    if any(usual):
        return not usual[0]
    square = first == middle, middle == last  # the sides of the image, if the channels are last, or first
    return square[0] if square[0] != square[1] else last < first


def _channels_first(images: np.ndarray) -> np.ndarray:
    """Rearrange contiguous (n, h, w, c) as (n, c, h, w) in the same memory."""
    count, height, width, channels = images.shape
    result = images.reshape(count, channels, height, width)
    for block, target in zip(blocks(images), blocks(result), strict=True):
        target[...] = block.transpose(0, 3, 1, 2).copy()
    return result


def as_labels(labels: np.ndarray, source: str) -> Integer[np.ndarray, " n"]:
    """Return labels as a new int64 array of shape (n,)."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"{source}: labels of {labels.dtype}, shape {labels.shape}", "whole numbers of shape (n,)")
    return np.array(labels, dtype=np.int64)
