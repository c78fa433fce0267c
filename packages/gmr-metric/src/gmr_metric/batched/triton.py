"""Inner products of isotropic and diagonal batches on a GPU: the Triton kernels and their launches.

This module is imported only if Triton is installed. The formulas are those of `gmr_metric.batched.blocks`; distances
are sums of squared differences here, so they lose no digits however far the means are from zero.

Means and variances have shape (mixture, dims, components), so that the components of one dimension are contiguous. The
forward kernel runs one program per pair of mixtures. The backward pass takes some mixtures of one batch against all of
the other: a first kernel writes the weight of every pair of components, a second one sums over the other batch's
components, each program for its own rows and dimensions in a fixed order. There are no atomics, so that results are
bit-identical in every run.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False
# Triton's compiler infers the types of these functions; upper-case parameters are constants for it.

from __future__ import annotations

import contextlib
import math

import torch
import triton
import triton.language as tl

WEIGHTS = 2**27  # pairs of components per step of the backward pass: half a GiB of weights in float32
_LOG_TWO_PI = math.log(2 * math.pi)


@triton.jit
def _exponents(
    log_weights, means, variances, others_log_weights, others_means, others_variances,
    i, j, rows, columns, K, L, DIMS: tl.constexpr, DIAGONAL: tl.constexpr,
):  # fmt: skip
    """Return e of a block of components of mixtures i and j, and terms for the gradients of isotropic ones."""
    there, others_there = rows < K, columns < L
    left = means + i * DIMS * K + rows
    right = others_means + j * DIMS * L + columns
    log_weight = tl.load(log_weights + i * K + rows, mask=there, other=float("-inf"))
    others_log_weight = tl.load(others_log_weights + j * L + columns, mask=others_there, other=float("-inf"))
    squared = tl.zeros([rows.shape[0], columns.shape[0]], log_weight.dtype)
    if DIAGONAL:
        spread = variances + i * DIMS * K + rows
        others_spread = others_variances + j * DIMS * L + columns
        total = squared + 1.0
        logs = squared
        for dim in range(DIMS):
            difference = (
                tl.load(left + dim * K, mask=there, other=0.0)[:, None]
                - tl.load(right + dim * L, mask=others_there, other=0.0)[None, :]
            )
            total = (
                tl.load(spread + dim * K, mask=there, other=0.5)[:, None]
                + tl.load(others_spread + dim * L, mask=others_there, other=0.5)[None, :]
            )
            squared += difference * difference / total
            logs += tl.log(total)
        exponent = -0.5 * (squared + logs)
    else:
        for dim in range(DIMS):
            difference = (
                tl.load(left + dim * K, mask=there, other=0.0)[:, None]
                - tl.load(right + dim * L, mask=others_there, other=0.0)[None, :]
            )
            squared += difference * difference
        total = (
            tl.load(variances + i * K + rows, mask=there, other=0.5)[:, None]
            + tl.load(others_variances + j * L + columns, mask=others_there, other=0.5)[None, :]
        )
        exponent = -0.5 * (squared / total + DIMS * tl.log(total))
    return exponent + log_weight[:, None] + others_log_weight[None, :], squared, total


@triton.jit
def inner_products(
    log_weights, means, variances, others_log_weights, others_means, others_variances, inner,
    n_others, K, L, DIMS: tl.constexpr, DIAGONAL: tl.constexpr, OWN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write log <f_i, g_j> without the factor (2 pi)^(-dims / 2); for one batch with itself the upper triangle."""
    i = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1).to(tl.int64)
    if (not OWN) or (j >= i):
        offsets = tl.arange(0, BLOCK)
        largest = tl.full([BLOCK], float("-inf"), inner.dtype.element_ty)
        total = tl.zeros([BLOCK], inner.dtype.element_ty)
        for k in range(0, K, BLOCK):
            for m in range(0, L, BLOCK):
                exponent, _, _ = _exponents(
                    log_weights, means, variances, others_log_weights, others_means, others_variances,
                    i, j, k + offsets, m + offsets, K, L, DIMS, DIAGONAL,
                )  # fmt: skip
                higher = tl.maximum(largest, tl.max(exponent, axis=1))
                shift = tl.where(higher == float("-inf"), 0.0, higher)
                total = total * tl.exp(largest - shift) + tl.sum(tl.exp(exponent - shift[:, None]), axis=1)
                largest = higher
        top = tl.max(largest, axis=0)
        shift = tl.where(top == float("-inf"), 0.0, top)
        tl.store(inner + i * n_others + j, tl.log(tl.sum(total * tl.exp(largest - shift), axis=0)) + shift)


