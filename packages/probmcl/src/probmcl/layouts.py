"""How published multi-label data lie on disk: MS-COCO, Pascal VOC, ADP, a folder with a table, arrays of features.

Only the annotations are read here; images are decoded when a batch is asked for. Every file that a table names is
looked for at once, so that a missing one is known before a training and not in its last epoch.
"""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sextet_common import npy
from sextet_common.errors import InputError, reading, require

from probmcl.data import FileSplit, MultiLabelSet, checked_labels, held_out

_ARRAYS = ("trainval_features", "trainval_labels", "test_features", "test_labels")
_PARTS = ("train", "validation", "test")
# Codes of the Atlas of Digital Pathology: each dot is a level of its hierarchy.
_ADP_DOTS = {"L1": (0,), "L2": (0, 1), "L3": (0, 1, 2), "L3Only": (2,)}
VOC_LABELS = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def npz(path: Path) -> MultiLabelSet:
    """Read features and labels from one file of arrays, such as the yeast benchmark's.

    Parameters
    ----------
    path
        Holds trainval_features (n, features), trainval_labels (n, labels), test_features and test_labels. A share of
        the first is held out for validation. Features are brought to mean 0 and deviation 1 of the training rows.

    Returns
    -------
    MultiLabelSet
        The data.

    Raises
    ------
    InputError
        Where the file or an array is missing or broken.
    """
    arrays = npy.read_npz(path, _ARRAYS)
    x, y, x_test, y_test = (arrays[name] for name in _ARRAYS)
    if x.ndim != 2 or x_test.ndim != 2 or x.dtype.kind not in "biuf" or x_test.dtype.kind not in "biuf":
        given = f"{x.dtype} of shape {x.shape} and {x_test.dtype} of {x_test.shape}"
        raise InputError(f"{path}: features are {given}", "numbers of shape (rows, features)")
    if y.ndim != 2 or len(x) != len(y):
        raise InputError(f"{path}: features of shape {x.shape} with labels of shape {y.shape}", "as many rows")
    if x.shape[1] != x_test.shape[1]:
        raise InputError(f"{path}: {x.shape[1]} features to train, {x_test.shape[1]} to test", "as many")
    kept, held = held_out(len(x), str(path))
    mean, deviation = x[kept].mean(axis=0), x[kept].std(axis=0)
    scale = np.where(deviation > 0, deviation, 1)
    x, x_test = (x - mean) / scale, (x_test - mean) / scale
    return MultiLabelSet.of((x[kept], y[kept]), (x[held], y[held]), (x_test, y_test), source=f"npz:{path}")


def csv_folder(folder: Path, size: int) -> MultiLabelSet:
    """Read a folder of images with a table of labels.

    Parameters
    ----------
    folder
        Holds labels.csv. Its column ``image`` names files inside the folder. Either every other column is a label of
        zeros and ones, or one column ``labels`` lists their names with ``|`` between them. A column ``split`` says
        train, validation or test; without it, and for a missing validation part, a fixed share of the rows is taken.
    size
        Height and width to bring the images to, in pixels.

    Returns
    -------
    MultiLabelSet
        The data.

    Raises
    ------
    InputError
        Where the table or a file that it names is missing, or the table is broken: its line is named.
    """
    names, files, table, split = _read_table(folder / "labels.csv")
    paths = tuple(inside(folder, name) for name in files)
    _all_there(paths)
    labels = checked_labels(table, len(names), str(folder / "labels.csv"))
    return _split(paths, labels, names, split, size, f"csv:{folder}")


