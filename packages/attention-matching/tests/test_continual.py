"""Continual learning: what is known when, what is kept, and that nothing else decides the numbers."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_matching.distillation.config import DistillConfig
from attention_matching.evaluation.config import TrainConfig
from attention_matching.experiments.continual import ContinualConfig, class_order, continual
from attention_matching.experiments.continual_result import ContinualResult
from attention_matching.experiments.small_sets import SOURCES, _logged_seconds, only_classes, small_set, small_sets
from attention_matching.images.distilled import DistilledSet
from PIL import Image
from sextet_common import data
from sextet_common.errors import InputError
from sextet_common.runs import Run

module = importlib.import_module("attention_matching.experiments.continual")  # the package's attribute is the function
SMALL = ContinualConfig(
    steps=3,
    ipc=2,
    buffers=("random", "herding"),
    orders=2,
    width=4,
    depth=1,
    training=TrainConfig(epochs=4),
    distill=DistillConfig(steps=2, width=4, depth=2, real_batch=4),  # one block alone has no attention to match,
)


@pytest.fixture(scope="module")
def shades() -> data.ImageSet:
    """Seven classes whose images are of one grey each, so that a pixel tells its class."""

    def images(each: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(7), each)
        return np.tile((labels / 7)[:, None, None], (1, 8, 8)), labels

    return data.ImageSet.of(*images(5), *images(3), tuple("abcdefg"))


@pytest.fixture(scope="module")
def digits() -> data.ImageSet:
    return data.load("digits")


@pytest.fixture(scope="module")
def uninterrupted(shades: data.ImageSet) -> ContinualResult:
    return continual(shades, SMALL)


def equal(a: ContinualResult, b: ContinualResult) -> bool:
    return a.orders == b.orders and all(np.array_equal(a.accuracies[name], b.accuracies[name]) for name in b.accuracies)


@pytest.fixture
def trainings(shades: data.ImageSet, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record what every training and every test of a run is given."""
    seen: list[dict[str, Any]] = []
    train, test = module.train_networks, module.accuracy

    def recorded_training(make, numbers, inputs, targets, augment, config):
        networks = train(make, numbers, inputs, targets, augment, config)
        seen.append(
            {"head": networks[0].classifier.out_features, "inputs": inputs, "targets": targets, "seed": config.seed}
        )
        return networks

    def recorded_test(network, inputs, labels, batch):
        seen[-1].update(test_inputs=inputs, test_labels=labels)
        return test(network, inputs, labels, batch)

    monkeypatch.setattr(module, "train_networks", recorded_training)
    monkeypatch.setattr(module, "accuracy", recorded_test)
    return seen


def test_a_network_knows_buffers_and_is_tested_on_exactly_the_classes_that_have_arrived(
    shades: data.ImageSet, trainings: list[dict[str, Any]]
) -> None:
    config = dataclasses.replace(SMALL, buffers=("random",), orders=1)
    continual(shades, config)
    order = class_order(7, config.seed, 0)
    assert [t["head"] for t in trainings] == [3, 5, 7]  # seven classes in three steps
    first = [shades.train_images[shades.train_labels == label] for label in order[:3]]
    mean, std = np.mean(first), np.std(first)  # what is known at the first step
    for t in trainings:
        arrived = order[: t["head"]]
        for inputs, labels, each in ((t["inputs"], t["targets"], 2), (t["test_inputs"], t["test_labels"], 3)):
            pixels = inputs[:].numpy() * std + mean
            classes = np.round(pixels[:, 0, 0, 0] * 7).astype(int).tolist()
            assert sorted(classes) == sorted(arrived * each)
            assert [arrived[label] for label in labels.tolist()] == classes  # the head's outputs in order of arrival
    for earlier, later in itertools.pairwise(trainings):
        assert torch.equal(later["inputs"][: len(earlier["inputs"])], earlier["inputs"])  # what is kept stays as it is


