"""Experiment trackers that follow a running job: TensorBoard, Weights & Biases, MLflow, or an object of three methods.

They copy ``metrics.jsonl``: one that fails is off, with a warning, and the next resume sends it what it missed.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from sextet_common.errors import STRUCTURE, InputError, reading, require
from sextet_common.runs import Run

Name = Literal["tensorboard", "wandb", "mlflow"]
Status = Literal["finished", "interrupted", "failed"]


@runtime_checkable
class Logger(Protocol):
    """What a tracker does; an error in `start` stops the job, a later one switches the tracker off."""

    def start(self, run: Run) -> None:
        """Begin or continue the run of a folder, whose metrics end at the step that the job resumes from."""

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Record the values of a step: numbers, also NaN and infinity, words and None."""

    def finish(self, status: Status) -> None:
        """Close the run, which may be continued later."""


class Loggers:
    """Several trackers as one."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = list(loggers)

    @contextmanager
    def running(self, run: Run) -> Iterator[None]:
        """Start the trackers, and finish them with the status of how the block ended."""
        status: Status = "failed"
        waiting, self._loggers = self._loggers, []
        try:
            for logger in waiting:
                try:
                    logger.start(run)
                except Exception as error:
                    raise InputError(f"{_name(logger)} cannot start: {error}", "a tracker that works") from error
                self._loggers.append(logger)
            yield
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            self._each("finish", status)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Send the values of a step to all trackers; what a tracker raises is a warning."""
        self._each("log", step, dict(values))

    def _each(self, method: str, *arguments: Any) -> None:
        for logger in tuple(self._loggers):
            try:
                getattr(logger, method)(*arguments)
            except Exception as error:
                self._loggers.remove(logger)
                failed = f"{_name(logger)} failed and is off until the run is resumed: {error}"
                warnings.warn(failed, RuntimeWarning, stacklevel=3)


def open(log: Sequence[Name | Logger]) -> Loggers:
    """Return the trackers of a job, once their libraries are known to be installed."""
    for each in log:
        if each not in _BACKENDS if isinstance(each, str) else not isinstance(each, Logger):
            raise InputError(f"logger {each!r} is unknown", f"{', '.join(_BACKENDS)} or an object of three methods")
        if isinstance(each, str):
            require("tensorboardX" if each == "tensorboard" else each, package="sextet-common", extra=each)
    return Loggers([_Adapter(each) if isinstance(each, str) else each for each in log])


def export_tensorboard(run: Run) -> Path:
    """Write a run's metrics as TensorBoard events and return the folder for ``tensorboard --logdir``."""
    with open(["tensorboard"]).running(run):
        return run.path / "tensorboard"


class _Adapter:
    """A tracker of `_BACKENDS`: they return the id of the run, or None if it is empty, and how to log and to finish.

    NAME.json holds an id and the last step that was sent: what a resumed job repeats is not sent again.
    """

    def __init__(self, name: Name) -> None:
        self.name = name

    def start(self, run: Run) -> None:
        self._file = run.path / f"{self.name}.json"
        known: dict[str, Any] = {"id": None, "step": -1}
        if self._file.exists():
            with reading(self._file, "the state that the logger wrote", *STRUCTURE):
                known = {"id": None} | json.loads(self._file.read_text("utf-8"))
                known["step"] = int(known["step"])
        self._last = known["step"]
        self._id, self._send, self.finish = _BACKENDS[self.name](run, known["id"])
        for row in run.metrics():
            self.log(row["step"], row)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        if step > self._last:
            plain = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
            self._send(step, {name: value for name, value in plain.items() if name != "step" and value is not None})
            self._last = step
            if self._id is not None:
                temporary = self._file.with_suffix(".tmp")  # renamed but not flushed: that for every step is too slow
                temporary.write_text(json.dumps({"id": self._id, "step": step}), encoding="utf-8")
                os.replace(temporary, self._file)


def _tensorboard(run: Run, known: str | None) -> tuple[Any, ...]:
    from tensorboardX import SummaryWriter

    logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)  # it reports each NaN
    for old in (run.path / "tensorboard").glob("events.*"):
        old.unlink()
    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=0)  # an open viewer forgets what it read

    def send(step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, int | float):
                writer.add_scalar(name, float(value), step)

    return None, send, lambda status: writer.close()


def _wandb(run: Run, known: str | None) -> tuple[Any, ...]:
    import wandb

    ours = {"project": run.job.split()[0], "name": run.path.resolve().name, "dir": str(run.path)}
    options: dict[str, Any] = {key: os.environ.get(f"WANDB_{key.upper()}", value) for key, value in ours.items()}
    options |= {"config": run.config, "allow_val_change": True, "settings": wandb.Settings(console="off")}
    tracked: Any = wandb.init(id=known, resume="allow", reinit="create_new", **options)
    return tracked.id, lambda step, values: tracked.log(values, step), lambda s: tracked.finish(int(s != "finished"))


def _mlflow(run: Run, known: str | None) -> tuple[Any, ...]:
    mlflow, entities = map(importlib.import_module, ("mlflow", "mlflow.entities"))
    elsewhere = mlflow.is_tracking_uri_set()
    if not elsewhere:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks for consent
    client = mlflow.MlflowClient(None if elsewhere else (run.path.resolve() / "mlruns").as_uri())
    if known is None:
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.job)
        found = client.get_experiment_by_name(title)
        experiment = client.create_experiment(title) if found is None else found.experiment_id
        known = str(client.create_run(experiment, run_name=run.path.resolve().name).info.run_id)
        for key, value in run.config.items():
            client.log_param(known, key, str(value)[:500])
    client.update_run(known, status="RUNNING")

    def send(step: int, values: dict[str, Any]) -> None:
        items = [(re.sub(r"[^\w\-. :/]", "_", name), value) for name, value in values.items()]
        now, number = int(1000 * time.time()), int | float
        metrics = [entities.Metric(name, float(v), now, step) for name, v in items if isinstance(v, number)]
        tags = [entities.RunTag(name, str(v)) for name, v in items if not isinstance(v, number)]
        client.log_batch(known, metrics=metrics, tags=tags)

    ends = {"finished": "FINISHED", "interrupted": "KILLED"}
    return known, send, lambda status: client.set_terminated(known, ends.get(status, "FAILED"))


_BACKENDS = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}


def _name(logger: Logger) -> str:
    return str(getattr(logger, "name", type(logger).__name__))
