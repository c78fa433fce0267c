"""d2m-generator reads: generators, diffusers' folders, streamed sets and run folders' settings."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from d2m_generator import ConditionalGAN, DiffusionGenerator, StreamedSet, load_generator, save_generator
from d2m_generator import __main__ as command
from harness import EXAMPLES, checkpoints, documents, fuzz, holds, npy, npy_files
from hypothesis import given, settings
from hypothesis import strategies as st
from sextet_common import checkpoint

FEW = settings(fuzz, max_examples=max(1, EXAMPLES // 3))


@cache
def gan() -> bytes:
    with TemporaryDirectory() as folder:
        ConditionalGAN(2, (1, 8, 8), width=4).save(Path(folder, "x"), {"data": "digits"})
        return Path(folder, "x").read_bytes()


@fuzz
@given(data=st.data())
def test_generators(data: st.DataObject) -> None:
    holds(ConditionalGAN.load, data.draw(checkpoints(gan())), "gan.safetensors")


def test_a_generator_that_claims_to_be_huge_takes_no_memory() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "x")
        path.write_bytes(gan())
        found = checkpoint.load(path, "torch")
        for name in ("width", "n_classes"):
            settings = {**found.meta["settings"], name: 10**6}
            checkpoint.save(path, found.arrays, {**found.meta, "settings": settings})
            assert holds(ConditionalGAN.load, path.read_bytes(), "gan.safetensors") is None


@cache
def diffusion() -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        generator = DiffusionGenerator.consistency(2, (1, 8, 8), width=8)
        save_generator(generator, Path(folder, "x"))
        return {
            str(path.relative_to(Path(folder, "x"))): path.read_bytes()
            for path in Path(folder, "x").rglob("*")
            if path.is_file()
        }


@pytest.mark.parametrize("end", ["d2m.json", "unet/config.json", "scheduler/scheduler_config.json"])
@FEW
@given(data=st.data())
def test_settings_of_diffusers_folders(end: str, data: st.DataObject) -> None:
    files = diffusion()
    (name,) = (name for name in files if name.endswith(end))
    content = data.draw(documents(json.loads(files[name])))
    holds(load_generator, {**files, name: content}, "generator")


TOLD = {"classes": ["a", "b"], "meta": {"ipc": 2}}
ARRAYS = {
    "images": np.zeros((4, 1, 4, 4), np.uint8),
    "labels": np.array([0, 0, 1, 1]),
    "soft_labels": np.full((4, 2), 0.5, np.float32),
}
STREAMED = {"set.json": json.dumps(TOLD).encode(), **{f"{name}.npy": npy(array) for name, array in ARRAYS.items()}}


def streamed(found: StreamedSet) -> None:
    for index in range(len(found)):
        image, label = found[index]
        assert image.ndim == 3 and 0 <= label < len(found.classes)


@fuzz
@given(documents(TOLD))
def test_settings_of_streamed_sets(content: bytes) -> None:
    holds(StreamedSet.open, {**STREAMED, "set.json": content}, "set", sound=streamed)


@pytest.mark.parametrize("name", ARRAYS)
@fuzz
@given(data=st.data())
def test_arrays_of_streamed_sets(name: str, data: st.DataObject) -> None:
    content = data.draw(npy_files(ARRAYS[name]))
    holds(StreamedSet.open, {**STREAMED, f"{name}.npy": content}, "set", sound=streamed)


@fuzz
@given(documents({"job": "pretrain", "config": {"data": "digits"}}))
def test_what_a_generator_was_made_from(content: bytes) -> None:
    holds(command._source, {"config.json": content}, "run", sound=lambda found: found.encode())


def test_what_the_fuzz_starts_from_is_valid() -> None:
    for read, content, name in (
        (ConditionalGAN.load, gan(), "gan.safetensors"),
        (load_generator, diffusion(), "generator"),
        (StreamedSet.open, STREAMED, "set"),
    ):
        valid: Any = holds(read, content, name, valid=True)  # type: ignore[arg-type]
        assert valid is not None
