"""Conversions: the densities are those of the other library."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gmr_metric.interop import conversions
from gmr_metric.mixture import GaussianMixture
from scipy.stats import gaussian_kde
from sextet_common.errors import InputError
from sklearn.datasets import load_iris
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as Fitted
from torch import distributions as D

POINTS = np.random.default_rng(0).normal(size=(7, 3))


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("model", [Fitted, BayesianGaussianMixture])
def test_a_fitted_model_of_any_covariance_type_keeps_its_density(kind: str, model: type) -> None:
    data = load_iris().data
    fitted = model(n_components=2, covariance_type=kind, random_state=0, max_iter=300).fit(data)
    mixture = GaussianMixture.from_sklearn(fitted)
    if model is Fitted:  # the Bayesian one scores by its posterior, not by its point estimate
        np.testing.assert_allclose(mixture.logpdf(data), fitted.score_samples(data), rtol=1e-9)
    else:
        np.testing.assert_allclose(mixture.weights, fitted.weights_, rtol=1e-12)
    back = GaussianMixture.from_sklearn(mixture.to_sklearn())
    for name in ("weights", "means", "covariances"):
        np.testing.assert_allclose(getattr(back, name), getattr(mixture, name), rtol=1e-15)


def test_a_model_made_for_sklearn_scores_predicts_and_samples(make) -> None:
    mixture = make(1, 4, 3)
    model = mixture.to_sklearn()
    np.testing.assert_allclose(model.score_samples(POINTS), mixture.logpdf(POINTS), rtol=1e-12)
    np.testing.assert_allclose(model.predict_proba(POINTS).sum(axis=1), 1)
    assert (model.predict(POINTS) == model.predict_proba(POINTS).argmax(axis=1)).all()
    drawn, _ = model.sample(20_000)
    np.testing.assert_allclose(drawn.mean(axis=0), mixture.mean(), atol=0.1)


def test_what_is_no_fitted_mixture_is_refused() -> None:
    with pytest.raises(InputError, match="this GaussianMixture is not fitted"):
        GaussianMixture.from_sklearn(Fitted(2))
    with pytest.raises(InputError, match="a str; expected: a GaussianMixture"):
        GaussianMixture.from_sklearn("model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_mixtures_keep_their_density(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    weights = D.Categorical(logits=torch.randn(5, generator=draw, dtype=dtype))
    loc, scale = torch.randn(5, 3, generator=draw, dtype=dtype), torch.rand(5, 3, generator=draw, dtype=dtype) + 0.2
    root = torch.tril(torch.randn(5, 3, 3, generator=draw, dtype=dtype), -1) + torch.diag_embed(scale)
    points = torch.tensor(POINTS, dtype=dtype)
    for parts in (D.MultivariateNormal(loc, scale_tril=root), D.Independent(D.Normal(loc, scale), 1)):
        theirs = D.MixtureSameFamily(weights, parts)
        ours = GaussianMixture.from_torch(theirs)
        rtol = 1e-12 if dtype == torch.float64 else 1e-4  # float32 keeps seven digits, of sums of larger terms
        np.testing.assert_allclose(ours.logpdf(POINTS), theirs.log_prob(points).numpy(), rtol=rtol)
    line = D.MixtureSameFamily(weights, D.Normal(loc[:, 0], scale[:, 0]))
    expected = line.log_prob(points[:, 0]).numpy()
    np.testing.assert_allclose(GaussianMixture.from_torch(line).logpdf(POINTS[:, :1]), expected, rtol=rtol)


def test_a_mixture_made_for_torch_has_the_density_and_type_asked_for(make) -> None:
    mixture = make(2, 4, 3)
    theirs = mixture.to_torch()
    np.testing.assert_allclose(theirs.log_prob(torch.tensor(POINTS)).numpy(), mixture.logpdf(POINTS), rtol=1e-12)
    assert mixture.to_torch(dtype=torch.float32).mean.dtype == torch.float32
    np.testing.assert_allclose(GaussianMixture.from_torch(theirs).covariances, mixture.covariances, rtol=1e-12)


def test_other_distributions_and_batches_are_refused() -> None:
    one = D.Categorical(torch.ones(2, dtype=torch.float64))
    with pytest.raises(InputError, match="a Normal; expected: a MixtureSameFamily"):
        GaussianMixture.from_torch(D.Normal(0.0, 1.0))
    with pytest.raises(InputError, match="components are Laplace"):
        GaussianMixture.from_torch(D.MixtureSameFamily(one, D.Laplace(torch.zeros(2), torch.ones(2))))
    batch = D.MixtureSameFamily(D.Categorical(torch.ones(3, 2)), D.Normal(torch.zeros(3, 2), torch.ones(3, 2)))
    with pytest.raises(InputError, match=r"a batch of \(3,\) mixtures"):
        GaussianMixture.from_torch(batch)


@pytest.mark.parametrize("bandwidth", ["scott", "silverman", 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("d", [1, 4])
def test_kernel_density_estimates_are_scipys(bandwidth: str | float, weighted: bool, d: int) -> None:
    data = load_iris().data[:, :d]
    weights = np.random.default_rng(1).random(len(data)) if weighted else None
    theirs = gaussian_kde(data.T, bw_method=bandwidth, weights=weights)
    ours = GaussianMixture.from_kde(data, bandwidth, weights)
    points = data[::10] + 0.1
    np.testing.assert_allclose(ours.pdf(points), theirs(points.T), rtol=1e-10)


def test_a_bandwidth_matrix_is_the_kernels_covariance() -> None:
    matrix = np.array([[2.0, 0.5], [0.5, 1.0]])
    mixture = GaussianMixture.from_kde(np.zeros((1, 2)), matrix)
    np.testing.assert_array_equal(mixture.covariances[0], matrix)


def test_samples_that_make_no_density_are_refused() -> None:
    line = np.arange(6.0)[:, None] * np.ones(2)
    for samples, bandwidth, match in (
        (line, "scott", "6 samples span fewer than 2 dimensions"),
        (np.zeros((1, 2)), "scott", "1 samples span fewer"),
        (np.zeros(3), "scott", r"samples have shape \(3,\)"),
        ([[np.nan, 1.0]], "scott", "not finite"),
        ([["a"]], "scott", "no numbers"),
        (POINTS, "broad", "bandwidth is 'broad'"),
        (POINTS, -1.0, "bandwidth is -1.0"),
        (POINTS, np.eye(2), r"bandwidth has shape \(2, 2\)"),
        (POINTS, -np.eye(3), "not positive definite"),
    ):
        with pytest.raises(InputError, match=match):
            GaussianMixture.from_kde(samples, bandwidth)
    with pytest.raises(InputError, match="weights negative"):
        GaussianMixture.from_kde(POINTS, weights=-np.ones(7))


def test_a_missing_library_is_named_with_its_extra(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.mixture", None)
    with pytest.raises(InputError, match=r"gmr-metric\[sklearn\]"):
        conversions.to_sklearn(make(1))