def test_a_buffer_is_made_from_the_new_classes_images_alone(
    shades: data.ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def recorded(source, part, ipc, seed, *more, **named):
        given.append((part.classes, len(part.train_labels), seed))
        return small_set(source, part, ipc, seed, *more, **named)

    monkeypatch.setattr(module, "small_set", recorded)
    continual(shades, dataclasses.replace(SMALL, buffers=("random",)))
    assert [len(classes) for classes, _, _ in given] == [3, 2, 2] * 2
    assert all(images == 5 * len(classes) for classes, images, _ in given)
    for order in (given[:3], given[3:]):
        assert sorted(name for classes, _, _ in order for name in classes) == list("abcdefg")
    assert len({seed for _, _, seed in given}) == 6


def test_the_orders_are_permutations_that_the_seed_decides() -> None:
    orders = [tuple(class_order(20, seed, number)) for seed in (0, 1) for number in (0, 1)]
    assert len(set(orders)) == 4 and all(sorted(order) == list(range(20)) for order in orders)
    assert class_order(20, 1, 1) == list(orders[3])


def test_a_buffers_numbers_do_not_depend_on_the_others_or_on_how_many_orders_run(
    shades: data.ImageSet, uninterrupted: ContinualResult
) -> None:
    alone = continual(shades, dataclasses.replace(SMALL, buffers=("herding",), orders=1))
    assert alone.orders == uninterrupted.orders[:1]
    assert np.array_equal(alone.accuracies["herding"], uninterrupted.accuracies["herding"][:1])


def test_buffers_are_compared_with_the_same_networks_and_orders(
    shades: data.ImageSet, trainings: list[dict[str, Any]]
) -> None:
    continual(shades, dataclasses.replace(SMALL, buffers=("random", "k-centre")))
    seeds = [t["seed"] for t in trainings]
    assert seeds[::2] == seeds[1::2] and len(set(seeds)) == len(seeds) / 2


def test_every_source_gives_images_of_each_class_real_ones_or_distilled_ones(digits: data.ImageSet) -> None:
    few = only_classes(digits, [7, 3])
    sets = {source: small_set(source, few, 2, 3, SMALL.distill) for source in SOURCES}
    for source, small in sets.items():
        assert small.labels.tolist() == [0, 0, 1, 1] and small.classes == ("7", "3")
        nearest = [np.abs(few.train_images - image).max(axis=(1, 2, 3)).min() for image in small.pixels()]
        assert (max(nearest) < 1e-5) == (source in ("random", "k-centre", "herding"))
    assert len({small.images.numpy().tobytes() for small in sets.values()}) == len(SOURCES)
    assert torch.equal(small_set("atom", few, 2, 3, SMALL.distill).images, sets["atom"].images)
    assert not torch.equal(small_set("atom", few, 2, 4, SMALL.distill).images, sets["atom"].images)


def test_several_sets_share_the_distillations_preprocessing_and_know_what_they_cost(
    tmp_path: Path, digits: data.ImageSet
) -> None:
    few = only_classes(digits, [7, 3])
    whitened = dataclasses.replace(SMALL.distill, whitening="zca")
    sets = small_sets(["random", "dm"], few, 2, 3, whitened, tmp_path)
    alone = {source: small_set(source, few, 2, 3, whitened) for source in sets}
    assert alone["random"].preprocessing.whitening == "none"  # nothing is said of real images
    for source, small in sets.items():
        assert small.preprocessing.whitening == "zca" and small.meta["seconds"] >= 0
        # Whitened and back in single precision: errors of some 1e-6 of pixels up to 1.
        np.testing.assert_allclose(small.pixels(), alone[source].pixels(), atol=1e-4)
    (tmp_path / "dm" / "metrics.jsonl").write_text(
        "".join(f'{{"step": {n}, "seconds": {clock}}}\n' for n, clock in enumerate((1.5, 4.0, 0.5, 2.0)))
    )  # resumed after 4 seconds, for another 2
    assert _logged_seconds(Run.read(tmp_path / "dm")) == 6.0


def test_a_distillation_has_a_run_folder_of_its_own(tmp_path: Path, digits: data.ImageSet) -> None:
    config = dataclasses.replace(SMALL, buffers=("datadam",), orders=1)
    result = continual(digits, config, tmp_path)
    assert result.accuracies["datadam"].shape == (1, 3, 1)
    for step, classes in enumerate((4, 3, 3)):  # ten classes in three steps
        small = DistilledSet.load(tmp_path / "buffers" / f"datadam-order-0-step-{step}" / "distilled.safetensors")
        assert (len(small), small.meta["method"], len(small.classes)) == (2 * classes, "datadam", classes)


@pytest.mark.parametrize("method", ["dm", "datadam", "atom"])
def test_a_buffer_is_distilled_with_the_settings_of_its_own_method(method: str, digits: data.ImageSet) -> None:
    of_buffer = dataclasses.replace(module._resolved(ContinualConfig(), digits).distill, method=method)
    assert of_buffer.resolved(digits) == DistillConfig(method=method).resolved(digits)


def test_some_digits_are_still_digits_and_are_not_mirrored(digits: data.ImageSet) -> None:
    resolved = module._resolved(ContinualConfig(), digits)
    assert "flip" not in (resolved.augment or ("flip",)) and "flip" not in (resolved.distill.augment or ("flip",))
    few = only_classes(digits, [7, 3])
    assert few.classes == ("7", "3")
    for images, labels, everything, numbers in (
        (few.train_images, few.train_labels, digits.train_images, digits.train_labels),
        (few.test_images, few.test_labels, digits.test_images, digits.test_labels),
    ):
        for new, old in enumerate((7, 3)):
            assert np.array_equal(images[labels == new], everything[numbers == old])


def start_job(out: Path) -> subprocess.Popen[str]:
    program = (
        "import sys, numpy as np; from attention_matching.experiments.continual import *\n"
        "from sextet_common import data\n"
        "def images(each):\n"
        "    labels = np.repeat(np.arange(7), each)\n"
        "    return np.tile((labels / 7)[:, None, None], (1, 8, 8)), labels\n"
        f"continual(data.ImageSet.of(*images(5), *images(3), tuple('abcdefg')), {SMALL!r}, sys.argv[1])"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(out)], stderr=subprocess.PIPE, text=True)


