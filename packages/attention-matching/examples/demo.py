"""Distill scikit-learn's digits into 1 and 10 images per class, and measure what they are worth.

Run by ``python3 tools/dev.py demo``; alone: ``python examples/demo.py --out demo``.
Writes result.json (what the page shows), picture.png and the two run folders.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import tyro
from attention_matching import (
    DistillConfig,
    Distiller,
    EvaluateConfig,
    evaluate,
    evaluate_random_real,
    random_real,
    whole_set,
)
from sextet_common import figures, files
from sextet_common.data import load


def main(
    out: Path,
    steps: int | None = None,
    networks: int = 5,
    epochs: int = 300,
    whole_epochs: int = 60,
) -> None:
    """Run the demo.

    Parameters
    ----------
    out
        Where to write.
    steps
        Steps of each distillation; the package's default where not given.
    networks
        Fresh networks per row of the table.
    epochs
        Passes over a small set.
    whole_epochs
        Passes over the whole training set.
    """
    digits = load("digits")
    training = EvaluateConfig(networks=networks, epochs=epochs)
    rows, panels = [], {}
    gains = {}
    for ipc in (1, 10):
        distilled = Distiller(DistillConfig(ipc=ipc, steps=steps)).fit(digits, out / f"ipc-{ipc}")
        real, ours = evaluate_random_real(digits, ipc, training), evaluate(distilled, digits, training)
        gains[ipc] = 100 * (ours.mean - real.mean)
        rows.append([f"{ipc} per class", str(real), str(ours), f"{gains[ipc]:+.1f} points"])
        if ipc == 1:
            panels["one random real image of each class"] = random_real(digits, ipc).pixels()
        shown = "one image" if ipc == 1 else f"{ipc} images"
        # A column per class: image j of every class stands in row j.
        by_class = distilled.pixels().reshape(digits.n_classes, ipc, *digits.image_shape)
        panels[f"{shown} of each class, distilled"] = by_class.swapaxes(0, 1).reshape(-1, *digits.image_shape)
    whole = evaluate(whole_set(digits), digits, dataclasses.replace(training, epochs=whole_epochs))
    rows.append([f"all {len(digits.train_labels)}", str(whole), "", ""])
    figures.save_panels(panels, out / "picture.png", columns=digits.n_classes)
    result = {
        "title": "Ten images that stand for 1437",
        "sentence": (
            f"Trained on one distilled image per class, a fresh network reads {len(digits.test_labels)} unseen "
            f"digits {gains[1]:.1f} points better than one trained on a random real image per class; "
            f"with ten per class the gain is {gains[10]:.1f} points."
        ),
        "columns": ["training images", "random real", "distilled (DataDAM)", "gain"],
        "rows": rows,
        "note": (
            f"Test accuracy after the last epoch, mean ± standard deviation over {networks} fresh networks; in the "
            f"column of random real images every network is trained on another random choice. Small sets: {epochs} "
            f"passes, all images: {whole_epochs}. Data: the handwritten digits that ship with scikit-learn, 8x8 pixels."
        ),
        "picture": "picture.png",
        "gains": {str(ipc): gain for ipc, gain in gains.items()},
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
