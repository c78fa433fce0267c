"""A distilled set for the Hugging Face Hub: `datasets` opens it, and it comes back bit-identically."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_matching import DistilledSet, Preprocessing, export_hub
from attention_matching.__main__ import main
from attention_matching.images.preprocess import ZCA
from sextet_common.errors import InputError

CLASSES = ("cat", "dog", "eel")
NASTY = ("=cmd|x", "<img onerror=x>", "a|b: # \x1b]0;x\x07")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", os.fspath(tmp_path_factory.mktemp("hf")))


def build(
    classes: tuple[str, ...] = CLASSES, channels: int = 3, whitening: bool = False, soft: bool = False
) -> DistilledSet:
    """A set whose inputs are noise: some of its pixels are outside [0, 1]."""
    draw = np.random.default_rng(0)
    zca = ZCA.fit(draw.random((40, channels, 4, 4), dtype=np.float32)) if whitening else None
    prepared = Preprocessing(torch.full((channels,), 0.5), torch.full((channels,), 0.3), zca)
    images = torch.from_numpy(draw.normal(size=(6, channels, 4, 4)).astype(np.float32))
    probabilities = torch.full((6, 3), 1 / 3) if soft else None
    labels = torch.tensor([2, 0, 1, 1, 0, 2])
    return DistilledSet(images, labels, classes, prepared, {"data": "digits", "method": "x"}, probabilities)


def opened(folder: Path, cache: Path):  # type: ignore[no-untyped-def]
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return datasets.load_dataset(str(folder), cache_dir=str(cache))["train"]


@pytest.mark.parametrize(("channels", "whitening"), [(1, False), (3, True)])
@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
def test_datasets_opens_an_exported_set(tmp_path: Path, layout: str, channels: int, whitening: bool) -> None:
    distilled = build(channels=channels, whitening=whitening)
    export_hub(distilled, tmp_path / "set", layout=layout)  # type: ignore[arg-type]
    rows = opened(tmp_path / "set", tmp_path / "cache")
    assert set(rows.features) == {"image", "label"} and rows.features["label"].names == list(CLASSES)
    order = np.arange(6) if layout == "parquet" else np.argsort(distilled.labels.numpy(), kind="stable")
    assert rows["label"][:] == distilled.labels.numpy()[order].tolist()
    for row, expected in zip(rows, distilled.pixels()[order], strict=True):
        loaded = np.asarray(row["image"], dtype=np.float64) / 255
        loaded = loaded[None] if channels == 1 else loaded.transpose(2, 0, 1)
        np.testing.assert_allclose(loaded, expected, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
@pytest.mark.parametrize("whitening", [False, True])
def test_an_exported_set_comes_back_bit_identically(tmp_path: Path, layout: str, whitening: bool) -> None:
    distilled = build(whitening=whitening, soft=True)
    export_hub(distilled, tmp_path / "set", layout=layout)  # type: ignore[arg-type]
    again = DistilledSet.from_pretrained(tmp_path / "set")
    assert torch.equal(again.images, distilled.images) and torch.equal(again.labels, distilled.labels)
    assert again.soft_labels is not None and torch.equal(again.soft_labels, distilled.soft_labels)  # type: ignore[arg-type]
    pixels = np.random.default_rng(1).random((2, 3, 4, 4), dtype=np.float32)
    assert torch.equal(again.preprocessing(pixels), distilled.preprocessing(pixels))
    assert (again.classes, again.meta) == (distilled.classes, distilled.meta)


def test_the_card_is_one_of_a_data_set_and_says_what_the_images_are(tmp_path: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    distilled = build()
    export_hub(distilled, tmp_path / "set", evaluation={"accuracies": {"distilled": [0.5, 0.7]}}, license="mit")
    card = huggingface_hub.DatasetCard.load(tmp_path / "set" / "README.md")
    assert card.data.license == "mit" and card.data.task_categories == ["image-classification"]
    assert card.data.size_categories == ["n<1K"] and "dataset-distillation" in card.data.tags
    shown = distilled.preprocessing.invert(distilled.images)
    share = float(np.count_nonzero((shown < 0) | (shown > 1)) / shown.size)
    assert share > 0.05 and f"({100 * share:.2g} % of the values were outside and are clipped)" in card.text
    assert "60.0 ± 14.1 %" in card.text


def test_class_names_that_others_made_are_kept_and_shown_harmlessly(tmp_path: Path) -> None:
    export_hub(build(NASTY), tmp_path / "set")
    assert opened(tmp_path / "set", tmp_path / "cache").features["label"].names == list(NASTY)
    assert DistilledSet.from_pretrained(tmp_path / "set").classes == NASTY
    body = (tmp_path / "set" / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    assert "\x1b" not in body and "<img" not in body


def test_an_imagefolder_needs_an_image_of_every_class_and_parquet_does_not(tmp_path: Path) -> None:
    distilled = build((*CLASSES, "fox"))
    with pytest.raises(InputError, match="class 'fox' has no image; expected: parquet"):
        export_hub(distilled, tmp_path / "set", layout="imagefolder")
    assert not list(tmp_path.iterdir())
    export_hub(distilled, tmp_path / "set")
    assert opened(tmp_path / "set", tmp_path / "cache").features["label"].names[-1] == "fox"


def test_a_set_is_loaded_from_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    distilled, asked = build(), []
    export_hub(distilled, tmp_path / "snapshot")

    def download(name: str, **options: object) -> str:
        asked.append((name, options["repo_type"], options["revision"], options["allow_patterns"]))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download, raising=False)
    monkeypatch.chdir(tmp_path)
    again = DistilledSet.from_pretrained("owner/name", revision="v1")
    assert torch.equal(again.images, distilled.images)
    assert asked == [("owner/name", "dataset", "v1", ["distilled.safetensors"])]


def test_the_commands_export_show_and_evaluate_a_set_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    words = "distill --data digits --method atom --steps 2 --width 8 --out run"
    assert main(words.split()) == 0
    export = ["show", "run", "--export", "hub", "--to", "set"]
    assert main(export) == 0 and main(export) == 2  # it exists
    assert "set exists" in capsys.readouterr().err
    assert len(opened(tmp_path / "set", tmp_path / "cache")) == 10
    (tmp_path / "set").rename(tmp_path / "snapshot")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: "snapshot", raising=False)
    assert main(["show", "owner/digits"]) == 0
    assert "source         digits" in capsys.readouterr().out and (tmp_path / "digits" / "CARD.md").exists()
    evaluated = "--networks 1 --epochs 1 --width 8 --no-random-real"
    assert main(["evaluate", "owner/digits", *evaluated.split()]) == 0
    assert (tmp_path / "digits" / "evaluation.json").exists()
    assert sorted(p.name for p in (tmp_path / "snapshot").iterdir()) == ["README.md", "data", "distilled.safetensors"]
    assert main(["evaluate", "snapshot", *evaluated.split()]) == 0
    assert (tmp_path / "snapshot" / "evaluation.json").exists()
