from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gmr_metric import GaussianMixture, similarity
from probmcl import MixtureParameters, mixture_similarity
from probmcl.mixtures.similarity import MixtureSimilarity
from scipy.integrate import dblquad, quad
from sextet_common.errors import InputError
from torch import Tensor

KINDS: tuple[MixtureSimilarity, ...] = ("mixture", "cosine", "angular", "aligned")
both = pytest.mark.parametrize("covariance", ["isotropic", "diagonal"])


def density(mixture: MixtureParameters, row: int, *point: float) -> float:
    one = mixture.select(slice(row, row + 1))
    return float(one.log_prob(torch.tensor([point], dtype=torch.float64)).exp())


@both
def test_the_cosine_is_a_quotient_of_integrals_in_one_dimension(draw, covariance: str) -> None:
    f = draw(0, 2, 3, 1, covariance)

    def product(i: int, j: int) -> float:
        return quad(lambda x: density(f, i, x) * density(f, j, x), -15, 15, limit=300, epsabs=1e-12)[0]

    expected = product(0, 1) / math.sqrt(product(0, 0) * product(1, 1))
    assert float(mixture_similarity(f, kind="cosine")[0, 1]) == pytest.approx(expected, rel=1e-7)


@both
def test_the_cosine_is_a_quotient_of_integrals_in_two_dimensions(draw, covariance: str) -> None:
    f = draw(3, 2, 2, 2, covariance)
    # A sum over a fine grid converges as fast as a quadrature for functions that vanish smoothly at the edge.
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    p, q = (
        MixtureParameters(*(t[row : row + 1].expand(len(grid), *t.shape[1:]) for t in f)).log_prob(grid).exp()
        for row in (0, 1)
    )
    expected = float((p * q).sum() / ((p * p).sum() * (q * q).sum()).sqrt())
    assert float(mixture_similarity(f, kind="cosine")[0, 1]) == pytest.approx(expected, rel=1e-8)
    part, _ = dblquad(lambda x, y: density(f, 0, x, y), -1.0, 1.0, -1.0, 1.0, epsabs=1e-7)
    inside = (grid.abs() <= 1).all(dim=1)
    assert float(p[inside].sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(part, rel=0.1)  # the grid is the plane


@both
def test_the_cosine_is_that_of_gmr_metrics_numpy_core(draw, covariance: str) -> None:
    f, g = draw(5, 3, 4, 3, covariance), draw(6, 2, 5, 3, covariance)

    def numpy(mixtures: MixtureParameters, row: int) -> GaussianMixture:
        variances = mixtures.variances[row]
        variances = variances[:, None].expand(-1, 3) if covariance == "isotropic" else variances
        return GaussianMixture(
            mixtures.log_weights[row].exp().numpy(), mixtures.means[row].numpy(), torch.diag_embed(variances).numpy()
        )

    expected = [[similarity(numpy(f, i), numpy(g, j)) for j in range(2)] for i in range(3)]
    np.testing.assert_allclose(mixture_similarity(f, g, "cosine"), expected, rtol=1e-10)
    np.testing.assert_allclose(mixture_similarity(f, g).exp(), expected, rtol=1e-10)
    angles = 1 - 2 * np.arccos(expected) / np.pi
    np.testing.assert_allclose(mixture_similarity(f, g, "angular"), angles, rtol=1e-9)
    divided = mixture_similarity(f, g, per_dimension=True)
    np.testing.assert_allclose(divided, np.log(expected) / 3, rtol=1e-9)
    root = np.power(expected, 1 / 3)
    np.testing.assert_allclose(mixture_similarity(f, g, "cosine", per_dimension=True), root, rtol=1e-9)
    angles = 1 - 2 * np.arccos(root) / np.pi
    np.testing.assert_allclose(mixture_similarity(f, g, "angular", per_dimension=True), angles, rtol=1e-9)
    with pytest.warns(DeprecationWarning, match="use 'mixture'"):
        torch.testing.assert_close(mixture_similarity(f, g, "log_cosine"), mixture_similarity(f, g))


@both
def test_aligned_compares_component_k_with_component_k_only(draw, covariance: str) -> None:
    f, g = draw(7, 3, 4, 2, covariance), draw(8, 2, 4, 2, covariance)

    def inner(a: MixtureParameters, i: int, b: MixtureParameters, j: int) -> float:
        total = 0.0
        for k in range(4):
            spread = (a.variances[i, k] + b.variances[j, k]).expand(2)
            normal = torch.distributions.Normal(b.means[j, k], spread.sqrt())
            logs = a.log_weights[i, k] + b.log_weights[j, k] + normal.log_prob(a.means[i, k]).sum()
            total += math.exp(logs)
        return total

    expected = [
        [math.log(inner(f, i, g, j)) - math.log(inner(f, i, f, i) * inner(g, j, g, j)) / 2 for j in range(2)]
        for i in range(3)
    ]
    np.testing.assert_allclose(mixture_similarity(f, g, "aligned"), expected, rtol=1e-9)
    own = mixture_similarity(f, kind="aligned")
    np.testing.assert_allclose(own.diagonal(), 0, atol=1e-12)
    assert torch.equal(own, own.mT)


@both
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "components"), [(1, 1), (1, 5), (4, 1), (4, 3)])
def test_a_mixture_is_itself(draw, kind: MixtureSimilarity, covariance: str, batch: int, components: int) -> None:
    found = mixture_similarity(draw(9, batch, components, 3, covariance, torch.float32), kind=kind)
    one = 0.0 if kind in ("mixture", "aligned") else 1.0
    assert found.shape == (batch, batch) and bool((found <= one).all())
    assert torch.equal(found.diagonal(), torch.full((batch,), one))


