from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_matching import DistilledSet, EvaluateConfig, select
from d2m_generator import (
    ConditionalGAN,
    DiffusionGenerator,
    ImageGenerator,
    Judge,
    LatentConfig,
    LatentDistiller,
    LatentSet,
    ModuleGenerator,
    PoolConfig,
    StreamedSet,
    evaluate_generator,
    export_hub,
    load_generator,
    save_samples,
    stream,
    synthesize,
)
from d2m_generator.__main__ import main
from sextet_common import checkpoint
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import nn

POOL = PoolConfig(networks=2, untrained=1.0, refresh_every=3, width=8)
FAST = LatentConfig(ipc=2, steps=5, inversion_steps=5, real_batch=8, pool=POOL, checkpoint_every=2, device="cpu")
BRIEF = EvaluateConfig(networks=1, epochs=2, batch=8, width=8, device="cpu")
CLASSES = torch.arange(3)


def data(count: int = 60) -> ImageSet:
    """Images whose brightest third is their class."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = 0.3 * random.random((count, 1, 8, 8), dtype=np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, :, 3 * label : 3 * label + 2] += 0.6
    return ImageSet.of(images, labels, images[:30], labels[:30], ("a", "b", "c"), source="thirds")


def gan() -> ConditionalGAN:
    return ConditionalGAN(3, (1, 8, 8), width=4, noise=8)


def diffusion() -> DiffusionGenerator:
    return DiffusionGenerator.denoising(3, (1, 8, 8), width=8, steps=2, guidance=1.5)


GENERATORS: list[Callable[[], ImageGenerator]] = [
    gan,
    lambda: ConditionalGAN(3, (1, 16, 16), width=4, noise=8),
    diffusion,
    lambda: DiffusionGenerator.consistency(3, (1, 8, 8), width=8, steps=2),
    lambda: DiffusionGenerator.dit(3, (1, 8, 8), width=16, depth=2, steps=2, guidance=2.0),
]


def random_set(ipc: int = 4) -> LatentSet:
    made, labels = gan(), CLASSES.repeat_interleave(ipc)
    noise = torch.randn(len(labels), 8, generator=torch.Generator().manual_seed(1))
    return LatentSet(made, "block-0", made.latents(noise, labels, "block-0"))


@pytest.mark.parametrize("make", GENERATORS)
def test_latents_of_every_depth_decode_to_the_images_of_their_noise_and_take_gradients(
    make: Callable[[], ImageGenerator],
) -> None:
    generator = make()
    noise = torch.randn(3, *generator.noise_shape, generator=torch.Generator().manual_seed(0))
    assert generator.latent_layers()[0] == "noise" and len(generator.latent_layers()) > 1
    for layer in generator.latent_layers():
        latents = {n: t.detach().requires_grad_() for n, t in generator.latents(noise, CLASSES, layer).items()}
        images = generator.decode(latents, CLASSES)
        torch.testing.assert_close(images, generator(noise, CLASSES))
        images.square().mean().backward()
        for tensor in latents.values():  # images do not depend on each other's latents, and on all of their own
            assert tensor.grad is not None and bool((tensor.grad.flatten(1) != 0).any(dim=1).all())
    with pytest.raises(InputError, match=r"layer 'block-9' of a .*; expected: noise, "):
        generator.latents(noise, CLASSES, "block-9")


@pytest.mark.parametrize("make", GENERATORS[2:])
def test_an_image_with_the_embedding_of_another_class_is_an_image_of_that_class(
    make: Callable[[], ImageGenerator],
) -> None:
    generator = make()
    noise = torch.randn(3, *generator.noise_shape, generator=torch.Generator().manual_seed(0))
    other = generator.latents(noise, torch.tensor([1, 2, 0]), "class")
    torch.testing.assert_close(generator.decode(other, CLASSES), generator(noise, torch.tensor([1, 2, 0])))


def test_inversion_brings_the_images_close_to_the_chosen_real_ones() -> None:
    config = dataclasses.replace(FAST, steps=0, inversion_steps=150)
    fitted = LatentDistiller(config).fit(gan(), data())
    real = select("random", data(), 2, 0).pixels()
    errors = [float(np.square(s - real).mean()) for s in (fitted_pixels(fitted), fitted_pixels(random_set(2)))]
    assert errors[0] < 0.6 * errors[1]  # an untrained generator


def fitted_pixels(latents: LatentSet) -> np.ndarray:
    pixels: np.ndarray = synthesize(latents, latents.ipc, data=data()).pixels()
    return pixels


@pytest.mark.parametrize("generator_lr", [0.0, 1e-3])
def test_latents_lower_the_loss_and_the_generator_moves_only_if_tuned(generator_lr: float, tmp_path: Path) -> None:
    pool = dataclasses.replace(POOL, networks=1, refresh_every=0)
    config = dataclasses.replace(
        FAST, steps=40, initial="samples", pool=pool, steps_per_draw=40, lr=0.05, generator_lr=generator_lr
    )
    made = LatentDistiller(config).fit(gan(), data(), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert torch.equal(made.generator.state_dict()["paint.weight"], gan().state_dict()["paint.weight"]) is not bool(
        generator_lr
    )
    assert all((tmp_path / name).exists() for name in ("latents.safetensors", "samples.png", "loss.png"))
    assert all(p.requires_grad for p in made.generator.parameters())
    again = LatentSet.load(tmp_path)
    np.testing.assert_array_equal(fitted_pixels(again), fitted_pixels(made))


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("make", [gan, diffusion])
def test_a_run_in_two_parts_is_the_run_in_one(make: Callable[[], ImageGenerator], lost: int, tmp_path: Path) -> None:
    config = dataclasses.replace(FAST, generator_lr=1e-3, checkpoint_every=3)
    whole = LatentDistiller(config).fit(make(), data())
    LatentDistiller(config).fit(make(), data(), tmp_path / "run")
    for path in sorted((tmp_path / "run" / "checkpoints").iterdir())[-1:]:  # as if it had been killed before the end
        path.unlink()
    if lost == 2:  # the older one is of the inversion
        kept = sorted((tmp_path / "run" / "checkpoints").iterdir())
        assert kept[-1].name == "step-00000009.safetensors"
    again = LatentDistiller(config).fit(make(), data(), tmp_path / "run")
    for name, tensor in whole.latents.items():
        assert torch.equal(tensor, again.latents[name])


def test_every_function_takes_a_latent_set_as_a_source_of_images(tmp_path: Path) -> None:
    latents = random_set()
    few, all_of_it = synthesize(latents, 2, data=data()), synthesize(latents, 4, seed=9, data=data())
    assert few.counts == (2, 2, 2) and few.meta["latents"] == "block-0"
    rows = torch.tensor([0, 1, 4, 5, 8, 9])
    np.testing.assert_allclose(few.pixels(), latents.images(rows).detach().numpy().clip(0, 1), atol=1e-5)
    torch.testing.assert_close(all_of_it.images[rows], few.images)
    streamed = stream(latents, 3, tmp_path / "streamed", data=data())
    assert isinstance(streamed, StreamedSet) and len(streamed) == 9
    result = evaluate_generator(latents, data(), 2, BRIEF)
    assert result.images is not None and result.images.counts == (2, 2, 2)
    assert Judge(data(), BRIEF)(latents).frechet > 0
    assert save_samples(latents, tmp_path / "samples.png").exists()
    with pytest.raises(InputError, match="5 images per class; expected: at most 4"):
        synthesize(latents, 5, data=data())
    with pytest.raises(InputError, match="regenerate"):
        evaluate_generator(latents, data(), 2, BRIEF, protocol="regenerate")


def test_a_folder_of_the_hub_holds_the_latents_beside_the_generator(tmp_path: Path) -> None:
    latents = random_set()
    export_hub(latents, tmp_path / "hub", classes=data().classes)
    assert {"README.md", "latents.safetensors", "generator.safetensors"} <= {
        p.name for p in (tmp_path / "hub").iterdir()
    }
    assert "LatentSet.load" in (tmp_path / "hub" / "README.md").read_text()
    np.testing.assert_array_equal(fitted_pixels(LatentSet.load(tmp_path / "hub")), fitted_pixels(latents))


def test_the_files_of_a_set_belong_together(tmp_path: Path) -> None:
    latents = random_set()
    latents.save(tmp_path)
    other = ConditionalGAN(3, (1, 8, 8), width=4, noise=8, seed=1)
    other.save(tmp_path / "generator" / "generator.safetensors")
    with pytest.raises(InputError, match="belongs to other weights"):
        LatentSet.load(tmp_path)
    checkpoint.save(tmp_path / "latents.safetensors", {"x": torch.zeros(1)}, {"kind": "photo"})
    with pytest.raises(InputError, match="holds photo; expected: latents"):
        LatentSet.load(tmp_path)


def test_latents_that_do_not_fit_are_refused() -> None:
    made = gan()
    noise = made.latents(torch.zeros(4, 8), torch.tensor([0, 0, 1, 1]))
    for latents, message in (
        (noise, "latents of 4 images; expected: equally many of each of 3 classes"),
        ({"noise": torch.zeros(3, 9)}, r"latents of shapes \{'noise': \(9,\)\}"),
        ({"noise": torch.full((3, 8), torch.nan)}, "latents that are not finite"),
    ):
        with pytest.raises(InputError, match=message):
            LatentSet(made, "noise", latents)


def test_what_cannot_work_is_refused_before_the_first_step(tmp_path: Path) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image = nn.Parameter(torch.zeros(1, 8, 8))

        def forward(self, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return self.image + noise[:, :1, None, None]

    mine = ModuleGenerator(Constant(), 3, (1, 8, 8), (1,))
    with pytest.raises(InputError, match="a ModuleGenerator cannot be saved"):
        LatentDistiller(FAST).fit(mine, data(), tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert LatentDistiller(FAST).fit(mine, data()).layer == "noise"
    with pytest.raises(InputError, match="gradients through 1 of 2 steps"):
        LatentDistiller(FAST).fit(DiffusionGenerator.denoising(3, (1, 8, 8), width=8, steps=2, grad_steps=1), data())
    with pytest.raises(InputError, match="layer 'deep' of a ConditionalGAN"):
        LatentDistiller(dataclasses.replace(FAST, layer="deep")).fit(gan(), data())
    with pytest.raises(InputError, match="ipc = real_batch"):
        dataclasses.replace(FAST, loss=dataclasses.replace(FAST.loss, reduction="sample"))


def test_the_command_distills_and_the_others_take_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pre = ["--steps", "3", "--batch-size", "16", "--width", "4", "--device", "cpu", "--no-judged"]
    assert main(["pretrain", "--data", "digits", "--out", str(tmp_path / "g"), *pre]) == 0
    pool = ["--networks", "1", "--untrained", "1", "--width", "8"]
    words = ["--ipc", "2", "--steps", "2", "--inversion-steps", "2", "--real-batch", "4", "--device", "cpu"]
    out = tmp_path / "l"
    assert main(["latents", str(tmp_path / "g"), "--out", str(out), *words, "--no-judged", *pool]) == 0
    assert LatentSet.load(out).ipc == 2 and isinstance(load_generator(out), ConditionalGAN)
    assert main(["synthesize", str(out), "--out", str(tmp_path / "s.safetensors"), "--ipc", "2"]) == 0
    assert DistilledSet.load(tmp_path / "s.safetensors").counts == (2,) * 10
    brief = ["--networks", "1", "--epochs", "1", "--width", "8", "--device", "cpu", "--no-random-real"]
    assert main(["evaluate", str(out), "--ipc", "1", "2", *brief]) == 0
    assert main(["show", str(out)]) == 0 and (out / "shown.png").exists()
    assert main(["export", str(out), "--to", str(tmp_path / "hub")]) == 0
    assert LatentSet.load(tmp_path / "hub").ipc == 2
    capsys.readouterr()
    assert main(["synthesize", str(out), "--out", str(tmp_path / "t.safetensors"), "--ipc", "3"]) == 2
    assert "at most 2" in capsys.readouterr().err
