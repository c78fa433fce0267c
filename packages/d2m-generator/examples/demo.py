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
from attention_matching import EvaluateConfig, Evaluation, evaluate, evaluate_random_real
from d2m_generator import (
    D2M,
    ConditionalGAN,
    D2MConfig,
    Generator,
    LatentConfig,
    LatentDistiller,
    MatchingLoss,
    PretrainConfig,
    evaluate_generator,
    load_generator,
    pretrain,
    synthesize,
)
from sextet_common import figures, files
from sextet_common.data import ImageSet, load


def accuracy(generator: Generator, data: ImageSet, ipc: int, sets: int) -> Evaluation:
    """Train two networks on each of several sets of a generator's images."""
    config = EvaluateConfig(networks=2, epochs=150)
    results = [evaluate_generator(generator, data, ipc, config, seed=seed).evaluation for seed in range(sets)]
    return Evaluation(tuple(value for result in results for value in result.accuracies))


def main(out: Path, steps: int = 600, distillation: int = 500, sets: int = 3) -> None:
    """Run the demo.

    Parameters
    ----------
    out
        The output folder.
    steps
        Steps of the GAN's training.
    distillation
        Steps of D2M.
    sets
        Sets of images per generator and number of images.
    """
    data = load("digits")
    gan = ConditionalGAN(10, data.image_shape, width=16)
    pretrain(gan, data, PretrainConfig(steps=steps), out / "gan")
    before, after = load_generator(out / "gan"), load_generator(out / "gan")
    # Two images of a class and step make better single images, more of them more variety.
    D2M(D2MConfig(steps=distillation, images=2, loss=MatchingLoss(maps="both"))).fit(after, data, out / "d2m")
    rows = []
    gains = {}
    for ipc in (1, 10):
        config = LatentConfig(ipc=ipc, loss=MatchingLoss(maps="both"))
        latents = LatentDistiller(config).fit(before, data, out / f"latents-{ipc}")
        training = EvaluateConfig(networks=2 * sets, epochs=150)
        fixed = evaluate(synthesize(latents, ipc, data=data), data, training)
        real = evaluate_random_real(data, ipc, training)
        old, new = (accuracy(generator, data, ipc, sets) for generator in (before, after))
        gains[ipc] = 100 * (new.mean - old.mean)
        rows.append([f"{ipc} per class", str(real), str(old), str(new), str(fixed)])
    began = time.perf_counter()
    synthesize(after, 50, seed=0, data=data)
    seconds = time.perf_counter() - began
    real = np.concatenate([data.train_images[data.train_labels == k][:4] for k in range(10)])
    shown = [real, *(synthesize(g, 4, seed=0, data=data).pixels() for g in (before, after))]
    side = [images.reshape(10, 4, *data.image_shape) for images in shown]
    figures.save_grid(np.concatenate(side, axis=1).reshape(-1, *data.image_shape), out / "picture.png", 12)
    result = {
        "title": "Ten digits in one generator",
        "sentence": (
            f"After D2M a network learns more from one image per class of the same small generator, {gains[1]:+.1f} "
            f"points, and {gains[10]:+.1f} from ten; fifty take {1000 * seconds:.0f} ms and no new distillation."
        ),
        "columns": ["training images", "random real", "generator before", "after D2M", "latents"],
        "rows": rows,
        "note": (
            f"Test accuracy on {len(data.test_labels)} digits (scikit-learn's), mean ± standard deviation over "
            f"{2 * sets} fresh networks, two on each of {sets} sets of images, each generated once (protocol fixed). "
            "Latents belong to the generator before, which is frozen; all networks are trained on one set of them. "
            "The picture: four real images of each digit, four of the generator before, four after."
        ),
        "picture": "picture.png",
        "gains": {str(k): v for k, v in gains.items()},
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
