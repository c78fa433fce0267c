"""The gain of a student from a teacher, through classes and through subclasses: five seeds, four settings.

    python benchmarks/bench_methods.py --cifar PREFIX             # all; PREFIX-train.npz and PREFIX-test.npz
    python benchmarks/bench_methods.py --only digits digits-scarce

A finished setting is not run again as long as its folder in runs/ exists. Then all finished settings are written into
the README: scores, paired differences with 95 % intervals, and the label bits beside the gain.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import torch
import tyro
from sextet_common import files
from sextet_common.benchmarks import into_readme, machine, store
from subclass_kd import (
    CompareConfig,
    Comparison,
    SubclassSet,
    TrainConfig,
    Views,
    bits_beside_gain,
    compare,
    load,
    save_bits,
    save_gains,
)

HERE = Path(__file__).resolve().parent

Setting = Literal["digits-semi", "cifar-semi", "digits", "digits-scarce", "cifar", "cifar-scarce"]
METHODS = ("alone", "alone-subclass", "kd", "kd-classes", "dkd", "standardised", "dist", "skd", "discovered", "learned")
SEMI = ("alone", "alone-subclass", "kd", "skd", "pseudo", "kd-semi", "skd-semi")
FEW = TrainConfig(epochs=600, checkpoint_every=100)  # epochs of one step
DIGITS = CompareConfig(METHODS, teacher_width=48, student_width=16, tune=True, train=TrainConfig(epochs=60))
DIGITS_SEMI = dataclasses.replace(DIGITS, methods=SEMI, share=0.05, teacher_labels="all", train=FEW)
SCARCE = dataclasses.replace(DIGITS, share=0.05, student_width=32, train=dataclasses.replace(FEW, epochs=300))
CIFAR = CompareConfig(
    ("alone", "alone-subclass", "kd", "skd", "discovered"),
    tune=True,
    teacher_width=20,
    student_width=16,
    train=TrainConfig(epochs=12, batch_size=128, lr=4e-3, views=Views(4, flip=True)),
)
CIFAR_SEMI = dataclasses.replace(
    CIFAR, methods=("alone", "alone-subclass", "pseudo", "kd-semi", "skd-semi"), seeds=3, share=2000 / 42_500,
    teacher_labels="all", teacher_epochs=3, student_width=8,
    train=dataclasses.replace(CIFAR.train, epochs=40, views=Views(2, flip=True)),
)  # fmt: skip
CIFAR_SCARCE = dataclasses.replace(CIFAR, share=0.1, train=dataclasses.replace(CIFAR.train, epochs=60, batch_size=64))
SETTINGS: dict[str, tuple[str, CompareConfig]] = {
    "digits-semi": ("digits, 5 % of the labels, a teacher of all labels", DIGITS_SEMI),
    "cifar-semi": ("CIFAR-10, 2000 labels and 40,500 unlabelled images, a teacher of all labels", CIFAR_SEMI),
    "digits": ("digits, even or odd", DIGITS),
    "digits-scarce": ("digits, 5 % of the labels", SCARCE),
    "cifar": ("CIFAR-10, animal or vehicle", CIFAR),
    "cifar-scarce": ("CIFAR-10, 10 % of those labels", CIFAR_SCARCE),
}


def main(
    cifar: Path | None = None,
    only: tuple[Setting, ...] = ("digits-semi", "cifar-semi", "digits", "digits-scarce", "cifar", "cifar-scarce"),
    images: int = 4000,
    work: Path = Path("runs/bench_methods"),
) -> None:
    """Measure.

    Parameters
    ----------
    cifar
        The PREFIX of CIFAR-10, as in `npz-jpeg:PREFIX`.
    only
        Settings to run.
    images
        Number of training images of CIFAR-10, drawn once before any share is taken.
    work
        Folder of the run folders.
    """
    torch.set_num_threads(1)  # the networks are small
    for name in only:
        _, config = SETTINGS[name]
        if name.startswith("cifar") and cifar is None:
            raise SystemExit("--cifar PREFIX is needed for CIFAR-10")
        data = load("digits") if name.startswith("digits") else load(f"npz-jpeg:{cifar}")
        data = drawn(data, images) if name in ("cifar", "cifar-scarce") else data
        comparison = compare(data, config, work / name)
        settings = {"config": dataclasses.asdict(config), "training_images": len(data.train)}
        store(HERE, name, {**settings, **comparison.as_dict()})
    write()


def drawn(data: SubclassSet, images: int) -> SubclassSet:
    """Return the set with a fixed draw of its training images."""
    return data.scarce(images / len(data.train), seed=12345)


def write() -> None:
    """Write the finished settings into the README."""
    points, parts = [], []
    for name, (title, _) in SETTINGS.items():
        path = HERE / "results" / f"{name}.json"
        if not path.exists():
            continue
        table = json.loads(path.read_text(encoding="utf-8"))
        comparison = Comparison.from_dict(table)
        if "skd" in comparison.scores:
            points.append((title, comparison))
        cost = {role: comparison.cost[role] for role in ("teacher", "student")}
        costs = "; ".join(
            f"{role} {c['parameters']:,.0f} parameters, {c['multiply_adds'] / 1e6:.2f} M multiply-adds, "
            f"{1e3 * c['seconds']:.2f} ms an image"
            for role, c in cost.items()
        )
        epochs, share = table["config"]["train"]["epochs"], table["config"]["share"]
        count = round(share * table["training_images"])
        tuned = "" if table["config"].get("tune") else " Not tuned, of the version before."
        parts.append(
            f"**{title}**: {count} labelled training images, {epochs} epochs; {costs}.{tuned}\n\n{comparison.table()}"
        )
        save_gains(comparison, HERE / "results" / f"{name}.png", title=title)
    save_bits(points, HERE / "results" / "bits.png", reading=2)  # label entropy is nearly the same in all
    into_readme(
        HERE.parent / "README.md",
        "bench_methods",
        "\n\n".join(parts) + f"\n\n`python benchmarks/bench_methods.py` on {machine()}.",
    )
    into_readme(
        HERE.parent / "README.md",
        "bench_bits",
        bits_beside_gain(points) + "\n\n![Label bits beside gain](benchmarks/results/bits.png)",
    )
    files.write_text(HERE / "results" / "README.md", "Raw results of the benchmarks, as they were measured.\n")


if __name__ == "__main__":
    tyro.cli(main)
