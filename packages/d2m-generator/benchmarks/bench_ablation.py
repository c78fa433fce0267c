"""What keeps the variety of a distilled generator: each setting of D2M alone, on digits.

Run it: ``python benchmarks/bench_ablation.py``; about 6 minutes on one core for a seed, without the GANs, which it
shares with bench_accuracy.py. Finished parts are not repeated while their folders in runs/ exist.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from attention_matching import EvaluateConfig, evaluate
from d2m_generator import (
    ConditionalGAN,
    D2MConfig,
    ImageGenerator,
    Judge,
    MatchingLoss,
    PoolConfig,
    PretrainConfig,
    load_generator,
    pretrain,
    synthesize,
)
from d2m_generator.images.plan import Selection
from d2m_generator.training.distill import DistillationJob
from d2m_generator.training.gan import renormalize
from d2m_generator.training.job import fit
from sextet_common import data as image_data, files, seeding
from sextet_common.benchmarks import into_readme, machine, store
from sextet_common.data import ImageSet, load
from sextet_common.processes import Processes
from sextet_common.seeding import torch_generator
from torch import Tensor
from torch.nn import functional

HERE = Path(__file__).resolve().parent
EPOCHS = {1: 150, 10: 150, 50: 60}
NARROW = PoolConfig(width=32)
LEARNED = PoolConfig(width=32, untrained=0.2, refresh_every=25)


def loss(spread: float = 0.0, **words: Any) -> MatchingLoss:
    """Return the loss, with a weight of the energy distance."""
    return MatchingLoss(maps="both", spread_weight=spread, **words)


BASE = D2MConfig(steps=400, images=10, loss=loss(), pool=NARROW, sample_every=10**6, checkpoint_every=400)


class BatchStatistics(DistillationJob):
    """A distillation that leaves the generator in training mode: it normalises by the batch."""

    def step(self, number: int) -> dict[str, Tensor]:
        """Take a step."""
        self.generator.train()
        return super().step(number)

    def finish(self) -> None:
        """Use the averaged weights and their statistics."""
        super().finish()
        renormalize(self.generator, self.seed, 64)


class Adversarial(DistillationJob):
    """A distillation with a discriminator: its gradient is added to that of the matching loss, with the same norm."""

    def __init__(
        self, generator: ConditionalGAN, data: ImageSet, config: D2MConfig, joined: Processes, *words: Any
    ) -> None:
        super().__init__(generator, data, config, joined, *words)
        self.data = data
        self.discriminator = generator.discriminator(seed=config.seed).to(self.device)
        self.modules = {"discriminator": self.discriminator}
        self.optimizers["adam-d"] = torch.optim.Adam(self.discriminator.parameters(), 1e-3, (0.0, 0.99))

    def _generated(self, number: int, classes: np.ndarray) -> Tensor:
        images = super()._generated(number, classes)
        labels = torch.tensor(np.repeat(classes, self.config.images))
        rows = [
            seeding.generator(self.seed, "real", number, label).choice(self.matcher.members[label], self.config.images)
            for label in classes.tolist()
        ]
        pixels = torch.from_numpy(image_data.take(self.data.train_images, np.concatenate(rows)))
        real, transforms = pixels.float() / (255 if pixels.dtype == torch.uint8 else 1), []
        for turn in range(2):
            transforms.append(torch.rand(len(labels), 4, generator=torch_generator(self.seed, "seen", number, turn)))

        def scores(x: Tensor, turn: int) -> Tensor:
            value: Tensor = self.discriminator(2 * self.matcher.augment(x, transforms[turn]) - 1, labels)
            return value

        leaf = images.detach().requires_grad_()
        generated = scores(leaf, 1)
        (gradient,) = torch.autograd.grad(-generated.mean(), leaf, retain_graph=True)
        apart = functional.relu(1 - scores(real, 0)).mean() + functional.relu(1 + generated).mean()
        self.optimizers["adam-d"].zero_grad(set_to_none=True)
        apart.backward()
        self.optimizers["adam-d"].step()
        images.register_hook(lambda matched: matched + gradient * (matched.norm() / gradient.norm().clamp(min=1e-12)))
        return images


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row of the table."""

    config: D2MConfig | None = BASE
    """None measures the generator before."""
    job: type[DistillationJob] = DistillationJob
    gan: str = "gan"
    selection: Selection = "random"
    like: str = ""
    """The row whose generator this one measures."""


def changed(**words: Any) -> Setting:
    """Return the base setting with other values."""
    return Setting(dataclasses.replace(BASE, **words))


