"""Evaluation: what it measures, what it must not look at, and its run folder."""

from __future__ import annotations

import dataclasses
import importlib
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
from attention_matching.evaluation.accuracy import Evaluation
from attention_matching.evaluation.config import EvaluateConfig
from attention_matching.evaluation.evaluate import evaluate, evaluate_random_real, evaluate_whole
from attention_matching.evaluation.learned_labels import learned_labels_from
from attention_matching.evaluation.soft_labels import soft_labels_from, train_teacher, view_labels_from
from attention_matching.images.held_out import held_out_images, held_out_rows, without_rows
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import random_real, whole_set
from sextet_common import data, seeding
from sextet_common.errors import InputError
from torch.nn import functional

MODULE = importlib.import_module("attention_matching.evaluation.evaluate")  # in the package that name is the function's
QUICK = EvaluateConfig(networks=2, epochs=4, width=8)
FOUR = EvaluateConfig(networks=4, epochs=3, width=8)


@pytest.fixture(scope="module")
def digits() -> data.ImageSet:
    return data.load("digits")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The numbers of the networks that are trained, and what they are trained on."""
    calls = []
    original = MODULE.train_networks

    def recording(make, numbers, inputs, targets, augment, config, **more):  # type: ignore[no-untyped-def]
        calls.append((list(numbers), inputs, more.get("held_out")))
        return original(make, numbers, inputs, targets, augment, config, **more)

    monkeypatch.setattr(MODULE, "train_networks", recording)
    return calls


def two_halves(wrong: int = 0) -> data.ImageSet:
    """Two classes that are dark or bright on the right; the first test labels lie."""
    pixels = np.zeros((40, 8, 8))
    pixels[1::2, :, 4:] = 1
    pixels += np.linspace(0, 0.5, 40)[:, None, None] * (pixels == 0)  # no two images alike
    labels = np.arange(40) % 2
    test_labels = labels.copy()
    test_labels[:wrong] = 1 - test_labels[:wrong]
    return data.ImageSet.of(pixels, labels, pixels, test_labels)


def test_networks_learn_from_real_images_and_the_numbers_repeat(digits: data.ImageSet) -> None:
    config = EvaluateConfig(networks=2, epochs=40, width=16)
    first, again = (evaluate(random_real(digits, 5), digits, config) for _ in range(2))
    assert first == again and first.mean > 0.5  # chance is 0.1
    assert first.accuracies[0] != first.accuracies[1]
    one = evaluate(random_real(digits, 5), digits, EvaluateConfig(networks=1, epochs=40, width=16))
    assert one.accuracies == first.accuracies[:1]


def test_the_accuracy_is_a_share_of_the_test_images() -> None:
    images = two_halves(wrong=10)  # a quarter of the test labels lie
    config = EvaluateConfig(networks=1, epochs=60, width=8, augment=())
    assert evaluate(whole_set(images), images, config).accuracies == (0.75,)
    assert evaluate_whole(images, config).accuracies == (0.75,)


def test_mean_and_std_are_numpys() -> None:
    result = Evaluation((0.5, 0.75, 0.9))
    assert result.mean == pytest.approx(np.mean([0.5, 0.75, 0.9]))
    assert result.std == pytest.approx(np.std([0.5, 0.75, 0.9], ddof=1))
    assert Evaluation((0.5,)).std == 0 and str(result) == "71.7 ± 20.2 %"


@pytest.mark.parametrize(("count", "level", "t"), [(2, 0.95, 12.706), (10, 0.95, 2.262), (5, 0.99, 4.604)])
def test_the_confidence_interval_is_students(count: int, level: float, t: float) -> None:
    """The quantiles are those of the printed tables, three places long."""
    accuracies = np.linspace(0.5, 0.6, count)
    low, high = Evaluation(tuple(accuracies)).confidence_interval(level)
    reach = t * accuracies.std(ddof=1) / np.sqrt(count)
    assert (low, high) == pytest.approx((0.55 - reach, 0.55 + reach), rel=2e-4)


def test_a_confidence_interval_covers_the_mean_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(0.7, 0.02, (2000, 5))
    covered = [low <= 0.7 <= high for low, high in (Evaluation(tuple(r)).confidence_interval(0.9) for r in rows)]
    assert np.mean(covered) == pytest.approx(0.9, abs=0.02)  # three standard errors of 2000 draws


def test_a_confidence_interval_needs_two_networks() -> None:
    with pytest.raises(InputError, match="a confidence interval of 1 network; expected: 2 networks"):
        Evaluation((0.5,)).confidence_interval()
    with pytest.raises(InputError, match=r"level must be a number in \(0, 1\), got 1\.0"):
        Evaluation((0.5, 0.6)).confidence_interval(1.0)


def test_a_set_of_other_images_cannot_be_evaluated(digits: data.ImageSet) -> None:
    other = data.ImageSet.of(np.zeros((2, 8, 8)), np.array([0, 1]), np.zeros((1, 8, 8)), np.array([1]))
    with pytest.raises(InputError, match="the same image shape and classes"):
        evaluate(random_real(digits, 1), other, QUICK)
    for label in (soft_labels_from, view_labels_from, learned_labels_from):
        with pytest.raises(InputError, match="the same image shape and classes"):
            label(random_real(digits, 1), other)


@pytest.mark.parametrize("function", [evaluate, evaluate_whole, lambda few, one, config: evaluate_random_real(one, 1)])
def test_one_class_is_refused_since_every_network_would_be_right(function: Any) -> None:
    one = data.ImageSet.of(np.zeros((4, 8, 8)), np.zeros(4, dtype=int), np.zeros((2, 8, 8)), np.zeros(2, dtype=int))
    few = () if function is evaluate_whole else (random_real(one, 1),)
    with pytest.raises(InputError, match="data of 1 class, on which any network scores 100 %; expected: 2 classes"):
        function(*few, one, QUICK)


@pytest.mark.parametrize(
    ("name", "value"),
    [("networks", 0), ("width", 0), ("labels", "none"), ("choose", "test"), ("held_out", 1.0), ("epochs", 0)],
)
def test_a_setting_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name} must be .*, got {value!r}"):
        EvaluateConfig(**{name: value})


def test_the_baseline_trains_every_network_on_another_choice(digits: data.ImageSet, trained: list[Any]) -> None:
    evaluate_random_real(digits, 1, dataclasses.replace(QUICK, epochs=1))
    assert [numbers for numbers, *_ in trained] == [[0], [1]] and not torch.equal(trained[0][1], trained[1][1])
    for [number], inputs, _ in trained:
        assert torch.equal(inputs, random_real(digits, 1, seeding.derive(0, "choice", number)).images)


@pytest.mark.parametrize("choose", ["last", "held-out"])
def test_no_step_is_chosen_on_the_test_labels(choose: Any) -> None:
    """Where all test labels are turned round, every accuracy is: the networks are the same."""
    config = EvaluateConfig(networks=2, epochs=5, width=8, choose=choose, held_out=0.3)
    straight, turned = (evaluate(random_real(images, 2), images, config) for images in (two_halves(), two_halves(40)))
    np.testing.assert_allclose(straight.accuracies, 1 - np.array(turned.accuracies))


def nearest(held_out: torch.Tensor, images: torch.Tensor) -> float:
    """Return the smallest distance of any two, image by image."""
    return min(float((images - one).flatten(1).norm(dim=1).min()) for one in held_out)


def test_no_network_is_trained_on_an_image_that_is_held_out(digits: data.ImageSet, trained: list[Any]) -> None:
    config = EvaluateConfig(networks=2, epochs=1, width=8, choose="held-out", held_out=0.5)
    evaluate(random_real(digits, 20), digits, config)
    evaluate_random_real(digits, 20, config)
    evaluate_whole(digits, dataclasses.replace(config, networks=1))
    assert len(trained) == 5
    for _, inputs, held_out in trained:
        assert len(held_out.labels) > 600 and nearest(held_out.inputs, inputs[:].reshape(-1, 1, 8, 8)) > 0.05
    # Of 718 images held out, about half of the set's 200 would have been among them.
    assert len(trained[0][2].labels) < 640 and len(trained[2][2].labels) == 718


def test_a_set_of_all_training_images_leaves_none_to_hold_out(digits: data.ImageSet) -> None:
    with pytest.raises(InputError, match="every held-out image is also in the training set"):
        evaluate(whole_set(digits), digits, EvaluateConfig(choose="held-out"))


def test_a_part_of_every_class_is_held_out_and_the_rest_kept() -> None:
    labels = np.repeat([0, 1, 2], [2, 10, 20])
    pixels = np.linspace(0, 1, 32)[:, None, None] * np.ones((1, 4, 4))
    images = data.ImageSet.of(pixels, labels, pixels[:1], labels[:1])
    taken, other = (held_out_rows(images, share=0.2, seed=seed) for seed in (3, 4))
    kept, held_out = without_rows(images, taken), held_out_images(images, Preprocessing.fit(images), taken)
    assert np.bincount(held_out.labels).tolist() == [1, 2, 4]
    shown = Preprocessing.fit(images).invert(held_out.inputs)[:, 0, 0, 0]
    together = np.concatenate([kept.train_images[:, 0, 0, 0], shown])
    np.testing.assert_allclose(np.sort(together), pixels[:, 0, 0], atol=1e-6)
    assert kept.mean.tolist() == images.mean.tolist()
    assert not np.array_equal(other, taken)
    single = data.ImageSet.of(pixels[:3], np.array([0, 0, 1]), pixels[:1], labels[:1])
    with pytest.raises(InputError, match="every class must have 2 images, to hold one out, got 1 of class '1'"):
        held_out_rows(single, share=0.5)


def test_soft_labels_are_what_the_networks_learn_where_asked_for(digits: data.ImageSet) -> None:
    training = random_real(digits, 3)
    soft = dataclasses.replace(QUICK, labels="soft", epochs=20)
    certain = dataclasses.replace(training, soft_labels=functional.one_hot(training.labels, 10).float())
    turned = dataclasses.replace(training, soft_labels=functional.one_hot((training.labels + 1) % 10, 10).float())
    hard = evaluate(training, digits, dataclasses.replace(soft, labels="hard"))
    np.testing.assert_allclose(evaluate(certain, digits, soft).accuracies, hard.accuracies, atol=1.5 / 360)
    assert evaluate(turned, digits, soft).mean < 0.15 < 0.2 < hard.mean
    assert evaluate(turned, digits, dataclasses.replace(soft, labels="hard")) == hard
    with pytest.raises(InputError, match="the set has no soft labels; expected: labels hard, or"):
        evaluate(training, digits, soft)


def test_a_teachers_labels_are_its_probabilities_at_the_temperature(digits: data.ImageSet) -> None:
    training = random_real(digits, 2)
    config = EvaluateConfig(epochs=2, width=8, norm="batch")  # whose outputs depend on the mode
    teacher = train_teacher(digits, config)
    cold, hot = (
        soft_labels_from(training, digits, config, temperature=t, teacher=teacher).soft_labels for t in (1.0, 8.0)
    )
    logits = teacher.eval()(training.images).detach()
    expected = [np.exp(logits.double().numpy() / t) for t in (1.0, 8.0)]
    np.testing.assert_allclose(cold, expected[0] / expected[0].sum(1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(hot, expected[1] / expected[1].sum(1, keepdims=True), atol=1e-5)
    again = soft_labels_from(training, digits, config)
    torch.testing.assert_close(again.soft_labels, cold)
    assert again.meta["soft_labels"] == {"temperature": 1.0} and torch.equal(again.labels, training.labels)
    with pytest.raises(InputError, match=r"temperature must be a number > 0, got 0\.0"):
        soft_labels_from(training, digits, config, temperature=0.0)


def test_a_teacher_is_read_from_its_file_and_not_trained_again(
    tmp_path: Path, digits: data.ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attention_matching.evaluation import soft_labels

    path, config = tmp_path / "teacher.safetensors", EvaluateConfig(epochs=1, width=8, norm="batch")
    teacher = train_teacher(digits, config, path=path)
    monkeypatch.setattr(soft_labels, "train_networks", None)
    again = train_teacher(digits, config, path=path)
    for name, value in teacher.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    with pytest.raises(InputError, match="holds no teacher of these settings"):
        train_teacher(digits, dataclasses.replace(config, seed=1), path=path)


def test_a_run_folder_holds_each_networks_accuracy_and_is_not_computed_twice(
    tmp_path: Path, digits: data.ImageSet, trained: list[Any]
) -> None:
    training = random_real(digits, 1)
    result = evaluate(training, digits, FOUR, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert tuple(row["accuracy"] for row in rows) == result.accuracies
    trained.clear()
    assert evaluate(training, digits, FOUR, tmp_path / "run") == result and trained == []
    for other in (random_real(digits, 1, seed=1), dataclasses.replace(training, labels=training.labels.flip(0))):
        with pytest.raises(InputError, match="holds a run with sha256="):
            evaluate(other, digits, FOUR, tmp_path / "run")
    with pytest.raises(InputError, match="holds a run with epochs=3, not 4"):
        evaluate(training, digits, dataclasses.replace(FOUR, epochs=4), tmp_path / "run")


def test_networks_whose_lines_are_whole_are_not_trained_again(
    tmp_path: Path, digits: data.ImageSet, trained: list[Any]
) -> None:
    training = random_real(digits, 1)
    result = evaluate(training, digits, FOUR, tmp_path)
    metrics = tmp_path / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:2]) + lines[2][:20])  # a kill in the middle of a line
    trained.clear()
    assert evaluate(training, digits, FOUR, tmp_path) == result
    assert [numbers for numbers, *_ in trained] == [[2], [3]]
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [0, 1, 2, 3]


def test_a_folder_of_an_earlier_version_resumes(tmp_path: Path, digits: data.ImageSet, trained: list[Any]) -> None:
    """Its settings have ``together``, which by default was null; another value is refused by name."""
    training = random_real(digits, 1)
    result = evaluate(training, digits, FOUR, tmp_path)
    config = tmp_path / "config.json"
    stored = json.loads(config.read_text())
    stored["config"]["together"] = None
    config.write_text(json.dumps(stored))
    trained.clear()
    assert evaluate(training, digits, FOUR, tmp_path) == result and not trained
    stored["config"]["together"] = 5
    config.write_text(json.dumps(stored))
    with pytest.raises(InputError, match="holds a run with together=5, not None; expected: another folder"):
        evaluate(training, digits, FOUR, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_epoch_and_the_evaluation_resumes(
    tmp_path: Path, digits: data.ImageSet, trained: list[Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    training = random_real(digits, 1)
    whole = evaluate(training, digits, FOUR)
    trained.clear()
    recording = MODULE.train_networks

    def interrupted(make, numbers, *rest, **more):  # type: ignore[no-untyped-def]
        if list(numbers) == [2]:
            os.kill(os.getpid(), number)
        return recording(make, numbers, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(MODULE, "train_networks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(training, digits, FOUR, tmp_path)
    trained.clear()
    assert evaluate(training, digits, FOUR, tmp_path) == whole
    assert [numbers for numbers, *_ in trained] == [[2], [3]]


@pytest.mark.slow
def test_a_killed_evaluation_resumes_bit_identically(tmp_path: Path, digits: data.ImageSet, trained: list[Any]) -> None:
    config = EvaluateConfig(networks=6, epochs=150, width=8)
    program = (
        "import sys; from attention_matching import *; from sextet_common.data import load; "
        f"d = load('digits'); evaluate(random_real(d, 1), d, {config!r}, sys.argv[1])"
    )
    out, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", program, str(out)], env=environment)
    while child.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait(timeout=60) == -signal.SIGKILL, "it was to be killed in the middle"
    done = metrics.read_text().count("\n")
    resumed = evaluate(random_real(digits, 1), digits, config, out)
    assert [numbers for numbers, *_ in trained] == [[n] for n in range(done, 6)]
    assert resumed == evaluate(random_real(digits, 1), digits, config)
