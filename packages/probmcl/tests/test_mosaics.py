from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from probmcl import ProbMCL, load
from probmcl.__main__ import main
from probmcl.scenes import mosaics, ring
from sextet_common.data import ImageSet
from sextet_common.errors import InputError

SIZES = (300, 40, 60)


def photographs(dtype: type = np.uint8) -> ImageSet:
    """Images whose pixels are their number (red), their class (green) and their half (blue)."""
    halves = []
    for half, count in enumerate((100, 50)):
        images = np.zeros((count, 3, 6, 6), dtype=np.uint8)
        images[:, 0] = np.arange(count)[:, None, None]
        images[:, 1] = (np.arange(count) % 5)[:, None, None]
        images[:, 2] = 200 + half
        halves += [images if dtype is np.uint8 else (images / 255).astype(dtype), np.arange(count) % 5]
    return ImageSet.of(*halves, tuple("abcde"))


def cells(images: np.ndarray) -> np.ndarray:
    """The four corners' pixels, (mosaics, 4, channels): the blue of a grey background marks the empty ones."""
    return images[:, :, ::11, ::11].reshape(len(images), 3, 4).transpose(0, 2, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_mosaics_labels_are_the_classes_of_its_photographs(dtype: type) -> None:
    data = mosaics(photographs(dtype), sizes=SIZES, background="grey")
    assert data.input_shape == (3, 12, 12) and data.label_names == tuple("abcde") and data.train.inputs.dtype == dtype
    counts = []
    for half, part in ((200, data.train), (200, data.validation), (201, data.test)):
        pixels = cells(np.rint(part.inputs * (255 if dtype is np.float32 else 1)).astype(int))
        shown = pixels[..., 2] >= 200
        assert np.all(pixels[shown][:, 2] == half) and np.all(pixels[~shown] == 128)
        for row, classes, labels in zip(shown, pixels[..., 1], part.labels, strict=True):
            assert np.flatnonzero(labels).tolist() == sorted(set(classes[row].tolist()))
        counts += shown.sum(axis=1).tolist()
    assert np.all(np.bincount(counts, minlength=5)[1:] > 60) and set(counts) == {1, 2, 3, 4}


def test_the_parts_show_different_photographs() -> None:
    data = mosaics(photographs(), sizes=SIZES, background="grey")
    shown = [cells(part.inputs) for part in (data.train, data.validation)]
    train, validation = ({int(pixel[0]) for row in part for pixel in row if pixel[2] == 200} for part in shown)
    assert len(train) == 80 and not train & validation and len(validation) > 15


def test_mosaics_are_the_same_on_every_call_and_depend_on_their_number_alone() -> None:
    first, second, more, other = (
        mosaics(photographs(), sizes=(count, 4, 4), seed=seed) for count, seed in ((12, 0), (12, 0), (20, 0), (12, 1))
    )
    assert np.array_equal(first.train.inputs, second.train.inputs)
    assert np.array_equal(first.train.inputs, more.train.inputs[:12])
    assert np.array_equal(first.train.labels, more.train.labels[:12])
    assert not np.array_equal(first.train.labels, other.train.labels)


def test_classes_come_together_as_the_matrix_says() -> None:
    matrix = np.zeros((5, 5))
    matrix[0, 1], matrix[1, 0], matrix[2, [3, 4]], matrix[[3, 4], 2] = 1, 1, (3, 1), 1
    table = mosaics(photographs(), sizes=(3000, 4, 4), cooccurrence=matrix).train.labels.astype(int)
    together = table.T @ table
    assert np.all(together[np.ix_([0, 1], [2, 3, 4])] == 0) and together[0, 1] > 500
    # The first photograph is of class 2 in a fifth of the mosaics, and 3/4 of the further ones are of class 3 then.
    pairs = table[:, 2] & (table.sum(axis=1) == 2)
    expected = _pairs_of_two_classes(0.75), _pairs_of_two_classes(0.25)
    for other, chance in zip((3, 4), expected, strict=True):
        # First 2 with others all of one class, or first the other, whose further photographs are all of class 2.
        rate = (chance + 0.75) / 5
        assert np.mean(pairs & table[:, other]) == pytest.approx(rate, abs=4 * np.sqrt(rate / 3000))
    ringed = mosaics(photographs(), sizes=(3000, 4, 4)).train.labels.astype(int)
    chances = ring(5) / ring(5).sum(axis=1, keepdims=True)
    for a, b in ((0, 1), (0, 2), (3, 4)):
        rate = np.mean([_both(chances[first], first, a, b) for first in range(5)])
        assert np.mean(ringed[:, a] & ringed[:, b]) == pytest.approx(rate, abs=4 * np.sqrt(rate / 3000))
    assert _both(chances[0], 0, 0, 1) > 1.3 * _both(chances[0], 0, 0, 2)


def _both(chances: np.ndarray, first: int, a: int, b: int) -> float:
    """Probability that classes a and b are both in a mosaic, by inclusion and exclusion over the further ones."""

    def missing(*classes: int) -> float:
        rest = 1 - sum(chances[label] for label in classes)
        return 0.0 if first in classes else float(np.mean([rest**further for further in range(4)]))

    return 1 - missing(a) - missing(b) + missing(a, b)


def _pairs_of_two_classes(chance: float) -> float:
    """Probability that 1 to 3 further photographs, each number with probability 1/4, are all of one class."""
    return sum(chance**further for further in (1, 2, 3)) / 4


def test_the_ring_is_symmetric_and_falls_with_the_distance() -> None:
    matrix = ring(7)
    assert np.array_equal(matrix, matrix.T) and np.all(np.diag(matrix) == 0)
    assert matrix[0].tolist() == [0, 0.5, 0.25, 0.125, 0.125, 0.25, 0.5]


def test_an_empty_cell_shows_the_first_photograph_blurred() -> None:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    data = mosaics(ImageSet.of(images, np.arange(20) % 2, images, np.arange(20) % 2), sizes=(40, 4, 4))
    found = 0
    for mosaic, labels in zip(data.train.inputs, data.train.labels, strict=True):
        corners = [mosaic[:, y : y + 8, x : x + 8] for y in (0, 8) for x in (0, 8)]
        whole = [number for c in corners for number, image in enumerate(images) if np.array_equal(c, image)]
        assert set(np.flatnonzero(labels)) == {number % 2 for number in whole}
        if len(whole) == 1:
            found += 1
            empty = next(c for c in corners if not np.array_equal(c, images[whole[0]]))
            assert empty.std() < 0.7 * images[whole[0]].std()  # smoother
            mean = images[whole[0]].mean(axis=(1, 2))
            canvas = np.stack([c for c in corners if not np.array_equal(c, images[whole[0]])])
            assert np.abs(canvas.mean(axis=(0, 2, 3)) - mean).max() < 60
    assert found > 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (5, 1, 5)}, r"sizes are \(5, 1, 5\); expected: at least 2"),
        ({"background": "black"}, "background must be blurred or grey, got 'black'"),
        ({"cooccurrence": np.ones((4, 4))}, r"cooccurrence has shape \(4, 4\); expected: \(5, 5\)"),
        ({"cooccurrence": np.zeros((5, 5))}, "a row of zeros"),
        ({"cooccurrence": -np.ones((5, 5))}, "negative"),
    ],
)
def test_mosaics_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mosaics(photographs(), **options)


