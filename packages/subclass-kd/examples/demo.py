"""Teach a small network even from odd: alone, through two classes and through ten digits; plot the gains.

Run by ``python3 tools/dev.py demo``; alone: ``python examples/demo.py --out demo``.
Writes result.json (the content of the page), picture.png and the run folders.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import tyro
from sextet_common import files
from subclass_kd import CompareConfig, TrainConfig, compare, label_bits, load, save_gains
from subclass_kd.comparison import NAMES


def main(out: Path, seeds: int = 4, share: float = 0.05) -> None:
    """Run the demo.

    Parameters
    ----------
    out
        Output folder.
    seeds
        Number of seeds: of teachers, students and draws of the images.
    share
        Share of the training images that are labelled.
    """
    data = load("digits")
    config = CompareConfig(
        ("alone", "kd", "skd"), seeds=seeds, share=share, student_width=32, train=TrainConfig(epochs=300)
    )
    comparison = compare(data, config, out / "runs")
    save_gains(comparison, out / "picture.png", title="What a teacher adds to a small network")
    gain, bits = comparison.difference("skd", "kd"), label_bits(data.train.labels, data.hierarchy)
    rows = []
    for name in ("alone", "kd", "skd", "teacher"):
        scores = [100 * scores.f1 for scores in comparison.scores[name]]
        cost = comparison.cost["teacher" if name == "teacher" else "student"]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        parameters = f"{cost['parameters']:,.0f}"
        rows.append([NAMES.get(name, name), f"{statistics.mean(scores):.1f} ± {spread:.1f} %", parameters])
    result = {
        "title": "Even or odd",
        "sentence": (
            f"A teacher that shows the small network which digit it sees, {bits.value:.1f} bits more than even or odd, "
            f"changes its F1 by {gain.mean:+.1f} points compared with one that shows only the class."
        ),
        "columns": ["student", "F1", "parameters"],
        "rows": rows,
        "note": (
            f"{round(share * len(data.train))} labelled images of scikit-learn's digits for teacher and students "
            f"alike, {seeds} draws of them; F1 of odd on {len(data.test)} test images, mean ± standard deviation. The "
            "figure shows differences to the student alone, paired over the draws, with 95 % intervals."
        ),
        "picture": "picture.png",
        "gain": gain.mean,
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
