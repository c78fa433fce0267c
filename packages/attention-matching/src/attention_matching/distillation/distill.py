"""The distillation itself: synthetic images learn to look, to random networks, like the real ones."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from sextet_common import checkpoint, figures, progress, runs
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from torch import Tensor

from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.shards import Shard, shard
from attention_matching.distillation.step import Step
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import Preprocessing
from attention_matching.matching.losses import Loss
from attention_matching.networks.base import FeatureNetwork
from attention_matching.networks.memory import explain_out_of_memory

JOB = "attention-matching distill"
RESULT = "distilled.safetensors"
LOOK = 10  # steps between two looks at the losses: between them nothing waits for the device


class Distiller:
    """Distills a data set into a few images per class (DataDAM, ATOM, DM).

    Every step draws a freshly initialised network that is never trained, a batch of
    real images of each class and one augmentation per class; the loss compares
    statistics of the features of real and synthetic images, and its gradient moves
    the synthetic pixels. All draws are keyed by (seed, step, class).

    Under ``torchrun`` the processes share out the classes; the result is that of one process.

    Parameters
    ----------
    config
        The settings; the paper's by default.
    loss
        A loss of one's own in the place of ``config.method``'s: see :class:`Loss`.
    network
        A network of one's own, one of the family to draw from, in the place of
        ``config.architecture``'s.
    preprocessing
        One that is fitted already, in the place of ``config.whitening``'s: whitening a large
        set takes a while, and several distillations may share it.

    References
    ----------
    DataDAM (arXiv 2310.00093), algorithm 1; ATOM (arXiv 2405.01373); DM (arXiv 2110.04181).

    Examples
    --------
    >>> from sextet_common.data import load
    >>> result = Distiller(DistillConfig(ipc=1, steps=2, width=8)).fit(load("digits"))
    >>> tuple(result.images.shape)
    (10, 1, 8, 8)
    """

    def __init__(
        self,
        config: DistillConfig | None = None,
        *,
        loss: Loss | None = None,
        network: FeatureNetwork | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        self.config = config or DistillConfig()
        self._loss, self._network, self._preprocessing = loss, network, preprocessing

    def fit(self, data: ImageSet, out: str | os.PathLike[str] | None = None) -> DistilledSet:
        """Distill.

        Parameters
        ----------
        data
            The images.
        out
            A run folder, for checkpoints, metrics.jsonl, the result (distilled.safetensors)
            and its pictures. A folder that holds an unfinished run with the same settings
            and the same data is gone on with, to the same images as without the break.

        Returns
        -------
        DistilledSet
            ``ipc`` images of each class, class after class.

        Raises
        ------
        InputError
            Where a setting does not fit the data, the folder holds something else, the
            loss is no longer finite (the step, the class and the seed are named), another
            process is gone, or a GPU's memory is full.
        KeyboardInterrupt
            After Ctrl-C or SIGTERM, once the step is done and checkpointed.
        """
        config = self.config.resolved(data)
        with shard(data.n_classes, config.device) as part:
            if config.norm == "batch" and part.world > 1:
                raise InputError(
                    f"batch normalisation in {part.world} processes, whose statistics would have to be synchronised",
                    "one process, or norm instance, group, layer or none",
                )
            if config.cuda_graph and part.where.type != "cuda":
                raise InputError(f"cuda_graph on {part.where.type}", "a CUDA device")
            preprocessing = self._preprocessing or Preprocessing.fit(data, config.whitening or "none")
            content = runs.fingerprint(data.train_images, data.train_labels)
            settings = {**runs.to_json(config), **self._own(preprocessing)}
            recorded = {"data": data.source, "data_sha256": content, **settings}
            with explain_out_of_memory("images_at_once, or precision bfloat16"):
                step = Step(config, data, part, preprocessing, loss=self._loss, network=self._network)
                # Only now, since a folder is for one configuration: one that cannot run must not take it.
                run = runs.Run.open(out, JOB, recorded) if out is not None and part.first else None
                _loop(config, data, part, step, run)
            images = part.gathered(_per_class(step.images, config)).flatten(0, 1).cpu()
        result = DistilledSet(
            images=images,
            labels=torch.arange(data.n_classes).repeat_interleave(config.ipc),
            classes=data.classes,
            preprocessing=preprocessing,
            meta=recorded,
        )
        if run is not None:
            result.save(run.path / RESULT)
            result.save_grid(run.path / "images.png")
            with reading(run.path, "a folder in which a distillation was begun"):
                rows = [(int(row["step"]), float(row["loss"])) for row in run.metrics()]
            curve = ([step for step, _ in rows], [loss for _, loss in rows])
            figures.save_curves({"loss": curve}, run.path / "loss.png", x_label="step", y_label="loss")
        return result

    def _own(self, preprocessing: Preprocessing) -> dict[str, object]:
        """Say what stood in the place of the configuration's, so that no record or card names what was not used."""
        own: dict[str, object] = {}
        if self._loss is not None:
            own["method"] = f"own loss {type(self._loss).__qualname__}"
        if self._network is not None:
            own["architecture"] = f"own network {type(self._network).__qualname__}"
        if self._preprocessing is not None:
            own["whitening"] = preprocessing.whitening
            arrays = [preprocessing.mean, preprocessing.std]
            arrays += [] if preprocessing.zca is None else [preprocessing.zca.mean, preprocessing.zca.matrix]
            own["preprocessing_sha256"] = runs.fingerprint(*arrays)
        return own


