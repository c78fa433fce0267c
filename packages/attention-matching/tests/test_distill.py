"""The distillation as a job: its run folder, its end by kill, signal and fault, and what it learns."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_matching import (
    ConvNet,
    DistillConfig,
    DistilledSet,
    Distiller,
    DistributionMatchingLoss,
    Preprocessing,
    random_real,
)
from PIL import Image
from sextet_common import checkpoint, data, seeding
from sextet_common.errors import DataWarning, InputError

SMALL = DistillConfig(ipc=2, steps=12, width=8, real_batch=8, checkpoint_every=4)


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

    result = Distiller(DistillConfig(ipc=1, steps=60, width=16, real_batch=32)).fit(digits)
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
                real = network.features(start.preprocessing(digits.train_images[chosen]))
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


MANY = [dataclasses.replace(SMALL, method=method) for method in ("dm", "datadam", "atom")]


@pytest.mark.filterwarnings("ignore:.*of the pixels of datadam lie outside")
@pytest.mark.parametrize("change", [{}, {"norm": "batch"}, {"steps_per_draw": 3}, {"images_at_once": 5}])
def test_sets_that_are_distilled_together_are_those_distilled_alone(
    digits: data.ImageSet, change: dict[str, Any]
) -> None:
    configs = [dataclasses.replace(config, **change) for config in MANY]
    configs += [dataclasses.replace(configs[1], **own) for own in ({"pixels": "free"}, {"ipc": 3}, {"image_lr": 0.2})]
    together = Distiller.fit_many(configs, digits)
    for config, one in zip(configs, together, strict=True):
        alone = Distiller(config).fit(digits)
        assert torch.equal(one.images, alone.images) and one.meta == alone.meta


def test_a_run_of_several_sets_resumes_and_has_a_folder_for_each(tmp_path: Path, digits: data.ImageSet) -> None:
    whole = Distiller.fit_many(MANY, digits, tmp_path / "whole")
    assert {p.name for p in (tmp_path / "whole").iterdir() if p.is_dir()} == {"checkpoints", "dm", "datadam", "atom"}
    names = {path.name for path in (tmp_path / "whole" / "dm").iterdir()}
    assert names == {"distilled.safetensors", "images.png"} and (tmp_path / "whole" / "dm.loss.png").exists()
    Distiller.fit_many([dataclasses.replace(config, steps=6) for config in MANY], digits, tmp_path / "part")
    assert (tmp_path / "part" / "atom" / "distilled.safetensors").exists()
    for one, other in zip(whole, Distiller.fit_many(MANY, digits, tmp_path / "part"), strict=True):
        assert torch.equal(one.images, other.images)
    assert torch.equal(DistilledSet.from_pretrained(tmp_path / "part" / "atom").images, whole[2].images)
    with pytest.raises(InputError, match="holds a run with"):
        Distiller.fit_many(MANY[:2], digits, tmp_path / "part")


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ([], "configs must be at least one, got none"),
        ([SMALL, SMALL], r"two of the configurations are the same \(datadam\)"),
        ([SMALL, dataclasses.replace(SMALL, seed=1)], "must have the same seed, got 0 and 1"),
        ([SMALL, dataclasses.replace(SMALL, steps=3)], "must have the same steps, got 12 and 3"),
    ],
)
def test_sets_that_share_no_draws_are_refused_together(
    digits: data.ImageSet, configs: list[DistillConfig], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Distiller.fit_many(configs, digits)


def test_valid_pixels_survive_a_round_trip_through_bytes(digits: data.ImageSet) -> None:
    result = Distiller(dataclasses.replace(SMALL, image_lr=10.0)).fit(digits)
    assert result.share_outside() == 0
    pixels = result.preprocessing.invert(result.images)
    assert pixels.min() > -1e-5 and pixels.max() < 1 + 1e-5
    stored = (result.pixels() * 255).round().astype(np.uint8)
    assert float((result.preprocessing(stored) - result.images).abs().max()) < 0.51 / 255 / result.preprocessing.std


def test_a_run_warns_of_pixels_outside_and_of_a_first_step_that_turns_the_images(digits: data.ImageSet) -> None:
    with pytest.warns(DataWarning) as said:
        Distiller(dataclasses.replace(SMALL, pixels="free", image_lr=1000.0)).fit(digits)
    messages = [str(each.message) for each in said]
    assert len(messages) == 2
    assert messages[0].startswith("the first step of datadam left the initial images with a cosine of 0.")
    assert "real initial images mean little at image_lr 1000" in messages[0]
    assert re.match(r"\d+ % of the pixels of datadam lie outside \[0, 1\]", messages[1])


def test_too_many_images_per_class_are_refused_before_the_whitening(
    digits: data.ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Preprocessing, "fit", lambda *_: pytest.fail("the whitening was fitted first"))
    with pytest.raises(InputError, match="at least ipc = 200 images"):
        Distiller(DistillConfig(ipc=200, whitening="zca")).fit(digits)


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
def test_a_signal_checkpoints_at_the_end_of_a_step_and_the_job_resumes(
    tmp_path: Path, digits: data.ImageSet, uninterrupted: torch.Tensor, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    from attention_matching.distillation.step import Step

    step = Step.__call__

    def interrupted(self, at):
        if at == 6:
            os.kill(os.getpid(), number)
        return step(self, at)

    monkeypatch.setattr(Step, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Distiller(SMALL).fit(digits, tmp_path)
    monkeypatch.undo()
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "step-00000007.safetensors"
    assert torch.equal(Distiller(SMALL).fit(digits, tmp_path).images, uninterrupted)


def test_other_data_or_settings_do_not_resume_a_run(tmp_path: Path, digits: data.ImageSet) -> None:
    Distiller(SMALL).fit(digits, tmp_path)
    other = data.ImageSet.of(
        1 - digits.train_images, digits.train_labels, digits.test_images, digits.test_labels, digits.classes
    )
    with pytest.raises(InputError, match="data_sha256"):
        Distiller(SMALL).fit(other, tmp_path)
    with pytest.raises(InputError, match="holds a run with ipc=2, not 3"):
        Distiller(DistillConfig(ipc=3, steps=12, width=8, real_batch=8, checkpoint_every=4)).fit(digits, tmp_path)


@pytest.mark.parametrize("wrong", [{"ipc": 200}, {"norm": "batch", "images_at_once": 5}, {"architecture": "vit"}])
def test_a_configuration_that_cannot_run_does_not_take_the_folder(
    tmp_path: Path, digits: data.ImageSet, wrong: dict[str, object]
) -> None:
    with pytest.raises(InputError):
        Distiller(DistillConfig(**{"steps": 1, **wrong})).fit(digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_user_defined_parts_are_recorded_and_not_mixed_with_settings(tmp_path: Path, digits: data.ImageSet) -> None:
    config = DistillConfig(steps=1, width=8, real_batch=8)
    network, shifted = ConvNet((1, 8, 8), 10, width=4), Preprocessing(torch.tensor([0.5]), torch.tensor([0.25]))
    own = Distiller(config, loss=DistributionMatchingLoss(), network=network, preprocessing=shifted)
    meta = own.fit(digits, tmp_path).meta
    assert meta["method"] == "own loss DistributionMatchingLoss"
    assert meta["architecture"] == "own network ConvNet"
    for other in (Distiller(config), Distiller(config, loss=DistributionMatchingLoss(), network=network)):
        with pytest.raises(InputError, match="holds a run with"):
            other.fit(digits, tmp_path)
    assert own.fit(digits, tmp_path).meta == meta
    zca = Preprocessing.fit(digits, "zca")
    assert Distiller(config, preprocessing=zca).fit(digits).meta["whitening"] == "zca"


def test_a_run_folder_holds_what_it_should(tmp_path: Path, digits: data.ImageSet) -> None:
    result = Distiller(SMALL).fit(digits, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    written = {"config.json", "distilled.safetensors", "images.png", "loss.png", "metrics.jsonl"}
    assert names == {".lock", "checkpoints", *written}
    loaded = DistilledSet.load(tmp_path / "distilled.safetensors")
    assert torch.equal(loaded.images, result.images) and torch.equal(loaded.labels, result.labels)
    assert loaded.labels.tolist() == [k // 2 for k in range(20)] and loaded.classes == digits.classes
    assert loaded.meta == result.meta and loaded.meta["method"] == "datadam"
    assert len(loaded.meta["data_sha256"]) == 64 and loaded.meta["power"] == 4
    with Image.open(tmp_path / "images.png") as picture:
        assert picture.size == (2 * 72 + 8, 10 * 72 + 8)  # a row per class, 8 screen pixels per image pixel


def test_a_loss_that_is_not_finite_stops_with_the_step_the_class_and_the_seed(digits: data.ImageSet) -> None:
    wild = DistillConfig(ipc=1, steps=50, width=8, real_batch=8, norm="none", image_lr=1e30, seed=3)
    message = r"the loss is (nan|inf) at step \d+, class '\d', seed 3; expected: .*image_lr"
    with pytest.raises(InputError, match=message):
        Distiller(wild).fit(digits)


def test_a_class_smaller_than_the_batch_is_sampled_with_replacement_with_one_warning(digits: data.ImageSet) -> None:
    with pytest.warns(UserWarning, match="class '0' has fewer images than real_batch = 200: 10 of 10") as said:
        Distiller(DistillConfig(steps=2, width=8, real_batch=200)).fit(digits)
    assert len(said) == 1
    with pytest.raises(InputError, match="at least ipc = 143 images, got 142 of class '0'"):
        Distiller(DistillConfig(ipc=143, steps=1)).fit(digits)
