"""Synthetic sets on disk that may exceed memory."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attention_matching import DistilledSet, Preprocessing
from jaxtyping import Float, Integer, UInt8
from sextet_common import data as image_data, files, npy, progress
from sextet_common.errors import STRUCTURE, InputError, reading
from torch import Tensor, nn

from d2m_generator.images.latent_set import ImageSource
from d2m_generator.images.synthesize import (
    check_counts,
    class_batches,
    classes_and_preprocessing,
    origin,
    probabilities,
)

_RESERVE = 64 * 2**20  # bytes of the disk that stay free


@dataclass(frozen=True)
class StreamedSet:
    """Memory-mapped synthetic images: a map-style data set of (pixels in [0, 1], label), ordered by class.

    ``folder`` is one that `stream` wrote; ``meta`` tells how the set was generated. Soft labels are optional. A pickled
    set, as in the workers of a DataLoader, is the path of its folder.
    """

    folder: Path
    pixels: UInt8[np.ndarray, "images channels height width"]
    labels: Integer[np.ndarray, " images"]
    soft_labels: Float[np.ndarray, "images classes"] | None
    classes: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor(np.asarray(self.pixels[index], dtype=np.float32) / 255), int(self.labels[index])

    def __reduce__(self) -> tuple[Any, ...]:
        return StreamedSet.open, (self.folder.absolute(),)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> StreamedSet:
        """Open a set on disk; missing, damaged or inconsistent files are refused."""
        folder = Path(folder)
        expected = "a folder of synthetic images that stream wrote"
        with reading(folder / "set.json", expected, *STRUCTURE):
            table = json.loads((folder / "set.json").read_text(encoding="utf-8"))
            classes, meta = tuple(map(str, table["classes"])), dict(table["meta"])
        names = ["images", "labels", *(["soft_labels"] if (folder / "soft_labels.npy").exists() else [])]
        arrays = {n: npy.read_npy(folder / f"{n}.npy", expected=expected, mapped=True) for n in names}
        pixels, labels, soft = arrays["images"], arrays["labels"], arrays.get("soft_labels")
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or labels.shape != pixels.shape[:1]:
            raise InputError(f"{folder} holds {pixels.dtype} of shape {pixels.shape}", "bytes, (images, c, h, w)")
        if labels.dtype.kind not in "iu" or (len(labels) and not 0 <= labels.min() <= labels.max() < len(classes)):
            raise InputError(f"{folder} has labels of {labels.dtype}", f"numbers from 0 to {len(classes) - 1}")
        shape = (len(labels), len(classes))
        if soft is not None and (soft.dtype.kind != "f" or soft.shape != shape):
            raise InputError(f"{folder} has soft labels of {soft.dtype}, {soft.shape}", f"{shape}")
        return cls(folder, pixels, labels, soft, classes, meta)

    def distilled(self, preprocessing: Preprocessing, ipc: int | None = None) -> DistilledSet:
        """Return the first `ipc` images of every class, by default all, as a distilled set in memory."""
        rows = []
        for label, name in enumerate(self.classes):
            members = np.flatnonzero(self.labels == label)
            if ipc is not None and len(members) < ipc:
                raise InputError(f"class {name!r} has {len(members)} images", f"ipc = {ipc} at least")
            rows.append(members[:ipc])
        chosen = np.concatenate(rows)
        soft = None if self.soft_labels is None else torch.tensor(self.soft_labels[chosen])
        images = preprocessing(image_data.take(self.pixels, chosen))
        return DistilledSet(images, torch.tensor(self.labels[chosen]), self.classes, preprocessing, self.meta, soft)


def stream(
    generator: ImageSource,
    ipc: int,
    folder: str | os.PathLike[str],
    seed: int = 0,
    *,
    data: image_data.Source | None = None,
    teacher: nn.Module | None = None,
    temperature: float = 1.0,
) -> StreamedSet:
    """Generate any number of images per class into a folder, one batch in memory at a time, atomically.

    The new folder holds images.npy (bytes), labels.npy, soft_labels.npy (with a teacher) and set.json. The other
    parameters are those of `synthesize` with ``selection="random"``.
    """
    classes, preprocessing = classes_and_preprocessing(generator, None if data is None else image_data.load(data), None)
    check_counts(ipc, seed, temperature)
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists already", "a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    count = ipc * generator.n_classes
    _check_space(generator, count, folder.parent, soft_labels=teacher is not None)
    with files.replacing_folder(folder) as part:
        images = _new(part / "images.npy", np.uint8, (count, *generator.image_shape))
        soft = None if teacher is None else _new(part / "soft_labels.npy", np.float32, (count, generator.n_classes))
        npy.write(part / "labels.npy", np.repeat(np.arange(generator.n_classes), ipc))
        with progress.bar("synthesize", count) as bar:
            for label in range(generator.n_classes):
                start = label * ipc
                for pixels in class_batches(generator, label, ipc, seed):
                    stop = start + len(pixels)
                    images[start:stop] = np.rint(pixels * 255).astype(np.uint8)
                    if soft is not None and teacher is not None:
                        soft[start:stop] = probabilities(teacher, preprocessing(pixels), temperature).numpy()
                    start = stop
                    bar.advance(len(pixels))
        images.flush()
        meta = {"method": "d2m-generator, random", "ipc": ipc, "seed": seed, **origin(generator)}
        files.write_text(part / "set.json", json.dumps({"classes": list(classes), "meta": meta}, indent=1) + "\n")
        del images, soft
    return StreamedSet.open(folder)


def _check_space(generator: ImageSource, count: int, folder: Path, *, soft_labels: bool) -> None:
    """Refuse images that do not fit onto the disk."""
    needed = count * (math.prod(generator.image_shape) + 8 + (4 * generator.n_classes if soft_labels else 0))
    free = shutil.disk_usage(folder).free - _RESERVE
    if needed > free:
        given = f"{count} images of {generator.image_shape}, {needed / 2**30:.2f} GiB"
        raise InputError(given, f"at most {max(0, free) / 2**30:.2f} GiB, which is free in {folder}")


def _new(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and a signal while writing to the map
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array
