"""The two stages: mixtures of images that learn to be alike where labels overlap, then a linear classifier."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from sextet_common import checkpoint, optimizers, progress, runs
from sextet_common.errors import InputError, reading
from sextet_common.seeding import generator, torch_generator, torch_seed
from torch import Tensor, nn
from torch.nn import functional

from probmcl import metrics
from probmcl.config import Config
from probmcl.data import MultiLabelSet, Split
from probmcl.encoders import Encoder
from probmcl.head import MixtureDensityHead, MixtureParameters
from probmcl.overlap import positive_rate

LOOK = 20  # steps between two lines of the log: between them nothing waits for the device
_WARM_UP = 0.2  # of a stage's steps, as in the neighbouring KMCL's recipe
_AT_ONCE = 256  # rows that are inferred together


class Network(nn.Module):
    """The three modules that are trained: encoder, head (for the first stage) and classifier.

    Parameters
    ----------
    encoder
        Maps inputs to features.
    n_labels
        Width of the classifier.
    config
        Says which head there is.
    """

    head: MixtureDensityHead | nn.Sequential | None

    def __init__(self, encoder: Encoder, n_labels: int, config: Config) -> None:
        super().__init__()
        self.encoder = encoder
        with torch_seed(config.seed, "head"):
            self.head = None
            if config.method == "probmcl":
                self.head = config.head(encoder.out_features, n_labels)
            elif (
                config.method == "supcon"
            ):  # the trunk of the mixture head, so that the two differ in the mixture alone
                self.head = config.head(encoder.out_features, n_labels).trunk
        with torch_seed(config.seed, "classifier"):
            self.classifier = nn.Linear(encoder.out_features, n_labels)

    def logits(self, inputs: Tensor) -> Tensor:
        """Map inputs to the labels' logits."""
        logits: Tensor = self.classifier(self.encoder(inputs).float())
        return logits

    def mixtures(self, inputs: Tensor) -> MixtureParameters:
        """Map inputs to mixtures."""
        if not isinstance(self.head, MixtureDensityHead):
            raise InputError("this model has no mixture density head", "one trained with the method probmcl")
        mixtures: MixtureParameters = self.head(self.encoder(inputs).float())
        return mixtures


@dataclasses.dataclass(frozen=True)
class _Stage:
    """One stage: what it is called, how long it is, what learns in it and from which loss."""

    name: Literal["contrastive", "classifier", "whole"]
    steps: int
    lr: float
    modules: tuple[nn.Module, ...]
    losses: Callable[[Tensor, Tensor], dict[str, Tensor]]  # two views and their labels to "loss" and its parts


def train(network: Network, data: MultiLabelSet, config: Config, where: torch.device, run: runs.Run | None) -> None:
    """Train a network in place, going on from the run's last checkpoint where it has one.

    Parameters
    ----------
    network
        What is trained, on its device.
    data
        What to learn from.
    config
        How.
    where
        The device.
    run
        The folder for checkpoints and metrics.

    Raises
    ------
    InputError
        Where the loss is no longer finite.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the step is done and checkpointed.
    """
    stages = _stages(network, len(data.train), config)
    total = sum(stage.steps for stage in stages)
    found = None if run is None else run.resume()
    start = 0 if found is None else int(found.meta["step"])
    if run is not None and found is not None:
        with reading(run.checkpoints, "checkpoints of this training"):
            network.load_state_dict({n[6:]: x for n, x in found.arrays.items() if n.startswith("model.")})
    elif run is not None and config.two_stages:
        rate = positive_rate(torch.from_numpy(np.array(data.train.labels)), config.threshold, config.measure)
        run.log(0, positive_rate=rate)
    began, before = time.perf_counter(), 0
    with progress.bar(config.method, total, done=start) as bar, runs.interruptible() as stopping:
        for stage in stages:
            end = before + stage.steps
            if start < end:
                optimizer = _optimizer(stage, config)
                if found is not None and start > before:
                    optimizers.restore(optimizer, found.arrays)
                _prepare(network, stage)
                for done in range(max(start, before) + 1, end + 1):
                    losses = _step(network, stage, optimizer, data, config, where, done - before - 1)
                    stop = stopping()
                    look = done % LOOK == 0 or done in (end, total) or done % config.checkpoint_every == 0
                    if not (look or stop):
                        bar.advance()
                        continue
                    values = {name: float(value) for name, value in losses.items()}
                    if not math.isfinite(values["loss"]):
                        raise InputError(
                            f"the loss is {values['loss']} at step {done} ({stage.name}), seed {config.seed}",
                            f"finite numbers: try a learning rate below {stage.lr:g}",
                        )
                    bar.advance(loss=values["loss"])
                    if run is not None and (done % LOOK == 0 or done == end):
                        seconds = round(time.perf_counter() - began, 3)
                        run.log(done, stage=stage.name, **values, **_validated(network, stage, data, where, done, end),
                                seconds=seconds)  # fmt: skip
                    if run is not None and (stop or done == total or done % config.checkpoint_every == 0):
                        checkpoint.save_step(run.checkpoints, done, _state(network, optimizer), {"step": done})
                    if stop:
                        return
            before = end


