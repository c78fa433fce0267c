"""From image files and a table of labels to a data set.

Readers read annotations only; images are decoded when a batch is requested. Every file that a table names must exist
from the start, so that a missing one is reported before training and not in its last epoch.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from sextet_common import cache as image_cache
from sextet_common.errors import DataWarning, InputError, reading

from probmcl.data.sets import ArraySplit, FileSplit, MultiLabelSet, Split, held_out

PARTS = ("train", "validation", "test")


class FileOptions(NamedTuple):
    """How image files are read: pixels a side, channels, a cache of decoded images, what to do with broken files."""

    size: int = 224
    channels: Literal[1, 3] | None = None
    cache: Path | None = None
    on_bad_image: Literal["refuse", "skip"] = "refuse"


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
    paths: tuple[Path, ...],
    labels: np.ndarray,
    names: tuple[str, ...],
    parts: list[str] | None,
    options: FileOptions,
    source: str,
    notes: tuple[str, ...] = (),
) -> MultiLabelSet:
    """Assign rows to their parts; a part that no row names receives a fixed share of the training rows."""
    part_of = np.array(parts if parts is not None else ["train"] * len(paths), dtype="<U10")
    for part in ("test", "validation"):
        if not (part_of == part).any():
            training = np.flatnonzero(part_of == "train")
            _, held = held_out(labels[training], source)
            part_of[training[held]] = part
            if part == "test":
                notes += (f"{source} has no test part: {len(held)} of {len(training)} training rows are held out",)
    if not (part_of == "train").any():
        raise InputError(f"{source} has no training image", "at least one")
    rows_of = {part: np.flatnonzero(part_of == part) for part in PARTS}
    channels = options.channels or 3
    if options.cache is not None or options.on_bad_image == "skip":
        splits, more = _decoded(paths, labels, rows_of, options)
        notes += more
    else:
        splits = {
            part: FileSplit(tuple(paths[row] for row in rows), labels[rows], options.size, channels)
            for part, rows in rows_of.items()
        }
    absent = [name for name, count in zip(names, (splits["train"].labels > 0).sum(axis=0), strict=True) if not count]
    if absent:
        notes += (f"{source}: no training image has the label {absent[0]!r} ({len(absent)} such)",)
    for note in notes:
        warnings.warn(note, DataWarning, stacklevel=4)
    shape = (channels, options.size, options.size)
    return MultiLabelSet(splits["train"], splits["validation"], splits["test"], names, shape, source, notes)


def _decoded(
    paths: tuple[Path, ...], labels: np.ndarray, rows_of: dict[str, np.ndarray], options: FileOptions
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Return the parts with their files decoded, in memory or mapped from a cache, and notes about the files."""
    order = np.concatenate([rows_of[part] for part in PARTS])
    files = [str(paths[row]) for row in order]
    train = len(rows_of["train"])
    root = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    # The numbers of the files stand for the labels: they tell which files were skipped.
    found = image_cache.decoded(
        files, np.arange(len(files)), train, root=root, folder=options.cache,
        size=options.size, channels=options.channels or 3, on_bad_image=options.on_bad_image,
    )  # fmt: skip
    (images, first), (others, second) = found.train, found.test
    cut = int(np.searchsorted(second, train + len(rows_of["validation"])))
    arrays = {
        "train": (images, first), "validation": (others[:cut], second[:cut]), "test": (others[cut:], second[cut:]),
    }  # fmt: skip
    for part, (_, rows) in arrays.items():
        if not len(rows):
            raise InputError(f"the {part} part has no image that can be read", "at least one")
    return {part: ArraySplit(x, labels[order[rows]]) for part, (x, rows) in arrays.items()}, found.notes