def _loop(config: DistillConfig, data: ImageSet, part: Shard, step: Step, run: runs.Run | None) -> None:
    """Run all steps that are not done yet, in all processes alike."""
    start = _resumed(part, step, config, run)
    began = time.perf_counter()
    steps = config.steps or 0
    shown = progress.bar(f"{config.method} ipc {config.ipc}", steps, done=start) if part.first else nullcontext()
    pending: list[Tensor] = []
    with shown as bar, runs.interruptible() as stopping:
        for done in range(start + 1, steps + 1):
            pending.append(step(done - 1))
            look = done % LOOK == 0 or done % config.checkpoint_every == 0 or done == steps
            if not (look or (part.world == 1 and stopping())):
                if bar is not None:
                    bar.advance()
                continue
            losses = part.gathered(torch.stack(pending, dim=1)).cpu()
            _refuse_non_finite(losses, done - len(pending), data, config)
            pending.clear()
            loss = float(losses[:, -1].sum())
            if bar is not None:
                bar.advance(loss=loss)
            stop = part.any(stopping())
            last = stop or done == steps
            if run is not None and (last or done % LOOK == 0):
                run.log(done, loss=loss, seconds=round(time.perf_counter() - began, 3))
            if last or done % config.checkpoint_every == 0:
                state = {n: part.gathered(_per_class(x, config)) for n, x in _state(step).items()}
                if run is not None:
                    checkpoint.save_step(run.checkpoints, done, state, {"step": done})
            if stop:
                raise KeyboardInterrupt  # in all processes, whichever was asked to stop


def _state(step: Step) -> dict[str, Tensor]:
    return {"images": step.images.detach(), "velocity": step.velocity}


def _per_class(images: Tensor, config: DistillConfig) -> Tensor:
    """Give each class a row, as shards are put together."""
    return images.detach().view(-1, config.ipc, *images.shape[1:])


def _resumed(part: Shard, step: Step, config: DistillConfig, run: runs.Run | None) -> int:
    """Take the newest checkpoint's state into every process and return how many steps it has seen."""
    found = None if run is None else run.resume()
    start = int(part.told(torch.tensor(0 if found is None else int(found.meta["step"]))).item())
    if not start:
        return 0
    rows = slice(part.classes.start, part.classes.stop)
    for name, tensor in _state(step).items():
        shape = (part.n_classes, config.ipc, *tensor.shape[1:])
        whole = torch.empty(shape) if found is None else _of_shape(found, name, shape)
        tensor.copy_(part.told(whole)[rows].flatten(0, 1))
    return start


def _of_shape(found: checkpoint.Checkpoint, name: str, shape: tuple[int, ...]) -> Tensor:
    array: Tensor | None = found.arrays.get(name)
    if array is None or array.dtype != torch.float32 or tuple(array.shape) != shape:
        told = "nothing" if array is None else f"{array.dtype} of shape {tuple(array.shape)}"
        raise InputError(f"the newest checkpoint has {told} as {name}", f"float32 of shape {shape}, as this run saves")
    return array


def _refuse_non_finite(losses: Tensor, before: int, data: ImageSet, config: DistillConfig) -> None:
    wrong = (~losses.isfinite()).T.nonzero()
    if len(wrong):
        number, label = wrong[0].tolist()
        raise InputError(
            f"the loss is {float(losses[label, number])} at step {before + number}, "
            f"class {data.classes[label]!r}, seed {config.seed}",
            f"finite numbers: try an image_lr below {config.image_lr:g}",
        )


def result_path(out: str | os.PathLike[str]) -> Path:
    """Return where a run folder keeps its distilled set."""
    return Path(out) / RESULT
