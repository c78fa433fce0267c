"""Every kind of source gives the same set from the same pixels; the oracle is plain NumPy."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sextet_common import data
from sextet_common.errors import DataWarning, InputError
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

RNG = np.random.default_rng(0)
TRAIN, TEST = (RNG.integers(0, 256, (n, 3, 6, 5)).astype(np.uint8) for n in (12, 4))
TRAIN_LABELS, TEST_LABELS = np.arange(12) % 3, np.array([2, 0, 1, 1])
CLASSES = ("ant", "bee", "cat")


class Items(Dataset[Any]):
    """A map-style dataset over a list."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image.transpose(1, 2, 0))


def items(convert: Callable[[np.ndarray], Any], label: Callable[[Any], Any] = int) -> tuple[Items, Items]:
    halves = ((TRAIN, TRAIN_LABELS), (TEST, TEST_LABELS))
    first, second = (Items([(convert(x), label(y)) for x, y in zip(*half, strict=True)]) for half in halves)
    return first, second


def hugging_face(images: np.ndarray, labels: np.ndarray) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    columns = {"image": [picture(image) for image in images], "label": labels.tolist()}
    return datasets.Dataset.from_dict(columns, features=features)


def image_folder(path: Path) -> Path:
    for part, images, labels in (("train", TRAIN, TRAIN_LABELS), ("test", TEST, TEST_LABELS)):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = path / part / CLASSES[label] / f"{number:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(image).save(file)
    return path


