"""The training loop of teachers and students: one loop, any objective."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import time
from dataclasses import field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from sextet_common import checkpoint, device, optimizers, progress, runs
from sextet_common.errors import InputError, reading
from sextet_common.seeding import generator, torch_seed
from torch import Tensor, nn

from subclass_kd.augment import Views
from subclass_kd.curriculum import CurriculumSampler, Schedule
from subclass_kd.data import Part, SubclassSet
from subclass_kd.losses import CrossEntropy, Objective
from subclass_kd.metrics import Scores, score
from subclass_kd.processes import Processes, joined
from subclass_kd.teacher import Source, TeacherLogits, live

FILE = "model.safetensors"
_WARM_UP = 0.1
_AT_ONCE = 512


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a network is trained."""

    epochs: int = 40
    """Passes over the training images."""
    batch_size: int = 64
    """Images in a step, over all processes."""
    lr: float = 2e-3
    """Highest learning rate of AdamW: up over a tenth of the steps, then down a cosine."""
    weight_decay: float = 1e-3
    """AdamW's, on matrices and kernels alone."""
    seed: int = 0
    """The seed of the order of the images and of dropout."""
    views: Views = field(default_factory=Views)
    """The fixed views of every image that epochs take in turn."""
    curriculum: Schedule | Literal["none"] = "none"
    """Easy images first, by their difficulty: linear, root or step; none takes all from the first epoch."""
    curriculum_start: float = 0.3
    """The share of the images that a curriculum begins with."""
    patience: int = 0
    """Stop after so many epochs without a better F1 on the validation images, and take the best; 0 takes the last."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in, by autocast; losses are float32."""
    checkpoint_every: int = 5
    """Epochs between two checkpoints: the most that a kill loses."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", "a whole number >= 1")
        if self.patience < 0:
            raise InputError(f"patience is {self.patience}", "a whole number >= 0")
        if not 0 < self.lr < math.inf:
            raise InputError(f"lr is {self.lr}", "a number > 0")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay is {self.weight_decay}", "a number >= 0")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}", "a whole number >= 0")
        if not 0 < self.curriculum_start <= 1:
            raise InputError(f"curriculum_start is {self.curriculum_start}", "a number in (0, 1]")
        if self.curriculum != "none" and self.curriculum not in get_args(Schedule):
            raise InputError(f"curriculum is {self.curriculum!r}", f"none, {', '.join(get_args(Schedule))}")


def train_teacher(
    network: nn.Module,
    data: SubclassSet,
    config: TrainConfig | None = None,
    out: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Train a teacher on the subclass labels, by cross-entropy.

    Parameters
    ----------
    network
        Maps images to one logit a subclass; it is trained in place.
    data
        The images.
    config
        How.
    out
        A run folder, for checkpoints, metrics.jsonl and the weights; a stopped run is gone on with.

    Returns
    -------
    torch.nn.Module
        The network, in evaluation, on its device.

    Raises
    ------
    InputError
        Where the network has another number of outputs, or the folder holds something else.

    Examples
    --------
    >>> from subclass_kd.data import load
    >>> from subclass_kd.networks import build
    >>> digits = load("digits").scarce(0.1)
    >>> teacher = train_teacher(build("convnet", (1, 8, 8), 10, width=4), digits, TrainConfig(epochs=1))
    """
    return fit(network, data, CrossEntropy(data.hierarchy), None, config or TrainConfig(), out, "subclass-kd teacher")


