"""The ways of computing inner products of batches: their choice by shape, and the precision that their docs state."""

from __future__ import annotations

import pytest
import torch
from gmr_metric.batched import choice, general
from gmr_metric.batched.batch import Batch
from gmr_metric.batched.pairs import Blocks, Direct, InnerProducts, _way
from gmr_metric.torch import log_similarity_matrix

KINDS = ["isotropic", "diagonal"]
kinds = pytest.mark.parametrize("kind", KINDS)


def draw(shape: tuple[int, int, int], kind: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    variances = torch.rand(shape[:2] if kind == "isotropic" else shape, generator=random)
    return Batch(
        torch.randn(shape[:2], generator=random).to(dtype),
        torch.randn(shape, generator=random).to(dtype),
        (0.5 + variances).to(dtype),
    )


def _meta(shape: tuple[int, int, int], kind: str) -> list[torch.Tensor]:
    sizes = (shape[:2], shape, shape[:2] if kind == "isotropic" else shape)
    return [torch.empty(size, device="meta") for size in sizes]


def evaluate(way: Direct | Blocks, f: Batch, g: Batch, weights: torch.Tensor) -> list[torch.Tensor]:
    """Return the inner products of two batches, and the gradients of their weighted sum."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (f if g is f else (*f, *g))]
    inner = InnerProducts.apply(way, None, False, *leaves)
    return [inner.detach(), *torch.autograd.grad((inner * weights).sum(), leaves)]


def exact(f: Batch, g: Batch, weights: torch.Tensor) -> list[torch.Tensor]:
    """Return the same by autograd in float64, of the same rounded inputs."""
    left = Batch(*(tensor.double().requires_grad_() for tensor in f))
    right = left if g is f else Batch(*(tensor.double().requires_grad_() for tensor in g))
    inner = general.log_inner_products(left, right, 2**20)
    return [inner.detach(), *torch.autograd.grad((inner * weights).sum(), left if g is f else (*left, *right))]


@kinds
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("shape", [(5, 4, 3), (3, 2, 40), (1, 1, 1)])
def test_the_direct_way_is_autograds_in_float64(kind: str, own: bool, shape: tuple[int, int, int]) -> None:
    f = draw(shape, kind, torch.float64)
    g = f if own else draw((2, 3, shape[2]), kind, torch.float64, seed=1)
    weights = torch.sin(torch.arange(shape[0] * len(g.means), dtype=torch.float64)).view(shape[0], -1)
    for ours, theirs in zip(evaluate(Direct(), f, g, weights), exact(f, g, weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@kinds
@pytest.mark.parametrize("shift", [0.0, 4096.0])
@pytest.mark.parametrize("dims", [2, 128])
def test_float32_has_the_precision_that_each_way_states(kind: str, shift: float, dims: int) -> None:
    f, g = draw((6, 5, dims), kind), draw((4, 3, dims), kind, seed=1)
    f, g = (x._replace(means=x.means + shift) for x in (f, g))
    weights = torch.ones(6, 4)
    wanted = exact(f, g, weights)
    # The rounding of a sum of `dims` terms; products may lose 2e-5 nats more, of float32 or of float64 means.
    ways = [(Direct(), 4e-7, 0.0), (Blocks(60, None if kind == "diagonal" else torch.float64), 4e-7, 0.0)]
    if kind == "isotropic":
        ways.append((Blocks(60, torch.float32), 4e-7, 2e-5 if dims == 2 else 2e-4))
    for way, relative, nats in ways:
        found = evaluate(way, f, g, weights)
        torch.testing.assert_close(found[0].double(), wanted[0], rtol=relative, atol=nats + 1e-6)
        for ours, theirs in zip(found[1:], wanted[1:], strict=True):
            # An exponent's absolute error is a ratio's relative one.
            scale = float(theirs.abs().max())
            error = float((ours.double() - theirs).abs().max()) / scale
            assert error < 4 * (relative * float(wanted[0].abs().max()) + nats) + 1e-6


def test_narrow_components_far_apart_are_not_computed_from_products_in_float32() -> None:
    """The tolerance of 2e-5 nats is eps (|m|^2 + |n|^2) / 2 t: 0.05 nats here in float32."""
    f = draw((64, 10, 2), "isotropic")
    narrow = f._replace(means=10 * f.means, covariances=1e-3 * f.covariances)
    assert choice.block(f, f, None)[1] == torch.float32
    assert choice.block(narrow, narrow, None)[1] == torch.float64
    way = Blocks(2**19, torch.float64)
    weights = torch.ones(64, 64)
    found, wanted = evaluate(way, narrow, narrow, weights)[0], exact(narrow, narrow, weights)[0]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=2e-5)


@kinds
def test_small_problems_are_computed_at_once_and_large_ones_in_blocks(kind: str) -> None:
    for shape in ((2, 1, 2), (8, 3, 16), (32, 1, 64), (32, 3, 8), (4, 40, 4)):
        f = draw(shape, kind)
        assert isinstance(_way(f, f, None), Direct)
        assert not isinstance(_way(f, f, shape[0] * shape[1]), Direct)  # a chunk size bounds its memory
    for shape in ((64, 20, 128), (128, 10, 8), (64, 5, 128)):
        f = draw(shape, kind)
        assert isinstance(_way(f, f, None), Blocks)


def test_on_a_gpu_products_sum_large_isotropic_gradients_in_full_precision() -> None:
    large, small = (Batch(*_meta(shape, "isotropic")) for shape in ((512, 80, 128), (16, 10, 16)))
    assert choice.mean_products(large, large) and not choice.mean_products(small, small)
    diagonal = Batch(*_meta((512, 80, 128), "diagonal"))
    assert not choice.mean_products(diagonal, diagonal)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")  # TF32: eleven bits
        assert not choice.mean_products(large, large)
    finally:
        torch.set_float32_matmul_precision(before)


@kinds
def test_log_cosines_and_their_gradients_are_the_same_at_once_and_in_blocks(kind: str) -> None:
    f = draw((12, 3, 4), kind, torch.float64)
    weights = torch.cos(torch.arange(144.0, dtype=torch.float64)).view(12, 12)
    results = []
    for chunk_size in (None, 60):
        leaves = [tensor.clone().requires_grad_() for tensor in f]
        value = log_similarity_matrix(*leaves, chunk_size=chunk_size)
        results.append([value.detach(), *torch.autograd.grad((value * weights).sum(), leaves)])
        torch.testing.assert_close(log_similarity_matrix(*f, chunk_size=chunk_size), value.detach(), rtol=0, atol=1e-15)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)
