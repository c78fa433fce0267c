from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sextet_common.errors import DataWarning, InputError
from subclass_kd import Hierarchy, Part, SubclassSet, load

H = Hierarchy(np.array([0, 1, 0, 1]), tuple("abcd"), ("x", "y"))
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
HEAD = ["Image Name", "Majority Vote Label", "Number of Annotators who Selected SSA (Out of 7)", "Partition"]


def picture(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


def mhist(root: Path, rows: list[list[str]], head: list[str] = HEAD) -> str:
    for row in rows:
        picture(root / "images" / row[0], 20 * int(row[2]) if row[2].isdigit() else 0)
    with (root / "annotations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return f"mhist:{root}"


def votes(each: int = 3) -> list[list[str]]:
    """Rows of every number of votes in both partitions."""
    return [
        [f"MHIST_{part}_{n}_{i}.png", "SSA" if n >= 4 else "HP", str(n), part]
        for part in ("train", "test")
        for n in range(8)
        for i in range(each)
    ]


def test_digits_are_split_in_three_and_their_images_are_the_source_s() -> None:
    from sklearn.datasets import load_digits

    data = load("digits")
    pixels, numbers = load_digits(return_X_y=True)
    known = {row.astype(np.float32).tobytes(): int(number) for row, number in zip(pixels, numbers, strict=True)}
    rows_seen = []
    for part in (data.train, data.validation, data.test):
        assert isinstance(part.images, np.ndarray) and part.images.shape[1:] == (1, 8, 8)
        rows = (part.images * 16).reshape(len(part), 64).astype(np.float32)
        assert [known[row.tobytes()] for row in rows] == part.labels.tolist()
        rows_seen += [row.tobytes() for row in rows]
    assert len(rows_seen) == len(numbers) and len(set(rows_seen)) == len(known)
    assert data.hierarchy.class_labels(np.array([3, 8])).tolist() == [1, 0]
    assert load("digits:half").hierarchy.class_labels(np.arange(10)).tolist() == [0] * 5 + [1] * 5


def test_the_same_rows_are_held_out_every_time_and_from_every_subclass() -> None:
    first, second = load("digits"), load("digits:parity")
    assert np.array_equal(first.validation.labels, second.validation.labels)
    assert np.array_equal(first.validation.images, second.validation.images)
    whole = np.bincount(first.train.labels) + np.bincount(first.validation.labels)
    assert np.abs(np.bincount(first.validation.labels) - 0.15 * whole).max() <= 0.5


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_scarce_keeps_the_share_of_every_subclass(share: float) -> None:
    data = load("digits")
    few = data.scarce(share, seed=3)
    expected = np.maximum(1, np.round(share * np.bincount(data.train.labels)))
    assert np.bincount(few.train.labels).tolist() == expected.tolist()
    assert few.test is data.test and few.validation is data.validation
    assert np.array_equal(few.train.images, data.scarce(share, seed=3).train.images)
    if share < 1:
        assert not np.array_equal(few.train.images, data.scarce(share, seed=4).train.images)
    else:
        assert np.array_equal(few.train.images, data.train.images)


def test_scarce_keeps_the_difficulty_of_its_images() -> None:
    images, labels = np.random.default_rng(0).random((40, 1, 4, 4)), np.arange(40) % 4
    hard = images.mean(axis=(1, 2, 3))
    few = SubclassSet.of((images, labels), (images, labels), H, difficulty=hard).scarce(0.5)
    assert isinstance(few.train.images, np.ndarray) and few.train.difficulty is not None
    np.testing.assert_allclose(few.train.images.mean(axis=(1, 2, 3)), few.train.difficulty, rtol=1e-5)


def test_cifar_10_is_animals_and_vehicles(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 20)):
        blobs = []
        for label in range(count):
            stream = io.BytesIO()
            Image.fromarray(np.full((32, 32, 3), 25 * (label % 10), dtype=np.uint8)).save(stream, "JPEG", quality=95)
            blobs.append(np.frombuffer(stream.getvalue(), dtype=np.uint8))
        order = random.permutation(count)
        np.savez(
            tmp_path / f"c-{part}.npz",
            jpeg=np.concatenate([blobs[i] for i in order]),
            offsets=np.cumsum([0, *(len(blobs[i]) for i in order)]),
            labels=(order % 10).astype(np.uint8),
            classes=np.array(CIFAR),
        )
    data = load(f"npz-jpeg:{tmp_path}/c")
    assert data.input_shape == (3, 32, 32) and data.hierarchy.class_names == ("animal", "vehicle")
    assert data.hierarchy.as_dict()["vehicle"] == ["airplane", "automobile", "ship", "truck"]
    assert isinstance(data.test.images, np.ndarray) and data.test.images.dtype == np.uint8
    assert np.abs(data.test.images.mean(axis=(1, 2, 3)) - 25 * data.test.labels).max() < 3
    with pytest.raises(InputError, match="does not exist"):
        load(f"npz-jpeg:{tmp_path}/d")


def test_folders_two_levels_deep_with_and_without_parts(tmp_path: Path) -> None:
    names = ["cat/persian", "cat/siamese", "dog/poodle"]
    for number, name in enumerate(names):
        for index in range(10):
            picture(tmp_path / "all" / name / f"{index}.png", 80 * number, (9, 5 + index))
            for part in ("train", "test"):
                picture(tmp_path / "parts" / part / name / f"{index}.JPG", 80 * number)
        (tmp_path / "all" / name / "notes.txt").write_text("no image")
    with pytest.warns(DataWarning) as said:
        whole = load(f"folder:{tmp_path / 'all'}", size=6)
    assert tuple(str(warning.message) for warning in said) == whole.notes
    assert "files that are not images are ignored (3: " in whole.notes[0]
    assert "no test images: 6 of 30 images, a fifth of every subclass, are held out" in whole.notes[1]
    assert whole.hierarchy.subclass_names == tuple(names) and whole.hierarchy.class_of.tolist() == [0, 0, 1]
    assert (len(whole.test), len(whole.train) + len(whole.validation)) == (6, 24)
    batch = whole.test.batch(np.arange(6))
    assert batch.shape == (6, 3, 6, 6)
    assert (batch[:, 0].mean(dim=(1, 2)) * 255 / 80).round().int().tolist() == whole.test.labels.tolist()
    parted = load(f"folder:{tmp_path / 'parts'}", size=6)
    assert (len(parted.train), len(parted.validation), len(parted.test)) == (24, 6, 30)
    assert isinstance(parted.test.images, tuple) and "test" in parted.test.images[0].parts
    paths = {path for part in (whole.train, whole.validation, whole.test) for path in part.images}
    assert len(paths) == 30


def test_mhist_s_layout_votes_become_subclasses_and_difficulty(tmp_path: Path) -> None:
    data = load(mhist(tmp_path, votes()), size=8)
    assert data.hierarchy.class_names == ("HP", "SSA")
    assert data.hierarchy.subclass_names == ("HP ambiguous", "HP clear", "SSA ambiguous", "SSA clear")
    assert (len(data.train) + len(data.validation), len(data.test)) == (24, 24)
    assert isinstance(data.train.images, tuple) and data.train.difficulty is not None
    for path, label, hard in zip(data.train.images, data.train.labels, data.train.difficulty, strict=True):
        count = int(path.stem.split("_")[2])
        agreed = max(count, 7 - count)
        assert "train" in path.stem and hard == pytest.approx(1 - agreed / 7)
        expected = ("SSA " if count >= 4 else "HP ") + ("clear" if agreed >= 6 else "ambiguous")
        assert data.hierarchy.subclass_names[label] == expected
    finer = load(f"mhist:{tmp_path}", size=8, scheme="every")
    assert finer.hierarchy.n_subclasses == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].__setitem__(1, "SSA"), r"line 2: label 'SSA' with 0 votes"),
        (lambda rows: rows[1].__setitem__(2, "8"), r"line 3: '8' votes"),
        (lambda rows: rows[1].__setitem__(2, "many"), r"line 3: 'many' votes"),
        (lambda rows: rows[2].__setitem__(3, "dev"), r"line 4: .* partition 'dev'"),
        (lambda rows: rows.__delitem__(slice(24, None)), "no row of one partition"),
    ],
)
def test_a_broken_line_of_mhist_is_named(
    change: Callable[[list[list[str]]], None], message: str, tmp_path: Path
) -> None:
    rows = votes()
    change(rows)
    with pytest.raises(InputError, match=message):
        load(mhist(tmp_path, rows))


