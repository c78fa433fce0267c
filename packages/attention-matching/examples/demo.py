"""Distill scikit-learn's digits into 1 and 10 images per class by three methods, and evaluate the sets.

Run by ``python3 tools/dev.py demo``; alone: ``python examples/demo.py --out demo``.
Writes result.json (the contents of the page), picture.png and the run folders.
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
    evaluate_whole,
    random_real,
)
from attention_matching.kinds import Method
from sextet_common import figures, files
from sextet_common.data import load

METHODS: dict[Method, str] = {"dm": "DM", "datadam": "DataDAM", "atom": "ATOM"}


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
        Output folder.
    steps
        Steps of each distillation; by default the package's.
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
    gains: dict[str, dict[str, float]] = {}
    configs = [DistillConfig(ipc=ipc, method=method, steps=steps) for ipc in (1, 10) for method in METHODS]
    sets = iter(Distiller.fit_many(configs, digits, out / "sets"))
    for ipc in (1, 10):
        real = evaluate_random_real(digits, ipc, training)
        accuracies, gains[str(ipc)] = {"random real": real}, {}
        if ipc == 1:
            panels["one random real image of each class"] = random_real(digits, ipc).pixels()
        for method in METHODS:
            distilled = next(sets)
            accuracies[method] = evaluate(distilled, digits, training)
            gains[str(ipc)][method] = 100 * (accuracies[method].mean - real.mean)
            if ipc == 1 or method == "atom":
                # A column per class: image j of every class is in row j.
                by_class = distilled.pixels().reshape(digits.n_classes, ipc, *digits.image_shape)
                shown = "one image" if ipc == 1 else f"{ipc} images"
                title = f"{shown} of each class, distilled by {METHODS[method]}"
                panels[title] = by_class.swapaxes(0, 1).reshape(-1, *digits.image_shape)
        rows.append([f"{ipc} per class", *(str(accuracy) for accuracy in accuracies.values())])
    whole = evaluate_whole(digits, dataclasses.replace(training, epochs=whole_epochs))
    rows.append([f"all {len(digits.train_labels)}", str(whole), "", "", ""])
    figures.save_panels(panels, out / "picture.png", columns=digits.n_classes)
    best = {ipc: max(gain, key=lambda method: gain[method]) for ipc, gain in gains.items()}
    largest = {ipc: f"{gains[ipc][best[ipc]]:.1f} points ({METHODS[best[ipc]]})" for ipc in gains}
    result = {
        "title": f"Ten images that stand for {len(digits.train_labels)}",
        "sentence": (
            f"Trained on one distilled image per class, fresh networks read {len(digits.test_labels)} unseen "
            f"digits up to {largest['1']} better than those trained on a random real image per class; "
            f"with ten per class the largest gain is {largest['10']}."
        ),
        "columns": ["training images", "random real", *METHODS.values()],
        "rows": rows,
        "note": (
            f"Test accuracy after the last epoch, mean ± standard deviation over {networks} fresh networks; in the "
            f"column of random real images every network is trained on another random choice. Small sets: {epochs} "
            f"passes, all images: {whole_epochs}. One distillation each. Data: the handwritten digits that ship "
            "with scikit-learn, 8x8 pixels."
        ),
        "picture": "picture.png",
        "gains": gains,
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
