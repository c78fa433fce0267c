"""Readers for data with one annotation an object: MS-COCO and Pascal VOC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sextet_common.errors import STRUCTURE, InputError, reading, require

from probmcl.data.assembly import PARTS, FileOptions, assemble, check_all_exist, inside
from probmcl.data.sets import MultiLabelSet

VOC_LABELS = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def coco(root: Path, options: FileOptions) -> MultiLabelSet:
    """Read the object categories of MS-COCO as labels, 80 in the order of their numbers.

    ``root`` holds annotations/instances_train2017.json, instances_val2017.json, train2017/ and val2017/, or the same of
    2014. As is usual, COCO's validation part is the test set; a share of the training images becomes the validation
    part. Images without an object have no label. ``options`` say how images are read.
    """
    require("pycocotools", package="probmcl", extra="coco")
    years = [y for y in ("2017", "2014") if (root / "annotations" / f"instances_train{y}.json").is_file()]
    if not years:
        raise InputError(f"{root} has no annotations/instances_train2017.json", "a folder of MS-COCO 2017 or 2014")
    paths, names, labels = _coco_part(root, "train", years[0])
    test_paths, names, test_labels = _coco_part(root, "val", years[0])
    if labels.shape[1] != test_labels.shape[1]:
        raise InputError(f"{root}: {labels.shape[1]} categories to train, {test_labels.shape[1]} to test", "the same")
    parts = ["train"] * len(paths) + ["test"] * len(test_paths)
    both = np.concatenate([labels, test_labels])
    return assemble((*paths, *test_paths), both, names, parts, options, f"coco:{root}")


def _coco_part(root: Path, part: str, year: str) -> tuple[tuple[Path, ...], tuple[str, ...], np.ndarray]:
    """Return the images, the category names and the labels (images, categories) of a part."""
    from torchvision.datasets import CocoDetection

    table = root / "annotations" / f"instances_{part}{year}.json"
    if not table.is_file():
        raise InputError(f"{table} is missing", "MS-COCO's annotations")
    with reading(table, "MS-COCO's annotations", *STRUCTURE, AssertionError):  # pycocotools asserts a table
        index = CocoDetection(str(root / f"{part}{year}"), str(table)).coco
    with reading(table, "MS-COCO's annotations", *STRUCTURE):
        categories = sorted(index.getCatIds())
        column = {category: number for number, category in enumerate(categories)}
        names = tuple(index.cats[category]["name"] for category in categories)
        images = sorted(index.imgs)
        labels = np.zeros((len(images), len(categories)), dtype=np.uint8)
        for row, image in enumerate(images):
            for annotation in index.imgToAnns[image]:
                labels[row, column[annotation["category_id"]]] = 1
        paths = tuple(inside(root / f"{part}{year}", index.imgs[image]["file_name"]) for image in images)
    check_all_exist(paths)
    return paths, names, labels


def voc(spec: str, options: FileOptions, *, difficult: bool = False) -> MultiLabelSet:
    """Read the object classes of Pascal VOC as labels, 20 in alphabetical order.

    ``spec`` is the folder that holds VOCdevkit, followed by ``@YEAR`` for a year other than 2007. The parts are VOC's
    own train, val and test. Years other than 2007 have no test part: val is then the test set, and a share of train
    becomes the validation part. ``options`` say how images are read. ``difficult`` counts
    objects that are marked difficult; without them an image may have no label.
    """
    name, _, year = spec.partition("@")
    root, year = Path(name).expanduser(), year or "2007"
    lists = root / "VOCdevkit" / f"VOC{year}" / "ImageSets" / "Main"
    available = [part for part in ("train", "val", "test") if (lists / f"{part}.txt").is_file()]
    if available[:2] != ["train", "val"]:
        raise InputError(f"{lists} lacks train.txt or val.txt", "Pascal VOC's VOCdevkit")
    part_of = dict(zip(available, PARTS if "test" in available else ("train", "test"), strict=True))
    paths: list[Path] = []
    rows: list[np.ndarray] = []
    parts: list[str] = []
    for part in available:
        for image, objects in _voc_part(root, year, part):
            labels = np.zeros(len(VOC_LABELS), dtype=np.uint8)
            for entry in objects:
                if difficult or entry.get("difficult") != "1":
                    labels[_voc_label(str(entry.get("name")), image)] = 1
            paths.append(image)
            rows.append(labels)
            parts.append(part_of[part])
    return assemble(tuple(paths), np.stack(rows), VOC_LABELS, parts, options, f"voc:{spec}")


def _voc_part(root: Path, year: str, part: str) -> list[tuple[Path, list[dict[str, Any]]]]:
    """Return every image of a part with its objects, read by torchvision."""
    from xml.etree import ElementTree

    from torchvision.datasets import VOCDetection

    # torchvision lists images without reading them.
    table = VOCDetection(str(root), year=year, image_set=part)
    images = [Path(file) for file in table.images]
    check_all_exist(tuple(images))
    rows = []
    for image, annotation in zip(images, table.annotations, strict=True):
        with reading(annotation, "an annotation of Pascal VOC", *STRUCTURE):
            tree = VOCDetection.parse_voc_xml(ElementTree.parse(annotation).getroot())
            rows.append((image, [dict(entry) for entry in tree["annotation"].get("object", [])]))
    return rows


def _voc_label(name: str, image: Path) -> int:
    if name not in VOC_LABELS:
        raise InputError(f"{image} has an object {name!r}", ", ".join(VOC_LABELS))
    return VOC_LABELS.index(name)
