"""Untrained models and schedulers of diffusers, sized for small images."""

from __future__ import annotations

from diffusers import CMStochasticIterativeScheduler, DDIMScheduler, DiTTransformer2DModel, UNet2DModel
from sextet_common.errors import InputError
from sextet_common.seeding import torch_seed


def unet(image_shape: tuple[int, int, int], embeddings: int, width: int, seed: int) -> UNet2DModel:
    """Return a UNet of up to four levels, the lowest with sides of 4 to 8 pixels and attention."""
    channels, height, image_width = image_shape
    if width < 8 or width % 8:
        raise InputError(f"width must be a multiple of 8, got {width}")
    if height != image_width:
        raise InputError(f"images of {height} x {image_width} pixels", "square ones")
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


def transformer(
    n_classes: int, latent_shape: tuple[int, int, int], width: int, depth: int, patch: int, seed: int
) -> DiTTransformer2DModel:
    """Return a diffusion transformer with heads of 16 channels."""
    channels, height, latent_width = latent_shape
    if height != latent_width or height % patch or width % 16:
        given = f"a transformer of width {width} and patch {patch} for {height} x {latent_width}"
        raise InputError(given, "square sides that are a multiple of the patch, a width that is a multiple of 16")
    with torch_seed(seed, "dit"):
        return DiTTransformer2DModel(
            num_attention_heads=width // 16, attention_head_dim=16, in_channels=channels, out_channels=channels,
            num_layers=depth, sample_size=height, patch_size=patch, num_embeds_ada_norm=n_classes,
            norm_num_groups=1,
        )  # fmt: skip


def consistency_scheduler() -> CMStochasticIterativeScheduler:
    """Return the scheduler of a consistency model."""
    return CMStochasticIterativeScheduler(num_train_timesteps=40, sigma_min=0.002, sigma_max=80.0)


def ddim_scheduler() -> DDIMScheduler:
    """Return the scheduler of a diffusion model: cosine noise, sampling from the last timestep."""
    return DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False, timestep_spacing="trailing")
