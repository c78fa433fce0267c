"""The run loop of every long job: resume, step, log, save pictures and checkpoints, stop on a signal.

A job is a step function and its state; :func:`run` does the rest. Every draw of a job should be keyed by the number of
the step (see `sextet_common.seeding`): then a run that was killed and resumed ends bit-identically.

Examples
--------
>>> import numpy as np
>>> class Average(Job):
...     steps, seed = 3, 0
...
...     def __init__(self):
...         self.mean = np.zeros(2)
...
...     def step(self, number):
...         self.mean += (np.random.default_rng((self.seed, number)).normal(size=2) - self.mean) / (number + 1)
...         return {"loss": float(np.square(self.mean).sum())}
...
...     def state(self):
...         return {"mean": self.mean}
...
...     def load_state(self, state):
...         self.mean = state["mean"]
>>> run(Average())
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sextet_common import checkpoint, checks, figures, loggers, progress, runs
from sextet_common.errors import STRUCTURE, InputError, reading

if TYPE_CHECKING:
    import torch

    from sextet_common.processes import Processes

Metrics: TypeAlias = "Mapping[str, float | torch.Tensor]"


class Job:
    """What differs between long jobs. Subclasses give ``steps``, ``seed``, `step`, `state` and `load_state`.

    ``steps`` is the length in the unit of `position`. ``seed`` and ``hint``, such as "an lr below 0.1", stand in the
    error for a non-finite metric, the metrics named in ``shown`` beside the progress bar. ``framework`` is what the
    arrays of a checkpoint are restored as. ``done`` are earlier steps of a job that continues without a checkpoint.
    """

    steps: int
    seed: int
    hint: str = ""
    shown: tuple[str, ...] = ("loss",)
    framework: Literal["torch", "numpy"] = "torch"
    done: int = 0

    def step(self, number: int) -> Metrics:
        """Take the step of this number, from 0, and return its metrics; tensors are read only where they are logged."""
        raise NotImplementedError

    def state(self) -> Mapping[str, Any]:
        """Return what a run resumes from: arrays or tensors, and plain JSON values, by name."""
        raise NotImplementedError

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; ``state["step"]`` is the number of steps done."""
        raise NotImplementedError

    def position(self, done: int) -> int:
        """Return how far the job is, in the unit of ``steps`` and of the cadence, after so many steps."""
        return done

    def finished(self) -> bool:
        """Tell whether the job ends early."""
        return False

    def milestone(self, done: int) -> bool:
        """Tell whether to log after this step whatever the cadence says."""
        return False

    def begin(self, run: runs.Run, done: int) -> None:
        """Prepare the run folder, before the first step; ``done`` steps were restored by `load_state`."""

    def read(self, done: int, metrics: Metrics) -> Mapping[str, float | str]:
        """Turn the metrics of the newest step into numbers, refusing non-finite ones; called where they are logged."""
        values = {name: float(value) for name, value in metrics.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                hint = f": try {self.hint}" if self.hint else ""
                raise InputError(f"the {name} is {value} at step {done}, seed {self.seed}", f"finite numbers{hint}")
        return values

    def picture(self, folder: Path, done: int) -> None:
        """Save a picture of the current state into the run folder."""

    def flush(self, run: runs.Run) -> None:
        """Write the files that must be on disk before the next checkpoint is."""


@dataclasses.dataclass(frozen=True)
class Cadence:
    """How often the loop logs, saves a checkpoint and saves a picture, in the unit of `Job.position`; 0 means never.

    The last step is always logged and saved. Between two logged steps nothing waits for the device.
    """

    log: checks.Natural = 10
    checkpoint: checks.Natural = 100
    picture: checks.Natural = 0

    def __post_init__(self) -> None:
        checks.check_fields(self)


def run(
    job: Job,
    *,
    name: str = "",
    out: str | os.PathLike[str] | None = None,
    record: Any = None,
    settings: Any = None,
    cadence: Cadence | None = None,
    processes: Processes | None = None,
    label: str = "",
    bar: bool = True,
    log: Sequence[loggers.Name | loggers.Logger] = (),
) -> runs.Run | None:
    """Run a job to its end, resuming from the newest checkpoint of its run folder, and return that folder.

    Without one, and in all processes but the first, return None. After Ctrl-C or SIGTERM the step is done and saved
    before KeyboardInterrupt is raised, in all processes.

    Parameters
    ----------
    name, out, record, settings
        The run folder, which is locked meanwhile, as `runs.Run.open` takes it: the name of the job, the folder, the
        configuration, and where its marks are. Without a folder nothing is written.
    processes
        The processes of a job under torchrun. `Job.state` is then called in all of them, the first one writes, and
        every process is given the whole state on resuming.
    label, bar
        What the progress bar says; whether to show one where there is a terminal.
    log
        Trackers that follow the job: tensorboard, wandb, mlflow, or objects with their methods (`loggers.Logger`).
    """
    if log and out is None:
        raise InputError("log without a run folder", "a run folder (out), which the trackers follow")
    several = processes if processes is not None and processes.world > 1 else None
    first = several is None or several.is_first
    trackers = loggers.open(log if first else ())
    folder = None
    if out is not None and first:
        folder = runs.Run.open(out, name, {} if record is None else record, settings=settings)
    loop = _Loop(job, cadence or Cadence(), several, folder, trackers, saving=out is not None)
    with folder or nullcontext():
        done = loop.resume()
        shown = progress.bar(label or name, job.steps, done=min(job.position(done), job.steps))
        tracking = nullcontext() if folder is None else trackers.running(folder)
        with tracking, shown if bar and first else nullcontext() as progress_bar, runs.interruptible() as stopping:
            while job.position(done) < job.steps and not job.finished():
                metrics = job.step(done)
                done += 1
                if loop.after_step(done, metrics, stopping, progress_bar):
                    raise KeyboardInterrupt
    return folder


@dataclasses.dataclass
class _Loop:
    """What happens around the steps of a job."""

    job: Job
    cadence: Cadence
    processes: Processes | None  # None of one alone
    folder: runs.Run | None
    trackers: loggers.Loggers
    saving: bool  # whether the first process has a run folder
    position: int = 0  # before the step
    began: float = dataclasses.field(default_factory=time.perf_counter)

    def resume(self) -> int:
        """Restore the newest checkpoint in all processes and return the number of steps done."""
        newest = None if self.folder is None else self.folder.resume(self.job.framework)
        state = None if newest is None else {**newest.arrays, **newest.meta}
        if self.processes is not None and self.saving:
            state = self.processes.broadcast(state)
        done = self.job.done
        if state is not None:
            done = int(state["step"])
            named = "the run folder" if self.folder is None else self.folder.checkpoints
            with reading(named, "checkpoints of this job", *STRUCTURE, RuntimeError):
                self.job.load_state(state)
        if self.folder is not None:
            self.job.begin(self.folder, done)
        self.position = self.job.position(done)
        return done

    def after_step(
        self, done: int, metrics: Metrics, stopping: Callable[[], bool], progress_bar: progress.Bar | None
    ) -> bool:
        """Log, save and show what is due after a step; return whether all processes are to stop."""
        before, position = self.position, self.job.position(done)
        self.position = position
        last = position >= self.job.steps or self.job.finished()
        log = last or _due(self.cadence.log, before, position) or self.job.milestone(done)
        save = last or _due(self.cadence.checkpoint, before, position)
        # Several processes agree on stopping where they meet anyway; one alone stops after any step.
        stop = stopping() if self.processes is None else (log or save) and self.processes.any(stopping())
        values = self.job.read(done, metrics) if log or save or stop else {}
        if progress_bar is not None:
            shown = {key: float(values[key]) for key in self.job.shown if key in values}
            progress_bar.advance(position - before, **shown)
        if self.folder is not None and log:
            values = {**values, "seconds": round(time.perf_counter() - self.began, 3)}
            self.folder.log(done, **values)
            self.trackers.log(done, values)
        if self.folder is not None and _due(self.cadence.picture, before, position):
            self.job.picture(self.folder.path, done)  # before the checkpoint: a step that it holds is not taken again
        if self.saving and (save or stop):
            self._save(done)
        return stop

    def _save(self, done: int) -> None:
        state = {**self.job.state(), "step": done}  # in all processes: they may have to put it together
        if self.folder is not None:
            self.job.flush(self.folder)
            arrays = {key: value for key, value in state.items() if hasattr(value, "shape")}
            plain = {key: value for key, value in state.items() if key not in arrays}
            checkpoint.save_step(self.folder.checkpoints, done, arrays, plain)


def save_curve(run: runs.Run, metric: str = "loss") -> Path:
    """Save the curve of a logged metric over the steps as METRIC.png in the run folder."""
    with reading(run.path, "metrics of this run", KeyError, TypeError):
        rows = [(int(row["step"]), float(row[metric])) for row in run.metrics() if metric in row]
    curve = ([step for step, _ in rows], [value for _, value in rows])
    path = run.path / f"{metric}.png"
    figures.save_curves({metric: curve}, path, x_label="step", y_label=metric)
    return path


def _due(every: int, before: int, position: int) -> bool:
    return every > 0 and position // every > before // every
