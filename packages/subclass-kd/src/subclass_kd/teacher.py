"""A teacher's logits on every view of every image, computed once and kept on disk, memory-mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer
from sextet_common import files, npy, progress
from sextet_common.errors import InputError, reading
from sextet_common.networks import device_of, evaluating
from torch import Tensor, nn

from subclass_kd.augment import Views
from subclass_kd.data import Part

_AT_ONCE = 256


class TeacherLogits:
    """Logits of shape (images, subclasses) for every view, read from their files as they are needed.

    Parameters
    ----------
    folder
        Holds view-0000.npy, view-0001.npy, ... and logits.json.

    Raises
    ------
    InputError
        Where files are missing or do not fit each other.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        with reading(self.folder / "logits.json", "a folder of a teacher's logits that compute made"):
            self.meta = dict(json.loads((self.folder / "logits.json").read_text(encoding="utf-8")))
            count, self.shape = int(self.meta["views"]), (int(self.meta["images"]), int(self.meta["outputs"]))
        self._views = []
        for view in range(count):
            path = _path(self.folder, view)
            logits = npy.read_npy(path, expected="the file that compute made", mapped=True)
            if logits.shape != self.shape or logits.dtype != np.float32:
                raise InputError(f"{path} holds {logits.dtype} of shape {logits.shape}", f"float32 of {self.shape}")
            self._views.append(logits)

    def __len__(self) -> int:
        return len(self._views)

    def __call__(self, view: int, rows: Integer[np.ndarray, " batch"]) -> Float[Tensor, "batch subclasses"]:
        """Return the logits of some images' view."""
        return torch.from_numpy(np.array(self._views[view][rows]))

    @classmethod
    def compute(
        cls,
        teacher: nn.Module,
        part: Part,
        views: Views,
        folder: str | os.PathLike[str],
        *,
        outputs: int | None = None,
        key: str = "",
    ) -> TeacherLogits:
        """Run a teacher over every view of every image, but for views whose files are there already.

        Parameters
        ----------
        teacher
            Maps images to logits; it is run on its own device.
        part
            The images.
        views
            The views.
        folder
            Where the files go; a stopped computation goes on.
        outputs
            How many logits the teacher must have.
        key
            What the files are of, such as a fingerprint: files of another key are refused.

        Returns
        -------
        TeacherLogits
            The logits.

        Raises
        ------
        InputError
            Where the folder holds other logits, or the teacher has another number of outputs.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        first = _run(teacher, part.batch([0]))
        if first.ndim != 2 or (outputs is not None and first.shape[1] != outputs):
            raise InputError(
                f"the teacher has outputs of shape {tuple(first.shape[1:])}", f"({outputs},), a subclass each"
            )
        meta = {
            "images": len(part), "outputs": first.shape[1], "views": views.count, "shift": views.shift,
            "scale": views.scale, "flip": views.flip, "seed": views.seed, "key": key,
        }  # fmt: skip
        table = folder / "logits.json"
        if table.exists():
            with reading(table, "the file that compute wrote"):
                known = json.loads(table.read_text(encoding="utf-8"))
            if known != meta:
                raise InputError(f"{folder} holds the logits of another teacher, data or views", "another folder")
        files.write_text(table, json.dumps(meta, indent=1) + "\n")
        for view in progress.track(range(views.count), "teacher's logits", views.count):
            path = _path(folder, view)
            if path.exists():
                continue
            logits = np.empty((len(part), first.shape[1]), dtype=np.float32)
            for start in range(0, len(part), _AT_ONCE):
                rows = np.arange(start, min(start + _AT_ONCE, len(part)))
                logits[rows] = _run(teacher, views.apply(part.batch(rows), view, rows, len(part)))
            with files.replacing(path) as temporary, open(temporary, "wb") as file:
                np.save(file, logits)
        return cls(folder)


Source = Callable[[int, Integer[np.ndarray, " batch"]], Float[Tensor, "batch subclasses"]]


def live(teacher: nn.Module, part: Part, views: Views) -> Source:
    """Return what runs the teacher anew for every batch, to the same logits as `TeacherLogits`."""

    def logits(view: int, rows: np.ndarray) -> Tensor:
        return _run(teacher, views.apply(part.batch(rows), view, rows, len(part)))

    return logits


def _run(teacher: nn.Module, images: Tensor) -> Tensor:
    with evaluating(teacher), torch.inference_mode():
        found: Tensor = teacher(images.to(device_of(teacher))).float().cpu()
    return found.clone()


def _path(folder: Path, view: int) -> Path:
    return folder / f"view-{view:04d}.npy"
