"""The choices of real images against loops, exhaustive search and chance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from attention_matching.evaluation.features import trained_features
from attention_matching.images.coreset import farthest_first, nearest_mean
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import class_members, herding, k_centre, random_real, select, subset, whole_set
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as npst
from sextet_common import data, seeding
from sextet_common.errors import InputError

# Small whole numbers, and 1, 2, 4 or 8 of them: means and squares are then exact in binary, so that
# points at equal distances are equal to both statements and the first must be taken by both.
POINTS = st.sampled_from([1, 2, 4, 8]).flatmap(
    lambda n: npst.arrays(np.float32, st.tuples(st.just(n), st.integers(1, 3)), elements=st.integers(-4, 4))
)


@pytest.fixture(scope="module")
def digits() -> data.ImageSet:
    return data.load("digits")


@settings(deadline=None)
@given(POINTS)
def test_farthest_first_is_the_rule_written_as_loops(points: np.ndarray) -> None:
    def square(a: np.ndarray, b: np.ndarray) -> float:
        return sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))

    rows = range(len(points))
    mean = points.sum(axis=0) / len(points)
    expected = [min(rows, key=lambda i: square(points[i], mean))]
    while len(expected) < len(points):
        left = [i for i in rows if i not in expected]
        expected.append(max(left, key=lambda i: min(square(points[i], points[c]) for c in expected)))
    assert farthest_first(torch.tensor(points), len(points)) == expected


@settings(deadline=None)
@given(POINTS)
def test_herding_is_the_rule_written_as_loops(points: np.ndarray) -> None:
    mean = points.astype(np.float64).sum(axis=0) / len(points)
    expected: list[int] = []
    while len(expected) < len(points):
        # m times the difference of the means, which is exact, in place of the difference itself
        size = len(expected) + 1
        left = [i for i in range(len(points)) if i not in expected]
        expected.append(min(left, key=lambda i: ((size * mean - points[[*expected, i]].sum(axis=0)) ** 2).sum()))
    assert nearest_mean(torch.tensor(points), len(points)) == expected


@settings(deadline=None, max_examples=50)
@given(npst.arrays(np.float32, (8, 2), elements=st.floats(-4, 4, width=16)), st.integers(1, 3))
def test_no_point_is_further_from_its_centre_than_twice_the_best_possible(points: np.ndarray, count: int) -> None:
    distances = np.linalg.norm(points[:, None].astype(np.float64) - points[None], axis=2)

    def radius(centres: tuple[int, ...]) -> float:
        return float(distances[:, centres].min(axis=1).max())

    best = min(radius(centres) for centres in itertools.combinations(range(8), count))
    assert radius(tuple(farthest_first(torch.tensor(points), count))) <= 2 * best + 1e-5  # single precision


def test_copies_of_one_image_are_each_taken_once() -> None:
    for choose in (farthest_first, nearest_mean):
        assert choose(torch.ones(5, 3), 5) == [0, 1, 2, 3, 4]


def test_distances_far_from_the_origin_are_not_lost_to_rounding() -> None:
    # Squares near 1e8 leave no room for differences of 1 in single precision: the expanded square would.
    points = torch.tensor([[0.0], [1.0], [2.0], [9.0]]).expand(4, 500) + 1e4
    assert farthest_first(points, 3) == [2, 3, 0] and nearest_mean(points, 2) == [2, 1]


def test_the_herded_mean_is_nearer_to_the_class_mean_than_random_choices(digits: data.ImageSet) -> None:
    prepared = Preprocessing.fit(digits)
    means = torch.stack([prepared(digits.train_images[m]).mean(dim=0) for m in class_members(digits)])

    def error(images: torch.Tensor) -> float:
        return float((images.unflatten(0, (10, 8)).mean(dim=1) - means).square().sum())

    chance = [error(random_real(digits, 8, seed).images) for seed in range(20)]
    assert error(herding(digits, 8).images) < 0.5 * min(chance)


def test_the_chosen_centres_cover_the_class_better_than_random_choices(digits: data.ImageSet) -> None:
    members = class_members(digits)[3]
    points = Preprocessing.fit(digits)(digits.train_images[members]).flatten(1)

    def radius(images: torch.Tensor) -> float:
        return float(torch.cdist(points, images[3 * 8 : 4 * 8].flatten(1)).min(dim=1).values.max())

    chance = [radius(random_real(digits, 8, seed).images) for seed in range(20)]
    assert radius(k_centre(digits, 8).images) < min(chance)


@pytest.mark.parametrize("method", ["random", "k-centre", "herding"])
def test_every_method_takes_distinct_training_images_of_each_class_in_turn(digits: data.ImageSet, method: str) -> None:
    chosen = select(method, digits, 5, seed=1)
    assert chosen.labels.tolist() == np.repeat(np.arange(10), 5).tolist() and chosen.ipc == 5
    real = Preprocessing.fit(digits)(digits.train_images)
    places = [(real == image).all(dim=(1, 2, 3)).nonzero()[0].item() for image in chosen.images]
    assert len(set(places)) == 50
    assert digits.train_labels[places].tolist() == chosen.labels.tolist()
    assert torch.equal(chosen.images, select(method, digits, 5, seed=1).images)
    assert chosen.meta["ipc"] == 5 and chosen.meta["data"] == "digits"


def test_only_the_random_choice_depends_on_the_seed(digits: data.ImageSet) -> None:
    for method in ("random", "k-centre", "herding"):
        first, second = (select(method, digits, 2, seed).images for seed in (0, 1))
        assert torch.equal(first, second) == (method != "random")


def test_a_random_choice_of_a_class_is_keyed_by_the_class_alone(digits: data.ImageSet) -> None:
    members = class_members(digits)
    expected = [seeding.generator(4, "random real", k).choice(members[k], 3, replace=False) for k in range(10)]
    real = Preprocessing.fit(digits)(digits.train_images[np.concatenate(expected)])
    assert torch.equal(random_real(digits, 3, 4).images, real)


@pytest.mark.parametrize(("method", "rule"), [("k-centre", farthest_first), ("herding", nearest_mean)])
def test_images_are_compared_by_the_features_that_are_given(digits: data.ImageSet, method: str, rule: object) -> None:
    def features(inputs: torch.Tensor) -> torch.Tensor:
        return inputs[:, :, :2].mean(dim=(2, 3))  # the brightness of the two rows above

    prepared = Preprocessing.fit(digits)
    members = class_members(digits)
    expected = [m[rule(features(prepared(digits.train_images[m])), 2)] for m in members]
    chosen = select(method, digits, 2, features=features)
    assert torch.equal(chosen.images, prepared(digits.train_images[np.concatenate(expected)]))
    assert not torch.equal(chosen.images, select(method, digits, 2).images)


def test_the_given_preprocessing_makes_the_inputs_and_goes_with_the_set(digits: data.ImageSet) -> None:
    whitened = Preprocessing.fit(digits, "zca")
    for method in ("random", "k-centre", "herding"):
        chosen = select(method, digits, 1, 0, whitened)
        assert chosen.preprocessing is whitened
        # Back to pixels within the matrices' single precision.
        gaps = np.abs(digits.train_images[None] - chosen.pixels()[:, None]).max(axis=(2, 3, 4)).min(axis=1)
        assert gaps.max() < 1e-4
    index = np.array([7, 3])
    assert torch.equal(subset(digits, index, {}, whitened).images, whitened(digits.train_images[index]))
    assert torch.equal(whole_set(digits, whitened).images, whitened(digits.train_images))
    assert whole_set(digits).labels.tolist() == digits.train_labels.tolist()


def test_trained_features_tell_the_classes_apart_better_than_pixels(digits: data.ImageSet) -> None:
    prepared = Preprocessing.fit(digits)
    train, test = prepared(digits.train_images), prepared(digits.test_images)
    labels = torch.tensor(digits.train_labels)

    def accuracy(embed: object) -> float:
        x, y = embed(train), embed(test)
        means = torch.stack([x[labels == k].mean(dim=0) for k in range(10)])
        return float((torch.cdist(y, means).argmin(dim=1).numpy() == digits.test_labels).mean())

    features = trained_features(digits, epochs=6, device="cpu")
    assert accuracy(features) > accuracy(lambda images: images.flatten(1)) + 0.03  # 0.96 and 0.90


def test_trained_features_depend_on_the_seed_alone(digits: data.ImageSet) -> None:
    images = Preprocessing.fit(digits)(digits.test_images)
    torch.manual_seed(1)  # the global generator plays no part
    first, again, other = (trained_features(digits, epochs=1, seed=seed, device="cpu")(images) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_choice_that_cannot_be_made_is_refused(digits: data.ImageSet) -> None:
    for method in ("random", "k-centre", "herding"):
        with pytest.raises(InputError, match="ipc must be a whole number >= 1, got 0"):
            select(method, digits, 0)
        with pytest.raises(InputError, match=r"at least ipc = 500 images, got 1\d\d of class '.*'"):
            select(method, digits, 500)
    with pytest.raises(InputError, match="method must be random, k-centre or herding, got 'best'"):
        select("best", digits, 1)
    with pytest.raises(InputError, match="one row per image, got 1 rows for 142 images"):
        herding(digits, 1, features=lambda inputs: inputs[:1])
    with pytest.raises(InputError, match="features must return finite numbers"):
        k_centre(digits, 1, features=lambda inputs: inputs.flatten(1) * torch.nan)
    with pytest.raises(InputError, match="epochs must be a whole number >= 1, got 0"):
        trained_features(digits, epochs=0)
