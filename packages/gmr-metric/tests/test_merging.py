from __future__ import annotations

import numpy as np
import pytest
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.merging import merge, merge_groups
from hypothesis import given, settings, strategies as st
from sextet_common.errors import InputError


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 4))
def test_any_merge_keeps_mean_and_covariance(make, seed: int, n: int, d: int) -> None:
    mixture = make(seed, n, d)
    labels = np.random.default_rng(seed).integers(0, n, size=n)
    merged = merge_groups(mixture, np.unique(labels, return_inverse=True)[1])
    np.testing.assert_allclose(merged.mean(), mixture.mean(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.covariance(), mixture.covariance(), rtol=1e-12, atol=1e-12)


def test_merging_step_by_step_is_merging_at_once(make) -> None:
    mixture = make(3, 4, 3)
    steps = merge(merge(merge(mixture, 1, 3), 0, 1), 0, 1)
    whole = merge_groups(mixture, np.zeros(4, dtype=int))
    for name in ("weights", "means", "covariances"):
        np.testing.assert_allclose(getattr(steps, name), getattr(whole, name), rtol=1e-12)
    np.testing.assert_allclose(whole.means[0], mixture.mean(), rtol=1e-13)
    np.testing.assert_allclose(whole.covariances[0], mixture.covariance(), rtol=1e-12)


def test_the_others_stay_and_the_merged_one_stands_first(make) -> None:
    mixture = make(4, 4)
    merged = merge(mixture, 3, 1)
    for new, old in ((0, 0), (2, 2)):
        np.testing.assert_allclose(merged.means[new], mixture.means[old], rtol=1e-14)
    assert merged.weights[1] == pytest.approx(mixture.weights[1] + mixture.weights[3])


def test_far_from_the_origin_no_digit_is_lost() -> None:
    pair = GaussianMixture([0.5, 0.5], [[1e8 - 1], [1e8 + 1]], [[[1.0]], [[1.0]]])
    assert merge(pair, 0, 1).covariances[0, 0, 0] == 2.0


def test_components_without_weight_merge_too() -> None:
    mixture = GaussianMixture([0.0, 0.0, 1.0], [[-1.0], [1.0], [5.0]], np.ones((3, 1, 1)))
    merged = merge(mixture, 0, 1)
    assert merged.weights.tolist() == [0.0, 1.0] and merged.means.tolist() == [[0.0], [5.0]]


def test_in_a_group_of_zero_weight_the_components_count_equally() -> None:
    mixture = GaussianMixture(
        [0.0, 1.0, 0.0, 0.0], [[1.0], [5.0], [2.0], [6.0]], np.array([1.0, 1.0, 2.0, 6.0])[:, None, None]
    )
    merged = merge_groups(mixture, np.array([1, 0, 1, 1]))
    assert merged.weights.tolist() == [1.0, 0.0]
    assert merged.means[1, 0] == pytest.approx(3.0, rel=1e-15)
    assert merged.covariances[1, 0, 0] == pytest.approx(3.0 + 14 / 3, rel=1e-15)  # mean variance plus that of the means


def test_what_is_no_partition_is_refused(make) -> None:
    mixture = make(1)
    for i, j in ((0, 0), (0, 3), (-1, 1)):
        with pytest.raises(InputError, match="two different ones from 0 to 2"):
            merge(mixture, i, j)
    for groups, match in (
        ([0, 2, 0], "groups are"),
        ([0, 1], "shape"),
        ([0.0, 1.0, 1.0], "float64"),
        ([-1, 0, 1], "-1"),
    ):
        with pytest.raises(InputError, match=match):
            merge_groups(mixture, np.array(groups))
