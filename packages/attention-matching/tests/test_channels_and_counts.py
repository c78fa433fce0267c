"""The whole pipeline with any number of channels, and with unequally many images of the classes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_matching.__main__ import main
from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.distill import Distiller
from attention_matching.evaluation.config import EvaluateConfig
from attention_matching.evaluation.cross import compare
from attention_matching.evaluation.evaluate import evaluate, evaluate_random_real
from attention_matching.export.card import data_card
from attention_matching.export.exports import export, export_folder
from attention_matching.images.augment import SiameseAugmentation
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import herding, k_centre, proportional_counts, random_real
from attention_matching.kinds import ARCHITECTURES, Architecture
from attention_matching.networks.build import build
from PIL import Image
from sextet_common import data, seeding
from sextet_common.errors import InputError

QUICK = EvaluateConfig(networks=1, epochs=2, width=8)


def images(channels: int, counts: tuple[int, ...] = (12, 12, 12), side: int = 8) -> data.ImageSet:
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = draw.integers(0, 200, (len(labels), channels, side, side), dtype=np.uint8)
    pixels[np.arange(len(labels)), labels % channels] += 55  # the classes differ
    names = tuple(f"class {k}" for k in range(len(counts)))
    return data.ImageSet.of(pixels, labels, pixels[::3], labels[::3], names)


@pytest.mark.parametrize("channels", [2, 4, 10])
@pytest.mark.parametrize("whitening", ["none", "zca"])
def test_images_of_any_number_of_channels_go_through_the_whole_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, whitening: str
) -> None:
    monkeypatch.chdir(tmp_path)
    real = images(channels)
    parts = {
        f"{half}_{what}": getattr(real, f"{half}_{what}") for half in ("train", "test") for what in ("images", "labels")
    }
    np.savez("real.npz", **parts)
    words = ["--steps", "2", "--width", "8", "--ipc", "2", "--real-batch", "8", "--whitening", whitening]
    assert main(["distill", "--data", "npz:real.npz", *words, "--out", "run"]) == 0
    assert main(["evaluate", "run", "--networks", "1", "--epochs", "2", "--width", "8"]) == 0
    distilled = DistilledSet.from_pretrained("run")
    assert distilled.images.shape == (6, channels, 8, 8) and distilled.preprocessing.whitening == whitening
    assert main(["show", "run", "--export", "pt-mtt", "--to", "mtt"]) == 0
    assert torch.equal(torch.load("mtt/images_best.pt", weights_only=True), distilled.images)
    assert main(["show", "run", "--export", "compact", "--to", "small.safetensors"]) == 0
    assert main(["evaluate", "small.safetensors", "--networks", "1", "--epochs", "2", "--width", "8"]) == 0
    again = DistilledSet.load("small.safetensors").with_preprocessing(
        Preprocessing.fit(real, distilled.preprocessing.whitening)
    )
    assert np.abs(again.pixels() - distilled.pixels()).max() < 0.51 / 255
    for kind in ("folder", "hub", "hub-imagefolder"):
        with pytest.raises(InputError, match=f"{channels} channels.*; expected: 1 or 3; compact, pt-dc and pt-mtt"):
            export(distilled, "other", kind)
    with pytest.raises(InputError, match=f"images of {channels} channels; expected: 3, as CIFAR10 has"):
        export(distilled, "other.pt", "pt-dc", "CIFAR10")
    # The picture: 3 rows of 2 images, each of `channels` grey squares of 8 pixels, enlarged eightfold.
    with Image.open("run/images.png") as picture:
        assert picture.size == (8 * (2 * (8 * channels + 1) + 1), 8 * (3 * 9 + 1))
        shown = np.asarray(picture)[::8, ::8]
    first = (distilled.pixels()[0] * 255).round().astype(np.uint8)
    for channel in range(channels):
        square = shown[1:9, 1 + 8 * channel : 9 + 8 * channel]
        assert (square == first[channel][..., None]).all()


@pytest.mark.parametrize("channels", [2, 4, 10])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_takes_any_number_of_channels(architecture: Architecture, channels: int) -> None:
    network = build(architecture, (channels, 32, 32), 3)
    x = torch.randn(2, channels, 32, 32, requires_grad=True)
    network(x)[:, 0].sum().backward()
    assert x.grad is not None and bool((x.grad.abs().amax(dim=(0, 2, 3)) > 0).all())  # every channel counts


@pytest.mark.parametrize("channels", [1, 2, 4, 10])
def test_colour_acts_on_the_mean_and_the_differences_of_any_number_of_channels(channels: int) -> None:
    x = torch.randn(1, channels, 8, 8, dtype=torch.float64)
    u, v, w = 0.7, 0.2, 0.9
    changed = SiameseAugmentation(("color",))(x, torch.tensor([[0.0, u, v, w]], dtype=torch.float64))
    values = x.numpy() + (u - 0.5)  # brightness 1
    grey = values.mean(axis=1, keepdims=True)
    values = (values - grey) * (2 * v) + grey  # saturation 2
    expected = (values - values.mean()) * (w + 0.5) + values.mean()  # contrast 0.5
    np.testing.assert_allclose(changed.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 4, 8, 8), (4, 8, 8)),
        ((5, 8, 8, 4), (4, 8, 8)),
        ((5, 10, 8, 8), (10, 8, 8)),  # more channels than pixels a side
        ((5, 8, 8, 10), (10, 8, 8)),
        ((5, 2, 8, 9), (2, 8, 9)),
        ((5, 9, 8, 2), (2, 9, 8)),
        ((5, 8, 8, 8), (8, 8, 8)),  # undecided: channels first
        ((5, 3, 8, 1), (3, 8, 1)),
    ],
)
def test_channels_are_found_first_or_last(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    pixels = np.zeros(shape, dtype=np.uint8)
    assert data.ImageSet.of(pixels, np.arange(5) % 2, pixels, np.arange(5) % 2).image_shape == expected


def test_a_change_of_the_channels_of_such_images_is_refused() -> None:
    pixels, labels = np.zeros((4, 4, 8, 8), dtype=np.uint8), np.arange(4) % 2
    with pytest.raises(InputError, match=r"images of 4 channels; expected: 1 or 3"):
        data.load((pixels, labels, pixels, labels), size=4)


def test_counts_may_differ_between_classes_in_every_choice() -> None:
    real, counts = images(1, (20, 10, 5)), (7, 1, 0)
    for chosen in (random_real(real, counts), k_centre(real, counts), herding(real, counts)):
        assert chosen.counts == counts and chosen.per_class == "0 to 7" and chosen.meta["ipc"] == [7, 1, 0]
    assert torch.equal(random_real(real, (2, 2, 2), 5).images, random_real(real, 2, 5).images)
    for wrong, match in (
        ((1, 1), r"ipc has 2 numbers"),
        ((0, 0, 0), r"not all 0"),
        ((1, 1, 6), r"at least ipc = 6 images, got 5 of class 'class 2'"),
        ((1, -1, 1), r"ipc must be a whole number >= 0, got -1"),
    ):
        with pytest.raises(InputError, match=match):
            random_real(real, wrong)


@pytest.mark.parametrize("total", [3, 4, 17, 35])
def test_proportional_counts_are_the_nearest_with_one_of_every_class(total: int) -> None:
    sizes = np.array([20, 10, 5])
    counts = np.array(proportional_counts(images(1, (20, 10, 5)), total))
    assert counts.sum() == total and counts.min() >= 1 and (counts <= sizes).all()
    shares = total * sizes / sizes.sum()
    assert (np.abs(counts - shares) < 1).all() or total < 5  # a fraction of an image, where one of each leaves room
    with pytest.raises(InputError, match="a total of 2 images; expected: 3 to 35"):
        proportional_counts(images(1, (20, 10, 5)), 2)


def test_random_real_images_are_as_unequal_as_the_set_that_they_are_compared_with(tmp_path: Path) -> None:
    real, counts = images(3, (20, 10, 5)), (6, 2, 1)
    training = random_real(real, counts, seed=3)
    rows = compare(training, real, QUICK, tmp_path)
    choice = random_real(real, counts, seeding.derive(0, "choice", 0), training.preprocessing)
    assert rows["random real"] == evaluate(choice, real, QUICK) == evaluate_random_real(real, counts, QUICK)


def test_cards_pictures_and_exports_of_unequal_counts(tmp_path: Path) -> None:
    real, counts = images(3, (20, 10, 5)), (4, 2, 1)
    training = random_real(real, counts)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    mixed = DistilledSet(training.images[order], training.labels[order], real.classes, training.preprocessing)
    assert "7 of 3 x 8 x 8, 1 to 4 per class" in data_card(training)
    training.save_grid(tmp_path / "a.png")
    mixed.save_grid(tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as picture, Image.open(tmp_path / "b.png") as other:
        shown, same = np.asarray(picture)[::8, ::8], np.asarray(other)[::8, ::8]
    assert shown.shape == (3 * 9 + 1, 4 * 9 + 1, 3)
    pixels = (training.pixels() * 255).round()
    places = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (2, 0)]  # the others are empty
    for number, (row, column) in enumerate(places):
        square = shown[1 + 9 * row : 9 + 9 * row, 1 + 9 * column : 9 + 9 * column]
        assert np.array_equal(square, pixels[number].transpose(1, 2, 0))
    assert (shown[10:, 28:] == 153).all() and (shown[19:, 10:] == 153).all()  # the grey of the gaps
    for row in range(3):  # class by class, whatever the order of the set
        places = [slice(1 + 9 * column, 9 + 9 * column) for column in range(4)]
        rows = slice(1 + 9 * row, 9 + 9 * row)
        strips = [sorted(part[rows, place].tobytes() for place in places) for part in (shown, same)]
        assert strips[0] == strips[1]
    export_folder(mixed, tmp_path / "png")
    assert DistilledSet.from_folder(tmp_path / "png", real).counts == counts
    export(mixed, tmp_path / "hub", "hub")
    assert "1 to 4 images per class" in (tmp_path / "hub" / "README.md").read_text()
    assert DistilledSet.from_pretrained(tmp_path / "hub").counts == counts


def test_very_unequal_classes_are_distilled_with_one_warning(tmp_path: Path) -> None:
    real = images(1, (5, 5000))
    config = DistillConfig(ipc=5, steps=3, width=8, real_batch=16)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first = Distiller(config).fit(real, tmp_path / "run")
    assert [str(each.message) for each in caught] == [
        "class 'class 0' has fewer images than real_batch = 16: 1 of 2 classes are sampled with replacement"
    ]
    assert first.counts == (5, 5) and bool(first.images.isfinite().all())
    with pytest.raises(InputError, match="at least ipc = 6 images, got 5 of class 'class 0'"):
        Distiller(DistillConfig(ipc=6, steps=3, width=8)).fit(real, tmp_path / "other")
    assert not (tmp_path / "other").exists()
