"""A distilled set in other tools' formats: PNG folders, the .pt files of two families of code, and DD-Ranking."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float
from sextet_common import files, hub
from sextet_common.errors import InputError, require
from torch import Tensor

from attention_matching.export import ddranking
from attention_matching.export.hub_folder import export_hub
from attention_matching.images.distilled import DistilledSet
from attention_matching.kinds import Export, Layout

Constants = tuple[tuple[float, ...], tuple[float, ...]]

_CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

NORMALISATION: dict[str, dict[str, Constants]] = {
    # VICO-UoE/DatasetCondensation, utils.py
    "dc": {
        "MNIST": ((0.1307,), (0.3081,)),
        "FashionMNIST": ((0.2861,), (0.3530,)),
        "SVHN": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
        "CIFAR10": _CIFAR,
        "CIFAR100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
        "TinyImageNet": _IMAGENET,
    },
    # GeorgeCazenavette/mtt-distillation, utils.py: CIFAR-100 has CIFAR-10's constants
    "mtt": {"CIFAR10": _CIFAR, "CIFAR100": _CIFAR, "Tiny": _IMAGENET, "ImageNet": _IMAGENET},
    # ddranking 0.2.0, utils/data.py: again CIFAR-10's for both
    "ddranking": {"CIFAR10": _CIFAR, "CIFAR100": _CIFAR, "TinyImageNet": _IMAGENET, "ImageNet1K": _IMAGENET},
}
"""Mean and std by which each tool normalises its test images: tool, its name of the data set, (mean, std)."""


def export_folder(distilled: DistilledSet, path: str | os.PathLike[str]) -> None:
    """Write PNG files, ``class/00000.png``, which `DistilledSet.from_folder` and torchvision's ImageFolder read.

    ``load((path, data))`` reads them as training images, with the test images of ``data``; a set alone has none. The
    pixels are clipped to [0, 1] and rounded to 8 bits; soft labels and labels of views are left out. Readers number the
    classes by the order of the folder names: if the class names are in another order, or cannot be folder names, each
    is preceded by its number. ``path`` is a new or empty folder, written atomically; every class must have an image.

    Examples
    --------
    >>> import tempfile
    >>> from attention_matching.images.select import random_real
    >>> from sextet_common.data import load
    >>> folder = Path(tempfile.mkdtemp()) / "digits"
    >>> export_folder(random_real(load("digits"), ipc=2), folder)
    >>> sorted(str(p.relative_to(folder)) for p in folder.rglob("*.png"))[:3]
    ['0/00000.png', '0/00001.png', '1/00000.png']
    """
    image_module = require("PIL.Image", package="sextet-common", extra="images")
    channels = distilled.images.shape[1]
    if channels not in (1, 3):
        raise InputError(f"PNG files of {channels} channels", "1 or 3; compact, pt-dc and pt-mtt take any number")
    empty = np.flatnonzero(np.bincount(distilled.labels.numpy(), minlength=len(distilled.classes)) == 0)
    if empty.size:
        # Readers refuse an empty folder, and a missing one would change the numbers of the other classes.
        raise InputError(f"class {distilled.classes[empty[0]]!r} has no image", "at least one of every class")
    pixels = (distilled.pixels() * 255).round().astype(np.uint8)
    with hub.new_folder(path) as folder:
        for label, name in enumerate(hub.folder_names(distilled.classes)):
            (folder / name).mkdir()
            for number, image in enumerate(pixels[distilled.labels.numpy() == label]):
                array = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
                image_module.fromarray(array).save(folder / name / f"{number:05d}.png")


def export_pt(
    distilled: DistilledSet, path: str | os.PathLike[str], layout: Layout = "dc", dataset: str | None = None
) -> None:
    """Write torch files in the layout of other distillation code; ``torch.load(weights_only=True)`` reads them.

    Those programs normalise their test images with constants of their own. Images in another normalisation score less
    than they could, so name the data set they are to be used with.

    The layout ``"dc"`` is what DC, DSA and DM save, a file with ``{"data": [[images, labels]], "accs_all_exps": {}}``.
    ``"mtt"`` is what MTT saves, a folder with the tensors ``images_best.pt`` and ``labels_best.pt``. Images are float32
    (n, c, h, w), labels int64 (n,); soft labels are left out. ``path`` is a new file, or for ``"mtt"`` a new or empty
    folder, written atomically.

    ``dataset`` is that code's name of the data set, and the images are written in its normalisation. (MTT whitens as
    this package does, so with ``"mtt"`` whitened images stay whitened, for its ``--zca``.) Without a name they stay in
    the set's own preprocessing.

    Examples
    --------
    >>> import tempfile
    >>> from attention_matching.images.select import random_real
    >>> from sextet_common.data import load
    >>> file = Path(tempfile.mkdtemp()) / "digits.pt"
    >>> export_pt(random_real(load("digits"), ipc=2), file)
    >>> images, labels = torch.load(file, weights_only=True)["data"][0]
    >>> tuple(images.shape), labels[:4].tolist()
    ((20, 1, 8, 8), [0, 0, 1, 1])
    """
    if layout not in get_args(Layout):
        raise InputError(f"layout {layout!r} is unknown", " or ".join(get_args(Layout)))
    images = _in_normalisation_of(layout, distilled, dataset)
    labels = distilled.labels.clone()
    if layout == "mtt":
        with hub.new_folder(path) as folder:
            torch.save(images, folder / "images_best.pt")
            torch.save(labels, folder / "labels_best.pt")
        return
    if Path(path).exists():
        raise InputError(f"{path} exists", "a new file")
    # Given a path, torch would write the temporary file's name into the file, and no two would be equal.
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save({"data": [[images, labels]], "accs_all_exps": {}}, file)


def export_ddranking(distilled: DistilledSet, path: str | os.PathLike[str], dataset: str) -> None:
    """Write the files that DD-Ranking 0.2.0 needs to score the set.

    It whitens with the statistics of all training images of the data set, so a whitened set must come from all of them.

    ``images.pt``: float32 (classes * ipc, 3, h, w), class after class, normalised as it normalises its test images (or
    whitened, with ``use_zca``). ``labels.pt``: int64. ``soft_labels.pt``, if the set has them: logarithms of the
    probabilities, since it takes a teacher's logits. ``config.json``: for its ``Config.from_file``. ``README.md``: how
    to run it, and its pitfalls.

    The set has the classes of the data set, and the same number of images of each. ``path`` is a new or empty folder,
    written atomically. ``dataset`` is CIFAR10, CIFAR100, TinyImageNet or ImageNet1K: DD-Ranking (arXiv 2505.13300)
    scores no others.
    """
    ddranking.check_classes(distilled, dataset)
    images = _in_normalisation_of("ddranking", distilled, dataset)
    order = torch.argsort(distilled.labels, stable=True)
    config = ddranking.configuration(distilled, dataset)
    with hub.new_folder(path) as folder:
        torch.save(images[order], folder / "images.pt")
        torch.save(distilled.labels[order], folder / "labels.pt")
        if distilled.soft_labels is not None:
            tiny = torch.finfo(torch.float32).tiny  # keeps the logarithm of 0 finite
            torch.save(distilled.soft_labels[order].clamp(min=tiny).log(), folder / "soft_labels.pt")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(ddranking.instructions(config), encoding="utf-8")


def export(
    distilled: DistilledSet,
    path: str | os.PathLike[str],
    kind: Export,
    dataset: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> None:
    """Write a set for another tool.

    The kind ``"folder"`` calls :func:`export_folder`, ``"pt-dc"`` and ``"pt-mtt"`` call :func:`export_pt`,
    ``"ddranking"`` calls :func:`export_ddranking`, with the same ``path`` and ``dataset``; ``"compact"`` calls
    `DistilledSet.save`, and ``"hub"`` and
    ``"hub-imagefolder"`` call :func:`~attention_matching.export.hub_folder.export_hub` with the ``evaluation`` for its
    card.

    Examples
    --------
    >>> import tempfile
    >>> from attention_matching.images.select import random_real
    >>> from sextet_common.data import load
    >>> folder = Path(tempfile.mkdtemp()) / "digits"
    >>> export(random_real(load("digits"), ipc=1), folder, "pt-mtt")
    >>> sorted(file.name for file in folder.iterdir())
    ['images_best.pt', 'labels_best.pt']
    """
    if kind in ("folder", "compact", "hub", "hub-imagefolder"):
        if dataset is not None:
            raise InputError(f"data set {dataset!r} for pixels", "none: they have no normalisation")
        if kind == "folder":
            export_folder(distilled, path)
        elif kind == "compact":
            if Path(path).exists():
                raise InputError(f"{path} exists", "a new file")
            distilled.save(path, compact=True)
        else:
            export_hub(distilled, path, layout="parquet" if kind == "hub" else "imagefolder", evaluation=evaluation)
    elif kind == "ddranking":
        export_ddranking(distilled, path, dataset or "")
    elif kind in get_args(Export):
        export_pt(distilled, path, "dc" if kind == "pt-dc" else "mtt", dataset)
    else:
        raise InputError(f"export {kind!r} is unknown", ", ".join(get_args(Export)))


def _in_normalisation_of(
    tool: str, distilled: DistilledSet, dataset: str | None
) -> Float[Tensor, "images channels height width"]:
    """Return a copy of the images, unclipped, as a tool's own reader would have normalised their pixels."""
    known = NORMALISATION[tool]
    if dataset is not None and dataset not in known:
        raise InputError(f"data set {dataset!r} is unknown to {tool}", ", ".join(known))
    if dataset is None or (distilled.preprocessing.zca is not None and tool != "dc"):
        return distilled.images.detach().to("cpu", torch.float32, copy=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in known[dataset])
    pixels = torch.from_numpy(distilled.preprocessing.invert(distilled.images))
    if pixels.shape[1] != len(mean):
        raise InputError(f"images of {pixels.shape[1]} channels", f"{len(mean)}, as {dataset} has")
    return (pixels - mean) / std
