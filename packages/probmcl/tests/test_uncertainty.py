from __future__ import annotations

import numpy as np
import pytest
import torch
from probmcl import error_by_quantile, uncertainty
from sextet_common.errors import InputError


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal"])
def test_both_parts_together_are_the_variance_of_samples(draw, covariance: str) -> None:
    mixture = draw(0, 3, 4, 2, covariance)
    parts = uncertainty(mixture)
    random = np.random.default_rng(0)
    std = mixture.log_std.exp()
    std = (std[..., None].expand_as(mixture.means) if covariance == "isotropic" else std).numpy()
    for row in range(3):
        weights = mixture.log_weights[row].exp().numpy()
        chosen = random.choice(4, size=200_000, p=weights / weights.sum())
        centres = mixture.means[row].numpy()[chosen]
        samples = centres + std[row][chosen] * random.normal(size=centres.shape)
        assert float(parts.total[row]) == pytest.approx(samples.var(axis=0).mean(), rel=0.02)
        assert float(parts.between[row]) == pytest.approx(centres.var(axis=0).mean(), rel=0.02)
    torch.testing.assert_close(parts.total, parts.between + parts.within)


def test_one_component_has_nothing_between(draw) -> None:
    mixture = draw(1, 2, 1, 3)
    parts = uncertainty(mixture)
    assert parts.between.tolist() == [0, 0]
    torch.testing.assert_close(parts.within, mixture.variances[:, 0])


def test_quantiles_are_of_equal_size_and_in_the_order_of_uncertainty() -> None:
    values = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 0.0, 7.0])
    found = error_by_quantile(values, values * 10, quantiles=3)
    assert found.tolist() == [10, 35, 60]  # 0 1 2, 3 4, 5 7


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(3,\) and \(2,\)"):
        error_by_quantile(np.zeros(3), np.zeros(2))
    with pytest.raises(InputError, match="5 quantiles of 3 rows"):
        error_by_quantile(np.zeros(3), np.zeros(3))
