"""Sharing: exported folders, repositories of the Hub, and synthetic sets that datasets opens."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from attention_matching import DistilledSet
from d2m_generator import ConditionalGAN, DiffusionGenerator, ModuleGenerator, Quality, export_hub, load_generator
from d2m_generator.__main__ import main
from d2m_generator.generators.generator import ImageGenerator, noise_of
from sextet_common.errors import InputError
from torch import nn

LABELS = torch.tensor([0, 2, 1])
NASTY = ("cat", "<img src=x onerror=y>", "a|b\n# c")
PRE = ["--steps", "2", "--batch-size", "8", "--device", "cpu", "--sample-every", "9", "--no-judged"]
POOL = ["--networks", "1", "--epochs", "1", "--trained-on", "16", "--width", "4"]


def livened(generator: DiffusionGenerator) -> DiffusionGenerator:
    """Replace the layers that start as zeros, so that labels and noise matter."""
    torch.manual_seed(0)
    for parameter in generator.model.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.2)
    return generator


def dit_with_vae() -> DiffusionGenerator:
    torch.manual_seed(1)
    vae = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=2, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    return livened(DiffusionGenerator.dit(3, (2, 4, 4), width=16, depth=1, vae=vae, steps=4))


MAKE: dict[str, Any] = {
    "gan": lambda: ConditionalGAN(3, (1, 8, 8), width=4, seed=3),
    "consistency": lambda: livened(DiffusionGenerator.consistency(3, (3, 8, 8), width=8)),
    "denoising": lambda: livened(DiffusionGenerator.denoising(3, (1, 8, 8), width=8, steps=3, guidance=1.5)),
    "dit": lambda: livened(DiffusionGenerator.dit(3, (1, 8, 8), width=16, depth=1, steps=2)),
    "dit with vae": dit_with_vae,
}
LIBRARY = {"consistency": "diffusers", "dit with vae": "diffusers"}


def state(generator: ImageGenerator) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in generator.state_dict().items()}


@pytest.mark.parametrize("kind", MAKE)
def test_an_exported_generator_is_bit_identical_and_its_card_is_valid(kind: str, tmp_path: Path) -> None:
    cards = pytest.importorskip("huggingface_hub")
    made = MAKE[kind]()
    export_hub(made, tmp_path / "hub", classes=NASTY, scores={"agreement": "97 %"}, license="mit")
    again = load_generator(tmp_path / "hub")
    assert type(again) is type(made) and state(again).keys() == state(made).keys()
    assert all(torch.equal(tensor, state(made)[name]) for name, tensor in state(again).items())
    assert torch.equal(again.sample(LABELS, seed=4), made.sample(LABELS, seed=4))
    card = cards.ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.library_name == LIBRARY.get(kind, "d2m-generator")
    assert card.data.license == "mit" and card.data.pipeline_tag == "unconditional-image-generation"
    assert "97 %" in card.text and "<img" not in card.text and "a|b" not in card.text and "\n# c" not in card.text
    assert (tmp_path / "hub" / "model_index.json").exists() == (kind in LIBRARY or kind == "denoising")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub"]
    weights = [path.suffix for path in (tmp_path / "hub").rglob("*") if path.suffix in (".bin", ".pt", ".pickle")]
    assert weights == []


def test_diffusers_pipeline_opens_a_consistency_model_and_generates_the_same_images(tmp_path: Path) -> None:
    made = MAKE["consistency"]()
    export_hub(made, tmp_path / "hub")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "hub", local_files_only=True)
    assert type(pipeline).__name__ == "ConsistencyModelPipeline"
    pipeline.set_progress_bar_config(disable=True)
    noise = noise_of(range(3), (3, 8, 8), seed=7)
    options = {"batch_size": 3, "class_labels": LABELS, "latents": noise, "num_inference_steps": 1}
    images = pipeline(**options, output_type="np").images
    wanted = made.sample(LABELS, noise=noise).detach().clamp(0, 1)
    torch.testing.assert_close(torch.from_numpy(images).permute(0, 3, 1, 2), wanted, rtol=1e-4, atol=1e-4)
    assert float(wanted.std()) > 0.05  # not a constant
    other = pipeline(**{**options, "class_labels": LABELS.flip(0)}, output_type="np").images
    assert np.abs(images - other).max() > 1e-3  # labels matter


def test_diffusers_pipeline_opens_a_dit_with_a_vae_and_generates_the_same_images(tmp_path: Path) -> None:
    made = MAKE["dit with vae"]()
    export_hub(made, tmp_path / "hub")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "hub", local_files_only=True)
    assert type(pipeline).__name__ == "DiTPipeline"
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(
        class_labels=LABELS.tolist(), guidance_scale=1, num_inference_steps=4, output_type="np",
        generator=torch.Generator().manual_seed(5),
    ).images  # fmt: skip
    noise = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(5))
    wanted = made.sample(LABELS, noise=noise).detach().clamp(0, 1)
    torch.testing.assert_close(torch.from_numpy(found).permute(0, 3, 1, 2), wanted, rtol=1e-4, atol=1e-4)
    assert float(wanted.std()) > 0.01


@pytest.mark.parametrize("kind", ["gan", "denoising"])
def test_a_repository_of_the_hub_is_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    made, asked = MAKE[kind](), []
    export_hub(made, tmp_path / "hub")

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["revision"]))
        return str(tmp_path / "hub")

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    for again in (load_generator("me/gan", revision="v1"), type(made).from_pretrained("me/gan", revision="v1")):
        assert torch.equal(again.sample(LABELS, seed=4), made.sample(LABELS, seed=4))
    assert asked == [("me/gan", "v1")] * 2
    assert main(["show", "me/gan", "--out", "shown.png"]) == 0 and (tmp_path / "shown.png").exists()
    assert main(["show", "me/gan"]) == 2 and not (tmp_path / "me").exists()


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    gan = MAKE["gan"]()
    with pytest.raises(InputError, match="2 class names; expected: 3, as the generator's"):
        export_hub(gan, tmp_path / "hub", classes=("a", "b"))
    with pytest.raises(InputError, match="a ModuleGenerator cannot be saved"):
        export_hub(module(), tmp_path / "hub")
    assert list(tmp_path.iterdir()) == []
    export_hub(gan, tmp_path / "hub")
    with pytest.raises(InputError, match="hub exists"):
        export_hub(gan, tmp_path / "hub")


def module() -> ModuleGenerator:
    class Constant(nn.Module):
        def forward(self, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return noise[:, :1, None, None].expand(-1, 1, 8, 8)

    return ModuleGenerator(Constant(), 3, (1, 8, 8), (2,))


def test_the_commands_export_and_take_exported_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, hub = tmp_path / "g", tmp_path / "hub"
    assert main(["pretrain", "--out", str(run), *PRE, "--width", "4"]) == 0
    (run / "quality.json").write_text(json.dumps(dataclasses.asdict(Quality(4.25, 0.5, 0.875, 0.5, 0.25, 0.75))))
    evaluate = ["--ipc", "1", "--networks", "1", "--epochs", "1", "--width", "4", "--no-random-real", "--device", "cpu"]
    assert main(["evaluate", str(run), *evaluate]) == 0
    assert main(["export", str(run), "--to", str(hub), "--license", "mit", "--data", "digits"]) == 0
    card = (hub / "README.md").read_text(encoding="utf-8")
    accuracy = json.loads((run / "evaluation.json").read_text())[0]["generated"][0]
    assert "4.25 (0.50)" in card and "87.5 %" in card and f"{100 * accuracy:.1f}" in card and "| 9 | 9 |" in card
    capsys.readouterr()
    distill = ["--steps", "1", "--images", "1", "--real-batch", "4", "--device", "cpu", "--no-judged", *POOL]
    assert main(["distill", str(hub), "--out", str(tmp_path / "d"), *distill]) == 2
    assert "--data, or a run folder that records its images" in capsys.readouterr().err
    for source, out in ((run, "d1"), (hub, "d2")):
        assert main(["distill", str(source), "--out", str(tmp_path / out), "--data", "digits", *distill]) == 0
    weights = [(tmp_path / out / "generator" / "generator.safetensors").read_bytes() for out in ("d1", "d2")]
    assert weights[0] == weights[1]
    assert main(["evaluate", str(hub), "--data", "digits", "--out", str(tmp_path / "e"), *evaluate]) == 0
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())[0]["generated"][0] == accuracy


def test_adapters_are_merged_into_what_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    words = ["--kind", "diffusion", "--width", "8", "--out", str(tmp_path / "g"), *PRE]
    assert main(["pretrain", *words]) == 0
    generator = load_generator(tmp_path / "g")
    assert isinstance(generator, DiffusionGenerator)
    generator.add_lora(2)
    for name, parameter in generator.named_parameters():
        if ".lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    generator.save_lora(tmp_path / "lora")
    options = ["--to", str(tmp_path / "hub"), "--lora", str(tmp_path / "lora")]
    assert main(["export", str(tmp_path / "g"), *options]) == 0
    labels = torch.arange(10)
    found, plain = (load_generator(tmp_path / name).sample(labels, seed=0).detach() for name in ("hub", "g"))
    torch.testing.assert_close(found, generator.sample(labels, seed=0).detach(), rtol=1e-3, atol=1e-4)
    assert float((found - plain).abs().max()) > 1e-2


@pytest.mark.parametrize("layout", ["hub", "hub-imagefolder"])
def test_datasets_opens_a_synthetic_set(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["pretrain", "--out", str(tmp_path / "g"), *PRE, "--width", "4"]) == 0
    words = ["synthesize", str(tmp_path / "g"), "--ipc", "3", "--seed", "2"]
    assert main([*words, "--out", str(tmp_path / "set"), "--export", layout]) == 0
    assert main([*words, "--out", str(tmp_path / "s.safetensors")]) == 0
    distilled = DistilledSet.load(tmp_path / "s.safetensors")
    again = DistilledSet.from_pretrained(tmp_path / "set")
    assert torch.equal(again.images, distilled.images) and again.classes == distilled.classes
    opened = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert opened["label"] == distilled.labels.tolist() and opened.features["label"].names == list(distilled.classes)
    pixels = np.stack([np.asarray(image) for image in opened["image"]])[:, None] / 255
    assert np.abs(pixels - distilled.pixels()).max() <= 0.5 / 255 + 1e-6
    assert main([*words, "--out", str(tmp_path / "set"), "--export", layout]) == 2  # it exists
