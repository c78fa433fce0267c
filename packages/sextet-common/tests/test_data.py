from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from sextet_common import data, pixels as arrays
from sextet_common.__main__ import main
from sextet_common.errors import DataWarning, InputError


def write_image(path: Path, value: int, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 255)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                write_image(tmp_path / part / name / f"{number}.png", 100 * label + number)
    return tmp_path


def test_the_digits_have_a_fixed_split() -> None:
    found = data.load("digits")
    assert found.train_images.shape == (1437, 1, 8, 8) and found.test_images.shape == (360, 1, 8, 8)
    assert found.train_images.dtype == np.float32 and found.classes == tuple("0123456789")
    content = hashlib.sha256(found.test_images.tobytes() + found.test_labels.tobytes()).hexdigest()
    assert content == "8110e5c2c9d024b578f2c2692341cc0a635dc6f45899bb78b73bbee43d45a90f"
    share = np.bincount(found.test_labels) / np.bincount(np.r_[found.train_labels, found.test_labels])
    assert np.abs(share - 0.2).max() < 0.01  # stratified


def test_the_statistics_are_those_of_the_training_pixels() -> None:
    found = data.load("digits")
    assert found.mean[0] == pytest.approx(found.train_images.astype(np.float64).mean())
    assert found.std[0] == pytest.approx(found.train_images.astype(np.float64).std())


def test_the_arrays_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        data.load("digits").train_images[0] = 1


def test_a_folder_with_a_split_keeps_it(folder: Path) -> None:
    for spec in (f"folder:{folder}", str(folder), folder):
        found = data.load(spec)
        assert found.classes == ("cat", "dog") and found.image_shape == (3, 4, 6)
        assert found.train_labels.tolist() == [0, 0, 0, 1, 1, 1] and len(found.test_labels) == 4
        assert found.train_images.dtype == np.uint8 and not found.notes
        np.testing.assert_array_equal(found.train_images[:, 0, 0, 0], [0, 1, 2, 100, 101, 102])
        np.testing.assert_array_equal(found.train_images[:, 2], 255)


def test_a_folder_without_a_split_holds_out_a_fifth_of_every_class(tmp_path: Path) -> None:
    for name, count in (("a", 10), ("b", 2)):
        for number in range(count):
            write_image(tmp_path / name / f"{number:02}.png", number)
    with pytest.warns(
        DataWarning, match=r"no test images: 3 of 12 images, a fifth of every class, are held out"
    ) as said:
        found, again = data.load(str(tmp_path)), data.load(str(tmp_path))
    assert [str(warning.message) for warning in said] == [*found.notes, *again.notes] and len(found.notes) == 1
    assert np.bincount(found.train_labels).tolist() == [8, 1] and np.bincount(found.test_labels).tolist() == [2, 1]
    np.testing.assert_array_equal(found.test_images, again.test_images)
    both = np.r_[found.train_images[found.train_labels == 0], found.test_images[found.test_labels == 0]][:, 0, 0, 0]
    assert sorted(both) == list(range(10))


def test_images_of_different_sizes_are_cropped_on_request(folder: Path) -> None:
    write_image(folder / "train" / "cat" / "9.png", 50, size=(20, 10))
    assert data.load(str(folder), size=4).image_shape == (3, 4, 4)


def test_every_error_in_a_folder_names_the_file(folder: Path, tmp_path: Path) -> None:
    def fails(match: str) -> None:
        with pytest.raises(InputError, match=match):
            data.load(f"folder:{folder}")

    odd = folder / "test" / "dog" / "odd.png"
    write_image(odd, 1, size=(7, 4))
    fails(r"odd\.png is 7x4, .*0\.png is 6x4; expected: images of one size, or --size N")
    odd.write_bytes(b"\x89PNG\r\n\x1a\n torn")
    fails(r"odd\.png is not an image file that can be read")
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "png")
    odd.write_bytes(whole.getvalue()[:-2000])
    fails(r"odd\.png cannot be read")
    odd.unlink()
    (folder / "train" / "empty").mkdir()
    fails(r"empty has no image")
    write_image(folder / "train" / "empty" / "0.png", 1)
    fails(r"class 'empty' is not in both")
    with pytest.raises(InputError, match="is not a folder"):
        data.load("folder:/nowhere/at/all")
    (tmp_path / "void").mkdir()
    with pytest.raises(InputError, match="has no class folders"):
        data.load(f"folder:{tmp_path / 'void'}")
    write_image(tmp_path / "void" / "only" / "one.png", 3)
    with pytest.raises(InputError, match="class 'only' has 1 image"):
        data.load(f"folder:{tmp_path / 'void'}")
    with pytest.raises(InputError, match="size must be a whole number >= 1, got 0"):
        data.load(f"folder:{folder}", size=0)


