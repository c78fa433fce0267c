"""d2m-generator reads: generators, diffusers' folders, adapters, streamed sets, and its run folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from attention_matching import EvaluateConfig
from d2m_generator import (
    D2M,
    ConditionalGAN,
    D2MConfig,
    DiffusionGenerator,
    LatentConfig,
    LatentDistiller,
    LatentSet,
    PoolConfig,
    PretrainConfig,
    StreamedSet,
    evaluate_generator,
    load_generator,
    pretrain,
    run_folders,
    save_generator,
)
from harness import EXAMPLES, fuzz, holds
from hostile import checkpoints, documents, npy, npy_files
from hypothesis import given, settings, strategies as st
from run_folders import gone_on_from, left_by
from sextet_common import checkpoint, text
from sextet_common.data import ImageSet

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


@cache
def denoiser() -> DiffusionGenerator:
    return DiffusionGenerator.denoising(2, (1, 8, 8), width=8)


@cache
def adapters() -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        path = DiffusionGenerator.denoising(2, (1, 8, 8), width=8).add_lora(2).save_lora(Path(folder, "x"))
        return {name: (path / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")}


def with_adapters(path: Path) -> None:
    """Load adapters into a generator, and take them out again."""
    before = {name: tensor.clone() for name, tensor in denoiser().state_dict().items()}
    try:
        denoiser().load_lora(path)
        denoiser().merge_lora()
    finally:
        assert denoiser().state_dict().keys() == before.keys()  # refused ones leave nothing
        denoiser().load_state_dict(before)


@FEW
@given(data=st.data())
def test_adapters(data: st.DataObject) -> None:
    content = data.draw(documents(json.loads(adapters()["adapter_config.json"])))
    holds(with_adapters, {**adapters(), "adapter_config.json": content}, "lora")


@cache
def latents() -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        made, labels = ConditionalGAN(2, (1, 8, 8), width=4), torch.arange(2)
        made_of = made.latents(torch.zeros(2, 64), labels, "block-0")
        LatentSet(made, "block-0", made_of).save(Path(folder, "x"))
        return {
            str(path.relative_to(Path(folder, "x"))): path.read_bytes()
            for path in Path(folder, "x").rglob("*")
            if path.is_file()
        }


@FEW
@given(data=st.data())
def test_latent_sets(data: st.DataObject) -> None:
    files = latents()
    content = data.draw(checkpoints(files["latents.safetensors"]))
    holds(LatentSet.load, {**files, "latents.safetensors": content}, "set")


# Resumed run folders: each job is complete, so reading the folder is all that happens.


@cache
def images() -> ImageSet:
    pixels = np.linspace(0, 1, 8 * 8 * 8, dtype=np.float32).reshape(8, 1, 8, 8)
    return ImageSet.of(pixels, np.arange(8) % 2, pixels[:4], np.arange(4) % 2)


def distilled(out: Path) -> Any:
    pool = PoolConfig(networks=1, untrained=1.0, refresh_every=0, width=4, depth=1)
    config = D2MConfig(steps=1, images=1, real_batch=4, pool=pool, device="cpu")
    return D2M(config).fit(ConditionalGAN(2, (1, 8, 8), width=4), images(), out)


def of_latents(out: Path) -> Any:
    pool = PoolConfig(networks=1, untrained=1.0, refresh_every=0, width=4, depth=1)
    config = LatentConfig(ipc=1, steps=1, inversion_steps=1, real_batch=4, pool=pool, device="cpu")
    return LatentDistiller(config).fit(ConditionalGAN(2, (1, 8, 8), width=4), images(), out)


def pretrained(out: Path) -> Any:
    config = PretrainConfig(steps=1, batch_size=4, discriminator_width=64, device="cpu")
    return pretrain(ConditionalGAN(2, (1, 8, 8), width=4), images(), config, out)


def denoised(out: Path) -> Any:
    generator = DiffusionGenerator.denoising(2, (1, 8, 8), width=8)
    return pretrain(generator, images(), PretrainConfig(steps=1, batch_size=4, device="cpu"), out)


def evaluated(out: Path) -> Any:
    config = EvaluateConfig(networks=1, epochs=1, batch=8, width=4, depth=1, device="cpu")
    return evaluate_generator(ConditionalGAN(2, (1, 8, 8), width=4), images(), 1, config, out, protocol="regenerate")


JOBS: dict[str, Callable[[Path], Any]] = {
    "distill": distilled, "latents": of_latents, "GAN": pretrained, "diffusion": denoised, "evaluate": evaluated,
}  # fmt: skip


@cache
def left(job: str) -> dict[str, bytes]:
    return left_by(JOBS[job])


@pytest.mark.parametrize("job", JOBS)
@FEW
@given(data=st.data())
def test_jobs_that_go_on(job: str, data: st.DataObject) -> None:
    holds(JOBS[job], data.draw(gone_on_from(left(job))), "run")


@pytest.mark.parametrize(("name", "value"), [("block_out_channels", [2**16, 2**17]), ("layers_per_block", 10**18)])
def test_a_model_of_diffusers_that_claims_to_be_huge_takes_no_memory(name: str, value: Any) -> None:
    files = diffusion()
    config = json.dumps({**json.loads(files["unet/config.json"]), name: value}).encode()
    assert holds(load_generator, {**files, "unet/config.json": config}, "generator") is None


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
    holds(run_folders.source, {"config.json": content}, "run", sound=lambda found: found.encode())


MEASURED: dict[str, Any] = {
    "quality.json": {"frechet": 1.0, "frechet_real": 0.5, "agreement": 0.9, "coverage": 0.5, "coverage_real": 0.9},
    "evaluation.json": [{"architecture": "convnet", "ipc": 1, "protocol": "fixed", "generated": [0.5, 0.25]}],
}


def as_table(found: dict[str, str]) -> None:
    text.markdown_table(("measure", "value"), list(found.items())).encode()


@pytest.mark.parametrize("name", MEASURED)
@fuzz
@given(data=st.data())
def test_measures_for_a_card(name: str, data: st.DataObject) -> None:
    holds(run_folders.scores, {name: data.draw(documents(MEASURED[name]))}, "run", sound=as_table)


def test_what_the_fuzz_starts_from_is_valid() -> None:
    for read, content, name in (
        (ConditionalGAN.load, gan(), "gan.safetensors"),
        (load_generator, diffusion(), "generator"),
        (StreamedSet.open, STREAMED, "set"),
        (LatentSet.load, latents(), "set"),
        (run_folders.scores, {name: json.dumps(table).encode() for name, table in MEASURED.items()}, "run"),
        *((go_on, left(job), "run") for job, go_on in JOBS.items()),
    ):
        valid: Any = holds(read, content, name, valid=True)  # type: ignore[arg-type]
        assert valid is not None
    holds(with_adapters, adapters(), "lora", valid=True)
