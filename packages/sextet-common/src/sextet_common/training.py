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
_STEP = "step"  # the key of the number of steps done in a checkpoint's description


class Job:
    """What differs between long jobs. Subclasses give ``steps``, `step`, `state` and `load_state`.

    Attributes
    ----------
    steps
        Length of the job, in the unit of `position`: by default the number of steps.
    seed
        Named in the error for a non-finite metric.
    hint
        What to try after a non-finite metric, such as "an lr below 0.1".
    shown
        The metrics beside the progress bar.
    framework
        What the arrays of a checkpoint are restored as: torch or numpy.
    done
        Steps taken before, of a job that continues without a checkpoint.
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
    """Run a job to its end, resuming from the newest checkpoint of its run folder.

    Parameters
    ----------
    job
        The job; it is not touched before the folder is known to be its own.
    name
        What runs, such as ``esac train``: recorded in the run folder.
    out
        The run folder, which is locked while the job runs; without one nothing is written.
    record
        The configuration that identifies the run: a folder with another one is refused.
    settings
        The dataclass whose marks say what may differ in an earlier record of the run; see `runs.Run.open`.
    cadence
        How often to log and save.
    processes
        The processes of a job under torchrun. `Job.state` is then called in all of them, the first one writes, and
        every process is given the whole state on resuming.
    label
        What the progress bar says.
    bar
        Show a progress bar where there is a terminal.
    log
        Trackers that follow the job: tensorboard, wandb, mlflow, or objects with their methods (`loggers.Logger`).

    Returns
    -------
    Run or None
        The run folder; None without one, and in all processes but the first.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, in all processes, once the step is done and saved.
    """
    loop = _Loop(job, cadence or Cadence(), processes, saving=out is not None)
    if log and out is None:
        raise InputError("log without a run folder", "a run folder (out), which the trackers follow")
    loop.trackers = loggers.open(log if loop.first else ())
    if out is not None and loop.first:
        loop.folder = runs.Run.open(out, name, {} if record is None else record, settings=settings)
    with loop.folder or nullcontext():
        done = loop.resume()
        shown = progress.bar(label or name, job.steps, done=min(job.position(done), job.steps))
        tracking = nullcontext() if loop.folder is None else loop.trackers.running(loop.folder)
        with tracking, shown if bar and loop.first else nullcontext() as progress_bar, runs.interruptible() as stopping:
            while job.position(done) < job.steps and not job.finished():
                metrics = job.step(done)
                done += 1
                if loop.after_step(done, metrics, stopping, progress_bar):
                    raise KeyboardInterrupt
    return loop.folder


class _Loop:
    """What happens around the steps of a job."""

    folder: runs.Run | None = None
    trackers: loggers.Loggers

    def __init__(self, job: Job, cadence: Cadence, processes: Processes | None, *, saving: bool) -> None:
        self.job, self.cadence, self.saving = job, cadence, saving
        self.processes = processes if processes is not None and processes.world > 1 else None
        self.first = self.processes is None or self.processes.is_first
        self.began = time.perf_counter()
        self.before = 0  # the position before the step

    def resume(self) -> int:
        """Restore the newest checkpoint in all processes and return the number of steps done."""
        newest = None if self.folder is None else self.folder.resume(self.job.framework)
        state = None if newest is None else {**newest.arrays, **newest.meta}
        if self.processes is not None and self.saving:
            state = self.processes.broadcast(state)
        done = self.job.done if state is None else int(state[_STEP])
        if state is not None:
            named = "the run folder" if self.folder is None else self.folder.checkpoints
            with reading(named, "checkpoints of this job", *STRUCTURE, RuntimeError):
                self.job.load_state(state)
        if self.folder is not None:
            self.job.begin(self.folder, done)
        self.before = self.job.position(done)
        return done

    def after_step(
        self, done: int, metrics: Metrics, stopping: Callable[[], bool], progress_bar: progress.Bar | None
    ) -> bool:
        """Log, save and show what is due after a step; return whether all processes are to stop."""
        position, before = self.job.position(done), self.before
        self.before = position
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
        state = {**self.job.state(), _STEP: done}  # in all processes: they may have to put it together
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
