from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.metrics import distance
from gmr_metric.reduction.api import reduce
from gmr_metric.reduction.merging import merge_groups
from sextet_common.errors import InputError


def partitions(n: int, n_blocks: int) -> Iterator[np.ndarray]:
    """All restricted growth strings of a length and a number of blocks."""

    def grow(prefix: list[int], used: int) -> Iterator[np.ndarray]:
        if len(prefix) == n:
            if used == n_blocks:
                yield np.array(prefix)
            return
        for block in range(min(used + 1, n_blocks)):
            yield from grow([*prefix, block], max(used, block + 1))

    return grow([0], 1)


@pytest.mark.parametrize("metric", ["angle", "ise"])
def test_the_best_of_all_partitions_is_found(make, metric: str) -> None:
    for seed, n, d in ((0, 6, 1), (1, 7, 2)):
        mixture = make(seed, n, d)
        for n_blocks in range(1, n + 1):
            found = reduce(mixture, n_blocks, "brute-force", metric=metric)
            least = min(distance(mixture, merge_groups(mixture, p), metric) for p in partitions(n, n_blocks))
            assert distance(mixture, found.mixture, metric) == pytest.approx(least, rel=1e-9, abs=1e-9)
            ((action, components, left, cost),) = found.history
            assert (action, components, left) == ("reassign", (), n_blocks)
            assert cost == pytest.approx(least, rel=1e-9, abs=1e-9)


def test_the_classic_mixtures_best_partitions_are_those_computed_independently(classic) -> None:
    expected = {
        6: (0.000392827034821, 0.0284045339, [0, 1, 0, 2, 0, 3, 0, 4, 5, 0]),
        5: (0.0029520974105, 0.0759120169, [0, 1, 0, 2, 0, 3, 0, 0, 4, 0]),
        4: (0.0141536503663, 0.1711929781, [0, 1, 0, 2, 1, 3, 0, 0, 1, 0]),
    }
    for n, (ise, angle, assignment) in expected.items():
        for metric in ("angle", "ise"):
            found = reduce(classic, n, "brute-force", metric=metric)
            assert found.assignment.tolist() == assignment
        assert distance(classic, found.mixture, "ise") == pytest.approx(ise, rel=1e-9)
        assert found.distance == pytest.approx(angle, abs=1e-9)


def test_no_other_reduction_by_groups_is_better(make) -> None:
    mixture = make(3, 10, 2)
    for metric in ("angle", "ise"):
        best = distance(mixture, reduce(mixture, 4, "brute-force", metric=metric).mixture, metric)
        for method in ("runnalls", "salmond", "williams", "west"):
            assert best <= distance(mixture, reduce(mixture, 4, method).mixture, metric) + 1e-12


def test_as_many_as_are_accepted_take_seconds_and_find_pairs_of_duplicates() -> None:
    """Thirteen components in six places; the nine million partitions are told apart by the one at no distance."""
    places = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0])
    draw = np.random.default_rng(14)
    centres, roots = 3 * draw.normal(size=(6, 2)), draw.normal(size=(6, 2, 2))
    covariances = np.matmul(roots, roots.swapaxes(1, 2)) + 0.3 * np.eye(2)
    mixture = GaussianMixture(draw.random(13) + 0.1, centres[places], covariances[places], normalize=True)
    before = mixture.weights.copy(), mixture.means.copy(), mixture.covariances.copy()
    found = reduce(mixture, 6, "brute-force")
    assert found.assignment.tolist() == places.tolist()
    assert found.distance < 1e-7
    for array, copy in zip((mixture.weights, mixture.means, mixture.covariances), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_components_a_million_deviations_apart_are_grouped_right() -> None:
    means = np.array([0.0, 1e6, 0.3, 1e6 + 0.2, -1e6, -1e6 - 0.1])[:, None]
    mixture = GaussianMixture(np.array([0.1, 0.2, 0.3, 0.1, 0.1, 0.2]), means, np.ones((6, 1, 1)))
    for metric in ("angle", "ise"):
        assert reduce(mixture, 3, "brute-force", metric=metric).assignment.tolist() == [0, 1, 0, 1, 2, 2]


def test_too_many_components_and_unknown_metrics_are_refused(make) -> None:
    with pytest.raises(InputError, match="brute-force over 14 components; expected: at most 13"):
        reduce(make(1, 14), 3, "brute-force")
    with pytest.raises(InputError, match="metric must be angle or ise, got 'kl'"):
        reduce(make(1), 2, "brute-force", metric="kl")
