"""Run folders: the configuration (config.json), the metrics (metrics.jsonl) and the checkpoints of a job.

Opening a run folder again with the same configuration resumes the run; a different configuration is refused, so that a
folder never mixes two experiments.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from sextet_common import checkpoint, files
from sextet_common.errors import STRUCTURE, InputError, reading, require

if TYPE_CHECKING:
    import torch

_CONFIG = "config.json"
_METRICS = "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class Run:
    """The folder of one job, created by :meth:`open`.

    ``job`` is the name of the job, such as ``attention-matching distill``. ``config`` holds plain JSON values.
    """

    path: Path
    job: str
    config: dict[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str], job: str, config: Any) -> Run:
        """Create a run folder, or open an existing one to resume it.

        An existing folder must hold a run of the same job with the same configuration; an error names the settings that
        differ. ``config`` is a dataclass or a mapping of plain JSON values.

        Examples
        --------
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "digits"
        >>> _ = Run.open(folder, "demo", {"steps": 5})
        >>> Run.open(folder, "demo", {"steps": 6})
        Traceback (most recent call last):
        sextet_common.errors.InputError: ... holds a run with steps=5, not 6; expected: another folder, or ...
        """
        path = Path(path)
        settings = to_json(config)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file", "a run folder, new or existing")
        if (path / _CONFIG).exists():
            run = cls.read(path)
            if run.job != job:
                raise InputError(f"{path} holds a run of {run.job!r}, not {job!r}", "another folder")
            different = [k for k in sorted({*run.config, *settings}) if run.config.get(k) != settings.get(k)]
            if different:
                details = ", ".join(f"{k}={run.config.get(k)!r}, not {settings.get(k)!r}" for k in different)
                raise InputError(
                    f"{path} holds a run with {details}", "another folder, or the same settings to resume it"
                )
            return run
        if path.is_dir() and any(p.name[0] != "." for p in path.iterdir()):
            raise InputError(f"{path} is not empty and holds no run", "a new or empty folder")
        files.write_text(path / _CONFIG, json.dumps({"job": job, "config": settings}, indent=2) + "\n")
        return cls(path, job, settings)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Run:
        """Read an existing run folder."""
        path = Path(path)
        if not (path / _CONFIG).is_file():
            raise InputError(f"{path} holds no run ({_CONFIG} is missing)", "a run folder")
        with reading(path / _CONFIG, "the file that the run wrote", *STRUCTURE):
            table = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
            return cls(path, str(table["job"]), dict(table["config"]))

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.path / "checkpoints"

    def log(self, step: int, **values: float | int | str) -> None:
        """Append a step and named numbers or words as one line to metrics.jsonl.

        Examples
        --------
        >>> import tempfile
        >>> run = Run.open(tempfile.mkdtemp(), "demo", {})
        >>> run.log(1, loss=0.5)
        >>> run.metrics()
        [{'step': 1, 'loss': 0.5}]
        """
        with open(self.path / _METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return the logged lines, oldest first, without lines that a kill left incomplete."""
        path = self.path / _METRICS
        rows = []
        with reading(path, "lines of named values", TypeError):
            for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                rows.append(dict(row))
        return rows

    def rewind(self, step: int) -> None:
        """Delete the metrics after a step, so that a job resumed from its checkpoint logs nothing twice."""
        with reading(self.path / _METRICS, "lines with a step", KeyError, TypeError):
            kept = [row for row in self.metrics() if row["step"] <= step]
        files.write_text(self.path / _METRICS, "".join(json.dumps(row) + "\n" for row in kept))

    def resume(self, framework: str = "torch") -> checkpoint.Checkpoint | None:
        """Load the newest checkpoint, if any, and rewind the metrics to it.

        ``framework`` is ``torch`` or ``numpy``. The checkpoint's ``meta["step"]`` is the number of completed steps.
        """
        newest = checkpoint.latest(self.checkpoints)
        if newest is None:
            self.rewind(-1)
            return None
        loaded = checkpoint.load(newest, "numpy" if framework == "numpy" else "torch")
        with reading(newest, "a checkpoint with its step", KeyError, TypeError):
            step = int(loaded.meta["step"])
        if step < 0:
            raise InputError(f"{newest} is of step {step}", "a step >= 0")
        self.rewind(step)
        return loaded

    def export_tensorboard(self) -> Path:
        """Write the metrics as TensorBoard events and return the folder for ``tensorboard --logdir``."""
        writer_of = require("tensorboardX", package="sextet-common", extra="tensorboard").SummaryWriter
        folder = self.path / "tensorboard"
        for old in folder.glob("events.*"):
            old.unlink()
        expected = "lines of numbers with a step"
        with reading(self.path / _METRICS, expected, KeyError, TypeError), writer_of(str(folder)) as writer:
            for row in self.metrics():
                for name, value in row.items():
                    if name != "step" and isinstance(value, int | float):
                        writer.add_scalar(name, float(value), int(row["step"]))
        return folder


def to_json(config: Any) -> dict[str, Any]:
    """Convert a dataclass or mapping to plain JSON values: paths become strings, tuples become lists.

    Examples
    --------
    >>> to_json({"out": Path("runs"), "sizes": (1, 2)})
    {'out': 'runs', 'sizes': [1, 2]}
    """
    plain = (
        dataclasses.asdict(config)
        if dataclasses.is_dataclass(config) and not isinstance(config, type)
        else dict(config)
    )
    try:
        converted = json.loads(json.dumps(plain, default=_path_to_text))
    except (TypeError, ValueError) as error:
        raise InputError(f"the configuration cannot be stored: {error}", "plain JSON values and paths") from error
    return dict(converted)


def fingerprint(*arrays: np.ndarray | torch.Tensor) -> str:
    """Return the SHA-256 of the bytes of NumPy arrays or torch tensors, as 64 hexadecimal digits.

    A run records it to recognise its data.

    Examples
    --------
    >>> fingerprint(np.zeros(2, dtype=np.float32), np.zeros(1, dtype=np.int64))[:12]
    '374708fff771'
    """
    content = hashlib.sha256()
    for array in arrays:
        content.update(np.ascontiguousarray(array if isinstance(array, np.ndarray) else array.cpu().numpy()).data)
    return content.hexdigest()


def _path_to_text(value: object) -> str:
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    raise TypeError(f"{type(value).__name__} has no JSON form")


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Let a loop complete its step before Ctrl-C or SIGTERM stops it.

    The first signal sets a flag. The loop queries it after every step, writes its checkpoint and leaves; the block then
    raises KeyboardInterrupt. A second signal interrupts immediately. Outside the main thread, where Python delivers no
    signals, the flag stays False.

    Examples
    --------
    >>> with interruptible() as stopping:
    ...     for step in range(3):
    ...         if stopping():
    ...             break
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    handlers = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt
