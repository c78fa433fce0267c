"""Attention maps and their distances on the CPU: powers and their sums in blocks that stay in the cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attention_matching.matching import reference
from attention_matching.matching.reference import Pair, Powers, absolute_power, shrinking, slope, wide

# Values processed at once: with their powers 2 MB. More leaves the caches and takes new pages from the system for the
# buffers, which costs more than the powers; less is dominated by the calls.
BLOCK = 2**18


def maps(features: Tensor, powers: Powers, images_per_mean: int = 1) -> Pair:
    """Compute :func:`reference.maps`, scaling only images whose sums leave the range of numbers."""
    spatial, channel, _ = _Sums.apply(features, powers)
    return reference.mean_of_units(spatial, images_per_mean), reference.mean_of_units(channel, images_per_mean)


def distances(features: Tensor, powers: Powers, real: Pair, weights: tuple[float, float], n_classes: int) -> Tensor:
    """Compute :func:`reference.distances`; the gradient has a read and a write of the features left to do."""
    result: Tensor = _Distances.apply(features, powers, real, weights, n_classes)
    return result


class _Sums(torch.autograd.Function):
    """The sums of powers, and the factors by which images were scaled first, or None if none was."""

    @staticmethod
    def forward(features: Tensor, powers: Powers) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Compute the sums."""
        return _sums_in_range(features, powers)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        """Save the tensors for the gradient."""
        features, ctx.powers = inputs
        factors = output[2]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(features, factors)
        if factors is not None:
            ctx.mark_non_differentiable(factors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None]:
        """Multiply the powers' derivatives by the sums' gradients; differentiable under create_graph."""
        features, factors = ctx.saved_tensors
        terms = _terms(features, ctx.powers, gradients[:2])
        if not terms:
            return None, None
        if torch.is_grad_enabled():  # create_graph
            scaled = wide(features) if factors is None else wide(features) * factors
            total = sum(power * (slope(scaled, power) * gradient) for power, gradient in terms)
            total = total if factors is None else total * factors
            return torch.as_tensor(total).to(features.dtype), None
        return _gradient(features, factors, terms), None


