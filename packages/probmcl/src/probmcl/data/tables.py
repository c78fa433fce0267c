"""Readers for data with a table of labels: arrays of features, a folder with labels.csv, ADP."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sextet_common import npy
from sextet_common.errors import InputError, reading

from probmcl.data.assembly import PARTS, FileOptions, assemble, check_all_exist, inside
from probmcl.data.sets import MultiLabelSet, checked_labels, held_out

_ARRAYS = ("trainval_features", "trainval_labels", "test_features", "test_labels")
_ADP_DOTS = {"L1": (0,), "L2": (0, 1), "L3": (0, 1, 2), "L3Only": (2,)}  # dots in the codes of each level


def npz(path: Path) -> MultiLabelSet:
    """Read features and labels from one file of arrays, such as that of the yeast benchmark.

    The file holds trainval_features (n, features), trainval_labels (n, labels), test_features and test_labels. A share
    of the trainval rows is held out for validation. Features are standardised by the mean and standard deviation of the
    training rows.
    """
    arrays = npy.read_npz(path, _ARRAYS)
    x, y, x_test, y_test = (arrays[name] for name in _ARRAYS)
    if x.ndim != 2 or x_test.ndim != 2 or x.dtype.kind not in "biuf" or x_test.dtype.kind not in "biuf":
        summary = f"{x.dtype} of shape {x.shape} and {x_test.dtype} of {x_test.shape}"
        raise InputError(f"{path}: features are {summary}", "numbers of shape (rows, features)")
    if y.ndim != 2 or len(x) != len(y):
        raise InputError(f"{path}: features of shape {x.shape} with labels of shape {y.shape}", "as many rows")
    if x.shape[1] != x_test.shape[1]:
        raise InputError(f"{path}: {x.shape[1]} features to train, {x_test.shape[1]} to test", "as many")
    kept, held = held_out(y, str(path)) if y.dtype.kind in "biuf" else held_out(len(y), str(path))
    mean, deviation = x[kept].mean(axis=0), x[kept].std(axis=0)
    scale = np.where(deviation > 0, deviation, 1)
    x, x_test = (x - mean) / scale, (x_test - mean) / scale
    return MultiLabelSet.of((x[kept], y[kept]), (x[held], y[held]), (x_test, y_test), source=f"npz:{path}")


def csv_folder(folder: Path, options: FileOptions) -> MultiLabelSet:
    """Read a folder of images with a labels.csv; `probmcl.load` describes the table."""
    table = _read_table(folder / "labels.csv")
    paths = tuple(inside(folder, name) for name in table.files)
    check_all_exist(paths)
    labels = checked_labels(table.labels, len(table.names), str(folder / "labels.csv"))
    return assemble(paths, labels, table.names, table.parts, options, f"csv:{folder}")


def adp(spec: str, options: FileOptions) -> MultiLabelSet:
    """Read the Atlas of Digital Pathology (Hosseini et al., CVPR 2019): patches of tissue with hierarchical types.

    ``spec`` is the folder of the release, followed by ``@LEVEL`` for a level other than L1. It holds
    ``ADP_EncodedLabels_Release1_Flat.csv`` (a column ``Patch Names``, then a column of zeros and ones for every code
    such as E.M.S) and ``img_res_1um_bicubic/``. If ``splits/`` exists, the row numbers in
    ``splits/{train,valid,test}.npy`` are the parts. The dots in a code are its depth: L1 takes codes without a dot, L2
    and L3 those down to that depth, L3Only those with two dots. ``options`` say how images are read.
    """
    name, _, level = spec.partition("@")
    root, level = Path(name).expanduser(), level or "L1"
    if level not in _ADP_DOTS:
        raise InputError(f"the level of ADP is {level!r}", ", ".join(_ADP_DOTS))
    path = root / "ADP_EncodedLabels_Release1_Flat.csv"
    table = _read_table(path, image="Patch Names")
    chosen = [column for column, code in enumerate(table.names) if code.count(".") in _ADP_DOTS[level]]
    if not chosen:
        raise InputError(f"{path} has no code of level {level}", "columns such as E, E.M, E.M.S")
    paths = tuple(inside(root / "img_res_1um_bicubic", file) for file in table.files)
    check_all_exist(paths)
    parts: list[str] | None = None
    notes: tuple[str, ...] = ()
    if (root / "splits").is_dir():
        parts = [""] * len(paths)
        for part, stem in zip(PARTS, ("train", "valid", "test"), strict=True):
            for row in _row_numbers(root / "splits" / f"{stem}.npy", len(paths)):
                parts[row] = part
        if unused := parts.count(""):
            notes = (f"{root / 'splits'}: {unused} of {len(paths)} patches are in no part and not used",)
    labels = checked_labels(table.labels[:, chosen], len(chosen), str(path))
    return assemble(paths, labels, tuple(table.names[c] for c in chosen), parts, options, f"adp:{spec}", notes)


def _row_numbers(path: Path, rows: int) -> list[int]:
    numbers = npy.read_npy(path, expected="an array of row numbers")
    integers = numbers.ndim == 1 and numbers.dtype.kind in "iu"
    if not integers or (len(numbers) and not 0 <= numbers.min() <= numbers.max() < rows):
        raise InputError(f"{path} holds no row numbers below {rows}", f"whole numbers from 0 to {rows - 1}")
    return [int(number) for number in numbers]


class _Table(NamedTuple):
    names: tuple[str, ...]
    files: list[str]
    labels: np.ndarray  # (rows, labels)
    parts: list[str] | None  # of each row, if the table has a column `split`


def _read_table(path: Path, image: str = "image") -> _Table:
    with reading(path, "a table of labels with commas, in UTF-8"), path.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.reader(file))
    if len(lines) < 2 or image not in lines[0]:
        expected = f"a first line with {image!r}, then a row an image"
        raise InputError(f"{path} has no column {image!r} or no rows", expected)
    head, rows = lines[0], [line for line in lines[1:] if line]
    for number, line in enumerate(rows, start=2):
        if len(line) != len(head):
            raise InputError(f"{path}, line {number} has {len(line)} values", f"{len(head)}, as its first line")
    files = [line[head.index(image)] for line in rows]
    if len(set(files)) < len(files):
        twice = next(file for file in files if files.count(file) > 1)
        raise InputError(f"{path} names {twice!r} twice", "every image once")
    parts = [line[head.index("split")] for line in rows] if "split" in head else None
    if parts is not None and not set(parts) <= set(PARTS):
        raise InputError(f"{path} has the split {sorted(set(parts) - set(PARTS))[0]!r}", ", ".join(PARTS))
    if "labels" in head:
        names, labels = _listed([line[head.index("labels")] for line in rows])
    else:
        columns = [column for column, name in enumerate(head) if name not in (image, "split")]
        names, labels = tuple(head[column] for column in columns), _binary(rows, columns, head, path)
    if not names:
        raise InputError(f"{path} has no label", "a column of zeros and ones for every label, or a column 'labels'")
    return _Table(names, files, labels, parts)


def _listed(cells: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names in cells such as ``cat|dog``, sorted, and the table of labels."""
    lists = [[name for name in cell.split("|") if name] for cell in cells]
    names = tuple(sorted({name for row in lists for name in row}))
    table = np.array([[name in row for name in names] for row in lists], dtype=np.uint8)
    return names, table.reshape(len(lists), len(names))


def _binary(rows: list[list[str]], columns: list[int], head: list[str], path: Path) -> np.ndarray:
    values = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "-1": -1}
    for number, line in enumerate(rows, start=2):
        for column in columns:
            if line[column].strip() not in values:
                raise InputError(
                    f"{path}, line {number}, column {head[column]!r} is {line[column]!r}", "0 or 1, or -1 where unknown"
                )
    table = [[values[line[column].strip()] for column in columns] for line in rows]
    return np.array(table, dtype=np.int8).reshape(len(rows), len(columns))