def test_missing_files_and_columns_of_mhist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"annotations\.csv does not exist"):
        load(f"mhist:{tmp_path}")
    spec = mhist(tmp_path, votes())
    (tmp_path / "images" / "MHIST_train_0_1.png").unlink()
    with pytest.raises(InputError, match=r"line 3: image 'MHIST_train_0_1\.png' is missing"):
        load(spec)
    with pytest.raises(InputError, match="lacks the column 'Partition'"):
        load(mhist(tmp_path, votes(), [*HEAD[:3], "Fold"]))
    with pytest.raises(InputError, match=r"image '\.\./secret\.png' is missing"):
        (tmp_path / "annotations.csv").write_text(",".join(HEAD) + "\n../secret.png,HP,0,train\n")
        load(spec)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    for name in ("x/a", "y/b"):
        for index in range(6):
            picture(tmp_path / name / f"{index}.png", 9)
    (tmp_path / "x" / "a" / "3.png").write_bytes(b"no image")
    with pytest.warns(DataWarning, match="no test images"):
        data = load(f"folder:{tmp_path}", size=4)
    with pytest.raises(InputError, match=r"3\.png is not an image file"):
        for part in (data.train, data.validation, data.test):
            part.batch(np.arange(len(part)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "unknown data 'digit'; expected: digits, perhaps"),
        ("digits:odd", "unknown data 'digits:odd'"),
        ("mhist", "unknown data 'mhist'; expected: mhist, perhaps"),
        ("folder:{}/none", "is not a folder"),
        ("folder:{}/empty", "has no class folders"),
        ("folder:{}/flat", "flat/x has no image"),
        ("folder:{}/bare", "bare/x has no image"),
        ("folder:{}/loose", "has one image of each subclass"),
        ("folder:{}/half", "half/train/x/b has no image"),
        ("folder:{}/parts", "parts/test/y/b has no image"),
    ],
)
def test_unknown_and_missing_sources_are_refused(spec: str, message: str, tmp_path: Path) -> None:
    for name in ("empty", "flat/x", "bare/x/a", "half/train/x/b", "parts/test/y/b"):
        (tmp_path / name).mkdir(parents=True)
    picture(tmp_path / "loose" / "train" / "x" / "0.png", 1)
    for name in (
        "half/train/x/a",
        "half/test/x/a",
        "half/test/x/b",
        *(f"parts/{p}/y/a" for p in ("train", "test")),
        "parts/train/y/b",
    ):
        for number in range(3):
            picture(tmp_path / name / f"{number}.png", 1)
    with pytest.raises(InputError, match=message):
        load(spec.format(tmp_path))


