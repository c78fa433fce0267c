"""Diffusion and consistency models of diffusers as generators: few steps, with gradients through the last of them.

The pipelines of diffusers run without gradients, so their parts are used here and the loop over the steps is ours. A
scheduler that clips what it predicts has no gradient where pixels are black or white: in sampling here none does.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    UNet2DModel,
)
from jaxtyping import Float, Int
from sextet_common import files
from sextet_common.errors import InputError, reading
from sextet_common.seeding import torch_seed
from torch import Tensor

from d2m_generator import lora
from d2m_generator.diffusers_folder import FILE, read_parts
from d2m_generator.generator import ImageGenerator

Kind = Literal["consistency", "ddim"]


class DiffusionGenerator(ImageGenerator):
    """A class-conditional diffusion or consistency model that makes an image in few steps.

    Parameters
    ----------
    model
        diffusers' `UNet2DModel` with class embeddings, or `DiTTransformer2DModel`.
    scheduler
        `CMStochasticIterativeScheduler` for a consistency model; `DDIMScheduler` or `DDPMScheduler` for a diffusion
        model, which is sampled as DDIM without noise.
    vae
        `AutoencoderKL`, where the model works on latents.
    steps
        Steps of the sampling.
    grad_steps
        The last so many steps have gradients; all where not given.
    guidance
        Classifier-free guidance, 1 for none; for a model with a class for no class.
    n_classes
        How many classes; where not given, all of the model's embeddings (but DiT's for no class).

    Raises
    ------
    InputError
        Where the parts do not fit each other, or a setting is outside what is accepted.

    References
    ----------
    Consistency models, arXiv 2303.01469; denoising diffusion implicit models, arXiv 2010.02502; DRaFT, arXiv
    2309.17400, for gradients through the last steps.

    Examples
    --------
    >>> small = DiffusionGenerator.consistency(10, (1, 8, 8), width=8)
    >>> small.sample(torch.tensor([3]), seed=0).shape
    torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        model: UNet2DModel | DiTTransformer2DModel,
        scheduler: CMStochasticIterativeScheduler | DDIMScheduler | DDPMScheduler,
        *,
        vae: AutoencoderKL | None = None,
        steps: int = 1,
        grad_steps: int | None = None,
        guidance: float = 1.0,
        n_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.transformer = isinstance(model, DiTTransformer2DModel)
        embeddings = model.config["num_embeds_ada_norm" if self.transformer else "num_class_embeds"]
        if not embeddings:
            raise InputError("the model has no class embeddings", "num_class_embeds = the number of classes")
        self.n_classes = int(n_classes or embeddings)
        self.kind: Kind = "consistency" if isinstance(scheduler, CMStochasticIterativeScheduler) else "ddim"
        # DiT keeps one embedding more than it says, for no class; a UNet has one where it was made with it.
        self.null = int(embeddings) if self.transformer else (self.n_classes if embeddings > self.n_classes else None)
        if self.n_classes > embeddings:
            raise InputError(f"{self.n_classes} classes of a model with {embeddings} embeddings", "one at least each")
        if not 1 <= steps <= scheduler.config["num_train_timesteps"]:
            raise InputError(f"steps is {steps}", f"1 to {scheduler.config['num_train_timesteps']}, as the scheduler's")
        if grad_steps is not None and not 1 <= grad_steps <= steps:
            raise InputError(f"grad_steps is {grad_steps}", f"1 to steps = {steps}")
        if not math.isfinite(guidance) or guidance < 0:
            raise InputError(f"guidance is {guidance}", "a number >= 0, 1 for none")
        if guidance != 1 and (self.null is None or self.kind == "consistency"):
            raise InputError(f"guidance {guidance}", "1, or a diffusion model with an embedding for no class")
        self.model, self.scheduler, self.vae = model, scheduler, vae
        self.steps, self.grad_steps, self.guidance = steps, grad_steps or steps, guidance
        side = model.config["sample_size"]
        height, wide = side if isinstance(side, list | tuple) else (side, side)
        channels = int(model.config["in_channels"])
        self._latent = (channels, int(height), int(wide))
        if vae is None:
            self.image_shape = self._latent
        else:
            factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
            self.image_shape = (int(vae.config["out_channels"]), height * factor, wide * factor)
            if vae.config["latent_channels"] != channels:
                raise InputError(
                    f"a VAE of {vae.config['latent_channels']} latent channels", f"{channels}, the model's"
                )
        extra = steps if self.kind == "consistency" else 1  # a consistency model is given new noise before each step
        self.noise_shape = (extra * channels, int(height), int(wide))
        self.eval()

    @classmethod
    def consistency(
        cls, n_classes: int, image_shape: tuple[int, int, int], *, width: int = 32, steps: int = 1, seed: int = 0
    ) -> DiffusionGenerator:
        """Make an untrained consistency model in pixel space: a UNet of two to four levels.

        Parameters
        ----------
        n_classes
            How many classes.
        image_shape
            Channels, height and width.
        width
            Channels of the first level, a multiple of 8.
        steps
            Of the sampling.
        seed
            Of the initial weights.

        Returns
        -------
        DiffusionGenerator
            The generator.
        """
        scheduler = CMStochasticIterativeScheduler(num_train_timesteps=40, sigma_min=0.002, sigma_max=80.0)
        return cls(_unet(image_shape, n_classes, width, seed), scheduler, steps=steps)

    @classmethod
    def denoising(
        cls,
        n_classes: int,
        image_shape: tuple[int, int, int],
        *,
        width: int = 32,
        steps: int = 10,
        grad_steps: int | None = None,
        guidance: float = 1.0,
        seed: int = 0,
    ) -> DiffusionGenerator:
        """Make an untrained diffusion model in pixel space, with an embedding for no class.

        Parameters
        ----------
        n_classes, image_shape, width, seed
            As for `consistency`.
        steps, grad_steps, guidance
            As for the class.

        Returns
        -------
        DiffusionGenerator
            The generator.
        """
        scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False, timestep_spacing="trailing")
        model = _unet(image_shape, n_classes + 1, width, seed)
        return cls(model, scheduler, steps=steps, grad_steps=grad_steps, guidance=guidance, n_classes=n_classes)

    @classmethod
    def dit(
        cls,
        n_classes: int,
        latent_shape: tuple[int, int, int],
        *,
        width: int = 64,
        depth: int = 4,
        patch: int = 2,
        vae: AutoencoderKL | None = None,
        steps: int = 10,
        grad_steps: int | None = None,
        guidance: float = 1.0,
        seed: int = 0,
    ) -> DiffusionGenerator:
        """Make an untrained diffusion transformer, over pixels or, with a VAE, over latents.

        Parameters
        ----------
        n_classes
            How many classes.
        latent_shape
            Channels, height and width of what it works on: square, a multiple of the patch.
        width
            Of the tokens, a multiple of 16.
        depth
            Blocks.
        patch
            Side of a token, in pixels.
        vae, steps, grad_steps, guidance
            As for the class.
        seed
            Of the initial weights.

        Returns
        -------
        DiffusionGenerator
            The generator.

        Raises
        ------
        InputError
            Where it cannot make such images.
        """
        channels, height, wide = latent_shape
        if height != wide or height % patch or width % 16:
            given = f"a transformer of width {width} and patch {patch} for {height} x {wide}"
            raise InputError(given, "square sides that are a multiple of the patch, a width that is a multiple of 16")
        with torch_seed(seed, "dit"):
            model = DiTTransformer2DModel(
                num_attention_heads=width // 16, attention_head_dim=16, in_channels=channels, out_channels=channels,
                num_layers=depth, sample_size=height, patch_size=patch, num_embeds_ada_norm=n_classes,
                norm_num_groups=1,
            )  # fmt: skip
        scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False, timestep_spacing="trailing")
        return cls(model, scheduler, vae=vae, steps=steps, grad_steps=grad_steps, guidance=guidance)

    def train(self, mode: bool = True) -> DiffusionGenerator:
        """Stay in evaluation, whatever is said: DiT would drop labels by a random number of its own."""
        super().train(False)
        return self

    def forward(
        self, noise: Float[Tensor, "batch channels height width"], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Make images, pixels in about [-1, 1]."""
        latents = self._consistent(noise, labels) if self.kind == "consistency" else self._denoised(noise, labels)
        if self.vae is None:
            return latents
        images: Tensor = self.vae.decode(latents / self.vae.config["scaling_factor"]).sample
        return images

    def predict(self, x: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        """Run the model: its output for noisy images, of DiT without the learned variance."""
        found: Tensor = self.model(x, timestep, class_labels=labels, return_dict=False)[0]
        return found[:, : self._latent[0]].float()

    def _denoised(self, x: Tensor, labels: Tensor) -> Tensor:
        sampler = DDIMScheduler.from_config(self.scheduler.config, clip_sample=False, thresholding=False)
        sampler.set_timesteps(self.steps, device=x.device)
        wanted = torch.is_grad_enabled()
        for number, timestep in enumerate(sampler.timesteps):
            with torch.set_grad_enabled(wanted and number >= self.steps - self.grad_steps):
                time = timestep.expand(len(x))
                if self.guidance == 1:
                    found = self.predict(x, time, labels)
                else:
                    none = torch.full_like(labels, self.null or 0)
                    both = self.predict(torch.cat([x, x]), torch.cat([time, time]), torch.cat([labels, none]))
                    given, free = both.chunk(2)
                    found = free + self.guidance * (given - free)
                x = sampler.step(found, timestep, x, return_dict=False)[0]
        return x

    def _consistent(self, noise: Tensor, labels: Tensor) -> Tensor:
        rows = noise.view(len(noise), self.steps, *self._latent)
        config = self.scheduler.config
        low, high, rho = config["sigma_min"], config["sigma_max"], config["rho"]
        ramp = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)[:-1]
        sigmas = ((high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho).tolist()
        wanted = torch.is_grad_enabled()
        x = torch.zeros_like(rows[:, 0])
        for number, sigma in enumerate(sigmas):
            with torch.set_grad_enabled(wanted and number >= self.steps - self.grad_steps):
                spread = sigma if not number else math.sqrt(sigma**2 - low**2)
                x = self.consistent(x + spread * rows[:, number], torch.full((len(x),), sigma, device=x.device), labels)
        return x

    def consistent(self, x: Tensor, sigma: Float[Tensor, " batch"], labels: Tensor) -> Tensor:
        """Apply the consistency function: the clean image of a noisy one, whose noise has the deviation sigma."""
        config = self.scheduler.config
        data, low = config["sigma_data"], config["sigma_min"]
        s = sigma.view(-1, 1, 1, 1)
        timestep = 250 * torch.log(sigma)  # a float tensor: diffusers casts plain numbers to whole ones
        found = self.predict(x / (s**2 + data**2).sqrt(), timestep, labels)
        clean: Tensor = data**2 / ((s - low) ** 2 + data**2) * x + (s - low) * data / (s**2 + data**2).sqrt() * found
        return clean

    def encode(self, images: Float[Tensor, "batch channels height width"]) -> Tensor:
        """Return what the model works on, of images in [-1, 1]: the images, or their latents."""
        if self.vae is None:
            return images
        with torch.no_grad():
            latents: Tensor = self.vae.encode(images).latent_dist.mean * self.vae.config["scaling_factor"]
        return latents

    def checkpointed(self) -> DiffusionGenerator:
        """Compute activations anew in the backward pass, for less memory; returns itself."""
        self.model.enable_gradient_checkpointing()
        return self

    def groups(self) -> dict[str, Callable[[str], bool]]:
        """Tell which parameters are of a group: "all" (the model's, not the VAE's), "last", "classes", "lora"."""
        blocks = "model.transformer_blocks." if self.transformer else "model.up_blocks."
        numbers = [int(n[len(blocks) :].split(".")[0]) for n, _ in self.named_parameters() if n.startswith(blocks)]
        last = (
            f"{blocks}{max(numbers)}.",
            "model.conv_norm_out.",
            "model.conv_out.",
            "model.proj_out_",
            "model.norm_out.",
        )
        return {
            "all": lambda name: name.startswith("model."),
            "last": lambda name: name.startswith(last) and ".lora_" not in name,
            "classes": lambda name: ("class_embedding" in name or "class_embedder" in name) and ".lora_" not in name,
            "lora": lambda name: ".lora_" in name,
        }

    def add_lora(self, rank: int = 4, *, targets: tuple[str, ...] | None = None, seed: int = 0) -> DiffusionGenerator:
        """Add low-rank adapters by peft (extra ``lora``), and freeze all else; returns itself.

        Parameters
        ----------
        rank
            Of the adapters.
        targets
            Which layers, by the ends of their names; attention and, in a UNet, convolutions where not given.
        seed
            Of the initial weights.
        """
        chosen = targets or (("to_q", "to_k", "to_v", "to_out.0") + (() if self.transformer else ("conv1", "conv2")))
        with torch_seed(seed, "lora"):
            lora.add(self.model, rank, chosen)
        return self

    def merge_lora(self) -> DiffusionGenerator:
        """Add the adapters to the weights and remove them; returns itself."""
        lora.merge(self.model)
        return self

    def save_lora(self, path: str | os.PathLike[str]) -> Path:
        """Save the adapters alone, as one safetensors file."""
        return lora.save(self.model, path)

    def load_lora(self, path: str | os.PathLike[str]) -> DiffusionGenerator:
        """Add saved adapters to the model that they were trained on; returns itself.

        Raises
        ------
        InputError
            Where the file is of another model: the keys that differ are named.
        """
        lora.load(self.model, path)
        return self

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Save in diffusers' folder format, with d2m.json for the sampling; the folder is whole or not there.

        `UNet2DModel.from_pretrained(folder, subfolder="unet")` and its like open the parts.

        Parameters
        ----------
        folder
            Where. What a former call left there is replaced.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        InputError
            Where adapters are not merged, or the folder holds something else.
        """
        if lora.has(self.model):
            raise InputError("a model with adapters", "merge_lora() first, or save_lora for the adapters alone")
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()) and not (folder / FILE).is_file():
            raise InputError(f"{folder} holds something else", "a new folder")
        with files.replacing_folder(folder) as part:
            self.model.save_pretrained(part / ("transformer" if self.transformer else "unet"))
            self.scheduler.save_pretrained(part / "scheduler")
            if self.vae is not None:
                self.vae.save_pretrained(part / "vae")
            settings = {"n_classes": self.n_classes, "steps": self.steps, "grad_steps": self.grad_steps,
                        "guidance": self.guidance}  # fmt: skip
            files.write_text(part / FILE, json.dumps(settings, indent=1) + "\n")
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **settings: Any) -> DiffusionGenerator:
        """Read a generator from a local folder in diffusers' format.

        Parameters
        ----------
        folder
            Holds unet/ or transformer/, scheduler/, perhaps vae/, perhaps d2m.json. Nothing is fetched.
        **settings
            steps, grad_steps, guidance, n_classes, in the place of d2m.json's.

        Returns
        -------
        DiffusionGenerator
            The generator.

        Raises
        ------
        InputError
            Where a part is missing or of a kind that is not known here.
        """
        parts = read_parts(Path(folder))
        with reading(folder, "whole files of one model"):
            return cls(parts.model, parts.scheduler, vae=parts.vae, **{**parts.settings, **settings})


def _unet(image_shape: tuple[int, int, int], embeddings: int, width: int, seed: int) -> UNet2DModel:
    """Make a UNet whose lowest level has sides of 4 to 8 pixels; attention there."""
    channels, height, wide = image_shape
    if width < 8 or width % 8:
        raise InputError(f"width is {width}", "a multiple of 8")
    if height != wide:
        raise InputError(f"images of {height} x {wide} pixels", "square ones, for a UNet made here")
    levels = 1
    while levels < 4 and (height >> levels) >= 4 and not (height >> (levels - 1)) % 2:
        levels += 1
    widths = tuple(width * min(4, 2**level) for level in range(levels))
    with torch_seed(seed, "unet"):
        return UNet2DModel(
            sample_size=height, in_channels=channels, out_channels=channels, block_out_channels=widths,
            down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
            layers_per_block=1, norm_num_groups=8, attention_head_dim=8, num_class_embeds=embeddings,
            resnet_time_scale_shift="scale_shift",
        )  # fmt: skip
