"""Decoded images on disk, addressed by the content of their files and memory-mapped when loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from sextet_common import checkpoint, files, image_files, npy, pixels, progress
from sextet_common.errors import InputError, reading

_FORMAT = 2  # of an entry and of decoded pixels; part of its key
IMAGES, REST = "images.npy", "rest.safetensors"
_Create = Callable[[tuple[int, ...]], np.ndarray]


def decoded(
    paths: Sequence[str],
    labels: np.ndarray,
    n_train: int,
    *,
    root: Path,
    folder: Path | None,
    classes: tuple[str, ...] = (),
    workers: int | None = None,
    **decoding: Any,
) -> pixels.Parts:
    """Decode image files, the first ``n_train`` of them for training, or take them from the cache in a folder.

    ``decoding`` are the options of :func:`image_files.read_images` that decide about the pixels.
    """

    def build(create: _Create) -> pixels.Parts:
        read = image_files.read_images(paths, workers=workers, create=create, **decoding)
        kept, n = labels[read.rows], int(np.searchsorted(read.rows, n_train))
        return pixels.Parts((read.images[:n], kept[:n]), (read.images[n:], kept[n:]), classes, "", read.notes)

    if folder is None:
        return build(lambda shape: np.empty(shape, np.uint8))
    return load(
        folder.expanduser(), key({**decoding, "classes": classes, "train": n_train}, paths, root, labels), build
    )


def key(settings: Mapping[str, Any], paths: Iterable[str], root: Path, labels: np.ndarray) -> str:
    """Return the SHA-256 of settings and labels, and of every file's name relative to ``root`` and bytes."""
    listed = list(paths)
    content = hashlib.sha256(json.dumps([_FORMAT, settings], sort_keys=True).encode())
    content.update(np.ascontiguousarray(labels, dtype="<i8").data)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for path, digest in zip(listed, progress.track(threads.map(_digest, listed), "hash", len(listed)), strict=True):
            content.update(json.dumps([os.path.relpath(path, root), digest]).encode())
    return content.hexdigest()


def load(folder: Path, name: str, build: Callable[[_Create], pixels.Parts]) -> pixels.Parts:
    """Return the entry of this name, memory-mapped; where it is absent or damaged, build and store it first.

    ``build`` decodes into one array from the function that it is given, training images first. Of several processes one
    builds and the others wait. A killed builder leaves temporary files, which the next one deletes.
    """
    entry, lock, damaged = folder / name, folder / f".{name}.lock", False
    parts = _read(entry)
    if parts is None:
        with files.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(lock):
                try:
                    parts = _read(entry)  # of another process
                    if parts is None:
                        damaged = entry.exists()
                        with files.replacing_folder(entry) as temporary:
                            _write(temporary, build)
                        parts = _read(entry)
                finally:
                    lock.unlink(missing_ok=True)  # a process that waits for it finds the entry
    if parts is None:
        raise InputError(f"{entry} was changed while it was read", "a cache that only these programs write")
    if damaged:
        note = f"the cache entry {entry} was damaged and has been rebuilt"
        return dataclasses.replace(parts, notes=(*parts.notes, note))
    return parts


def _digest(path: str) -> str:
    with reading(path, "an image file"), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(folder: Path, build: Callable[[_Create], pixels.Parts]) -> None:
    def create(shape: tuple[int, ...]) -> np.ndarray:
        array = np.lib.format.open_memmap(folder / IMAGES, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and a signal while writing to the map
            with open(folder / IMAGES, "rb+") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        return array

    parts = build(create)
    with open(folder / IMAGES, "rb+") as file:
        os.fsync(file.fileno())
    mean, std = pixels.statistics(parts.train[0])
    arrays = {"train_labels": parts.train[1], "test_labels": parts.test[1], "mean": mean, "std": std}
    fingerprint = pixels.fingerprint(*parts.train, *parts.test)
    meta = {"classes": parts.classes, "notes": parts.notes, "fingerprint": fingerprint}
    checkpoint.save(folder / REST, arrays, meta)


def _read(entry: Path) -> pixels.Parts | None:
    """Map an entry into memory without reading its images; return None if it is absent or damaged."""
    try:
        images, rest = npy.read_npy(entry / IMAGES, mapped=True), checkpoint.load(entry / REST)
        train, test, mean, std = (rest.arrays[name] for name in ("train_labels", "test_labels", "mean", "std"))
        classes, notes, fingerprint = (rest.meta[name] for name in ("classes", "notes", "fingerprint"))
    except (InputError, KeyError):
        return None
    total = len(train) + len(test)  # an entry without skipped files has as many images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:2] != mean.shape or len(images) < total:
        return None
    halves = (images[: len(train)], train), (images[len(train) : total], test)
    return pixels.Parts(*halves, tuple(classes), "", tuple(notes), statistics=(mean, std), fingerprint=fingerprint)