def adp(spec: str, size: int) -> MultiLabelSet:
    """Read the Atlas of Digital Pathology: patches of tissue with hierarchical types.

    Parameters
    ----------
    spec
        The release's folder, with ``@LEVEL`` behind it where the level is not L1. It holds
        ``ADP_EncodedLabels_Release1_Flat.csv`` (a column ``Patch Names``, then a column of zeros and ones for every
        code such as E.M.S) and ``img_res_1um_bicubic/``; the row numbers in ``splits/{train,valid,test}.npy`` are the
        parts where they are there. A code has as many dots as it is deep: L1 takes codes without a dot, L2 and L3
        those down to that depth, L3Only those of two dots.
    size
        Height and width to bring the patches to, in pixels.

    Returns
    -------
    MultiLabelSet
        The data.

    Raises
    ------
    InputError
        For an unknown level, or a file that is missing or broken.

    References
    ----------
    Hosseini et al., Atlas of Digital Pathology, CVPR 2019.
    """
    name, _, level = spec.partition("@")
    root, level = Path(name).expanduser(), level or "L1"
    if level not in _ADP_DOTS:
        raise InputError(f"the level of ADP is {level!r}", ", ".join(_ADP_DOTS))
    table = root / "ADP_EncodedLabels_Release1_Flat.csv"
    codes, files, labels, _ = _read_table(table, image="Patch Names")
    chosen = [column for column, code in enumerate(codes) if code.count(".") in _ADP_DOTS[level]]
    if not chosen:
        raise InputError(f"{table} has no code of level {level}", "columns such as E, E.M, E.M.S")
    paths = tuple(inside(root / "img_res_1um_bicubic", file) for file in files)
    _all_there(paths)
    split: list[str] | None = None
    if (root / "splits").is_dir():
        split = [""] * len(paths)
        for part, stem in zip(_PARTS, ("train", "valid", "test"), strict=True):
            for row in _row_numbers(root / "splits" / f"{stem}.npy", len(paths)):
                split[row] = part
    binary = checked_labels(labels[:, chosen], len(chosen), str(table))
    return _split(paths, binary, tuple(codes[c] for c in chosen), split, size, f"adp:{spec}")


def coco(root: Path, size: int) -> MultiLabelSet:
    """Read MS-COCO's object categories as labels.

    Parameters
    ----------
    root
        Holds annotations/instances_train2017.json, instances_val2017.json, train2017/ and val2017/, or the same of
        2014. The validation part of COCO is the test set, as in the field; ours is a share of the training images.
        Images without an object have no label.
    size
        Height and width to bring the images to, in pixels.

    Returns
    -------
    MultiLabelSet
        The data, its 80 labels in the order of the categories' numbers.

    Raises
    ------
    InputError
        Where files are missing or pycocotools is not installed.
    """
    require("pycocotools", package="probmcl", extra="coco")
    from torchvision.datasets import CocoDetection

    years = [y for y in ("2017", "2014") if (root / "annotations" / f"instances_train{y}.json").is_file()]
    if not years:
        raise InputError(f"{root} has no annotations/instances_train2017.json", "a folder of MS-COCO 2017 or 2014")
    year, parts, names = years[0], [], ()
    for part in ("train", "val"):
        table = root / "annotations" / f"instances_{part}{year}.json"
        if not table.is_file():
            raise InputError(f"{table} is missing", "MS-COCO's annotations")
        with reading(table, "MS-COCO's annotations"):
            index = CocoDetection(str(root / f"{part}{year}"), str(table)).coco
            categories = sorted(index.getCatIds())
            column = {category: number for number, category in enumerate(categories)}
            names = tuple(index.cats[category]["name"] for category in categories)
            images = sorted(index.imgs)
            labels = np.zeros((len(images), len(categories)), dtype=np.uint8)
            for row, image in enumerate(images):
                for found in index.imgToAnns[image]:
                    labels[row, column[found["category_id"]]] = 1
            paths = tuple(inside(root / f"{part}{year}", index.imgs[image]["file_name"]) for image in images)
        _all_there(paths)
        parts.append((paths, labels))
    (paths, labels), (test_paths, test_labels) = parts
    if labels.shape[1] != test_labels.shape[1]:
        raise InputError(f"{root}: {labels.shape[1]} categories to train, {test_labels.shape[1]} to test", "the same")
    split = ["train"] * len(paths) + ["test"] * len(test_paths)
    both = np.concatenate([labels, test_labels])
    return _split((*paths, *test_paths), both, names, split, size, f"coco:{root}")


