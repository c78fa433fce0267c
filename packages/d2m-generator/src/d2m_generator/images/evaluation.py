"""Accuracy of networks trained on generated images, by one of two protocols that every result names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
from attention_matching import (
    DistilledSet,
    EvaluateConfig,
    Evaluation,
    Preprocessing,
    RealInputs,
    accuracy,
    augmentation_for,
    evaluate,
)
from sextet_common import checks, data as image_data, device, progress, runs, seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from torch import Tensor, nn
from torch.nn import functional

from d2m_generator.generators.generator import Generator
from d2m_generator.images.latent_set import ImageSource, LatentSet
from d2m_generator.images.plan import Plan, Selection
from d2m_generator.images.synthesize import synthesize

Protocol = Literal["fixed", "regenerate"]
_JOB = "d2m-generator evaluate"


@dataclass(frozen=True)
class GeneratorEvaluation:
    """Test accuracies of fresh networks, with the protocol of their training.

    With the protocol "fixed" the images were generated once, and ``images`` is the set. With "regenerate" they were
    generated anew for every epoch, and ``ipc`` is the number of images per class and epoch.

    Examples
    --------
    >>> print(GeneratorEvaluation("fixed", 10, Evaluation((0.9, 0.8)), None))
    85.0 ± 7.1 % (fixed, 10 images per class)
    """

    protocol: Protocol
    ipc: int
    evaluation: Evaluation
    images: DistilledSet | None

    def __str__(self) -> str:
        return f"{self.evaluation} ({self.protocol}, {self.ipc} images per class)"


def evaluate_generator(
    generator: ImageSource,
    data: image_data.Source,
    ipc: int,
    config: EvaluateConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    protocol: Protocol = "fixed",
    selection: Selection = "random",
    seed: int = 0,
    teacher: nn.Module | None = None,
    temperature: float = 1.0,
) -> GeneratorEvaluation:
    """Train fresh networks on generated images and test them on real ones.

    Parameters
    ----------
    ipc
        Images per class.
    out
        A run folder that stores the accuracy of each network as soon as it is known; a stopped evaluation resumes.
    protocol
        "fixed", the default, generates the images once and is comparable with pixel distillation. "regenerate"
        generates new ones for every epoch, so that a network sees epochs x ipc images of a class in all; its results
        are not comparable with those of a fixed set.
    selection
        How "fixed" selects the images; see `synthesize`.
    teacher, temperature
        With ``config.labels="soft"``, the classifier of inputs whose probabilities are the targets, such as
        `attention_matching.train_teacher` returns.
    """
    config, data = config or EvaluateConfig(), image_data.load(data)
    checks.check("protocol", protocol, Protocol)
    Plan(ipc, seed, selection=selection)
    _check_labels(config, teacher)
    if protocol == "fixed":
        images = synthesize(generator, ipc, seed, selection, data=data, teacher=teacher, temperature=temperature)
        return GeneratorEvaluation(protocol, ipc, evaluate(images, data, config, out), images)
    if isinstance(generator, LatentSet):
        raise InputError("a latent set with the protocol regenerate", "fixed: its images are always the same")
    if selection != "random":
        raise InputError(f"selection {selection} with the protocol regenerate", "random")
    if config.choose != "last":
        raise InputError(f"choose {config.choose} with the protocol regenerate", "last")
    evaluation = _Regeneration(generator, data, ipc, config, seed, teacher, temperature).evaluate(out)
    return GeneratorEvaluation(protocol, ipc, evaluation, None)


class _Regeneration:
    """The protocol "regenerate": trains networks one after another, otherwise as `evaluate` does."""

    def __init__(
        self,
        generator: Generator,
        data: ImageSet,
        ipc: int,
        config: EvaluateConfig,
        seed: int,
        teacher: nn.Module | None,
        temperature: float,
    ) -> None:
        self.teacher, self.temperature = teacher, temperature
        self.generator, self.data, self.ipc, self.config, self.seed = generator, data, ipc, config, seed
        self.device = device.pick(config.device)
        self.augment = augmentation_for(data.classes, config.augment)
        self.preprocessing = Preprocessing.fit(data)
        self.test_inputs = RealInputs(data.test_images, self.preprocessing, device=self.device)
        self.test_labels = torch.tensor(data.test_labels).to(self.device)

    def evaluate(self, out: str | os.PathLike[str] | None) -> Evaluation:
        """Train and test the networks that the run folder does not have yet."""
        if out is None:
            return self._complete(None)
        with self._open(out) as run:
            return self._complete(run)

    def _complete(self, run: runs.Run | None) -> Evaluation:
        accuracies = [] if run is None else _accuracies(run)
        epochs = self.config.epochs
        with progress.bar("regenerate", self.config.networks * epochs, done=len(accuracies) * epochs) as bar:
            for number in range(len(accuracies), self.config.networks):
                network = self._trained(number, bar)
                accuracies.append(accuracy(network, self.test_inputs, self.test_labels, self.config.batch))
                if run is not None:
                    run.log(number, accuracy=accuracies[-1])
        return Evaluation(tuple(accuracies))

    def _open(self, out: str | os.PathLike[str]) -> runs.Run:
        images = synthesize(self.generator, 1, self.seed, data=self.data).images
        record: dict[str, Any] = {
            "data": self.data.source,
            "data_sha256": self.data.fingerprint,
            "sha256": runs.fingerprint(images),
            "protocol": "regenerate",
            "ipc": self.ipc,
        }
        if self.teacher is not None:
            record["teacher_sha256"] = runs.fingerprint(*self.teacher.state_dict().values())
            record["temperature"] = self.temperature
        return runs.Run.open(out, _JOB, {**record, **runs.to_json(self.config)}, settings=EvaluateConfig)

    def _trained(self, number: int, bar: progress.Bar) -> nn.Module:
        config = self.config
        with seeding.torch_seed(config.seed, "network", number):
            network = config.network(self.data.image_shape, self.data.n_classes).to(self.device).train()
        optimizer = torch.optim.SGD(network.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)
        for epoch in range(config.epochs):
            if epoch == (config.epochs + 1) // 2:
                optimizer.param_groups[0]["lr"] = config.lr / 10
            loss = self._epoch(network, optimizer, number, epoch)
            if not bool(loss.isfinite()):
                given = f"the loss of network {number} is {float(loss)} in epoch {epoch}, seed {config.seed}"
                raise InputError(given, f"finite numbers: try an lr below {config.lr:g}")
            bar.advance()
        return network

    def _epoch(self, network: nn.Module, optimizer: torch.optim.Optimizer, number: int, epoch: int) -> Tensor:
        """Train for one epoch on new images and return the last loss."""
        noise_seed = seeding.derive(self.seed, "epoch", number, epoch)
        images = synthesize(
            self.generator, self.ipc, noise_seed, data=self.data, teacher=self.teacher, temperature=self.temperature
        )
        targets = images.labels if images.soft_labels is None else images.soft_labels
        draw = seeding.generator(self.config.seed, number, epoch)
        loss = torch.zeros(())
        for part in torch.from_numpy(draw.permutation(len(images))).split(self.config.batch):
            transforms = torch.from_numpy(draw.random((len(part), 4), dtype="float32"))
            transforms[:, 0] = transforms[0, 0]  # one operation per batch, as in `evaluate`
            batch = self.augment(images.images[part].to(self.device), transforms.to(self.device))
            loss = functional.cross_entropy(network(batch), targets[part].to(self.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return loss.detach()


def _check_labels(config: EvaluateConfig, teacher: nn.Module | None) -> None:
    """Refuse labels that generated images cannot have, and a teacher that would not be used."""
    if config.labels == "views":
        raise InputError("labels views of generated images", "hard or soft; or view_labels_from and evaluate on a set")
    if (config.labels == "soft") != (teacher is not None):
        given = f"labels {config.labels} {'without' if teacher is None else 'with'} a teacher"
        raise InputError(given, "labels soft with a teacher, or hard without one")


def _accuracies(run: runs.Run) -> list[float]:
    rows = run.metrics()
    with reading(run.path, "an evaluation run folder", KeyError, TypeError):
        accuracies = [float(row["accuracy"]) for row in rows]
    return [Evaluation((accuracy,)).mean for accuracy in accuracies]
