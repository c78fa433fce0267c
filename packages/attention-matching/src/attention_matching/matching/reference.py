"""Attention sums and maps in plain torch: the reference for the kernels, and the fallback where they cannot run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# Values processed at once on the CPU. Their powers take 8 MB: about the size of the caches, and below the 32 MB from
# which the C library requests new pages from the system, which takes longer than the powers.
BLOCK = 2**21

Pair = tuple[Tensor | None, Tensor | None]


def maps(features: Tensor, spatial_power: int | None, channel_power: int | None) -> Pair:
    """Compute the normalised maps; arguments as checked by `attention.attention_maps`.

    The maps do not depend on the scale of an image's features, so features whose powers overflow or underflow are
    first divided by a power of two near their largest: result and derivatives stay exact.
    """
    if features.device.type == "cpu" and not torch.compiler.is_compiling():
        spatial, channel, _ = _BlockSums.apply(features, spatial_power, channel_power)
    else:  # checking the sums first would wait for the device, or break the compiled graph
        wide = _wide(features)
        spatial, channel = _sums(wide * _shrinking(wide), spatial_power, channel_power)
    return (None if spatial is None else _unit(spatial)), (None if channel is None else _unit(channel))


def _wide(features: Tensor) -> Tensor:
    """Return float32 or float64: a fourth power exceeds float16's range, a sum bfloat16's precision."""
    return features if features.dtype == torch.float64 else features.float()


def _sums(x: Tensor, spatial_power: int | None, channel_power: int | None) -> Pair:
    """Sum |x|^p over the channels, and |x|^q over the positions."""
    spatial = None if spatial_power is None else absolute_power(x, spatial_power).sum(dim=1).flatten(1)
    channel = None if channel_power is None else absolute_power(x, channel_power).sum(dim=(2, 3))
    return spatial, channel


def _unit(sums: Tensor) -> Tensor:
    """Divide each row by its length; a row of zeros stays zero, with gradient zero.

    A row is first divided by its largest entry, so that no square overflows. Then every non-zero row has a squared
    length of at least 1, and the bound of 1/2 applies to zero rows only.
    """
    top = sums.detach().amax(dim=1, keepdim=True)
    scaled = sums / (top + (top == 0))
    return scaled / scaled.square().sum(dim=1, keepdim=True).clamp(min=0.5).sqrt()


def absolute_power(x: Tensor, power: int, out: Tensor | None = None) -> Tensor:
    """Return |x|^p for p >= 1 by multiplications: `pow` is several times slower, forward and backward."""
    result = _power(x, power, out)
    return torch.abs(result, out=out) if power % 2 else result


def _power(x: Tensor, power: int, out: Tensor | None) -> Tensor:
    """Return x^n; for n = 1 x itself, not a copy."""
    result = x
    for bit in f"{power:b}"[1:]:  # 13 is 1101 in binary: x, x^3, x^6, x^13
        result = torch.mul(result, result, out=out)
        if bit == "1":
            result = torch.mul(result, x, out=out)
    return result


def _slope(x: Tensor, power: int, out: Tensor | None = None) -> Tensor:
    """Return the derivative of |x|^p without its factor p: |x|^(p-1) sign(x), and 0 at 0."""
    if power == 1:
        return torch.sign(x, out=out)
    slope = _power(x, power - 1, out)
    return torch.mul(slope, torch.sign(x), out=out) if power % 2 else slope


def _shrinking(wide: Tensor) -> Tensor:
    """Return the power of two, shape (batch, 1, 1, 1), that brings each image's largest |x| into [1, 2)."""
    info = torch.finfo(wide.dtype)
    largest = torch.linalg.vector_norm(wide.detach(), math.inf, dim=(1, 2, 3), keepdim=True)
    return torch.exp2(-largest.clamp(info.tiny, info.max / 4).log2().floor())


def _out_of_range(sums: Tensor) -> Tensor:
    """Return which images' sums are so large or small that they, or a gradient through them, may be wrong."""
    bound = torch.finfo(sums.dtype).max ** 0.625  # 2^80 in float32: leaves 2^46 for the factors of gradients
    top = sums.amax(dim=1)
    in_range: Tensor = (top >= 1 / bound) & (top <= bound)  # false for NaN too
    return ~in_range


