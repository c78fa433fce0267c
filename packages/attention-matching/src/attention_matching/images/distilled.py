"""The result of a distillation: a few labelled images that represent a data set."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sextet_common import checkpoint, data as image_data, figures, hub, image_files, image_folders
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading
from torch import Tensor

from attention_matching.images.preprocess import ZCA, Preprocessing, check_numbers
from attention_matching.images.view_labels import ViewLabels

FILE = "distilled.safetensors"  # in run folders, and on the Hub
_KIND = "distilled set"
_ZCA = ("mean", "matrix", "inverse")
_VIEWS = "view_labels."


@dataclass(frozen=True, eq=False)
class DistilledSet:
    """Labelled images with the preprocessing of their inputs.

    It is a map-style data set: ``len``, and indexing that gives (image, label). ``images`` are network inputs, float32,
    and ``labels`` class numbers, int64. ``meta`` records in plain JSON values how the set was made. ``soft_labels`` are
    probabilities of every class, float32, each row of sum 1: a teacher's, or learned ones. ``view_labels`` are a
    teacher's probabilities of augmented views of each image.

    Examples
    --------
    >>> import torch
    >>> as_it_is = Preprocessing(torch.zeros(1), torch.ones(1))
    >>> one = DistilledSet(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), ("a", "b"), as_it_is)
    >>> len(one), one.ipc, one[1][1]
    (2, 1.0, tensor(1))
    """

    images: Float[Tensor, "images channels height width"]
    labels: Int[Tensor, " images"]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    meta: dict[str, Any] = field(default_factory=dict)
    soft_labels: Float[Tensor, "images classes"] | None = None
    view_labels: ViewLabels | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) != len(self.labels) or not len(self.images):
            raise InputError(
                "a distilled set must have images of shape (n, channels, height, width) and n labels, n >= 1, "
                f"got {tuple(self.images.shape)} with {len(self.labels)} labels"
            )
        check_numbers(images=self.images)
        if self.labels.ndim != 1 or self.labels.dtype != torch.int64:
            raise InputError(f"labels must be int64 (n,), got {self.labels.dtype} {tuple(self.labels.shape)}")
        wrong = ((self.labels < 0) | (self.labels >= len(self.classes))).nonzero()
        if len(wrong):
            label = int(self.labels[wrong[0, 0]])
            raise InputError(f"labels must be in [0, {len(self.classes) - 1}], got {label}")
        self.preprocessing.check(self.images.shape)
        if self.soft_labels is not None:
            shape = (len(self.images), len(self.classes))
            if tuple(self.soft_labels.shape) != shape:
                raise InputError(f"soft_labels must have shape {shape}, got {tuple(self.soft_labels.shape)}")
            if not self.soft_labels.is_floating_point():
                raise InputError(f"soft_labels must be float32, got {self.soft_labels.dtype}")
            # 1e-3: rows rounded to half precision are accepted.
            sums = self.soft_labels.double().sum(dim=1)
            wrong = ((self.soft_labels < 0).any(dim=1) | ~((sums - 1).abs() < 1e-3)).nonzero()
            if len(wrong):
                row = self.soft_labels[wrong[0, 0]].tolist()
                raise InputError(f"soft_labels must be >= 0 and sum to 1, got {row} for image {int(wrong[0, 0])}")
        if self.view_labels is not None:
            shape = len(self.view_labels), self.view_labels.n_classes
            if shape != (len(self.images), len(self.classes)):
                given = f"labels of views for {shape[0]} images and {shape[1]} classes"
                raise InputError(given, f"{len(self.images)} and {len(self.classes)}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    @property
    def ipc(self) -> float:
        """Images per class, on average."""
        return len(self.images) / len(self.classes)

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of each class."""
        return tuple(self.labels.bincount(minlength=len(self.classes)).tolist())

    @property
    def per_class(self) -> str:
        """Images per class in words: one number, or the fewest and the most."""
        fewest, most = min(self.counts), max(self.counts)
        return str(most) if fewest == most else f"{fewest} to {most}"

    def pixels(self) -> Float[np.ndarray, "images channels height width"]:
        """Return the pixels, float32: the preprocessing inverted, clipped to [0, 1]."""
        return self.preprocessing.invert(self.images).clip(0, 1)

    def share_outside(self) -> float:
        """Return the share of pixel values that lie outside [0, 1] by more than half a level of 8 bits."""
        pixels = self.preprocessing.invert(self.images)
        return float((np.abs(pixels - 0.5) > 0.5 + 0.5 / 255).mean())

    def with_preprocessing(self, preprocessing: Preprocessing) -> DistilledSet:
        """Return the set with the same pixels, unclipped, as inputs of another preprocessing.

        Labels of views are left out: the views are transforms of inputs of the set's own preprocessing.

        Examples
        --------
        >>> as_it_is = Preprocessing(torch.zeros(1), torch.ones(1))
        >>> one = DistilledSet(torch.full((1, 1, 8, 8), 0.5), torch.tensor([0]), ("a",), as_it_is)
        >>> one.with_preprocessing(Preprocessing(torch.zeros(1), torch.full((1,), 0.25))).images.unique()
        tensor([2.])
        """
        inputs = preprocessing(self.preprocessing.invert(self.images))
        return replace(self, images=inputs, preprocessing=preprocessing, view_labels=None)

    def save(self, path: str | os.PathLike[str], *, compact: bool = False) -> None:
        """Save as one safetensors file, atomically; with ZCA it holds two matrices, 75 MB for 32 x 32 x 3 images.

        A ``compact`` file holds pixels in place of inputs, and no matrices: 8 bits each if that moves none by more than
        half a grey level, else float32. It loads as standardised inputs, its ``meta`` with the whitening and the
        SHA-256 of the preprocessing that the set had; :meth:`with_preprocessing` restores whitened inputs. Labels of
        views of whitened images are refused, since the views would be others.
        """
        prepared = self.preprocessing
        arrays = {"labels": self.labels, "mean": prepared.mean, "std": prepared.std}
        meta = self.meta
        if compact and prepared.zca is not None and self.view_labels is not None:
            raise InputError("labels of views of whitened images in a compact file", "a file that is not compact")
        if compact:
            pixels = prepared.invert(self.images)
            is_valid = not self.share_outside()
            pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8) if is_valid else pixels
            arrays["pixels"] = torch.from_numpy(pixels)
            meta = {"whitening": prepared.whitening, "preprocessing_sha256": prepared.sha256, **meta}
        else:
            arrays["images"] = self.images
        if prepared.zca is not None and not compact:
            arrays |= {f"zca.{name}": getattr(prepared.zca, name) for name in _ZCA}
        if self.soft_labels is not None:
            arrays["soft_labels"] = self.soft_labels
        description = {"kind": _KIND, "classes": list(self.classes), "meta": meta}
        if self.view_labels is not None:
            arrays |= {f"{_VIEWS}{name}": array for name, array in self.view_labels.arrays().items()}
            description["view_labels"] = self.view_labels.description
        checkpoint.save(path, arrays, description)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DistilledSet:
        """Load a file that :meth:`save` wrote, compact or not, and verify its checksum."""
        loaded = checkpoint.load(path, "torch")
        kind = loaded.meta.get("kind", "something else")
        if kind != _KIND:
            raise InputError(f"{path} is a checkpoint of {kind}", "a distilled set")
        arrays, expected = loaded.arrays, "a file that DistilledSet.save wrote"
        with reading(path, expected, KeyError, TypeError):
            classes, meta = loaded.meta["classes"], dict(loaded.meta["meta"])
            labels, mean, std = (arrays[name] for name in ("labels", "mean", "std"))
            stored = arrays["pixels"] if "pixels" in arrays else arrays["images"]
            whitening = [arrays[f"zca.{name}"] for name in _ZCA] if "zca.mean" in arrays else None
            views = {name.removeprefix(_VIEWS): each for name, each in arrays.items() if name.startswith(_VIEWS)}
            view_labels = ViewLabels.restored(views, loaded.meta["view_labels"]) if views else None
        if not isinstance(classes, list):
            raise InputError(f"{path} has classes of {type(classes).__name__}", "a list of names")
        prepared = Preprocessing(mean, std, ZCA(*whitening) if whitening else None)
        return cls(
            prepared(stored) if "pixels" in arrays else stored,
            labels,
            classes=tuple(map(str, classes)),
            preprocessing=prepared,
            meta=meta,
            soft_labels=arrays.get("soft_labels"),
            view_labels=view_labels,
        )

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], *, revision: str | None = None) -> DistilledSet:
        """Load the set of a run folder, of a folder that `export_hub` wrote, or of OWNER/NAME on the Hugging Face Hub.

        ``revision`` is a branch, tag or commit there (extra ``hub`` of sextet-common).
        """
        folder = hub.local_folder(name_or_path, kind="dataset", revision=revision, only=[FILE])
        several = sorted(path.parent.name for path in folder.glob(f"*/{FILE}"))
        if several and not (folder / FILE).exists():
            raise InputError(
                f"{folder} holds several sets: {', '.join(several)}", f"one of them, {folder / several[0]}"
            )
        return cls.load(folder / FILE)

    @classmethod
    def from_folder(
        cls, path: str | os.PathLike[str], data: image_data.Source, preprocessing: Preprocessing | None = None
    ) -> DistilledSet:
        """Read the image files of a folder, such as :func:`export_folder` wrote, as a set of the classes of ``data``.

        The folder has a form of :func:`sextet_common.image_folders.scan`; a test part is left out. Its classes are
        some of the data's, by name or by the folder names of an export. ``preprocessing`` makes the inputs, by default
        by the mean and std of the data's training images.

        Examples
        --------
        >>> import tempfile
        >>> from attention_matching.export.exports import export_folder
        >>> from attention_matching.images.select import random_real
        >>> folder = tempfile.mkdtemp()
        >>> export_folder(random_real("digits", ipc=1), folder)
        >>> len(DistilledSet.from_folder(folder, "digits"))
        10
        """
        data, listing = image_data.load(data), image_folders.scan(path)
        names = {name: k for k, name in enumerate(hub.folder_names(data.classes))}
        if not names.keys() >= {*listing.classes}:
            names = {name: k for k, name in enumerate(data.classes)}
        unknown = [name for name in listing.classes if name not in names]
        if unknown:
            given = f"{path} has images of {unknown[0]!r}, which is no class of {data.source}"
            raise InputError(given, ", ".join(hub.folder_names(data.classes)[:10]))
        channels = data.image_shape[0]
        if channels not in (1, 3):
            raise InputError(f"image files of {channels} channels", "1 or 3, or a saved set")
        pixels = image_files.read_images(listing.train, channels=channels).images
        if pixels.shape[1:] != data.image_shape:
            raise InputError(f"{path} has images of shape {pixels.shape[1:]}, {data.source} of {data.image_shape}")
        preprocessing = preprocessing or Preprocessing.fit(data)
        labels = torch.tensor([names[listing.classes[k]] for k in listing.train_labels])
        meta = {"method": "image files", "data": data.source, "whitening": preprocessing.whitening}
        return cls(preprocessing(pixels), labels, data.classes, preprocessing, meta)

    def save_grid(self, path: str | os.PathLike[str]) -> None:
        """Save a PNG of the images: one row per class, or one column per class for one image each.

        Rows of classes with fewer images end in empty places. 2 channels, or more than 3, are drawn side by side, each
        in grey.
        """
        pixels, most = self.pixels(), max(self.counts)
        picture = np.full((len(self.classes), most, *pixels.shape[1:]), figures.BACKGROUND, dtype=np.float32)
        for label, count in enumerate(self.counts):
            picture[label, :count] = pixels[self.labels.numpy() == label]
        columns = len(self.classes) if most == 1 else most
        figures.save_grid(picture.reshape(-1, *pixels.shape[1:]), path, columns=columns)


def check_same_form(training: DistilledSet, data: ImageSet) -> None:
    """Refuse data of another image shape or other classes than a set's."""
    shape = tuple(training.images.shape[1:])
    if shape != data.image_shape or training.classes != data.classes:
        given = f"the set has {len(training.classes)} classes of {shape} images"
        raise InputError(
            f"{given}, the data {data.n_classes} of {data.image_shape}", "the same image shape and classes"
        )
