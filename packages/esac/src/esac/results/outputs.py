"""Files of a run folder in Stable-Baselines3's formats, so that existing scripts read them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sextet_common import files
from sextet_common.errors import InputError, reading
from sextet_common.runs import Run

from esac.play.rollout import Episode

_SERIES = ("mean", "sac")
_SB3_NAMES = {"time/env_steps": "time/total_timesteps", "time/seconds": "time/time_elapsed"}


@dataclass
class Evaluations:
    """All evaluations of a run.

    Attributes
    ----------
    when
        (environment steps, seconds, processor seconds) of learning, without evaluations, at each evaluation.
    returns, lengths
        Those of the episodes of each evaluation, under "mean" (the population's) and "sac" (gradient-trained).
    """

    when: list[tuple[float, float, float]] = field(default_factory=list)
    returns: dict[str, list[list[float]]] = field(default_factory=dict)
    lengths: dict[str, list[list[int]]] = field(default_factory=dict)

    def add(self, when: tuple[float, float, float], episodes: Mapping[str, Sequence[Episode]]) -> None:
        """Add an evaluation."""
        self.when.append(when)
        for name, each in episodes.items():
            self.returns.setdefault(name, []).append([e.total for e in each])
            self.lengths.setdefault(name, []).append([e.length for e in each])

    def state(self) -> dict[str, np.ndarray]:
        """Return all evaluations as arrays, empty if there is none yet."""
        arrays = {"when": np.array(self.when, dtype=np.float64).reshape(-1, 3)}
        for name in self.returns:
            arrays[f"returns.{name}"] = np.array(self.returns[name], dtype=np.float64)
            arrays[f"lengths.{name}"] = np.array(self.lengths[name], dtype=np.int64)
        return arrays

    def load_state(self, arrays: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.when = [(float(a), float(b), float(c)) for a, b, c in arrays["when"].tolist()]
        self.returns, self.lengths = {}, {}
        for name in _SERIES:
            if f"returns.{name}" in arrays:
                shapes = [tuple(arrays[f"{kind}.{name}"].shape) for kind in ("returns", "lengths")]
                if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] != len(self.when):
                    raise InputError(f"evaluations of shapes {shapes}", f"a row for each of {len(self.when)}")
                self.returns[name] = arrays[f"returns.{name}"].tolist()
                self.lengths[name] = arrays[f"lengths.{name}"].tolist()

    def sb3(self) -> dict[str, np.ndarray]:
        """Return the arrays of Stable-Baselines3's evaluations.npz, with some more.

        ``results`` are those of the policy with the higher mean return at each evaluation; ``results_mean`` and
        ``results_sac`` are those of either policy.
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
    """monitor.csv, to which every generation is appended, and the files that `flush` writes.

    ``generation`` is the next generation of a run that resumes: monitor.csv drops later rows.
    """

    def __init__(self, run: Run, env: str, generation: int) -> None:
        self.run = run
        self.monitor = run.path / "monitor.csv"
        rows = ["r,l,t,generation,origin"]
        if self.monitor.exists():
            with reading(self.monitor, "the file that this run wrote"):
                kept = self.monitor.read_text(encoding="utf-8").splitlines()[2:]
                rows += [row for row in kept if row.count(",") == 4 and int(row.split(",")[3]) < generation]
        head = json.dumps({"t_start": 0.0, "env_id": env})
        files.write_text(self.monitor, "\n".join([f"#{head}", *rows]) + "\n")

    def append(self, generation: int, seconds: float, episodes: Sequence[tuple[str, Episode]]) -> None:
        """Append the episodes of a generation, each with its origin."""
        with files.writing(self.monitor), open(self.monitor, "a", encoding="utf-8") as file:
            for origin, e in episodes:
                file.write(f"{e.total:.6f},{e.length},{seconds:.3f},{generation},{origin}\n")

    def flush(self, evaluations: Evaluations) -> None:
        """Write progress.csv and evaluations.npz."""
        write_progress(self.run)
        if evaluations.when:
            content = io.BytesIO()
            np.savez(content, **evaluations.sb3())  # type: ignore[arg-type]
            with files.replacing(self.run.path / "evaluations.npz") as temporary:
                temporary.write_bytes(content.getvalue())


def write_progress(run: Run) -> Path:
    """Write the metrics of a run as progress.csv: a row per generation, empty where a value is missing.

    Steps and seconds also appear under Stable-Baselines3's names, ``time/total_timesteps`` and ``time/time_elapsed``.
    """
    rows = []
    for metrics in run.metrics():
        row = {name: value for name, value in metrics.items() if name not in ("step", "seconds")}
        row |= {theirs: row[ours] for ours, theirs in _SB3_NAMES.items() if ours in row}
        rows.append({"time/generation": metrics["step"], **row})
    names = sorted({name for row in rows for name in row if name != "time/generation"})
    content = io.StringIO()
    table = csv.DictWriter(content, ["time/generation", *names], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    path = run.path / "progress.csv"
    files.write_text(path, content.getvalue())
    return path