def test_arrays_that_do_not_fit_are_refused() -> None:
    images, labels = np.zeros((8, 1, 4, 4)), np.arange(8) % 4
    good = (images, labels)
    for train, message in (
        ((images[:, 0], labels), r"images \(8, 4, 4\)"),
        ((images, labels[:7]), r"labels \(7,\)"),
        ((images + 2, labels), "values from 2 to 2"),
        ((images * np.nan, labels), "values from nan"),
        ((images, labels + 1), "subclass label 4"),
        ((images, labels % 3), "subclass 'd' has no training image"),
        ((images[:4], labels[:4]), "has one image of each subclass"),
    ):
        with pytest.raises(InputError, match=message):
            SubclassSet.of(train, good, H)
    with pytest.raises(InputError, match=r"difficulty has shape \(3,\)"):
        SubclassSet.of(good, good, H, difficulty=np.zeros(3))
    with pytest.raises(InputError, match=r"share must be a number in \(0, 1\], got 1\.5"):
        SubclassSet.of(good, good, H).scarce(1.5)
    with pytest.raises(InputError, match="size must be a whole number >= 1, got 0"):
        load("digits", size=0)


def test_other_subclasses_must_be_of_the_same_classes() -> None:
    images, labels = np.random.default_rng(0).random((40, 1, 4, 4)), np.arange(40) % 4
    data = SubclassSet.of((images, labels), (images, labels), H)
    finer = Hierarchy(np.array([0, 0, 1]), ("x0", "x1", "y0"), ("x", "y"))
    classes = data.hierarchy.class_labels(data.train.labels)
    train = np.where(classes == 0, 1, 2)
    held = np.where(data.hierarchy.class_labels(data.validation.labels) == 0, 0, 2)
    other = data.with_subclasses(train, held, finer)
    assert other.hierarchy.n_subclasses == 3
    for part in ("train", "validation", "test"):
        old, new = getattr(data, part), getattr(other, part)
        assert finer.class_labels(new.labels).tolist() == H.class_labels(old.labels).tolist()
    with pytest.raises(InputError, match="another class"):
        data.with_subclasses(2 - train, held, finer)
    with pytest.raises(InputError, match="classes"):
        data.with_subclasses(train, held, Hierarchy(np.array([0, 0, 1]), ("x0", "x1", "y0"), ("x", "z")))


def test_a_part_s_rows_are_its_batches(tmp_path: Path) -> None:
    for value in range(3):
        picture(tmp_path / f"{value}.png", 100 * value)
    part = Part(tuple(tmp_path / f"{value}.png" for value in range(3)), np.array([0, 1, 2]), size=4)
    chosen = part.rows(np.array([2, 0]))
    assert chosen.labels.tolist() == [2, 0]
    assert (chosen.batch([0, 1])[:, 0, 0, 0] * 255).round().int().tolist() == [200, 0]
