"""Files of a finished distillation."""

from __future__ import annotations

import os
from pathlib import Path

from sextet_common import data as image_data
from sextet_common.data import ImageSet
from sextet_common.errors import reading
from sextet_common.runs import Run

from attention_matching.images.distilled import FILE, DistilledSet


def result_path(out: str | os.PathLike[str]) -> Path:
    """Return the path of the distilled set in a run folder."""
    return Path(out) / FILE


def read_result(run: Path, data: str | None = None) -> tuple[DistilledSet, str, ImageSet]:
    """Read a set, as `DistilledSet.from_pretrained` does, and the images to test it on: by default those distilled."""
    distilled = DistilledSet.from_pretrained(run)
    config = {"data": data} if data else Run.read(run).config if (run / "config.json").exists() else distilled.meta
    with reading(run / "config.json", "a distillation run folder", KeyError):
        source = str(config["data"])
    size = distilled.images.shape[-1] if source.startswith("folder:") else None
    return distilled, source, image_data.load(source, size=size)