LAYOUTS = {"nhw": (5, 6), "nchw": (3, 5, 6), "nhwc": (5, 6, 3)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_an_npz_is_read_in_any_usual_layout(tmp_path: Path, layout: str, dtype: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, *LAYOUTS[layout])).astype("uint8")
    stored = pixels if dtype == "uint8" else (pixels / 255).astype(dtype)
    labels = np.array([[0], [1], [1], [0]], dtype=np.uint8)
    np.savez(tmp_path / "x.npz", train_images=stored, train_labels=labels, test_images=stored, test_labels=labels)
    found = data.load(f"npz:{tmp_path / 'x.npz'}")
    channels_first = np.moveaxis(pixels, 3, 1) if layout == "nhwc" else pixels.reshape(4, -1, 5, 6)
    assert found.train_images.dtype == (np.uint8 if dtype == "uint8" else np.float32)
    np.testing.assert_allclose(data.to_float(found.train_images), channels_first / 255, atol=1e-7)
    assert found.train_labels.tolist() == [0, 1, 1, 0] and found.classes == ("0", "1")
    assert data.load(str(tmp_path / "x.npz")).source == f"npz:{tmp_path / 'x.npz'}"


def test_every_error_in_an_npz_names_the_file(tmp_path: Path) -> None:
    good = {
        "train_images": np.zeros((2, 4, 4), np.uint8),
        "train_labels": np.array([0, 1]),
        "test_images": np.zeros((1, 4, 4), np.uint8),
        "test_labels": np.array([1]),
    }
    faults = {
        "label 2 of image 0 is out of range; expected: 0 to 1": {"test_labels": np.array([2])},
        "label -1 of image 1 is out of range": {"train_labels": np.array([0, -1])},
        "class '1' has no training image": {"train_labels": np.array([0, 2]), "test_labels": np.array([0])},
        "2 images and 3 labels": {"train_labels": np.array([0, 1, 1])},
        "labels of float64": {"train_labels": np.array([0.0, 1.0])},
        "images of int64": {"train_images": np.zeros((2, 4, 4), np.int64)},
        "image 1 has values outside": {"train_images": np.stack([np.zeros((4, 4)), np.full((4, 4), np.nan)])},
        "images of shape": {"train_images": np.zeros((2, 0, 4, 4), np.uint8)},
        "training images are": {"test_images": np.zeros((1, 5, 4), np.uint8)},
        "has no training image": {"train_images": np.zeros((0, 4, 4), np.uint8), "train_labels": np.zeros(0, int)},
    }
    path = tmp_path / "bad.npz"
    for match, fault in faults.items():
        np.savez(path, **{**good, **fault})
        with pytest.raises(InputError, match=match) as raised:
            data.load(f"npz:{path}")
        assert "bad.npz" in str(raised.value)
    np.savez(path, **{name: array for name, array in good.items() if name != "test_labels"})
    with pytest.raises(InputError, match=r"bad\.npz has no array 'test_labels'"):
        data.load(f"npz:{path}")
    np.savez(path, **{**good, "classes": np.array([object()], dtype=object)})
    with pytest.raises(InputError, match=r"bad\.npz cannot be read"):
        data.load(f"npz:{path}")
    with pytest.raises(InputError, match=r"none\.npz does not exist"):
        data.load(f"npz:{tmp_path / 'none.npz'}")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_npz_never_raises_anything_else(tmp_path_factory, drawn: st.DataObject) -> None:
    buffer = io.BytesIO()
    images, labels = np.zeros((2, 2, 2), np.uint8), np.array([0, 1])
    np.savez(buffer, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    raw = bytearray(buffer.getvalue())
    for _ in range(drawn.draw(st.integers(1, 6))):
        raw[drawn.draw(st.integers(0, len(raw) - 1))] = drawn.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("n") / "x.npz"
    path.write_bytes(raw[: drawn.draw(st.integers(0, len(raw)))] if drawn.draw(st.booleans()) else raw)
    try:
        data.load(f"npz:{path}")
    except InputError as error:
        assert "x.npz" in str(error)


def jpegs(path: Path, count: int, *, sizes: tuple[int, ...] = (8,), **changed: np.ndarray) -> None:
    encoded = []
    for number in range(count):
        buffer = io.BytesIO()
        side = sizes[number % len(sizes)]
        Image.new("RGB", (side, side), (20 * number, 128, 0)).save(buffer, "jpeg", quality=95)
        encoded.append(buffer.getvalue())
    arrays = {
        "jpeg": np.frombuffer(b"".join(encoded), np.uint8),
        "offsets": np.cumsum([0, *map(len, encoded)]),
        "labels": (np.arange(count) % 2).astype(np.uint8),
        "classes": np.array(["even", "odd"]),
    }
    np.savez(path, **{**arrays, **changed})


def test_a_pair_of_jpeg_archives_is_decoded(tmp_path: Path) -> None:
    jpegs(tmp_path / "set-train.npz", 6)
    jpegs(tmp_path / "set-test.npz", 4)
    found = data.load(f"npz-jpeg:{tmp_path / 'set'}")
    assert found.classes == ("even", "odd") and found.train_labels.tolist() == [0, 1, 0, 1, 0, 1]
    np.testing.assert_allclose(found.train_images[:, 0, 4, 4], 20.0 * np.arange(6), atol=3)  # JPEG's loss
    assert len(found.test_labels) == 4


def test_every_error_in_a_jpeg_archive_names_the_file(tmp_path: Path) -> None:
    jpegs(tmp_path / "set-test.npz", 4)
    train = tmp_path / "set-train.npz"
    jpegs(train, 3, offsets=np.array([0, 10, 20]))
    with pytest.raises(InputError, match=r"set-train\.npz: offsets do not cut jpeg"):
        data.load(f"npz-jpeg:{tmp_path / 'set'}")
    jpegs(train, 3, sizes=(8, 16))
    with pytest.raises(
        InputError, match=r"image 1 of .*set-train\.npz is .*; expected: images of one type and shape, or size=N"
    ):
        data.load(f"npz-jpeg:{tmp_path / 'set'}")
    jpegs(train, 3)
    with np.load(train) as archive:
        arrays = dict(archive)
    arrays["jpeg"] = arrays["jpeg"].copy()
    arrays["jpeg"][arrays["offsets"][1] : arrays["offsets"][1] + 20] = 0
    np.savez(train, **arrays)
    with pytest.raises(InputError, match=r"image 1 of .*set-train\.npz is not an image file that can be read"):
        data.load(f"npz-jpeg:{tmp_path / 'set'}")


def test_a_source_whose_test_part_is_empty_is_split(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3)).astype(np.uint8)
    labels = np.arange(10) % 2
    test = {"test_images": pixels[:0], "test_labels": labels[:0]}
    np.savez(tmp_path / "x.npz", train_images=pixels, train_labels=labels, **test)
    with pytest.warns(DataWarning, match="no test images: 2 of 10 images"):
        found = data.load(tmp_path / "x.npz")
    assert np.bincount(found.test_labels).tolist() == [1, 1] and found.test_images.shape == (2, 3, 4, 4)


