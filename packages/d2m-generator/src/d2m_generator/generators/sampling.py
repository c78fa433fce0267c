"""Few-step sampling with gradients through the last steps, as functions of a model's prediction.

The pipelines of diffusers run without gradients, so the loops over the steps are here. A scheduler that clips its
predictions has zero gradient at saturated pixels; sampling here never clips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Model output for noisy images, timesteps and labels."""


def ddim(
    predict: Predict,
    scheduler: Any,
    noise: Tensor,
    labels: Tensor,
    *,
    steps: int,
    grad_steps: int,
    guidance: float,
    null_label: int,
) -> Tensor:
    """Sample by DDIM without noise (arXiv 2010.02502); only the last `grad_steps` steps are differentiable.

    ``scheduler`` is one of diffusers with cumulative products of alpha. Whatever its spacing, the first timestep is the
    last one of the training, where images are noise, as this function assumes (arXiv 2305.08891, section 3.3).
    """
    alphas, kind = scheduler.alphas_cumprod.to(noise.device), scheduler.config["prediction_type"]
    final = alphas.new_ones(()) if scheduler.config.get("set_alpha_to_one", True) else alphas[0]
    times = timesteps(len(alphas), steps)
    x = noise
    for number, time in enumerate(times):
        with _gradients(number >= steps - grad_steps):
            output = _guided(predict, x, torch.full((len(x),), time, device=x.device), labels, guidance, null_label)
            a, after = alphas[time], alphas[times[number + 1]] if number + 1 < steps else final
            clean, noisy = _clean_and_noise(kind, x, output, a)
            x = after.sqrt() * clean + (1 - after).sqrt() * noisy
    return x


def timesteps(count: int, steps: int) -> list[int]:
    """Return `steps` timesteps of `count`, equally spaced from the last one.

    Examples
    --------
    >>> timesteps(1000, 4), timesteps(1000, 3)
    ([999, 749, 499, 249], [999, 666, 332])
    """
    return [round(count * (steps - number) / steps) - 1 for number in range(steps)]


def _clean_and_noise(kind: str, x: Tensor, output: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Return the clean images and the noise that a model's output for noisy images stands for."""
    a, b = alpha.sqrt(), (1 - alpha).sqrt()
    if kind == "epsilon":
        return (x - b * output) / a, output
    if kind == "sample":
        return output, (x - a * output) / b
    return a * x - b * output, a * output + b * x  # v_prediction


def _guided(predict: Predict, x: Tensor, timesteps: Tensor, labels: Tensor, guidance: float, null_label: int) -> Tensor:
    """Return the prediction with classifier-free guidance."""
    if guidance == 1:
        return predict(x, timesteps, labels)
    nulls = torch.full_like(labels, null_label)
    both = predict(torch.cat([x, x]), torch.cat([timesteps, timesteps]), torch.cat([labels, nulls]))
    conditional, unconditional = both.chunk(2)
    return unconditional + guidance * (conditional - unconditional)


def consistency(
    predict: Predict,
    config: Mapping[str, Any],
    noise: Float[Tensor, "batch steps channels height width"],
    labels: Tensor,
    *,
    grad_steps: int,
) -> Tensor:
    """Sample by the consistency model, adding fresh noise before each step (arXiv 2303.01469, algorithm 1)."""
    steps = noise.shape[1]
    low, high = config["sigma_min"], config["sigma_max"]
    x = torch.zeros_like(noise[:, 0])
    for number, sigma in enumerate(noise_levels(high, low, config["rho"], steps + 1)[:-1].tolist()):
        with _gradients(number >= steps - grad_steps):
            added = sigma if not number else math.sqrt(sigma**2 - low**2)
            sigmas = torch.full((len(x),), sigma, device=x.device)
            x = consistency_function(predict, config, x + added * noise[:, number], sigmas, labels)
    return x


def consistency_function(
    predict: Predict, config: Mapping[str, Any], x: Tensor, sigma: Float[Tensor, " batch"], labels: Tensor
) -> Tensor:
    """Return the clean images of noisy ones, whose noise has the standard deviation sigma (arXiv 2303.01469, eq. 5)."""
    data, low = config["sigma_data"], config["sigma_min"]
    s = sigma.view(-1, 1, 1, 1)
    timestep = 250 * torch.log(sigma)  # a float tensor: diffusers converts plain numbers to whole ones
    output = predict(x / (s**2 + data**2).sqrt(), timestep, labels)
    clean: Tensor = data**2 / ((s - low) ** 2 + data**2) * x + (s - low) * data / (s**2 + data**2).sqrt() * output
    return clean


def noise_levels(first: float, last: float, rho: float, count: int) -> Float[Tensor, " count"]:
    """Return standard deviations whose rho-th roots are equally spaced (arXiv 2206.00364, eq. 5).

    Examples
    --------
    >>> noise_levels(80.0, 0.0, 1.0, 3).tolist()
    [80.0, 40.0, 0.0]
    """
    ramp = torch.linspace(0, 1, count, dtype=torch.float64)
    levels: Tensor = (first ** (1 / rho) + ramp * (last ** (1 / rho) - first ** (1 / rho))) ** rho
    return levels


def _gradients(enabled: bool) -> torch.set_grad_enabled:
    return torch.set_grad_enabled(enabled and torch.is_grad_enabled())
