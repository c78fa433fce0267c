"""Synthetic sets on disk that may exceed memory."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from attention_matching import DistilledSet, Preprocessing
from jaxtyping import Float, Integer, UInt8
from sextet_common import checks, data as image_data, files, hub, npy, processes, runs, text, training
from sextet_common.errors import STRUCTURE, InputError, reading
from torch import Tensor, nn

from d2m_generator.images.latent_set import ImageSource, LatentSet
from d2m_generator.images.plan import Pixels, Plan, Selection, batches, collect
from d2m_generator.images.synthesize import classes_and_preprocessing, origin, probabilities

Layout = Literal["parquet", "imagefolder"]
_BLOCK = 4096  # images between two checkpoints


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

    def export(self, path: str | os.PathLike[str], layout: Layout = "parquet", *, license: str = "unknown") -> None:
        """Write a folder of PNG images that ``datasets.load_dataset`` opens: in parquet, or as files of an imagefolder.

        ``path`` is a new or empty folder, written atomically; an imagefolder needs an image of every class.
        """
        counts = np.bincount(self.labels, minlength=len(self.classes))
        if layout == "imagefolder" and not counts.all():  # a missing folder would change the numbers of other classes
            empty = self.classes[int(counts.argmin())]
            raise InputError(f"class {empty!r} has no image", "parquet, or an image of every class")
        rows = [(name, str(count)) for name, count in zip(self.classes, counts.tolist(), strict=True)]
        table = text.markdown_table(("class", "images"), rows)
        made = text.markdown_table(("setting", "value"), [(key, str(value)) for key, value in self.meta.items()])
        front = {"license": license, "task_categories": ["image-classification"], "tags": ["d2m-generator"]}
        with hub.new_folder(path) as folder:
            front |= hub.write_images(folder, self.pixels, self.labels, self.classes, layout=layout)
            body = f"# Images of a distilled generator\n\n{table}\n\n{made}"
            (folder / "README.md").write_text(hub.card(front, body), encoding="utf-8")

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
    ipc: int | tuple[int, ...],
    folder: str | os.PathLike[str],
    seed: int = 0,
    selection: Selection = "random",
    *,
    labels: tuple[int, ...] = (),
    candidates: int = 4,
    data: image_data.Source | None = None,
    teacher: nn.Module | None = None,
    temperature: float = 1.0,
) -> StreamedSet:
    """Generate any number of images per class into a folder, one batch in memory at a time.

    The new folder receives images.npy (bytes), labels.npy, soft_labels.npy (with a teacher) and set.json. Their space
    is reserved first. A job that was stopped or killed resumes. Under torchrun, on one machine or with a shared file
    system, every process generates a part. The other parameters are those of `synthesize`; the selection compares
    pixels.
    """
    classes, preprocessing = classes_and_preprocessing(generator, None if data is None else image_data.load(data), None)
    checks.check("temperature", temperature, checks.Positive)
    plan, folder = Plan(ipc, seed, labels, selection, candidates), Path(folder)
    record = {"candidates": candidates, "method": f"d2m-generator, {selection}", **origin(generator, plan)}
    made: dict[str, Any] = {"generator_sha256": _fingerprint(generator), "classes": classes}
    if teacher is not None:
        made |= {"teacher_sha256": runs.fingerprint(*teacher.state_dict().values()), "temperature": temperature}
    new = not folder.exists()
    with processes.join("cpu") as joined:
        job = _Stream(generator, plan, folder, joined, classes, record)
        if teacher is not None:
            job.soft = lambda pixels: probabilities(teacher, preprocessing(pixels), temperature).numpy()
        try:
            training.run(
                job, name="d2m-generator stream", out=folder, record=record | made, processes=joined,
                cadence=training.Cadence(log=1, checkpoint=1), label="synthesize",
            )  # fmt: skip
        except InputError:
            if new and joined.is_first:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        joined.any(False)  # the first process has written everything
    return StreamedSet.open(folder)


class _Stream(training.Job):
    """The images of a plan, written block after block; ``soft`` maps pixels to soft labels."""

    seed, shown = 0, ()

    def __init__(
        self,
        generator: ImageSource,
        plan: Plan,
        folder: Path,
        joined: processes.Processes,
        classes: Sequence[str],
        meta: dict[str, Any],
    ) -> None:
        self.generator, self.plan, self.folder, self.processes = generator, plan, folder, joined
        self.classes, self.meta = classes, meta
        self.labels = plan.labels_of(generator.n_classes)
        self.steps = len(self.labels)
        self.soft: Callable[[Pixels], np.ndarray] | None = None
        self.arrays: dict[str, np.memmap[Any, Any]] = {}

    def position(self, done: int) -> int:
        """Return the number of images after so many blocks."""
        return min(done * _BLOCK, self.steps)

    def begin(self, run: runs.Run, done: int) -> None:
        """Reserve the space, before the first block."""
        if done:
            return
        npy.write(self.folder / "labels.npy", self.labels)
        _reserve(self.folder / "images.npy", np.uint8, (self.steps, *self.generator.image_shape))
        if self.soft is not None:
            _reserve(self.folder / "soft_labels.npy", np.float32, (self.steps, len(self.classes)))

    def step(self, number: int) -> dict[str, float]:
        """Generate a block of images, each process its share."""
        if not self.arrays:
            self.processes.any(False)  # the first process has begun
            for name in ("images", *(["soft_labels"] if self.soft is not None else [])):
                self.arrays[name] = np.load(self.folder / f"{name}.npy", mmap_mode="r+")
        first, last = self.position(number), self.position(number + 1)
        share = self.processes.shares(last - first)[self.processes.rank]
        for rows, _, pixels in batches(self.generator, self.plan, range(first + share.start, first + share.stop)):
            self.arrays["images"][rows.start : rows.stop] = np.rint(pixels * 255).astype(np.uint8)
            if self.soft is not None:
                self.arrays["soft_labels"][rows.start : rows.stop] = self.soft(pixels)
        for array in self.arrays.values():
            array.flush()
        self.processes.any(False)  # all shares are on disk
        if last == self.steps and self.processes.is_first:
            table = {"classes": list(self.classes), "meta": self.meta}
            files.write_text(self.folder / "set.json", json.dumps(table, indent=1) + "\n")
        return {"images": float(last)}

    def state(self) -> dict[str, Any]:
        """Return nothing: the images are in their files."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore nothing."""


def _fingerprint(source: ImageSource) -> str:
    """Return a SHA-256 of what a source's images depend on, or of its first image if its weights are unknown."""
    if isinstance(source, LatentSet):
        return runs.fingerprint(*source.latents.values(), *source.generator.state_dict().values())
    if isinstance(source, nn.Module):
        return runs.fingerprint(*(tensor for tensor in source.state_dict().values() if tensor.numel()))
    return runs.fingerprint(collect(source, Plan(1, labels=(0,)))[0])


def _reserve(path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    """Create an .npy file and reserve its space: a full disk is an error here, and a signal while writing to a map."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    size, start = array.offset + array.nbytes, array.offset
    del array
    with files.writing(path), open(path, "rb+", buffering=0) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except (AttributeError, OSError) as error:  # of other systems; of file systems that cannot reserve
            if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            file.seek(start)
            while (left := size - file.tell()) > 0:
                file.write(bytes(min(left, 2**20)))
