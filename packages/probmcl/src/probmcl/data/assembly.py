"""From image files and a table of labels to a data set.

Readers read annotations only; images are decoded when a batch is requested. Every file that a table names must exist
from the start, so that a missing one is reported before training and not in its last epoch.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from sextet_common.errors import InputError, reading

from probmcl.data.sets import FileSplit, MultiLabelSet, held_out

PARTS = ("train", "validation", "test")


def inside(folder: Path, name: str) -> Path:
    """Return a path inside a folder, or raise InputError if the name leads out of it."""
    path = folder / name
    with reading(folder, "a path inside it"):  # a name may be too long or contain null bytes
        within = bool(name) and not Path(name).is_absolute() and path.resolve().is_relative_to(folder.resolve())
        path.is_file()
    if not within:
        raise InputError(f"the file name {name!r} leads out of {folder}", "a path inside it")
    return path


def check_all_exist(paths: tuple[Path, ...]) -> None:
    """Raise InputError with the number of missing files and the first of them."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        summary = f"{len(missing)} of {len(paths)} images are missing, first {missing[0]}"
        raise InputError(summary, "every image that the table names")


def assemble(
    paths: tuple[Path, ...], labels: np.ndarray, names: tuple[str, ...], parts: list[str] | None, size: int, source: str
) -> MultiLabelSet:
    """Assign rows to their parts; a part that no row names receives a fixed share of the training rows."""
    part_of = np.array(parts if parts is not None else ["train"] * len(paths), dtype="<U10")
    for part in ("test", "validation"):
        if not (part_of == part).any():
            training = np.flatnonzero(part_of == "train")
            _, held = held_out(len(training), source)
            part_of[training[held]] = part
    if not (part_of == "train").any():
        raise InputError(f"{source} has no training image", "at least one")
    splits = {}
    for part in PARTS:
        rows = np.flatnonzero(part_of == part)
        splits[part] = FileSplit(tuple(paths[row] for row in rows), labels[rows], size)
    absent = [name for name, count in zip(names, splits["train"].labels.sum(axis=0), strict=True) if not count]
    if absent:
        warnings.warn(f"{source}: no training image has the label {absent[0]!r} ({len(absent)} such)", stacklevel=4)
    return MultiLabelSet(splits["train"], splits["validation"], splits["test"], names, (3, size, size), source)
