"""Decoded images on disk, addressed by the content of their files and memory-mapped when loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from sextet_common import files, npy, pixels, progress
from sextet_common.errors import InputError, reading

_FORMAT = 1  # of an entry; part of its key
_META, _IMAGES, _LABELS = "meta.json", "images.npy", "labels.npy"
_Create = Callable[[tuple[int, ...]], np.ndarray]


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
    entry = folder / name
    found = _read(entry)
    if found is not None:
        return found
    lock = folder / f".{name}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            try:
                damaged = entry.exists() and _read(entry) is None
                if damaged or not entry.exists():
                    with files.replacing_folder(entry) as temporary:
                        _write(temporary, build)
            finally:
                lock.unlink(missing_ok=True)  # a process that waits for it finds the entry
    except OSError as error:
        detail = error.strerror or str(error)
        raise InputError(
            f"cache {folder} cannot be written: {detail}", "a writable folder with enough space"
        ) from error
    found = _read(entry)
    if found is None:
        raise InputError(f"{entry} was changed while it was read", "a cache that only these programs write")
    if damaged:
        note = f"the cache entry {entry} was damaged and has been rebuilt"
        return dataclasses.replace(found, notes=(*found.notes, note))
    return found


def _digest(path: str) -> str:
    with reading(path, "an image file"), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(folder: Path, build: Callable[[_Create], pixels.Parts]) -> None:
    def create(shape: tuple[int, ...]) -> np.ndarray:
        array = np.lib.format.open_memmap(folder / _IMAGES, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and a signal while writing to the map
            with open(folder / _IMAGES, "rb+") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        return array

    parts = build(create)
    (train, train_labels), (test, test_labels) = parts.train, parts.test
    npy.write(folder / _LABELS, np.concatenate([train_labels, test_labels]).astype(np.int64))
    mean, std = pixels.statistics(train)
    meta = {
        "classes": parts.classes,
        "notes": parts.notes,
        "train": len(train),
        "test": len(test),
        "mean": mean.tolist(),
        "std": std.tolist(),
        "labels": pixels.fingerprint(train_labels, test_labels),
        "fingerprint": pixels.fingerprint(train, train_labels, test, test_labels),
    }
    (folder / _META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    for file in (_IMAGES, _LABELS, _META):
        with open(folder / file, "rb+") as opened:
            os.fsync(opened.fileno())


def _read(entry: Path) -> pixels.Parts | None:
    """Map an entry into memory without reading its images; return None if it is absent or damaged."""
    try:
        meta = json.loads((entry / _META).read_text(encoding="utf-8"))
        images, labels = npy.read_npy(entry / _IMAGES, mapped=True), npy.read_npy(entry / _LABELS)
        train, total = int(meta["train"]), int(meta["train"]) + int(meta["test"])
        halves = [(images[part], labels[part]) for part in (slice(0, train), slice(train, total))]
        whole = images.dtype == np.uint8 and images.ndim == 4 and len(images) >= total == len(labels)
        if not whole or pixels.fingerprint(labels[:train], labels[train:]) != meta["labels"]:
            return None
        moments = tuple(np.array(meta[name], dtype=np.float32).reshape(images.shape[1]) for name in ("mean", "std"))
        return pixels.Parts(
            halves[0],
            halves[1],
            tuple(map(str, meta["classes"])),
            "",
            tuple(map(str, meta["notes"])),
            statistics=(moments[0], moments[1]),
            fingerprint=str(meta["fingerprint"]),
        )
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):  # InputError is a ValueError
        return None
