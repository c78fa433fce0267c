"""Exports: what other programs read is what the set holds, and nothing is left half written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_matching.export.exports import export, export_ddranking, export_folder, export_pt
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import ZCA, Preprocessing
from hypothesis import given, settings, strategies as st
from PIL import Image
from sextet_common import data, files, hub
from sextet_common.errors import DataWarning, InputError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def build(
    classes: tuple[str, ...] = ("cat", "dog", "eel"),
    ipc: int = 2,
    channels: int = 3,
    side: int = 4,
    whitening: bool = False,
    shown: np.ndarray | None = None,
    soft: bool = False,
) -> DistilledSet:
    draw = np.random.default_rng(0)
    count = len(classes) * ipc
    zca = ZCA.fit(draw.random((40, channels, side, side), dtype=np.float32)) if whitening else None
    prepared = Preprocessing(torch.linspace(0.4, 0.5, channels), torch.linspace(0.2, 0.3, channels), zca)
    if shown is None:
        shown = draw.random((count, channels, side, side), dtype=np.float32)
    return DistilledSet(
        prepared(shown),
        torch.arange(len(classes)).repeat_interleave(ipc),
        classes,
        prepared,
        soft_labels=torch.eye(len(classes)).repeat_interleave(ipc, 0) * 0.5 + 0.5 / len(classes) if soft else None,
    )


@pytest.mark.parametrize("whitening", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_png_files_holds_the_pixels_rounded_to_eight_bits(
    tmp_path: Path, channels: int, whitening: bool
) -> None:
    distilled = build(channels=channels, whitening=whitening)
    export_folder(distilled, tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    files = sorted(path.relative_to(tmp_path / "set").as_posix() for path in (tmp_path / "set").rglob("*.*"))
    assert files == [f"{name}/0000{number}.png" for name in ("cat", "dog", "eel") for number in (0, 1)]
    for file, expected in zip(files, distilled.pixels(), strict=True):
        with Image.open(tmp_path / "set" / file) as picture:
            loaded = np.asarray(picture)
        loaded = loaded[None] if channels == 1 else loaded.transpose(2, 0, 1)
        assert np.array_equal(loaded, np.rint(255 * expected.astype(np.float64)).astype(np.uint8))


def test_a_png_folder_is_read_as_the_same_classes(tmp_path: Path) -> None:
    distilled = build(classes=("zebra", "T-shirt/top", "apple"), ipc=5)
    export_folder(distilled, tmp_path / "set")
    with pytest.warns(DataWarning, match="no test images: 3 of 15"):
        loaded = data.load(f"folder:{tmp_path / 'set'}")
    assert loaded.classes == ("0_zebra", "1_T-shirt_top", "2_apple")
    eight_bits = (distilled.pixels() * 255).round() / 255
    for image, label in zip(data.to_float(loaded.train_images), loaded.train_labels, strict=True):
        distance = np.abs(eight_bits - image).max(axis=(1, 2, 3))
        assert distance.min() < 1e-6 and distilled.labels[distance.argmin()] == label


@settings(deadline=None)  # the first example waits for hypothesis to load its tables
@given(st.lists(st.text(max_size=12), min_size=1, max_size=12).map(tuple))
def test_folder_names_are_safe_distinct_and_sorted_like_the_classes(classes: tuple[str, ...]) -> None:
    names = hub.folder_names(classes)
    assert list(names) == sorted(names) and len({name.casefold() for name in names}) == len(classes)
    for name in names:
        assert re.fullmatch(r"\w[\w .-]*", name) and name[-1] not in " ." and len(name) <= 120


def test_names_that_can_be_folders_stay_and_others_get_their_numbers() -> None:
    assert hub.folder_names(CIFAR10) == CIFAR10
    assert hub.folder_names(tuple("0123456789")) == tuple("0123456789")
    assert hub.folder_names(tuple(map(str, range(11))))[9:] == ("09_9", "10_10")  # "10" would come before "2"
    assert hub.folder_names(("..", "/etc")) == ("0", "1_etc")
    assert hub.folder_names(("A", "a")) == ("0_A", "1_a")


def test_a_class_without_an_image_is_not_exported_to_folders(tmp_path: Path) -> None:
    distilled = build()
    some = DistilledSet(distilled.images[:4], distilled.labels[:4], distilled.classes, distilled.preprocessing)
    with pytest.raises(InputError, match="class 'eel' has no image"):
        export_folder(some, tmp_path / "set")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "mtt", "dc", "ddranking"])
def test_an_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    calls = []

    def interrupted(*arguments: object, **named: object) -> None:
        calls.append(arguments)
        if kind == "dc" or len(calls) == 2:
            raise KeyboardInterrupt
        original(*arguments, **named)

    original = Image.Image.save if kind == "folder" else torch.save
    if kind == "folder":
        monkeypatch.setattr(Image.Image, "save", interrupted)
    else:
        monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        if kind == "folder":
            export_folder(build(), tmp_path / "set")
        elif kind == "ddranking":
            export_ddranking(build(CIFAR10), tmp_path / "set", "CIFAR10")
        else:
            export_pt(build(), tmp_path / "set", kind)
    assert calls and not list(tmp_path.iterdir())


def test_what_a_killed_export_left_goes_with_the_next_and_nothing_else(tmp_path: Path) -> None:
    killed, other = (f".{name}.{files._host()}.99999999.0.tmp" for name in ("set", "other"))
    for name in (killed, other):
        (tmp_path / name / "cat").mkdir(parents=True)
    export_folder(build(), tmp_path / "set")
    assert {path.name for path in tmp_path.iterdir()} == {"set", other}


def test_nothing_is_overwritten_and_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    exports = (
        lambda path: export_folder(build(), path),
        lambda path: export_pt(build(), path, "mtt"),
        lambda path: export_ddranking(build(CIFAR10), path, "CIFAR10"),
        lambda path: export_pt(build(), path, "dc"),
    )
    for write in exports:
        for name in ("full", "file"):
            with pytest.raises(InputError, match=rf"{name} exists; expected: a new (file|folder)"):
                write(tmp_path / name)
    assert (tmp_path / "full" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    for number, write in enumerate(exports[:3]):
        (tmp_path / str(number)).mkdir()
        write(tmp_path / str(number))
        write(tmp_path / "deep" / str(number) / "set")
        assert list((tmp_path / str(number)).iterdir())
    assert not list(tmp_path.rglob("*.tmp"))


def test_both_layouts_are_read_without_unpickling_code(tmp_path: Path) -> None:
    distilled = build(ipc=3)
    export_pt(distilled, tmp_path / "set.pt", "dc")
    ((images, labels),) = torch.load(tmp_path / "set.pt", weights_only=True)["data"]
    assert torch.equal(images, distilled.images) and torch.equal(labels, distilled.labels)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    export_pt(distilled, tmp_path / "mtt", "mtt")
    for name, expected in (("images_best", distilled.images), ("labels_best", distilled.labels)):
        assert torch.equal(torch.load(tmp_path / "mtt" / f"{name}.pt", weights_only=True), expected)
    with pytest.raises(InputError, match="layout 'idc' is unknown; expected: dc or mtt"):
        export_pt(distilled, tmp_path / "other", "idc")


def test_only_the_images_asked_for_are_stored(tmp_path: Path) -> None:
    distilled = build(ipc=50, side=8)
    part = DistilledSet(
        distilled.images[:3], torch.arange(3), distilled.classes, distilled.preprocessing
    )  # a view of all 150
    export_pt(part, tmp_path / "part.pt")
    assert (tmp_path / "part.pt").stat().st_size < 3 * 3 * 64 * 4 + 4000


@pytest.mark.parametrize(
    ("layout", "dataset", "mean", "std"),
    [
        ("dc", "CIFAR10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("dc", "CIFAR100", (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
        ("mtt", "CIFAR100", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("mtt", "Tiny", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_images_get_the_readers_normalisation_and_are_not_clipped(
    tmp_path: Path, layout: str, dataset: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    shown = np.array([0.5, 1.25, -0.125], dtype=np.float32)[:, None, None] * np.ones((6, 3, 4, 4), np.float32)
    export_pt(build(shown=shown), tmp_path / "set", layout, dataset)
    if layout == "dc":
        images = torch.load(tmp_path / "set", weights_only=True)["data"][0][0]
    else:
        images = torch.load(tmp_path / "set" / "images_best.pt", weights_only=True)
    by_hand = [(0.5 - mean[0]) / std[0], (1.25 - mean[1]) / std[1], (-0.125 - mean[2]) / std[2]]
    torch.testing.assert_close(images.amin(dim=(0, 2, 3)), torch.tensor(by_hand), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.amax(dim=(0, 2, 3)), torch.tensor(by_hand), atol=1e-5, rtol=0)


def test_whitened_images_stay_so_for_readers_that_whiten_and_are_normalised_for_those_that_do_not(
    tmp_path: Path,
) -> None:
    distilled = build(CIFAR10, whitening=True)
    export_pt(distilled, tmp_path / "mtt", "mtt", "CIFAR10")
    assert torch.equal(torch.load(tmp_path / "mtt" / "images_best.pt", weights_only=True), distilled.images)
    export_ddranking(distilled, tmp_path / "ddr", "CIFAR10")
    assert torch.equal(torch.load(tmp_path / "ddr" / "images.pt", weights_only=True), distilled.images)
    assert json.loads((tmp_path / "ddr" / "config.json").read_text())["use_zca"] is True
    export_pt(distilled, tmp_path / "set.pt", "dc", "CIFAR10")
    images = torch.load(tmp_path / "set.pt", weights_only=True)["data"][0][0]
    back = images * torch.tensor([0.2023, 0.1994, 0.2010])[:, None, None]
    back += torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None]
    np.testing.assert_allclose(back, distilled.pixels(), atol=1e-5)


def test_a_data_set_that_the_reader_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'Tiny' is unknown to dc; expected: MNIST, .*, TinyImageNet"):
        export_pt(build(), tmp_path / "set", "dc", "Tiny")
    with pytest.raises(InputError, match="images of 3 channels; expected: 1, as MNIST has"):
        export_pt(build(), tmp_path / "set", "dc", "MNIST")
    assert not list(tmp_path.iterdir())


def test_ddranking_gets_its_normalisation_class_after_class(tmp_path: Path) -> None:
    distilled = build(CIFAR10, soft=True)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    mixed = DistilledSet(
        distilled.images[order],
        distilled.labels[order],
        CIFAR10,
        distilled.preprocessing,
        soft_labels=distilled.soft_labels[order],
    )
    export_ddranking(mixed, tmp_path / "set", "CIFAR10")
    names = {path.name for path in (tmp_path / "set").iterdir()}
    assert names == {"images.pt", "labels.pt", "soft_labels.pt", "config.json", "README.md"}
    images, labels, soft = (
        torch.load(tmp_path / "set" / f"{name}.pt", weights_only=True) for name in ("images", "labels", "soft_labels")
    )
    assert labels.tolist() == [k for k in range(10) for _ in range(2)] and labels.dtype == torch.int64
    assert images.shape == (20, 3, 4, 4) and images.dtype == torch.float32
    pixels = mixed.pixels()
    for label, image in zip(labels, images, strict=True):
        by_hand = image.numpy() * np.array([0.2023, 0.1994, 0.2010])[:, None, None]
        by_hand += np.array([0.4914, 0.4822, 0.4465])[:, None, None]
        distance = np.abs(pixels - by_hand).max(axis=(1, 2, 3))
        assert distance.min() < 1e-5 and mixed.labels[distance.argmin()] == label
    # Its losses take a softmax of what they are given.
    torch.testing.assert_close(soft.softmax(dim=1), distilled.soft_labels)


def test_the_configuration_for_ddranking_has_what_it_reads(tmp_path: Path) -> None:
    export_ddranking(build(CIFAR10, ipc=3), tmp_path / "set", "CIFAR10")
    config = json.loads((tmp_path / "set" / "config.json").read_text())
    assert (config["dataset"], config["ipc"], config["im_size"]) == ("CIFAR10", 3, [4, 4])
    assert config["model_name"] == "ConvNet-3" and config["use_zca"] is False
    # Absent, these two raise; a step schedule without its step does too.
    assert config["custom_train_trans"] is None and config["custom_val_trans"] is None and config["step_size"] == 500
    assert set(config["aug_params"]) == {
        "flip", "rotate", "saturation", "brightness", "contrast", "scale", "crop", "cutout",
    }  # fmt: skip
    text = (tmp_path / "set" / "README.md").read_text()
    assert "# CIFAR10, 3 images per class" in text and "{" not in text and "class_map" not in text
    export_ddranking(build(CIFAR10, whitening=True), tmp_path / "white", "CIFAR10")
    assert "evaluator.class_map = Numbers(evaluator.class_map)" in (tmp_path / "white" / "README.md").read_text()


def test_ddranking_itself_reads_the_configuration_and_agrees_on_labels(tmp_path: Path) -> None:
    config_module = pytest.importorskip("ddranking.config", exc_type=ImportError)
    export_ddranking(build(CIFAR10), tmp_path / "set", "CIFAR10")
    config = config_module.Config.from_file(str(tmp_path / "set" / "config.json"))
    assert config.get("im_size") == (4, 4) and config.get("custom_train_trans") is None
    default = torch.tensor(np.array([np.ones(config.get("ipc")) * k for k in range(10)]), dtype=torch.long).view(-1)
    assert torch.equal(torch.load(tmp_path / "set" / "labels.pt", weights_only=True), default)


def test_a_set_that_ddranking_would_score_wrongly_is_refused(tmp_path: Path) -> None:
    one_more = build(CIFAR10)
    uneven = DistilledSet(one_more.images[:-1], one_more.labels[:-1], CIFAR10, one_more.preprocessing)
    wordnet = tuple(f"n{k:08d}" for k in range(200))
    for distilled, dataset, match in (
        (build(), "CIFAR10", "3 classes; expected: 10, as CIFAR10 has"),
        (build(), "SVHN", "data set 'SVHN' is unknown to DD-Ranking; expected: CIFAR10, CIFAR100, TinyImageNet"),
        (uneven, "CIFAR10", "1 to 2 images per class; expected: the same number of every class"),
        (build(CIFAR10[::-1]), "CIFAR10", "classes 'truck', 'ship', ...; expected: CIFAR10's names in alphabetical"),
        (build(CIFAR10, channels=1), "CIFAR10", "images of 1 channels; expected: 3"),
        (build(wordnet[::-1], ipc=1), "TinyImageNet", "TinyImageNet's WordNet numbers"),
        (build(tuple(f"name {k:03d}" for k in range(200)), ipc=1), "TinyImageNet", "WordNet numbers"),
    ):
        with pytest.raises(InputError, match=match):
            export_ddranking(distilled, tmp_path / "set", dataset)
    assert not list(tmp_path.iterdir())
    export_ddranking(build(wordnet, ipc=1), tmp_path / "set", "TinyImageNet")
    export_ddranking(build(tuple(map(str, range(100))), ipc=1), tmp_path / "numbers", "CIFAR100")


def test_an_export_by_name_is_the_export(tmp_path: Path) -> None:
    distilled = build(CIFAR10)
    for kind, write in (
        ("folder", lambda path: export_folder(distilled, path)),
        ("pt-dc", lambda path: export_pt(distilled, path, "dc", "CIFAR10")),
        ("pt-mtt", lambda path: export_pt(distilled, path, "mtt", "CIFAR10")),
        ("ddranking", lambda path: export_ddranking(distilled, path, "CIFAR10")),
    ):
        write(tmp_path / "direct" / kind)
        export(distilled, tmp_path / "named" / kind, kind, None if kind == "folder" else "CIFAR10")
    direct, named = (
        {path.relative_to(tmp_path / top): path.read_bytes() for path in (tmp_path / top).rglob("*") if path.is_file()}
        for top in ("direct", "named")
    )
    assert {path.as_posix() for path in direct} >= {"folder/cat/00000.png", "pt-dc", "pt-mtt/images_best.pt"}
    assert direct == named
    with pytest.raises(InputError, match="export 'tfds' is unknown; expected: folder, pt-dc, pt-mtt, ddranking"):
        export(distilled, tmp_path / "other", "tfds")
    with pytest.raises(InputError, match="data set '' is unknown to DD-Ranking"):
        export(distilled, tmp_path / "other", "ddranking")
    with pytest.raises(InputError, match="data set 'CIFAR10' for pixels"):
        export(distilled, tmp_path / "other", "folder", "CIFAR10")
