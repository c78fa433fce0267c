"""Experiment trackers that follow a running job: TensorBoard, Weights & Biases, MLflow, or an object of three methods.

``metrics.jsonl`` in the run folder is the record; a tracker is a copy of it. A tracker that fails is switched off with
a warning and the job continues; the next resume sends it what it missed.
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
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from sextet_common.errors import InputError, require
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
        self._active = list(loggers)

    @contextmanager
    def running(self, run: Run) -> Iterator[None]:
        """Start the trackers, and finish them with the status of how the block ended."""
        status: Status = "failed"
        waiting, self._active = self._active, []
        try:
            for logger in waiting:
                try:
                    logger.start(run)
                except Exception as error:
                    raise InputError(f"{_describe(logger)} cannot start: {error}", "a tracker that works") from error
                self._active.append(logger)
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
        for logger in tuple(self._active):
            try:
                getattr(logger, method)(*arguments)
            except Exception as error:
                self._active.remove(logger)
                failed = f"{_describe(logger)} failed and is off until the run is resumed: {error}"
                warnings.warn(failed, RuntimeWarning, stacklevel=3)


def open(log: Sequence[Name | Logger]) -> Loggers:
    """Return the trackers of a job, once their libraries are known to be installed.

    Examples
    --------
    >>> open(["tensorbord"])
    Traceback (most recent call last):
    sextet_common.errors.InputError: logger 'tensorbord' is unknown; expected: tensorboard, wandb, ...
    """
    adapters: dict[Any, Any] = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MLflow}
    for each in log:
        if each not in adapters if isinstance(each, str) else not isinstance(each, Logger):
            accepted = f"{', '.join(get_args(Name))} or an object with start, log and finish"
            raise InputError(f"logger {each!r} is unknown", accepted)
        if isinstance(each, str):
            require("tensorboardX" if each == "tensorboard" else each, package="sextet-common", extra=each)
    different = [each for number, each in enumerate(log) if each not in log[:number]]
    return Loggers([adapters[each]() if isinstance(each, str) else each for each in different])


def export_tensorboard(run: Run) -> Path:
    """Write a run's metrics as TensorBoard events and return the folder for ``tensorboard --logdir``."""
    with open(["tensorboard"]).running(run):
        return run.path / "tensorboard"


class _TensorBoard:
    """Event files in the folder ``tensorboard``, rewritten from the metrics on start: a resumed run repeats no step."""

    def start(self, run: Run) -> None:
        from tensorboardX import SummaryWriter

        logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)  # it reports each NaN
        for old in (run.path / "tensorboard").glob("events.*"):
            old.unlink()
        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=0)  # an open viewer forgets what it read
        for row in run.metrics():
            self.log(row["step"], row)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in _numbers(values).items():
            self._writer.add_scalar(name, value, step)

    def finish(self, status: Status) -> None:
        self._writer.close()


class _Growing:
    """A tracker that cannot delete: NAME.json in the run folder holds its run's id and the last step sent to it.

    Steps that a resumed job repeats are not sent again; steps of metrics.jsonl that the tracker lacks are.
    """

    name: str

    def start(self, run: Run) -> None:
        self._file = run.path / f"{self.name}.json"
        known = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}
        self._last = int(known.get("step", -1))
        self._id = self._begin(run, known.get("id"))
        for row in run.metrics():
            self.log(row["step"], row)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        if step > self._last:
            self._send(step, {name: value for name, value in values.items() if name != "step" and value is not None})
            self._last = step
            temporary = self._file.with_suffix(".json.tmp")  # renamed but not flushed: that for every step is too slow
            temporary.write_text(json.dumps({"id": self._id, "step": step}), encoding="utf-8")
            os.replace(temporary, self._file)

    def _begin(self, run: Run, known: str | None) -> str:
        raise NotImplementedError

    def _send(self, step: int, values: dict[str, Any]) -> None:
        raise NotImplementedError


class _WandB(_Growing):
    """Weights & Biases; its WANDB_ variables choose the server, the project, or offline mode."""

    name = "wandb"

    def _begin(self, run: Run, known: str | None) -> str:
        import wandb

        ours = {"project": run.job.split()[0], "name": run.path.resolve().name, "dir": str(run.path)}
        options: dict[str, Any] = {key: os.environ.get(f"WANDB_{key.upper()}", value) for key, value in ours.items()}
        options |= {"config": run.config, "allow_val_change": True, "settings": wandb.Settings(console="off")}
        self._run = wandb.init(id=known, resume="allow", reinit="create_new", **options)
        return str(self._run.id)

    def _send(self, step: int, values: dict[str, Any]) -> None:
        self._run.log(values, step=step)

    def finish(self, status: Status) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)


class _MLflow(_Growing):
    """MLflow; MLFLOW_TRACKING_URI chooses the store, by default files in the folder ``mlruns`` of the run folder."""

    name = "mlflow"

    def _begin(self, run: Run, known: str | None) -> str:
        mlflow: Any = importlib.import_module("mlflow")
        uri = None
        if not mlflow.is_tracking_uri_set():
            uri = (run.path.resolve() / "mlruns").as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks for consent
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            return known
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.job)
        found = self._client.get_experiment_by_name(title)
        experiment = self._client.create_experiment(title) if found is None else found.experiment_id
        created = str(self._client.create_run(experiment, run_name=run.path.resolve().name).info.run_id)
        for key, value in run.config.items():
            self._client.log_param(created, key, str(value)[:500])
        return created

    def _send(self, step: int, values: dict[str, Any]) -> None:
        from mlflow.entities import Metric, RunTag

        now, numbers = int(1000 * time.time()), _numbers(values)
        accepted = {name: re.sub(r"[^\w\-. :/]", "_", name) for name in values}
        metrics = [Metric(accepted[name], value, now, step) for name, value in numbers.items()]
        tags = [RunTag(accepted[name], str(value)) for name, value in values.items() if name not in numbers]
        self._client.log_batch(self._id, metrics=metrics, tags=tags)

    def finish(self, status: Status) -> None:
        end = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}[status]
        self._client.set_terminated(self._id, end)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
    return {name: float(v) for name, v in plain.items() if name != "step" and isinstance(v, int | float)}


def _describe(logger: Logger) -> str:
    return str(getattr(logger, "name", type(logger).__name__.strip("_")))
