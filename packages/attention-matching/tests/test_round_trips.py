"""Sets as PNG folders and as compact files: what is read back has the same pixels, classes and inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_matching.__main__ import main
from attention_matching.evaluation.config import EvaluateConfig
from attention_matching.evaluation.evaluate import evaluate
from attention_matching.export.exports import export, export_folder
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import random_real
from attention_matching.kinds import Whitening
from sextet_common import data
from sextet_common.errors import InputError

HALF_LEVEL = 1 / 510


def images(classes: tuple[str, ...], channels: int, side: int = 8, per_class: int = 6) -> data.ImageSet:
    """Random bytes."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (len(classes) * per_class, channels, side, side), dtype=np.uint8)
    labels = np.arange(len(pixels)) % len(classes)
    return data.ImageSet.of(pixels, labels, pixels[:: per_class // 2], labels[:: per_class // 2], classes)


def free(classes: tuple[str, ...], channels: int, ipc: int, whitening: Whitening = "none") -> DistilledSet:
    """A set whose pixels are no bytes and leave [0, 1]."""
    real = images(classes, channels)
    prepared = Preprocessing.fit(real, whitening)
    pixels = np.random.default_rng(1).uniform(-0.2, 1.2, (len(classes) * ipc, channels, 8, 8)).astype(np.float32)
    return DistilledSet(
        prepared(pixels), torch.arange(len(classes)).repeat_interleave(ipc), classes, prepared, {"data": "x"}
    )


CLASSES = {
    "names": ("cat", "dog", "eel"),
    "numbers": tuple(map(str, range(11))),
    "unsorted": ("zebra", "T-shirt/top", "apple"),
    "parts": ("cat", "test", "train"),
    "one": ("train",),
}


@pytest.mark.parametrize("ipc", [1, 2, 5])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", CLASSES)
def test_a_png_folder_is_the_clipped_set_to_half_a_grey_level(
    tmp_path: Path, kind: str, channels: int, ipc: int
) -> None:
    classes = CLASSES[kind]
    distilled, real = free(classes, channels, ipc), images(classes, channels)
    export_folder(distilled, tmp_path / "png")
    read = DistilledSet.from_folder(tmp_path / "png", real)
    assert read.classes == classes and torch.equal(read.labels, distilled.labels)
    assert np.abs(read.pixels() - distilled.pixels()).max() <= HALF_LEVEL + 1e-6  # the rounding of float32
    assert torch.equal(read.preprocessing.mean, torch.tensor(real.mean))


def test_a_nested_folder_and_folders_of_the_datas_own_names_are_read(tmp_path: Path) -> None:
    classes = CLASSES["unsorted"]
    distilled, real = free(classes, 3, 2), images(classes, 3)
    export(distilled, tmp_path / "hub", "hub-imagefolder")  # train/CLASS/*.png
    assert torch.equal(DistilledSet.from_folder(tmp_path / "hub", real).labels, distilled.labels)
    plain, named = free(("b", "a"), 1, 1), images(("b", "a"), 1)
    export_folder(plain, tmp_path / "png")
    for folder, name in (("0_b", "b"), ("1_a", "a")):
        (tmp_path / "png" / folder).rename(tmp_path / "png" / name)
    assert DistilledSet.from_folder(tmp_path / "png", named).labels.tolist() == [1, 0]  # folder by folder: a, b
    (tmp_path / "png" / "a").rename(tmp_path / "png" / "c")
    with pytest.raises(InputError, match="has images of 'c', which is no class of the given arrays; expected: 0_b"):
        DistilledSet.from_folder(tmp_path / "png", named)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ipc", [1, 2])
def test_load_takes_a_png_folder_as_training_images_of_other_test_images(
    tmp_path: Path, ipc: int, channels: int
) -> None:
    classes = CLASSES["unsorted"]
    distilled, real = free(classes, channels, ipc), images(classes, channels)
    np.savez(
        tmp_path / "real.npz",
        train_images=real.train_images,
        train_labels=real.train_labels,
        test_images=real.test_images,
        test_labels=real.test_labels,
        classes=np.array(classes),
    )
    export_folder(distilled, tmp_path / "png")
    pair = data.load((tmp_path / "png", f"npz:{tmp_path / 'real.npz'}"))
    assert pair.classes == classes and np.array_equal(pair.train_labels, distilled.labels)
    assert np.abs(data.to_float(pair.train_images) - distilled.pixels()).max() <= HALF_LEVEL + 1e-6
    assert np.array_equal(pair.test_images, real.test_images) and np.array_equal(pair.test_labels, real.test_labels)


def test_the_shell_scores_a_png_folder_as_python_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    digits = data.load("digits")
    export_folder(random_real(digits, 1), "png")
    words = ["--data", "digits", "--networks", "1", "--epochs", "3", "--width", "8", "--no-random-real"]
    assert main(["evaluate", "png"]) == 2  # it does not say what its data is
    assert main(["evaluate", "png", *words]) == 0
    assert main(["evaluate", "png", *words, "--whitening", "zca", "--out", "whitened"]) == 0
    config = EvaluateConfig(networks=1, epochs=3, width=8)
    for whitening, folder in (("none", "png-evaluation"), ("zca", "whitened")):
        read = DistilledSet.from_folder("png", digits, Preprocessing.fit(digits, whitening))
        report = json.loads((tmp_path / folder / "evaluation.json").read_text())
        assert report["accuracies"] == {"distilled": [*evaluate(read, digits, config).accuracies]}


@pytest.mark.parametrize("whitening", ["none", "zca"])
def test_a_compact_file_of_valid_pixels_has_bytes_and_no_matrices(tmp_path: Path, whitening: Whitening) -> None:
    real = images(("a", "b"), 3)
    prepared = Preprocessing.fit(real, whitening)
    pixels = np.random.default_rng(1).random((4, 3, 8, 8), dtype=np.float32)
    soft = torch.full((4, 2), 0.5)
    distilled = DistilledSet(prepared(pixels), torch.arange(4) % 2, ("a", "b"), prepared, {"data": "x"}, soft)
    distilled.save(tmp_path / "small.safetensors", compact=True)
    assert (tmp_path / "small.safetensors").stat().st_size < 4 * 192 + 1200
    read = DistilledSet.load(tmp_path / "small.safetensors")
    assert read.preprocessing.zca is None and read.meta["whitening"] == whitening
    assert read.meta["preprocessing_sha256"] == prepared.sha256 and read.meta["data"] == "x"
    assert torch.equal(read.labels, distilled.labels) and read.soft_labels is not None
    assert torch.equal(read.soft_labels, soft)
    assert np.abs(read.pixels() - pixels).max() <= HALF_LEVEL + 1e-5  # whitening and back
    again = read.with_preprocessing(prepared)
    assert torch.allclose(again.images, prepared(read.pixels()), atol=1e-5) and again.preprocessing is prepared


@pytest.mark.parametrize("whitening", ["none", "zca"])
def test_a_compact_file_of_free_pixels_restores_the_inputs(tmp_path: Path, whitening: Whitening) -> None:
    distilled = free(("a", "b"), 3, 2, whitening)
    distilled.save(tmp_path / "small.safetensors", compact=True)
    read = DistilledSet.load(tmp_path / "small.safetensors").with_preprocessing(distilled.preprocessing)
    assert torch.allclose(read.images, distilled.images, atol=2e-5)  # there and back in float32


def test_the_shell_writes_a_compact_file_and_scores_it_with_its_whitening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digits = data.load("digits")
    prepared = Preprocessing.fit(digits, "zca")
    random_real(digits, 1, preprocessing=prepared).save("set.safetensors")
    assert main(["show", "set.safetensors", "--export", "compact", "--to", "small.safetensors"]) == 0
    assert main(["show", "set.safetensors", "--export", "compact", "--to", "small.safetensors"]) == 2  # exists
    words = ["--networks", "2", "--epochs", "3", "--width", "8", "--no-random-real"]
    assert main(["evaluate", "small.safetensors", *words]) == 0
    read = DistilledSet.load("small.safetensors").with_preprocessing(prepared)
    report = json.loads((tmp_path / "small-evaluation" / "evaluation.json").read_text())
    expected = evaluate(read, digits, EvaluateConfig(networks=2, epochs=3, width=8))
    assert report["accuracies"]["distilled"] == [*expected.accuracies]
