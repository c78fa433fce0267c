from __future__ import annotations

import json
import math
from pathlib import Path

import diffusers
import pytest
import safetensors.torch
import torch
from d2m_generator.generators import sampling
from d2m_generator.generators.diffusion import DiffusionGenerator
from d2m_generator.generators.generator import chosen_parameters, noise_of
from sextet_common.errors import InputError
from torch import Tensor, nn

LABELS = torch.tensor([0, 2, 1])


def livened(generator: DiffusionGenerator, seed: int = 0) -> DiffusionGenerator:
    """Give weights that begin as zeros, as DiT's gates do, some values, so that everything matters."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in generator.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return generator


def consistency(steps: int = 1) -> DiffusionGenerator:
    return livened(DiffusionGenerator.consistency(3, (1, 8, 8), width=8, steps=steps))


def denoising(**words: object) -> DiffusionGenerator:
    return livened(DiffusionGenerator.denoising(3, (1, 8, 8), width=8, **words))  # type: ignore[arg-type]


def gradients(generator: DiffusionGenerator) -> list[Tensor]:
    generator.zero_grad()
    noise = noise_of(range(3), generator.noise_shape, 1).double()
    generator.double().sample(LABELS, noise=noise).square().sum().backward()
    return [p.grad.clone() for p in generator.parameters() if p.grad is not None]


def test_one_consistency_step_is_the_scheduler_s_own() -> None:
    generator = consistency()
    noise = noise_of(range(3), (1, 8, 8), 0)
    scheduler = diffusers.CMStochasticIterativeScheduler(clip_denoised=False)
    scheduler.set_timesteps(1)
    x = noise * scheduler.init_noise_sigma
    [timestep] = scheduler.timesteps
    with torch.no_grad():
        scaled = scheduler.scale_model_input(x, timestep)
        found = generator.model(scaled, timestep.float(), class_labels=LABELS).sample
        wanted = scheduler.step(found, timestep, x).prev_sample
        made = generator(noise, LABELS)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)


def test_several_consistency_steps_take_the_noise_that_they_are_given() -> None:
    generator = consistency(steps=3)
    assert generator.noise_shape == (3, 8, 8)
    noise = noise_of(range(3), (3, 8, 8), 0)
    config = generator.scheduler.config
    low, high, rho = config["sigma_min"], config["sigma_max"], config["rho"]
    sigmas = [(high ** (1 / rho) + i / 3 * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(3)]
    with torch.no_grad():
        x = generator.consistent(sigmas[0] * noise[:, :1], torch.full((3,), sigmas[0]), LABELS)
        for number in (1, 2):
            spread = math.sqrt(sigmas[number] ** 2 - low**2)
            x = generator.consistent(
                x + spread * noise[:, number : number + 1], torch.full((3,), sigmas[number]), LABELS
            )
        torch.testing.assert_close(generator(noise, LABELS), x, rtol=1e-4, atol=1e-4)


def test_at_the_lowest_noise_a_consistency_model_changes_nothing() -> None:
    generator, x = consistency(), torch.randn(3, 1, 8, 8)
    low = generator.scheduler.config["sigma_min"]
    with torch.no_grad():
        torch.testing.assert_close(generator.consistent(x, torch.full((3,), low), LABELS), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_ddim_is_its_formula(guidance: float) -> None:
    # In double precision: the first step divides by sqrt(alpha), about 5e-5, which magnifies rounding.
    generator = denoising(steps=4, guidance=guidance).double()
    noise = noise_of(range(3), (1, 8, 8), 0).double()
    alphas = generator.scheduler.alphas_cumprod
    x = noise
    times = [999, 749, 499, 249]  # equal intervals, from the end
    with torch.no_grad():
        for number, time in enumerate(times):
            t = torch.full((3,), time)
            output = generator.model(x, t, class_labels=LABELS).sample.float()
            if guidance != 1:
                free = generator.model(x, t, class_labels=torch.full((3,), 3)).sample.float()
                output = free + guidance * (output - free)
            a = alphas[time]
            b = alphas[times[number + 1]] if number < 3 else torch.tensor(1.0)
            clean = (x - (1 - a).sqrt() * output) / a.sqrt()
            x = b.sqrt() * clean + (1 - b).sqrt() * output
        torch.testing.assert_close(generator(noise, LABELS), x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("steps", [300, 600, 1000])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_the_best_model_of_normal_data_generates_its_deviation(steps: int, kind: str, spacing: str) -> None:
    data = 0.5  # of normal pixels: the best prediction is then linear in the noisy image
    scheduler = diffusers.DDIMScheduler(prediction_type=kind, timestep_spacing=spacing, beta_schedule="scaled_linear")
    alphas = scheduler.alphas_cumprod.double()

    def predict(x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        a = alphas[times].view(-1, 1, 1, 1)
        clean = x * a.sqrt() * data**2 / (a * data**2 + 1 - a)
        noise = (x - a.sqrt() * clean) / (1 - a).sqrt()
        return {"epsilon": noise, "sample": clean, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * clean}[kind]

    noise = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    options = {"steps": steps, "grad_steps": steps, "guidance": 1.0, "null_label": 0}
    found = sampling.ddim(predict, scheduler, noise, torch.zeros(1, dtype=torch.long), **options)  # type: ignore[arg-type]
    assert float(found) == pytest.approx(data, rel=0.02)  # the map is linear, and the solver of order 1


def test_a_folder_of_ddpm_with_default_arguments_does_not_return_the_noise(tmp_path: Path) -> None:
    model = denoising().model
    model.save_pretrained(tmp_path / "unet")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "scheduler")  # leading spacing
    for settings in ({}, {"steps": 1}):
        generator = DiffusionGenerator.from_pretrained(tmp_path, n_classes=3, **settings)
        noise = noise_of(range(3), (1, 8, 8), 1)
        assert generator.steps == (settings or {"steps": 10})["steps"]
        assert not torch.allclose(generator(noise, LABELS), noise, rtol=0.3, atol=0.3)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler"])
def test_models_of_every_scheduler_are_sampled_alike_and_pipelines_open_their_folders(
    name: str, tmp_path: Path
) -> None:
    made = denoising(steps=5)
    config = {key: value for key, value in made.scheduler.config.items() if key != "timestep_spacing"}
    scheduler = getattr(diffusers, name).from_config(config)
    generator = DiffusionGenerator(made.model, scheduler, steps=5, n_classes=3, id2label={"0": "cat", "1": "dog"})
    torch.testing.assert_close(generator.sample(LABELS, seed=1), made.sample(LABELS, seed=1))
    generator.save_pretrained(tmp_path / "g")
    again = DiffusionGenerator.from_pretrained(tmp_path / "g")
    assert type(again.scheduler).__name__ == name and again.id2label == {"0": "cat", "1": "dog"}
    assert torch.equal(again.sample(LABELS, seed=1), generator.sample(LABELS, seed=1))
    opened = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "g", local_files_only=True)
    assert torch.equal(opened.unet.conv_in.weight, made.model.conv_in.weight)


def test_schedulers_that_are_not_sampled_here_are_refused_with_the_remedy(tmp_path: Path) -> None:
    model = denoising().model
    for scheduler, message in (
        (diffusers.LCMScheduler(), "LCMScheduler; expected: .*DDIMScheduler.from_config"),
        (diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), "sde-dpmsolver"),
        (diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction"), "flow_prediction"),
    ):
        with pytest.raises(InputError, match=message):
            DiffusionGenerator(model, scheduler, n_classes=3)  # type: ignore[arg-type]
    denoising().save_pretrained(tmp_path / "g")
    diffusers.LCMScheduler().save_pretrained(tmp_path / "g" / "scheduler")
    with pytest.raises(InputError, match="LCMScheduler"):
        DiffusionGenerator.from_pretrained(tmp_path / "g")


def test_damaged_or_foreign_folders_are_refused_by_what_is_wrong(tmp_path: Path) -> None:
    denoising().save_pretrained(tmp_path / "g")
    weights = tmp_path / "g" / "unet" / "diffusion_pytorch_model.safetensors"
    whole = safetensors.torch.load_file(weights)
    left = {name: tensor for name, tensor in whole.items() if name != "conv_in.weight"}
    safetensors.torch.save_file({**left, "padding": torch.zeros(10_000)}, weights)
    with pytest.raises(InputError, match=r"differ from its config.json in conv_in.weight, padding"):
        DiffusionGenerator.from_pretrained(tmp_path / "g")
    safetensors.torch.save_file(whole, weights)
    index = json.loads((tmp_path / "g" / "model_index.json").read_text())
    for part, message in (
        ("safety_checker", "names the part safety_checker"),
        ("vae", "names the vae X; expected: Auto"),
    ):
        (tmp_path / "g" / "model_index.json").write_text(json.dumps({**index, part: ["diffusers", "X"]}))
        with pytest.raises(InputError, match=message):
            DiffusionGenerator.from_pretrained(tmp_path / "g")
    (tmp_path / "g" / "model_index.json").write_text(json.dumps({**index, "vae": [None, None]}))
    DiffusionGenerator.from_pretrained(tmp_path / "g")  # an optional part that a pipeline lacks
    path = tmp_path / "g" / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "UNet2DConditionModel"}))
    with pytest.raises(InputError, match="names the class UNet2DConditionModel; expected: UNet2DModel"):
        DiffusionGenerator.from_pretrained(tmp_path / "g")


def test_weights_of_a_variant_are_read_as_float32(tmp_path: Path) -> None:
    made = denoising(steps=2)
    made.save_pretrained(tmp_path / "g")
    next((tmp_path / "g" / "unet").glob("*.safetensors")).unlink()
    DiffusionGenerator.denoising(3, (1, 8, 8), width=8)  # the model below changes its own weights
    half = denoising().model.half()
    half.save_pretrained(tmp_path / "g" / "unet", variant="fp16")
    again = DiffusionGenerator.from_pretrained(tmp_path / "g", variant="fp16")
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    torch.testing.assert_close(again.model.conv_in.weight, made.model.conv_in.weight, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError):
        DiffusionGenerator.from_pretrained(tmp_path / "g")


def test_a_tiny_autoencoder_decodes_and_encodes_latents(tmp_path: Path) -> None:
    vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=2, scaling_factor=0.5,
    )  # fmt: skip
    generator = livened(DiffusionGenerator.dit(3, (2, 4, 4), width=16, depth=1, vae=vae, steps=2))
    assert generator.image_shape == (3, 8, 8) and generator.sample(LABELS, seed=0).shape == (3, 3, 8, 8)
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(generator.encode(images), 0.5 * vae.encode(images).latents)
    generator.save_pretrained(tmp_path / "g")
    again = DiffusionGenerator.from_pretrained(tmp_path / "g")
    assert torch.equal(again.sample(LABELS, seed=0), generator.sample(LABELS, seed=0))


def test_truncation_at_all_steps_is_full_backpropagation_and_at_fewer_is_that_of_the_last() -> None:
    full, same = gradients(denoising(steps=4)), gradients(denoising(steps=4, grad_steps=4))
    for a, b in zip(full, same, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    generator = denoising(steps=4, grad_steps=1)
    cut = gradients(generator)
    assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(full, cut, strict=True))
    # The same by hand: three steps without gradients, and the last with.
    sampler = diffusers.DDIMScheduler.from_config(generator.scheduler.config)
    sampler.set_timesteps(4)
    x = noise_of(range(3), (1, 8, 8), 1).double()
    generator.zero_grad()
    for number, time in enumerate(sampler.timesteps):
        with torch.set_grad_enabled(number == 3):
            found = generator.model(x, time.expand(3), class_labels=LABELS).sample.float()
            x = sampler.step(found, time, x).prev_sample
    ((x + 1) / 2).square().sum().backward()
    by_hand = [p.grad for p in generator.parameters() if p.grad is not None]
    for a, c in zip(cut, by_hand, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-5, atol=1e-6)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, again = gradients(denoising(steps=2)), gradients(denoising(steps=2).checkpointed())
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_saturated_pixels_have_gradients_though_the_scheduler_clips() -> None:
    clipping = diffusers.DDIMScheduler(clip_sample=True, clip_sample_range=0.01)
    generator = DiffusionGenerator(denoising().model, clipping, steps=2, n_classes=3)
    assert all(bool(g.isfinite().all()) for g in gradients(generator))
    assert sum(float(g.abs().sum()) for g in gradients(generator)) > 0


def test_a_transformer_over_latents_of_a_vae() -> None:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip
    generator = livened(DiffusionGenerator.dit(3, (4, 8, 8), width=16, depth=2, vae=vae, steps=2, guidance=1.5))
    assert generator.image_shape == (3, 16, 16) and generator.noise_shape == (4, 8, 8)
    images = generator.sample(LABELS, seed=0)
    assert images.shape == (3, 3, 16, 16)
    assert torch.equal(images, generator.sample(LABELS, seed=0))  # no label is dropped
    generator.train()
    assert torch.equal(images, generator.sample(LABELS, seed=0))
    images.sum().backward()
    assert generator.encode(torch.zeros(2, 3, 16, 16)).shape == (2, 4, 8, 8)
    embedder = [p for n, p in generator.named_parameters() if generator.groups()["classes"](n)]
    assert embedder and all(p.grad is not None for p in embedder)
    learning = chosen_parameters(generator, "all", generator.groups())
    assert {name.split(".")[0] for name, _ in learning} == {"model"}
    assert not any(p.requires_grad for p in vae.parameters())


def test_learned_variance_is_left_out() -> None:
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=16, in_channels=1, out_channels=2, num_layers=1, sample_size=8,
        num_embeds_ada_norm=3, norm_num_groups=1,
    )  # fmt: skip
    generator = DiffusionGenerator(model, diffusers.DDIMScheduler(), steps=2)
    assert generator.sample(LABELS, seed=0).shape == (3, 1, 8, 8)


@pytest.mark.parametrize("kind", ["consistency", "denoising", "dit"])
def test_diffusers_opens_what_is_saved_and_it_is_read_again(kind: str, tmp_path: Path) -> None:
    made = {
        "consistency": consistency,
        "denoising": lambda: denoising(steps=3, grad_steps=2, guidance=1.5),
        "dit": lambda: livened(DiffusionGenerator.dit(3, (1, 8, 8), width=16, depth=1, steps=2)),
    }[kind]()
    made.save_pretrained(tmp_path / "g")
    opened = (
        diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "g", subfolder="transformer")
        if kind == "dit"
        else diffusers.UNet2DModel.from_pretrained(tmp_path / "g", subfolder="unet")
    )
    for name, tensor in opened.state_dict().items():
        assert torch.equal(tensor, made.model.state_dict()[name])
    again = DiffusionGenerator.from_pretrained(tmp_path / "g")
    assert (again.steps, again.grad_steps, again.guidance, again.n_classes) == (
        made.steps, made.grad_steps, made.guidance, 3,
    )  # fmt: skip
    assert torch.equal(again.sample(LABELS, seed=5), made.sample(LABELS, seed=5))
    assert DiffusionGenerator.from_pretrained(tmp_path / "g", steps=1, grad_steps=1).steps == 1
    made.save_pretrained(tmp_path / "g")  # again, in its place
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g"]


def test_adapters_are_small_leave_the_base_alone_and_are_read_again(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    generator = denoising(steps=2)
    before = {name: tensor.clone() for name, tensor in generator.model.state_dict().items()}
    plain = generator.sample(LABELS, seed=0).detach()
    generator.add_lora(rank=2)
    torch.testing.assert_close(generator.sample(LABELS, seed=0).detach(), plain)  # adapters begin as nothing
    learning = [p for p in generator.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learning) < 0.2 * sum(p.numel() for p in generator.parameters())
    optimizer = torch.optim.Adam(learning, 0.01)
    for _ in range(2):
        generator.sample(LABELS, seed=0).square().sum().backward()
        optimizer.step()
    moved = generator.sample(LABELS, seed=0).detach()
    assert bool(moved.isfinite().all()) and not torch.allclose(moved, plain, atol=1e-3)
    state = generator.model.state_dict()
    base = {name.replace(".base_layer", ""): t for name, t in state.items() if "lora_" not in name}
    assert base.keys() == before.keys() and all(torch.equal(base[name], before[name]) for name in base)
    generator.save_lora(tmp_path / "l")
    with pytest.raises(InputError, match="adapters"):
        generator.save_pretrained(tmp_path / "g")
    other = denoising(steps=2).load_lora(tmp_path / "l")
    torch.testing.assert_close(other.sample(LABELS, seed=0).detach(), moved, rtol=1e-5, atol=1e-6)
    other.merge_lora()
    assert other.model.state_dict().keys() == before.keys()
    torch.testing.assert_close(other.sample(LABELS, seed=0).detach(), moved, rtol=1e-4, atol=1e-5)
    other.save_pretrained(tmp_path / "g")
    with pytest.raises(InputError, match="another architecture"):
        livened(wider := DiffusionGenerator.denoising(3, (1, 8, 8), width=16)).load_lora(tmp_path / "l")
    assert not any("lora" in name for name in wider.model.state_dict())  # refused, they are not in it either
    with pytest.raises(InputError, match="another architecture"):
        DiffusionGenerator.dit(3, (1, 8, 8), width=16, depth=1).load_lora(tmp_path / "l")


def test_adapters_are_peft_s_in_both_directions(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    generator = denoising(steps=2).add_lora(rank=2)
    for name, parameter in generator.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))
    expected = generator.sample(LABELS, seed=0).detach()
    generator.save_lora(tmp_path / "ours")
    other = denoising(steps=2)
    peft.PeftModel.from_pretrained(other.model, str(tmp_path / "ours"))
    torch.testing.assert_close(other.sample(LABELS, seed=0).detach(), expected, rtol=1e-3, atol=1e-3)
    theirs = denoising(steps=2)
    config = peft.LoraConfig(
        r=3, lora_alpha=6, target_modules=["conv1", "conv2"], rank_pattern={"conv2": 1}, use_rslora=True
    )
    wrapped = peft.get_peft_model(theirs.model, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    wrapped.save_pretrained(tmp_path / "theirs")
    again = denoising(steps=2)
    again.load_lora(tmp_path / "theirs")
    torch.testing.assert_close(
        again.sample(LABELS, seed=0).detach(), theirs.sample(LABELS, seed=0).detach(), rtol=1e-3, atol=1e-3
    )


def test_adapters_that_claim_another_rank_are_refused_before_any_is_made(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    denoising(steps=2).add_lora(rank=2).save_lora(tmp_path / "l")
    table = json.loads((tmp_path / "l" / "adapter_config.json").read_text())
    (tmp_path / "l" / "adapter_config.json").write_text(json.dumps(table | {"r": 10**9}))
    other = denoising(steps=2)
    with pytest.raises(InputError, match="adapters of rank 2 and claims rank 1000000000"):
        other.load_lora(tmp_path / "l")
    assert not any("lora" in name for name in other.model.state_dict())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"steps": 5000}, "steps must be at most 1000"),
        ({"steps": 4, "grad_steps": 5}, "grad_steps must be at most steps = 4, got 5"),
        ({"guidance": -1.0}, "guidance must be a number >= 0, got -1"),
        ({"n_classes": 9}, "9 classes of a model with 4 embeddings"),
        ({"n_classes": 4, "guidance": 2.0}, "a null class embedding"),
    ],
)
def test_settings_outside_what_is_accepted(words: dict[str, object], message: str) -> None:
    model = denoising().model
    with pytest.raises(InputError, match=message):
        DiffusionGenerator(model, diffusers.DDIMScheduler(), **words)  # type: ignore[arg-type]


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    unlabelled = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )  # fmt: skip
    with pytest.raises(InputError, match="no class embeddings"):
        DiffusionGenerator(unlabelled, diffusers.DDIMScheduler())
    with pytest.raises(InputError, match="guidance 2"):
        DiffusionGenerator(consistency().model, diffusers.CMStochasticIterativeScheduler(), guidance=2.0)
    with pytest.raises(InputError, match="width must be a multiple of 8, got 12"):
        DiffusionGenerator.consistency(3, (1, 8, 8), width=12)
    with pytest.raises(InputError, match="images of 8 x 12"):
        DiffusionGenerator.consistency(3, (1, 8, 12))
    with pytest.raises(InputError, match="patch 3"):
        DiffusionGenerator.dit(3, (1, 8, 8), patch=3)
    with pytest.raises(InputError, match="lacks unet/"):
        DiffusionGenerator.from_pretrained(tmp_path)
    consistency().save_pretrained(tmp_path / "g")
    weights = tmp_path / "g" / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(b"broken" + content)
    with pytest.raises(InputError, match="cannot be read"):
        DiffusionGenerator.from_pretrained(tmp_path / "g")
    weights.write_bytes(content[:1000])
    with pytest.raises(InputError, match="holds 1000 bytes of weights, and its config"):
        DiffusionGenerator.from_pretrained(tmp_path / "g")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="holds something else"):
        consistency().save_pretrained(tmp_path / "other")
    assert (tmp_path / "other" / "mine.txt").read_text() == "keep"
