"""Run folders: the configuration (config.json), the metrics (metrics.jsonl) and the checkpoints of a job.

Opening a run folder again with the same configuration resumes the run; a different configuration is refused, so that a
folder never mixes two experiments. One job at a time may open it: a lock in the folder (.lock) keeps out a second one.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from sextet_common import checkpoint, checks, files, pixels
from sextet_common.errors import STRUCTURE, InputError, reading

if TYPE_CHECKING:
    import torch
    from filelock import FileLock

Key: TypeAlias = "tuple[str, ...]"  # of a setting: its name after those that it is nested in
_CONFIG = "config.json"
_METRICS = "metrics.jsonl"
_NON_FINITE = {json.dumps(value): value for value in (math.nan, math.inf, -math.inf)}


@dataclasses.dataclass(frozen=True)
class Run:
    """The folder of one job, created by :meth:`open`; as a context manager it is closed at the end.

    ``job`` is the name of the job, such as ``attention-matching distill``. ``config`` holds plain JSON values.
    """

    path: Path
    job: str
    config: dict[str, Any]
    _lock: FileLock | None = dataclasses.field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str], job: str, config: Any, *, settings: Any = None) -> Run:
        """Create a run folder, or open an existing one to resume it, and lock it until the run is closed.

        ``config`` is a dataclass or a mapping of plain JSON values. An existing folder must hold a run of the same job
        and configuration, but settings marked `checks.Running` may differ, and those marked `checks.Growing` may rise,
        or fall to what is done: config.json then holds the new ones and lists the earlier ones.

        Where ``config`` is no dataclass, ``settings`` has the marks: the dataclass whose fields are keys of ``config``,
        or a mapping of keys of ``config`` to "running", "growing" or the dataclass that is stored there.

        Examples
        --------
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "digits"
        >>> with Run.open(folder, "demo", {"lr": 0.1, "steps": 5}) as run:
        ...     run.log(1, loss=0.5)
        >>> with Run.open(folder, "demo", {"lr": 0.1, "steps": 6}, settings={"steps": "growing"}) as run:
        ...     print(run.config)
        {'lr': 0.1, 'steps': 6}
        >>> Run.open(folder, "demo", {"lr": 0.2, "steps": 6})
        Traceback (most recent call last):
        sextet_common.errors.InputError: ... holds a run with lr=0.1, not 0.2; expected: another folder, or ...
        """
        values, marks = to_json(config), _marks(config, settings)
        with files.writing(path):
            folder = Path(path)
            if folder.exists() and not folder.is_dir():
                raise InputError(f"{folder} is a file", "a run folder, new or existing")
            if not (folder / _CONFIG).exists() and folder.is_dir() and any(p.name[0] != "." for p in folder.iterdir()):
                raise InputError(f"{folder} is not empty and holds no run", "a new or empty folder")
            folder.mkdir(parents=True, exist_ok=True)
            run = cls(folder, job, values, files.lock(folder))
        try:
            if (folder / _CONFIG).exists():
                cls.read(folder)._change(job, values, marks)
            else:
                files.write_text(folder / _CONFIG, json.dumps({"job": job, "config": values}, indent=2) + "\n")
        except BaseException:
            run.close()
            raise
        for place in (folder, run.checkpoints):
            files.remove_leftovers(place, alone=run._lock is not None)
        return run

    def _change(self, job: str, values: dict[str, Any], marks: dict[Key, str]) -> None:
        """Refuse another job or configuration than the folder's, and record settings that may differ."""
        if self.job != job:
            raise InputError(f"{self.path} holds a run of {self.job!r}, not {job!r}", "another folder")
        old, new = _flat(self.config), _flat(values)
        changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        if not changed:
            return
        newest = checkpoint.latest(self.checkpoints)
        done = len(self.metrics()) if newest is None else int(newest.stem.partition("-")[2])
        refused = []
        for key in changed:
            before, after, mark = old.get(key), new.get(key), marks.get(key)
            if mark == "growing" and isinstance(before, int | float) and isinstance(after, int | float):
                if after < min(before, done):
                    raise InputError(f"{self.path} has {done} {key[-1]} done, not {after}", f"{key[-1]} >= {done}")
            elif mark != "running":
                refused.append(f"{'.'.join(key)}={before!r}, not {after!r}")
        if refused:
            expected = "another folder, or the same settings to resume it"
            raise InputError(f"{self.path} holds a run with {', '.join(refused)}", expected)
        table = json.loads((self.path / _CONFIG).read_text(encoding="utf-8"))
        earlier = {"steps_done": done, "config": {".".join(key): old[key] for key in changed if key in old}}
        table |= {"config": values, "earlier": [*table.get("earlier", []), earlier]}
        files.write_text(self.path / _CONFIG, json.dumps(table, indent=2) + "\n")

    def close(self) -> None:
        """Release the lock, so that another job may open the folder. This run can still be read."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Run:
        """Read an existing run folder, without a lock: a job may be running in it."""
        path = Path(path)
        if not os.path.isfile(path / _CONFIG):
            raise InputError(f"{path} holds no run ({_CONFIG} is missing)", "a run folder")
        with reading(path / _CONFIG, "the file that the run wrote", *STRUCTURE):
            table = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
            return cls(path, str(table["job"]), dict(table["config"]))

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.path / "checkpoints"

    def log(self, step: int, **values: Any) -> None:
        """Append a step and named numbers or words as one line to metrics.jsonl.

        Arrays and tensors without axes are numbers. Non-finite numbers, which JSON lacks, are stored as words.

        Examples
        --------
        >>> import tempfile
        >>> run = Run.open(tempfile.mkdtemp(), "demo", {})
        >>> run.log(1, loss=np.float32(0.5), distance=float("inf"))
        >>> run.metrics()
        [{'step': 1, 'loss': 0.5, 'distance': inf}]
        """
        path = self.path / _METRICS
        line = _line({"step": step, **values}).encode()
        with files.writing(path), open(path, "ab", buffering=0) as file:
            whole = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with suppress(OSError):
                    file.truncate(whole)
                raise

    def metrics(self) -> list[dict[str, Any]]:
        """Return the logged lines, oldest first, without lines that are damaged or that a kill left incomplete."""
        path = self.path / _METRICS
        rows = []
        with reading(path, "lines of named values"):
            for line in path.read_bytes().splitlines() if path.exists() else ():
                with suppress(ValueError):
                    rows.append(json.loads(line))
        named = (row.items() for row in rows if isinstance(row, dict))
        return [{k: _NON_FINITE.get(v, v) if isinstance(v, str) else v for k, v in items} for items in named]

    def rewind(self, step: int) -> None:
        """Delete the metrics after a step, so that a job resumed from its checkpoint logs nothing twice."""
        with reading(self.path / _METRICS, "lines with a step", KeyError, TypeError):
            kept = [row for row in self.metrics() if row["step"] <= step]
        files.write_text(self.path / _METRICS, "".join(map(_line, kept)))

    def resume(self, framework: Literal["numpy", "torch"] = "torch") -> checkpoint.Checkpoint | None:
        """Load the newest whole checkpoint, if any, and rewind the metrics to it; see `checkpoint.load_newest`.

        The checkpoint's ``meta["step"]`` is the number of completed steps.
        """
        loaded = checkpoint.load_newest(self.checkpoints, framework)
        self.rewind(-1 if loaded is None else loaded.meta["step"])
        return loaded


def to_json(config: Any) -> dict[str, Any]:
    """Convert a dataclass or mapping to plain JSON values: paths become strings, tuples become lists."""
    is_instance = dataclasses.is_dataclass(config) and not isinstance(config, type)
    plain = dataclasses.asdict(config) if is_instance else dict(config)
    try:
        return dict(json.loads(json.dumps(plain, default=os.fspath)))
    except (TypeError, ValueError) as error:
        raise InputError(f"the configuration cannot be stored: {error}", "plain JSON values and paths") from error


def fingerprint(*arrays: np.ndarray | torch.Tensor) -> str:
    """Return the SHA-256 of the bytes of NumPy arrays or torch tensors, by which a run recognises its data.

    Examples
    --------
    >>> fingerprint(np.zeros(2, dtype=np.float32), np.zeros(1, dtype=np.int64))[:12]
    '374708fff771'
    """
    return pixels.fingerprint(*(np.atleast_1d(a if isinstance(a, np.ndarray) else a.cpu().numpy()) for a in arrays))


def _line(row: Mapping[str, Any]) -> str:
    """Return a row of metrics as a line of JSON."""
    plain = {}
    for name, value in row.items():
        number = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
        plain[name] = json.dumps(number) if isinstance(number, float) and not math.isfinite(number) else number
    try:
        return json.dumps(plain, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"the metrics cannot be stored: {error}", "numbers and words") from error


def _flat(values: Mapping[str, Any], *before: str) -> dict[Key, Any]:
    """Return the values of nested mappings by the path of their keys."""
    flat: dict[Key, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, *before, key) if value and isinstance(value, dict) else {(*before, key): value}
    return flat


def _marks(config: Any, settings: Any) -> dict[Key, str]:
    """Return "running" or "growing" for each setting that may change; see `Run.open`."""
    if not isinstance(settings, Mapping):
        source = config if settings is None else settings
        kind = source if isinstance(source, type) else type(source)
        return checks.changeable(kind) if dataclasses.is_dataclass(kind) else {}
    marks: dict[Key, str] = {}
    for key, value in settings.items():
        nested = {(): value} if isinstance(value, str) else _marks(None, value)
        marks |= {(key, *rest): mark for rest, mark in nested.items()}
    return marks


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Let a loop complete its step before Ctrl-C or SIGTERM stops it.

    The first signal sets a flag, which the loop queries after every step to leave; the block then raises
    KeyboardInterrupt. A second signal interrupts immediately. Outside the main thread Python delivers no signals.
    """
    received: list[int] = []

    def remember(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt
