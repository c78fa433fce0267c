from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from d2m_generator import (
    D2M,
    AdaptedGenerator,
    ConditionalGAN,
    D2MConfig,
    DiffusionGenerator,
    LatentConfig,
    LatentDistiller,
    LatentSet,
    ModuleGenerator,
    PoolConfig,
    export_hub,
    load_generator,
    save_generator,
)
from d2m_generator.__main__ import main
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import nn

POOL = PoolConfig(networks=1, untrained=1.0, width=4)
FAST = D2MConfig(steps=2, images=2, real_batch=4, pool=POOL, device="cpu")
LABELS = torch.tensor([0, 1, 1])


def grey(size: int = 12) -> ImageSet:
    random = np.random.default_rng(0)
    images, labels = random.random((20, 1, size, size), dtype=np.float32), np.arange(20) % 2
    return ImageSet.of(images, labels, images[:4], labels[:4], ("a", "b"), source="two")


def colour() -> ConditionalGAN:
    return ConditionalGAN(5, (3, 8, 8), width=4)


def adapted() -> AdaptedGenerator:
    return AdaptedGenerator(colour(), class_ids=(4, 2), image_shape=(1, 12, 12))


def test_an_adapted_generator_generates_the_chosen_classes_in_the_form_of_the_data() -> None:
    noise = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    own = colour()(noise, torch.tensor([4, 2, 2]))
    luma = 0.299 * own[:, :1] + 0.587 * own[:, 1:2] + 0.114 * own[:, 2:]
    expected = nn.functional.interpolate(luma, size=(12, 12), mode="bilinear", antialias=True)
    torch.testing.assert_close(adapted()(noise, LABELS), expected)
    as_colour = AdaptedGenerator(ConditionalGAN(5, (1, 8, 8), width=4), image_shape=(3, 8, 8))(noise, LABELS)
    assert torch.equal(as_colour[:, 0], as_colour[:, 2]) and as_colour.shape == (3, 3, 8, 8)
    for layer in adapted().latent_layers():
        latents = adapted().latents(noise, LABELS, layer)
        torch.testing.assert_close(adapted().decode(latents, LABELS), expected)
    adapted()(noise.requires_grad_(), LABELS).sum().backward()
    assert noise.grad is not None and bool((noise.grad != 0).any())


@pytest.mark.parametrize("parameters", ["all", "last", "classes"])
def test_distillation_and_latents_go_through_it_and_files_keep_it(parameters: str, tmp_path: Path) -> None:
    made = D2M(dataclasses.replace(FAST, parameters=parameters)).fit(adapted(), grey(), tmp_path / "d")
    again = load_generator(tmp_path / "d")
    assert isinstance(again, AdaptedGenerator) and again.class_ids == (4, 2)
    assert torch.equal(again.sample(LABELS, seed=1), made.sample(LABELS, seed=1))
    export_hub(made, tmp_path / "hub")
    assert torch.equal(load_generator(tmp_path / "hub").sample(LABELS, seed=1), made.sample(LABELS, seed=1))
    config = LatentConfig(ipc=1, steps=1, inversion_steps=1, real_batch=4, pool=POOL, device="cpu")
    latents = LatentDistiller(config).fit(again, grey(), tmp_path / "l")
    assert torch.equal(LatentSet.load(tmp_path / "l").images(torch.arange(2)), latents.images(torch.arange(2)))
    save_generator(colour(), tmp_path / "d" / "generator")  # a plain one in its place is not adapted
    assert isinstance(load_generator(tmp_path / "d"), ConditionalGAN)


def test_the_commands_adapt_a_generator(tmp_path: Path) -> None:
    save_generator(ConditionalGAN(12, (3, 16, 16), width=4), tmp_path / "g")
    ids = ["--class-ids", *map(str, range(11, 1, -1)), "--resize"]
    words = ["--data", "digits", "--steps", "1", "--images", "1", "--real-batch", "2", "--device", "cpu", "--no-judged"]
    pool = ["--networks", "1", "--untrained", "1", "--width", "4"]
    assert main(["distill", str(tmp_path / "g"), "--out", str(tmp_path / "d"), *words, *pool, *ids]) == 0
    assert load_generator(tmp_path / "d").image_shape == (1, 8, 8)
    assert main(["distill", str(tmp_path / "g"), "--out", str(tmp_path / "e"), *words, *pool]) == 2


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    for words, message in (
        ({"class_ids": (0, 5)}, "class_ids 0, 5; expected: distinct numbers from 0 to 4"),
        ({"class_ids": (1, 1)}, "class_ids 1, 1"),
        ({"class_ids": (-1,)}, "a class_id must be a whole number >= 0, got -1"),
        ({"image_shape": (2, 8, 8)}, "images of 3 channels for 2"),
    ):
        with pytest.raises(InputError, match=message):
            AdaptedGenerator(colour(), **words)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="AdaptedGenerator"):
        D2M(FAST).fit(colour(), grey())
    save_generator(adapted(), tmp_path)
    (tmp_path / "adapted.json").write_text(json.dumps({"class_ids": "x"}))
    with pytest.raises(InputError, match="adapted"):
        load_generator(tmp_path)
    unet = DiffusionGenerator.denoising(9, (1, 8, 8), width=8)
    with pytest.raises(InputError, match=r"5 classes of a model with 10 embeddings; expected: .* AdaptedGenerator"):
        DiffusionGenerator(unet.model, diffusers.DDIMScheduler(), n_classes=5)


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Parameter(torch.zeros(1, 12, 12))

    def forward(self, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.image + noise[:, :1, None, None]


def test_what_could_not_be_saved_is_refused_before_the_first_step(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    mine = ModuleGenerator(Mine(), 2, (1, 12, 12), (1,))
    lora = DiffusionGenerator.denoising(2, (1, 12, 12), width=8, steps=1).add_lora(2)
    for generator, message in ((mine, "a ModuleGenerator cannot be saved"), (lora, "a model with adapters")):
        with pytest.raises(InputError, match=message):
            D2M(FAST).fit(generator, grey(), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    D2M(FAST).fit(mine, grey())


def test_only_adapters_take_gradients_before_and_after_their_distillation() -> None:
    pytest.importorskip("peft")
    generator = DiffusionGenerator.denoising(2, (1, 12, 12), width=8, steps=1).add_lora(2)
    for made in (generator, D2M(dataclasses.replace(FAST, parameters="lora")).fit(generator, grey())):
        assert {".lora_" in name for name, p in made.named_parameters() if p.requires_grad} == {True}