class _Distances(torch.autograd.Function):
    """The distances. Their gradient with respect to the sums is computed with them: upstream is one number a class."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, powers: Powers, real: Pair, weights: tuple[float, float], n_classes: int
    ) -> Tensor:
        """Compute the distances."""
        *sums, factors = _sums_in_range(features, powers)
        total, rows = None, []
        for of_kind, mean, weight in zip(sums, real, weights, strict=True):
            row = None
            if of_kind is not None and mean is not None:
                distance, row = _distance(of_kind, mean.to(of_kind.dtype), weight)
                total = distance if total is None else total.add_(distance)
            rows.append(row)
        assert total is not None
        ctx.save_for_backward(features, factors, *rows, *real)
        ctx.powers, ctx.weights, ctx.n_classes = powers, weights, n_classes
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Scale the sums' gradients by each class's, and multiply by the powers' derivatives."""
        features, factors, *rows, real_spatial, real_channel = ctx.saved_tensors
        (upstream,) = gradients
        if torch.is_grad_enabled():  # create_graph: the gradient of the plain formula has one itself
            plain = reference.distances(features, ctx.powers, (real_spatial, real_channel), ctx.weights, ctx.n_classes)
            (result,) = torch.autograd.grad(plain, features, upstream, create_graph=True)
        else:
            each = upstream.repeat_interleave(len(features) // ctx.n_classes)[:, None]
            scaled = [None if row is None else row * each for row in rows]
            result = _gradient(features, factors, _terms(features, ctx.powers, scaled))
        return result, None, None, None, None


def _distance(sums: Tensor, real: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Return each class's weighted squared distance, and its gradient with respect to the sums."""
    top = sums.amax(dim=1, keepdim=True)
    top += top == 0
    scaled = sums / top
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_(min=0.5)  # at least 1 unless the map is zero
    unit = scaled.div_(length).unflatten(0, (len(real), -1))
    difference = unit.mean(dim=1) - real
    distance = weight * difference.square().sum(dim=1)
    direction = difference.mul_(2 * weight / unit.shape[1])[:, None]
    radial = (unit * direction).sum(dim=2, keepdim=True)
    gradient = torch.addcmul(direction, unit, radial, value=-1).flatten(0, 1)
    return distance, gradient.div_(top.mul_(length))


def _sums_in_range(features: Tensor, powers: Powers) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return both sums, and the factors by which images were scaled first, or None if none was."""
    spatial, channel = _sums(features, powers)
    wrong = [_out_of_range(sums) for sums in (spatial, channel) if sums is not None]
    rescaled = torch.stack(wrong).any(dim=0).nonzero().flatten()
    if not len(rescaled):
        return spatial, channel, None
    chosen = wide(features[rescaled])
    factor = shrinking(chosen)
    for sums, new in zip((spatial, channel), _sums(chosen * factor, powers), strict=True):
        if sums is not None and new is not None:
            sums[rescaled] = new
    factors = chosen.new_ones(len(features), 1, 1, 1)
    factors[rescaled] = factor
    return spatial, channel, factors


def _out_of_range(sums: Tensor) -> Tensor:
    """Return which images' sums are so large or small that they, or a gradient through them, may be wrong."""
    bound = torch.finfo(sums.dtype).max ** 0.625  # 2^80 in float32: leaves 2^46 for the factors of gradients
    top = sums.amax(dim=1)
    in_range: Tensor = (top >= 1 / bound) & (top <= bound)  # false for NaN too
    return ~in_range


def _blocks(features: Tensor) -> list[slice]:
    """Split the batch into runs of images."""
    step = max(1, BLOCK // features[0].numel())
    return [slice(start, start + step) for start in range(0, len(features), step)]


def _sums(features: Tensor, powers: Powers) -> Pair:
    """Compute the sums block by block, in one buffer."""
    batch, channels, height, width = features.shape
    p, q = powers
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    spatial = None if p is None else features.new_empty((batch, height, width), dtype=dtype)
    channel = None if q is None else features.new_empty((batch, channels), dtype=dtype)
    blocks = _blocks(features)
    buffer = torch.empty_like(features[blocks[0]], dtype=dtype)
    for block in blocks:
        x = wide(features[block])
        power = buffer[: len(x)]
        if spatial is not None and p is not None:
            torch.sum(absolute_power(x, p, power), dim=1, out=spatial[block])
        if channel is not None and q is not None:
            if q != p:
                absolute_power(x, q, power)
            torch.sum(power, dim=(2, 3), out=channel[block])
    return (None if spatial is None else spatial.flatten(1)), channel


def _terms(features: Tensor, powers: Powers, gradients: Any) -> list[tuple[int, Tensor]]:
    """Return the exponents whose sums have a gradient, with that gradient in the features' four dimensions."""
    spatial, channel = gradients
    shaped = (
        None if spatial is None else spatial.reshape(len(features), 1, *features.shape[2:]),
        None if channel is None else channel[:, :, None, None],
    )
    return [(p, g) for p, g in zip(powers, shaped, strict=True) if p is not None and g is not None]


def _gradient(features: Tensor, factors: Tensor | None, terms: list[tuple[int, Tensor]]) -> Tensor:
    """Compute the gradient block by block."""
    result = torch.empty_like(features)
    blocks = _blocks(features)
    buffer = torch.empty_like(wide(features[blocks[0]]))
    wide_result = None if buffer.dtype == result.dtype else torch.empty_like(buffer)
    for block in blocks:
        x = wide(features[block])
        if factors is not None:
            x = x * factors[block]
        total = result[block] if wide_result is None else wide_result[: len(x)]
        slopes, previous = x, 0
        for power, gradient in terms:
            if power != previous:
                slopes = slope(x, power, buffer[: len(x)])
            factor = power * gradient[block]
            torch.addcmul(total, slopes, factor, out=total) if previous else torch.mul(slopes, factor, out=total)
            previous = power
        if factors is not None:
            total.mul_(factors[block])
        if wide_result is not None:
            result[block] = total
    return result