@both
def test_rounding_never_lifts_a_logarithm_above_that_of_equal_mixtures(draw, covariance: str) -> None:
    f = draw(13, 40, 5, 6, covariance, torch.float32)
    copies = MixtureParameters(*(tensor.clone() for tensor in f))
    for kind in ("mixture", "aligned"):
        values = mixture_similarity(f, copies, kind)
        assert bool((values <= 0).all())
        np.testing.assert_allclose(values.diagonal(), 0, atol=1e-5)


def test_neither_order_nor_halving_of_components_nor_a_shift_changes_anything(draw) -> None:
    f, g = draw(10, 1, 4, 3), draw(11, 1, 3, 3)
    value = mixture_similarity(f, g)
    order = torch.tensor([2, 0, 3, 1])
    turned = MixtureParameters(*(tensor[:, order] for tensor in f))
    halved = MixtureParameters(*(torch.cat([tensor, tensor[:, :1]], dim=1) for tensor in f))
    weights = halved.log_weights.clone()
    weights[:, [0, 4]] -= math.log(2)
    halved = halved._replace(log_weights=weights)
    shift = torch.tensor([5.0, -3.0, 8.0], dtype=torch.float64)
    for other, to in ((turned, g), (halved, g), (f._replace(means=f.means + shift), g._replace(means=g.means + shift))):
        torch.testing.assert_close(mixture_similarity(other, to), value)


def test_single_gaussians_have_the_closed_form() -> None:
    s, apart = 0.7, 2.5
    means = torch.tensor([[[0.0, 0.0]], [[apart, 0.0]]], dtype=torch.float64)
    f = MixtureParameters(torch.zeros(2, 1).double(), means, torch.full((2, 1), math.log(s)).double())
    assert float(mixture_similarity(f)[0, 1]) == pytest.approx(-(apart**2) / (4 * s**2))


@both
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_finite_differences(draw, kind: MixtureSimilarity, covariance: str) -> None:
    def value(*tensors: Tensor) -> Tensor:
        return mixture_similarity(MixtureParameters(*tensors), kind=kind)[0, 1:]

    leaves = tuple(tensor.requires_grad_() for tensor in draw(12, 3, 2, 2, covariance))
    assert torch.autograd.gradcheck(value, leaves, atol=1e-6)


@both
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_deviations_from_a_thousandth_to_a_thousand_in_256_dimensions_stay_finite(
    kind: MixtureSimilarity, covariance: str, autocast: bool
) -> None:
    random = torch.Generator().manual_seed(0)
    batch, components, dims = 6, 4, 256
    shape = (batch, components) if covariance == "isotropic" else (batch, components, dims)
    log_std = math.log(1e-3) + math.log(1e6) * torch.rand(shape, generator=random)
    log_std.flatten()[:2] = torch.tensor([math.log(1e-3), math.log(1e3)])
    leaves = [
        torch.randn(batch, components, generator=random).log_softmax(dim=1),
        torch.randn(batch, components, dims, generator=random),
        log_std,
    ]
    mixture = MixtureParameters(*(tensor.requires_grad_() for tensor in leaves))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = mixture_similarity(mixture, kind=kind)
        found.sum().backward()
    assert found.dtype == torch.float32 and bool(found.isfinite().all())
    assert all(bool(tensor.grad.isfinite().all()) for tensor in leaves)


def test_the_gradient_of_the_log_cosine_lives_where_that_of_the_cosine_is_dead() -> None:
    means = torch.zeros(2, 1, 128)
    means[1] = 4.0
    leaf = means.clone().requires_grad_()
    for kind, alive in (("cosine", False), ("mixture", True)):
        (slope,) = torch.autograd.grad(
            mixture_similarity(MixtureParameters(torch.zeros(2, 1), leaf, torch.zeros(2, 1)), kind=kind)[0, 1], leaf
        )
        assert (float(slope.abs().max()) > 0) is alive


def test_mixtures_that_do_not_fit_are_refused(draw) -> None:
    f = draw(0, 2, 3, 2)
    with pytest.raises(InputError, match="kind must be mixture, cosine, angular, aligned or log_cosine, got 'euclid'"):
        mixture_similarity(f, kind="euclid")
    broken = f._replace(log_std=f.log_std[:, :1])
    for mixtures, other in ((broken, None), (f, broken)):
        with pytest.raises(InputError, match="log_weights, means, log_std have shapes"):
            mixture_similarity(mixtures, other)
    with pytest.raises(InputError, match="3 and 2 components"):
        mixture_similarity(f, draw(0, 2, 2, 2), "aligned")


def test_angles_are_exact_down_to_where_mixtures_count_as_equal() -> None:
    def angular(squared_sine: float) -> float:
        log_cosine = math.log1p(-squared_sine) / 2
        means = torch.tensor([[[0.0]], [[math.sqrt(-4 * log_cosine)]]], dtype=torch.float64)
        f = MixtureParameters(torch.zeros(2, 1).double(), means, torch.zeros(2, 1).double())
        return float(mixture_similarity(f, kind="angular")[0, 1])

    for squared_sine in (0.5, 1e-4, 3e-12):
        assert 1 - angular(squared_sine) == pytest.approx(2 * math.asin(math.sqrt(squared_sine)) / math.pi, rel=1e-3)
    assert angular(5e-13) == 1
