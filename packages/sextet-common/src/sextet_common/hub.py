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
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")  # YAML takes them as escapes only


def card(front_matter: Mapping[str, Any], body: str) -> str:
    """Return a README.md: front matter in YAML, one line per key, and a body in Markdown.

    The values are plain JSON values. Names from data that others made pass through `sextet_common.text.markdown` before
    they come into the body; in the front matter they are quoted.

    Examples
    --------
    >>> print(card({"license": "mit", "tags": ["a", "b: c"]}, "# Title"))
    ---
    license: "mit"
    tags: ["a", "b: c"]
    ---
    <BLANKLINE>
    # Title
    <BLANKLINE>
    """
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}" for key, value in front_matter.items()]
    escaped = [_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", line) for line in lines]
    return "\n".join(["---", *escaped, "---", "", body.strip()]) + "\n"


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of ``path`` at the end; ``path`` is new, or an empty folder."""
    target = Path(path)
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
    split: str = "train",
) -> dict[str, Any]:
    """Write labelled images that ``datasets.load_dataset(folder)`` opens, and return the front matter that says where.

    ``parquet`` keeps any class names. In an ``imagefolder``, SPLIT/CLASS/00000.png, they are those of the folders: see
    :func:`folder_names`.
    """
    labels = np.asarray(labels)
    pngs = (_png(image) for image in images)
    if layout == "imagefolder":
        names, numbers = folder_names(classes), [itertools.count() for _ in classes]
        for label, png in zip(labels.tolist(), pngs, strict=True):
            file = folder / split / names[label] / f"{next(numbers[label]):05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png)
        return _configs(split, f"{split}/**")
    arrow: Any = require("pyarrow", package="sextet-common", extra="hub")
    parquet: Any = require("pyarrow.parquet", package="sextet-common", extra="hub")
    features = {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}
    image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    schema = arrow.schema(
        [("image", image), ("label", arrow.int64())], {"huggingface": json.dumps({"info": {"features": features}})}
    )
    columns = {"image": [{"bytes": png, "path": None} for png in pngs], "label": labels.tolist()}
    (folder / "data").mkdir(exist_ok=True)
    parquet.write_table(arrow.table(columns, schema), folder / "data" / f"{split}-00000-of-00001.parquet")
    return _configs(split, f"data/{split}-*.parquet")


def folder_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Return a folder name for each class, in an order that sorting them does not change.

    Examples
    --------
    >>> folder_names(("cat", "dog")), folder_names(("dog", "../cat"))
    (('cat', 'dog'), ('0_dog', '1_cat'))
    """
    usable = all(re.fullmatch(r"\w([\w .-]*[\w-])?", name) and len(name) <= 100 for name in classes)
    distinct = len({name.casefold() for name in classes}) == len(classes)  # some file systems ignore case
    if usable and distinct and list(classes) == sorted(classes):
        return tuple(classes)
    digits = len(str(len(classes) - 1))
    words = [re.sub(r"[^\w-]+", "_", name)[:100].strip("_") for name in classes]
    return tuple(f"{label:0{digits}d}_{word}".rstrip("_") for label, word in enumerate(words))


def local_folder(
    name_or_path: str | os.PathLike[str],
    *,
    kind: Kind = "model",
    revision: str | None = None,
    only: Sequence[str] | None = None,
) -> Path:
    """Return an existing folder, or that of the Hub's repository OWNER/NAME, downloaded (extra ``hub``).

    ``revision`` is a branch, tag or commit; ``only`` are patterns of the files to download.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    name = Path(name_or_path).as_posix()
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise InputError(f"{name_or_path} is no folder", "a folder, or OWNER/NAME of a repository on the Hub")
    hub: Any = require("huggingface_hub", package="sextet-common", extra="hub")
    errors: Any = require("huggingface_hub.errors", package="sextet-common", extra="hub")
    advice = {
        errors.GatedRepoError: "a token with access to it (hf auth login)",
        errors.RepositoryNotFoundError: "a folder, or a repository that exists and that your token may read",
        errors.RevisionNotFoundError: "a branch, tag or commit of it",
    }
    try:
        options = {"revision": revision, "allow_patterns": None if only is None else list(only)}
        return Path(hub.snapshot_download(name, repo_type=kind, **options))
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        expected = next((text for type_, text in advice.items() if isinstance(error, type_)), "")
        detail = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{name} is no folder here, and cannot be fetched from the Hub: {detail}",
            expected or "a folder, or a connection to the Hub (HF_HUB_OFFLINE unset)",
        ) from error


def push(folder: str | os.PathLike[str], name: str, *, kind: Kind = "model", private: bool = True) -> str:
    """Upload an exported folder to the repository OWNER/NAME, created if it does not exist; return its address."""
    if not (Path(folder) / "README.md").is_file():
        raise InputError(f"{folder} has no README.md", "a folder that an export to the Hub wrote")
    hub: Any = require("huggingface_hub", package="sextet-common", extra="hub")
    address = hub.HfApi().create_repo(name, repo_type=kind, private=private, exist_ok=True)
    hub.HfApi().upload_folder(repo_id=name, folder_path=str(folder), repo_type=kind)
    return str(address)


def _png(image: np.ndarray) -> bytes:
    image_module: Any = require("PIL.Image", package="sextet-common", extra="images")
    content = io.BytesIO()
    image_module.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(content, format="png")
    return content.getvalue()


def _configs(split: str, pattern: str) -> dict[str, Any]:
    return {"configs": [{"config_name": "default", "data_files": [{"split": split, "path": pattern}]}]}
