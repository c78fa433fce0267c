"""Pixels to a network's input and back: standardised channels, and ZCA whitening with its inverse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from attention_matching.images import preprocess, zca as zca_module
from attention_matching.images.preprocess import ZCA, Preprocessing
from sextet_common import data
from sextet_common.errors import InputError


def correlated(count: int = 60, channels: int = 3, side: int = 4, seed: int = 0) -> np.ndarray:
    """Return images whose pixels are correlated, as those of photographs are: in [0, 1]."""
    draw = np.random.default_rng(seed)
    size = channels * side * side
    mixed = draw.normal(size=(count, size)) @ draw.normal(size=(size, size)) * 0.05 + 0.5
    return mixed.clip(0, 1).astype(np.float32).reshape(count, channels, side, side)


def image_set(train: np.ndarray, test: np.ndarray | None = None) -> data.ImageSet:
    labels = np.arange(len(train)) % 2
    return data.ImageSet.of(train, labels, train[:2] if test is None else test, labels[:2])


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return correlated()


@pytest.mark.parametrize("whitening", ["none", "zca"])
def test_pixels_come_back_from_the_networks_input(pixels: np.ndarray, whitening: str) -> None:
    prepared = Preprocessing.fit(image_set(pixels), whitening)
    inputs = prepared(pixels)
    assert inputs.dtype == torch.float32 and inputs.shape == pixels.shape and prepared.whitening == whitening
    back = prepared.invert(inputs)
    assert back.dtype == np.float32
    # Single precision through two products of size 48, whose matrices have norms of about 3: a few 1e-6.
    np.testing.assert_allclose(back, pixels, atol=1e-5)


@pytest.mark.parametrize("whitening", ["none", "zca"])
def test_inputs_come_back_from_their_pixels_though_they_leave_the_range(pixels: np.ndarray, whitening: str) -> None:
    prepared = Preprocessing.fit(image_set(pixels), whitening)
    inputs = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    shown = prepared.invert(inputs)
    assert shown.min() < 0 < 1 < shown.max()  # not clipped
    torch.testing.assert_close(prepared(shown), inputs, atol=1e-5, rtol=0)


def test_without_whitening_every_channel_has_mean_0_and_std_1(pixels: np.ndarray) -> None:
    inputs = Preprocessing.fit(image_set(pixels))(pixels)
    torch.testing.assert_close(inputs.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def in_double_precision(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, matrix and inverse by the formula, with the singular values of the covariance."""
    flat = (pixels / 255.0 if pixels.dtype == np.uint8 else pixels.astype(np.float64)).reshape(len(pixels), -1)
    vectors, values, _ = np.linalg.svd(np.cov(flat, rowvar=False), hermitian=True)
    matrix, inverse = (vectors @ np.diag((values + 0.1) ** power) @ vectors.T for power in (-0.5, 0.5))
    return flat.mean(axis=0), matrix, inverse


def as_bytes(pixels: np.ndarray) -> np.ndarray:
    return (pixels * 255).round().astype(np.uint8)


# 48 pixels: as many images or more go by the covariance, fewer by the Gram matrix.
@pytest.mark.parametrize("count", [2, 3, 20, 47, 48, 49, 300])
@pytest.mark.parametrize("kind", ["floats", "bytes", "memory map"])
def test_the_whitening_is_the_formula_in_double_precision(count: int, kind: str, tmp_path: Path) -> None:
    pixels = correlated(count)
    if kind != "floats":
        pixels = as_bytes(pixels)
    expected = in_double_precision(pixels)
    if kind == "memory map":
        np.save(tmp_path / "images.npy", pixels)
        pixels = np.load(tmp_path / "images.npy", mmap_mode="r")
    zca = ZCA.fit(pixels)
    # Entries are at most 0.1^(-1/2) = 3.2; single precision in the products, double in sums and eigenvectors.
    for received, exact in zip((zca.mean, zca.matrix, zca.inverse), expected, strict=True):
        np.testing.assert_allclose(received, exact, atol=2e-6)


def test_a_strong_common_brightness_costs_no_accuracy() -> None:
    """The largest eigenvalue is 2000 times the constant that is added to all: the worst case of single precision."""
    draw = np.random.default_rng(0)
    brightness = draw.integers(0, 2, size=(600, 1, 1, 1)) * 200
    pixels = (brightness + draw.integers(0, 50, size=(600, 3, 16, 16))).astype(np.uint8)
    _, matrix, inverse = in_double_precision(pixels)
    for chosen in (pixels, pixels[:500]):  # either side of 768
        _, matrix, inverse = in_double_precision(chosen)
        zca = ZCA.fit(chosen)
        np.testing.assert_allclose(zca.matrix, matrix, atol=1e-5)
        np.testing.assert_allclose(zca.inverse, inverse, atol=1e-5)


@pytest.mark.parametrize("whitening", ["none", "zca"])
def test_bytes_give_the_inputs_of_their_floats_bit_for_bit(pixels: np.ndarray, whitening: str, tmp_path: Path) -> None:
    raw = as_bytes(pixels)
    raw[:6].reshape(-1)[:256] = np.arange(256)  # every level
    np.save(tmp_path / "raw.npy", raw)
    floats = raw.astype(np.float32) / np.float32(255)
    prepared = Preprocessing.fit(image_set(floats), whitening)
    expected = prepared(floats)
    mapped = np.load(tmp_path / "raw.npy", mmap_mode="r")
    for given in (raw, mapped, torch.tensor(raw), torch.tensor(floats), floats.astype(np.float64)):
        assert torch.equal(prepared(given), expected)
    if whitening == "none":
        mean, std = prepared.mean.numpy()[:, None, None], prepared.std.numpy()[:, None, None]
        assert np.array_equal(expected.numpy(), (floats - mean) / std)
    with pytest.raises(InputError, match=r"pixels must be uint8 in 0..255 or floats in \[0, 1\], got int64"):
        prepared(raw.astype(np.int64))


