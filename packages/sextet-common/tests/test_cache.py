"""The cache of decoded images: hits, misses, parallel and killed builders, damage, memory."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sextet_common import cache, checkpoint, data, image_files, runs
from sextet_common.errors import DataWarning, InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            for number in range(count):
                file = tmp_path / "images" / part / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)).save(file)
    return tmp_path / "images"


def entries(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def same(a: data.ImageSet, b: data.ImageSet) -> None:
    for name in ("train_images", "train_labels", "test_images", "test_labels", "mean", "std"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.classes, a.source, a.notes, a.fingerprint) == (b.classes, b.source, b.notes, b.fingerprint)


def test_a_cached_set_equals_the_decoded_one_and_is_mapped_without_decoding(folder, tmp_path, monkeypatch) -> None:
    plain = data.load(folder)
    first = data.load(folder, cache=tmp_path / "cache")
    monkeypatch.setattr(image_files, "read_images", lambda *_, **__: pytest.fail("decoded again"))
    second = data.load(folder, cache=str(tmp_path / "cache"))
    same(first, plain)
    same(second, plain)
    assert isinstance(second.train_images, np.memmap) and not second.train_images.flags.writeable
    arrays = (plain.train_images, plain.train_labels, plain.test_images, plain.test_labels)
    assert second.fingerprint == runs.fingerprint(*arrays)
    assert entries(tmp_path / "cache" / entries(tmp_path / "cache")[0]) == ["images.npy", "rest.safetensors"]


def test_the_entry_follows_content_names_and_settings_not_the_place(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "cache"
    data.load(folder, cache=store)
    folder.rename(tmp_path / "moved")
    for file in (tmp_path / "moved").rglob("*.png"):
        os.utime(file, (1, 1))
    assert data.load(tmp_path / "moved", cache=store).source == f"folder:{tmp_path / 'moved'}"
    assert len(entries(store)) == 1
    for count, options in enumerate(({"size": 4}, {"channels": 1}, {"on_bad_image": "skip"}), start=2):
        data.load(tmp_path / "moved", cache=store, **options)
        assert len(entries(store)) == count
    image = tmp_path / "moved" / "train" / "cat" / "0.png"
    Image.fromarray(np.full((6, 8, 3), 7, np.uint8)).save(image)
    np.testing.assert_array_equal(data.load(tmp_path / "moved", cache=store).train_images[0], 7)
    image.rename(tmp_path / "moved" / "train" / "dog" / "9.png")
    assert data.load(tmp_path / "moved", cache=store).train_labels.sum() == 7
    assert len(entries(store)) == 6


def test_notes_are_said_at_every_load_and_skipped_images_are_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "cat" / "3.png").write_bytes(b"no image")
    shutil.rmtree(folder / "test")
    with pytest.raises(InputError, match=r"3\.png is not an image"):
        data.load(folder, cache=tmp_path / "cache")
    assert not entries(tmp_path / "cache")
    seen = []
    for options in ({}, {"cache": tmp_path / "cache"}, {"cache": tmp_path / "cache"}):
        with pytest.warns(DataWarning) as said:
            seen.append(data.load(folder, on_bad_image="skip", **options))
        assert [str(warning.message) for warning in said] == list(seen[-1].notes)
        assert any("skipped (1:" in note for note in seen[-1].notes) and len(seen[-1].notes) == 2
        assert len(seen[-1].train_labels) + len(seen[-1].test_labels) == 11
        same(seen[-1], seen[0])


def relabel(entry: Path) -> None:
    """Write other labels of another length, with their checksum."""
    rest = checkpoint.load(entry / cache.REST)
    checkpoint.save(entry / cache.REST, {**rest.arrays, "train_labels": np.zeros(99, np.int64)}, rest.meta)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "cut": lambda entry: os.truncate(entry / "images.npy", 500),
    "type": lambda entry: np.save(entry / "images.npy", np.zeros((16, 3, 6, 8), np.float32)),
    "channels": lambda entry: np.save(entry / "images.npy", np.zeros((16, 1, 6, 8), np.uint8)),
    "more labels": relabel,
    "a bit": lambda entry: flip(entry / cache.REST),
    "no labels": lambda entry: (entry / cache.REST).unlink(),
    "text": lambda entry: (entry / cache.REST).write_text('{"train": "x"}'),
    "other arrays": lambda entry: checkpoint.save(entry / cache.REST, {"x": np.zeros(3)}),
    "empty": lambda entry: [file.unlink() for file in entry.iterdir()],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_entry_is_rebuilt_and_that_is_said(kind: str, folder: Path, tmp_path: Path) -> None:
    plain, store = data.load(folder), tmp_path / "cache"
    data.load(folder, cache=store)
    DAMAGE[kind](store / entries(store)[0])
    with pytest.warns(DataWarning, match="was damaged and has been rebuilt"):
        rebuilt = data.load(folder, cache=store)
    np.testing.assert_array_equal(rebuilt.train_images, plain.train_images)
    same(data.load(folder, cache=store), plain)
    assert len(entries(store)) == 1


def test_a_place_that_cannot_be_written_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            InputError, match=r"file.* cannot be written: .*; expected: a name whose parents are folders"
        ):
            data.load(folder, cache=place)


def test_a_full_disk_is_one_line_and_leaves_nothing(folder, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device; expected: "):
        data.load(folder, cache=tmp_path / "cache")
    assert not entries(tmp_path / "cache")


BUILDER = """
import sys, time
from sextet_common import cache, data, image_files
real = image_files.read_images
def slow(paths, *, create, **options):
    print("building", flush=True)
    time.sleep(float(sys.argv[3]))
    return real(paths, create=create, **options)
