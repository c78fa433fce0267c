"""The jobs: distillation with its run folder, the set it makes, and the evaluation."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_matching import (
    ConvNet,
    DistillConfig,
    DistilledSet,
    Distiller,
    EvaluateConfig,
    Evaluation,
    evaluate,
    evaluate_random_real,
    random_real,
    whole_set,
)
from attention_matching.__main__ import main
from PIL import Image
from sextet_common import checkpoint, data, seeding
from sextet_common.errors import InputError

SMALL = DistillConfig(ipc=2, steps=12, width=8, real_batch=8, checkpoint_every=4)
QUICK = EvaluateConfig(networks=2, epochs=4, width=8)


@pytest.fixture(scope="module")
def digits() -> data.ImageSet:
    return data.load("digits")


@pytest.fixture(scope="module")
def uninterrupted(digits: data.ImageSet) -> torch.Tensor:
    return Distiller(SMALL).fit(digits).images


def test_the_same_seed_gives_the_same_images_and_another_seed_others(
    digits: data.ImageSet, uninterrupted: torch.Tensor
) -> None:
    torch.rand(5)  # the global generator is not what the result comes from
    assert torch.equal(Distiller(SMALL).fit(digits).images, uninterrupted)
    other = DistillConfig(ipc=2, steps=12, width=8, real_batch=8, seed=1)
    assert not torch.equal(Distiller(other).fit(digits).images, uninterrupted)


def test_distillation_lowers_its_loss_on_networks_it_has_not_seen(digits: data.ImageSet) -> None:
    from attention_matching import AttentionMatchingLoss
    from attention_matching.select import normalised

    result = Distiller(DistillConfig(ipc=1, steps=60, width=16, real_batch=32, image_lr=0.1)).fit(digits)
    start = random_real(digits, 1, 0)
    order = np.argsort(digits.train_labels, kind="stable")
    chosen = np.concatenate([order[digits.train_labels[order] == k][:100] for k in range(10)])
    losses = {}
    for name, images in (("start", start.images), ("result", result.images)):
        total = 0.0
        for number in range(5):
            with seeding.torch_seed(99, number):
                network = ConvNet((1, 8, 8), 10, width=16)
            with torch.no_grad():
                real = network.features(normalised(digits, digits.train_images[chosen]))
                total += float(AttentionMatchingLoss()(real, network.features(images), 10).sum())
        losses[name] = total
    assert losses["result"] < 0.7 * losses["start"]


def start_job(out: Path) -> subprocess.Popen[str]:
    program = (
        "import sys; from attention_matching import *; from sextet_common import data; "
        f"Distiller({SMALL!r}).fit(data.load('digits'), sys.argv[1])"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(out)], stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_job_killed_again_and_again_ends_with_the_same_images(tmp_path: Path, uninterrupted: torch.Tensor) -> None:
    random.seed(0)
    out, kills = tmp_path / "run", 0
    metrics = out / "metrics.jsonl"
    for _ in range(30):
        child = start_job(out)
        if kills < 3:
            while child.poll() is None and not metrics.exists():  # until it computes
                time.sleep(0.005)
            time.sleep(random.uniform(0, 0.2))
            child.send_signal(signal.SIGKILL)
        child.communicate(timeout=120)
        kills += child.returncode == -signal.SIGKILL
        if child.returncode == 0:
            break
    assert kills >= 1
    assert torch.equal(DistilledSet.load(out / "distilled.safetensors").images, uninterrupted)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [10, 12]


@pytest.mark.parametrize("done", [4, 8, 12])
def test_resuming_from_any_checkpoint_gives_the_same_images(
    tmp_path: Path, digits: data.ImageSet, uninterrupted: torch.Tensor, done: int
) -> None:
    Distiller(SMALL).fit(digits, tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    (tmp_path / "distilled.safetensors").unlink()
    # The state after `done` steps, made by a run of that many steps with everything else the same.
    short = tmp_path / "short"
    Distiller(DistillConfig(ipc=2, steps=done, width=8, real_batch=8, checkpoint_every=4)).fit(digits, short)
    newest = checkpoint.latest(short / "checkpoints")
    assert newest is not None
    newest.rename(tmp_path / "checkpoints" / newest.name)
    assert torch.equal(Distiller(SMALL).fit(digits, tmp_path).images, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_checkpoints_at_the_end_of_a_step_and_the_job_goes_on(
    tmp_path: Path, digits: data.ImageSet, uninterrupted: torch.Tensor, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    from attention_matching import distill

    step = distill._Task.step

    def interrupted(self, at):
        if at == 6:
            os.kill(os.getpid(), number)
        return step(self, at)

    monkeypatch.setattr(distill._Task, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Distiller(SMALL).fit(digits, tmp_path)
    monkeypatch.undo()
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "step-00000007.safetensors"
    assert torch.equal(Distiller(SMALL).fit(digits, tmp_path).images, uninterrupted)


def test_other_data_or_settings_do_not_go_on_with_a_run(tmp_path: Path, digits: data.ImageSet) -> None:
    Distiller(SMALL).fit(digits, tmp_path)
    other = data.ImageSet.of(
        1 - digits.train_images, digits.train_labels, digits.test_images, digits.test_labels, digits.classes
    )
    with pytest.raises(InputError, match="data_sha256"):
        Distiller(SMALL).fit(other, tmp_path)
    with pytest.raises(InputError, match="holds a run with ipc=2, not 3"):
        Distiller(DistillConfig(ipc=3, steps=12, width=8, real_batch=8, checkpoint_every=4)).fit(digits, tmp_path)


def test_a_run_folder_holds_what_it_should(tmp_path: Path, digits: data.ImageSet) -> None:
    result = Distiller(SMALL).fit(digits, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoints", "config.json", "distilled.safetensors", "images.png", "loss.png", "metrics.jsonl"}
    loaded = DistilledSet.load(tmp_path / "distilled.safetensors")
    assert torch.equal(loaded.images, result.images) and torch.equal(loaded.labels, result.labels)
    assert loaded.labels.tolist() == [k // 2 for k in range(20)] and loaded.classes == digits.classes
    assert loaded.meta == result.meta and loaded.meta["method"] == "datadam"
    with Image.open(tmp_path / "images.png") as picture:
        assert picture.size == (2 * 72 + 8, 10 * 72 + 8)  # a row per class, 8 screen pixels per image pixel


def test_a_loss_that_is_not_finite_stops_with_the_step_the_class_and_the_seed(digits: data.ImageSet) -> None:
    wild = DistillConfig(ipc=1, steps=50, width=8, real_batch=8, norm="none", image_lr=1e30, seed=3)
    told = r"the loss is (nan|inf) at step \d+, class '\d', seed 3; expected: .*image_lr"
    with pytest.raises(InputError, match=told):
        Distiller(wild).fit(digits)


def test_a_class_smaller_than_the_batch_is_sampled_with_replacement_and_said_once(digits: data.ImageSet) -> None:
    with pytest.warns(UserWarning, match="class '0' has fewer images than real_batch = 200: 10 of 10") as said:
        Distiller(DistillConfig(steps=2, width=8, real_batch=200)).fit(digits)
    assert len(said) == 1
    with pytest.raises(InputError, match="class '0' has 142 images; expected: at least ipc = 143"):
        Distiller(DistillConfig(ipc=143, steps=1)).fit(digits)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ipc", 0),
        ("steps", 0),
        ("power", 0),
        ("image_lr", 0.0),
        ("image_lr", float("nan")),
        ("seed", -1),
        ("width", -4),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} is {value}"):
        DistillConfig(**{name: value})


def test_settings_left_open_are_chosen_by_the_images_and_the_others_kept(digits: data.ImageSet) -> None:
    chosen = DistillConfig(width=8).resolved(digits)
    assert (chosen.steps, chosen.width, chosen.depth, chosen.image_lr) == (600, 8, 2, 1.0)
    big = data.ImageSet.of(np.zeros((2, 64, 64)), np.array([0, 1]), np.zeros((1, 64, 64)), np.array([1]))
    chosen = DistillConfig(ipc=100).resolved(big)
    assert (chosen.steps, chosen.width, chosen.depth) == (8000, 128, 4)
    assert (chosen.image_lr, chosen.feature_weight) == (10.0, 0.02)


def test_noise_is_a_start_too(digits: data.ImageSet) -> None:
    result = Distiller(DistillConfig(ipc=1, steps=1, width=8, real_batch=8, initial="noise")).fit(digits)
    assert not torch.allclose(result.images, random_real(digits, 1, 0).images)


def test_random_real_images_are_distinct_training_images_of_their_class(digits: data.ImageSet) -> None:
    chosen = random_real(digits, 5, seed=4)
    pixels = chosen.pixels()
    nearest = [np.abs(digits.train_images - image).max(axis=(1, 2, 3)).argmin() for image in pixels]
    assert len(set(nearest)) == 50 and [digits.train_labels[n] for n in nearest] == chosen.labels.tolist()
    np.testing.assert_allclose(digits.train_images[nearest], pixels, atol=1e-6)
    assert not torch.equal(random_real(digits, 5, seed=5).images, chosen.images)


def test_a_set_is_a_data_set_for_torchs_loader(digits: data.ImageSet) -> None:
    images, labels = next(iter(torch.utils.data.DataLoader(random_real(digits, 2), batch_size=20)))
    assert images.shape == (20, 1, 8, 8) and labels.tolist() == [k // 2 for k in range(20)]


def test_a_set_that_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    def build(n: int = 2, labels: int = 2, top: int = 1, channels: int = 1) -> DistilledSet:
        return DistilledSet(
            torch.zeros(n, 1, 4, 4), torch.full((labels,), top), ("a", "b"), torch.zeros(channels), torch.ones(channels)
        )

    for fault, match in (({"labels": 3}, "with 3 labels"), ({"top": 2}, "label 2"), ({"channels": 3}, "3 means")):
        with pytest.raises(InputError, match=match):
            build(**fault)
    checkpoint.save(tmp_path / "other", {"x": np.ones(1)}, {"kind": "policy"})
    with pytest.raises(InputError, match="is a checkpoint of policy; expected: a distilled set"):
        DistilledSet.load(tmp_path / "other")


def test_networks_learn_from_real_images_and_the_numbers_repeat(digits: data.ImageSet) -> None:
    config = EvaluateConfig(networks=2, epochs=40, width=16)
    first, again = (evaluate(random_real(digits, 5), digits, config) for _ in range(2))
    assert first == again and first.mean > 0.5  # chance is 0.1
    assert first.accuracies[0] != first.accuracies[1]
    assert evaluate(random_real(digits, 5), digits, EvaluateConfig(networks=1, epochs=40, width=16)).accuracies == (
        first.accuracies[0],
    )


def test_the_accuracy_is_a_share_of_the_test_images() -> None:
    pixels = np.zeros((40, 8, 8))
    pixels[1::2, :, 4:] = 1  # class 1 is bright on the right
    labels = np.arange(40) % 2
    wrong = labels.copy()
    wrong[:10] = 1 - wrong[:10]  # a quarter of the test labels lie
    images = data.ImageSet.of(pixels, labels, pixels, wrong)
    config = EvaluateConfig(networks=1, epochs=60, width=8, augment=())
    assert evaluate(whole_set(images), images, config).accuracies == (0.75,)


def test_mean_and_std_are_numpys() -> None:
    result = Evaluation((0.5, 0.75, 0.9))
    assert result.mean == pytest.approx(np.mean([0.5, 0.75, 0.9]))
    assert result.std == pytest.approx(np.std([0.5, 0.75, 0.9], ddof=1))
    assert Evaluation((0.5,)).std == 0 and str(result) == "71.7 ± 20.2 %"


def test_a_set_of_other_images_cannot_be_evaluated(digits: data.ImageSet) -> None:
    other = data.ImageSet.of(np.zeros((2, 8, 8)), np.array([0, 1]), np.zeros((1, 8, 8)), np.array([1]))
    with pytest.raises(InputError, match="the same image shape and classes"):
        evaluate(random_real(digits, 1), other, QUICK)
    for fault in ({"networks": 0}, {"epochs": 0}, {"lr": 0.0}):
        with pytest.raises(InputError, match="is 0"):
            EvaluateConfig(**fault)


def test_the_baseline_trains_every_network_on_another_choice(digits: data.ImageSet) -> None:
    config = EvaluateConfig(networks=2, epochs=1, width=8)
    assert len(evaluate_random_real(digits, 1, config).accuracies) == 2
    choices = [random_real(digits, 1, seeding.derive(0, "choice", n)).images for n in range(2)]
    assert not torch.equal(*choices)


def test_the_commands_distill_and_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    words = ["distill", "--data", "digits", "--ipc", "1", "--out", out, "--steps", "3", "--width", "8"]
    assert main(words) == 0 and main(words) == 0  # the second finds the work done
    assert "distilled.safetensors" in capsys.readouterr().out
    words = ["evaluate", out, "--networks", "2", "--epochs", "2", "--width", "8", "--whole", "--whole-epochs", "1"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    for name in ("random real", "distilled", "whole set"):
        assert name in printed and len(report["accuracies"][name]) == 2
    assert main(["distill", "--data", "nothing", "--out", out]) == 2
    assert main(["evaluate", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
