from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.inner import log_inner_product, log_inner_product_gradients
from gmr_metric.distances.metrics import similarity
from gmr_metric.torch import log_inner_products, log_similarity_matrix, similarity_matrix
from hypothesis import given, settings, strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sextet_common.errors import InputError
from torch import Tensor

KINDS = ["isotropic", "diagonal", "full"]
Batch = tuple[Tensor, Tensor, Tensor]
kinds = pytest.mark.parametrize("kind", KINDS)


def draw(seed: int, batch: int, components: int, dims: int, kind: str, dtype: torch.dtype = torch.float64) -> Batch:
    """Random mixtures; their weights sum to something other than one."""
    random = np.random.default_rng(seed)
    log_weights = random.normal(size=(batch, components))
    means = 2 * random.normal(size=(batch, components, dims))
    if kind == "full":
        root = random.normal(size=(batch, components, dims, dims))
        covariances = root @ root.swapaxes(-1, -2) + 0.3 * np.eye(dims)
    else:
        covariances = random.uniform(0.2, 3.0, size=(batch, components, dims)[: 2 if kind == "isotropic" else 3])
    return tuple(torch.tensor(x, dtype=dtype) for x in (log_weights, means, covariances))  # type: ignore[return-value]


def as_full(means: Tensor, covariances: Tensor) -> Tensor:
    if covariances.ndim == 2:
        covariances = covariances[..., None].expand(means.shape)
    return torch.diag_embed(covariances) if covariances.ndim == 3 else covariances


def reference(f: Batch, g: Batch) -> np.ndarray:
    """log <f, g> of all pairs by a loop over mixtures and components, with SciPy's density."""
    (v, m, p), (w, n, q) = ((b[0].numpy(), b[1].numpy(), as_full(b[1], b[2]).numpy()) for b in (f, g))
    return np.array(
        [
            [
                logsumexp(
                    [
                        v[b, i] + w[c, j] + multivariate_normal.logpdf(m[b, i], n[c, j], p[b, i] + q[c, j])
                        for i in range(v.shape[1])
                        for j in range(w.shape[1])
                    ]
                )
                for c in range(len(w))
            ]
            for b in range(len(v))
        ]
    )


def reference_log_similarity(f: Batch, g: Batch) -> np.ndarray:
    own, other = (
        np.concatenate([reference(one, one)[0] for one in zip(*(x.split(1) for x in batch), strict=True)])
        for batch in (f, g)
    )
    return reference(f, g) - (own[:, None] + other) / 2


def leaves(batch: Batch) -> Batch:
    return tuple(x.detach().clone().requires_grad_() for x in batch)  # type: ignore[return-value]


def from_parameters(log_weights: Tensor, means: Tensor, parameters: Tensor) -> Batch:
    """Positive covariances from unconstrained numbers, so that finite differences stay symmetric matrices."""
    if parameters.ndim < 4:
        return log_weights, means, parameters.exp()
    return log_weights, means, parameters @ parameters.mT + torch.eye(parameters.shape[-1], dtype=parameters.dtype)


def parameters(seed: int, batch: int, components: int, dims: int, kind: str) -> Batch:
    random = torch.Generator().manual_seed(seed)
    shape = (batch, components, dims, dims)[: {"isotropic": 2, "diagonal": 3, "full": 4}[kind]]
    shapes = ((batch, components), (batch, components, dims), shape)
    return tuple(torch.randn(s, dtype=torch.float64, generator=random) for s in shapes)  # type: ignore[return-value]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(*[st.integers(1, 3)] * 5),
    kind=st.sampled_from(KINDS),
    chunk_size=st.sampled_from([None, 1, 2, 3, 7, 30]),
)
def test_two_batches_agree_with_a_loop_over_scipys_density(
    seed: int, sizes: tuple[int, ...], kind: str, chunk_size: int | None
) -> None:
    batch, components, others, other_components, dims = sizes
    f, g = draw(seed, batch, components, dims, kind), draw(seed + 1, others, other_components, dims, kind)
    found = log_inner_products(*f, *g, chunk_size=chunk_size)
    assert found.shape == (batch, others)
    np.testing.assert_allclose(found, reference(f, g), rtol=1e-10, atol=1e-10)
    log_cosines = log_similarity_matrix(*f, *g, chunk_size=chunk_size)
    np.testing.assert_allclose(log_cosines, reference_log_similarity(f, g), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(similarity_matrix(*f, *g, chunk_size=chunk_size), log_cosines.exp(), rtol=1e-14)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4)),
    kind=st.sampled_from(KINDS),
    chunk_size=st.sampled_from([None, 1, 4, 20, 50]),
)
def test_one_batch_with_itself_agrees_with_the_loop_and_is_exactly_symmetric(
    seed: int, sizes: tuple[int, int, int], kind: str, chunk_size: int | None
) -> None:
    f = draw(seed, *sizes, kind)
    inner = log_inner_products(*f, chunk_size=chunk_size)
    np.testing.assert_allclose(inner, reference(f, f), rtol=1e-10, atol=1e-10)
    assert torch.equal(inner, inner.mT)
    similarity = similarity_matrix(*f, chunk_size=chunk_size)
    assert torch.equal(similarity, similarity.mT)
    assert torch.equal(similarity.diagonal(), torch.ones(sizes[0], dtype=torch.float64))
    assert similarity.max() <= 1 and similarity.min() >= 0
    np.testing.assert_allclose(similarity, np.exp(reference_log_similarity(f, f)), atol=1e-10)