def infer(network: nn.Module, split: Split, where: torch.device, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function to the rows of a split, some at once, in evaluation, without gradients; on the CPU."""
    network.eval()
    with torch.inference_mode():
        return torch.cat([function(batch).float().cpu() for batch in batches(split, where)]).clone()


def batches(split: Split, where: torch.device) -> Iterator[Tensor]:
    """Go through the rows of a split in their order."""
    for first in range(0, len(split), _AT_ONCE):
        yield split.batch(np.arange(first, min(first + _AT_ONCE, len(split)))).to(where)


def calibrate(network: Network, split: Split, where: torch.device) -> tuple[float, float]:
    """Fit one scale and one shift of all logits to the labels of a split (Platt), and fold them into the classifier.

    Parameters
    ----------
    network
        A trained network; its classifier is changed in place.
    split
        Validation data.
    where
        The network's device.

    Returns
    -------
    tuple of float
        The scale and the shift; 1 and 0 where the labels are all alike or no positive scale fits.
    """
    logits = infer(network, split, where, network.logits).double().flatten()
    labels = torch.from_numpy(np.array(split.labels)).double().flatten()
    if labels.min() == labels.max():
        return 1.0, 0.0
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(parameters[0] * logits + parameters[1], labels)
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    scale, shift = parameters.tolist()
    if not (math.isfinite(scale) and math.isfinite(shift) and scale > 0):
        return 1.0, 0.0
    with torch.no_grad():
        network.classifier.weight.mul_(scale)
        network.classifier.bias.mul_(scale).add_(shift)
    return scale, shift


def _stages(network: Network, rows: int, config: Config) -> list[_Stage]:
    each = max(1, rows // config.batch_size)  # steps of an epoch: what is left over comes in another epoch's order
    classify = config.classification_loss()

    def classified(views: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": classify(network.classifier(_features(network, views, config)), labels)}

    if not config.two_stages:
        steps = (config.epochs + config.classifier_epochs) * each
        return [_Stage("whole", steps, config.lr, (network.encoder, network.classifier), classified)]
    assert network.head is not None
    learns: tuple[nn.Module, ...] = (network.encoder, network.head)
    first = _Stage("contrastive", config.epochs * each, config.lr, learns, _contrastive(network, config))
    chosen = (network.encoder, network.classifier) if config.fine_tune else (network.classifier,)
    lr = config.lr if config.fine_tune else config.classifier_lr
    return [first, _Stage("classifier", config.classifier_epochs * each, lr, chosen, classified)]


def _contrastive(network: Network, config: Config) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    probabilistic, supervised = config.contrastive_loss(), config.supcon_loss()

    def losses(views: Tensor, labels: Tensor) -> dict[str, Tensor]:
        features = _features(network, views, config)
        head = network.head
        if isinstance(head, MixtureDensityHead):
            points = head.project(features)
            others = points.roll(len(points) // 2, dims=0)  # of every image the other view
            parts = probabilistic.parts(head.mixture(points), others, labels)
            return {"loss": parts.total, "likelihood": parts.likelihood, "contrastive": parts.contrastive}
        assert head is not None
        return {"loss": supervised(head(features), labels)}

    return losses


def _features(network: Network, views: Tensor, config: Config) -> Tensor:
    with torch.autocast(views.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        features: Tensor = network.encoder(views)
    return features.float()


def _prepare(network: Network, stage: _Stage) -> None:
    """Let the stage's modules learn, and no others; what is frozen stays in evaluation, batch statistics too."""
    for module in (network.encoder, network.head, network.classifier):
        if module is not None:
            module.requires_grad_(module in stage.modules)
            module.train(module in stage.modules)


def _step(
    network: Network,
    stage: _Stage,
    optimizer: torch.optim.Optimizer,
    data: MultiLabelSet,
    config: Config,
    where: torch.device,
    number: int,
) -> dict[str, Tensor]:
    """Take one step; every draw is keyed by (seed, stage, number), so that a resumed run draws the same."""
    rows = _rows(len(data.train), stage, config, number)
    draw = torch_generator(config.seed, "views", stage.name, number, device=where)
    views = config.augmentation.views(data.train.batch(rows).to(where), draw)
    labels = torch.from_numpy(data.train.labels[rows]).to(where).repeat(2, 1)
    for group in optimizer.param_groups:
        group["lr"] = stage.lr * _schedule(number, stage.steps)
    with torch_seed(config.seed, "dropout", stage.name, number):
        losses = stage.losses(views, labels)
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    optimizer.step()
    return {name: value.detach() for name, value in losses.items()}


def _rows(n_rows: int, stage: _Stage, config: Config, number: int) -> np.ndarray:
    """Choose a step's rows: consecutive ones of an epoch's order."""
    each = max(1, n_rows // config.batch_size)
    epoch, place = divmod(number, each)
    order = generator(config.seed, "order", stage.name, epoch).permutation(n_rows)
    return order[place * config.batch_size : (place + 1) * config.batch_size]


def _schedule(number: int, steps: int) -> float:
    """Up a line over the first fifth of the steps, then down half a cosine."""
    warm = max(1, round(_WARM_UP * steps))
    if number < warm:
        return (number + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (number - warm + 1) / max(1, steps - warm + 1)))


def _optimizer(stage: _Stage, config: Config) -> torch.optim.Optimizer:
    parameters = [p for module in stage.modules for p in module.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=stage.lr)


def _state(network: Network, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    return state | optimizers.state(optimizer)


def _validated(
    network: Network, stage: _Stage, data: MultiLabelSet, where: torch.device, done: int, end: int
) -> dict[str, float]:
    """Measure a classifier on the validation data at its stage's end."""
    if stage.name == "contrastive" or done != end or not data.validation.labels.any():
        return {}
    probabilities = infer(network, data.validation, where, network.logits).sigmoid()
    _prepare(network, stage)
    k = min(3, data.n_labels)
    return {"validation_map": metrics.evaluate(probabilities, np.array(data.validation.labels), k=k).mean_ap}