class _BlockSums(torch.autograd.Function):
    """The sums on the CPU, a few images at a time.

    The powers of a whole batch would be written to new memory and read again for each multiplication. Those of a few
    images stay in the cache, in one buffer: several times as fast on one thread.
    """

    @staticmethod
    def forward(
        features: Tensor, spatial_power: int | None, channel_power: int | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return both sums, and the factors by which images were scaled first, or None if none was."""
        spatial, channel = _block_sums(features, spatial_power, channel_power)
        wrong = [_out_of_range(sums) for sums in (spatial, channel) if sums is not None]
        rescaled = torch.stack(wrong).any(dim=0).nonzero().flatten()
        if not len(rescaled):
            return spatial, channel, None
        wide = _wide(features[rescaled])
        factor = _shrinking(wide)
        new_sums = _block_sums(wide * factor, spatial_power, channel_power)
        for sums, new in zip((spatial, channel), new_sums, strict=True):
            if sums is not None and new is not None:
                sums[rescaled] = new
        factors = wide.new_ones(len(features), 1, 1, 1)
        factors[rescaled] = factor
        return spatial, channel, factors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        """Save the tensors for the gradient."""
        features, *ctx.powers = inputs
        factors = output[2]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(features, factors)
        if factors is not None:
            ctx.mark_non_differentiable(factors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None, None]:
        """Multiply the powers' derivatives by the sums' gradients; differentiable under create_graph."""
        features, factors = ctx.saved_tensors
        shape = (len(features), 1, *features.shape[2:])
        spatial = None if gradients[0] is None else gradients[0].reshape(shape)
        channel = None if gradients[1] is None else gradients[1][:, :, None, None]
        terms = [(p, g) for p, g in zip(ctx.powers, (spatial, channel), strict=True) if p is not None and g is not None]
        if not terms:
            return None, None, None
        if torch.is_grad_enabled():  # create_graph
            wide = _wide(features)
            scaled = wide if factors is None else wide * factors
            total = sum(power * (_slope(scaled, power) * gradient) for power, gradient in terms)
            total = total if factors is None else total * factors
            return torch.as_tensor(total).to(features.dtype), None, None
        return _block_gradient(features, factors, terms), None, None


def _blocks(features: Tensor) -> list[slice]:
    """Split the batch into runs of images."""
    step = max(1, BLOCK // features[0].numel())
    return [slice(start, start + step) for start in range(0, len(features), step)]


def _block_sums(features: Tensor, spatial_power: int | None, channel_power: int | None) -> Pair:
    """Compute the sums block by block, in one buffer."""
    batch, channels, height, width = features.shape
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    spatial = None if spatial_power is None else features.new_empty((batch, height, width), dtype=dtype)
    channel = None if channel_power is None else features.new_empty((batch, channels), dtype=dtype)
    blocks = _blocks(features)
    buffer = torch.empty_like(features[blocks[0]], dtype=dtype)
    for block in blocks:
        x = _wide(features[block])
        powers = buffer[: len(x)]
        if spatial is not None and spatial_power is not None:
            torch.sum(absolute_power(x, spatial_power, powers), dim=1, out=spatial[block])
        if channel is not None and channel_power is not None:
            if channel_power != spatial_power:
                absolute_power(x, channel_power, powers)
            torch.sum(powers, dim=(2, 3), out=channel[block])
    return (None if spatial is None else spatial.flatten(1)), channel


def _block_gradient(features: Tensor, factors: Tensor | None, terms: list[tuple[int, Tensor]]) -> Tensor:
    """Compute the gradient block by block."""
    result = torch.empty_like(features)
    blocks = _blocks(features)
    buffer, wide_result = (torch.empty_like(_wide(features[blocks[0]])) for _ in range(2))
    for block in blocks:
        x = _wide(features[block])
        if factors is not None:
            x = x * factors[block]
        total = result[block] if result.dtype == x.dtype else wide_result[: len(x)]
        slope, previous = x, 0
        for power, gradient in terms:
            if power != previous:
                slope = _slope(x, power, buffer[: len(x)])
            factor = power * gradient[block]
            torch.addcmul(total, slope, factor, out=total) if previous else torch.mul(slope, factor, out=total)
            previous = power
        if factors is not None:
            total.mul_(factors[block])
        if result.dtype != x.dtype:
            result[block] = total
    return result
