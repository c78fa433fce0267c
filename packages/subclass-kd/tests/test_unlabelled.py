"""Images without labels, and with class labels only: in sets, batches, training and scores."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sextet_common.errors import InputError
from sextet_common.seeding import generator
from subclass_kd import (
    ClassKDLoss,
    CrossEntropy,
    Hierarchy,
    Part,
    SubclassKDLoss,
    SubclassSet,
    TrainConfig,
    Views,
    build,
    distill,
    evaluate,
    label_bits,
    predict,
    train_teacher,
)
from subclass_kd.batches import Batches
from torch import nn

H = Hierarchy(np.array([0, 1, 0, 1]), tuple("abcd"), ("x", "y"))
FAST = TrainConfig(epochs=3, batch_size=8, views=Views(1), device="cpu")


def data() -> SubclassSet:
    """Images whose brightest quarter is their subclass."""
    random = np.random.default_rng(0)
    labels = np.arange(160) % 4
    images = 0.4 * random.random((160, 1, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 0.5
    return SubclassSet.of((images[:100], labels[:100]), (images[100:], labels[100:]), H)


def network(width: int = 4, seed: int = 0) -> nn.Module:
    return build("convnet", (1, 8, 8), 4, width=width, seed=seed)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


@pytest.mark.parametrize("rest", ["class", "unlabelled"])
def test_scarce_labels_leave_all_images_and_the_labels_of_the_dropping_draw(rest: str) -> None:
    whole = data()
    few, kept = whole.scarce(0.2, seed=3), whole.scarce(0.2, seed=3, rest=rest)
    assert len(kept.train) == len(whole.train) and np.array_equal(kept.train.images, whole.train.images)
    known = kept.train.labels >= 0
    assert np.array_equal(kept.train.images[known], few.train.images)
    assert np.array_equal(kept.train.labels[known], few.train.labels)
    classes = H.class_labels(kept.train.labels)[~known]
    assert np.array_equal(classes, H.class_of[whole.train.labels][~known] if rest == "class" else classes * 0 - 1)
    assert few.source != kept.source and rest.split("e")[0] in kept.source


def test_images_without_labels_stay_in_training_and_class_labels_are_held_out_too() -> None:
    labels = np.tile([0, 1, 2, 3, -1, -2, -3, -1], 20)
    images = np.random.default_rng(0).random((160, 1, 4, 4))
    split = SubclassSet.of((images, labels), (images[:4], np.array([0, 1, -2, -3])), H)
    counts = dict(zip(*np.unique(split.validation.labels, return_counts=True), strict=True))
    assert counts == {0: 3, 1: 3, 2: 3, 3: 3, -2: 3, -3: 3}
    assert (split.train.labels == -1).sum() == 40 and len(split.train) == 142
    classes = split.with_classes_only()
    assert classes.train.labels.tolist() == [{-1: -1, -2: 0, -3: 1}.get(s, s % 2) for s in split.train.labels]
    assert classes.test.labels.tolist() == [0, 1, 0, 1]


def test_a_set_needs_labels_to_validate_and_to_test_with() -> None:
    images, labels = np.zeros((8, 1, 4, 4)), np.arange(8) % 4
    none, good = (images, labels * 0 - 1), (images, labels)
    with pytest.raises(InputError, match=r"no labelled training image; expected: .* or a validation part"):
        SubclassSet.of(none, good, H)
    assert SubclassSet.of(none, good, H, validation=good).train.labels.tolist() == [-1] * 8
    with pytest.raises(InputError, match="image 0 of the test part is unlabelled"):
        SubclassSet.of(good, none, H)
    with pytest.raises(InputError, match=r"subclass label -4; expected: .* 0 to 3, -1 \(unlabelled\)"):
        SubclassSet.of((images, labels - 4), good, H)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60), st.integers(0, 90), st.integers(1, 20), st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.integers(1, 3)
)
def test_every_step_has_its_ratio_and_an_epoch_has_every_image(
    labelled: int, unlabelled: int, size: int, ratio: float, world: int
) -> None:
    labels = generator(0, labelled).permutation(np.r_[np.zeros(labelled, int), np.full(unlabelled, -1)])
    config = TrainConfig(batch_size=size, unlabelled_ratio=ratio)
    batches = Batches(Part(np.zeros((len(labels), 1, 1, 1)), labels), config, with_unlabelled=True)
    epoch = [list(batches.epoch(5, rank, world)) for rank in range(world)]
    assert all(len(steps) == batches.steps for steps in epoch)
    steps = [np.concatenate([rows for rows, _ in shards]) for shards in zip(*epoch, strict=True)]
    assert [len(rows) for rows in steps] == [count for _, count in epoch[0]]
    few = max(1, round(size / (1 + ratio)))
    more = size - few
    used = more > 0 and unlabelled > 0
    size = few if used else size
    for rows in steps:
        known = int((labels[rows] == 0).sum())
        # An epoch's last images are spread over its steps, so that a step may have more, but never twice as many.
        assert min(size, labelled) <= known < 2 * max(size, labelled / batches.steps)
        assert min(more, unlabelled) * used <= len(rows) - known <= 2 * more
    expected = np.arange(len(labels)) if used else np.flatnonzero(labels == 0)
    assert np.array_equal(np.unique(np.concatenate(steps)), expected)


@pytest.mark.parametrize("count", [5, 64, 100])
def test_labelled_images_alone_are_trained_on_in_the_order_of_earlier_releases(count: int) -> None:
    batches = Batches(Part(np.zeros((count, 1, 1, 1)), np.zeros(count, int)), TrainConfig(seed=4), with_unlabelled=True)
    expected = np.array_split(generator(4, "order", 7).permutation(count), max(1, count // 64))
    assert [rows.tolist() for rows, _ in batches.epoch(7)] == [rows.tolist() for rows in expected]


def test_a_teacher_is_trained_on_the_labelled_images_alone() -> None:
    few, kept = (data().scarce(0.4, rest=rest) for rest in ("drop", "unlabelled"))
    assert same(*(train_teacher(network(), each, FAST) for each in (few, kept)))
    assert same(*(distill(None, network(), each, CrossEntropy(H), FAST) for each in (few, kept)))
    with pytest.raises(InputError, match="no training image has a label"):
        none = dataclasses.replace(kept, train=dataclasses.replace(kept.train, labels=kept.train.labels * 0 - 1))
        train_teacher(network(), none, FAST)


def test_the_seeds_of_orders_differ_from_epoch_to_epoch_and_within_one() -> None:
    labels = np.r_[np.zeros(12, int), np.full(100, -1)]
    batches = Batches(
        Part(np.zeros((112, 1, 1, 1)), labels), TrainConfig(batch_size=24, unlabelled_ratio=1.0), with_unlabelled=True
    )
    orders = [rows[:12].tolist() for epoch in range(2) for rows, _ in batches.epoch(epoch)]
    assert len(orders) == 16 and len({tuple(order) for order in orders}) == 16
    assert all(sorted(order) == list(range(12)) for order in orders)


def test_scores_and_bits_leave_out_what_is_not_known() -> None:
    kept, net = data().scarce(0.4, rest="unlabelled"), network()
    few = data().scarce(0.4)
    assert evaluate(net, kept, "train") == evaluate(net, few, "train")
    mixed = dataclasses.replace(kept.test, labels=H.class_only(H.class_labels(kept.test.labels)))
    assert evaluate(net, dataclasses.replace(kept, test=mixed)) == evaluate(net, kept)
    assert label_bits(kept.train.labels, H) == label_bits(few.train.labels, H)
    with pytest.raises(InputError, match="0 of them subclasses"):
        label_bits(mixed.labels, H)


@pytest.mark.parametrize("loss", [SubclassKDLoss, ClassKDLoss])
def test_students_of_a_good_teacher_learn_from_unlabelled_images(loss: type[nn.Module]) -> None:
    teacher = train_teacher(network(8, seed=1), data(), dataclasses.replace(FAST, epochs=25))
    few, kept = (data().scarce(0.05, rest=rest) for rest in ("drop", "unlabelled"))
    assert len(few.train) == 4
    config = dataclasses.replace(FAST, epochs=15, unlabelled_ratio=2)
    student = distill(teacher, network(), kept, loss(H), config)
    alone = distill(None, network(), few, CrossEntropy(H), dataclasses.replace(config, epochs=75))
    accuracy = [evaluate(each, data()).accuracy for each in (teacher, student, alone)]
    assert accuracy[0] > 0.95 and accuracy[1] > 0.9 > accuracy[2]


def test_without_any_label_a_student_learns_from_the_teacher_alone() -> None:
    teacher = train_teacher(network(8, seed=1), data(), dataclasses.replace(FAST, epochs=25))
    whole = data()
    none = dataclasses.replace(whole, train=dataclasses.replace(whole.train, labels=whole.train.labels * 0 - 1))
    objective = SubclassKDLoss(H, alpha=1.0)
    with_labels, without = (distill(teacher, network(), each, objective, FAST) for each in (whole, none))
    torch.testing.assert_close(predict(without, whole.test), predict(with_labels, whole.test))