def test_a_killed_run_resumes_bit_identically(
    tmp_path: Path, shades: data.ImageSet, uninterrupted: ContinualResult
) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"
    child = start_job(tmp_path / "run")
    while child.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 2):
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    before = metrics.read_text().splitlines()[:2]
    with open(metrics, "a", encoding="utf-8") as file:
        file.write('{"step": 99, "buff')  # as a kill in the middle of a line leaves it
    assert equal(continual(shades, SMALL, tmp_path / "run"), uninterrupted)
    rows = metrics.read_text().splitlines()
    assert rows[:2] == before and len(rows) == 2 * 3 * 2  # what was done is not done again
    assert [json.loads(row)["step"] for row in rows] == list(range(1, 13))


def test_a_signal_ends_the_current_training_and_the_run_resumes(
    tmp_path: Path, shades: data.ImageSet, uninterrupted: ContinualResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = module.train_networks
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return train(*args, **kwargs)

    monkeypatch.setattr(module, "train_networks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        continual(shades, SMALL, tmp_path)
    assert len(calls) == len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4
    assert equal(continual(shades, SMALL, tmp_path), uninterrupted)
    assert len(calls) == 12


def test_a_run_folder_holds_the_numbers_and_a_picture(tmp_path: Path, shades: data.ImageSet) -> None:
    config = dataclasses.replace(SMALL, networks=2)
    result = continual(shades, config, tmp_path)
    report = json.loads((tmp_path / "continual.json").read_text())
    assert report["classes_seen"] == [3, 5, 7] == list(result.classes_seen)
    assert report["orders"] == [[shades.classes[k] for k in class_order(7, 0, number)] for number in range(2)]
    for name, values in result.accuracies.items():
        assert values.shape == (2, 3, 2) and np.array_equal(report["accuracies"][name], values)
    with Image.open(tmp_path / "continual.png") as picture:
        assert picture.size == (832, 494)  # 6.4 x 3.8 inches of 130 dots
    with pytest.raises(InputError, match="holds a run with networks=2, not 1"):
        continual(shades, dataclasses.replace(config, networks=1), tmp_path)
    other = data.ImageSet.of(
        1 - shades.train_images, shades.train_labels, shades.test_images, shades.test_labels, shades.classes
    )
    with pytest.raises(InputError, match="data_sha256"):
        continual(other, config, tmp_path)


def test_more_orders_continue_a_run_and_fewer_are_refused(
    tmp_path: Path, shades: data.ImageSet, uninterrupted: ContinualResult
) -> None:
    continual(shades, dataclasses.replace(SMALL, orders=1), tmp_path)
    longer = continual(shades, SMALL, tmp_path)
    assert longer.orders == uninterrupted.orders
    for name, values in uninterrupted.accuracies.items():
        assert np.array_equal(longer.accuracies[name], values)
    with pytest.raises(InputError, match="orders"):
        continual(shades, dataclasses.replace(SMALL, orders=1), tmp_path)


def test_the_table_has_means_and_deviations_over_orders_and_the_paired_gain() -> None:
    draw = np.random.default_rng(0)
    accuracies = {name: draw.random((4, 2, 3)) for name in ("random", "dm")}
    result = ContinualResult(accuracies, (1, 2), (("a", "b"),) * 4)
    by_order = {name: np.array([[np.mean(nets) for nets in steps] for steps in a]) for name, a in accuracies.items()}
    np.testing.assert_allclose(result.mean("dm"), by_order["dm"].mean(0))
    np.testing.assert_allclose(result.std("dm"), [np.std(column, ddof=1) for column in by_order["dm"].T])
    gain = [d[-1] - r[-1] for d, r in zip(by_order["dm"], by_order["random"], strict=True)]
    last = result.to_markdown().splitlines()[-1]
    assert last.startswith(f"| dm | {100 * result.mean('dm')[0]:.1f} ± {100 * result.std('dm')[0]:.1f} |")
    assert last.endswith(f"| {100 * np.mean(gain):+.1f} ± {100 * np.std(gain, ddof=1):.1f} |")
    alone = ContinualResult({"dm": accuracies["dm"][:1]}, (1, 2), (("a", "b"),))
    assert alone.std("dm").tolist() == [0, 0]
    assert not any(word in alone.to_markdown() for word in ("gain", "±"))  # nothing to compare with, no deviation


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"orders": 0}, "orders must be a whole number >= 1, got 0"),
        ({"ipc": 0}, "ipc must be a whole number >= 1, got 0"),
        ({"networks": 0}, "networks must be a whole number >= 1, got 0"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"buffers": ()}, "no images are requested; expected: one or more of random"),
        ({"buffers": ("random", "magic")}, "'magic' images are unknown; expected: random"),
        ({"buffers": ("dm", "dm")}, "'dm' images are requested twice"),
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ContinualConfig(**setting)


