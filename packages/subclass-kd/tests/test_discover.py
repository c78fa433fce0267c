from __future__ import annotations

import numpy as np
import pytest
from sextet_common.errors import InputError
from sklearn.metrics import adjusted_rand_score
from subclass_kd import discover_subclasses


def blobs(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class 0 of three clusters, class 1 of two."""
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(5), [30, 40, 20, 25, 35])
    centres = np.array([[0, 0], [9, 0], [0, 9], [30, 30], [30, 42]])
    order = random.permutation(len(truth))
    return (centres[truth] + random.normal(size=(len(truth), 2)))[order], np.where(truth < 3, 0, 1)[order], truth[order]


@pytest.mark.parametrize(("method", "criterion"), [("kmeans", "silhouette"), ("gmm", "silhouette"), ("gmm", "bic")])
def test_the_clusters_of_each_class_are_found_and_counted(method, criterion) -> None:
    x, y, truth = blobs()
    discovered = discover_subclasses(x, y, (2, 5), method, criterion=criterion, class_names=("a", "b"))
    assert discovered.hierarchy.sizes.tolist() == [3, 2]
    assert adjusted_rand_score(truth, discovered.subclass_labels) > 0.99
    assert discovered.hierarchy.class_labels(discovered.subclass_labels).tolist() == y.tolist()
    assert discovered.hierarchy.subclass_names == ("a 0", "a 1", "a 2", "b 0", "b 1")
    assert [sorted(scores) for scores in discovered.scores] == [[2, 3, 4, 5]] * 2


def test_clusters_are_numbered_by_their_size_and_the_seed_repeats() -> None:
    x, y, _ = blobs()
    discovered = discover_subclasses(x, y, 2)
    assert np.bincount(discovered.subclass_labels[y == 0])[0] >= np.bincount(discovered.subclass_labels[y == 0])[1]
    again = discover_subclasses(x, y, 2)
    assert np.array_equal(discovered.subclass_labels, again.subclass_labels) and discovered.scores == ({}, {})


def test_one_cluster_a_class_is_the_class() -> None:
    x, y, _ = blobs()
    assert discover_subclasses(x, y, 1).subclass_labels.tolist() == y.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.zeros((3, 2))}, "features of shape"),
        ({"labels": np.full(150, -1)}, "whole numbers from 0"),
        ({"features": np.full((150, 2), np.inf)}, "NaN or infinity"),
        ({"per_class": 0}, "per_class is 0"),
        ({"per_class": (3, 2)}, "per_class is"),
        ({"per_class": 200}, r"class '0' has 90 samples; expected: at least 200"),
        ({"method": "spectral"}, "method must be kmeans or gmm, got 'spectral'"),
        ({"criterion": "bic"}, "criterion 'bic' with method 'kmeans'"),
        ({"class_names": ("a",)}, "label 1; expected: 0 to 0"),
    ],
)
def test_invalid_input_is_refused(changes: dict[str, object], message: str) -> None:
    x, y, _ = blobs()
    with pytest.raises(InputError, match=message):
        discover_subclasses(**{"features": x, "labels": y, **changes})