@pytest.mark.parametrize("dims", [1, 3])
def test_the_three_kinds_agree_on_the_same_mixtures(dims: int) -> None:
    # three components in three dimensions: a variance per component must not be read as one per dimension
    log_weights, means, variances = draw(0, 4, 3, dims, "isotropic")
    diagonal = variances[..., None].expand(means.shape)
    isotropic = log_inner_products(log_weights, means, variances)
    torch.testing.assert_close(log_inner_products(log_weights, means, diagonal), isotropic, rtol=1e-12, atol=1e-12)
    full = log_inner_products(log_weights, means, torch.diag_embed(diagonal))
    torch.testing.assert_close(full, isotropic, rtol=1e-12, atol=1e-12)


@kinds
def test_a_matrix_of_log_similarities_is_the_numpy_cores_pair_by_pair(kind: str) -> None:
    f, g = draw(3, 4, 3, 3, kind), draw(4, 3, 40, 3, kind)  # 40 components go through the compiled loops
    found, products = log_similarity_matrix(*f, *g), log_inner_products(*f, *g)
    mixtures = [
        [
            GaussianMixture(w.softmax(0).numpy(), m.numpy(), c.numpy())
            for w, m, c in zip(batch[0], batch[1], as_full(*batch[1:]), strict=True)
        ]
        for batch in (f, g)
    ]
    for i, one in enumerate(mixtures[0]):
        for j, other in enumerate(mixtures[1]):
            scale = float(f[0][i].logsumexp(0) + g[0][j].logsumexp(0))  # the batch's weights do not sum to one
            assert abs(float(products[i, j]) - scale - log_inner_product(one, other)) < 1e-10
            assert abs(float(found[i, j]) - math.log(similarity(one, other))) < 1e-10


def test_the_numpy_cores_gradients_are_those_of_autograd(make) -> None:
    f, g = make(5, 4, 3), make(6, 3, 3)
    parts = [torch.tensor(part)[None].requires_grad_() for part in (f.weights, f.means, f.covariances)]
    others = [torch.tensor(part)[None] for part in (np.log(g.weights), g.means, g.covariances)]
    log_inner_products(parts[0].log(), *parts[1:], *others).sum().backward()
    value, found = log_inner_product_gradients(f, g)
    assert value == pytest.approx(log_inner_product(f, g), rel=1e-14)
    for part, ours in zip(parts, found, strict=True):
        theirs = part.grad[0].numpy()
        theirs = (theirs + theirs.swapaxes(-1, -2)) / 2 if theirs.ndim == 3 else theirs  # Cholesky reads one half
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_inner_product_of_two_one_dimensional_mixtures_is_their_integral() -> None:
    x = np.linspace(-40, 40, 40001)
    log_weights, means, variances = draw(3, 2, 3, 1, "isotropic")
    densities = [
        sum(
            np.exp(log_weights[b, i].item()) * multivariate_normal.pdf(x, means[b, i].item(), variances[b, i].item())
            for i in range(3)
        )
        for b in range(2)
    ]
    integrals = [[np.trapezoid(f * g, x) for g in densities] for f in densities]
    # the trapezoid rule converges geometrically for smooth functions that vanish at both ends
    np.testing.assert_allclose(log_inner_products(log_weights, means, variances).exp(), integrals, rtol=1e-10)


@kinds
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_gradients_agree_with_finite_differences(kind: str, chunk_size: int | None) -> None:
    f, g = parameters(0, 3, 2, 2, kind), parameters(1, 2, 1, 2, kind)

    def pairs(*inputs: Tensor) -> Tensor:
        return log_similarity_matrix(
            *from_parameters(*inputs[:3]), *from_parameters(*inputs[3:]), chunk_size=chunk_size
        )

    def within(*inputs: Tensor) -> Tensor:
        return log_inner_products(*from_parameters(*inputs), chunk_size=chunk_size)

    assert torch.autograd.gradcheck(pairs, (*leaves(f), *leaves(g)))
    assert torch.autograd.gradcheck(within, leaves(f))