def test_a_class_with_too_few_photographs_is_refused() -> None:
    images, labels = np.zeros((10, 1, 4, 4)), np.array([0] * 9 + [1])
    with pytest.raises(InputError, match=r"no photograph of '1' is left for the train part"):
        mosaics(ImageSet.of(images, labels, images, labels), sizes=(4, 4, 4))


def test_mosaics_are_a_source_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = photographs()
    halves = {"train_images": source.train_images, "train_labels": source.train_labels}
    halves |= {"test_images": source.test_images, "test_labels": source.test_labels}
    np.savez(tmp_path / "p.npz", classes=np.array(list("abcde")), **halves)
    spec = f"mosaics:npz:{tmp_path / 'p.npz'}"
    data = load(spec)
    assert data.source == spec and data.input_shape == (3, 12, 12) and len(data.train) == 2000
    assert load(spec, size=16).input_shape == (3, 16, 16)
    with pytest.raises(InputError, match="size is 15 for mosaics"):
        load(spec, size=15)
    words = [
        "--epochs",
        "1",
        "--classifier-epochs",
        "1",
        "--dim",
        "4",
        "--hidden",
        "8",
        "--width",
        "2",
        "--device",
        "cpu",
    ]
    run = str(tmp_path / "run")
    assert main(["train", "--data", spec, "--out", run, "--batch-size", "400", *words]) == 0
    assert ProbMCL.load(run).label_names == tuple("abcde")
    assert main(["evaluate", run]) == 0 and "AP a:" in capsys.readouterr().out
