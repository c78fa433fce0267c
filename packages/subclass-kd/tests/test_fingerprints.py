"""Cached logits belong to one teacher, to its images and to their order; anything else is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sextet_common import runs
from sextet_common.errors import InputError
from subclass_kd import (
    Hierarchy,
    Part,
    SubclassKDLoss,
    SubclassSet,
    TeacherLogits,
    TrainConfig,
    Views,
    build,
    distill,
    train_teacher,
)
from torch import nn

H = Hierarchy(np.array([0, 0, 1, 1]))
VIEWS = Views(2)
FAST = TrainConfig(epochs=1, batch_size=16, views=VIEWS, device="cpu")
LABELS = np.arange(40) % 4
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 1, 6, 6), dtype=np.uint8)


def data(images: np.ndarray = IMAGES, labels: np.ndarray = LABELS) -> SubclassSet:
    part = Part(images, labels)
    return SubclassSet(part, part, part, H, (1, 6, 6), "toy")


def network(seed: int = 0, width: int = 2) -> nn.Module:
    return build("convnet", (1, 6, 6), 4, width=width, seed=seed)


@pytest.fixture
def logits(tmp_path: Path) -> TeacherLogits:
    return TeacherLogits.compute(network(), data().train, VIEWS, tmp_path / "cache")


def learn(logits: TeacherLogits | nn.Module, images: SubclassSet, out: Path | None = None) -> nn.Module:
    return distill(logits, network(9), images, SubclassKDLoss(H), FAST, out)


def test_the_same_teacher_and_images_use_the_cache_and_labels_may_differ(logits: TeacherLogits) -> None:
    again = TeacherLogits.compute(network(), data().train, VIEWS, logits.folder)
    assert again.meta == logits.meta
    learn(logits, data(labels=LABELS[::-1].copy()))
    learn(logits, data(images=IMAGES.copy()).scarce(0.3, rest="unlabelled"))


def test_a_teacher_with_other_weights_gets_no_old_logits(logits: TeacherLogits) -> None:
    changed = network()
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1e-6
    for teacher in (changed, network(seed=1), network(width=3)):
        with pytest.raises(InputError, match="holds logits of a teacher with other weights; expected: another folder"):
            TeacherLogits.compute(teacher, data().train, VIEWS, logits.folder)


def test_images_in_another_order_and_other_images_are_told_apart(logits: TeacherLogits) -> None:
    order = np.random.default_rng(1).permutation(40)
    other = IMAGES.copy()
    other[3, 0, 0, 0] ^= 1
    twice = IMAGES.copy()
    twice[1] = twice[0]
    cases = (IMAGES[order], "the same images in another order"), (other, "other images"), (twice, "other images")
    for images, message in cases:
        with pytest.raises(InputError, match=f"are of {message}"):
            learn(logits, data(images))
        with pytest.raises(InputError, match=f"holds logits of {message}"):
            TeacherLogits.compute(network(), data(images).train, VIEWS, logits.folder)
    floats = IMAGES.astype(np.float32) / np.float32(255)
    with pytest.raises(InputError, match="other images"):  # kept in another form, as documented
        learn(logits, data(floats))


def test_other_views_are_named(logits: TeacherLogits) -> None:
    with pytest.raises(InputError, match=r"views with shift 0\.1, not 0\.2"):
        TeacherLogits.compute(network(), data().train, Views(2, shift=0.2), logits.folder)


@pytest.mark.parametrize("mapped", [False, True])
def test_rows_of_a_larger_array_have_the_fingerprint_of_their_copy(mapped: bool, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    images = np.load(tmp_path / "x.npy", mmap_mode="r") if mapped else IMAGES
    rows = np.array([7, 1, 30])
    chosen = Part(images, LABELS).rows(rows)
    assert np.array_equal(chosen.image_digests, Part(IMAGES[rows], LABELS[rows]).image_digests)


def test_files_are_known_by_their_bytes_and_the_size_they_are_decoded_to(tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{number}.png" for number in range(40))
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image[0]).save(path)

    def of_files(files: tuple[Path, ...], size: int = 6) -> SubclassSet:
        part = Part(files, LABELS, None, size, 1)  # type: ignore[arg-type]
        return SubclassSet(part, part, part, H, (1, size, size), "files")

    cached = TeacherLogits.compute(network(), of_files(paths).train, VIEWS, tmp_path / "cache")
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    learn(cached, of_files(tuple(tmp_path / "copy" / path.name for path in paths)))
    with pytest.raises(InputError, match="the same images in another order"):
        learn(cached, of_files(paths[::-1]))
    with pytest.raises(InputError, match="other images"):
        learn(cached, of_files(paths, size=8))
    Image.fromarray(255 - IMAGES[5, 0]).save(paths[5])
    with pytest.raises(InputError, match="other images"):
        learn(cached, of_files(paths))


def test_logits_of_an_earlier_release_are_computed_again_and_not_used(logits: TeacherLogits) -> None:
    table = logits.folder / "logits.json"
    kept = ("images", "outputs", "views", "shift", "scale", "flip", "seed")
    table.write_text(json.dumps({name: logits.meta[name] for name in kept} | {"key": "abc"}))
    np.save(logits.folder / "view-0000.npy", np.zeros((40, 4), dtype=np.float32))
    old = TeacherLogits(logits.folder)
    with pytest.raises(InputError, match=r"does not say of which images .* expected: the logits computed again"):
        learn(old, data())
    again = TeacherLogits.compute(network(), data().train, VIEWS, logits.folder)
    assert again.meta == logits.meta and float(again(0, np.arange(40)).abs().max()) > 0
    learn(again, data())


def test_logits_in_a_run_folder_must_be_of_the_weights_in_it(tmp_path: Path) -> None:
    teacher = train_teacher(network(), data(), FAST, tmp_path / "run")
    TeacherLogits.compute(teacher, data().train, VIEWS, tmp_path / "run" / "logits")
    learn(TeacherLogits(tmp_path / "run" / "logits"), data())
    train_teacher(network(), data(), dataclasses.replace(FAST, epochs=2), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "run")
    with pytest.raises(InputError, match=r"of other weights than .*model\.safetensors; .* computed again"):
        distill(tmp_path / "run" / "logits", network(9), data(), SubclassKDLoss(H), FAST)


def test_a_student_s_run_resumes_with_its_teacher_only(logits: TeacherLogits, tmp_path: Path) -> None:
    learn(logits, data(), tmp_path / "student")
    learn(network(), data(), tmp_path / "student")  # the same teacher, run for every batch
    with pytest.raises(InputError, match="holds a run with teacher_sha256="):
        learn(network(seed=1), data(), tmp_path / "student")
    config = tmp_path / "student" / "config.json"
    table = json.loads(config.read_text())
    assert table["config"].pop("teacher_sha256") == logits.meta["weights"]
    assert "unlabelled_ratio" not in table["config"]
    config.write_text(json.dumps(table))  # as an earlier release wrote it
    learn(logits, data(), tmp_path / "student")
    assert runs.Run.read(tmp_path / "student").config == table["config"]