def test_as_many_labels_as_encoded_files_are_needed(tmp_path: Path) -> None:
    jpegs(tmp_path / "set-test.npz", 4)
    for wrong in (3, 7):
        jpegs(tmp_path / "set-train.npz", 6, labels=np.arange(wrong) % 2)
        with pytest.raises(InputError, match=f"set, training: 6 images and {wrong} labels"):
            data.load(f"npz-jpeg:{tmp_path / 'set'}")


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(header + array.tobytes())


def test_a_torchvision_set_on_disk_is_read_and_only_downloaded_on_request(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mnist:.* cannot be read: .*; expected: the data on disk, or --download"):
        data.load(f"mnist:{tmp_path}")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype(np.uint8)
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(20) % 10).astype(np.uint8))
    found = data.load(f"mnist:{tmp_path}")
    assert found.image_shape == (1, 28, 28) and len(found.classes) == 10
    np.testing.assert_array_equal(found.train_images[:, 0], pixels)


@pytest.mark.parametrize(("kind", "label_key"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
def test_cifar_is_read_in_its_own_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, label_key: str
) -> None:
    from torchvision.datasets import CIFAR10, CIFAR100, cifar

    # torchvision checks the published files' hashes; these are small ones of the same layout.
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: Path(path).exists())
    made = {"cifar10": CIFAR10, "cifar100": CIFAR100}[kind]
    folder = tmp_path / made.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (10, 3, 32, 32)).astype(np.uint8)
    for name, _ in (*made.train_list, *made.test_list):
        batch = {"data": pixels.reshape(10, -1), label_key: list(range(10))}
        (folder / name).write_bytes(pickle.dumps(batch))
    names = [f"name {k}" for k in range(10)]
    (folder / made.meta["filename"]).write_bytes(pickle.dumps({made.meta["key"]: names}))
    found = data.load(f"{kind}:{tmp_path}")
    assert found.image_shape == (3, 32, 32) and found.classes == tuple(names)
    np.testing.assert_array_equal(found.train_images[:10], pixels)
    assert found.test_labels.tolist() == list(range(10))