def tensors(images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(images), torch.from_numpy(labels)


def torchvision_folder(path: Path, **options: Any) -> tuple[Any, Any]:
    image_folder(path)
    return ImageFolder(str(path / "train"), **options), ImageFolder(str(path / "test"), **options)


SOURCES: dict[str, Callable[[Path], Any]] = {
    "four arrays": lambda path: (TRAIN, TRAIN_LABELS, TEST, TEST_LABELS),
    "pairs, as Keras gives them": lambda path: ((TRAIN, TRAIN_LABELS), (TEST, TEST_LABELS)),
    "channels last": lambda path: (TRAIN.transpose(0, 2, 3, 1), TRAIN_LABELS, TEST.transpose(0, 2, 3, 1), TEST_LABELS),
    "mapping of tensors": lambda path: {"train": tensors(TRAIN, TRAIN_LABELS), "test": tensors(TEST, TEST_LABELS)},
    "TensorDataset": lambda path: (
        TensorDataset(*tensors(TRAIN, TRAIN_LABELS)),
        TensorDataset(*tensors(TEST, TEST_LABELS)),
    ),
    "PIL": lambda path: items(picture),
    "uint8 tensors": lambda path: items(torch.from_numpy, torch.tensor),
    "arrays, channels last": lambda path: items(lambda image: image.transpose(1, 2, 0), np.int64),
    "floats": lambda path: items(lambda image: torch.from_numpy(image).float() / 255),
    "text labels": lambda path: items(picture, lambda label: CLASSES[label]),
    "torchvision": torchvision_folder,
    "torchvision with a transform": lambda path: torchvision_folder(path, transform=ToTensor()),
    "Hugging Face": lambda path: datasets.DatasetDict(
        {"TRAIN": hugging_face(TRAIN, TRAIN_LABELS), "Validation": hugging_face(TEST, TEST_LABELS)}
    ),
    "Hugging Face as torch tensors": lambda path: {
        "train": hugging_face(TRAIN, TRAIN_LABELS).with_format("torch"),
        "valid": hugging_face(TEST, TEST_LABELS).with_format("torch"),
    },
    "folder": image_folder,
    "path as text": lambda path: str(image_folder(path)),
    "an ImageSet": lambda path: data.ImageSet.of(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_the_same_pixels_give_the_same_set_from_every_kind_of_source(kind: str, tmp_path: Path) -> None:
    found = data.load(SOURCES[kind](tmp_path))
    order, test_order = np.arange(12), np.arange(4)
    if "folder" in kind or "path" in kind or "torchvision" in kind:  # by class
        order, test_order = np.argsort(TRAIN_LABELS, kind="stable"), np.argsort(TEST_LABELS, kind="stable")
    is_float = kind in ("floats", "torchvision with a transform")
    assert found.train_images.dtype == (np.float32 if is_float else np.uint8) and not found.notes
    np.testing.assert_array_equal(data.to_float(found.train_images), TRAIN[order].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(
        data.to_float(found.test_images), TEST[test_order].astype(np.float32) / np.float32(255)
    )
    np.testing.assert_array_equal(found.train_labels, TRAIN_LABELS[order])
    np.testing.assert_array_equal(found.test_labels, TEST_LABELS[test_order])
    named = any(word in kind for word in ("Hugging", "torchvision", "text", "folder", "path"))
    assert found.classes == (CLASSES if named else ("0", "1", "2")) and not found.train_images.flags.writeable
    exact = TRAIN.astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1) / 255
    np.testing.assert_allclose(found.mean, exact.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.std, exact.std(axis=1), rtol=1e-6)


@pytest.mark.parametrize("wrap", [lambda s: Subset(s, range(12)), lambda s: ConcatDataset([s])])
def test_wrapped_torchvision_datasets_keep_their_class_names(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    train, test = torchvision_folder(tmp_path)
    assert data.load((wrap(train), test)).classes == CLASSES


@pytest.mark.parametrize(
    "source",
    [(TRAIN, TRAIN_LABELS), items(picture)[0], hugging_face(TRAIN, TRAIN_LABELS), {"Train": items(picture)[0]}],
)
def test_a_training_set_alone_is_split_by_class_always_in_the_same_way(source: Any) -> None:
    with pytest.warns(DataWarning, match=r"no test images: 3 of 12 images, a fifth of every class") as said:
        found = data.load(source)
    assert [str(warning.message) for warning in said] == list(found.notes)
    assert np.bincount(found.test_labels).tolist() == [1, 1, 1] and len(found.train_labels) == 9
    both = np.concatenate([found.train_images, found.test_images]).reshape(12, -1)
    assert sorted(map(bytes, both)) == sorted(map(bytes, TRAIN.reshape(12, -1)))
    with pytest.warns(DataWarning):
        assert data.load(source).fingerprint == found.fingerprint


def test_the_test_part_is_preferred_and_the_others_are_named() -> None:
    train, test = (TRAIN, TRAIN_LABELS), (TEST, TEST_LABELS)
    with pytest.warns(DataWarning, match=r"not used: 'Validation', 'extra'"):
        found = data.load({"Validation": train, "extra": test, "Test": test, "train": train})
    assert len(found.test_labels) == 4


def test_pictures_of_several_sizes_need_a_size_and_gray_ones_are_offered_as_one_channel() -> None:
    mixed = Items([(Image.new("L", (5 + k, 6), k), k % 2) for k in range(6)])
    with pytest.raises(InputError, match=r"image 1 of the given Items is .*; expected: images of one type and shape"):
        data.load((mixed, mixed))
    assert data.load((mixed, mixed), size=4).image_shape == (1, 4, 4)
    assert data.load((mixed, mixed), size=4, channels=3).image_shape == (3, 4, 4)


def test_arrays_of_bytes_are_scaled_on_request_and_floats_are_refused() -> None:
    found = data.load((TRAIN, TRAIN_LABELS, TEST, TEST_LABELS), size=5, channels=1)
    assert found.image_shape == (1, 5, 5) and found.train_images.dtype == np.uint8
    gray = np.asarray(picture(TRAIN[0]).convert("L"), dtype=int)  # 6 x 5: one row is cropped
    assert np.abs(found.train_images[0, 0].astype(int) - gray[1:6]).max() < 256
    with pytest.raises(InputError, match="float images of shape"):
        data.load((TRAIN / 255, TRAIN_LABELS, TEST / 255, TEST_LABELS), size=4)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(items(picture)[0].items)


def columns(**features: Any) -> datasets.Dataset:
    values = {name: [picture(x) for x in TRAIN[:3]] if name == "image" else [0, 1, 2] for name in features}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


LABEL = datasets.ClassLabel(names=list(CLASSES))
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "stream": (Stream, "is of type Stream; expected: a map-style dataset of .* with a length"),
    "loader": (lambda: DataLoader(items(picture)[0]), "is of type DataLoader"),
    "streaming": (
        lambda: hugging_face(TRAIN, TRAIN_LABELS).to_iterable_dataset(),
        "is of type IterableDataset; expected: .* with a length",
    ),
    "number": (lambda: 3, "is of type int"),
    "array": (lambda: TRAIN, "is of type ndarray; expected: a map-style dataset"),
    "none": (lambda: None, "is of type NoneType"),
    "no train": (lambda: {"test": (TEST, TEST_LABELS)}, "the parts of the data are test; expected: train"),
    "no label": (lambda: Items([picture(TRAIN[0])]), r"item 0 of .* is a Image; expected: \(image, label\)"),
    "float label": (lambda: Items([(picture(TRAIN[0]), 0.5)]), "a label of the given Items is 0.5"),
    "normalised": (lambda: (items(lambda x: torch.randn(3, 4, 4))[0],) * 2, r"values outside \[0, 1\]"),
    "counts": (lambda: (TRAIN, TRAIN_LABELS[:5]), "12 images and 5 labels"),
    "empty": (lambda: Items([]), "has no image"),
    "int64": (lambda: items(lambda x: x.astype(np.int64)), "image 0 of the given Items: images of int64"),
    "two labels": (
        lambda: columns(image=datasets.Image(), fine=LABEL, coarse=LABEL),
        r"has 1 image and 2 label columns among .*coarse",
    ),
    "no image column": (lambda: columns(label=LABEL), r"has 0 image and 1 label columns among label \(ClassLabel\)"),
    "text": (lambda: Items([("a.png", 1)]), "image 0 of the given Items"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_dataset_is_refused_by_one_line_that_names_the_accepted_forms(kind: str) -> None:
    make, match = REFUSED[kind]
    with pytest.raises(InputError, match=match), warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        data.load(make())


def test_the_only_class_label_column_is_used_whatever_its_name() -> None:
    table = columns(image=datasets.Image(), kind=LABEL, number=datasets.Value("int64"))
    assert data.load((table, table)).classes == CLASSES


def test_the_files_of_an_undecoded_column_are_decoded() -> None:
    table = hugging_face(TRAIN, TRAIN_LABELS).cast_column("image", datasets.Image(decode=False))
    np.testing.assert_array_equal(data.load((table, table)).train_images, TRAIN)


def test_contiguous_arrays_and_memory_maps_are_used_without_a_copy(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", TRAIN)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = data.load((mapped, TRAIN_LABELS, TEST, TEST_LABELS))
    assert isinstance(found.train_images, np.memmap) and np.shares_memory(found.test_images, TEST)
    assert TEST.flags.writeable  # the caller's array stays as it is
    rows = np.array([7, 3, 3])
    for chosen in (rows, TRAIN_LABELS == 1, slice(2, 5), rows.tolist()):
        batch = data.take(found.train_images, chosen)
        np.testing.assert_array_equal(batch, TRAIN[chosen])
        assert type(batch) is np.ndarray and batch.flags.writeable and not np.shares_memory(batch, mapped)


def test_options_are_the_settings_of_load(tmp_path: Path) -> None:
    options = data.DataOptions(data=str(image_folder(tmp_path / "x")), size=4, channels=1, cache=tmp_path / "cache")
    found = options.load()
    assert found.image_shape == (1, 4, 4) and isinstance(found.train_images, np.memmap)
    for wrong, match in (
        (data.DataOptions(size=0), "size must be"),
        (data.DataOptions(channels=2), "channels must be"),
    ):  # type: ignore[arg-type]
        with pytest.raises(InputError, match=match):
            wrong.load()
