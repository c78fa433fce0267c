"""The options that several commands of `subclass-kd` share."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from sextet_common import data as image_data, loggers
from sextet_common.checks import Count, Natural
from sextet_common.errors import InputError
from sextet_common.options import Advanced

from subclass_kd.augment import Views
from subclass_kd.compare import CompareConfig
from subclass_kd.config import TrainConfig
from subclass_kd.cross_validation import chosen_fold
from subclass_kd.data import SubclassSet
from subclass_kd.saved import RECIPE, Recipe
from subclass_kd.sources import load


@dataclasses.dataclass(frozen=True)
class _Views(Views):
    # --count and --seed would not say whose they are.
    count: Annotated[Advanced[Count], tyro.conf.arg(name="views")] = Views.count
    seed: Annotated[Advanced[Natural], tyro.conf.arg(name="views-seed")] = Views.seed


@dataclasses.dataclass(frozen=True)
class TrainOptions(TrainConfig):
    """How to train."""

    views: _Views = field(default_factory=_Views)


@dataclasses.dataclass(frozen=True)
class CompareOptions(CompareConfig):
    """What is compared."""

    train: TrainOptions = field(default_factory=TrainOptions)


@dataclasses.dataclass(frozen=True)
class Data(image_data.DataOptions):
    """Where images come from."""

    data: str = "digits"
    """digits, digits:half, npz-jpeg:PREFIX, cifar10:PATH, mhist:PATH, a folder class/subclass/image, table:FILE; with
    a hierarchy any folder, npz:PATH, cifar100:PATH, ..."""
    hierarchy: Path | None = None
    """A JSON or CSV file that names the class of each subclass; the classes of the data are then the subclasses."""
    subclasses: Path | None = None
    """A table of other subclasses of the images, such as discover writes; images without a row keep their class."""
    fold: str | None = None
    """Cross-validation: NUMBER/COUNT, such as 2/5, tests on the second of five folds. A patient is in one fold."""

    def read(self) -> SubclassSet:
        """Load the data."""
        options = {name: value for name, value in vars(self).items() if name not in ("data", "fold")}
        data = load(self.data, **options)
        return data if self.fold is None else chosen_fold(data, self.fold)


@dataclasses.dataclass(frozen=True)
class RunData(Data):
    """Where images come from, by default those of a run."""

    data: str | None = None  # type: ignore[assignment]
    """By default the data of the run, or digits without one."""

    def of(self, run: Path | None) -> Data:
        """Return what is given, completed by the options of the run."""
        options = vars(self)
        if run is not None and (run / RECIPE).exists():
            recipe = vars(Recipe.read(run))
            saved = ("data", "size", "channels", "hierarchy", "subclasses", "fold")
            options = options | {name: options[name] or recipe[name] for name in saved}
        elif run is not None and self.data is None and (run / "README.md").exists():
            raise InputError(f"{run} does not say what its data are", "--data")
        elif run is not None and self.data is None:
            Recipe.read(run)  # says what is missing
        return Data(**{**options, "data": options["data"] or "digits"})


Device = Annotated[str, tyro.conf.arg(help="auto, cpu, cuda, cuda:N or mps.")]
Log = Annotated[
    tuple[loggers.Name, ...], tyro.conf.arg(help="Trackers that follow the training: tensorboard, wandb, mlflow.")
]


Rest = Literal["unlabelled", "class"]
