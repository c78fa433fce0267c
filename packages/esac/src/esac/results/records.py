"""Reading run folders: evaluations, metrics, environment and label, checked since files may be damaged."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from sextet_common import npy
from sextet_common.errors import STRUCTURE, InputError, reading
from sextet_common.runs import Run

from esac.results.statistics import Band, band, on_grid

Folder = str | os.PathLike[str]
XAxis = Literal["steps", "seconds", "cpu_seconds"]
Labels = Mapping[Any, str] | Callable[[Path], str] | None
"""Labels of runs: a table by folder (a path or text), or a function of the folder; by default a run's mode."""

LARGEST = 1e100
"""The largest number that is accepted: beyond it sums overflow and axes fail."""

_STORED = {"timesteps": "steps", "results": "mean", "seconds": "seconds", "cpu_seconds": "cpu_seconds"}
_LONGEST = 100  # characters of a name
_POINTS = 200  # of a curve: bounds the time of its band
_UNKNOWN = "environment not recorded"


@dataclass(frozen=True)
class Record:
    """Content of a run folder.

    Attributes
    ----------
    seed
        Seed of the run; None if the folder does not record it.
    rows
        Metrics, a row per generation.
    evaluations
        Arrays of equal length: ``steps``, ``mean`` (mean return of each evaluation, NaN if not finite), and
        ``seconds`` and ``cpu_seconds`` if the file has them; empty without evaluations.
    """

    path: Path
    env: str
    label: str
    seed: int | None
    rows: list[dict[str, Any]]
    evaluations: dict[str, Float[np.ndarray, " n"]]

    def column(self, name: str) -> Float[np.ndarray, " rows"]:
        """Return a metric of every generation, NaN where it is missing."""
        values = [row.get(name, math.nan) for row in self.rows]
        for value in values:
            if not isinstance(value, int | float) or abs(value) > LARGEST:
                raise InputError(f"{self.path}: {name} is {repr(value)[:80]}", f"numbers up to {LARGEST:g}")
        return np.array(values, dtype=np.float64)

    def steps(self) -> tuple[Float[np.ndarray, " known"], Bool[np.ndarray, " rows"]]:
        """Return the environment steps after each generation that records them, and a mask of these generations."""
        steps = self.column("time/env_steps")
        known = np.isfinite(steps)
        if not known.any() or (np.diff(steps[known], prepend=0.0) < 0).any():
            raise InputError(
                f"{self.path}: time/env_steps is missing or decreases", "the metrics that esac train wrote"
            )
        return steps[known], known

    def has(self, *names: str) -> bool:
        """Return whether a generation has one of these metrics."""
        return any(name in row for row in self.rows for name in names)


def read(folders: Sequence[Folder], label: Labels = None) -> list[Record]:
    """Read run folders.

    Refused are damaged runs, a folder given twice, and two runs of one environment and label with the same seed: they
    must differ in something else.

    Parameters
    ----------
    folders
        Folders that ``esac train`` wrote, or that hold only the evaluations.npz of Stable-Baselines3's EvalCallback.
        The latter are labelled by their name and share the other folders' environment if that is unique.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "sb3"
    >>> folder.mkdir()
    >>> np.savez(folder / "evaluations.npz", timesteps=[100, 200], results=[[1.0, 3.0], [4.0, 4.0]])
    >>> [record] = read([folder])
    >>> record.label, record.evaluations["mean"]
    ('sb3', array([2., 4.]))
    """
    if not folders:
        raise InputError("no run folder", "one or more")
    records = [_record(Path(folder), label) for folder in folders]
    named = {record.env for record in records} - {_UNKNOWN}
    if len(named) == 1:
        records = [replace(record, env=next(iter(named))) for record in records]
    paths: set[Path] = set()
    seeds: dict[tuple[str, str, int], Path] = {}
    for record in records:
        path = record.path.resolve()
        if path in paths:
            raise InputError(f"{record.path} is given twice", "each run once")
        paths.add(path)
        if record.seed is not None:
            other = seeds.setdefault((record.env, record.label, record.seed), record.path)
            if other != record.path:
                raise InputError(
                    f"{other} and {record.path} are both {record.label} with seed {record.seed} on {record.env}",
                    "runs that differ in their seeds, or in their labels",
                )
    return records


