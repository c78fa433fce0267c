"""Conversions: the densities are those of the other library."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from gmr_metric.density.mixture import GaussianMixture
from scipy.stats import gaussian_kde, multivariate_normal
from sextet_common.errors import InputError
from sklearn.datasets import load_iris
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture as Fitted
from torch import distributions as D

POINTS = np.random.default_rng(0).normal(size=(7, 3))
IRIS = load_iris().data


@pytest.fixture
def with_zero() -> GaussianMixture:
    """Return a mixture whose weights sum to one within the tolerance only, the last one 0 and far from the others."""
    return GaussianMixture([0.5, 0.5 + 9e-9, 0.0], [[0.0], [1.0], [30.0]], np.ones((3, 1, 1)))


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("model", [Fitted, BayesianGaussianMixture])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fitted_model_of_any_covariance_type_keeps_its_density(kind: str, model: type, dtype: type) -> None:
    data = IRIS.astype(dtype)  # four components in four dimensions: no shape tells the covariance types apart
    fitted = model(n_components=4, covariance_type=kind, random_state=0, max_iter=300, tol=0.1).fit(data)
    mixture = GaussianMixture.from_sklearn(fitted)
    theirs = Fitted(4, covariance_type=kind)  # the Bayesian one scores by its posterior, not by its point estimate
    for name in ("weights_", "means_", "precisions_cholesky_"):
        setattr(theirs, name, getattr(fitted, name))
    rtol = 1e-9 if dtype is np.float64 else 1e-3  # float32, times the covariances' condition
    # A log density near 0 has no relative precision.
    np.testing.assert_allclose(mixture.logpdf(data), theirs.score_samples(data), rtol=rtol, atol=rtol / 100)


def test_a_model_made_for_sklearn_scores_and_predicts_as_the_mixture_does(make) -> None:
    mixture = make(1, 4, 3)
    model = mixture.to_sklearn()
    joint = np.stack(
        [
            w * multivariate_normal(m, p).pdf(POINTS)
            for w, m, p in zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
        ],
        axis=1,
    )
    np.testing.assert_allclose(model.score_samples(POINTS), np.log(joint.sum(axis=1)), rtol=1e-11)
    # Shares are compared to the size of the largest: the tail of a small one loses digits in its exponent.
    np.testing.assert_allclose(model.predict_proba(POINTS), joint / joint.sum(axis=1, keepdims=True), atol=1e-11)
    np.testing.assert_array_equal(model.predict(POINTS), joint.argmax(axis=1))
    np.testing.assert_allclose(
        np.matmul(model.precisions_, mixture.covariances), np.tile(np.eye(3), (4, 1, 1)), atol=1e-9
    )
    assert model.converged_
    assert model.bic(POINTS) == pytest.approx(-2 * np.log(joint.sum(axis=1)).sum() + (3 + 12 + 24) * np.log(7))


def test_a_model_made_for_sklearn_draws_from_the_mixture_and_can_be_fitted_anew(make) -> None:
    mixture, size = make(1, 4, 3), 20_000
    model = mixture.to_sklearn().set_params(random_state=0)
    points, chosen = model.sample(size)
    error = np.sqrt(np.diag(mixture.covariance()) / size)
    assert (np.abs(points.mean(axis=0) - mixture.mean()) < 5 * error).all()
    spread = np.sqrt(np.outer(np.diag(mixture.covariance()), np.diag(mixture.covariance())) / size)
    assert (np.abs(np.cov(points.T) - mixture.covariance()) < 10 * spread).all()
    assert (np.abs(np.bincount(chosen) / size - mixture.weights) < 5 * np.sqrt(mixture.weights / size)).all()
    before = mixture.means.copy()
    model.set_params(tol=0.1).fit(points)
    np.testing.assert_array_equal(mixture.means, before)


def test_a_model_made_for_sklearn_comes_back_as_the_mixture(make) -> None:
    mixture = make(1, 4, 3)
    back = GaussianMixture.from_sklearn(mixture.to_sklearn())
    for name in ("weights", "means", "covariances"):
        np.testing.assert_allclose(getattr(back, name), getattr(mixture, name), rtol=1e-15)


def test_weights_that_barely_sum_to_one_and_a_zero_do_not_trouble_sklearn(with_zero: GaussianMixture) -> None:
    model = with_zero.to_sklearn().set_params(random_state=0)
    assert model.sample(100)[1].max() == 1
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        scores = model.score_samples([[0.0], [30.0]])
    np.testing.assert_allclose(scores, with_zero.logpdf([[0.0], [30.0]]), rtol=1e-7)  # the tolerance of the weights


def test_what_is_no_fitted_mixture_is_refused() -> None:
    with pytest.raises(InputError, match="this BayesianGaussianMixture is not fitted"):
        GaussianMixture.from_sklearn(BayesianGaussianMixture())
    with pytest.raises(InputError, match="a str; expected: a GaussianMixture or Bayes"):
        GaussianMixture.from_sklearn("model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_mixtures_keep_their_density(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    weights = D.Categorical(logits=torch.randn(5, generator=draw, dtype=dtype).requires_grad_())
    loc, scale = torch.randn(5, 3, generator=draw, dtype=dtype), torch.rand(5, 3, generator=draw, dtype=dtype) + 0.2
    root = torch.tril(torch.randn(5, 3, 3, generator=draw, dtype=dtype), -1) + torch.diag_embed(scale)
    points = torch.tensor(POINTS, dtype=dtype)
    # float32 keeps seven digits, of terms a hundred times larger than their sum, and the covariance's factor is theirs
    rtol = 1e-12 if dtype == torch.float64 else 1e-4
    for parts in (
        D.MultivariateNormal(loc, scale_tril=root),
        D.MultivariateNormal(loc, covariance_matrix=root @ root.mT),
        D.Independent(D.Normal(loc, scale.requires_grad_()), 1),
    ):
        theirs = D.MixtureSameFamily(weights, parts)
        expected = theirs.log_prob(points).detach().numpy()
        np.testing.assert_allclose(GaussianMixture.from_torch(theirs).logpdf(POINTS), expected, rtol=rtol)
    line = D.MixtureSameFamily(weights, D.Normal(loc[:, 0], scale[:, 0]))
    expected = line.log_prob(points[:, 0]).detach().numpy()
    np.testing.assert_allclose(GaussianMixture.from_torch(line).logpdf(POINTS[:, :1]), expected, rtol=rtol)


def test_many_components_in_float32_are_symmetric_and_their_weights_sum_to_one() -> None:
    draw = torch.Generator().manual_seed(0)
    root = torch.randn(500, 8, 8, generator=draw)
    parts = D.MultivariateNormal(torch.zeros(500, 8), covariance_matrix=root @ root.mT + 0.01 * torch.eye(8))
    weights = D.Categorical(logits=5 * torch.randn(500, generator=draw))
    assert abs(weights.probs.double().sum().item() - 1) > 1e-8  # or there is nothing to prove
    assert GaussianMixture.from_torch(D.MixtureSameFamily(weights, parts)).weights.sum() == pytest.approx(1, abs=1e-14)


def test_a_mixture_made_for_torch_has_its_density(make) -> None:
    mixture = make(2, 4, 3)
    theirs = mixture.to_torch()
    np.testing.assert_allclose(theirs.log_prob(torch.tensor(POINTS)).numpy(), mixture.logpdf(POINTS), rtol=1e-12)
    back = GaussianMixture.from_torch(theirs)
    for name in ("weights", "means", "covariances"):
        np.testing.assert_allclose(getattr(back, name), getattr(mixture, name), rtol=1e-13)


def test_a_mixture_made_for_torch_has_the_type_and_device_asked_for(make) -> None:
    made = make(2).to_torch(dtype=torch.float32, device=torch.device("cpu"))
    for tensor in (made.mixture_distribution.logits, made.component_distribution.loc, made.mean, made.variance):
        assert (tensor.dtype, tensor.device.type) == (torch.float32, "cpu")
    with pytest.raises(RuntimeError, match="nowhere"):  # torch is asked for the device by its name
        make(2).to_torch(device="nowhere")


def test_small_and_zero_weights_are_the_same_in_torch(with_zero: GaussianMixture) -> None:
    small = GaussianMixture([1.0, 1e-300], [[0.0], [30.0]], np.ones((2, 1, 1)))
    for mixture in (with_zero, small):  # the far component outweighs the others at 30, unless its weight is right
        expected = mixture.logpdf([[30.0]])
        found = mixture.to_torch().log_prob(torch.tensor([[30.0]], dtype=torch.float64)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_other_distributions_and_batches_are_refused() -> None:
    one = D.Categorical(torch.ones(2, dtype=torch.float64))
    with pytest.raises(InputError, match="a Normal; expected: a MixtureSameFamily"):
        GaussianMixture.from_torch(D.Normal(0.0, 1.0))
    for parts, name in (
        (D.Laplace(torch.zeros(2), torch.ones(2)), "Laplace"),
        (D.Independent(D.Laplace(torch.zeros(2, 3), torch.ones(2, 3)), 1), "Laplace"),
        (D.Independent(D.Normal(torch.zeros(2, 3, 3), torch.ones(2, 3, 3)), 2), "Independent"),
    ):
        with pytest.raises(InputError, match=f"components are {name}"):
            GaussianMixture.from_torch(D.MixtureSameFamily(one, parts))
    batch = D.MixtureSameFamily(D.Categorical(torch.ones(3, 2)), D.Normal(torch.zeros(3, 2), torch.ones(3, 2)))
    with pytest.raises(InputError, match=r"a batch of \(3,\) mixtures"):
        GaussianMixture.from_torch(batch)


@pytest.mark.parametrize("bandwidth", ["scott", "silverman", 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("d", [1, 4])
def test_kernel_density_estimates_are_scipys(bandwidth: str | float, weighted: bool, d: int) -> None:
    data = IRIS[:, :d]
    weights = np.random.default_rng(1).random(len(data)) if weighted else None
    theirs = gaussian_kde(data.T, bw_method=bandwidth, weights=weights)
    ours = GaussianMixture.from_kde(data, bandwidth, weights)
    points = data[::10] + 0.1
    np.testing.assert_allclose(ours.pdf(points), theirs(points.T), rtol=1e-10)


def test_one_heavy_sample_and_units_apart_are_as_in_scipy() -> None:
    data = np.random.default_rng(2).normal(size=(50, 2)) * [1.0, 1e-12]
    weights = np.full(50, 1e-3)
    weights[0] = 1  # an effective sample size of 1.1, below the number of dimensions
    theirs = gaussian_kde(data.T, weights=weights)
    assert theirs.neff < 1.2
    np.testing.assert_allclose(GaussianMixture.from_kde(data, weights=weights).pdf(data), theirs(data.T), rtol=1e-9)


def test_a_bandwidth_matrix_is_the_kernels_covariance() -> None:
    matrix = np.array([[2.0, 0.5], [0.5, 1.0]])
    mixture = GaussianMixture.from_kde(np.array([[0.0, 0.0], [1.0, 1.0]]), matrix, np.array([1.0, 3.0]))
    np.testing.assert_array_equal(mixture.covariances, [matrix, matrix])
    assert mixture.weights.tolist() == [0.25, 0.75]


LINE = np.linspace(0, 1, 6)[:, None] * np.array([1.0, 0.3])


@pytest.mark.parametrize(
    ("samples", "bandwidth", "match"),
    [
        (LINE, "scott", "the 6 samples of positive weight span 1 of 2 dimensions"),
        (LINE + 1e6, "scott", "span 1 of 2"),
        (POINTS[:3], "scott", "the 3 samples of positive weight span 2 of 3 dimensions"),
        (np.zeros((1, 2)), 0.5, "the 1 samples of positive weight span 0 of 2"),
        (np.full((20, 1), 0.1), "scott", "span 0 of 1"),  # whose rounded mean is another number
        (np.zeros((1, 1, 3)), "scott", r"samples must have shape \(any, any\), got \(1, 1, 3\)"),
        (np.zeros((0, 2)), "scott", r"samples have shape \(0, 2\)"),
        ([[np.nan, 1.0]], "scott", r"samples\[0, 0\] must be finite, got nan"),
        ([["a"]], "scott", "samples must be an array of numbers"),
        (POINTS, "broad", "bandwidth is 'broad'; expected: scott, silverman, a number > 0 or a matrix"),
        (POINTS, -1.0, "bandwidth is -1.0"),
        (POINTS, np.nan, "bandwidth is nan"),
        (POINTS, None, r"not a covariance in 3 dimensions: bandwidth must have shape \(3, 3\), got \(\)"),
        (POINTS, np.eye(2), r"not a covariance in 3 dimensions: .*got \(2, 2\)"),
        (POINTS, -np.eye(3), "not a covariance in 3 dimensions: .*not positive definite"),
        (POINTS, [["a"]], "not a covariance in 3 dimensions: bandwidth must be an array of numbers"),
    ],
)
def test_what_makes_no_density_estimate_is_refused(samples: object, bandwidth: object, match: str) -> None:
    with pytest.raises(InputError, match=match):
        GaussianMixture.from_kde(samples, bandwidth)


def test_samples_of_weight_zero_do_not_count_and_bad_weights_are_refused() -> None:
    with pytest.raises(InputError, match="the 3 samples of positive weight span 2 of 3"):
        GaussianMixture.from_kde(POINTS, weights=np.array([1.0, 1, 1, 0, 0, 0, 0]))
    for weights, match in (
        (-np.ones(7), "weights lie between -1 and -1"),
        (np.zeros(7), "weights lie between 0 and 0"),
        (np.ones(6), r"weights \(6,\); expected: \(n, d\) and \(n,\)"),
    ):
        with pytest.raises(InputError, match=match):
            GaussianMixture.from_kde(POINTS, weights=weights)


def test_a_missing_library_is_named_with_its_extra(make, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, extra, convert in (
        ("sklearn.mixture", "sklearn", GaussianMixture.to_sklearn),
        ("torch", "torch", GaussianMixture.to_torch),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(InputError, match=rf"gmr-metric\[{extra}\]"):
                convert(make(1))


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_the_covariance_type_goes_to_sklearn_and_torch_and_back(make, kind: str) -> None:
    mixture = make(1, 4, 3).convert(kind)
    model = mixture.to_sklearn()
    assert model.covariance_type == kind
    np.testing.assert_allclose(model.score_samples(POINTS), mixture.logpdf(POINTS), rtol=1e-11)
    back = GaussianMixture.from_sklearn(model)
    assert back.covariance_type == kind
    np.testing.assert_allclose(back.covariances, mixture.covariances, rtol=1e-15)
    distribution = mixture.to_torch()
    component = distribution.component_distribution
    assert isinstance(component, D.MultivariateNormal if kind == "full" else D.Independent)
    np.testing.assert_allclose(distribution.log_prob(torch.tensor(POINTS)), mixture.logpdf(POINTS), rtol=1e-11)
    returned = GaussianMixture.from_torch(distribution)
    assert returned.covariance_type == ("full" if kind == "full" else "diag")
    np.testing.assert_allclose(returned.logpdf(POINTS), mixture.logpdf(POINTS), rtol=1e-11)


def test_tied_covariances_of_sklearn_become_full() -> None:
    fitted = Fitted(2, covariance_type="tied", random_state=0).fit(IRIS)
    mixture = GaussianMixture.from_sklearn(fitted)
    np.testing.assert_allclose(mixture.covariances, np.stack([fitted.covariances_] * 2), rtol=1e-12)


def test_kernels_of_other_types_have_the_samples_variances() -> None:
    weights = np.arange(1.0, 8)
    full, diag, spherical = (
        GaussianMixture.from_kde(POINTS, weights=weights, covariance_type=kind)
        for kind in ("full", "diag", "spherical")
    )
    np.testing.assert_allclose(diag.covariances, full.convert("diag").covariances, rtol=1e-12)
    np.testing.assert_allclose(spherical.covariances, full.convert("spherical").covariances, rtol=1e-12)
    given = GaussianMixture.from_kde(POINTS, [1.0, 2.0, 3.0], covariance_type="diag")
    assert given.covariances[0].tolist() == [1.0, 2.0, 3.0]
    line = GaussianMixture.from_kde(LINE, covariance_type="diag")  # on a line, but in both dimensions
    assert line.covariances.shape == LINE.shape
    for bandwidth, match in (([1.0, 0.0, 1.0], "variance of the bandwidth is 0"), ([1.0], r"shape \(3,\), got \(1,\)")):
        with pytest.raises(InputError, match=match):
            GaussianMixture.from_kde(POINTS, bandwidth, covariance_type="diag")
    with pytest.raises(InputError, match="all equal in dimension 1"):
        GaussianMixture.from_kde([[0.0, 1.0], [2.0, 1.0]], covariance_type="diag")