def distill(
    teacher: nn.Module | TeacherLogits | str | os.PathLike[str] | None,
    student: nn.Module,
    data: SubclassSet,
    objective: Objective,
    config: TrainConfig | None = None,
    out: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Train a student with an objective.

    Parameters
    ----------
    teacher
        A network, which is run for every batch; its cached logits, or their folder; None where none is needed.
    student
        Maps images to one logit a subclass; it is trained in place.
    data
        The images.
    objective
        Such as `SubclassKDLoss`, or one of one's own.
    config
        How.
    out
        A run folder, as in `train_teacher`.

    Returns
    -------
    torch.nn.Module
        The student, in evaluation, on its device.

    Raises
    ------
    InputError
        Where a network has another number of outputs, cached logits are of other views or images, a teacher is needed
        and not given, or the folder holds something else.

    Examples
    --------
    >>> from subclass_kd.data import load
    >>> from subclass_kd.losses import SubclassKDLoss
    >>> from subclass_kd.networks import build
    >>> digits = load("digits").scarce(0.1)
    >>> teacher, student = (build("convnet", (1, 8, 8), 10, width=width) for width in (8, 4))
    >>> student = distill(teacher, student, digits, SubclassKDLoss(digits.hierarchy), TrainConfig(epochs=1))
    """
    config = config or TrainConfig()
    if objective.needs_teacher and teacher is None:
        raise InputError(f"{type(objective).__name__} is given no teacher", "a network or its logits")
    source: Source | None = None
    if isinstance(teacher, nn.Module):
        teacher = teacher.to(device.pick(config.device))
        source = live(teacher, data.train, config.views)
        _check_outputs(teacher, data, "teacher")
    elif teacher is not None:
        logits = teacher if isinstance(teacher, TeacherLogits) else TeacherLogits(teacher)
        wanted = (len(data.train), data.hierarchy.n_subclasses)
        if logits.shape != wanted:
            raise InputError(f"the teacher's logits have shape {logits.shape}", f"{wanted}, (images, subclasses)")
        for name in ("shift", "scale", "flip", "seed"):
            if logits.meta[name] != getattr(config.views, name):
                given = f"the teacher's logits are of views with {name} {logits.meta[name]}"
                raise InputError(given, f"{getattr(config.views, name)}, as the student's")
        if len(logits) < config.views.count:
            raise InputError(
                f"the teacher's logits are of {len(logits)} views", f"{config.views.count}, as the student's"
            )
        source = logits
    return fit(student, data, objective, source, config, out, "subclass-kd distill")


def predict(network: nn.Module, part: Part, where: torch.device | None = None) -> Tensor:
    """Return a network's logits on a part of the data, (images, outputs), on the CPU."""
    network.eval()
    where = where or next(network.parameters()).device
    found = []
    with torch.inference_mode():
        for start in range(0, len(part), _AT_ONCE):
            rows = np.arange(start, min(start + _AT_ONCE, len(part)))
            found.append(network(part.batch(rows).to(where)).float().cpu())
    return torch.cat(found).clone()


def evaluate(network: nn.Module, data: SubclassSet, part: Literal["train", "validation", "test"] = "test") -> Scores:
    """Measure a network's classes on a part of the data.

    Parameters
    ----------
    network
        Maps images to one logit a subclass.
    data
        The data.
    part
        train, validation or test.

    Returns
    -------
    Scores
        F1, accuracy, AUROC, precision and recall of the classes.
    """
    chosen: Part = getattr(data, part)
    log_probs = data.hierarchy.class_log_probs(predict(network, chosen))
    return score(log_probs.exp(), torch.from_numpy(data.hierarchy.class_labels(chosen.labels)))


def fit(
    network: nn.Module,
    data: SubclassSet,
    objective: Objective,
    logits: Source | None,
    config: TrainConfig,
    out: str | os.PathLike[str] | None,
    job: str,
) -> nn.Module:
    """Train a network in place with an objective: what `train_teacher` and `distill` share.

    Under torchrun every step's images are shared out among the processes, and gradients are averaged.
    """
    with joined(config.device) as all_of_us:
        network.to(all_of_us.where)
        if isinstance(objective, nn.Module):
            objective.to(all_of_us.where)
        _check_outputs(network, data, "network")
        run = None
        if out is not None and all_of_us.is_first:
            run = runs.Run.open(out, job, _record(network, data, objective, config))
        _loop(network, data, objective, logits, config, run, all_of_us)
    network.eval()
    if run is not None:
        state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        checkpoint.save(run.path / FILE, state, {"subclasses": list(data.hierarchy.subclass_names)})
    return network


def load_into(network: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load the weights of a run, or of its file, into a network like the one that was trained.

    Raises
    ------
    InputError
        Where the file is missing or damaged, or holds another network's weights.
    """
    path = Path(path)
    loaded = checkpoint.load(path / FILE if path.is_dir() else path, "torch")
    try:
        network.load_state_dict(loaded.arrays)
    except RuntimeError as error:
        raise InputError(f"{path} holds another network's weights", "those of this network") from error
    return network


def _loop(
    network: nn.Module,
    data: SubclassSet,
    objective: Objective,
    logits: Source | None,
    config: TrainConfig,
    run: runs.Run | None,
    all_of_us: Processes,
) -> None:
    optimizer = _optimizer(network, config)
    best = copy.deepcopy(network.state_dict()) if config.patience else {}
    state = {"epoch": 0, "best": -1.0, "since": 0}
    found = all_of_us.told(None if run is None else run.resume())
    if found is not None:
        with reading("the run folder" if run is None else run.checkpoints, "checkpoints of this training"):
            _restore(network, optimizer, best, found.arrays)
            state = {"epoch": int(found.meta["step"]), "since": int(found.meta["since"]), "best": found.meta["best"]}
    learner = nn.parallel.DistributedDataParallel(network) if all_of_us.world > 1 else network
    began = time.perf_counter()
    with (
        progress.bar(f"{type(objective).__name__}", config.epochs, done=int(state["epoch"])) as bar,
        runs.interruptible() as stopping,
    ):
        for epoch in range(int(state["epoch"]), config.epochs):
            if config.patience and state["since"] >= config.patience:
                break
            loss = _epoch(learner, data, objective, logits, config, optimizer, epoch, all_of_us)
            if not math.isfinite(loss):
                raise InputError(
                    f"the loss is {loss} in epoch {epoch}, seed {config.seed}",
                    f"finite numbers: try an lr below {config.lr:g}",
                )
            values = {"loss": loss}
            if config.patience:
                f1 = all_of_us.told(evaluate(network, data, "validation").f1)  # batch norm's statistics may differ
                values["validation_f1"] = f1
                better = f1 > state["best"]
                state |= {"best": max(f1, state["best"]), "since": 0 if better else state["since"] + 1}
                if better:
                    best = copy.deepcopy(network.state_dict())
            state["epoch"] = epoch + 1
            bar.advance(loss=loss)
            stop = all_of_us.any(stopping())
            if run is not None:
                run.log(epoch + 1, **values, seconds=round(time.perf_counter() - began, 3))
                if stop or epoch + 1 == config.epochs or (epoch + 1) % config.checkpoint_every == 0:
                    arrays = _state(network, optimizer, best)
                    checkpoint.save_step(run.checkpoints, epoch + 1, arrays, {"step": epoch + 1, **state})
            if stop:
                raise KeyboardInterrupt  # in all processes, whichever was asked to stop
    if config.patience:
        network.load_state_dict(best)


def _epoch(
    learner: nn.Module,
    data: SubclassSet,
    objective: Objective,
    logits: Source | None,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    all_of_us: Processes,
) -> float:
    """Go through an epoch's images once; returns the mean loss."""
    where, rank, world = all_of_us.where, all_of_us.rank, all_of_us.world
    learner.train()
    order, steps = _order(data.train, config, epoch), _steps(data.train, config)
    view = epoch % config.views.count
    batches = np.array_split(order, max(1, len(order) // config.batch_size))
    total = torch.zeros((), device=where)
    for number, whole in enumerate(batches):
        rows = whole[rank::world]
        for group in optimizer.param_groups:
            group["lr"] = config.lr * _schedule(
                epoch * steps + round(number * steps / len(batches)), config.epochs * steps
            )
        images = config.views.apply(data.train.batch(rows).to(where), view, rows, len(data.train))
        labels = torch.from_numpy(data.train.labels[rows]).to(where)
        teacher = logits(view, rows).to(where) if logits is not None and objective.needs_teacher else None
        with (
            torch_seed(config.seed, "dropout", epoch, number, rank),
            torch.autocast(where.type, torch.bfloat16, enabled=config.precision == "bfloat16"),
        ):
            outputs = learner(images)
        loss = objective(outputs, teacher, labels) * (len(rows) * world / len(whole))  # shares may be of unlike size
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return float(all_of_us.summed(total)) / len(batches) / world


def _order(part: Part, config: TrainConfig, epoch: int) -> np.ndarray:
    if config.curriculum == "none":
        return generator(config.seed, "order", epoch).permutation(len(part))
    if part.difficulty is None:
        raise InputError("the data have no difficulty for a curriculum", "votes, or difficulty given with the data")
    sampler = CurriculumSampler(
        part.difficulty, config.curriculum, epochs=max(1, config.epochs // 2), start=config.curriculum_start,
        whole=True, seed=config.seed,
    )  # fmt: skip
    return sampler.rows(epoch)


def _steps(part: Part, config: TrainConfig) -> int:
    return max(1, len(part) // config.batch_size)


def _schedule(step: int, steps: int) -> float:
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm + 1) / max(1, steps - warm + 1)))


def _optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr)


def _state(network: nn.Module, optimizer: torch.optim.Optimizer, best: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    return state | {f"best.{name}": tensor for name, tensor in best.items()} | optimizers.state(optimizer)


def _restore(
    network: nn.Module, optimizer: torch.optim.Optimizer, best: dict[str, Tensor], arrays: dict[str, Tensor]
) -> None:
    if best:  # held against the network too
        network.load_state_dict({name[5:]: x for name, x in arrays.items() if name.startswith("best.")})
        best |= copy.deepcopy(network.state_dict())
    network.load_state_dict({name[6:]: x for name, x in arrays.items() if name.startswith("model.")})
    optimizers.restore(optimizer, arrays)


def _check_outputs(network: nn.Module, data: SubclassSet, name: str) -> None:
    where = next((p.device for p in network.parameters()), torch.device("cpu"))
    training = network.training
    network.eval()
    with torch.inference_mode():
        outputs = network(data.train.batch([0]).to(where))
    network.train(training)
    wanted = (1, data.hierarchy.n_subclasses)
    if tuple(outputs.shape) != wanted:
        raise InputError(f"the {name} has outputs of shape {tuple(outputs.shape)} for one image", f"{wanted}")


def _record(network: nn.Module, data: SubclassSet, objective: Objective, config: TrainConfig) -> dict[str, object]:
    initial = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    plain = {n: v for n, v in vars(objective).items() if isinstance(v, str | int | float | bool) and n[0] != "_"}
    images = [data.train.images] if isinstance(data.train.images, np.ndarray) else []
    return {
        **runs.to_json(config),
        "network": type(network).__qualname__,
        "network_sha256": runs.fingerprint(*initial) if initial else "",
        "objective": {"name": type(objective).__qualname__, **{n: v for n, v in plain.items() if n != "training"}},
        "data": data.source,
        "data_sha256": runs.fingerprint(*images, data.train.labels),
    }
