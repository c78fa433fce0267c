"""Any number of images per class from one generator: in memory as a distilled set, or streamed to disk."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from attention_matching import DistilledSet, Preprocessing
from attention_matching.coreset import farthest_first, nearest_mean
from jaxtyping import Float
from sextet_common import files, npy, progress
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from sextet_common.networks import device_of, evaluating
from torch import Tensor, nn

from d2m_generator.generator import Generator, noise_of

Selection = Literal["random", "herding", "diverse"]
_AT_ONCE = 256
_SPARE = 64 * 2**20  # bytes of the disk that are left alone


def synthesize(
    generator: Generator,
    ipc: int,
    seed: int = 0,
    selection: Selection = "random",
    *,
    data: ImageSet | None = None,
    preprocessing: Preprocessing | None = None,
    candidates: int = 4,
    features: Callable[[Tensor], Tensor] | None = None,
    teacher: nn.Module | None = None,
    temperature: float = 1.0,
) -> DistilledSet:
    """Make a distilled set of any size, but for rounding the same however it is cut into batches.

    With ``selection="random"`` the first images of a larger set are those of a smaller one.

    Parameters
    ----------
    generator
        The generator.
    ipc
        Images per class.
    seed
        Of the noise.
    selection
        "random" takes samples as they come. "herding" makes `candidates` times as many and keeps those whose mean of
        features is nearest that of all of them; "diverse" keeps those that are farthest from one another.
    data
        Whose classes' names and whose mean and std the set takes; without it classes are numbers, pixels centred.
    preprocessing
        From pixels to inputs, in the place of the data's mean and std.
    candidates
        How many samples there are to choose one from.
    features
        What samples are compared by, from inputs (batch, channels, height, width) to (batch, size); the inputs
        themselves where not given.
    teacher
        A classifier of inputs, whose probabilities become the set's soft labels.
    temperature
        Of these probabilities.

    Returns
    -------
    DistilledSet
        ``ipc`` images of each class, class after class.

    Raises
    ------
    InputError
        Where a number is below 1, the selection is unknown, or data and generator do not fit.

    Examples
    --------
    >>> from d2m_generator import ConditionalGAN
    >>> gan = ConditionalGAN(3, (1, 8, 8), width=4)
    >>> few, more = synthesize(gan, 2, seed=1), synthesize(gan, 5, seed=1)
    >>> torch.allclose(few.images[2:4], more.images[5:7], atol=1e-5)
    True
    """
    classes, preprocessing = _target(generator, data, preprocessing)
    _check(ipc, selection, candidates, temperature)
    each = ipc if selection == "random" else candidates * ipc
    choose = {"herding": nearest_mean, "diverse": farthest_first}
    found: list[Tensor] = []
    for label in range(generator.n_classes):
        inputs = torch.cat([preprocessing(pixels) for pixels in _pixels(generator, label, range(each), seed)])
        if selection != "random":
            points = inputs if features is None else _embedded(inputs, features)
            inputs = inputs[choose[selection](points.flatten(1), ipc)]
        found.append(inputs)
    images = torch.cat(found)
    meta = {"method": f"d2m-generator, {selection}", "ipc": ipc, "seed": seed, "generator": type(generator).__name__}
    if data is not None:
        meta["data"] = data.source
    soft = None if teacher is None else _soft(teacher, images, temperature)
    labels = torch.arange(generator.n_classes).repeat_interleave(ipc)
    return DistilledSet(images, labels, classes, preprocessing, meta, soft)


@dataclass(frozen=True)
class StreamedSet:
    """Synthetic images on disk, memory-mapped: a map-style data set of (pixels in [0, 1], label).

    Parameters
    ----------
    folder
        What `stream` wrote.
    pixels
        uint8, shape (images, channels, height, width), class after class.
    labels
        int64, shape (images,).
    soft_labels
        float32, shape (images, classes), or None.
    classes
        The classes' names.
    meta
        How the set was made.
    """

    folder: Path
    pixels: np.ndarray
    labels: np.ndarray
    soft_labels: np.ndarray | None
    classes: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor(np.asarray(self.pixels[index], dtype=np.float32) / 255), int(self.labels[index])

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> StreamedSet:
        """Open a set on disk.

        Raises
        ------
        InputError
            Where files are missing or do not fit each other.
        """
        folder = Path(folder)
        expected = "a folder of synthetic images that stream wrote"
        with reading(folder / "set.json", expected):
            told = json.loads((folder / "set.json").read_text(encoding="utf-8"))
            classes, meta = tuple(map(str, told["classes"])), dict(told["meta"])
        names = ["images", "labels", *(["soft_labels"] if (folder / "soft_labels.npy").exists() else [])]
        arrays = {n: npy.read_npy(folder / f"{n}.npy", expected=expected, mapped=True) for n in names}
        pixels, labels, soft = arrays["images"], arrays["labels"], arrays.get("soft_labels")
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or labels.shape != pixels.shape[:1]:
            raise InputError(f"{folder} holds {pixels.dtype} of shape {pixels.shape}", "bytes, (images, c, h, w)")
        if labels.dtype.kind not in "iu" or (len(labels) and not 0 <= labels.min() <= labels.max() < len(classes)):
            raise InputError(f"{folder} has labels of {labels.dtype}", f"numbers from 0 to {len(classes) - 1}")
        if soft is not None and (soft.dtype.kind != "f" or soft.shape != (len(labels), len(classes))):
            raise InputError(
                f"{folder} has soft labels of {soft.dtype}, {soft.shape}", f"{(len(labels), len(classes))}"
            )
        return cls(folder, pixels, labels, soft, classes, meta)

    def distilled(self, preprocessing: Preprocessing, ipc: int | None = None) -> DistilledSet:
        """Take the first images of every class into memory, as a distilled set.

        Parameters
        ----------
        preprocessing
            From pixels to inputs.
        ipc
            How many of each class; all where not given.

        Returns
        -------
        DistilledSet
            The set, whose pixels are rounded to bytes.

        Raises
        ------
        InputError
            Where a class has fewer.
        """
        rows = []
        for label in range(len(self.classes)):
            own = np.flatnonzero(self.labels == label)
            if ipc is not None and len(own) < ipc:
                raise InputError(f"class {self.classes[label]!r} has {len(own)} images", f"ipc = {ipc} at least")
            rows.append(own[:ipc])
        chosen = np.concatenate(rows)
        soft = None if self.soft_labels is None else torch.tensor(self.soft_labels[chosen])
        images = preprocessing(np.asarray(self.pixels[chosen], dtype=np.float32) / 255)
        return DistilledSet(images, torch.tensor(self.labels[chosen]), self.classes, preprocessing, self.meta, soft)


def stream(
    generator: Generator,
    ipc: int,
    folder: str | os.PathLike[str],
    seed: int = 0,
    *,
    data: ImageSet | None = None,
    teacher: nn.Module | None = None,
    temperature: float = 1.0,
) -> StreamedSet:
    """Write any number of images per class to disk, a batch in memory at a time; whole or not there.

    Parameters
    ----------
    generator, ipc, seed, data, teacher, temperature
        As for `synthesize`, with samples as they come.
    folder
        A new folder: images.npy (bytes), labels.npy, soft_labels.npy with a teacher, set.json.

    Returns
    -------
    StreamedSet
        The set, memory-mapped.

    Raises
    ------
    InputError
        Where the folder is there already, or the disk cannot hold the images: nothing is left behind then.
    """
    classes, preprocessing = _target(generator, data, None)
    _check(ipc, "random", 1, temperature)
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} is there already", "a new folder")
    count = ipc * generator.n_classes
    needed = count * (math.prod(generator.image_shape) + 8 + (4 * generator.n_classes if teacher is not None else 0))
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free - _SPARE
    if needed > free:
        given = f"{count} images of {generator.image_shape}, {needed / 2**30:.2f} GiB"
        raise InputError(given, f"at most {max(0, free) / 2**30:.2f} GiB, what is free in {folder.parent}")
    with files.replacing_folder(folder) as part:
        images = _new(part / "images.npy", np.uint8, (count, *generator.image_shape))
        soft = None if teacher is None else _new(part / "soft_labels.npy", np.float32, (count, generator.n_classes))
        np.save(part / "labels.npy", np.repeat(np.arange(generator.n_classes), ipc))
        with progress.bar("synthesize", count) as bar:
            for label in range(generator.n_classes):
                start = label * ipc
                for pixels in _pixels(generator, label, range(ipc), seed):
                    stop = start + len(pixels)
                    images[start:stop] = np.rint(pixels * 255).astype(np.uint8)
                    if soft is not None and teacher is not None:
                        soft[start:stop] = _soft(teacher, preprocessing(pixels), temperature).numpy()
                    start = stop
                    bar.advance(len(pixels))
        images.flush()
        meta = {"method": "d2m-generator, random", "ipc": ipc, "seed": seed, "generator": type(generator).__name__}
        files.write_text(part / "set.json", json.dumps({"classes": list(classes), "meta": meta}, indent=1) + "\n")
        del images, soft
    return StreamedSet.open(folder)


def _target(
    generator: Generator, data: ImageSet | None, preprocessing: Preprocessing | None
) -> tuple[tuple[str, ...], Preprocessing]:
    if data is None:
        channels = generator.image_shape[0]
        half = torch.full((channels,), 0.5)
        return tuple(map(str, range(generator.n_classes))), preprocessing or Preprocessing(half, half)
    if data.image_shape != generator.image_shape or data.n_classes != generator.n_classes:
        given = f"a generator of {generator.n_classes} classes of {generator.image_shape} images"
        raise InputError(given, f"{data.n_classes} classes of {data.image_shape}, as {data.source}")
    return data.classes, preprocessing or Preprocessing.fit(data)


def _check(ipc: int, selection: str, candidates: int, temperature: float) -> None:
    for name, value in (("ipc", ipc), ("candidates", candidates)):
        if value < 1:
            raise InputError(f"{name} is {value}", "a whole number >= 1")
    if selection not in get_args(Selection):
        raise InputError(f"selection is {selection!r}", ", ".join(get_args(Selection)))
    if not 0 < temperature < math.inf:
        raise InputError(f"the temperature is {temperature}", "a number > 0")


def _pixels(generator: Generator, label: int, wanted: range, seed: int) -> Iterator[Float[np.ndarray, "n c h w"]]:
    """Make samples of a class in batches, clipped to [0, 1]: sample j has the noise of number j * classes + label."""
    for start in range(wanted.start, wanted.stop, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, wanted.stop))
        noise = noise_of([j * generator.n_classes + label for j in numbers], generator.noise_shape, seed)
        with torch.inference_mode():
            made = generator.sample(torch.full((len(numbers),), label), noise=noise)
            pixels = made.float().clamp(0, 1).cpu().numpy()
        if not np.isfinite(pixels).all():
            raise InputError(f"a pixel of class {label} is not finite", "a generator of finite images")
        yield pixels


def _embedded(inputs: Tensor, features: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([features(part).flatten(1).float().cpu() for part in inputs.split(_AT_ONCE)]).clone()


def _soft(teacher: nn.Module, inputs: Tensor, temperature: float) -> Tensor:
    where = device_of(teacher)
    with evaluating(teacher), torch.inference_mode():
        logits = torch.cat([teacher(part.to(where)).float().cpu() for part in inputs.split(_AT_ONCE)])
    return (logits / temperature).softmax(dim=1).clone()


def _new(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
