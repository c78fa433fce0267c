"""Files of a finished distillation."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from sextet_common.data import DataOptions, ImageSet
from sextet_common.errors import reading
from sextet_common.runs import Run

from attention_matching.images.distilled import FILE, DistilledSet


def result_path(out: str | os.PathLike[str]) -> Path:
    """Return the path of the distilled set in a run folder."""
    return Path(out) / FILE


@dataclasses.dataclass(frozen=True)
class TestData(DataOptions):
    """The options that name the images to test on."""

    data: str = ""
    """The images to test on, as for distill; by default those of the distillation."""


def read_result(run: Path, images: DataOptions | None = None) -> tuple[DistilledSet, str, ImageSet]:
    """Read a set, as `DistilledSet.from_pretrained` does, and the images to test it on: by default those distilled.

    The images of a folder get the size and channels of the set.
    """
    distilled, images = DistilledSet.from_pretrained(run), images or TestData()
    config = Run.read(run).config if not images.data and (run / "config.json").exists() else distilled.meta
    with reading(run / "config.json", "a distillation run folder", KeyError):
        source = str(images.data or config["data"])
    changes: dict[str, Any] = {"data": source}
    if source.startswith("folder:"):
        _, channels, _, side = distilled.images.shape
        changes |= {"size": images.size or side, "channels": images.channels or channels}
    return distilled, source, dataclasses.replace(images, **changes).load()
