"""The released sets of the examples are what their cards, pictures and checksums say, and can be made again."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.distill import Distiller
from attention_matching.export.card import data_card
from attention_matching.images.distilled import DistilledSet
from PIL import Image
from sextet_common.data import DataOptions
from sextet_common.errors import InputError

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("remake_sets", EXAMPLES / "remake_sets.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(script: ModuleType, sets: Path, scratch: Path) -> list[str]:
    """Check every set of a folder and return their names."""
    paths = sorted(sets.glob("*.safetensors"))
    assert [path.name for path in paths] == sorted(script.sums(sets))
    for path in paths:
        assert path.stat().st_size < 2_000_000 and script.digest_of(path) == script.sums(sets)[path.name]
        distilled = DistilledSet.load(path)  # refuses other kinds of files, and wrong checksums
        assert distilled.preprocessing.zca is None and "/" not in distilled.meta["data"]
        card = path.with_suffix(".md").read_text()
        assert card.partition("## Accuracy")[0] == data_card(distilled).partition("## Accuracy")[0]
        distilled.save_grid(scratch / "again.png")
        with Image.open(path.with_suffix(".png")) as picture, Image.open(scratch / "again.png") as again:
            assert np.array_equal(np.asarray(picture), np.asarray(again))
        assert script.config_of(distilled).method == distilled.meta["method"]
    return [path.stem for path in paths]


def test_every_released_set_is_small_and_what_its_card_and_picture_say(script: ModuleType, tmp_path: Path) -> None:
    check(script, EXAMPLES / "sets", tmp_path)


@pytest.fixture(scope="module")
def released(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    (folder / "sets").mkdir()
    for whitening in ("none", "zca"):
        config = DistillConfig(steps=3, width=8, whitening=whitening)
        Distiller(config).fit("digits", folder / whitening)
        script.release(folder / whitening, whitening, "scikit-learn's digits", folder / "sets")
    return folder / "sets"


def test_a_released_set_passes_and_a_changed_one_does_not(script: ModuleType, released: Path, tmp_path: Path) -> None:
    assert check(script, released, tmp_path) == ["none", "zca"]
    with pytest.raises(InputError, match="exists; expected: another name"):
        script.release(released.parent / "zca", "zca", "digits", released)
    picture = released / "none.png"
    kept = picture.read_bytes()
    picture.write_bytes((released / "zca.png").read_bytes())
    with pytest.raises(AssertionError):
        check(script, released, tmp_path)
    picture.write_bytes(kept)


def test_released_sets_are_made_again_bit_identically(
    script: ModuleType, released: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert script.remake(DataOptions(data="digits"), sets=released) == 0
    assert capsys.readouterr().out == "none.safetensors: identical\nzca.safetensors: identical\n"
    fit = Distiller.fit
    monkeypatch.setattr(Distiller, "fit", lambda self, data: moved(fit(self, data)))
    assert script.remake(DataOptions(data="digits"), ("none",), released) == 1
    assert capsys.readouterr().out == "none.safetensors: different by up to 3.0 grey levels\n"


def moved(distilled: DistilledSet) -> DistilledSet:
    """Move one pixel by three grey levels."""
    pixels = torch.from_numpy((distilled.pixels() * 255).round())
    value = pixels[0, 0, 4, 4]
    value += 3 if value < 128 else -3
    inputs = distilled.preprocessing((pixels / 255).float())
    return DistilledSet(inputs, distilled.labels, distilled.classes, distilled.preprocessing)
