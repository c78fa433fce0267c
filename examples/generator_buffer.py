"""Continual learning with a generator as memory: attention-matching's benchmark with a buffer from d2m-generator.

The digits arrive in steps. At each step a small GAN is trained and distilled on the new digits alone; only the GAN is
kept. Any number of its images go into the buffer that networks are trained on. For comparison: buffers of real images.

Run it: ``python examples/generator_buffer.py --out generator-buffer``
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro
from attention_matching import ContinualConfig, DistilledSet, TrainConfig, continual
from d2m_generator import (
    D2M,
    ConditionalGAN,
    D2MConfig,
    PoolConfig,
    PretrainConfig,
    load_generator,
    pretrain,
    synthesize,
)
from sextet_common import figures, files
from sextet_common.data import ImageSet, load


def main(
    out: Path,
    arrivals: int = 2,
    ipc: int = 2,
    generated: int = 20,
    pretraining: int = 300,
    distillation: int = 200,
    width: int = 8,
    epochs: int = 100,
    seed: int = 0,
) -> None:
    """Run the composition.

    Parameters
    ----------
    out
        Output folder: result.json, picture.png, curves.png, and the run folders.
    arrivals
        Number of steps in which the ten digits arrive.
    ipc
        Real images of each digit in the other buffers.
    generated
        Generated images of each digit.
    pretraining
        Training steps of each GAN.
    distillation
        Distillation steps of each GAN.
    width
        Channels of the GANs.
    epochs
        Epochs of a network on a buffer.
    seed
        Seed of all random draws.
    """
    digits = load("digits")

    def folder_of(classes: Sequence[str]) -> Path:
        return out / f"generator-{'-'.join(classes)}"

    def generator_of(part: ImageSet, draw: int) -> DistilledSet:
        """Train a generator on the new classes, save it, load it and generate the images."""
        folder = folder_of(part.classes)
        gan = ConditionalGAN(part.n_classes, part.image_shape, width=width, seed=draw % 2**31)
        settings = PretrainConfig(steps=pretraining, batch_size=32, lr=1e-3, discriminator_lr=2e-3, ema=0.98, seed=draw)
        pretrain(gan, part, settings, folder / "gan")
        pool = PoolConfig(networks=4, untrained=1.0, width=32)
        config = D2MConfig(steps=distillation, images=4, real_batch=32, seed=draw, pool=pool)
        D2M(config).fit(gan, part, folder / "d2m")
        return synthesize(load_generator(folder / "d2m"), generated, seed=draw, data=part)

    config = ContinualConfig(
        steps=arrivals,
        ipc=ipc,
        buffers=("random", "herding"),
        orders=1,
        seed=seed,
        training=TrainConfig(epochs=epochs),
        width=32,
    )
    comparison = continual(digits, config, out / "continual", custom_buffers={"generator": generator_of})
    comparison.save_picture(out / "curves.png")
    ends = (0, *comparison.classes_seen)
    arrived = [comparison.orders[0][start:end] for start, end in itertools.pairwise(ends)]
    generators = [load_generator(folder_of(classes) / "d2m") for classes in arrived]
    samples = [synthesize(g, 8, seed=1).pixels().reshape(g.n_classes, 8, *digits.image_shape) for g in generators]
    by_row = np.concatenate(samples).swapaxes(0, 1)
    rows, classes = by_row.reshape(-1, *digits.image_shape), comparison.orders[0]
    figures.save_panels(
        {"Generated digits, in their order of arrival": rows}, out / "picture.png", 10, column_names=classes
    )
    weights = sum(tensor.numel() for generator in generators for tensor in generator.state_dict().values())
    result = {
        "order": list(comparison.orders[0]),
        "classes_seen": list(comparison.classes_seen),
        "accuracy": {name: comparison.mean(name).tolist() for name in comparison.accuracies},
        "images_per_class": {"random": ipc, "herding": ipc, "generator": generated},
        # Size of the memory: pixels, or weights of all generators.
        "numbers_kept": {"random": 640 * ipc, "herding": 640 * ipc, "generator": weights},
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")
    print(comparison.to_markdown())


if __name__ == "__main__":
    tyro.cli(main)
