"""Real images as network inputs, batch by batch: the same numbers as all at once, without their memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from attention_matching import DistillConfig, Distiller, EvaluateConfig, evaluate_random_real, evaluate_whole, select
from attention_matching.images import inputs as inputs_module
from attention_matching.images.inputs import RealInputs
from attention_matching.images.preprocess import Preprocessing
from sextet_common import data
from sextet_common.errors import InputError


@pytest.fixture(scope="module")
def raw() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(50, 3, 4, 4), dtype=np.uint8)


def image_set(images: np.ndarray) -> data.ImageSet:
    labels = np.arange(len(images)) % 2
    return data.ImageSet.of(images, labels, images[:2], labels[:2])


@pytest.mark.parametrize("kind", ["bytes", "floats", "memory map"])
@pytest.mark.parametrize("whitening", ["none", "zca"])
@pytest.mark.parametrize("kept", [True, False])
def test_it_is_indexed_and_split_like_the_tensor_of_all(
    raw: np.ndarray, kind: str, whitening: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr(inputs_module, "_WHITENED_BYTES", 50 * 48 * 4 - 1)
    images = raw
    if kind == "floats":
        images = data.to_float(raw)
    elif kind == "memory map":
        np.save(tmp_path / "raw.npy", raw)
        images = np.load(tmp_path / "raw.npy", mmap_mode="r")
    prepared = Preprocessing.fit(image_set(images), whitening)
    everything = prepared(raw)
    if whitening == "none":  # by NumPy alone
        mean, std = prepared.mean.numpy()[:, None, None], prepared.std.numpy()[:, None, None]
        assert np.array_equal(everything.numpy(), (raw.astype(np.float32) / np.float32(255) - mean) / std)
    lazy = RealInputs(images, prepared)
    assert (len(lazy), lazy.shape, lazy.device.type) == (50, everything.shape, "cpu")
    # A product with a matrix may round differently in another batch: entries of about 1, a few units of 1e-7.
    tolerance = 0 if whitening == "none" else 2e-6
    indices = [torch.tensor([3, 3, 0]), torch.tensor([[1, 2], [49, 0]]), torch.arange(50) > 30, slice(5, 8)]
    for index in indices:
        torch.testing.assert_close(lazy[index], everything[index], atol=tolerance, rtol=0)
    parts = list(lazy.split(16))
    assert [len(part) for part in parts] == [16, 16, 16, 2]
    torch.testing.assert_close(torch.cat(parts), everything, atol=tolerance, rtol=0)
    rows = np.array([7, 1, 7])
    torch.testing.assert_close(RealInputs(images, prepared, rows)[:], everything[rows], atol=tolerance, rtol=0)
    assert lazy.to("cpu") is lazy
    assert lazy.resident == (kind != "memory map" or (whitening == "zca" and kept))


def test_the_inputs_of_a_batch_are_its_own_memory(raw: np.ndarray) -> None:
    for whitening in ("none", "zca"):
        lazy = RealInputs(raw, Preprocessing.fit(image_set(raw), whitening))
        before = lazy[torch.tensor([0])].clone()
        lazy[torch.tensor([0])].zero_()
        assert torch.equal(lazy[torch.tensor([0])], before)


def test_images_of_another_shape_are_refused(raw: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"images must have shape \(n, 3, height, width\), got \(50, 1, 4, 4\)"):
        RealInputs(raw[:, :1], Preprocessing.fit(image_set(raw)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_an_accelerator_gives_the_inputs_of_the_cpu_bit_for_bit(
    raw: np.ndarray, fits: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fits:
        monkeypatch.setattr(inputs_module, "_room", lambda device: 0)
    images = raw if kind is np.uint8 else data.to_float(raw)
    prepared = Preprocessing.fit(image_set(images))
    lazy = RealInputs(images, prepared).to("cuda")
    assert lazy.resident == fits
    index = torch.arange(50, device="cuda").flip(0)
    assert lazy[index].is_cuda
    assert torch.equal(lazy[index].cpu(), prepared(raw).flip(0))
    white = Preprocessing.fit(image_set(images), "zca")
    torch.testing.assert_close(RealInputs(images, white, device="cuda")[index].cpu(), white(raw).flip(0))


def test_a_set_of_bytes_a_memory_map_and_a_torch_dataset_give_the_results_of_its_floats(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(40) % 2
    raw = (draw.integers(0, 128, size=(40, 1, 8, 8)) + 127 * labels[:, None, None, None]).astype(np.uint8)
    np.save(tmp_path / "raw.npy", raw)
    tensors = torch.utils.data.TensorDataset(torch.tensor(raw), torch.tensor(labels))
    sources = [
        data.ImageSet.of(data.to_float(raw), labels, data.to_float(raw), labels),
        data.ImageSet.of(raw, labels, raw, labels),
        data.ImageSet.of(np.load(tmp_path / "raw.npy", mmap_mode="r"), labels, raw, labels),
        {"train": tensors, "test": tensors},
    ]
    config = DistillConfig(steps=2, width=4, real_batch=8, device="cpu")
    quick = EvaluateConfig(networks=1, epochs=2, width=4, device="cpu", choose="held-out", held_out=0.2)
    results = []
    for source in sources:
        images = Distiller(config).fit(source).images
        chosen = [select(method, source, 2).images for method in ("random", "k-centre", "herding")]
        accuracies = [evaluate_random_real(source, 1, quick), evaluate_whole(source, quick)]
        results.append((torch.cat([images, *chosen]), accuracies))
    for images, accuracies in results[1:3]:
        assert torch.equal(images, results[0][0]) and accuracies == results[0][1]
    # The statistics of a data set are computed in another order: the same up to rounding.
    torch.testing.assert_close(results[3][0], results[1][0])
