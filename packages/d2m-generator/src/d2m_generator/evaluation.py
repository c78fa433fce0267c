"""How good a generator's images are to learn from, by one of two protocols, which every number names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from attention_matching import (
    DistilledSet,
    EvaluateConfig,
    Evaluation,
    Preprocessing,
    augmentation_for,
    evaluate,
)
from attention_matching.training import accuracy
from sextet_common import device, progress, runs
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from sextet_common.seeding import derive, torch_seed
from sextet_common.seeding import generator as random_of
from torch.nn import functional

from d2m_generator.generator import Generator
from d2m_generator.synthesize import Selection, synthesize

Protocol = Literal["fixed", "regenerate"]
JOB = "d2m-generator evaluate"


@dataclass(frozen=True)
class GeneratorEvaluation:
    """Test accuracies of fresh networks, with the protocol by which they were trained.

    Parameters
    ----------
    protocol
        "fixed": the images were made once. "regenerate": every epoch had fresh ones.
    ipc
        Images per class, of "regenerate" those of one epoch.
    evaluation
        The accuracies.
    images
        The set, with the protocol "fixed".

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
    generator: Generator,
    data: ImageSet,
    ipc: int,
    config: EvaluateConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    protocol: Protocol = "fixed",
    selection: Selection = "random",
    seed: int = 0,
) -> GeneratorEvaluation:
    """Train fresh networks on a generator's images, and test each on real ones.

    Parameters
    ----------
    generator
        The generator.
    data
        Where the test images come from.
    ipc
        Images per class.
    config
        How the networks are trained.
    out
        A run folder, where each network's accuracy is kept as soon as it is known.
    protocol
        "fixed", the default, makes the images once: what pixel distillation is compared with. "regenerate" makes fresh
        ones for every epoch, so that a network sees epochs x ipc images of a class in all; such numbers are not
        comparable with those of a fixed set.
    selection
        How the images of "fixed" are chosen: see `synthesize`.
    seed
        Of the images' noise.

    Returns
    -------
    GeneratorEvaluation
        The accuracies, with their protocol.

    Raises
    ------
    InputError
        Where an option is unknown or does not fit, or a loss is not finite.
    """
    config = config or EvaluateConfig()
    if protocol not in get_args(Protocol):
        raise InputError(f"protocol is {protocol!r}", "fixed or regenerate")
    if protocol == "fixed":
        images = synthesize(generator, ipc, seed, selection, data=data)
        return GeneratorEvaluation(protocol, ipc, evaluate(images, data, config, out), images)
    if selection != "random":
        raise InputError(f"selection {selection} with the protocol regenerate", "random")
    return GeneratorEvaluation(protocol, ipc, _regenerated(generator, data, ipc, config, out, seed), None)


def _regenerated(
    generator: Generator,
    data: ImageSet,
    ipc: int,
    config: EvaluateConfig,
    out: str | os.PathLike[str] | None,
    seed: int,
) -> Evaluation:
    """Train networks one after another, each on images of its own in every epoch; otherwise as `evaluate`."""
    where, preprocessing = device.pick(config.device), Preprocessing.fit(data)
    augment = augmentation_for(data.classes, config.augment)
    inputs, labels = preprocessing(data.test_images).to(where), torch.tensor(data.test_labels).to(where)
    run, accuracies = None, []
    if out is not None:
        first = synthesize(generator, 1, seed, data=data).images
        sha256 = runs.fingerprint(first, inputs, labels)
        recorded = {"data": data.source, "sha256": sha256, "protocol": "regenerate", "ipc": ipc, **runs.to_json(config)}
        run = runs.Run.open(Path(out), JOB, recorded)
        with reading(run.path, "a folder in which an evaluation was begun"):
            accuracies = [Evaluation((float(row["accuracy"]),)).mean for row in run.metrics()]
    total = config.networks * config.epochs
    with progress.bar("regenerate", total, done=len(accuracies) * config.epochs) as bar:
        for number in range(len(accuracies), config.networks):
            with torch_seed(config.seed, "network", number):
                network = config.network(data.image_shape, data.n_classes).to(where).train()
            optimizer = torch.optim.SGD(
                network.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay
            )
            for epoch in range(config.epochs):
                if epoch == (config.epochs + 1) // 2:
                    optimizer.param_groups[0]["lr"] = config.lr / 10
                made = synthesize(generator, ipc, derive(seed, "epoch", number, epoch), data=data)
                draw = random_of(config.seed, number, epoch)
                order = torch.from_numpy(draw.permutation(len(made)))
                for part in order.split(config.batch):
                    rows = torch.from_numpy(draw.random((len(part), 4), dtype="float32"))
                    rows[:, 0] = rows[0, 0]  # one operation for a batch, as `evaluate` has it
                    batch = augment(made.images[part].to(where), rows.to(where))
                    loss = functional.cross_entropy(network(batch), made.labels[part].to(where))
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                if not bool(loss.detach().isfinite()):
                    given = (
                        f"the loss of network {number} is {float(loss.detach())} in epoch {epoch}, seed {config.seed}"
                    )
                    raise InputError(given, f"finite numbers: try an lr below {config.lr:g}")
                bar.advance()
            accuracies.append(accuracy(network, inputs, labels, config.batch))
            if run is not None:
                run.log(number, accuracy=accuracies[-1])
    return Evaluation(tuple(accuracies))
