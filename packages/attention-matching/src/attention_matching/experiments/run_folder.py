"""Run folders of the experiments: open or resume one, and save its result."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Protocol

from sextet_common import device, files, runs
from sextet_common.data import ImageSet


class Result(Protocol):
    """A result that can be saved."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""

    def save_picture(self, path: str | os.PathLike[str]) -> None:
        """Save a PNG file."""


def open_run(
    out: str | os.PathLike[str] | None, job: str, data: ImageSet, config: Any, **identity: Any
) -> runs.Run | None:
    """Open or resume the run folder of an experiment on this data with this configuration; None without ``out``."""
    if out is None:
        return None
    content = runs.fingerprint(data.train_images, data.train_labels, data.test_images, data.test_labels)
    record = {"data": data.source, "data_sha256": content, **identity, **runs.to_json(config)}
    run = runs.Run.open(out, job, record)
    run.rewind(sys.maxsize)  # drop a last line that a kill cut short
    return run


def save_result(run: runs.Run, name: str, result: Result) -> None:
    """Save NAME.json, with configuration and machine, and NAME.png."""
    report = {**run.config, "machine": device.describe(), **result.to_json()}
    files.write_text(run.path / f"{name}.json", json.dumps(report, indent=2) + "\n")
    result.save_picture(run.path / f"{name}.png")
