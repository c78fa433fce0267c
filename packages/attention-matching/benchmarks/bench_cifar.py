"""The papers' main experiment: distill CIFAR-10, train fresh networks on the result, and attribute the gains.

A small budget, for two cores of a laptop; its figures are not comparable with the papers'::

    python benchmarks/bench_cifar.py --data npz-jpeg:PATH/cifar10-jpeg --budget small

The papers' budget: DM, DataDAM and ATOM, free and valid pixels, both norms, with and without whitening::

    python benchmarks/bench_cifar.py --data npz-jpeg:PATH/cifar10-jpeg --ipc 1 --seeds 0 1 2 --at 500 1000 2000 4000

All sets of one seed, norm, whitening and number of images are distilled together. Everything is saved in --out as soon
as it is known, and the same command resumes after a kill; other options add to it. Prints the tables of all that --out
holds at this budget and number of steps, writes them and results/cifar-BUDGET-DEVICE.json, and updates the README.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from attention_matching import (
    DistillConfig,
    DistilledSet,
    Distiller,
    EvaluateConfig,
    Preprocessing,
    evaluate,
    evaluate_random_real,
    select,
)
from attention_matching.distillation.config import PixelRange, Preset
from attention_matching.images.preprocess import Whitening
from attention_matching.kinds import Method
from cifar_tables import REAL, Row, attribution, curves, percent, table
from sextet_common import checkpoint, device, figures, files
from sextet_common.benchmarks import into_readme
from sextet_common.data import ImageSet, load
from sextet_common.errors import DataWarning, InputError

HERE = Path(__file__).resolve().parent
Norms = Literal["instance", "batch"]
SHOWN: dict[Method, str] = {"dm": "DM", "datadam": "DataDAM", "atom": "ATOM"}


@dataclasses.dataclass(frozen=True)
class Budget:
    """Cost of a row."""

    steps: int
    """Steps of a distillation."""
    width: int
    """Width of all networks."""
    networks: int
    """Fresh networks per distilled set."""
    epochs: int
    """Epochs of each fresh network."""


BUDGETS = {
    "paper": Budget(steps=8000, width=128, networks=5, epochs=1000),
    "small": Budget(steps=300, width=32, networks=3, epochs=300),
}


@dataclasses.dataclass(frozen=True)
class Group:
    """Sets that are distilled together: one for each configuration, from the same draws."""

    data: ImageSet
    preprocessing: Callable[[], Preprocessing]
    configs: list[DistillConfig]
    training: EvaluateConfig
    folder: Path

    def distill(self, at: Sequence[int]) -> dict[int, list[DistilledSet]]:
        """Return the sets after each number of steps; the images of each are kept, so that none is distilled again."""
        kept: dict[int, list[DistilledSet]] = {}
        for steps in sorted({1, *(n for n in at if n < self.steps), self.steps}):
            path = self.folder / f"at-{steps}.safetensors"
            names = [f"{config.method}.{config.pixels}" for config in self.configs]
            if not path.exists():
                configs = [dataclasses.replace(config, steps=steps) for config in self.configs]
                run = self.folder / "distillation"
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DataWarning)  # of invalid pixels: the table has their share
                    sets = Distiller.fit_many(configs, self.data, run, preprocessing=self.preprocessing())
                arrays = {name: each.images for name, each in zip(names, sets, strict=True)}
                checkpoint.save(path, arrays, {"kind": "images of bench_cifar", "steps": steps})
            images = checkpoint.load(path, "torch").arrays
            if set(images) != set(names):
                raise InputError(f"{path} holds {', '.join(images)}", "the same methods and pixels, or another --out")
            kept[steps] = [self._set(images[name]) for name in names]
        return kept

    @property
    def steps(self) -> int:
        """Steps of the whole distillation."""
        return self.configs[0].steps or 0

    def measure(self, at: Sequence[int]) -> None:
        """Distill, evaluate and save a row for each set, and one for random real images."""
        kept = self.distill(at)
        start = self._start().flatten(1)
        if not self._is_complete("random-real", ()):
            real = evaluate_random_real(
                self.data,
                self.configs[0].ipc,
                self.training,
                self.folder / "accuracy" / "random-real",
                preprocessing=self.preprocessing(),
            )
            self._save("random-real", self._row(self.configs[0], REAL, "valid", list(real.accuracies)))
        for number, config in enumerate(self.configs):
            name = f"{config.method}-{config.pixels}"
            if self._is_complete(f"{name}-{self.steps}", [n for n in kept if 1 < n < self.steps]):
                continue
            of = {steps: sets[number] for steps, sets in kept.items()}
            last = of[self.steps]
            row = self._row(config, config.method, config.pixels, self._accuracies(last, f"{name}-{self.steps}"))
            row = dataclasses.replace(
                row,
                png_accuracies=self._accuracies(_as_png(last), f"{name}-{self.steps}-png"),
                outside=last.share_outside(),
                cosine=float(torch.cosine_similarity(of[1].images.flatten(1), start).mean()),
                curve={str(n): self._accuracies(of[n], f"{name}-{n}") for n in sorted(of) if 1 < n < self.steps},
            )
            self._save(f"{name}-{self.steps}", row)
            print(f"{self.folder.name}, {name}: {percent([row.accuracies])} %", flush=True)

    def _accuracies(self, training: DistilledSet, name: str) -> list[float]:
        return list(evaluate(training, self.data, self.training, self.folder / "accuracy" / name).accuracies)

    def _set(self, images: torch.Tensor) -> DistilledSet:
        labels = torch.arange(self.data.n_classes).repeat_interleave(self.configs[0].ipc)
        return DistilledSet(images, labels, self.data.classes, self.preprocessing())

    def _start(self) -> torch.Tensor:
        config = self.configs[0]
        return select("random", self.data, config.ipc, config.seed, self.preprocessing()).images

    def _row(self, config: DistillConfig, method: str, pixels: str, accuracies: list[float]) -> Row:
        return Row(
            method=method,
            pixels=pixels,
            norm=str(config.norm),
            whitening=str(config.whitening),
            power=config.resolved(self.data).power or 0,
            ipc=config.ipc,
            seed=config.seed,
            steps=0 if method == REAL else self.steps,
            width=self.training.width or 0,
            epochs=self.training.epochs,
            accuracies=accuracies,
        )

    def _is_complete(self, name: str, at: Sequence[int]) -> bool:
        """Whether a row is saved with these numbers of steps, and networks and epochs enough."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            return False
        row = Row(**json.loads(path.read_text(encoding="utf-8")))
        asked = self.training
        is_same = row.epochs == asked.epochs and len(row.accuracies) >= asked.networks
        return is_same and set(map(str, at)) <= set(row.curve)

    def _save(self, name: str, row: Row) -> None:
        files.write_text(self.folder / f"{name}.json", json.dumps(dataclasses.asdict(row), indent=1) + "\n")