def test_settings_that_do_not_fit_the_data_are_refused_before_anything_is_written(
    tmp_path: Path, shades: data.ImageSet
) -> None:
    blind = data.ImageSet.of(
        shades.train_images, shades.train_labels, shades.test_images[:18], shades.test_labels[:18], shades.classes
    )
    for images, setting, message in (
        (shades, {"steps": 8}, "steps is 8 for 7 classes; expected: at least one class per step"),
        (shades, {"ipc": 6}, "class 'a' has 5 training images; expected: at least 6"),
        (blind, {}, "class 'g' has 0 test images; expected: at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            continual(images, dataclasses.replace(SMALL, **setting), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_custom_buffer_receives_the_new_classes_alone_and_keeps_any_number_of_images(
    shades: data.ImageSet, trainings: list[dict[str, Any]]
) -> None:
    received: list[tuple[str, ...]] = []

    def three_each(part: data.ImageSet, seed: int) -> DistilledSet:
        received.append(part.classes)
        assert set(np.unique(part.train_labels)) == set(range(part.n_classes))
        return small_set("random", part, 3, seed)

    result = continual(shades, dataclasses.replace(SMALL, orders=1), custom_buffers={"three": three_each})
    assert received == [result.orders[0][:3], result.orders[0][3:5], result.orders[0][5:]]
    three = trainings[2::3]  # after random and herding, at each arrival
    assert [row["targets"].bincount().tolist() for row in three] == [[3] * 3, [3] * 5, [3] * 7]
    # A shade tells its class: each image lies where its label says, in the order of arrival.
    last = three[-1]
    shade = {name: number for number, name in enumerate("abcdefg")}
    expected = torch.tensor([shade[result.orders[0][label]] for label in last["targets"].tolist()])
    seen = last["inputs"].mean(dim=(1, 2, 3))
    assert torch.equal(seen.unique(return_inverse=True)[1], expected)


def test_a_custom_buffer_that_copies_a_source_has_its_numbers(
    shades: data.ImageSet, uninterrupted: ContinualResult
) -> None:
    copy = {"copy": lambda part, seed: small_set("herding", part, 2, seed)}
    result = continual(shades, SMALL, custom_buffers=copy)
    assert np.array_equal(result.accuracies["copy"], uninterrupted.accuracies["herding"])
    assert np.array_equal(result.accuracies["herding"], uninterrupted.accuracies["herding"])


def test_a_run_with_custom_buffers_resumes_and_differs_from_one_without(tmp_path: Path, shades: data.ImageSet) -> None:
    copy = {"copy": lambda part, seed: small_set("random", part, 1, seed)}
    first = continual(shades, SMALL, tmp_path / "run", custom_buffers=copy)
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text("".join(log.read_text("utf-8").splitlines(keepends=True)[:7]), encoding="utf-8")
    assert equal(first, continual(shades, SMALL, tmp_path / "run", custom_buffers=copy))
    with pytest.raises(InputError, match="own"):
        continual(shades, SMALL, tmp_path / "run")


def test_a_custom_buffer_that_does_not_fit_is_refused(shades: data.ImageSet) -> None:
    def first_class_alone(part: data.ImageSet, seed: int) -> DistilledSet:
        return small_set("random", only_classes(part, [0]), 1, seed)

    with pytest.raises(InputError, match="'half' has 1 images"):
        continual(shades, SMALL, custom_buffers={"half": first_class_alone})
    with pytest.raises(InputError, match="a custom buffer is named 'herding'; expected: another name"):
        continual(shades, SMALL, custom_buffers={"herding": lambda part, seed: small_set("random", part, 1, seed)})


def test_the_old_name_of_custom_buffers_works_for_one_release(shades: data.ImageSet) -> None:
    one = dataclasses.replace(SMALL, orders=1, steps=1, buffers=("random",))
    copy = {"copy": lambda part, seed: small_set("random", part, 1, seed)}
    with pytest.deprecated_call(match="own is deprecated, use custom_buffers"):
        assert equal(continual(shades, one, own=copy), continual(shades, one, custom_buffers=copy))
