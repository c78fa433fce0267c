"""Training of teachers and students, with any objective."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sextet_common import checkpoint, device, loggers, runs, training
from sextet_common.errors import InputError
from sextet_common.networks import device_of, evaluating
from sextet_common.processes import join
from torch import inference_mode, nn

from subclass_kd.classifier import Classifier
from subclass_kd.config import TrainConfig
from subclass_kd.data import SubclassSet
from subclass_kd.epochs import Epochs
from subclass_kd.losses import CrossEntropy, Objective
from subclass_kd.saved import WEIGHTS
from subclass_kd.sources import Source, load
from subclass_kd.teacher import TeacherLogits, TeacherSource, live, weights_fingerprint

_TEACHER = "subclass-kd teacher"


def train_teacher(
    network: nn.Module,
    data: SubclassSet | Source,
    config: TrainConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    log: Sequence[loggers.Name | loggers.Logger] = (),
) -> nn.Module:
    """Train a teacher on the labels by cross-entropy: on subclasses, or on classes where only these are known.

    Unlabelled images are left out. The network maps images to one logit per subclass. It is trained in place and
    returned in evaluation mode, on its device. ``data`` is a set, or what `load` accepts. ``out`` is a run
    folder for checkpoints, metrics.jsonl and the weights; an interrupted run resumes. ``log`` names trackers that
    follow it: tensorboard, wandb, mlflow, or objects.

    Examples
    --------
    >>> from subclass_kd import build, load
    >>> digits = load("digits").scarce(0.1)
    >>> teacher = train_teacher(build("convnet", (1, 8, 8), 10, width=4), digits, TrainConfig(epochs=1))
    """
    data, config = load(data), config or TrainConfig()
    return _fit(network, data, CrossEntropy(data.hierarchy), None, config, out, _TEACHER, log)


def distill(
    teacher: nn.Module | TeacherLogits | str | os.PathLike[str] | None,
    student: nn.Module,
    data: SubclassSet | Source,
    objective: Objective,
    config: TrainConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    log: Sequence[loggers.Name | loggers.Logger] = (),
) -> nn.Module:
    """Train a student with an objective.

    The teacher is a network, which runs on every batch; its cached logits, or their folder; None if the objective needs
    none. The objective may be a custom one. Unlabelled images take part if it uses the teacher. ``student``, ``data``,
    ``out`` and ``log`` are as in `train_teacher`.

    Examples
    --------
    >>> from subclass_kd import SubclassKDLoss, build, load
    >>> digits = load("digits").scarce(0.1)
    >>> teacher, student = (build("convnet", (1, 8, 8), 10, width=width) for width in (8, 4))
    >>> student = distill(teacher, student, digits, SubclassKDLoss(digits.hierarchy), TrainConfig(epochs=1))
    """
    data, config = load(data), config or TrainConfig()
    if objective.needs_teacher and teacher is None:
        raise InputError(f"{type(objective).__name__} needs a teacher, got None", "a network or its logits")
    source: TeacherSource | None = None
    weights = ""
    if isinstance(teacher, nn.Module):
        teacher = teacher.to(device.pick(config.device))
        _check_outputs(teacher, data, "teacher", _teacher_outputs(objective, data))
        source, weights = live(teacher, data.train, config.views), weights_fingerprint(teacher.state_dict())
    elif teacher is not None:
        source = teacher if isinstance(teacher, TeacherLogits) else TeacherLogits(teacher)
        outputs = _teacher_outputs(objective, data)
        fitting = source.shape[1] if source.shape[1] in outputs else outputs[0]
        source.check_fits(data.train, fitting, config.views)
        _check_weights(source)
        weights = str(source.meta["weights"])
    return _fit(student, data, objective, source, config, out, "subclass-kd distill", log, weights)


def _fit(
    network: nn.Module,
    data: SubclassSet,
    objective: Objective,
    teacher: TeacherSource | None,
    config: TrainConfig,
    out: str | os.PathLike[str] | None,
    name: str,
    log: Sequence[loggers.Name | loggers.Logger],
    weights: str = "",
) -> nn.Module:
    with join(config.device) as processes:
        network.to(processes.device)
        if isinstance(objective, nn.Module):
            objective.to(processes.device)
        _check_outputs(network, data, "network", (data.hierarchy.n_subclasses,))
        record = None if out is None else _record(network, data, objective, config, weights, Path(out))
        job = Epochs(network, data, objective, teacher, config, processes)
        run = training.run(
            job, name=name, out=out, record=record, settings=TrainConfig, log=log, label=type(objective).__name__,
            cadence=training.Cadence(1, config.checkpoint_every), processes=processes,
        )  # fmt: skip
        job.finish()
    if run is not None:
        Classifier(network, data.hierarchy, data.input_shape).save(run.path)
    return network


def _check_weights(logits: TeacherLogits) -> None:
    """Check that logits in a teacher's run folder are of the weights in it."""
    run = logits.folder.parent
    if (run / WEIGHTS).exists() and (run / "config.json").exists() and runs.Run.read(run).job == _TEACHER:
        logits.check_weights(checkpoint.load(run / WEIGHTS, "torch").arrays, str(run / WEIGHTS))


def _teacher_outputs(objective: Objective, data: SubclassSet) -> tuple[int, ...]:
    """Return the numbers of outputs that the teacher of an objective may have."""
    levels = getattr(objective, "teacher_levels", ("subclass",))
    return data.hierarchy.n_subclasses, *([data.hierarchy.n_classes] if "class" in levels else [])


def _check_outputs(network: nn.Module, data: SubclassSet, name: str, outputs: tuple[int, ...]) -> None:
    with evaluating(network), inference_mode():
        shape = tuple(network(data.train.batch([0], device_of(network))).shape)
    if shape not in [(1, number) for number in outputs]:
        given = f"the {name} has outputs of shape {shape} for one image"
        raise InputError(given, " or ".join(str((1, number)) for number in outputs))


def _record(
    network: nn.Module, data: SubclassSet, objective: Objective, config: TrainConfig, weights: str, out: Path
) -> dict[str, object]:
    """Return what identifies a run: settings, initial weights, objective, data and the teacher's weights."""
    initial = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    options = {
        name: value
        for name, value in vars(objective).items()
        if isinstance(value, str | int | float | bool) and name[0] != "_" and name != "training"
    }
    record = {
        **runs.to_json(config),
        "network": type(network).__qualname__,
        "network_sha256": runs.fingerprint(*initial) if initial else "",
        "objective": {"name": type(objective).__qualname__, **options},
        "data": data.source,
        "data_sha256": data.train.fingerprint(),
    }
    if data.train.is_labelled.all():
        del record["unlabelled_ratio"]  # it decides nothing
    is_old = (out / "config.json").exists() and "teacher_sha256" not in runs.Run.read(out).config
    if objective.needs_teacher and not is_old:  # runs of earlier releases do not name their teacher
        record["teacher_sha256"] = weights
    return record
