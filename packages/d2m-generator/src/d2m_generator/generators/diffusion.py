"""Diffusion and consistency models of diffusers as generators."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderTiny, CMStochasticIterativeScheduler, DiTTransformer2DModel
from jaxtyping import Float
from sextet_common import checks, hub
from sextet_common.errors import InputError, reading
from sextet_common.seeding import torch_seed
from torch import Tensor, nn

from d2m_generator.generators import architectures, lora, sampling
from d2m_generator.generators.diffusers_folder import (
    VAE,
    Model,
    Parts,
    Scheduler,
    check_scheduler,
    read_parts,
    replace_parts,
)
from d2m_generator.generators.generator import Groups, ImageGenerator, Images, Labels, Noise, check_layer

Kind = Literal["consistency", "ddim"]


class DiffusionGenerator(ImageGenerator):
    """Class-conditional diffusion or consistency model with few-step, differentiable sampling.

    Parameters
    ----------
    model
        `UNet2DModel` with class embeddings, or `DiTTransformer2DModel`, of diffusers.
    scheduler
        `CMStochasticIterativeScheduler` for a consistency model; `DDIMScheduler`, `DDPMScheduler` or a deterministic
        `DPMSolverMultistepScheduler` for a diffusion model, which is sampled by DDIM without noise.
    vae
        `AutoencoderKL` or `AutoencoderTiny` for a model of latents.
    steps, grad_steps
        Sampling steps, by default 1 of a consistency model and 10 of a diffusion model, and how many of the last ones
        are differentiable, by default all.
    guidance
        Scale of classifier-free guidance; 1 disables it. Needs a diffusion model with a null class embedding.
    n_classes
        By default all embeddings of the model except a DiT's null embedding; one less makes a UNet's last embedding the
        null class. `AdaptedGenerator` takes a subset of the classes.
    id2label
        Names of the model's classes by number, as pipelines of diffusers store them.

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
        model: Model,
        scheduler: Scheduler,
        *,
        vae: VAE | None = None,
        steps: int | None = None,
        grad_steps: int | None = None,
        guidance: float = 1.0,
        n_classes: int | None = None,
        id2label: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        check_scheduler(scheduler)
        self.transformer = isinstance(model, DiTTransformer2DModel)
        self.kind: Kind = "consistency" if isinstance(scheduler, CMStochasticIterativeScheduler) else "ddim"
        embeddings = model.config["num_embeds_ada_norm" if self.transformer else "num_class_embeds"]
        if not embeddings:
            raise InputError("the model has no class embeddings", "num_class_embeds = the number of classes")
        self.n_classes = int(n_classes or embeddings)
        if not 0 <= embeddings - self.n_classes <= (0 if self.transformer else 1):
            accepted = f"{embeddings}, or an AdaptedGenerator of some of them"
            raise InputError(f"{self.n_classes} classes of a model with {embeddings} embeddings", accepted)
        self.id2label = dict(id2label or {})
        steps = (1 if self.kind == "consistency" else 10) if steps is None else steps
        # A DiT has one embedding more than its config says, the null class; a UNet has one if it was made with it.
        self.null = int(embeddings) if self.transformer else (self.n_classes if embeddings > self.n_classes else None)
        self.model, self.scheduler = model, scheduler
        self._adapters: list[Any] = []  # a PeftModel around the model; in a list, it is no module of this one
        self.vae = vae if vae is None else vae.requires_grad_(False)
        self.steps, self.grad_steps, self.guidance = steps, grad_steps or steps, guidance
        self._check_sampling(grad_steps)
        self._latent_shape = _latent_shape(model)
        self.image_shape = self._latent_shape if vae is None else _decoded_shape(vae, self._latent_shape)
        channels, height, width = self._latent_shape
        noises = steps if self.kind == "consistency" else 1  # a consistency model adds fresh noise before each step
        self.noise_shape = (noises * channels, height, width)
        self.eval()

    def _check_sampling(self, grad_steps: int | None) -> None:
        longest = self.scheduler.config["num_train_timesteps"]
        checks.check("steps", self.steps, checks.Count)
        checks.check("grad_steps", grad_steps, checks.Count | None)
        checks.check("guidance", self.guidance, checks.NonNegative)
        if self.steps > longest:
            raise InputError(f"steps must be at most {longest}, the scheduler's timesteps, got {self.steps}")
        if self.grad_steps > self.steps:
            raise InputError(f"grad_steps must be at most steps = {self.steps}, got {self.grad_steps}")
        if self.guidance != 1 and (self.null is None or self.kind == "consistency"):
            raise InputError(f"guidance {self.guidance}", "1, or a diffusion model with a null class embedding")

    @classmethod
    def consistency(
        cls, n_classes: int, image_shape: tuple[int, int, int], *, width: int = 32, steps: int = 1, seed: int = 0
    ) -> DiffusionGenerator:
        """Return an untrained consistency model in pixel space: a UNet of one to four levels.

        ``image_shape`` is channels, height and width; ``width`` is the channels of the first level, a multiple of 8.
        """
        model = architectures.unet(image_shape, n_classes, width, seed)
        return cls(model, architectures.consistency_scheduler(), steps=steps)

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
        """Return an untrained diffusion model in pixel space with a null class; parameters as for `consistency`."""
        return cls(
            architectures.unet(image_shape, n_classes + 1, width, seed),
            architectures.ddim_scheduler(),
            steps=steps,
            grad_steps=grad_steps,
            guidance=guidance,
            n_classes=n_classes,
        )

    @classmethod
    def dit(
        cls,
        n_classes: int,
        latent_shape: tuple[int, int, int],
        *,
        width: int = 64,
        depth: int = 4,
        patch: int = 2,
        vae: VAE | None = None,
        steps: int = 10,
        grad_steps: int | None = None,
        guidance: float = 1.0,
        seed: int = 0,
    ) -> DiffusionGenerator:
        """Return an untrained diffusion transformer, over pixels or, with a VAE, over latents.

        ``latent_shape`` is channels, height and width of the latents: square, a multiple of the patch. ``width`` is the
        channels of a token, a multiple of 16; ``depth`` the number of blocks; ``patch`` the side of a token's patch, in
        pixels. The other parameters are those of the class.
        """
        model = architectures.transformer(n_classes, latent_shape, width, depth, patch, seed)
        scheduler = architectures.ddim_scheduler()
        return cls(model, scheduler, vae=vae, steps=steps, grad_steps=grad_steps, guidance=guidance)

    def train(self, mode: bool = True) -> DiffusionGenerator:
        """Stay in evaluation mode: a DiT in training mode drops labels by unseeded random numbers."""
        super().train(False)
        return self

    def forward(self, noise: Noise, labels: Labels) -> Images:
        """Generate images, pixels in about [-1, 1]."""
        config = self.scheduler.config
        if self.kind == "consistency":
            noises = noise.view(len(noise), self.steps, *self._latent_shape)
            latents = sampling.consistency(self.predict, config, noises, labels, grad_steps=self.grad_steps)
        else:
            latents = sampling.ddim(
                self.predict, self.scheduler, noise, labels,
                steps=self.steps, grad_steps=self.grad_steps, guidance=self.guidance, null_label=self.null or 0,
            )  # fmt: skip
        if self.vae is None:
            return latents
        images: Tensor = self.vae.decode(latents / self.vae.config["scaling_factor"]).sample
        return images

    def latent_layers(self) -> tuple[str, ...]:
        """Return noise, and class: noise and an embedding of the class for each image."""
        return ("noise", "class")

    def latents(self, noise: Noise, labels: Labels, layer: str = "noise") -> dict[str, Tensor]:
        """Return the latents of images: noise, and with layer class the embeddings, (images, embedders, size)."""
        check_layer(self, layer)
        if self.grad_steps < self.steps:
            raise InputError(f"latents with gradients through {self.grad_steps} of {self.steps} steps", "all steps")
        if layer == "noise":
            return {"noise": noise}
        if self.transformer and self.model.is_gradient_checkpointing:
            raise InputError("class embeddings for each image in a checkpointed transformer", "layer noise")
        return {"noise": noise, "class": torch.stack([embed(labels) for embed in self._embedders()], dim=1)}

    def decode(self, latents: Mapping[str, Tensor], labels: Labels) -> Images:
        """Generate images from latents, pixels in about [-1, 1]."""
        if "class" not in latents:
            return super().decode(latents, labels)
        with self._embedded(latents["class"]):
            images: Tensor = self(latents["noise"], labels)
        return images

    def _embedders(self) -> list[nn.Module]:
        """Return the modules that embed labels: one of a UNet, one in each block of a DiT."""
        if not self.transformer:
            return [self.model.class_embedding]
        return [module for name, module in self.model.named_modules() if name.endswith("class_embedder")]

    @contextmanager
    def _embedded(self, embeddings: Float[Tensor, "images embedders size"]) -> Iterator[None]:
        """Let the first rows of every batch have these embeddings; null classes, of guidance, follow them."""
        with ExitStack() as hooks:
            for embed, rows in zip(self._embedders(), embeddings.unbind(dim=1), strict=True):

                def replace(_: nn.Module, __: Any, output: Tensor, rows: Tensor = rows) -> Tensor:
                    return torch.cat([rows.to(output.dtype), output[len(rows) :]])

                hooks.enter_context(embed.register_forward_hook(replace))
            yield

    def predict(self, x: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        """Return the model's output for noisy images, without the learned variance of a DiT."""
        output: Tensor = self.model(x, timestep, class_labels=labels, return_dict=False)[0]
        return output[:, : self._latent_shape[0]].float()

    def consistent(self, x: Tensor, sigma: Float[Tensor, " batch"], labels: Tensor) -> Tensor:
        """Apply the consistency function: return clean images of noisy ones with noise of deviation sigma."""
        return sampling.consistency_function(self.predict, self.scheduler.config, x, sigma, labels)

    def encode(self, images: Images) -> Tensor:
        """Return images in [-1, 1] as the model sees them: as they are, or as latents of the VAE."""
        if self.vae is None:
            return images
        with torch.no_grad():
            encoded = self.vae.encode(images)
            latents: Tensor = encoded.latents if isinstance(self.vae, AutoencoderTiny) else encoded.latent_dist.mean
            scale: float = self.vae.config["scaling_factor"]
        return latents * scale

    def checkpointed(self) -> DiffusionGenerator:
        """Recompute activations in the backward pass, which saves memory; returns itself."""
        self.model.enable_gradient_checkpointing()
        return self

    def groups(self) -> Groups:
        """Return the groups "all" (of the model, not the VAE), "last" (last block, output), "classes" and "lora"."""
        blocks = "model.transformer_blocks." if self.transformer else "model.up_blocks."
        numbers = [int(n[len(blocks) :].split(".")[0]) for n, _ in self.named_parameters() if n.startswith(blocks)]
        output = ("model.conv_norm_out.", "model.conv_out.", "model.proj_out_", "model.norm_out.")
        last = (f"{blocks}{max(numbers)}.", *output)
        return {
            "all": lambda name: name.startswith("model."),
            "last": lambda name: name.startswith(last) and ".lora_" not in name,
            "classes": lambda name: ("class_embedding" in name or "class_embedder" in name) and ".lora_" not in name,
            "lora": lambda name: ".lora_" in name,
        }

    def add_lora(self, rank: int = 4, *, targets: tuple[str, ...] | None = None, seed: int = 0) -> DiffusionGenerator:
        """Add low-rank adapters by peft (extra ``lora``) and freeze everything else; returns itself.

        ``targets`` are endings of the names of the adapted layers; by default attention and, in a UNet, convolutions.
        """
        attention = ("to_q", "to_k", "to_v", "to_out.0")
        default = attention if self.transformer else (*attention, "conv1", "conv2")
        with torch_seed(seed, "lora"):
            self._adapters = [lora.add(self.model, rank, targets or default)]
        return self

    def merge_lora(self) -> DiffusionGenerator:
        """Add the adapters to the weights and remove them; returns itself."""
        lora.merge(self._own_adapters())
        self._adapters = []
        return self

    def save_lora(self, path: str | os.PathLike[str]) -> Path:
        """Save the adapters alone as a folder in peft's format, which `peft.PeftModel.from_pretrained` opens."""
        return lora.save(self._own_adapters(), path)

    def load_lora(self, path: str | os.PathLike[str]) -> DiffusionGenerator:
        """Add adapters that `save_lora` or peft saved to the model that they were trained on; returns itself."""
        self._adapters = [lora.load(self.model, path)]
        return self

    def _own_adapters(self) -> Any:
        """Return the PeftModel around the model."""
        if not self._adapters:
            raise InputError("the generator has no adapters", "add_lora() or load_lora() first")
        return self._adapters[0]

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Save in the folder format of diffusers, with d2m.json for the sampling, atomically; returns the folder.

        `UNet2DModel.from_pretrained(folder, subfolder="unet")` and its like open the parts; `DiffusionPipeline` opens
        the folder of a consistency model or of a DiT with a VAE. Adapters must be merged.
        """
        replace_parts(Path(folder), self.parts())
        return Path(folder)

    def check_merged(self) -> None:
        """Refuse adapters, which are no part of a folder in the format of diffusers."""
        if lora.has(self.model):
            raise InputError("a model with adapters", "merge_lora() first, or save_lora for the adapters alone")

    def parts(self) -> Parts:
        """Return what `save_pretrained` saves."""
        self.check_merged()
        settings = {"n_classes": self.n_classes, "steps": self.steps, "grad_steps": self.grad_steps,
                    "guidance": self.guidance}  # fmt: skip
        return Parts(self.model, self.scheduler, self.vae, settings, self.id2label)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        variant: str | None = None,
        **settings: Any,
    ) -> DiffusionGenerator:
        """Load a generator from a folder in the format of diffusers, or from OWNER/NAME on the Hugging Face Hub.

        The folder holds the parts that its model_index.json names, or unet/ or transformer/, scheduler/ and optionally
        vae/; and optionally d2m.json, whose steps, grad_steps, guidance and n_classes the settings override.
        ``revision`` is a branch, tag or commit of a repository, ``variant`` the kind of weight files, such as fp16,
        which are read as float32.
        """
        folder = hub.local_folder(name_or_path, revision=revision)
        parts = read_parts(folder, variant)
        chosen = {**parts.settings, **settings}
        with reading(folder, "complete files of one model", TypeError):
            return cls(parts.model, parts.scheduler, vae=parts.vae, id2label=parts.id2label, **chosen)


def _latent_shape(model: Model) -> tuple[int, int, int]:
    side = model.config["sample_size"]
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return int(model.config["in_channels"]), int(height), int(width)


def _decoded_shape(vae: VAE, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    channels, height, width = latent_shape
    if vae.config["latent_channels"] != channels:
        raise InputError(f"a VAE of {vae.config['latent_channels']} latent channels", f"{channels}, as the model's")
    blocks = "decoder_block_out_channels" if isinstance(vae, AutoencoderTiny) else "block_out_channels"
    factor = 2 ** (len(vae.config[blocks]) - 1)
    return int(vae.config["out_channels"]), height * factor, width * factor