def test_svhn_is_read_in_its_own_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision.datasets import svhn

    monkeypatch.setattr(svhn, "check_integrity", lambda path, md5=None: Path(path).exists())
    pixels = np.random.default_rng(2).integers(0, 256, (10, 3, 32, 32)).astype(np.uint8)
    labels = np.array([10, *range(1, 10)])  # SVHN writes the digit 0 as 10
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels.transpose(2, 3, 1, 0), "y": labels[:, None]})
    found = data.load(f"svhn:{tmp_path}")
    np.testing.assert_array_equal(found.train_images, pixels)
    assert found.train_labels.tolist() == list(range(10))


@pytest.mark.parametrize("spec", ["", "nothing", "digits:3", "cifar10", "folder:", "npz:", "imagenet:/x"])
def test_an_unknown_source_lists_the_accepted_ones(spec: str) -> None:
    with pytest.raises(InputError, match="digits, folder:PATH, npz:PATH"):
        data.load(spec)


def test_a_huge_label_is_refused_without_creating_as_many_class_names() -> None:
    pixels = np.zeros((2, 4, 4), dtype=np.uint8)
    with pytest.raises(InputError, match="class '1' has no training image"):
        data.ImageSet.of(pixels, np.array([0, 2**62]), pixels, np.array([0, 0]))


def test_only_listed_formats_are_decoded_regardless_of_the_file_name(folder: Path) -> None:
    for form, taken in (("JPEG", True), ("TGA", False), ("EPS", False)):  # Pillow hands EPS to another program
        Image.new("RGB", (6, 4)).save(folder / "train" / "cat" / "0.png", form)
        if taken:
            assert data.load(str(folder)).image_shape == (3, 4, 6)
        else:
            with pytest.raises(InputError, match=r"0\.png is not an image file that can be read"):
                data.load(str(folder))


def test_an_image_that_claims_far_more_pixels_than_its_file_can_hold_is_refused_before_decoding(folder: Path) -> None:
    path = folder / "train" / "cat" / "0.png"
    Image.new("1", (6000, 6000)).save(path)
    assert path.stat().st_size < 20_000
    with pytest.raises(InputError, match=r"0\.png unpacks to 108000000 bytes"):
        data.load(str(folder), size=4)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_statistics_in_blocks_are_those_of_numpy_in_float64(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_BLOCK", 300)
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5)).astype(np.uint8)
    images[:, 1] = 7  # a constant channel
    images[:, 2] //= 3
    values = images.astype(np.float32) / np.float32(255)
    mean, std = arrays.statistics(images if dtype == "uint8" else values)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 2, 3)), rtol=1e-7)
    expected = exact.std(axis=(0, 2, 3))
    np.testing.assert_allclose(std, [expected[0], 1, expected[2]], rtol=1e-7)
    values[41, 0, 0, 0] = 1.5
    with pytest.raises(InputError, match=r"image 41 has values outside \[0, 1\]"):
        data.ImageSet.of(values, np.arange(50) % 2, values, np.arange(50) % 2)


@pytest.mark.parametrize("layout", ["channels first", "channels last"])
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_loading_bytes_takes_little_more_memory_than_their_size(layout: str, tmp_path: Path) -> None:
    pixels = np.zeros((10_000, 3, 64, 64) if layout == "channels first" else (10_000, 64, 64, 3), np.uint8)  # 123 MB
    labels = np.arange(10_000) % 2
    test = {"test_images": pixels[:9], "test_labels": labels[:9]}
    np.savez(tmp_path / "x.npz", train_images=pixels, train_labels=labels, **test)
    program = f"""
from sextet_common import data
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1000
before = peak()
data.load({str(tmp_path / "x.npz")!r})
print(peak() - before)
"""
    assert float(subprocess.check_output([sys.executable, "-c", program], text=True)) < 1.6 * 123


def test_the_command_describes_a_folder_of_bytes(folder: Path, tmp_path_factory, capsys) -> None:
    place = tmp_path_factory.mktemp("other")
    for _ in range(2):  # built, mapped
        arguments = ["--size", "4", "--channels", "1", "--cache", str(place / "c"), "--picture", str(place / "p.png")]
        assert main(["data", str(folder), *arguments]) == 0
        assert capsys.readouterr().out.startswith("6 training and 4 test images, 1x4x4\ncat ")
    drawn = np.asarray(Image.open(place / "p.png"))[..., :3]
    for red in (0, 2, 100, 102):  # bytes were converted, not clipped
        assert (drawn == round(0.299 * red + 0.114 * 255)).all(axis=2).sum() > 1000