def _as_png(training: DistilledSet) -> DistilledSet:
    """Return the set that PNG files of it hold: pixels clipped to [0, 1], in 8 bits."""
    pixels = (training.pixels() * 255).round().astype(np.uint8)
    return dataclasses.replace(training, images=training.preprocessing(pixels))


def saved_rows(folder: Path, preset: Preset, steps: int) -> list[Row]:
    """Read the rows of all configurations of a preset and a number of steps that a folder holds."""
    paths = sorted(folder.glob(f"{preset}-*/*.json"))
    rows = [Row(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    return [row for row in rows if row.method == REAL or row.steps == steps]


def picture(group: Group, path: Path) -> None:
    """Save the valid images, a column per class: each method's below the start, or, of several per class, DataDAM's."""
    config, classes = group.configs[0], group.data.classes
    sets = group.distill(())[group.steps]
    valid = {SHOWN[c.method]: s.pixels() for c, s in zip(group.configs, sets, strict=True) if c.pixels == "valid"}
    if not valid:
        return
    if config.ipc > 1:
        name = "DataDAM" if "DataDAM" in valid else next(iter(valid))
        by_class = valid[name].reshape(len(classes), config.ipc, *group.data.image_shape)
        panels, rows = {name: by_class.swapaxes(0, 1)}, []
    else:
        valid = {"real": group.preprocessing().invert(group._start()), **valid}
        panels, rows = {"": np.stack(list(valid.values()))}, list(valid)
    flat = {name: images.reshape(-1, *group.data.image_shape) for name, images in panels.items()}
    figures.save_panels(flat, path, columns=len(classes), column_names=classes, row_names=rows)


def main(
    data: str,
    budget: Literal["paper", "small"] = "paper",
    methods: tuple[Method, ...] = ("dm", "datadam", "atom"),
    pixels: tuple[PixelRange, ...] = ("valid", "free"),
    norms: tuple[Norms, ...] = ("instance", "batch"),
    whitenings: tuple[Whitening, ...] = ("zca", "none"),
    ipc: tuple[int, ...] = (1,),
    seeds: tuple[int, ...] = (0,),
    at: tuple[int, ...] = (),
    preset: Preset = "paper",
    steps: int | None = None,
    networks: int | None = None,
    epochs: int | None = None,
    image_lr: float | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    only_distill: bool = False,
    device_name: str = "auto",
    out: Path = Path("runs/cifar"),
    readme: bool = True,
) -> None:
    """Measure.

    Parameters
    ----------
    data
        CIFAR-10: npz-jpeg:PREFIX for the shared data, cifar10:PATH for torchvision's.
    budget
        paper, or small for a CPU: see BUDGETS.
    methods
        Distillation methods.
    pixels
        valid (clamped to [0, 1] after every step), free (as published).
    norms
        Normalisation of all networks.
    whitenings
        zca, none.
    ipc
        Images per class.
    seeds
        Distillations of each setting.
    at
        Numbers of steps after which the sets are evaluated too.
    preset
        Power of the attention maps: paper 4, official 1.
    steps
        Steps in place of the budget's; more continue a finished distillation.
    networks
        Networks per set in place of the budget's.
    epochs
        Epochs in place of the budget's.
    image_lr
        Learning rate of the images in place of the published one.
    precision
        Precision of the convolutions in distillation.
    only_distill
        Leave the evaluation to a later call.
    device_name
        auto, cpu or cuda.
    out
        Folder of the runs.
    readme
        Put the tables into the README.
    """
    images, chosen = load(data), BUDGETS[budget]
    changes = {"steps": steps, "networks": networks, "epochs": epochs}
    chosen = dataclasses.replace(chosen, **{name: n for name, n in changes.items() if n is not None})
    fitted = {w: functools.cache(functools.partial(Preprocessing.fit, images, w)) for w in whitenings}
    folder, groups = out / budget, []
    for number, seed, whitening, norm in itertools.product(ipc, seeds, whitenings, norms):
        shared: dict[str, Any] = {"preset": preset, "ipc": number, "seed": seed, "whitening": whitening, "norm": norm}
        shared |= {"steps": chosen.steps, "width": chosen.width, "image_lr": image_lr, "device": device_name}
        group = Group(
            images,
            fitted[whitening],
            [DistillConfig(method=m, pixels=p, precision=precision, **shared) for m in methods for p in pixels],
            EvaluateConfig(
                networks=chosen.networks,
                epochs=chosen.epochs,
                width=chosen.width,
                norm=norm,
                seed=seed,
                device=device_name,
            ),
            folder / f"{preset}-{norm}-{whitening}-ipc{number}-seed{seed}",
        )
        groups.append(group)
        group.distill(at) if only_distill else group.measure(at)
    rows = saved_rows(folder, preset, chosen.steps)
    if only_distill or not rows:
        return
    tables = [each for each in (table(rows), attribution(rows), curves(rows)) if each]
    print("\n\n".join(tables))
    report = {
        "machine": device.describe(),
        "data": images.source.split(":")[0],
        "budget": dataclasses.asdict(chosen),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    name = f"cifar-{budget}-{device.pick(device_name).type}"
    files.write_text(HERE / "results" / f"{name}.json", json.dumps(report, indent=1) + "\n")
    files.write_text(HERE / "results" / f"{name}.md", "\n\n".join(tables) + "\n")
    for number in ipc:
        first = next(group for group in groups if group.configs[0].ipc == number)
        picture(first, HERE / "results" / f"{name}-ipc{number}.png")
    if readme:
        into_readme(HERE.parent / "README.md", f"bench_cifar {budget}", "\n\n".join(tables))


if __name__ == "__main__":
    tyro.cli(main)
