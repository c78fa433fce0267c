"""Folders of images: PART/class/subclass/image, with unlabelled images beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sextet_common import image_folders
from sextet_common.errors import InputError
from sextet_common.image_files import IMAGE_SUFFIXES, some

from subclass_kd.rows import Row

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_UNLABELLED = ("unlabelled", "unlabeled")


def scan(root: Path) -> tuple[list[Row], tuple[str, ...]]:
    """List the images of a folder with their labels and parts, and notes about what is ignored or unusual.

    - class/subclass/image in ``train``, ``val`` and ``test`` (any letter case, or validation, testing, ...), or without
      parts; images in deeper folders belong to the subclass, images directly in a class have no subclass
    - ``unlabelled/image`` at the top or in ``train``, and class/unlabelled/image

    Without a ``test`` folder, that of the validation images is the test part, as in earlier releases.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", "a folder class/subclass/image, or with train and test above these")
    paths = image_folders.walk(str(root))
    if paths["tables"]:
        given = f"{paths['tables'][0]} is a table of labels of one level"
        raise InputError(given, "folders class/subclass/image, a hierarchy, or table:FILE")
    tops = _tops(root, paths["folders"])
    notes = []
    if "test" not in tops.values() and "validation" in tops.values():
        tops = {top: "test" if split == "validation" else split for top, split in tops.items()}
        notes.append(f"{root} has no test folder: that of the validation images is the test part")
    rows: list[Row] = []
    deep, loose = [], []
    for path in sorted(paths["images"], key=os.path.split):
        row = _row(root, Path(path), tops)
        if row is None:
            loose.append(path)
            continue
        rows.append(row)
        depth = len(Path(path).relative_to(root).parts) - (1 if tops and row.split else 0)
        if row.subclass and depth > 3:
            deep.append(path)
    _check_none_is_empty(root, tops, paths["folders"], [str(row.path) for row in rows])
    paths["images outside of class folders, or of the training and test folders,"] = loose
    notes += image_folders.notes_about(str(root), paths)
    if deep:
        notes.append(f"{root}: images in deeper folders count to their subclass ({some(deep, os.path.join(root, ''))})")
    rows.sort(key=lambda row: (row.class_ == "", row.class_))  # otherwise in the order of folders and names
    return rows, tuple(notes)


def _tops(root: Path, folders: Sequence[str]) -> dict[str, str]:
    """Return the folders of the parts by name; none if the root has the classes itself."""
    names = [os.path.basename(folder) for folder in folders if os.path.dirname(folder) == str(root)]
    tops = {name: _SPLITS[name.lower()] for name in names if name.lower() in _SPLITS}
    if tops and "train" not in tops.values():
        raise InputError(f"{root} has no training folder beside {root / next(iter(tops))}", "a folder named train")
    for split in tops.values():
        twice = [name for name, each in tops.items() if each == split]
        if len(twice) > 1:
            raise InputError(f"{root} has the folders {twice[0]} and {twice[1]}", f"one for the {split} images")
    return tops


def _row(root: Path, path: Path, tops: dict[str, str]) -> Row | None:
    """Return an image with the names of its folders, None if they say nothing."""
    where, folders, split = str(path), path.relative_to(root).parts[:-1], ""
    if folders and folders[0].lower() in _UNLABELLED:
        return Row(path, where, split="train" if tops else "")
    if tops:
        if not folders or folders[0] not in tops:
            return None
        split, folders = tops[folders[0]], folders[1:]
    if not folders:
        return None
    if folders[0].lower() in _UNLABELLED and split in ("", "train"):
        return Row(path, where, split=split)
    if len(folders) == 1 or folders[1].lower() in _UNLABELLED:
        return Row(path, where, folders[0], split=split)
    return Row(path, where, folders[0], "/".join(folders[:2]), split=split)


def _check_none_is_empty(root: Path, tops: dict[str, str], folders: Sequence[str], images: Sequence[str]) -> None:
    """Refuse parts without class folders, and classes and subclasses without images."""
    parts = [root / name for name in tops] or [root]
    used = {str(parent) for image in images for parent in Path(image).parents}
    for part in parts:
        below = [folder for folder in folders if os.path.dirname(folder) == str(part)]
        if not below:
            raise InputError(f"{part} has no class folders", "one folder per class, with one folder per subclass")
        inside = [folder for folder in folders if os.path.dirname(folder) in below]
        for folder in (*below, *inside):
            if folder not in used and (tops or os.path.basename(folder).lower() not in _SPLITS):
                raise InputError(f"{folder} has no image", "at least one of " + ", ".join(IMAGE_SUFFIXES))
