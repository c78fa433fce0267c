"""Readers of sextet-common: NumPy arrays, image sets, checkpoints, run folders, weights."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets  # noqa: F401  # imports, and what they make in a cache, come before the fuzz
from harness import fuzz, holds
from hostile import (
    Raw,
    archives,
    checkpoints,
    documents,
    dumped,
    mutated,
    npy,
    npy_files,
    signed,
    stored,
    taken_apart,
    values,
)
from hypothesis import example, given, strategies as st
from PIL import Image
from sextet_common import checkpoint, data, loggers, networks, npy as reader
from sextet_common.runs import Run
from torch import nn

ARRAYS = {"a": np.arange(12.0).reshape(3, 4), "labels": np.array([0, 1, 1]), "names": np.array(["cat", "dog"])}


def of_the_names(found: dict[str, np.ndarray]) -> None:
    assert set(found) - {"names"} == {"a", "labels"}
    for array in found.values():
        assert array.dtype.kind in "biufcUS" and array.flags.owndata | (array.base is not None)
        array.tobytes()


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    return reader.read_npz(path, ("a", "labels"), ("names",))


@fuzz
@given(archives(ARRAYS))
def test_archives_of_arrays(content: bytes) -> None:
    holds(read_arrays, content, "some.npz", sound=of_the_names)


@pytest.mark.parametrize("mapped", [False, True])
@fuzz
@given(content=npy_files(ARRAYS["a"]))
def test_single_arrays(content: bytes, mapped: bool) -> None:
    holds(lambda path: reader.read_npy(path, mapped=mapped), content, "some.npy", sound=np.ndarray.tobytes)


# ---------------------------------------------------------------------------------------------------------------------

IMAGES = {
    "train_images": np.arange(4 * 5 * 5, dtype=np.uint8).reshape(4, 5, 5),
    "train_labels": np.array([0, 1, 0, 1]),
    "test_images": np.zeros((2, 5, 5), dtype=np.uint8),
    "test_labels": np.array([[0], [1]]),
    "classes": np.array(["cat", "dog"]),
}


def images_and_labels(found: data.ImageSet) -> None:
    assert found.train_images.dtype == found.test_images.dtype
    largest = {"uint8": 255, "float32": 1}[found.train_images.dtype.name]
    assert found.train_images.shape == (len(found.train_labels), *found.image_shape)
    assert found.test_images.shape == (len(found.test_labels), *found.image_shape)
    assert all(((part >= 0) & (part <= largest)).all() for part in (found.train_images, found.test_images))
    assert set(found.train_labels.tolist()) == set(range(found.n_classes)) >= set(found.test_labels.tolist())
    assert all(isinstance(name, str) for name in found.classes) and found.n_classes == len(found.classes)
    assert np.isfinite(found.mean).all() and (found.std > 0).all()


def as_set(path: Path) -> data.ImageSet:
    return data.load(f"npz:{path}")


def archive(arrays: dict[str, np.ndarray]) -> bytes:
    return stored([(f"{name}.npy", npy(array)) for name, array in arrays.items()])


@fuzz
@given(archives(IMAGES))
@example(archive({k: v for k, v in IMAGES.items() if k != "classes"} | {"train_labels": np.array([0, 1, 0, 2**62])}))
@example(archive(IMAGES | {"classes": np.array("cat")}))
def test_image_sets_in_archives(content: bytes) -> None:
    holds(as_set, content, "set.npz", sound=images_and_labels)


def encoded(array: np.ndarray, form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, form)
    return file.getvalue()


def jpegs(count: int, labels: list[int]) -> dict[str, np.ndarray]:
    content = [encoded(np.full((6, 6, 3), 40 * k, np.uint8), "JPEG") for k in range(count)]
    return {
        "jpeg": np.frombuffer(b"".join(content), np.uint8),
        "offsets": np.cumsum([0, *map(len, content)]),
        "labels": np.array(labels),
        "classes": np.array(["cat", "dog"]),
    }


JPEGS = jpegs(3, [0, 1, 1])
TEST_JPEGS = archive(jpegs(2, [0, 1]))


def as_jpegs(path: Path) -> data.ImageSet:
    return data.load(f"npz-jpeg:{path / 'set'}")


@fuzz
@given(archives(JPEGS))
@example(archive(JPEGS | {"offsets": np.zeros(0, np.int64)}))
@example(archive(JPEGS | {"offsets": JPEGS["offsets"].astype(np.float64)}))
@example(archive(JPEGS | {"classes": np.array("cat")}))
def test_image_sets_of_jpeg_files(content: bytes) -> None:
    holds(as_jpegs, {"set-train.npz": content, "set-test.npz": TEST_JPEGS}, "folder", sound=images_and_labels)


PICTURE = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
FORMS = {form: encoded(PICTURE, form) for form in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF")}
LARGE = st.sampled_from([0, 1, 2**15 - 1, 2**16 - 1, 13_000, 2**31 - 1, 2**32 - 1])


def png(width: int, height: int) -> bytes:
    """Return a PNG that claims a size, and has one row of it."""
    changed = bytearray(FORMS["PNG"])
    changed[16:24] = struct.pack(">II", width, height)
    return bytes(changed)


def bmp(width: int, height: int) -> bytes:
    changed = bytearray(FORMS["BMP"])
    changed[18:26] = struct.pack("<II", width, height)
    return bytes(changed)


PICTURES = st.one_of(
    *(mutated(content) for content in FORMS.values()),
    st.builds(png, LARGE, LARGE),
    st.builds(bmp, LARGE, LARGE),
    st.builds(lambda width, height: b"P6 %d %d 255\n" % (width, height) + b"\0" * 100, LARGE, LARGE),
    st.sampled_from([b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"GIF89a"]),
)


@fuzz
@example(encoded(np.zeros((12_000, 12_000), dtype=bool), "PNG"), "png", None)  # 18 kilobytes
@example(FORMS["GIF"], "png", None)
@given(PICTURES, st.sampled_from(["png", "JPG", "tif", "webp"]), st.sampled_from([None, 3]))
def test_folders_of_images(content: bytes, suffix: str, size: int | None) -> None:
    files = {f"{name}/{number}.png": FORMS["PNG"] for name in ("cat", "dog") for number in range(2)}
    files[f"cat/0.{suffix}"] = content
    holds(lambda path: data.load(f"folder:{path}", size=size), files, "folder", sound=images_and_labels)


TABLE = [("a.png", "1"), ("sub/b.png", "2"), ("c.png", "1"), ("d.png", "2")]
TABLES = {
    "metadata.csv": "file_name,label\n" + "".join(f'{name},"{label}"\n' for name, label in TABLE),
    "metadata.jsonl": "".join(json.dumps({"file_name": name, "label": label}) + "\n" for name, label in TABLE),
    "val_annotations.txt": "".join(f"{name}\t{label}\t0\t1\n" for name, label in TABLE),
}


@fuzz
@example("metadata.csv", b"file_name,label\n../outside.png,1\n")
@example("metadata.jsonl", b'{"file_name": "/etc/hosts", "label": NaN}\n[]\n')
@given(st.sampled_from(sorted(TABLES)), st.data())
def test_metadata_of_image_folders(name: str, drawn: st.DataObject | bytes) -> None:
    content = drawn if isinstance(drawn, bytes) else drawn.draw(mutated(TABLES[name].encode()))
    below = "images/" if name == "val_annotations.txt" else ""
    files = {f"{below}{path}": FORMS["PNG"] for path, _ in TABLE} | {name: content}
    holds(lambda path: data.load(f"folder:{path}"), files, "folder", sound=images_and_labels)


TEN = bytes(range(10))
IDX = {
    "train-images-idx3-ubyte": struct.pack(">4I", 0x803, 10, 3, 3) + bytes(90),
    "train-labels-idx1-ubyte": struct.pack(">2I", 0x801, 10) + TEN,
    "t10k-images-idx3-ubyte": struct.pack(">4I", 0x803, 1, 3, 3) + bytes(9),
    "t10k-labels-idx1-ubyte": struct.pack(">2I", 0x801, 1) + b"\1",
}


def as_mnist(path: Path) -> data.ImageSet:
    return data.load(f"mnist:{path}")


@fuzz
@given(st.sampled_from(sorted(IDX)), st.data())
def test_image_sets_of_torchvision(name: str, drawn: st.DataObject) -> None:
    content = drawn.draw(mutated(IDX[name]))
    files = {f"MNIST/raw/{other}": IDX[other] if other != name else content for other in IDX}
    holds(as_mnist, files, "folder", sound=images_and_labels)


# ---------------------------------------------------------------------------------------------------------------------


def saved(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> bytes:
    with TemporaryDirectory() as folder:
        checkpoint.save(Path(folder, "x"), arrays, meta)
        return Path(folder, "x").read_bytes()


STATE = saved({"x": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(4)}, {"step": 4, "lr": [0.1, 0.2]})


def of_a_checkpoint(found: checkpoint.Checkpoint) -> None:
    assert isinstance(found.meta, dict) and all(isinstance(name, str) for name in found.arrays)
    for array in found.arrays.values():
        array.sum() if isinstance(array, torch.Tensor) else array.tobytes()


def with_changed(header: Callable[[dict[str, Any]], object]) -> bytes:
    """Return the checkpoint with its header changed, signed again."""
    entries, _, content = taken_apart(STATE)
    entries["__metadata__"]["sha256"] = "0" * 64
    header(entries)
    return signed(dumped(entries), content)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@fuzz
@given(content=checkpoints(STATE))
@example(content=with_changed(lambda header: header["x"].update(data_offsets=[0, Raw("1e999")])))
@example(content=with_changed(lambda header: header["__metadata__"].update(sha256="\ud800")))
@example(content=with_changed(lambda header: header["__metadata__"].pop("meta")))
@example(content=with_changed(lambda header: header["__metadata__"].update(meta="[1]")))
def test_checkpoints(content: bytes, framework: Any) -> None:
    holds(lambda path: checkpoint.load(path, framework), content, "x.safetensors", sound=of_a_checkpoint)


CONFIG = {"job": "demo", "config": {"steps": 5, "path": "a/b", "sizes": [1, 2], "nested": {"a": None}}}
ROWS = [{"step": step, "loss": 0.5 / step, "note": "a"} for step in range(1, 4)]


def as_run(path: Path) -> Run:
    run = Run.read(path)
    assert isinstance(run.job, str) and isinstance(run.config, dict)
    return Run.open(path, run.job, run.config)


@fuzz
@given(documents(CONFIG))
def test_configurations_of_runs(content: bytes) -> None:
    holds(as_run, {"config.json": content}, "run")
    holds(lambda path: Run.open(path, "demo", CONFIG["config"]), {"config.json": content}, "run")


def lines(rows: list[Any]) -> bytes:
    return "".join(dumped(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")


METRICS = st.one_of(
    values(ROWS).map(lambda rows: lines(rows if isinstance(rows, list) else [rows])), mutated(lines(ROWS))
)


def rows_of(found: list[Any]) -> None:
    assert all(isinstance(row, dict) for row in found)


@fuzz
@given(METRICS)
@example(b"[1]\n")
@example(b'{"step": "a"}\n')
@example(b'{"step": 1, "note": "\xff"}\n')
def test_metrics_of_runs(content: bytes) -> None:
    files = {"config.json": json.dumps(CONFIG).encode(), "metrics.jsonl": content}
    holds(lambda path: Run.read(path).metrics(), files, "run", sound=rows_of)
    holds(lambda path: Run.read(path).rewind(2), files, "run")


@fuzz
@given(METRICS)
@example(b'{"loss": 1}\n')
@example(b'{"step": 1, "loss": 1' + b"0" * 400 + b"}\n")
def test_metrics_of_runs_as_events_for_tensorboard(content: bytes) -> None:
    files = {"config.json": json.dumps(CONFIG).encode(), "metrics.jsonl": content}
    holds(lambda path: loggers.export_tensorboard(Run.read(path)), files, "run")


@fuzz
@given(checkpoints(STATE), METRICS)
def test_resumed_runs(content: bytes, metrics: bytes) -> None:
    files = {"config.json": json.dumps(CONFIG).encode(), "metrics.jsonl": metrics}
    holds(lambda path: Run.read(path).resume(), {**files, "checkpoints/step-00000004.safetensors": content}, "run")


# ---------------------------------------------------------------------------------------------------------------------


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def torch_file(content: Any, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


WEIGHTS = network().state_dict()
TORCH_FILES = st.one_of(
    mutated(torch_file(WEIGHTS)),
    mutated(torch_file(WEIGHTS, zipped=False)),
    st.sampled_from(
        [
            torch_file(content)
            for content in (
                {1: torch.zeros(2)},
                {**WEIGHTS, 1: torch.zeros(2)},
                {"state_dict": {"state_dict": WEIGHTS}},
                {"state_dict": None},
                {name: tensor.to(torch.complex64) for name, tensor in WEIGHTS.items()},
                {name: tensor.to_sparse() if tensor.ndim else tensor for name, tensor in WEIGHTS.items()},
                {name: tensor.to("meta") for name, tensor in WEIGHTS.items()},
                {name: tensor.expand(1000, *tensor.shape) for name, tensor in WEIGHTS.items()},
                [1, 2],
                torch.zeros(2),
            )
        ]
    ),
)


def into_the_network(path: Path) -> nn.Module:
    module = network()
    networks.load_weights(module, path)
    return module.eval()


@fuzz
@given(TORCH_FILES)
def test_weights_in_files_of_torch(content: bytes) -> None:
    holds(into_the_network, content, "weights.pt", sound=lambda module: module(torch.zeros(1, 2)))


SAFETENSORS = saved({name: tensor.numpy() for name, tensor in WEIGHTS.items()}, {})


@fuzz
@given(checkpoints(SAFETENSORS))
def test_weights_in_files_of_safetensors(content: bytes) -> None:
    holds(into_the_network, content, "weights.safetensors", sound=lambda module: module(torch.zeros(1, 2)))


# ---------------------------------------------------------------------------------------------------------------------


def valid() -> dict[str, tuple[Callable[[Path], Any], bytes | dict[str, bytes], str]]:
    config = json.dumps(CONFIG).encode()
    folder = {f"{part}/{name}/1.png": FORMS["PNG"] for part in ("train", "test") for name in ("cat", "dog")}
    run = {"config.json": config, "metrics.jsonl": lines(ROWS)}
    return {
        "arrays": (read_arrays, archive(ARRAYS), "some.npz"),
        "array": (reader.read_npy, npy(ARRAYS["a"]), "some.npy"),
        "npz": (as_set, archive(IMAGES), "set.npz"),
        "jpeg": (as_jpegs, {"set-train.npz": archive(JPEGS), "set-test.npz": TEST_JPEGS}, "folder"),
        "folder": (lambda path: data.load(f"folder:{path}"), folder, "folder"),
        "mnist": (as_mnist, {f"MNIST/raw/{name}": content for name, content in IDX.items()}, "folder"),
        "checkpoint": (checkpoint.load, STATE, "x.safetensors"),
        "run": (as_run, run, "run"),
        "metrics": (lambda path: Run.read(path).metrics(), run, "run"),
        "tensorboard": (lambda path: loggers.export_tensorboard(Run.read(path)), run, "run"),
        "resume": (lambda path: Run.read(path).resume(), {**run, "checkpoints/step-4.safetensors": STATE}, "run"),
        "torch": (into_the_network, torch_file(WEIGHTS), "weights.pt"),
        "old torch": (into_the_network, torch_file(WEIGHTS, zipped=False), "weights.pt"),
        "safetensors": (into_the_network, SAFETENSORS, "weights.safetensors"),
    }


@pytest.mark.parametrize("name", valid())
def test_the_starting_files_are_valid(name: str) -> None:
    read, content, called = valid()[name]
    assert holds(read, content, called, valid=True) is not None
