from __future__ import annotations

import numpy as np
import pytest
import torch
from sextet_common.errors import InputError
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from subclass_kd import (
    TrainConfig,
    build,
    choose_layer,
    discover_subclasses,
    layer_features,
    load,
    train_teacher,
)


def blobs(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class 0 of three clusters, class 1 of two."""
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(5), [30, 40, 20, 25, 35])
    centres = np.array([[0, 0], [9, 0], [0, 9], [30, 30], [30, 42]])
    order = random.permutation(len(truth))
    return (centres[truth] + random.normal(size=(len(truth), 2)))[order], np.where(truth < 3, 0, 1)[order], truth[order]


@pytest.mark.parametrize(
    ("method", "criterion"),
    [("kmeans", "silhouette"), ("gmm", "silhouette"), ("gmm", "bic"), ("spectral", "silhouette")],
)
def test_the_clusters_of_each_class_are_found_and_counted(method, criterion) -> None:
    x, y, truth = blobs()
    discovered = discover_subclasses(x, y, (2, 5), method, criterion=criterion, class_names=("a", "b"))
    assert discovered.hierarchy.sizes.tolist() == [3, 2]
    assert adjusted_rand_score(truth, discovered.subclass_labels) > 0.99
    assert discovered.hierarchy.class_labels(discovered.subclass_labels).tolist() == y.tolist()
    assert discovered.hierarchy.subclass_names == ("a 0", "a 1", "a 2", "b 0", "b 1")
    assert [sorted(scores) for scores in discovered.scores] == [[2, 3, 4, 5]] * 2


def test_the_layer_that_the_others_confirm_is_chosen_with_its_mean_adjusted_rand_index() -> None:
    x, y, truth = blobs()
    random = np.random.default_rng(1)
    layers = {
        "noise": random.normal(size=(150, 3)),
        "sharp": x,
        "blurred": x + random.normal(scale=1.5, size=x.shape),
        "other noise": random.normal(size=(150, 3)),
    }
    choice = choose_layer(layers, y, (2, 4), "kmeans")
    assert choice.layer in ("sharp", "blurred") and list(choice.agreement) == list(layers)
    assert adjusted_rand_score(truth, choice.discovered.subclass_labels) > 0.8
    found = {name: discover_subclasses(values, y, (2, 4)).subclass_labels for name, values in layers.items()}
    others = [
        np.mean([adjusted_rand_score(found["sharp"][y == c], found[name][y == c]) for c in (0, 1)])
        for name in layers
        if name != "sharp"
    ]
    assert choice.agreement["sharp"] == pytest.approx(np.mean(others))
    alone = choose_layer({"sharp": x}, y, (2, 4), "kmeans")
    assert alone.layer == "sharp" and alone.agreement == {"sharp": 1.0}
    with pytest.raises(InputError, match="no layer"):
        choose_layer({}, y)


def test_a_network_of_two_classes_reveals_the_ten_digits() -> None:
    data = load("digits")
    plain = data.with_classes_only()
    network = train_teacher(build("convnet-deep", (1, 8, 8), 2, width=16), plain, TrainConfig(epochs=4, device="cpu"))
    layers = layer_features(network, plain.train)
    assert list(layers) == ["pixels", "8x8", "4x4", "last"] and layers["4x4"].shape == (len(data.train), 32)
    choice = choose_layer(layers, plain.train.labels, 5)
    agreement = [
        normalized_mutual_info_score(data.train.labels[rows], choice.discovered.subclass_labels[rows])
        for rows in (plain.train.labels == 0, plain.train.labels == 1)
    ]
    assert np.mean(agreement) > 0.85  # the last layer's clusters have less than 0.4


def test_layers_are_what_hooks_see_projected_without_loss() -> None:
    data = load("digits").scarce(0.2)
    network = build("convnet", (1, 8, 8), 2, width=2)
    layers = layer_features(network, data.train, data.validation, dims=128)
    images = torch.cat([part.batch(np.arange(len(part))) for part in (data.train, data.validation)])
    with torch.inference_mode():
        first = network.eval().blocks[:3](images)
    for name, values in (("pixels", images), ("8x8", first)):
        flat = values.flatten(1).numpy()
        expected = np.linalg.norm(flat[:, None] - flat, axis=2)  # all components keep the distances
        found = np.linalg.norm(layers[name][:, None] - layers[name], axis=2)
        np.testing.assert_allclose(found, expected, atol=1e-4)


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
        ({"method": "ward"}, "method must be kmeans, gmm or spectral, got 'ward'"),
        ({"criterion": "bic"}, "criterion 'bic' with method 'kmeans'"),
        ({"class_names": ("a",)}, "label 1; expected: 0 to 0"),
    ],
)
def test_invalid_input_is_refused(changes: dict[str, object], message: str) -> None:
    x, y, _ = blobs()
    with pytest.raises(InputError, match=message):
        discover_subclasses(**{"features": x, "labels": y, **changes})
