"""The Triton kernels of `gmr_metric.batched.triton` in Triton's interpreter on the CPU; test_torch_kernels calls this.

The interpreter takes the place of the compiler when the kernels are imported, so the variable TRITON_INTERPRET=1
must be set before: ``TRITON_INTERPRET=1 pytest tests/interpreted_torch_kernels.py``.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)

from gmr_metric.batched import triton as torch_kernels


class Batch(NamedTuple):
    log_weights: Tensor
    means: Tensor
    covariances: Tensor


def draw(seed: int, batch: int, components: int, dims: int, kind: str, dtype: torch.dtype = torch.float64) -> Batch:
    random = torch.Generator().manual_seed(seed)
    shape = (batch, components) if kind == "isotropic" else (batch, components, dims)
    return Batch(
        torch.randn(batch, components, generator=random, dtype=dtype),
        2 * torch.randn(batch, components, dims, generator=random, dtype=dtype),
        0.2 + 3 * torch.rand(shape, generator=random, dtype=dtype),
    )


def literal(f: Batch, g: Batch) -> Tensor:
    """log <f, g> of all pairs from the formula, all at once, differentiable."""
    p, q = (
        (b.covariances if b.covariances.ndim == 3 else b.covariances[..., None].expand(b.means.shape)) for b in (f, g)
    )
    total = p[:, None, :, None] + q[None, :, None, :]
    difference = f.means[:, None, :, None] - g.means[None, :, None, :]
    kernel = -0.5 * (difference**2 / total + (2 * math.pi * total).log()).sum(dim=-1)
    return torch.logsumexp(f.log_weights[:, None, :, None] + g.log_weights[None, :, None, :] + kernel, dim=(2, 3))


SIZES = [((1, 1, 1), (1, 1)), ((3, 5, 4), (2, 7)), ((2, 16, 3), (3, 17)), ((2, 33, 2), (2, 40)), ((2, 65, 1), (1, 3))]


@pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("first", "second"), SIZES)
@pytest.mark.parametrize("chunk_size", [None, 50])
def test_values_and_gradients_are_those_of_the_formula(
    kind: str, own: bool, first: tuple[int, int, int], second: tuple[int, int], chunk_size: int | None
) -> None:
    f = draw(0, *first, kind)
    g = f if own else draw(1, *second, first[2], kind)
    leaves = [tensor.requires_grad_() for tensor in (f if own else (*f, *g))]
    expected = literal(f, g)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=expected.dtype)
    gradients = torch.autograd.grad(expected, leaves, weights)
    with torch.no_grad():
        inner = torch_kernels.forward(f, g)
        torch.testing.assert_close(inner, expected)
        for products in (False, True)[: 2 if kind == "isotropic" else 1]:
            found = torch_kernels.backward(f, g, inner, weights, chunk_size, products)
            for ours, theirs in zip(found, gradients, strict=True):
                torch.testing.assert_close(ours, theirs)
    if own:
        assert torch.equal(inner, inner.mT)


@pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
def test_components_and_mixtures_without_weight_are_as_if_they_were_not_there(kind: str) -> None:
    f = draw(3, 3, 6, 4, kind)
    f.log_weights[0, 2:] = -math.inf
    f.log_weights[1] = -math.inf
    shorter = Batch(f.log_weights[:1, :2], f.means[:1, :2], f.covariances[:1, :2])
    inner = torch_kernels.forward(f, f)
    assert bool(torch.isneginf(inner[1]).all()) and bool(torch.isneginf(inner[:, 1]).all())
    torch.testing.assert_close(inner[:1, :1], literal(shorter, shorter))
    found = torch_kernels.backward(f, f, inner, torch.ones_like(inner), None)
    for tensor in found:
        assert bool(tensor.isfinite().all()) and bool((tensor[1] == 0).all()) and bool((tensor[0, 2:] == 0).all())


@pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
def test_float32_loses_no_digits_to_a_shift_and_does_not_overflow(kind: str) -> None:
    f = draw(4, 2, 5, 200, kind, torch.float32)
    far = f._replace(means=(f.means + 4096).float())
    exact = literal(*[Batch(*(tensor.double() for tensor in far))] * 2)
    inner = torch_kernels.forward(far, far)
    assert inner.dtype == torch.float32
    torch.testing.assert_close(inner.double(), exact, rtol=2e-6, atol=2e-5)
    if kind == "isotropic":  # centred means: the product's sums lose no digits to the shift either
        kernel, product = (torch_kernels.backward(far, far, inner, torch.ones(2, 2), None, p) for p in (False, True))
        for one, other in zip(kernel, product, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6 * float(one.abs().max()))
    apart = f._replace(means=1e3 * f.means, covariances=1e-4 * f.covariances)
    for tensor in torch_kernels.backward(apart, apart, torch_kernels.forward(apart, apart), torch.ones(2, 2), None):
        assert bool(tensor.isfinite().all())
