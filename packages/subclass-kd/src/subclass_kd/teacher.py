"""A teacher's logits on every view of every image, computed once and kept on disk, memory-mapped.

Fingerprints of the teacher's weights, of the images and of their order lie beside them and are checked before use.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Integer
from sextet_common import files, npy, progress
from sextet_common.errors import STRUCTURE, InputError, reading
from sextet_common.networks import device_of, evaluating
from torch import Tensor, nn

from subclass_kd.augment import Views
from subclass_kd.data import Part

_BATCH = 256
_DIFFERENCES = {
    "weights": "a teacher with other weights",
    "images_sha256": "other images",
    "outputs": "another number of subclasses",
}  # what differs, by the entry of logits.json; any other is an option of the views

TeacherSource = Callable[[int, Integer[np.ndarray, " batch"]], Float[Tensor, "batch subclasses"]]
"""Maps a view and row numbers to a teacher's logits: cached `TeacherLogits`, or a network by `live`."""


class TeacherLogits:
    """A teacher's cached logits, shape (images, subclasses) per view, read from disk as they are needed.

    ``folder`` holds view-0000.npy, view-0001.npy, ... and logits.json.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        with reading(
            self.folder / "logits.json", "a folder of teacher logits, written by TeacherLogits.compute", *STRUCTURE
        ):
            self.meta = dict(json.loads((self.folder / "logits.json").read_text(encoding="utf-8")))
            count, self.shape = int(self.meta["views"]), (int(self.meta["images"]), int(self.meta["outputs"]))
        self._views = []
        for view in range(count):
            path = _path(self.folder, view)
            logits = npy.read_npy(path, expected="a file written by TeacherLogits.compute", mapped=True)
            if logits.shape != self.shape or logits.dtype != np.float32:
                raise InputError(f"{path} holds {logits.dtype} of shape {logits.shape}", f"float32 of {self.shape}")
            self._views.append(logits)

    def __len__(self) -> int:
        return len(self._views)

    def __call__(self, view: int, rows: Integer[np.ndarray, " batch"]) -> Float[Tensor, "batch subclasses"]:
        """Return the logits on a view of some images."""
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
    ) -> TeacherLogits:
        """Run a teacher, on its device, over every view of every image; views with a file are skipped.

        The files go to ``folder``, and an interrupted computation resumes. A folder with the logits of other weights,
        images or views is refused. ``outputs`` is the number of logits that the teacher must have.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        device = device_of(teacher)
        first = _logits(teacher, part.batch([0], device))
        if first.ndim != 2 or (outputs is not None and first.shape[1] != outputs):
            given = f"the teacher has outputs of shape {tuple(first.shape[1:])}"
            raise InputError(given, f"({outputs},), one per subclass")
        meta = {
            "images": len(part), "outputs": first.shape[1], "views": views.count, "shift": views.shift,
            "scale": views.scale, "flip": views.flip, "seed": views.seed,
            "weights": weights_fingerprint(teacher.state_dict()), **_fingerprints(part),
        }  # fmt: skip
        _claim(folder, meta)
        for view in progress.track(range(views.count), "teacher's logits", views.count):
            path = _path(folder, view)
            if path.exists():
                continue
            logits = np.empty((len(part), first.shape[1]), dtype=np.float32)
            for start in range(0, len(part), _BATCH):
                rows = np.arange(start, min(start + _BATCH, len(part)))
                logits[rows] = _logits(teacher, views.apply(part.batch(rows, device), view, rows, len(part)))
            with files.replacing(path) as temporary:
                npy.write(temporary, logits)
        return cls(folder)

    def check_fits(self, part: Part, outputs: int, views: Views) -> None:
        """Raise InputError unless these are logits on these views of these images, in this order, with so many outputs.

        Image files are compared by their bytes and by the size and channels to which they are decoded.
        """
        if self.shape != (len(part), outputs):
            given = f"the teacher's logits have shape {self.shape}"
            raise InputError(given, f"{(len(part), outputs)}, (images, subclasses)")
        for name in ("shift", "scale", "flip", "seed"):
            expected = getattr(views, name)
            if self.meta[name] != expected:
                given = f"the teacher's logits are of views with {name} {self.meta[name]}"
                raise InputError(given, f"{expected}, as for the student")
        if len(self) < views.count:
            raise InputError(f"the teacher's logits are of {len(self)} views", f"{views.count}, as for the student")
        if "weights" not in self.meta:
            given = f"{self.folder} does not say of which images its logits are, as an earlier release wrote it"
            raise InputError(given, "the logits computed again: the command teacher with the same options does it")
        fingerprints = _fingerprints(part)
        if self.meta["images_sha256"] != fingerprints["images_sha256"]:
            is_same = self.meta["sorted_sha256"] == fingerprints["sorted_sha256"]
            given = "the same images in another order" if is_same else "other images than the student's"
            raise InputError(f"the logits in {self.folder} are of {given}", "logits of the student's training images")

    def check_weights(self, state: Mapping[str, Tensor], name: str) -> None:
        """Raise InputError unless these are the logits of a teacher with these weights, which ``name`` tells."""
        if self.meta.get("weights") != weights_fingerprint(state):
            raise InputError(
                f"the logits in {self.folder} are of other weights than {name}", "the logits computed again"
            )


def weights_fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and values of a network's ``state_dict()``."""
    content = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def _fingerprints(part: Part) -> dict[str, str]:
    """Return the SHA-256 of the images in their order, and in the order of their own digests."""
    digests = part.image_digests
    form = f"files {part.size} {part.channels}" if isinstance(part.images, tuple) else f"{part.images.dtype}"
    contents = {"images_sha256": digests.tobytes(), "sorted_sha256": b"".join(sorted(map(bytes, digests)))}
    return {name: hashlib.sha256(form.encode() + content).hexdigest() for name, content in contents.items()}


def live(teacher: nn.Module, part: Part, views: Views) -> TeacherSource:
    """Return a source that runs the teacher on every batch, with the same logits as `TeacherLogits`."""

    def logits(view: int, rows: np.ndarray) -> Tensor:
        images = part.batch(rows, device_of(teacher))
        return _logits(teacher, views.apply(images, view, rows, len(part)))

    return logits


def _claim(folder: Path, meta: dict[str, Any]) -> None:
    """Write what the logits are of, or check that the folder holds the same."""
    table = folder / "logits.json"
    known: dict[str, Any] = {}
    if table.exists():
        with reading(table, "a file written by TeacherLogits.compute", *STRUCTURE):
            known = dict(json.loads(table.read_text(encoding="utf-8")))
    if known and "weights" not in known:  # of an earlier release: unknown whose
        for path in folder.glob("view-*.npy"):
            path.unlink()
    elif known and known != meta:
        name = next(name for name in (*_DIFFERENCES, *meta) if known.get(name) != meta[name])
        if name == "images_sha256" and known.get("sorted_sha256") == meta["sorted_sha256"]:
            difference = "the same images in another order"
        else:
            difference = _DIFFERENCES.get(name, f"views with {name} {known.get(name)}, not {meta[name]}")
        raise InputError(f"{folder} holds logits of {difference}", "another folder, or this one deleted")
    files.write_text(table, json.dumps(meta, indent=1) + "\n")


def _logits(teacher: nn.Module, images: Tensor) -> Tensor:
    with evaluating(teacher), torch.inference_mode():
        logits = cast(Tensor, teacher(images)).float().cpu()
    return logits.clone()  # a plain tensor, which autograd accepts


def _path(folder: Path, view: int) -> Path:
    return folder / f"view-{view:04d}.npy"
