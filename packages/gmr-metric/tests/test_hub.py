"""A mixture for the Hugging Face Hub comes back bit-identically, and its card is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gmr_metric.__main__ import main
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.interop.hub import export_hub
from sextet_common.errors import InputError


def assert_same(first: GaussianMixture, second: GaussianMixture) -> None:
    for name in ("weights", "means", "covariances"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_an_exported_mixture_comes_back_bit_identically(make, tmp_path: Path) -> None:
    mixture = make(1, 10, 3)
    export_hub(mixture, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["README.md", "mixture.safetensors"]
    assert_same(GaussianMixture.from_pretrained(tmp_path / "out"), mixture)


def test_any_reader_of_safetensors_opens_the_arrays(make, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    mixture = make(1, 4, 2)
    export_hub(mixture, tmp_path / "out")
    arrays = load_file(tmp_path / "out" / "mixture.safetensors")
    np.testing.assert_array_equal(arrays["covariances"], mixture.covariances)
    assert set(arrays) == {"weights", "means", "covariances"}


def test_the_card_is_a_model_card(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    export_hub(make(1, 10, 3), tmp_path / "out", license="mit")
    card = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.license, card.data.library_name) == ("mit", "gmr-metric")
    assert "10 components in 3 dimensions" in card.text


def test_the_commands_write_a_folder_and_take_one_or_a_repository(
    make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    make(1, 6, 2).save("mixture.json")
    export = ["export", "mixture.json", "--to", "out"]
    assert main(export) == 0 and main(export) == 2
    assert "out exists" in capsys.readouterr().err
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: "out", raising=False)
    assert main(["distance", "out", "mixture.json"]) == 0 and main(["distance", "owner/name", "mixture.json"]) == 0
    first, second = capsys.readouterr().out.split()
    assert float(first) == float(second) < 1e-7
    assert main(["reduce", "out", "-k", "2", "--out", "reduced.safetensors"]) == 0
    assert len(GaussianMixture.load("reduced.safetensors")) == 2


def test_a_damaged_or_missing_file_is_one_line(make, tmp_path: Path) -> None:
    export_hub(make(1, 4, 2), tmp_path / "out")
    file = tmp_path / "out" / "mixture.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InputError, match="truncated"):
        GaussianMixture.from_pretrained(tmp_path / "out")
    file.unlink()
    with pytest.raises(InputError, match="does not exist"):
        GaussianMixture.from_pretrained(tmp_path / "out")