@pytest.mark.parametrize("kind", ["diagonal", "full"])  # isotropic ones go through cdist, which old torch derives once
def test_second_derivatives_agree_with_finite_differences(kind: str) -> None:
    def cosines(*inputs: Tensor) -> Tensor:
        return similarity_matrix(*from_parameters(*inputs), chunk_size=4)[0, 1:]

    assert torch.autograd.gradgradcheck(cosines, leaves(parameters(2, 3, 2, 2, kind)))


@kinds
@pytest.mark.parametrize("own", [True, False])
def test_the_chunk_size_changes_neither_values_nor_gradients(kind: str, own: bool) -> None:
    def evaluate(chunk_size: int | None) -> tuple[Tensor, ...]:
        f, g = leaves(draw(0, 7, 3, 2, kind)), leaves(draw(1, 5, 4, 2, kind))
        inputs = f if own else (*f, *g)
        values = log_similarity_matrix(*inputs, chunk_size=chunk_size)
        weights = torch.sin(torch.arange(values.numel(), dtype=torch.float64)).view(values.shape)
        return values.detach(), *torch.autograd.grad((values * weights).sum(), inputs)

    whole = evaluate(None)
    for chunk_size in (1, 3, 10, 12, 50, 130):
        for blocked, expected in zip(evaluate(chunk_size), whole, strict=True):
            torch.testing.assert_close(blocked, expected, rtol=1e-11, atol=1e-12)


@kinds
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_a_component_of_weight_zero_is_as_if_it_were_not_there(kind: str, chunk_size: int | None) -> None:
    log_weights, means, covariances = draw(0, 3, 4, 2, kind)
    log_weights[:, -1] = -math.inf
    padded = leaves((log_weights, means, covariances))
    found = log_similarity_matrix(*padded, chunk_size=chunk_size)
    kept = leaves((log_weights[:, :-1], means[:, :-1], covariances[:, :-1]))
    expected = log_similarity_matrix(*kept)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    gradients = torch.autograd.grad(found.sum(), padded)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected.sum(), kept), strict=True):
        torch.testing.assert_close(gradient[:, :-1], wanted, rtol=1e-10, atol=1e-12)
        assert torch.equal(gradient[:, -1], torch.zeros_like(gradient[:, -1]))


@kinds
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_a_mixture_without_any_weight_has_no_similarity_and_spoils_no_gradient(
    kind: str, chunk_size: int | None
) -> None:
    log_weights, means, covariances = draw(0, 3, 2, 2, kind)
    log_weights[1] = -math.inf
    batch = leaves((log_weights, means, covariances))
    inner = log_inner_products(*batch, chunk_size=chunk_size)
    empty = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=torch.bool)
    assert torch.equal(torch.isneginf(inner), empty)
    similarity = similarity_matrix(*batch, chunk_size=chunk_size)
    assert torch.equal(similarity == 0, empty)
    for loss in (inner[~empty].sum(), similarity.sum(), similarity_matrix(*batch, *batch).sum()):
        for gradient in torch.autograd.grad(loss, batch):
            assert gradient.isfinite().all()
            assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))
            assert gradient[[0, 2]].abs().max() > 0


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixtures_a_thousand_deviations_apart_have_a_finite_log_similarity_and_gradient(
    kind: str, dtype: torch.dtype
) -> None:
    means = torch.tensor([[[0.0, 0.0]], [[1000.0, 0.0]]], dtype=dtype)
    covariances = {
        "isotropic": torch.ones(2, 1),
        "diagonal": torch.ones(2, 1, 2),
        "full": torch.eye(2).expand(2, 1, 2, 2),
    }
    batch = leaves((torch.zeros(2, 1, dtype=dtype), means, covariances[kind].to(dtype)))
    log_cosine = log_similarity_matrix(*batch)[0, 1]
    assert log_cosine.item() == pytest.approx(-250_000, rel=1e-6)  # -|m - n|^2 / 4 for unit variances
    gradient = torch.autograd.grad(log_cosine, batch)
    assert gradient[1][0, 0, 0].item() == pytest.approx(500, rel=1e-5)
    assert all(x.isfinite().all() for x in gradient)
    assert similarity_matrix(*batch)[0, 1] == 0


