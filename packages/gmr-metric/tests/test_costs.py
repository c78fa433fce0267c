from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances import costs
from gmr_metric.distances.costs import cauchy_schwarz, kullback_leibler, squared_wasserstein
from gmr_metric.distances.metrics import distance
from scipy.integrate import quad
from scipy.linalg import eigvalsh
from scipy.stats import norm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # POT tries every array library there is, and some warn
    import ot

TABLES = (kullback_leibler, squared_wasserstein, cauchy_schwarz)


def single(f: GaussianMixture, i: int) -> GaussianMixture:
    return GaussianMixture([1.0], f.means[[i]], f.covariances[[i]])


@pytest.mark.parametrize("d", [1, 2, 4])
def test_every_table_has_its_closed_forms(make, d: int) -> None:
    f, g = make(1, 4, d), make(2, 3, d)
    for i in range(len(f)):
        for j in range(len(g)):
            p, q, e = f.covariances[i], g.covariances[j], f.means[i] - g.means[j]
            inverse = np.linalg.inv(q)
            log_ratio = np.linalg.slogdet(q)[1] - np.linalg.slogdet(p)[1]
            kl = 0.5 * (np.trace(inverse @ p) + e @ inverse @ e - d + log_ratio)
            root = np.sqrt(eigvalsh(q, p))
            cs = 0.5 * (np.log1p((1 - root) ** 2 / (2 * root)).sum() + e @ np.linalg.inv(p + q) @ e)
            w2 = ot.gaussian.bures_wasserstein_distance(f.means[i], g.means[j], p, q) ** 2
            for table, value in zip(TABLES, (kl, w2, cs), strict=True):
                assert table(f, g)[i, j] == pytest.approx(value, rel=1e-10)
            assert distance(single(f, i), single(g, j), "cauchy-schwarz") == pytest.approx(cs, rel=1e-10)


def test_the_divergence_is_that_of_numerical_integration() -> None:
    f = GaussianMixture([1.0], [[0.3]], [[[0.49]]])
    g = GaussianMixture([1.0], [[-1.0]], [[[2.25]]])
    p, q = norm(0.3, 0.7), norm(-1, 1.5)
    value = quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -8, 8, epsabs=1e-13)[0]
    assert kullback_leibler(f, g)[0, 0] == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize("table", TABLES)
def test_costs_are_zero_for_equal_components_and_positive_for_others(make, table) -> None:
    f = make(3, 6, 3)
    values = table(f, f)
    # Rounding of sums of the order of ten.
    assert np.abs(np.diagonal(values)).max() < 1e-13 and (values >= 0).all()
    assert (values[~np.eye(6, dtype=bool)] > 1e-3).all()


@pytest.mark.parametrize("table", TABLES)
def test_blocks_of_rows_change_nothing(make, table, monkeypatch: pytest.MonkeyPatch) -> None:
    f, g = make(4, 11, 3), make(5, 4, 3)
    whole = table(f, g)
    monkeypatch.setattr(costs, "_BLOCK", 2 * 4 * 9)
    np.testing.assert_allclose(table(f, g), whole, rtol=1e-13)


def test_small_axes_keep_their_digits() -> None:
    turn = np.array([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]])
    f, g = (GaussianMixture([1.0], [[0.0, 0.0]], [turn @ np.diag([1, s**2]) @ turn.T]) for s in (1e-6, 2e-6))
    # (2e-6 - 1e-6)^2, a difference of numbers of the order of one; roots of rounded eigenvalues would be off by 1e-8.
    assert squared_wasserstein(f, g)[0, 0] == pytest.approx(1e-12, abs=3e-15)
    # The covariances' own rounding is 1e-16 of a condition of 1e12.
    assert kullback_leibler(f, g)[0, 0] == pytest.approx(math.log(2) - 3 / 8, rel=1e-3)
