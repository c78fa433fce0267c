"""What run folders hold, read back with care: their evaluations, metrics, environment and label."""

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
from sextet_common.errors import InputError, reading
from sextet_common.runs import Run

from esac.statistics import Band, band, on_grid

Folder = str | os.PathLike[str]
XAxis = Literal["steps", "seconds", "cpu_seconds"]
Labels = Mapping[Any, str] | Callable[[Path], str] | None
"""What a run is called: by its folder (a path or text), or told of its folder; its mode where nothing is said."""

LARGEST = 1e100
"""The largest number that is read: beyond it sums overflow and axes fail."""

_STORED = {"timesteps": "steps", "results": "mean", "seconds": "seconds", "cpu_seconds": "cpu_seconds"}
_LONGEST = 100  # letters of a name
_POINTS = 200  # of a curve, so that a band over many evaluations stays quick
_UNKNOWN = "environment not recorded"


@dataclass(frozen=True)
class Record:
    """What a run folder holds.

    Attributes
    ----------
    path
        The folder.
    env, label
        Its environment, and what the run is called.
    seed
        The run's, None where the folder does not say.
    rows
        Its metrics, a row a generation.
    evaluations
        Arrays of one length: ``steps``, ``mean`` (return of an evaluation's episodes, NaN where that is not finite),
        and ``seconds`` and ``cpu_seconds`` where the file has them; empty where there is no evaluation.
    """

    path: Path
    env: str
    label: str
    seed: int | None
    rows: list[dict[str, Any]]
    evaluations: dict[str, Float[np.ndarray, " n"]]

    def column(self, name: str) -> Float[np.ndarray, " rows"]:
        """Return a metric of every generation, NaN where it is absent.

        Raises
        ------
        InputError
            Where a value is no number, or too large a one.
        """
        found = [row.get(name, math.nan) for row in self.rows]
        for value in found:
            if not isinstance(value, int | float) or abs(value) > LARGEST:
                raise InputError(f"{self.path}: {name} is {repr(value)[:80]}", f"numbers up to {LARGEST:g}")
        return np.array(found, dtype=np.float64)

    def steps(self) -> tuple[Float[np.ndarray, " known"], Bool[np.ndarray, " rows"]]:
        """Return the environment steps after each generation that tells them, and which ones do.

        Raises
        ------
        InputError
            Where none does, or the steps fall.
        """
        found = self.column("time/env_steps")
        known = np.isfinite(found)
        if not known.any() or (np.diff(found[known], prepend=0.0) < 0).any():
            raise InputError(f"{self.path}: time/env_steps are absent or fall", "the metrics that esac train wrote")
        return found[known], known

    def has(self, *names: str) -> bool:
        """Tell whether a generation has one of these metrics."""
        return any(name in row for row in self.rows for name in names)