def after(paths, *, create, **options):
    result = real(paths, create=create, **options)
    print("building", flush=True)
    time.sleep(float(sys.argv[3]))
    return result
image_files.read_images = slow if sys.argv[4] == "before" else after
print(data.load(sys.argv[1], cache=sys.argv[2]).fingerprint, flush=True)
"""


def builder(folder: Path, store: Path, seconds: float, when: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(folder), str(store), str(seconds), when]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_of_parallel_builders_one_builds_and_all_get_the_whole_entry(folder: Path, tmp_path: Path) -> None:
    processes = [builder(folder, tmp_path / "cache", 1.0, "before") for _ in range(3)]
    said = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(lines.count("building") for lines in said) == 1
    assert {lines[-1] for lines in said} == {data.load(folder).fingerprint}
    assert len(entries(tmp_path / "cache")) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_builder_blocks_nobody_and_leaves_nothing_that_stays(when: str, folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "cache"
    first = builder(folder, store, 60, when)
    assert first.stdout is not None and first.stdout.readline() == "building\n"
    second = builder(folder, store, 0, when)  # waits for the first
    time.sleep(0.2)
    with first:
        first.send_signal(signal.SIGKILL)
    said, _ = second.communicate(timeout=120)
    assert said.split() == ["building", data.load(folder).fingerprint]
    assert len(entries(store)) == 1 and not entries(store)[0].startswith(".")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_random_batches_of_a_large_entry_keep_little_memory(folder: Path, tmp_path: Path) -> None:
    data.load(folder, cache=tmp_path / "cache")
    entry = tmp_path / "cache" / entries(tmp_path / "cache")[0]
    images, count = entry / "images.npy", 30_000  # 369 MB
    np.lib.format.open_memmap(images, mode="w+", dtype=np.uint8, shape=(count, 3, 64, 64))
    labels = np.arange(count) % 2
    rest = checkpoint.load(entry / cache.REST)
    halves = {"train_labels": labels[:-10], "test_labels": labels[-10:]}
    checkpoint.save(entry / cache.REST, {**rest.arrays, **halves}, rest.meta)
    program = f"""
import numpy as np
from pathlib import Path
from sextet_common import data, sources
sources.cache.key = lambda *_: {entry.name!r}
def resident(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1000
before = resident("VmRSS")
found = data.load({str(folder)!r}, cache={str(tmp_path / "cache")!r})
assert len(found.train_images) == {count - 10}
rows = np.random.default_rng(0)
for _ in range(100):
    data.take(found.train_images, rows.integers(0, {count - 10}, 512))
print(resident("VmHWM") - before)
"""
    grown = float(subprocess.check_output([sys.executable, "-W", "error", "-c", program], text=True))
    assert grown < 120  # megabytes, of 369


def test_the_key_has_a_different_value_for_every_part(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b")]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]))
    paths, labels = [str(file) for file in files], np.array([0, 1])
    keys = [
        cache.key({"size": 1}, paths, tmp_path, labels),
        cache.key({"size": None}, paths, tmp_path, labels),
        cache.key({"size": 1}, paths[::-1], tmp_path, labels),
        cache.key({"size": 1}, paths, tmp_path, labels[::-1]),
        cache.key({"size": 1}, paths[:1], tmp_path, labels[:1]),
    ]
    files[0].write_bytes(b"x")
    keys.append(cache.key({"size": 1}, paths, tmp_path, labels))
    assert len(set(keys)) == 6
    with pytest.raises(InputError, match="does not exist"):
        cache.key({}, [str(tmp_path / "none")], tmp_path, labels)


def test_a_source_that_is_not_a_folder_says_that_it_is_not_cached(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="digits is not a folder of images: the cache is not used"):
        data.load("digits", cache=tmp_path / "cache")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.load("digits")
