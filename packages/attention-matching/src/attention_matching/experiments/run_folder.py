"""Run folders of the experiments: open or resume one, and save its result."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from sextet_common import device, files, runs
from sextet_common.data import ImageSet


class Result(Protocol):
    """A result that can be saved."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""

    def save_picture(self, path: str | os.PathLike[str]) -> None:
        """Save a PNG file."""


@contextmanager
def open_run(
    out: str | os.PathLike[str] | None, job: str, data: ImageSet, config: Any, settings: Any, **identity: Any
) -> Iterator[runs.Run | None]:
    """Open or resume the run folder of an experiment on this data with this configuration; None without ``out``.

    ``settings`` says which settings may differ, see :meth:`sextet_common.runs.Run.open`.
    """
    if out is None:
        yield None
        return
    record = {"data": data.source, "data_sha256": data.fingerprint, **identity, **runs.to_json(config)}
    with runs.Run.open(out, job, record, settings=settings) as run:
        run.rewind(sys.maxsize)  # drop a last line that a kill cut short
        yield run


def save_result(run: runs.Run, name: str, result: Result) -> None:
    """Save NAME.json, with configuration and machine, and NAME.png."""
    report = {**run.config, "machine": device.describe(), **result.to_json()}
    files.write_text(run.path / f"{name}.json", json.dumps(report, indent=2) + "\n")
    result.save_picture(run.path / f"{name}.png")
