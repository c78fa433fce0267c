"""Unlabelled images and unknown labels: as data, in the loss, and in a training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from probmcl import Augmentation, Config, ContrastiveConfig, HeadConfig, MultiLabelSet, ProbMCL, load
from probmcl.__main__ import main
from probmcl.data.sources import load_unlabelled
from probmcl.scenes import compose, digits
from probmcl.training.batches import Batches
from probmcl.training.objective import Objective, consistency
from sextet_common.errors import InputError
from sextet_common.processes import Processes

SMALL = {"epochs": 1, "classifier_epochs": 1, "batch_size": 16, "head": HeadConfig(8, hidden=(16,)), "device": "cpu"}


@pytest.fixture(scope="module")
def scenes() -> MultiLabelSet:
    return compose(digits(), sizes=(80, 40, 40))


def fitted(data: MultiLabelSet, **options: object) -> dict[str, torch.Tensor]:
    return ProbMCL("convnet", 10, Config(**{**SMALL, **options}), width=2).fit(data)._fitted().state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_labels_of_minus_one_are_unknown_and_rows_of_them_are_never_held_out() -> None:
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.ones((40, 2), dtype=int)
    y[5:35] = -1
    y[0, 1] = -7
    data = MultiLabelSet.of((x, y), None, (x, abs(y) > 0))
    assert data.train.labels.dtype == np.int8 and data.validation.labels.min() >= -1
    assert len(data.validation) == 2 and (data.validation.labels >= 0).any(axis=1).all()
    assert (data.train.labels == -1).all(axis=1).sum() == 30 and data.test.labels.dtype == np.uint8
    with pytest.raises(InputError, match="label 2 in row 3, column 1; expected: 0 or 1, or -1 for an unknown one"):
        MultiLabelSet.of((x, np.where(np.arange(80).reshape(40, 2) == 7, 2, y)), (x, y), (x, y))


def test_a_table_may_have_unknown_labels(tmp_path: Path) -> None:
    lines = ["image,a,b,split"]
    for number, row in enumerate(["1,0", "-1,-1", "-1,1", "1,1", "0,1"]):
        Image.new("L", (4, 4), number).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{row},{'test' if number == 4 else 'validation' if number == 3 else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    assert load(f"csv:{tmp_path}", size=4).train.labels.tolist() == [[1, 0], [-1, -1], [-1, 1]]


def test_unlabelled_images_are_appended_from_arrays_folders_and_sources(scenes: MultiLabelSet, tmp_path: Path) -> None:
    more = np.random.default_rng(0).random((6, 1, 32, 32), dtype=np.float32)
    joined = scenes.with_unlabelled(more)
    rows = np.array([83, 2, 79, 80])
    expected = torch.cat([torch.from_numpy(more[3:4]), scenes.train.batch([2, 79]), torch.from_numpy(more[:1])])
    assert torch.equal(joined.train.batch(rows), expected)
    assert (joined.train.labels[:80] == scenes.train.labels).all() and (joined.train.labels[80:] == -1).all()
    assert len(joined.with_unlabelled(scenes.test).train) == 126
    (tmp_path / "inside").mkdir()
    for place in ("b.png", "inside/a.PNG"):
        Image.fromarray((255 * more[0, 0]).astype(np.uint8)).save(tmp_path / place, "PNG")
    (tmp_path / "notes.txt").write_text("no image")
    options = {**SMALL, "method": "bce", "consistency_weight": 0.0}
    model = ProbMCL("convnet", 10, Config(**options), width=2)
    folder = fitted(scenes.with_labelled(60), method="bce", consistency_weight=0.0)
    model.fit(scenes.with_labelled(60), unlabelled=tmp_path)
    assert equal(folder, model._fitted().state_dict())  # as many steps, and the images do not take part
    for wrong, message in (
        (more[:, :, :8], r"inputs of shape \(1, 8, 32\); expected: \(1, 32, 32\)"),
        (tmp_path / "inside" / "none", "is unknown"),
    ):
        with pytest.raises(InputError, match=message):
            model.fit(scenes, unlabelled=wrong)
    assert len(scenes.with_unlabelled(load_unlabelled("digits", scenes.input_shape)).train) == 2080
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has 0 image files"):
        model.fit(scenes, unlabelled=tmp_path / "empty")
    for count in (0, 81):
        with pytest.raises(InputError, match="are kept; expected: 1 to 80"):
            scenes.with_labelled(count)


def test_an_epoch_shows_all_labelled_and_unlabelled_rows() -> None:
    labels = np.full((50, 2), -1, dtype=np.int8)
    labels[:8] = 1
    batches = Batches(labels, Config(batch_size=4, unlabelled_ratio=1.5), Processes(torch.device("cpu")))
    assert batches.epoch == 7
    drawn = [batches.rows("joint", number, with_unlabelled=True) for number in range(7)]
    assert all(len(rows.whole) == 10 and rows.n_labelled == 4 and (rows.whole[:4] < 8).all() for rows in drawn)
    assert sorted(np.concatenate([rows.whole[4:] for rows in drawn])) == list(range(8, 50))
    assert sorted(np.concatenate([rows.whole[:4] for rows in drawn[2:4]])) == list(range(8))
    assert len(batches.rows("classifier", 0).whole) == 4


def test_the_classifiers_loss_sees_labelled_images_only(scenes: MultiLabelSet) -> None:
    config = Config(**SMALL, method="bce", consistency_weight=0.5, confidence=0.5)
    network = ProbMCL("convnet", 10, config, width=2)._build(scenes.input_shape, 10).eval()
    loss = Objective(network, config, classify=True)
    assert (
        loss.uses_unlabelled
        and not Objective(network, Config(method="bce", consistency_weight=0.0), classify=True).uses_unlabelled
    )
    views = config.augmentation.views(scenes.train.batch(range(10)), torch.Generator().manual_seed(0))
    labels = torch.from_numpy(scenes.train.labels[:10].astype(np.int8))
    labels[6:] = -1
    parts = loss(views, labels.repeat(2, 1), 6)
    known = torch.cat([views[:6], views[10:16]])
    expected = config.classification_loss()(network.logits(known), labels[:6].repeat(2, 1))
    torch.testing.assert_close(parts["classification"], expected)
    expected = consistency(network.logits(views[6:10]), network.logits(views[16:]), 0.5)
    torch.testing.assert_close(parts["consistency"], expected)
    torch.testing.assert_close(parts["loss"], parts["classification"] + 0.5 * parts["consistency"])


def test_consistency_is_cross_entropy_against_confident_predictions() -> None:
    weak, strong = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) * 3, torch.randn(5, 4)
    expected = 0.0
    for p, q in zip(weak.sigmoid().flatten().tolist(), strong.sigmoid().flatten().tolist(), strict=True):
        expected += -math.log(q) if p > 0.8 else -math.log(1 - q) if p < 0.2 else 0.0
    weak.requires_grad_()
    loss = consistency(weak, strong.requires_grad_(), 0.8)
    assert float(loss.detach()) == pytest.approx(expected / 5, rel=1e-5)
    loss.backward()
    assert weak.grad is None and strong.grad is not None


@pytest.mark.parametrize("method", ["probmcl", "supcon"])
@pytest.mark.parametrize("similarity", ["label", "mixture"])
def test_an_unlabelled_image_is_drawn_to_its_other_view_alone_or_left_out(
    scenes: MultiLabelSet, method: str, similarity: str
) -> None:
    contrastive = ContrastiveConfig(similarity=similarity)
    config = Config(**SMALL, method=method, mode="joint", contrastive=contrastive, augmentation=Augmentation(noise=0.0))
    network = ProbMCL("convnet", 10, config, width=2)._build(scenes.input_shape, 10).eval()
    views = config.augmentation.views(scenes.train.batch(range(4)), torch.Generator().manual_seed(0)).requires_grad_()
    loss = Objective(network, config, contrast=True)
    if method == "supcon" or similarity == "mixture":
        value = loss(views, torch.full((8, 10), -1, dtype=torch.int8), 0)["contrastive"]
        own = torch.eye(4, 10, dtype=torch.int8).repeat(2, 1)  # a label that an image shares with its other view alone
        torch.testing.assert_close(value, loss(views, own, 4)["contrastive"])
    labels = torch.from_numpy(scenes.train.labels[:4].astype(np.int8))
    labels[2:] = -1
    value = loss(views, labels.repeat(2, 1), 2)["contrastive"]
    gradient = torch.autograd.grad(value, views)[0]
    drawn = gradient[[2, 3, 6, 7]].abs().amax(dim=(1, 2, 3)) > 0
    assert bool((drawn == (method == "supcon" or similarity == "mixture")).all())  # by label they take no part


@pytest.mark.parametrize("mode", ["joint", "two_stage"])
def test_unlabelled_images_take_part_in_training(scenes: MultiLabelSet, mode: str) -> None:
    few, other = scenes.with_labelled(40), compose(digits(), sizes=(40, 4, 4), seed=7).train.inputs
    changed = MultiLabelSet.of(
        (np.concatenate([scenes.train.inputs[:40], other]), few.train.labels),
        (scenes.validation.inputs, scenes.validation.labels),
        (scenes.test.inputs, scenes.test.labels),
    )
    assert not equal(fitted(few, mode=mode), fitted(changed, mode=mode))
    assert equal(fitted(few, mode=mode, unlabelled_ratio=0.0), fitted(changed, mode=mode, unlabelled_ratio=0.0))


def test_the_command_line_takes_unlabelled_images(tmp_path: Path) -> None:
    more = load("digits").test.inputs[:30, 0]
    (tmp_path / "more").mkdir()
    for number, image in enumerate(more):
        Image.fromarray((255 * image).astype(np.uint8)).save(tmp_path / "more" / f"{number}.png")
    words = ["--epochs", "1", "--classifier-epochs", "1", "--dim", "8", "--hidden", "16", "--width", "2"]
    words += ["--batch-size", "100", "--labelled", "200", "--unlabelled", str(tmp_path / "more"), "--device", "cpu"]
    assert (
        main(["train", "--data", "digits", "--out", str(tmp_path / "run"), *words, "--consistency-weight", "0.1"]) == 0
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 2 * 18 and "consistency" in rows[-1]  # 1830 unlabelled images, 100 in a step
    assert main(["train", "--data", "digits", "--out", str(tmp_path / "new"), "--labelled", "0"]) == 2
    assert not (tmp_path / "new").exists()
