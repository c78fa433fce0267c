"""A distilled set: a torch data set, one file that comes back as it was, and a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import ZCA, Preprocessing
from PIL import Image
from sextet_common import checkpoint
from sextet_common.errors import InputError


def preprocessing(whitening: bool = False, channels: int = 3, side: int = 4) -> Preprocessing:
    draw = np.random.default_rng(0)
    zca = ZCA.fit(draw.random((30, channels, side, side), dtype=np.float32)) if whitening else None
    return Preprocessing(torch.linspace(0.4, 0.5, channels), torch.linspace(0.2, 0.3, channels), zca)


def build(ipc: int = 2, whitening: bool = False, soft: bool = False) -> DistilledSet:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(3).repeat_interleave(ipc)
    return DistilledSet(
        torch.randn(3 * ipc, 3, 4, 4, generator=generator),
        labels,
        ("cat", "dog", "eel"),
        preprocessing(whitening),
        {"method": "datadam", "steps": 3, "augment": ["crop"]},
        torch.rand(3 * ipc, 3, generator=generator).softmax(dim=1) if soft else None,
    )


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("whitening", [False, True])
def test_a_saved_set_comes_back_bit_for_bit(tmp_path: Path, whitening: bool, soft: bool) -> None:
    made = build(whitening=whitening, soft=soft)
    made.save(tmp_path / "set.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["set.safetensors"]
    found = DistilledSet.load(tmp_path / "set.safetensors")
    assert torch.equal(found.images, made.images) and torch.equal(found.labels, made.labels)
    assert found.classes == made.classes and found.meta == made.meta
    for name in ("mean", "std"):
        assert torch.equal(getattr(found.preprocessing, name), getattr(made.preprocessing, name))
    assert (found.preprocessing.zca is not None) == whitening
    for name in ("mean", "matrix", "inverse") if whitening else ():
        assert torch.equal(getattr(found.preprocessing.zca, name), getattr(made.preprocessing.zca, name))
    assert torch.equal(found.soft_labels, made.soft_labels) if soft else found.soft_labels is None
    assert np.array_equal(found.pixels(), made.pixels())


def test_pixels_are_the_inverted_preprocessing_clipped() -> None:
    shown = np.array([0.25, 1.5, -0.5], dtype=np.float32)[:, None, None] * np.ones((2, 3, 4, 4), np.float32)
    for whitening in (False, True):
        prepared = preprocessing(whitening)
        made = DistilledSet(prepared(shown), torch.tensor([0, 1]), ("a", "b"), prepared)
        np.testing.assert_allclose(made.pixels(), shown.clip(0, 1), atol=1e-5)


def test_a_set_is_a_data_set_for_torchs_loader() -> None:
    made = build(ipc=5)
    loader = torch.utils.data.DataLoader(made, batch_size=15, shuffle=False)
    images, labels = next(iter(loader))
    assert torch.equal(images, made.images) and torch.equal(labels, made.labels)
    assert (len(made), made.ipc) == (15, 5.0)


def test_a_damaged_file_is_refused_wherever_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "set.safetensors"
    build().save(path)
    whole = path.read_bytes()
    for at in (9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(InputError, match=r"set\.safetensors (is|has)"):
            DistilledSet.load(path)
    path.write_bytes(whole[:-3])
    with pytest.raises(InputError, match="is truncated"):
        DistilledSet.load(path)
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        DistilledSet.load(path)


def test_another_programs_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "other", {"x": np.ones(1)}, {"kind": "policy"})
    with pytest.raises(InputError, match="is a checkpoint of policy; expected: a distilled set"):
        DistilledSet.load(tmp_path / "other")


def test_what_does_not_fit_together_is_refused() -> None:
    def made(n: int = 2, labels: int = 2, top: int = 1, side: int = 4, channels: int = 3) -> DistilledSet:
        images = torch.zeros(n, channels, side, side)
        return DistilledSet(images, torch.full((labels,), top), ("a", "b"), preprocessing(whitening=True))

    made()
    for fault, match in (
        ({"labels": 3}, r"got \(2, 3, 4, 4\) with 3 labels"),
        ({"n": 0, "labels": 0}, "n >= 1"),
        ({"top": 2}, r"labels must be in \[0, 1\], got 2"),
        ({"top": -1}, "got -1"),
        ({"channels": 1}, r"must have shape \(n, 3, height, width\)"),
        ({"side": 5}, "48 values each, as fitted with ZCA"),
    ):
        with pytest.raises(InputError, match=match):
            made(**fault)


def test_soft_labels_are_probabilities_of_every_class() -> None:
    def made(soft: torch.Tensor) -> DistilledSet:
        return DistilledSet(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), ("a", "b"), preprocessing(), {}, soft)

    assert made(torch.tensor([[0.25, 0.75], [1.0, 0.0]]).half().float()).soft_labels is not None
    with pytest.raises(InputError, match=r"soft_labels must have shape \(2, 2\), got \(2, 3\)"):
        made(torch.full((2, 3), 1 / 3))
    for wrong in ([0.5, 0.6], [1.5, -0.5], [float("nan"), 1.0]):
        with pytest.raises(InputError, match=r"soft_labels must be >= 0 and sum to 1, got .* for image 1"):
            made(torch.tensor([[0.5, 0.5], wrong]))


def test_the_picture_has_a_row_per_class_and_a_column_per_class_for_one_image_each(tmp_path: Path) -> None:
    for ipc, (columns, rows) in ((2, (2, 3)), (1, (3, 1))):
        build(ipc).save_grid(tmp_path / "grid.png")
        with Image.open(tmp_path / "grid.png") as picture:
            # 16 screen pixels per image pixel, and a gap of one image pixel around every image
            assert picture.size == (16 * (columns * 5 + 1), 16 * (rows * 5 + 1))