def test_whitened_images_have_the_covariance_that_the_eigenvalues_say(pixels: np.ndarray) -> None:
    flat = pixels.reshape(len(pixels), -1).astype(np.float64)
    values = np.linalg.eigvalsh(np.cov(flat, rowvar=False))
    white = Preprocessing.fit(image_set(pixels), "zca")(pixels).flatten(1).double().numpy()
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-5)
    # An eigenvalue s becomes s / (s + 0.1): near 1 where there is contrast, near 0 where there is none.
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(white, rowvar=False)), values / (values + 0.1), atol=1e-5)


def test_kornia_whitens_the_same_way(pixels: np.ndarray) -> None:
    enhance = pytest.importorskip("kornia.enhance", exc_type=ImportError)
    theirs = enhance.ZCAWhitening(eps=0.1, compute_inv=True).fit(torch.tensor(pixels))
    ours = Preprocessing.fit(image_set(pixels), "zca")
    new = correlated(7, seed=1)
    # Theirs is a singular value decomposition in single precision.
    torch.testing.assert_close(ours(new), theirs(torch.tensor(new)), atol=1e-4, rtol=0)
    inputs = ours(new)
    np.testing.assert_allclose(ours.invert(inputs), theirs.inverse_transform(inputs).numpy(), atol=1e-4)


@pytest.mark.parametrize("whitening", ["none", "zca"])
def test_neither_test_images_nor_other_images_of_a_batch_change_an_image(pixels: np.ndarray, whitening: str) -> None:
    first = Preprocessing.fit(image_set(pixels), whitening)
    other = Preprocessing.fit(image_set(pixels, test=1 - pixels[:2]), whitening)
    new = correlated(3, seed=1)
    torch.testing.assert_close(first(new), other(new), atol=0, rtol=0)
    torch.testing.assert_close(first(new)[1:2], first(new[1:2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        first(new)[1:2], first(np.zeros((3, 3, 4, 4), np.float32) + new[1])[:1], atol=1e-5, rtol=0
    )


def test_the_size_of_the_blocks_changes_nothing(pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Preprocessing.fit(image_set(pixels), "zca")
    monkeypatch.setattr(preprocess, "_BLOCK", 7)
    monkeypatch.setattr(zca_module, "_VALUES", 7 * 48)
    blocked = Preprocessing.fit(image_set(pixels), "zca")
    torch.testing.assert_close(blocked(pixels), whole(pixels), atol=1e-5, rtol=0)
    np.testing.assert_allclose(blocked.invert(blocked(pixels)), pixels, atol=1e-5)


@pytest.mark.parametrize("whitening", ["none", "zca"])
def test_what_is_handed_in_is_left_as_it_is(pixels: np.ndarray, whitening: str) -> None:
    prepared = Preprocessing.fit(image_set(pixels), whitening)
    given, inputs = pixels.copy(), torch.randn(2, 3, 4, 4, requires_grad=True)
    before = inputs.detach().clone()
    prepared(given)
    prepared.invert(inputs)
    assert np.array_equal(given, pixels) and torch.equal(inputs.detach(), before)


def test_constant_and_few_images_can_be_whitened() -> None:
    prepared = Preprocessing.fit(image_set(np.full((2, 1, 3, 3), 0.25, dtype=np.float32)), "zca")
    # All eigenvalues are 0, so the matrix is 0.1^(-1/2) times the identity.
    torch.testing.assert_close(prepared.zca.matrix, torch.eye(9) / 0.1**0.5, atol=1e-5, rtol=0)


def test_images_too_large_to_whiten_are_refused_with_the_memory_and_the_remedy() -> None:
    large = np.broadcast_to(np.float32(0), (2, 3, 65, 65))
    message = r"at most 12288 values .*, got 12675, .* about 4 GiB of memory; expected: .* or no whitening"
    with pytest.raises(InputError, match=message):
        ZCA.fit(large)
    with pytest.raises(InputError, match="ZCA whitening needs at least 2 images, got 1"):
        ZCA.fit(large[:1, :, :4, :4])


def test_what_does_not_fit_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(InputError, match="whitening must be none or zca, got 'pca'"):
        Preprocessing.fit(image_set(pixels), "pca")
    plain, white = (Preprocessing.fit(image_set(pixels), kind) for kind in ("none", "zca"))
    for prepared in (plain, white):
        with pytest.raises(InputError, match=r"images must have shape \(n, 3, height, width\), got \(2, 1, 4, 4\)"):
            prepared(np.zeros((2, 1, 4, 4), np.float32))
        with pytest.raises(InputError, match=r"got \(3, 4, 4\)"):
            prepared.invert(torch.zeros(3, 4, 4))
    assert plain(np.zeros((2, 3, 8, 8), np.float32)).shape == (2, 3, 8, 8)
    with pytest.raises(InputError, match=r"48 values each, as fitted with ZCA, got shape \(2, 3, 8, 8\)"):
        white(np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(InputError, match=r"one number per channel, got shapes \(2,\) and \(3,\)"):
        Preprocessing(torch.zeros(2), torch.ones(3))
    with pytest.raises(InputError, match="std must be > 0, got 0"):
        Preprocessing(torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(InputError, match="a ZCA must have shapes"):
        ZCA(torch.zeros(4), torch.zeros(4, 4), torch.zeros(3, 3))
