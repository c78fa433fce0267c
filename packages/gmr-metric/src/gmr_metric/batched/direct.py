"""Inner products of small isotropic and diagonal batches on a CPU, all pairs at once, with gradients in closed form.

The formulas are those of `gmr_metric.batched.blocks`. The forward pass keeps the differences of all pairs of
components. Distances are sums of squared differences, which lose no digits however far the means are from zero: an
exponent's error is a few eps times the exponent. The smallest problems, in which the calls take all the time, are
computed by NumPy, whose calls take a fraction of PyTorch's, by the same lines of code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmr_metric.batched.batch import Batch

_NUMPY = 2**12  # pairs of components up to which NumPy is used


def forward(f: Batch, g: Batch) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """Compute log <f, g> of all pairs, (batch, others), what the backward pass needs, and a batch's own log cosines."""
    if f.log_weights.numel() * g.log_weights.numel() > _NUMPY:
        inner, saved, cosines = _forward(torch, f, g, g is f)
        return inner, list(saved), cosines
    left = _arrays(f)
    with np.errstate(all="ignore"):
        inner, saved, cosines = _forward(np, left, left if g is f else _arrays(g), g is f)
    tensors = [torch.from_numpy(part) for part in saved]
    return torch.from_numpy(inner), tensors, torch.from_numpy(cosines) if g is f else None


def backward(f: Batch, g: Batch, gradient: Tensor, saved: Sequence[Tensor], cosine: bool) -> list[Tensor]:
    """Compute the gradients of f's tensors, and of g's if it is another batch, from that of the result."""
    if saved[0].numel() > _NUMPY:
        parts = _backward(torch, gradient, saved, g is f, cosine)
    else:
        with np.errstate(all="ignore"):
            arrays = _backward(np, gradient.detach().numpy(), _arrays(saved), g is f, cosine)
        parts = [torch.from_numpy(array) for array in arrays]
    return [part.reshape(like.shape) for part, like in zip(parts, (*f, *g), strict=False)]


def _arrays(tensors: Sequence[Tensor]) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]


def _forward(xp: Any, f: Any, g: Any, own: bool) -> tuple[Any, tuple[Any, ...], Any]:
    (v, m, p), (w, n, q), dims = f, g, f[1].shape[2]
    difference = m.reshape(-1, 1, dims) - n.reshape(1, -1, dims)
    if p.ndim == 2:
        total = p.reshape(-1, 1) + q.reshape(1, -1)
        quotient = (difference * difference).sum(-1)
        quotient /= total
        exponent = xp.log(total)
        exponent *= dims
        exponent += quotient
    else:
        total = p.reshape(-1, 1, dims) + q.reshape(1, -1, dims)
        quotient = difference / total
        exponent = quotient * difference
        exponent += xp.log(total)
        exponent = exponent.sum(-1)
    exponent *= -0.5
    exponent += v.reshape(-1, 1)
    exponent += w.reshape(1, -1)
    terms = exponent.reshape(*v.shape, *w.shape)
    largest = xp.amax(terms, (1, 3)).clip(min=xp.finfo(terms.dtype).min)  # -inf - -inf is NaN
    terms -= largest[:, None, :, None]
    terms = xp.exp(terms)
    sums = terms.sum((1, 3))
    inner = xp.log(sums)
    inner += largest
    inner -= 0.5 * dims * math.log(2 * math.pi)
    saved = terms, sums.clip(min=1), difference, total, quotient  # only an empty mixture's sum is below 1
    if not own:
        return inner, saved, None
    inner = xp.maximum(inner, inner.T)  # both are right but for rounding
    half = 0.5 * inner.diagonal().clip(min=xp.finfo(inner.dtype).min)  # -inf + inf is NaN
    return inner, saved, (inner - (half[:, None] + half)).clip(max=0.0)


def _backward(xp: Any, gradient: Any, saved: Sequence[Any], own: bool, cosine: bool) -> list[Any]:
    terms, sums, difference, total, quotient = saved
    if own:
        gradient = gradient + gradient.T
        if cosine:
            diagonal = xp.arange(len(gradient))
            gradient[diagonal, diagonal] -= gradient.sum(1)
    ratios = (terms * (gradient / sums)[:, None, :, None]).reshape(difference.shape[:2])
    isotropic = quotient.ndim == 2
    if isotropic:
        slope = ratios / total
        pull, of_variance = difference, (quotient - difference.shape[2]) * slope
    else:
        slope, pull, of_variance = ratios, quotient, quotient * quotient - 1 / total
    gradients = []
    for side, sign in ((0, -1.0), (1, 1.0))[: 1 if own else 2]:
        weights = xp.moveaxis(slope, side, 0)[:, None, :]
        gradients += [ratios.sum(1 - side), sign * xp.matmul(weights, xp.moveaxis(pull, side, 0))]
        if isotropic:
            gradients.append(0.5 * of_variance.sum(1 - side))
        else:
            gradients.append(0.5 * xp.matmul(weights, xp.moveaxis(of_variance, side, 0)))
    return gradients
