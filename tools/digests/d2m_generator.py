"""Small seeded jobs of d2m-generator: every way to pre-train, to distill, to sample and to measure a generator."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from attention_matching import EvaluateConfig
from d2m_generator import (
    D2M,
    ConditionalGAN,
    D2MConfig,
    DiffusionGenerator,
    Judge,
    LatentConfig,
    LatentDistiller,
    MatchingLoss,
    PoolConfig,
    PretrainConfig,
    evaluate_generator,
    frechet_distance,
    load_generator,
    pretrain,
    save_generator,
    stream,
    synthesize,
)
from d2m_generator.__main__ import main
from sextet_common.data import ImageSet

LABELS = torch.arange(6) % 3
POOL = PoolConfig(networks=2, untrained=0.5, epochs=2, trained_on=30, refresh_every=2, width=8)
TRAIN = PretrainConfig(steps=12, batch_size=12, checkpoint_every=4, sample_every=6, device="cpu")
DISTILL = D2MConfig(steps=12, images=3, real_batch=8, pool=POOL, checkpoint_every=4, sample_every=6, device="cpu")
JUDGED = EvaluateConfig(networks=2, epochs=3, batch=16, width=8, device="cpu")


def thirds() -> ImageSet:
    """Return 60 images whose brightest third is their class."""
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = 0.3 * random.random((60, 1, 8, 8), dtype=np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, :, 3 * label : 3 * label + 2] += 0.6
    return ImageSet.of(images, labels, images[:30], labels[:30], ("a", "b", "c"), source="thirds")


def gan() -> ConditionalGAN:
    """Return a small GAN."""
    return ConditionalGAN(3, (1, 8, 8), width=4, noise=8)


def consistency() -> DiffusionGenerator:
    """Return a consistency model of two steps."""
    return DiffusionGenerator.consistency(3, (1, 8, 8), width=8, steps=2)


def denoising() -> DiffusionGenerator:
    """Return a diffusion model with guidance and truncated gradients."""
    return DiffusionGenerator.denoising(3, (1, 8, 8), width=8, steps=3, grad_steps=2, guidance=1.5)


def transformer() -> DiffusionGenerator:
    """Return a diffusion transformer."""
    return DiffusionGenerator.dit(3, (1, 8, 8), width=16, depth=2, steps=2)


def results(generator: Any) -> dict[str, Any]:
    """Return a generator's weights and some of its images."""
    images = generator.sample(LABELS, seed=1).detach()
    return {"weights": dict(generator.state_dict()), "images": images}


def of_latents() -> object:
    """Distill into latents in a run folder, and resume it from its second last checkpoint."""
    config = LatentConfig(ipc=2, steps=8, inversion_steps=4, real_batch=8, pool=POOL, checkpoint_every=4, device="cpu")
    with TemporaryDirectory() as folder:
        out = Path(folder, "run")
        whole = dict(LatentDistiller(config).fit(gan(), thirds(), out).latents)
        sorted((out / "checkpoints").iterdir())[-1].unlink()
        again = dict(LatentDistiller(config).fit(gan(), thirds(), out).latents)
        return {"whole": whole, "resumed": again, "after": files(out)}


def files(folder: Path) -> dict[str, Any]:
    """Return a run folder's metrics without times, and its pictures of samples."""
    left: dict[str, Any] = {path.name: path.read_bytes() for path in sorted(folder.glob("samples*.png"))}
    if (folder / "metrics.jsonl").exists():
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        left["metrics"] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return left


def pretrained(make: Callable[[], Any], **settings: Any) -> Callable[[], object]:
    """Return a job that pre-trains in a run folder, and resumes it from its second last checkpoint."""

    def job() -> object:
        config = dataclasses.replace(TRAIN, **settings)
        with TemporaryDirectory() as folder:
            out = Path(folder, "run")
            whole = results(pretrain(make(), thirds(), config, out))
            left = files(out)
            sorted((out / "checkpoints").iterdir())[-1].unlink()
            again = results(pretrain(make(), thirds(), config, out))
            return {"whole": whole, "left": left, "resumed": again, "after": files(out), "no run": results(
                pretrain(make(), thirds(), config))}  # fmt: skip

    return job


def distilled(make: Callable[[], Any], **settings: Any) -> Callable[[], object]:
    """Return a job that distills in a run folder, and resumes it from its second last checkpoint."""

    def job() -> object:
        config = dataclasses.replace(DISTILL, **settings)
        with TemporaryDirectory() as folder:
            out = Path(folder, "run")
            whole = results(D2M(config).fit(make(), thirds(), out))
            left = files(out)
            sorted((out / "checkpoints").iterdir())[-1].unlink()
            again = results(D2M(config).fit(make(), thirds(), out))
            return {"whole": whole, "left": left, "resumed": again, "after": files(out)}

    return job


@cache
def trained() -> ConditionalGAN:
    """Return a GAN after some steps."""
    return pretrain(gan(), thirds(), dataclasses.replace(TRAIN, steps=30))  # type: ignore[return-value]


