"""A distilled set as a folder for the Hugging Face Hub: data card, exact tensors, images that ``datasets`` opens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from sextet_common import hub
from sextet_common.errors import InputError

from attention_matching.export.card import data_card
from attention_matching.images.distilled import FILE, DistilledSet

_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M"}


def export_hub(
    distilled: DistilledSet,
    path: str | os.PathLike[str],
    *,
    layout: Literal["parquet", "imagefolder"] = "parquet",
    evaluation: Mapping[str, Any] | None = None,
    license: str = "unknown",
) -> None:
    """Write README.md, distilled.safetensors and the images, which ``datasets.load_dataset(path)`` opens.

    `DistilledSet.from_pretrained` restores the set bit-identically. The images have columns ``image`` and ``label``:
    pixels clipped to [0, 1] and rounded to 8 bits; the card says what share of them was outside. ``parquet`` keeps any
    class names; an ``imagefolder`` needs an image of every class. ``evaluation`` is that of
    :func:`~attention_matching.export.card.data_card`, and ``license`` an identifier of the Hub. ``path`` is a new or
    empty folder, written atomically.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from attention_matching.images.select import random_real
    >>> from sextet_common.data import load
    >>> folder = Path(tempfile.mkdtemp()) / "digits"
    >>> export_hub(random_real(load("digits"), ipc=1), folder)
    >>> sorted(file.name for file in folder.iterdir())
    ['README.md', 'data', 'distilled.safetensors']
    >>> len(DistilledSet.from_pretrained(folder))
    10
    """
    channels = distilled.images.shape[1]
    if channels not in (1, 3):
        raise InputError(
            f"images of {channels} channels for the Hub", "1 or 3; compact, pt-dc and pt-mtt take any number"
        )
    labels = distilled.labels.numpy()
    empty = np.flatnonzero(np.bincount(labels, minlength=len(distilled.classes)) == 0)
    if empty.size and layout == "imagefolder":  # a missing folder would change the numbers of the other classes
        raise InputError(f"class {distilled.classes[empty[0]]!r} has no image", "parquet, or an image of every class")
    values = distilled.preprocessing.invert(distilled.images)
    outside = float(((values < 0) | (values > 1)).mean())
    pixels = (values.clip(0, 1) * 255).round().astype(np.uint8)
    front = {
        "license": license,
        "pretty_name": f"{distilled.meta.get('data', 'Unnamed data')}, {distilled.per_class} images per class",
        "task_categories": ["image-classification"],
        "size_categories": [next((name for limit, name in _SIZES.items() if len(labels) < limit), "n>1M")],
        "tags": ["dataset-distillation", "attention-matching"],
        "library_name": "attention-matching",
    }
    with hub.new_folder(path) as folder:
        distilled.save(folder / FILE)
        front |= hub.write_images(folder, pixels, labels, distilled.classes, layout=layout)
        body = f"{data_card(distilled, evaluation)}\n{_files(layout, outside, distilled)}"
        (folder / "README.md").write_text(hub.card(front, body), encoding="utf-8")


def _files(layout: str, outside: float, distilled: DistilledSet) -> str:
    """Return the section that says what the images of the folder are, and what they are not."""
    where = "`data/`: a parquet file" if layout == "parquet" else "`train/`: PNG files in a folder for each class"
    share = f"{100 * outside:.2g} % of the values were outside and are clipped" if outside else "none was outside"
    extra = ", and the soft labels" if distilled.soft_labels is not None else ""
    if distilled.view_labels is not None:
        extra += ", and the labels of augmented views"
    return f"""## Files

- `{FILE}`: the network inputs, exactly as they were distilled, with their preprocessing{extra}.
  `DistilledSet.from_pretrained("OWNER/NAME")` reads it; the accuracies above are of these inputs.
- {where}, for `datasets.load_dataset("OWNER/NAME")`: `image` and `label`. The preprocessing is inverted, the values are
  clipped to [0, 1] ({share}) and rounded to 8 bits."""
