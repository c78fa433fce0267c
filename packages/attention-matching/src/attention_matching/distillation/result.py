"""Files of a finished distillation."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from sextet_common.data import DataOptions, ImageSet
from sextet_common.errors import InputError, reading
from sextet_common.runs import Run

from attention_matching.evaluation.config import TestData
from attention_matching.images.distilled import FILE, DistilledSet
from attention_matching.images.preprocess import Preprocessing
from attention_matching.kinds import Whitening


def result_path(out: str | os.PathLike[str]) -> Path:
    """Return the path of the distilled set in a run folder."""
    return Path(out) / FILE


def read_result(
    run: Path, images: DataOptions | None = None, whitening: Whitening | None = None
) -> tuple[DistilledSet, str, ImageSet]:
    """Read a set and the images to test it on, by default those distilled.

    ``run`` is a saved file, what `DistilledSet.from_pretrained` takes, or a folder of image files, which needs
    ``images``. The test images of a folder get the size and channels of the set. Inputs are those of the
    ``whitening``, fitted to the data if the set does not have it: by default that of the distillation, for image files
    none.
    """
    images = images or TestData()
    if run.is_dir() and not (run / FILE).exists() and not (run / "config.json").exists():
        if not images.data:
            raise InputError(f"{run} holds image files and does not name their data", "--data")
        data = images.load()
        return DistilledSet.from_folder(run, data, Preprocessing.fit(data, whitening or "none")), images.data, data
    distilled = DistilledSet.load(run) if is_file(run) else DistilledSet.from_pretrained(run)
    config = Run.read(run).config if not images.data and (run / "config.json").exists() else distilled.meta
    with reading(run / "config.json", "a distillation run folder", KeyError):
        source = str(images.data or config["data"])
    changes: dict[str, Any] = {"data": source}
    if source.startswith("folder:"):
        _, channels, _, side = distilled.images.shape
        changes |= {"size": images.size or side, "channels": images.channels or channels}
    data = dataclasses.replace(images, **changes).load()
    chosen = whitening or distilled.meta.get("whitening", distilled.preprocessing.whitening)
    if chosen != distilled.preprocessing.whitening:
        distilled = distilled.with_preprocessing(Preprocessing.fit(data, chosen))
    return distilled, source, data


def is_file(path: Path) -> bool:
    """Return whether a path names the file of a set."""
    return path.is_file() or path.suffix == ".safetensors"