def synthesized() -> object:
    """Choose images in every way, with soft labels too, and stream them to disk."""
    sets: dict[str, Any] = {}
    judge = Judge(thirds(), JUDGED)
    for selection in ("random", "herding", "diverse"):
        for data in (None, thirds()):
            made = synthesize(trained(), 4, 2, selection, data=data, teacher=judge.network, temperature=2.0)  # type: ignore[arg-type]
            sets[f"{selection}, {data is not None}"] = [made.images, made.labels, made.soft_labels, made.meta]
    with TemporaryDirectory() as folder:
        streamed = stream(trained(), 300, Path(folder, "s"), 5, data=thirds(), teacher=judge.network)
        sets["stream"] = [np.array(streamed.pixels), np.array(streamed.labels), np.array(streamed.soft_labels)]
    return sets


def evaluated() -> object:
    """Evaluate by both protocols, in a run folder too."""
    results: dict[str, Any] = {}
    for protocol in ("fixed", "regenerate"):
        with TemporaryDirectory() as folder:
            for out in (None, Path(folder, "run")):
                result = evaluate_generator(trained(), thirds(), 3, JUDGED, out, protocol=protocol, seed=4)  # type: ignore[arg-type]
                results[f"{protocol}, {out is not None}"] = [str(result), *result.evaluation.accuracies]
            results[f"{protocol}, files"] = files(Path(folder, "run"))
    return results


def measured() -> object:
    """Judge a generator, and compute a distance."""
    random = np.random.default_rng(0)
    judge = Judge(thirds(), JUDGED)
    distance = frechet_distance(random.normal(size=(40, 5)), 2 * random.normal(size=(30, 5)) + 1)
    return {"quality": dataclasses.asdict(judge(trained(), images=60)), "distance": distance}


def adapted() -> object:
    """Distill into adapters; save, load and merge them."""
    with TemporaryDirectory() as folder:
        out = Path(folder, "run")
        generator = D2M(dataclasses.replace(DISTILL, parameters="lora", lr=0.05)).fit(
            denoising().add_lora(2), thirds(), out
        )
        again = denoising().load_lora(out / "lora")
        merged = denoising().load_lora(out / "lora").merge_lora()
        return [results(generator), results(again), results(merged), files(out)]


def stored() -> object:
    """Save and load every kind of generator."""
    found = []
    with TemporaryDirectory() as folder:
        for number, make in enumerate((gan, consistency, denoising, transformer)):
            place = Path(folder, str(number))
            save_generator(make(), place)  # type: ignore[arg-type]
            found.append(results(load_generator(place)))
    return found


def commanded() -> object:
    """Run the commands one after another."""
    here = os.getcwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            fast = ["--device", "cpu"]
            pool = ["--networks", "1", "--epochs", "1", "--trained-on", "64"]
            train = ["pretrain", "--data", "digits", "--out", "g", "--steps", "3", "--batch-size", "16", "--width", "4"]
            assert main([*train, "--no-judged", *fast]) == 0
            assert main(["distill", "g", "--out", "d", "--steps", "2", "--real-batch", "4", *pool, *fast]) == 0
            assert main(["synthesize", "d", "--out", "s.safetensors", "--ipc", "2"]) == 0
            assert main(["evaluate", "d", "--ipc", "1", "2", "--networks", "1", "--epochs", "1", *fast]) == 0
            assert main(["show", "d"]) == 0
            kept = ("quality.json", "evaluation.json")
            return [files(Path("g")), files(Path("d")), *(json.loads(Path("d", name).read_text()) for name in kept)]
        finally:
            os.chdir(here)


def jobs() -> dict[str, Callable[[], object]]:
    """Return the jobs by name."""
    return {
        "pretrain a GAN": pretrained(gan),
        "pretrain a GAN, two steps of the discriminator": pretrained(gan, discriminator_steps=2, augment=False),
        "pretrain a consistency model": pretrained(consistency),
        "pretrain a diffusion model": pretrained(denoising, label_dropout=0.3),
        "pretrain a transformer": pretrained(transformer, precision="bfloat16"),
        "distill": distilled(gan),
        "distill the last blocks": distilled(gan, parameters="last", loss=MatchingLoss(maps="both")),
        "distill the class embeddings": distilled(gan, parameters="classes", classes=2),
        "distill in parts": distilled(gan, accumulate=3, augment=False, loss=MatchingLoss(prediction="mse")),
        "distill pairs": distilled(gan, images=8, loss=MatchingLoss(reduction="sample", temperature_squared=True)),
        "distill a consistency model": distilled(consistency, parameters="last"),
        "distill a diffusion model": distilled(denoising, steps=4, precision="bfloat16"),
        "distill into adapters": adapted,
        "distill into latents": of_latents,
        "synthesize": synthesized,
        "evaluate": evaluated,
        "measure": measured,
        "store": stored,
        "commands": commanded,
    }
