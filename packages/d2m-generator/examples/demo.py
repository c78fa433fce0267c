"""Train a small GAN on digits, distill the digits into its weights and into latents, and train networks on the images.

Run by ``python3 tools/dev.py demo``; alone: ``python examples/demo.py --out demo``.
Writes result.json (what the page shows), picture.png and the run folders.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import tyro
from attention_matching import EvaluateConfig, evaluate, random_real
from d2m_generator import (
    D2M,
    ConditionalGAN,
    D2MConfig,
    LatentConfig,
    LatentDistiller,
    MatchingLoss,
    PoolConfig,
    PretrainConfig,
    load_generator,
    pretrain,
    synthesize,
)
from sextet_common import figures, files
from sextet_common.data import load

ROWS = 3  # images of a class in each panel of the picture


def main(out: Path, steps: int = 400, distillation: int = 200, networks: int = 2) -> None:
    """Run the demo.

    Parameters
    ----------
    out
        The output folder.
    steps
        Steps of the GAN's training.
    distillation
        Steps of D2M and of the latents.
    networks
        Networks that are trained on each set of images.
    """
    data = load("digits")
    gan = ConditionalGAN(10, data.image_shape, width=16)
    pretrain(gan, data, PretrainConfig(steps=steps, discriminator_width=32), out / "gan")
    before, after = load_generator(out / "gan"), load_generator(out / "gan")
    loss, pool = MatchingLoss(maps="both"), PoolConfig(width=32, untrained=1.0)
    D2M(D2MConfig(steps=distillation, loss=loss, pool=pool)).fit(after, data, out / "d2m")
    rows, panels, means = [], {}, {}
    for ipc in (1, 10):
        config = LatentConfig(ipc=ipc, steps=distillation, inversion_steps=100, loss=loss, pool=pool)
        latents = LatentDistiller(config).fit(before, data, out / f"latents-{ipc}")
        sets = {
            "random real": random_real(data, ipc),
            "generator before": synthesize(before, ipc, data=data),
            "after D2M": synthesize(after, ipc, data=data),
            "latents": synthesize(latents, ipc, data=data),
        }
        training = EvaluateConfig(networks=networks, epochs=150)
        results = {name: evaluate(each, data, training) for name, each in sets.items()}
        means[ipc] = {name: 100 * result.mean for name, result in results.items()}
        rows.append([f"{ipc} per class", *map(str, results.values())])
        panels = {name: each.pixels().reshape(10, ipc, *data.image_shape)[:, :ROWS] for name, each in sets.items()}
    began = time.perf_counter()
    synthesize(after, 50, data=data)
    seconds = time.perf_counter() - began
    shown = {name: np.swapaxes(images, 0, 1).reshape(-1, *data.image_shape) for name, images in panels.items()}
    figures.save_panels(shown, out / "picture.png", 10, column_names=data.classes)
    gains = {str(ipc): mean["latents"] - mean["random real"] for ipc, mean in means.items()}
    result = {
        "title": "Ten digits in one generator",
        "number": f"{means[10]['latents']:.1f} %",
        "about": f"of digits read after ten images per class from latents; {means[10]['random real']:.1f} % from real",
        "sentence": (
            "Networks trained on ten images per class that a small generator makes from optimised latents are right on "
            f"{means[10]['latents']:.1f} % of the test digits, {gains['10']:+.1f} points against random real images; "
            f"after D2M the same generator makes fifty per class in {1000 * seconds:.0f} ms."
        ),
        "columns": ["training images", *panels],
        "rows": rows,
        "note": (
            f"Test accuracy on {len(data.test_labels)} digits (scikit-learn's), mean ± standard deviation over "
            f"{networks} networks; every set of images is generated once (protocol fixed). Latents belong to the "
            f"generator before, which is frozen. The picture: the first {ROWS} of ten images of each digit."
        ),
        "picture": "picture.png",
        "gains": gains,
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
