"""Distill scikit-learn's digits into 1 and 10 images per class by three methods, and evaluate the sets.

Run by ``python3 tools/dev.py demo``; alone: ``python examples/demo.py --out demo``; with ``--full`` the README's table.
Writes result.json (the contents of the page), its pictures, picture.png (all of them) and the run folders.
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


@dataclasses.dataclass(frozen=True)
class Size:
    """How long to distill and to train."""

    steps: int
    """Steps of each distillation."""
    networks: int
    """Fresh networks per row of the table."""
    epochs: dict[int, int]
    """Passes over the small sets, by images per class."""
    whole_epochs: int
    """Passes over the whole training set."""


SHORT = Size(steps=250, networks=3, epochs={1: 200, 10: 150}, whole_epochs=30)
FULL = Size(steps=600, networks=5, epochs={1: 300, 10: 300}, whole_epochs=60)


def main(out: Path, full: bool = False) -> None:
    """Run the demo.

    Parameters
    ----------
    out
        Output folder.
    full
        Distill and train as long as for the README's table: minutes instead of one.
    """
    chosen = FULL if full else SHORT
    digits = load("digits")
    rows, panels = [], {}
    gains: dict[str, dict[str, float]] = {}
    configs = [DistillConfig(ipc=ipc, method=method, steps=chosen.steps) for ipc in (1, 10) for method in METHODS]
    sets = iter(Distiller.fit_many(configs, digits, out / "sets"))
    for ipc in (1, 10):
        training = EvaluateConfig(networks=chosen.networks, epochs=chosen.epochs[ipc])
        real = evaluate_random_real(digits, ipc, training)
        accuracies, gains[str(ipc)] = {"random real": real}, {}
        if ipc == 1:
            panels["One random real image of each class"] = random_real(digits, ipc).pixels()
        for method in METHODS:
            distilled = next(sets)
            accuracies[method] = evaluate(distilled, digits, training)
            gains[str(ipc)][method] = 100 * (accuracies[method].mean - real.mean)
            if ipc == 1 or method == "atom":
                # A column per class: image j of every class is in row j.
                by_class = distilled.pixels().reshape(digits.n_classes, ipc, *digits.image_shape)
                shown = "One image" if ipc == 1 else f"{ipc} images"
                title = f"{shown} of each class, distilled by {METHODS[method]}"
                panels[title] = by_class.swapaxes(0, 1).reshape(-1, *digits.image_shape)
        rows.append([f"{ipc} per class", *(str(accuracy) for accuracy in accuracies.values())])
    training = EvaluateConfig(networks=chosen.networks, epochs=chosen.whole_epochs)
    whole = evaluate_whole(digits, training)
    rows.append([f"all {len(digits.train_labels)}", str(whole), "", "", ""])
    figures.save_panels(panels, out / "picture.png", columns=digits.n_classes, column_names=digits.classes)
    pictures = {title: f"panel-{number}.png" for number, title in enumerate(panels)}
    for title, name in pictures.items():
        figures.save_grid(panels[title], out / name, columns=digits.n_classes)
    best = {ipc: max(gain, key=lambda method: gain[method]) for ipc, gain in gains.items()}
    largest = {ipc: f"{gains[ipc][best[ipc]]:.1f} points ({METHODS[best[ipc]]})" for ipc in gains}
    result = {
        "title": f"Ten images that stand for {len(digits.train_labels)}",
        "number": rows[0][2 + list(METHODS).index(best["1"])],
        "about": f"of unseen digits read after training on ten distilled images; {rows[0][1]} on ten real ones",
        "sentence": (
            f"Trained on one distilled image per class, fresh networks read {len(digits.test_labels)} unseen "
            f"digits up to {largest['1']} better than those trained on a random real image per class; "
            f"with ten per class the largest gain is {largest['10']}. Every pixel is between black and white."
        ),
        "columns": ["training images", "random real", *METHODS.values()],
        "rows": rows,
        "note": (
            f"Test accuracy after the last epoch, mean ± standard deviation over {chosen.networks} fresh networks; in "
            f"the column of random real images every network is trained on another random choice. Passes: "
            f"{chosen.epochs[1]} over 1 image per class, {chosen.epochs[10]} over 10, {chosen.whole_epochs} over all. "
            f"One distillation each, of {chosen.steps} steps. Data: the handwritten digits that ship with "
            "scikit-learn, 8x8 pixels."
        ),
        "picture": "picture.png",
        "pictures": pictures,
        "gains": gains,
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