EVERYTHING = {"loss": loss(1.0, prediction_weight=10), "pool": LEARNED}
BEST = "a better GAN, energy distance, trained networks, prediction x 10, 1200 steps"
SETTINGS = {
    "generator before": Setting(None),
    "2 generated images of a class and step": changed(images=2),
    "4": changed(images=4),
    "**10: the base of the rows below**": changed(),
    "20": changed(images=20),
    "a fresh random network for every draw": changed(
        pool=PoolConfig(width=32, networks=1, refresh_every=1, untrained=1.0)
    ),
    "four trained networks of five": changed(pool=LEARNED),
    "no prediction term": changed(loss=loss(prediction="none")),
    "prediction term per image, 10 real": changed(loss=loss(reduction="sample"), real_batch=10),
    "energy distance": changed(loss=loss(1.0)),
    "energy distance, trained networks, prediction x 10": changed(**EVERYTHING),
    "batch statistics": Setting(job=BatchStatistics),
    "discriminator": Setting(job=Adversarial),
    "a better GAN, before": Setting(None, gan="better"),
    "a better GAN, 4 images": Setting(dataclasses.replace(BASE, images=4), gan="better"),
    BEST: Setting(dataclasses.replace(BASE, steps=1200, **EVERYTHING), gan="better"),
    f"**{BEST}, herded**": Setting(
        dataclasses.replace(BASE, steps=1200, **EVERYTHING), gan="better", selection="herding", like=BEST
    ),
}
GANS = {
    "gan": (16, PretrainConfig(steps=800)),
    "better": (32, PretrainConfig(steps=2400, discriminator_width=32, sample_every=10**6)),
}


def distilled(setting: Setting, data: ImageSet, seed: int, place: Path, run: Path) -> tuple[ImageGenerator, float]:
    """Return a setting's generator and the seconds of processor time of its distillation, nan if it was resumed."""
    width, training = GANS[setting.gan]
    pretrain(
        ConditionalGAN(10, data.image_shape, width=width, seed=seed), data,
        dataclasses.replace(training, seed=seed), place / setting.gan,
    )  # fmt: skip
    generator = load_generator(place / setting.gan)
    if setting.config is None:
        return generator, 0.0
    config, began = dataclasses.replace(setting.config, seed=seed), time.process_time()
    fit(lambda images, joined: setting.job(generator, images, config, joined), "distill", generator, data, config, run)
    return generator, time.process_time() - began


def named(row: str) -> str:
    """Return the name of a row's folder."""
    return "".join(c if c.isalnum() else "-" for c in row)


def measured(setting: Setting, name: str, data: ImageSet, seed: int, place: Path) -> dict[str, Any]:
    """Return the measures of a setting, from its file if it has them."""
    folder = place / "ablation" / named(name)
    if (folder / "measures.json").exists():
        return dict(json.loads((folder / "measures.json").read_text()))
    generator, seconds = distilled(setting, data, seed, place, place / "ablation" / named(setting.like or name) / "run")
    quality = Judge(data, path=place / "judge.safetensors")(generator)
    result: dict[str, Any] = {"seconds": seconds, **dataclasses.asdict(quality)}
    for ipc, epochs in EPOCHS.items():
        config = EvaluateConfig(networks=2, epochs=epochs, seed=seed)
        images = synthesize(generator, ipc, seed, setting.selection, data=data)
        result[str(ipc)] = list(evaluate(images, data, config).accuracies)
    files.write_text(folder / "measures.json", json.dumps(result) + "\n")
    return result


def main(seeds: int = 3, work: Path = Path("runs/bench_digits"), first: int = 0) -> None:
    """Run the ablation.

    Parameters
    ----------
    seeds
        Number of seeds, each with its GANs.
    work
        Folder of the run folders.
    first
        Skip so many rows.
    """
    torch.set_num_threads(1)  # networks this small gain nothing by a second one
    data = load("digits")
    report: dict[str, list[dict[str, Any]]] = {}
    for seed in range(seeds):
        for name, setting in list(SETTINGS.items())[first:]:
            row = measured(setting, name, data, seed, work / f"seed-{seed}")
            report.setdefault(name, []).append(row)
            accuracies = ", ".join(f"{ipc}: {100 * statistics.mean(row[str(ipc)]):.1f}" for ipc in EPOCHS)
            print(
                f"seed {seed}, {name}: {accuracies}, Fréchet {row['frechet']:.2f}, {row['seconds']:.0f} s", flush=True
            )
    store(HERE, "ablation", report)
    write(report)


def write(report: dict[str, list[dict[str, Any]]]) -> None:
    """Write the table into the README."""
    lines = [
        "| setting | seeds | Fréchet | precision | coverage | 1 | 10 | 50 | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in SETTINGS:
        rows = report.get(name, [])
        if not rows:
            lines.append(f"| {name} |{' not run |' * 8}")
            continue
        shares = [f"{100 * statistics.mean(row[key] for row in rows):.0f} %" for key in ("precision", "coverage")]
        cells = [name, str(len(rows)), f"{statistics.mean(row['frechet'] for row in rows):.2f}", *shares]
        for ipc in EPOCHS:
            accuracies = [100 * value for row in rows for value in row[str(ipc)]]
            cells.append(f"{statistics.mean(accuracies):.1f} ± {statistics.stdev(accuracies):.1f} %")
        cells.append(f"{statistics.mean(row['seconds'] for row in rows):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"`python benchmarks/bench_ablation.py`, one thread, on {machine()}."]
    into_readme(HERE.parent / "README.md", "bench_ablation", "\n".join(lines))


if __name__ == "__main__":
    tyro.cli(main)
