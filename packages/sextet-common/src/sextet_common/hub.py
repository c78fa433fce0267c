"""Folders for the Hugging Face Hub: cards, labelled images that ``datasets`` opens, uploads and downloads."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Integer, UInt8

from sextet_common import files
from sextet_common.errors import InputError, require

Kind = Literal["model", "dataset"]
_ROWS = 1000  # images of a parquet file that are in memory at once
_PARTS = {"train", "test", "val", "valid", "validation"}
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")  # YAML takes them as escapes only
_ON_THE_HUB = ("a folder, or a repository that exists, a branch, tag or commit of it, a token with access to it "
               "(hf auth login) and a connection to the Hub (HF_HUB_OFFLINE unset)")  # fmt: skip


def card(front_matter: Mapping[str, Any], body: str) -> str:
    """Return a README.md: JSON values as front matter in YAML, and Markdown, escaped by `sextet_common.text`."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}" for key, value in front_matter.items()]
    escaped = [_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", line) for line in lines]
    return "\n".join(["---", *escaped, "---", "", body.strip()]) + "\n"


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of ``path`` at the end; ``path`` is new, or an empty folder."""
    target = Path(path)
    files.remove_leftovers(target.parent, target.name)  # of a killed writer
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{target} exists", "a new folder, or an empty one")
    with files.replacing_folder(target) as temporary:
        yield temporary


def write_images(
    folder: Path,
    images: UInt8[np.ndarray, "n channels height width"],
    labels: Integer[np.ndarray, " n"],
    classes: Sequence[str],
    *,
    layout: Literal["parquet", "imagefolder"] = "parquet",
) -> dict[str, Any]:
    """Write images that ``datasets.load_dataset(folder)`` opens as its split train, and return the front matter for it.

    Of images in a memory map, a thousand are in memory at a time. Parquet keeps any class names; those of an image
    folder, train/CLASS/00000.png, are `folder_names`.
    """
    labels = np.asarray(labels)
    if layout == "imagefolder":
        pattern, names, numbers = "train/**", folder_names(classes), [itertools.count() for _ in classes]
        for label, image in zip(labels.tolist(), images, strict=True):
            file = folder / "train" / names[label] / f"{next(numbers[label]):05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_png(image))
    else:
        pattern = "data/train-*.parquet"
        arrow: Any = require("pyarrow", package="sextet-common", extra="hub")
        parquet: Any = require("pyarrow.parquet", package="sextet-common", extra="hub")
        features = {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}
        content = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        known = {"huggingface": json.dumps({"info": {"features": features}})}
        schema = arrow.schema([("image", content), ("label", arrow.int64())], known)
        (folder / "data").mkdir(exist_ok=True)
        with parquet.ParquetWriter(folder / "data" / "train-00000-of-00001.parquet", schema) as writer:
            for start in range(0, len(labels), _ROWS):
                rows = slice(start, start + _ROWS)
                pngs = [{"bytes": _png(image), "path": None} for image in images[rows]]
                writer.write_table(arrow.table({"image": pngs, "label": labels[rows]}, schema))
    return {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": pattern}]}]}


def folder_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Return a folder name for each class, in an order that sorting them does not change.

    Names that are no names of folders, or that readers take for a part of the data (train, test), get numbers.
    """
    parts = _PARTS.intersection(map(str.lower, classes))
    usable = not parts and all(re.fullmatch(r"\w([\w .-]*[\w-])?", name) and len(name) <= 100 for name in classes)
    distinct = len({name.casefold() for name in classes}) == len(classes)  # some file systems ignore case
    if usable and distinct and list(classes) == sorted(classes):
        return tuple(classes)
    digits = len(str(len(classes) - 1))
    words = [re.sub(r"[^\w-]+", "_", name)[:100].strip("_") for name in classes]
    return tuple(f"{label:0{digits}d}_{word}".rstrip("_") for label, word in enumerate(words))


def local_folder(
    name_or_path: str | os.PathLike[str], *, kind: Kind = "model", revision: str | None = None, only: Sequence[str] = ()
) -> Path:
    """Return an existing folder, or that of the Hub's repository OWNER/NAME, downloaded (extra ``hub``).

    ``revision`` is a branch, tag or commit; ``only`` are patterns of the files to download, by default all.
    """
    path, name = Path(name_or_path).expanduser(), Path(name_or_path).as_posix()
    if path.is_dir():
        return path
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise InputError(f"{name_or_path} is no folder", "a folder, or OWNER/NAME of a repository on the Hub")
    download = require("huggingface_hub", package="sextet-common", extra="hub").snapshot_download
    try:  # all of its errors are OSError or ValueError
        return Path(download(name, repo_type=kind, revision=revision, allow_patterns=[*only] or None))
    except (OSError, ValueError) as error:
        said = f"{name} is no folder here, and cannot be fetched from the Hub: {str(error).strip()}"
        raise InputError(said.partition("\n")[0], _ON_THE_HUB) from error


def push(folder: str | os.PathLike[str], name: str, *, kind: Kind = "model", private: bool = True) -> str:
    """Upload an exported folder to the repository OWNER/NAME, created if it does not exist; return its address."""
    if not (Path(folder) / "README.md").is_file():
        raise InputError(f"{folder} has no README.md", "a folder that an export to the Hub wrote")
    client = require("huggingface_hub", package="sextet-common", extra="hub").HfApi()
    address = client.create_repo(name, repo_type=kind, private=private, exist_ok=True)
    client.upload_folder(repo_id=name, folder_path=str(folder), repo_type=kind)
    return str(address)


def _png(image: np.ndarray) -> bytes:
    content, pillow = io.BytesIO(), require("PIL.Image", package="sextet-common", extra="images")
    pillow.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(content, format="png")
    return content.getvalue()