@kinds
def test_a_shift_far_from_the_origin_costs_no_digits_of_the_differences(kind: str) -> None:
    log_weights, means, covariances = draw(5, 3, 2, 2, kind)
    means = (means * 2**20).round() / 2**20  # so that the shift itself is exact
    near = log_inner_products(log_weights, means, covariances)
    far = log_inner_products(log_weights, means + 2.0**30, covariances)
    torch.testing.assert_close(far, near, rtol=1e-13, atol=1e-13)  # |m|^2 + |n|^2 - 2mn would be off by about 100


def test_many_dimensions_neither_overflow_nor_underflow() -> None:
    dims, variance = 512, 0.01
    full = torch.eye(dims, dtype=torch.float64).mul(variance)[None, None]
    one, mean = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, 1, dims, dtype=torch.float64)
    expected = -0.5 * dims * math.log(4 * math.pi * variance)  # log of |4 pi P|^(-1/2)
    for covariances in (one + variance, mean + variance, full):
        assert log_inner_products(one, mean, covariances).item() == pytest.approx(expected, rel=1e-12)


def test_values_that_rounding_lifts_above_one_read_one_and_keep_their_gradient() -> None:
    # many nearly equal mixtures: among so many cosines of 1 - 1e-16 some come out above 1 before the clamp
    log_weights, means, variances = (x[:1].repeat(60, *[1] * (x.ndim - 1)) for x in draw(7, 1, 3, 2, "isotropic"))
    f = leaves((log_weights, means + 1e-9 * draw(8, 60, 3, 2, "isotropic")[1], variances))
    g = (log_weights, means, variances)
    inner = log_inner_products(*f, *g)
    raw = inner - (log_inner_products(*f).diagonal()[:, None] + log_inner_products(*g).diagonal()) / 2
    clamped = log_similarity_matrix(*f, *g)
    assert raw.max() > 0
    assert clamped.max() == 0
    above = raw.detach() > 1e-16  # beyond doubt about the two ways of summing
    assert above.any()
    weights = above.double()
    for gradient, wanted in zip(
        torch.autograd.grad((clamped * weights).sum(), f),
        torch.autograd.grad((raw * weights).sum(), f),
        strict=True,
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32(kind: str, dtype: torch.dtype) -> None:
    batch = draw(0, 4, 3, 2, kind, dtype)
    found = log_inner_products(*batch)
    assert found.dtype == torch.float32
    exact = log_inner_products(*(x.double() for x in batch))  # the same rounded inputs
    # float32 has 6e-8, and a full covariance loses its condition number on top
    torch.testing.assert_close(found.double(), exact, rtol=2e-5, atol=2e-5)
    assert found.double().sub(exact).abs().max() > 0  # float64 was not at work behind the door


def test_half_precision_inputs_receive_gradients_of_their_own_dtype() -> None:
    batch = leaves(draw(0, 4, 3, 2, "diagonal", torch.bfloat16))
    wide = leaves(tuple(x.detach().float() for x in batch))  # type: ignore[arg-type]
    found = torch.autograd.grad(log_inner_products(*batch, chunk_size=20).sum(), batch)
    for gradient, wanted in zip(found, torch.autograd.grad(log_inner_products(*wide).sum(), wide), strict=True):
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient.float(), wanted, rtol=2**-7, atol=1e-3)  # one rounding to 8 bits


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes that the graph of a result keeps for its backward pass, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _result = run()  # alive until after the count, or storages would be reused
        return sum(storages.values())