def voc(spec: str, size: int, *, difficult: bool = False) -> MultiLabelSet:
    """Read Pascal VOC's object classes as labels.

    Parameters
    ----------
    spec
        The folder that holds VOCdevkit, with ``@YEAR`` behind it where the year is not 2007. The parts are VOC's own
        train, val and test; where there is no test (all years but 2007), val is the test set and ours is a share of
        train.
    size
        Height and width to bring the images to, in pixels.
    difficult
        Count objects that are marked difficult. Left out by default: then an image may have no label.

    Returns
    -------
    MultiLabelSet
        The data, its 20 labels in alphabetical order.

    Raises
    ------
    InputError
        Where files are missing or broken, or an object's class is unknown.
    """
    name, _, year = spec.partition("@")
    root, year = Path(name).expanduser(), year or "2007"
    base = root / "VOCdevkit" / f"VOC{year}"
    sets = base / "ImageSets" / "Main"
    own = [part for part in ("train", "val", "test") if (sets / f"{part}.txt").is_file()]
    if own[:2] != ["train", "val"]:
        raise InputError(f"{sets} lacks train.txt or val.txt", "Pascal VOC's VOCdevkit")
    called = dict(zip(own, _PARTS if "test" in own else ("train", "test"), strict=True))
    paths: list[Path] = []
    rows: list[np.ndarray] = []
    split: list[str] = []
    for part in own:
        for image, found in _voc_part(root, year, part):
            labels = np.zeros(len(VOC_LABELS), dtype=np.uint8)
            for thing in found:
                if difficult or thing.get("difficult") != "1":
                    labels[_voc_label(str(thing.get("name")), image)] = 1
            paths.append(image)
            rows.append(labels)
            split.append(called[part])
    return _split(tuple(paths), np.stack(rows), VOC_LABELS, split, size, f"voc:{spec}")


def _voc_part(root: Path, year: str, part: str) -> list[tuple[Path, list[dict[str, Any]]]]:
    """Return image and objects of every image of a part, by torchvision's reader."""
    from xml.etree import ElementTree

    from torchvision.datasets import VOCDetection

    # torchvision knows the test set of 2007 under this year alone, and looks for files without reading them.
    table = VOCDetection(str(root), year=year, image_set=part)
    images = [Path(file) for file in table.images]
    _all_there(tuple(images))
    found = []
    for image, annotation in zip(images, table.annotations, strict=True):
        with reading(annotation, "an annotation of Pascal VOC"):
            tree = VOCDetection.parse_voc_xml(ElementTree.parse(annotation).getroot())
            found.append((image, [dict(thing) for thing in tree["annotation"].get("object", [])]))
    return found


def _voc_label(name: str, image: Path) -> int:
    if name not in VOC_LABELS:
        raise InputError(f"{image} has an object {name!r}", ", ".join(VOC_LABELS))
    return VOC_LABELS.index(name)


def inside(folder: Path, name: str) -> Path:
    """Return a path inside a folder, or raise InputError where the name leads out of it."""
    path = folder / name
    with reading(folder, "a path inside it"):  # a name may be too long, or no name at all
        within = bool(name) and not Path(name).is_absolute() and path.resolve().is_relative_to(folder.resolve())
        path.is_file()
    if not within:
        raise InputError(f"the file name {name!r} leads out of {folder}", "a path inside it")
    return path