def grouped(records: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
    """Group records by environment, then by label, in the order of their first records."""
    groups: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        groups.setdefault(record.env, {}).setdefault(record.label, []).append(record)
    return groups


def seeds_curve(records: Sequence[Record], axis: XAxis) -> tuple[Float[np.ndarray, " points"], Band]:
    """Return the mean return of runs over an axis of `Record.evaluations`, with its 95 % bootstrap band.

    The points, at most 200, are those at which one run was evaluated and all have been, so that the same seeds count
    everywhere. Each run contributes its last evaluation so far.
    """
    axes = [record.evaluations[axis] for record in records]
    start, stop = max(x[0] for x in axes), min(x[-1] for x in axes)
    if start > stop:
        paths = ", ".join(str(record.path) for record in records)
        raise InputError(f"{paths} have no {axis} in common", "runs of similar length, or other labels")
    points = np.unique(np.concatenate(axes))
    points = points[(points >= start) & (points <= stop)]
    if len(points) > _POINTS:
        points = np.linspace(start, stop, _POINTS)
    curves = [on_grid(x, each.evaluations["mean"], points) for x, each in zip(axes, records, strict=True)]
    return points, band(np.stack(curves))


def _record(path: Path, label: Labels) -> Record:
    config, stored = path / "config.json", path / "evaluations.npz"
    if not config.exists() and not stored.exists():
        raise InputError(f"{path} holds no run", "a folder with config.json, or Stable-Baselines3's evaluations.npz")
    env, name, seed = _UNKNOWN, path.resolve().name, None
    rows: list[dict[str, Any]] = []
    if config.exists():
        run = Run.read(path)
        with reading(config, "the file that esac train wrote", KeyError, TypeError):
            env, name, seed = run.config["env"], run.config["config"]["mode"], run.config["seed"]
        if not isinstance(seed, int):
            raise InputError(f"{config} has seed {repr(seed)[:80]}", "a whole number")
        rows = run.metrics()
    if callable(label):
        name = label(path)
    elif label is not None:
        name = {Path(key): value for key, value in label.items()}.get(path, name)
    for text in (env, name):
        if not isinstance(text, str) or not text.isprintable() or not 0 < len(text) <= _LONGEST:
            raise InputError(f"{path} is named {repr(text)[:80]}", f"1 to {_LONGEST} printable characters")
    return Record(path, env, name, seed, rows, _evaluations(stored) if stored.exists() else {})


def _evaluations(path: Path) -> dict[str, Float[np.ndarray, " n"]]:
    expected = "Stable-Baselines3's arrays timesteps (n,) in order, results (n, episodes)"
    if not path.is_file():
        raise InputError(f"{path} is not a file", expected)
    names = ("timesteps", "results")
    arrays = npy.read_npz(path, names, [name for name in _STORED if name not in names], expected=expected)
    with reading(path, expected, *STRUCTURE):
        columns = {ours: _numbers(arrays[name]) for name, ours in _STORED.items() if name in arrays}
        count, results = len(columns["steps"]), columns["mean"]
        if results.ndim != 2 or not results.shape[1]:
            raise ValueError(f"results have shape {results.shape}")
        finite = np.isfinite(results).all(axis=1)
        columns["mean"] = np.where(finite, np.where(finite[:, None], results, 0.0).mean(axis=1), np.nan)
        for name, values in columns.items():
            if values.shape != (count,):
                raise ValueError(f"{name} of {len(values)} evaluations, steps of shape {columns['steps'].shape}")
            if name != "mean" and not (np.isfinite(values).all() and (np.diff(values, prepend=0.0) >= 0).all()):
                raise ValueError(f"{name} decrease, are negative or are not finite")
    return columns if count else {}


def _numbers(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iuf" or (np.abs(array[np.isfinite(array)].astype(np.float64)) > LARGEST).any():
        raise ValueError(f"values of type {array.dtype}, or beyond {LARGEST:g}")
    return array.astype(np.float64)