def peak_bytes(run: Callable[[], object], trace: Path) -> int:
    """Most bytes that torch's allocator held at once beyond those before, from the profiler's trace."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    profile.export_chrome_trace(str(trace))
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e["name"] == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    return int(np.cumsum([event["args"]["Bytes"] for event in events]).max())


@kinds
def test_a_small_chunk_size_bounds_what_is_saved_for_the_backward_pass(kind: str) -> None:
    f = leaves(draw(0, 30, 5, 3, kind))
    pairs = (30 * 5) ** 2 * 8  # bytes of one number for every pair of components
    if kind == "full":  # the others compute their blocks anew always
        assert saved_bytes(lambda: log_inner_products(*f)) > pairs
    assert saved_bytes(lambda: log_inner_products(*f, chunk_size=500)) < pairs / 4


@kinds
@pytest.mark.parametrize("own", [True, False])
def test_a_small_chunk_size_bounds_the_peak_of_forward_and_backward_together(
    kind: str, own: bool, tmp_path: Path
) -> None:
    def peak(batch: int, chunk_size: int) -> int:
        f, g = leaves(draw(0, batch, 6, 3, kind)), leaves(draw(1, batch, 6, 3, kind))
        inputs = f if own else (*f, *g)

        def step() -> object:
            return torch.autograd.grad(log_similarity_matrix(*inputs, chunk_size=chunk_size).sum(), inputs)

        return peak_bytes(step, tmp_path / "trace.json")

    blocks = peak(40, 4000)
    tables = 10 * (80**2 - 40**2) * 8  # bytes: results and their gradients are of all pairs of mixtures always
    assert peak(40, 2**20) > 4 * blocks  # 57,600 pairs of components at once, not 4,000
    assert peak(80, 4000) < 1.25 * blocks + tables  # four times the pairs: no larger blocks


@kinds
def test_components_of_one_large_pair_of_mixtures_are_split_too(kind: str, tmp_path: Path) -> None:
    f = leaves(draw(0, 1, 200, 2, kind))
    pairs = 200**2 * 8

    def step(chunk_size: int) -> Callable[[], object]:
        return lambda: torch.autograd.grad(log_inner_products(*f, chunk_size=chunk_size).sum(), f)

    assert peak_bytes(step(2**20), tmp_path / "whole.json") > 2 * pairs
    assert peak_bytes(step(1000), tmp_path / "blocks.json") < pairs


@kinds
def test_the_norms_of_many_mixtures_beside_one_small_one_come_in_blocks_too(kind: str) -> None:
    f, g = leaves(draw(0, 60, 20, 2, kind)), draw(1, 1, 1, 2, kind)
    pairs = 60 * 20**2 * 8  # within each mixture; across there are only 60 * 20
    assert saved_bytes(lambda: log_similarity_matrix(*f, *g)) > pairs
    assert saved_bytes(lambda: log_similarity_matrix(*f, *g, chunk_size=1500)) < pairs / 2


def test_inputs_are_left_as_they_were() -> None:
    batch = draw(0, 3, 2, 2, "full")
    batch[0][0] = -math.inf
    before = [x.clone() for x in batch]
    similarity_matrix(*batch, chunk_size=3)
    assert all(torch.equal(x, y) for x, y in zip(batch, before, strict=True))


ONES = torch.ones


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((ONES(2, 3), ONES(2, 3), ONES(2, 3)), r"means \(2, 3\)"),
        ((ONES(2, 4), ONES(2, 3, 5), ONES(2, 3)), r"log_weights have shape \(2, 4\)"),
        ((ONES(2, 0), ONES(2, 0, 5), ONES(2, 0)), r"log_weights have shape \(2, 0\)"),
        ((ONES(2, 3), ONES(2, 3, 5), ONES(2, 5)), r"covariances have shape \(2, 5\)"),
        ((ONES(2, 3), ONES(2, 3, 5), ONES(2, 3, 1)), r"covariances have shape \(2, 3, 1\)"),
        ((ONES(2, 3), ONES(2, 3, 5), ONES(2, 3, 5, 4)), r"covariances have shape \(2, 3, 5, 4\)"),
        ((ONES(2, 3).long(), ONES(2, 3, 5), ONES(2, 3)), "torch.int64"),
        ((ONES(2, 3), ONES(2, 3, 5), ONES(2, 3), ONES(2, 3)), "1 of the other batch's three tensors"),
        ((ONES(2, 3), ONES(2, 3, 5), ONES(2, 3), ONES(4, 1), ONES(4, 1, 6), ONES(4, 1)), "6 dims"),
        ((ONES(2, 3), ONES(2, 3, 5), ONES(2, 3), ONES(4, 1), ONES(4, 1, 5), ONES(4, 1, 5)), "rank 3"),
        ((ONES(2, 3), ONES(2, 3, 5), ONES(2, 3), *(ONES(s).double() for s in [(4, 1), (4, 1, 5), (4, 1)])), "float64"),
    ],
)
@pytest.mark.parametrize("function", [log_inner_products, log_similarity_matrix, similarity_matrix])
def test_shapes_and_dtypes_that_do_not_fit_are_refused_by_name(
    function: Callable[..., Tensor], arguments: tuple[Tensor, ...], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        function(*arguments)


def test_a_chunk_size_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="chunk_size must be a whole number >= 1, got 0"):
        log_inner_products(*draw(0, 1, 1, 1, "full"), chunk_size=0)


def test_a_full_matrix_that_is_not_positive_definite_raises() -> None:
    with pytest.raises(torch.linalg.LinAlgError):
        log_inner_products(torch.zeros(1, 1), torch.zeros(1, 1, 2), torch.tensor([[[[1.0, 2.0], [2.0, 1.0]]]]))