def _all_there(paths: tuple[Path, ...]) -> None:
    """Refuse tables that name files which are not there: how many, and the first."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        told = f"{len(missing)} of {len(paths)} images are missing, first {missing[0]}"
        raise InputError(told, "every image that the table names")


def _row_numbers(path: Path, rows: int) -> list[int]:
    numbers = npy.read_npy(path, expected="an array of row numbers")
    if (
        numbers.ndim != 1
        or numbers.dtype.kind not in "iu"
        or (len(numbers) and not 0 <= numbers.min() <= numbers.max() < rows)
    ):
        raise InputError(f"{path} holds no row numbers below {rows}", f"whole numbers from 0 to {rows - 1}")
    return [int(number) for number in numbers]


def _read_table(path: Path, image: str = "image") -> tuple[tuple[str, ...], list[str], np.ndarray, list[str] | None]:
    """Read label names, file names, the table of labels, and which part every row is of where the table says so."""
    with reading(path, "a table of labels with commas, in UTF-8"), path.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.reader(file))
    if len(lines) < 2 or image not in lines[0]:
        raise InputError(
            f"{path} has no column {image!r} or no rows", f"a first line with {image!r}, then a row an image"
        )
    head, rows = lines[0], [line for line in lines[1:] if line]
    for number, line in enumerate(rows, start=2):
        if len(line) != len(head):
            raise InputError(f"{path}, line {number} has {len(line)} values", f"{len(head)}, as its first line")
    files = [line[head.index(image)] for line in rows]
    if len(set(files)) < len(files):
        twice = next(file for file in files if files.count(file) > 1)
        raise InputError(f"{path} names {twice!r} twice", "every image once")
    split = [line[head.index("split")] for line in rows] if "split" in head else None
    if split is not None and not set(split) <= set(_PARTS):
        wrong = sorted(set(split) - set(_PARTS))[0]
        raise InputError(f"{path} has the split {wrong!r}", ", ".join(_PARTS))
    if "labels" in head:
        lists = [[name for name in line[head.index("labels")].split("|") if name] for line in rows]
        names = tuple(sorted({name for names in lists for name in names}))
        table = np.array([[name in row for name in names] for row in lists], dtype=np.uint8).reshape(len(rows), -1)
    else:
        columns = [column for column, name in enumerate(head) if name not in (image, "split")]
        names = tuple(head[column] for column in columns)
        table = _numbers(rows, columns, head, path)
    if not names:
        raise InputError(f"{path} has no label", "a column of zeros and ones for every label, or a column 'labels'")
    return names, files, table, split


def _numbers(rows: list[list[str]], columns: list[int], head: list[str], path: Path) -> np.ndarray:
    values = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
    for number, line in enumerate(rows, start=2):
        for column in columns:
            if line[column].strip() not in values:
                given = f"{path}, line {number}, column {head[column]!r} is {line[column]!r}"
                raise InputError(given, "0 or 1")
    table = [[values[line[column].strip()] for column in columns] for line in rows]
    return np.array(table, dtype=np.uint8).reshape(len(rows), len(columns))


def _split(
    paths: tuple[Path, ...],
    labels: np.ndarray,
    names: tuple[str, ...],
    split: list[str] | None,
    size: int,
    source: str,
) -> MultiLabelSet:
    """Share rows out among the parts; where none is named for a part, a fixed share of the rest is taken."""
    parts = np.array(split if split is not None else ["train"] * len(paths), dtype="<U10")
    for part in ("test", "validation"):
        if not (parts == part).any():
            training = np.flatnonzero(parts == "train")
            _, held = held_out(len(training), source)
            parts[training[held]] = part
    if not (parts == "train").any():
        raise InputError(f"{source} has no training image", "one at least")
    made = {}
    for part in _PARTS:
        rows = np.flatnonzero(parts == part)
        made[part] = FileSplit(tuple(paths[row] for row in rows), labels[rows], size)
    absent = [name for name, count in zip(names, made["train"].labels.sum(axis=0), strict=True) if not count]
    if absent:
        warnings.warn(f"{source}: no training image has the label {absent[0]!r} ({len(absent)} such)", stacklevel=3)
    return MultiLabelSet(made["train"], made["validation"], made["test"], names, (3, size, size), source)
