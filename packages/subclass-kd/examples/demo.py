"""Teach a small network even from odd with few labels: alone, through two classes, through ten digits; plot the gains.

Run by ``python3 tools/dev.py demo``; alone: ``python examples/demo.py --out demo``.
Writes result.json (the content of the page), picture.png and the run folders.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import tyro
from sextet_common import files
from subclass_kd import CompareConfig, TrainConfig, compare, load, save_gains
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
        ("alone", "alone-subclass", "kd-semi", "skd-semi"), seeds=seeds, share=share, student_width=16,
        teacher_labels="all", teacher_epochs=5, train=TrainConfig(epochs=400),
    )  # fmt: skip
    tuned = {"kd-semi": {"temperature": 1.0}, "skd-semi": {"temperature": 4.0}}  # by benchmarks/bench_methods.py
    comparison = compare(data, config, out / "runs", chosen=tuned)
    save_gains(comparison, out / "picture.png")
    gain, over_labels = (comparison.difference("skd-semi", to) for to in ("kd-semi", "alone-subclass"))
    rows = []
    for name in (*config.methods, "teacher"):
        scores = [100 * scores.f1 for scores in comparison.scores[name]]
        cost = comparison.cost["teacher" if name == "teacher" else "student"]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        parameters = f"{cost['parameters']:,.0f}"
        rows.append([NAMES.get(name, name), f"{statistics.mean(scores):.1f} ± {spread:.1f} %", parameters])
    result = {
        "title": "Even or odd",
        "number": rows[-2][1].split()[0] + " %",
        "about": f"F1 of the small network with SKD; {rows[0][1].split()[0]} % alone",
        "sentence": (
            f"With {round(share * len(data.train))} labelled images, and all others without labels, a teacher that "
            f"shows the small network which digit it sees is worth {over_labels.mean:+.1f} points of F1 over the "
            f"labels alone, and {gain.mean:+.1f} over one that shows only the class."
        ),
        "columns": ["student", "F1", "parameters"],
        "rows": rows,
        "note": (
            f"Scikit-learn's digits, {seeds} draws of the labels; the teacher has seen all of them. F1 of odd on "
            f"{len(data.test)} test images, mean ± standard deviation. Differences in the picture are "
            "paired over the draws."
        ),
        "picture": "picture.png",
        "pictures": {"Gain in F1 over the student alone, with 95 % intervals over the draws": "picture.png"},
        "gain": gain.mean,
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