def read(folders: Sequence[Folder], label: Labels = None) -> list[Record]:
    """Read run folders.

    Parameters
    ----------
    folders
        Folders that ``esac train`` wrote, or with an evaluations.npz of Stable-Baselines3's EvalCallback and no
        config.json: such a one is called by its name, and belongs to the others' environment where they have but one.
    label
        Folder to label, or a function of the folder; the run's mode where nothing is said.

    Returns
    -------
    list of Record
        In the order of the folders.

    Raises
    ------
    InputError
        Where there is no folder, one holds no run or a damaged one, is given twice, or two runs of one environment and
        label have the same seed, so that they differ in more than that.

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
    places: set[Path] = set()
    seeds: dict[tuple[str, str, int], Path] = {}
    for record in records:
        place = record.path.resolve()
        if place in places:
            raise InputError(f"{record.path} is given twice", "each run once")
        places.add(place)
        if record.seed is not None:
            other = seeds.setdefault((record.env, record.label, record.seed), record.path)
            if other != record.path:
                raise InputError(
                    f"{other} and {record.path} are both {record.label} with seed {record.seed} on {record.env}",
                    "runs that differ in their seeds, or in their labels",
                )
    return records


def grouped(records: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
    """Sort records by environment, then by label, each in the order of its first record."""
    found: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        found.setdefault(record.env, {}).setdefault(record.label, []).append(record)
    return found


def seeds_curve(records: Sequence[Record], axis: XAxis) -> tuple[Float[np.ndarray, " points"], Band]:
    """Return the mean return of runs over an axis, with its 95 % bootstrap band.

    Parameters
    ----------
    records
        Runs that differ in their seeds, each with evaluations by this axis.
    axis
        One of `Record.evaluations`.

    Returns
    -------
    points
        Where one of the runs was evaluated and all have been, at most 200: so the same seeds count everywhere.
    band
        Mean and band there, of each run's last evaluation so far.

    Raises
    ------
    InputError
        Where one run ends before another's first evaluation.
    """
    own = [record.evaluations[axis] for record in records]
    start, stop = max(x[0] for x in own), min(x[-1] for x in own)
    if start > stop:
        paths = ", ".join(str(record.path) for record in records)
        raise InputError(f"{paths} have no {axis} in common", "runs of similar length, or other labels")
    points = np.unique(np.concatenate(own))
    points = points[(points >= start) & (points <= stop)]
    if len(points) > _POINTS:
        points = np.linspace(start, stop, _POINTS)
    curves = [on_grid(x, each.evaluations["mean"], points) for x, each in zip(own, records, strict=True)]
    return points, band(np.stack(curves))


def _record(path: Path, label: Labels) -> Record:
    config, stored = path / "config.json", path / "evaluations.npz"
    if not config.exists() and not stored.exists():
        raise InputError(f"{path} holds no run", "a folder with config.json, or Stable-Baselines3's evaluations.npz")
    env, name, seed = _UNKNOWN, path.resolve().name, None
    rows: list[dict[str, Any]] = []
    if config.exists():
        with reading(config, "the file that esac train wrote"):
            run = Run.read(path)
            env, name, seed = run.config["env"], run.config["config"]["mode"], run.config["seed"]
            if not isinstance(seed, int):
                raise InputError(f"{config} has seed {repr(seed)[:80]}", "a whole number")
        with reading(path / "metrics.jsonl", "the file that esac train wrote"):
            rows = run.metrics()
    if callable(label):
        name = label(path)
    elif label is not None:
        name = {Path(key): value for key, value in label.items()}.get(path, name)
    for text in (env, name):
        if not isinstance(text, str) or not text.isprintable() or not 0 < len(text) <= _LONGEST:
            raise InputError(f"{path} is called {repr(text)[:80]}", f"a name of 1 to {_LONGEST} printable letters")
    return Record(path, env, name, seed, rows, _evaluations(stored) if stored.exists() else {})


def _evaluations(path: Path) -> dict[str, Float[np.ndarray, " n"]]:
    expected = "Stable-Baselines3's arrays timesteps (n,) in order, results (n, episodes)"
    if not path.is_file():
        raise InputError(f"{path} is no file", expected)
    names = ("timesteps", "results")
    arrays = npy.read_npz(path, names, [name for name in _STORED if name not in names], expected=expected)
    with reading(path, expected):
        found = {ours: _numbers(arrays[name]) for name, ours in _STORED.items() if name in arrays}
        count = len(found["steps"])
        if found["mean"].ndim != 2 or not found["mean"].shape[1]:
            raise ValueError(f"results have shape {found['mean'].shape}")
        finite = np.isfinite(found["mean"]).all(axis=1)
        found["mean"] = np.where(finite, np.where(finite[:, None], found["mean"], 0.0).mean(axis=1), np.nan)
        for name, values in found.items():
            if values.shape != (count,):
                raise ValueError(f"{name} of {len(values)} evaluations, steps of shape {found['steps'].shape}")
            if name != "mean" and not (np.isfinite(values).all() and (np.diff(values, prepend=0.0) >= 0).all()):
                raise ValueError(f"{name} fall, are below 0 or are not finite")
    return found if count else {}


def _numbers(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iuf" or (np.abs(array[np.isfinite(array)].astype(np.float64)) > LARGEST).any():
        raise ValueError(f"values of type {array.dtype}, or beyond {LARGEST:g}")
    return array.astype(np.float64)