@triton.jit
def pair_weights(
    log_weights, means, variances, others_log_weights, others_means, others_variances, inner, gradient,
    weights, row_sums, variance_sums, first, n_others, K, L,
    DIMS: tl.constexpr, DIAGONAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the ratios r of the components of mixtures i and j, over their variances' sum for isotropic ones.

    Also write each row's sum over j's components of r and, for isotropic ones, of the variance's gradient.
    """
    chunk = tl.program_id(0).to(tl.int64)
    i = chunk + first
    j = tl.program_id(1).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    scale = tl.load(gradient + i * n_others + j)
    value = tl.load(inner + i * n_others + j)
    value = tl.where(value == float("-inf"), 0.0, value)
    for k in range(0, K, BLOCK):
        rows = k + offsets
        of_weight = tl.zeros([BLOCK], scale.dtype)
        of_variance = tl.zeros([BLOCK], scale.dtype)
        for m in range(0, L, BLOCK):
            columns = m + offsets
            exponent, squared, total = _exponents(
                log_weights, means, variances, others_log_weights, others_means, others_variances,
                i, j, rows, columns, K, L, DIMS, DIAGONAL,
            )  # fmt: skip
            ratio = scale * tl.exp(exponent - value)
            of_weight += tl.sum(ratio, axis=1)
            if not DIAGONAL:
                ratio = ratio / total
                of_variance += 0.5 * tl.sum(ratio * (squared / total - DIMS), axis=1)
            place = (chunk * K + rows)[:, None] * (n_others * L) + (j * L + columns)[None, :]
            tl.store(weights + place, ratio, mask=(rows < K)[:, None] & (columns < L)[None, :])
        tl.store(row_sums + (chunk * K + rows) * n_others + j, of_weight, mask=rows < K)
        if not DIAGONAL:
            tl.store(variance_sums + (chunk * K + rows) * n_others + j, of_variance, mask=rows < K)


@triton.jit
def mean_gradients(
    weights, means, variances, others_means, others_variances, mean_gradient, variance_gradient,
    n_rows, n_columns,
    DIMS: tl.constexpr, DIAGONAL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Sum the gradients of a component's mean and (diagonal) variance over all components of the other batch.

    Means and variances have shape (component, dims) here, with all components of a batch in one row.
    """
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    dims = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    there = (rows < n_rows)[:, None] & (dims < DIMS)[None, :]
    place = rows[:, None] * DIMS + dims[None, :]
    left = tl.load(means + place, mask=there, other=0.0)
    spread = tl.load(variances + place, mask=there, other=0.5) if DIAGONAL else left
    of_mean = tl.zeros([ROWS, WIDTH], left.dtype)
    of_variance = tl.zeros([ROWS, WIDTH], left.dtype)
    for first in range(0, n_columns, COLUMNS):
        columns = (first + tl.arange(0, COLUMNS)).to(tl.int64)
        weight = tl.load(
            weights + rows[:, None] * n_columns + columns[None, :],
            mask=(rows < n_rows)[:, None] & (columns < n_columns)[None, :],
            other=0.0,
        )[:, :, None]
        others_there = (columns < n_columns)[:, None] & (dims < DIMS)[None, :]
        others_place = columns[:, None] * DIMS + dims[None, :]
        right = tl.load(others_means + others_place, mask=others_there, other=0.0)
        difference = right[None, :, :] - left[:, None, :]
        if DIAGONAL:
            total = (
                spread[:, None, :] + tl.load(others_variances + others_place, mask=others_there, other=0.5)[None, :, :]
            )
            quotient = difference / total
            of_mean += tl.sum(weight * quotient, axis=1)
            of_variance += 0.5 * tl.sum(weight * (quotient * quotient - 1.0 / total), axis=1)
        else:
            of_mean += tl.sum(weight * difference, axis=1)
    tl.store(mean_gradient + place, of_mean, mask=there)
    if DIAGONAL:
        tl.store(variance_gradient + place, of_variance, mask=there)


def forward(f, g):
    """Compute log <f, g> of all pairs of mixtures, (batch, others)."""
    (batch, components, dims), (others, other_components, _) = f.means.shape, g.means.shape
    diagonal = f.covariances.ndim == 3
    inner = f.means.new_zeros(batch, others)
    left = _turned(f)
    right = left if g is f else _turned(g)
    block = _block(max(components, other_components))
    with _on(inner):
        inner_products[batch, others](
            *left, *right, inner, others, components, other_components,
            DIMS=dims, DIAGONAL=diagonal, OWN=g is f, BLOCK=block, num_warps=_warps(block),
        )  # fmt: skip
    inner -= 0.5 * dims * _LOG_TWO_PI
    return inner.triu() + inner.triu(1).mT if g is f else inner


def backward(f, g, inner, gradient, chunk_size, products=False):
    """Compute the gradients of f's tensors, then of g's if it is another batch.

    With ``products`` the sums ``sum_b w_ab (n_b - m_a)`` of isotropic batches are ``W n - m W 1``, a matrix product of
    centred means. The weights are still the kernel's; the sums' error is about ``eps sum_b |w_ab| (|n_b| + |m_a|)``.
    """
    inner = inner + 0.5 * f.means.shape[2] * _LOG_TWO_PI
    if g is f:
        return _gradients(f, f, inner.contiguous(), (gradient + gradient.mT).contiguous(), chunk_size, products)
    first = _gradients(f, g, inner.contiguous(), gradient.contiguous(), chunk_size, products)
    return [*first, *_gradients(g, f, inner.mT.contiguous(), gradient.mT.contiguous(), chunk_size, products)]


def _gradients(f, g, inner, gradient, chunk_size, products):
    """Compute the gradients of the three tensors of the first batch alone."""
    (batch, components, dims), (others, other_components, _) = f.means.shape, g.means.shape
    diagonal = f.covariances.ndim == 3
    block = _block(max(components, other_components))
    left, right = _turned(f), _turned(g)
    means, variances, other_means, other_variances = (
        tensor.contiguous() for tensor in (f.means, f.covariances, g.means, g.covariances)
    )
    rows, columns, width = (16, 16, 16) if diagonal else (16, 32, 16)
    size = min(batch, max(1, (chunk_size or WEIGHTS) // (components * others * other_components)))
    weights = means.new_empty(size * components, others * other_components)
    row_sums = means.new_empty(size * components, others)
    variance_sums = row_sums if diagonal else torch.empty_like(row_sums)
    gradients = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in f]
    with _on(inner):
        for first in range(0, batch, size):
            count = min(size, batch - first)
            part = slice(first, first + count)
            pair_weights[count, others](
                *left, *right, inner, gradient, weights, row_sums, variance_sums, first, others, components,
                other_components, DIMS=dims, DIAGONAL=diagonal, BLOCK=block, num_warps=_warps(block),
            )  # fmt: skip
            n_rows = count * components
            if products:
                gradients[1][part] = _mean_products(weights[:n_rows], means[part], other_means)
            else:
                mean_gradients[triton.cdiv(n_rows, rows), triton.cdiv(dims, width)](
                    weights, means[part], variances[part], other_means, other_variances,
                    gradients[1][part], gradients[2][part],
                    n_rows, others * other_components,
                    DIMS=dims, DIAGONAL=diagonal, ROWS=rows, COLUMNS=columns, WIDTH=width, num_warps=4,
                )  # fmt: skip
            gradients[0][part] = row_sums[:n_rows].sum(dim=1).view(count, components)
            if not diagonal:
                gradients[2][part] = variance_sums[:n_rows].sum(dim=1).view(count, components)
    return gradients


def _mean_products(weights, means, other_means):
    """Sum each row's weights times the differences of the means, by a matrix product of centred means."""
    centre = other_means.mean(dim=(0, 1))
    left, right = (means - centre).flatten(0, 1), (other_means - centre).flatten(0, 1)
    return torch.addcmul(weights @ right, weights.sum(dim=1, keepdim=True), left, value=-1).view(means.shape)


def _turned(f):
    """Return the three tensors of a batch, dims before components."""
    variances = f.covariances.mT if f.covariances.ndim == 3 else f.covariances
    return f.log_weights.contiguous(), f.means.mT.contiguous(), variances.contiguous()


def _block(components):
    """Choose 16, 32 or 64 components per side: the largest with the least padding."""
    if components <= 16:
        return 16
    return min((64, 32), key=lambda size: -(-components // size) * size) if components > 32 else 32


def _warps(block):
    return {16: 1, 32: 4, 64: 8}[block]


def _on(tensor):
    """Launch on the tensor's GPU; the interpreter has none."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
