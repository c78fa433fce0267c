"""What a run folder is given: Stable-Baselines3's files, so that its users' scripts read them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from sextet_common import files
from sextet_common.errors import InputError, reading
from sextet_common.runs import Run

from esac.rollout import Episode

_SERIES = ("mean", "sac")


@dataclasses.dataclass
class Evaluations:
    """All evaluations of a run: when, and each episode's return and length.

    Attributes
    ----------
    when
        Environment steps, and seconds and processor seconds of learning without evaluations, at each evaluation.
    returns, lengths
        Of each evaluation's episodes, for "mean" (of the population) and "sac" (gradient-trained), as far as they are.
    """

    when: list[tuple[float, float, float]] = dataclasses.field(default_factory=list)
    returns: dict[str, list[list[float]]] = dataclasses.field(default_factory=dict)
    lengths: dict[str, list[list[int]]] = dataclasses.field(default_factory=dict)

    def add(self, when: tuple[float, float, float], episodes: dict[str, list[Episode]]) -> None:
        """Add an evaluation."""
        self.when.append(when)
        for name, each in episodes.items():
            self.returns.setdefault(name, []).append([e.total for e in each])
            self.lengths.setdefault(name, []).append([e.length for e in each])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything as arrays, empty where there is no evaluation yet."""
        found = {"when": np.array(self.when, dtype=np.float64).reshape(-1, 3)}
        for name in self.returns:
            found[f"returns.{name}"] = np.array(self.returns[name], dtype=np.float64)
            found[f"lengths.{name}"] = np.array(self.lengths[name], dtype=np.int64)
        return found

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> Evaluations:
        """Make evaluations from such arrays.

        Raises
        ------
        InputError
            Where their shapes do not fit one another.
        """
        found = cls([(float(a), float(b), float(c)) for a, b, c in arrays["when"].tolist()])
        for name in _SERIES:
            if f"returns.{name}" in arrays:
                shapes = [arrays[f"{kind}.{name}"].shape for kind in ("returns", "lengths")]
                if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] != len(found.when):
                    raise InputError(f"evaluations of shapes {shapes}", f"a row for each of {len(found.when)}")
                found.returns[name] = arrays[f"returns.{name}"].tolist()
                found.lengths[name] = arrays[f"lengths.{name}"].tolist()
        return found

    def sb3(self) -> dict[str, np.ndarray]:
        """Return Stable-Baselines3's arrays, with some more.

        ``results`` are those of whichever of the two policies had the higher mean at that evaluation; ``results_mean``
        and ``results_sac`` are each one's own.
        """
        steps, seconds, processor = np.array(self.when, dtype=np.float64).reshape(-1, 3).T
        names = list(self.returns)
        means = np.array([[float(np.mean(row)) for row in self.returns[name]] for name in names])
        better = [names[k] for k in means.argmax(axis=0).tolist()] if names else []
        return {
            "timesteps": steps.astype(np.int64),
            "results": np.array([self.returns[name][i] for i, name in enumerate(better)], dtype=np.float64),
            "ep_lengths": np.array([self.lengths[name][i] for i, name in enumerate(better)], dtype=np.int64),
            "seconds": seconds,
            "cpu_seconds": processor,
            **{f"results_{name}": np.array(self.returns[name]) for name in names},
        }


class Outputs:
    """A run folder's files: metrics.jsonl and monitor.csv as they come, the others when `flush` is called.

    Parameters
    ----------
    run
        The run folder, already rewound to where learning goes on.
    env
        The environment's name.
    generation
        The first generation to come; monitor.csv forgets those from it on.
    """

    def __init__(self, run: Run, env: str, generation: int) -> None:
        self.run = run
        self.monitor = run.path / "monitor.csv"
        rows = [",".join(("r", "l", "t", "generation", "origin"))]
        if self.monitor.exists():
            with reading(self.monitor, "the file that this run wrote"):
                kept = self.monitor.read_text(encoding="utf-8").splitlines()[2:]
                rows += [row for row in kept if row.count(",") == 4 and int(row.split(",")[3]) < generation]
        head = json.dumps({"t_start": 0.0, "env_id": env})
        files.write_text(self.monitor, "\n".join([f"#{head}", *rows]) + "\n")

    def generation(self, number: int, values: dict[str, float], episodes: list[tuple[str, Episode]]) -> None:
        """Take what a generation brought: values, and its episodes with their origins."""
        finite = {key: value for key, value in values.items() if math.isfinite(value)}
        self.run.log(number, **finite)
        seconds = values["time/seconds"]
        with open(self.monitor, "a", encoding="utf-8") as file:
            for origin, e in episodes:
                file.write(f"{e.total:.6f},{e.length},{seconds:.3f},{number},{origin}\n")

    def flush(self, evaluations: Evaluations) -> None:
        """Write progress.csv and evaluations.npz."""
        write_progress(self.run)
        if evaluations.when:
            content = io.BytesIO()
            np.savez(content, **evaluations.sb3())  # type: ignore[arg-type]
            with files.replacing(self.run.path / "evaluations.npz") as temporary:
                temporary.write_bytes(content.getvalue())


def write_progress(run: Run) -> Path:
    """Write a run's metrics as progress.csv: a row a generation, a column a name, empty where there is no value.

    Steps and seconds stand there under Stable-Baselines3's names too, ``time/total_timesteps`` and
    ``time/time_elapsed``.

    Returns
    -------
    Path
        The file.
    """
    rows: list[dict[str, Any]] = run.metrics()
    for row in rows:
        for ours, theirs in (("time/env_steps", "time/total_timesteps"), ("time/seconds", "time/time_elapsed")):
            if ours in row:
                row[theirs] = row[ours]
    names = sorted({name for row in rows for name in row if name != "step"})
    content = io.StringIO()
    table = csv.DictWriter(content, ["time/generation", *names], lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({"time/generation": row["step"], **{k: v for k, v in row.items() if k != "step"}})
    path = run.path / "progress.csv"
    files.write_text(path, content.getvalue())
    return path
