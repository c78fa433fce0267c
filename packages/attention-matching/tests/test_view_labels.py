"""Labels of augmented views: what training sees, what is stored, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_matching import (
    ZCA,
    ConvNet,
    DistilledSet,
    EvaluateConfig,
    Preprocessing,
    SiameseAugmentation,
    TrainConfig,
    ViewLabels,
    augmentation_for,
    evaluate,
    export,
    random_real,
    train_networks,
    view_labels_from,
)
from attention_matching.evaluation import training as module
from attention_matching.images.view_labels import view_of
from sextet_common import checkpoint, data
from sextet_common.errors import InputError
from torch import nn

HALF = 2.0**-11  # relative rounding error of half precision


@pytest.fixture(scope="module")
def digits() -> data.ImageSet:
    return data.load("digits")


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(0)
    network = ConvNet((1, 8, 8), 10, width=8)
    network.classifier.weight.data.mul_(20)  # far from uniform probabilities
    return network


def some_labels(classes: int, keep: int | None = None, views: int = 3) -> tuple[ViewLabels, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    dense = (4 * torch.randn(6, views, classes, generator=generator)).softmax(dim=2)
    return ViewLabels.of(dense, SiameseAugmentation(), seed=5, keep=keep), dense


@pytest.mark.parametrize("keep", [None, 3])
def test_training_sees_the_teachers_probabilities_of_exactly_the_augmented_images(
    keep: int | None, digits: data.ImageSet, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = random_real(digits, 1)
    labelled = view_labels_from(few, digits, teacher=teacher, views=7, keep=keep, temperature=2.0, seed=3)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.images = images
            return self.linear(images.flatten(1))

    students: list[Student] = []
    original = nn.functional.cross_entropy

    def recording(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append((students[-1].images.clone(), labels.clone()))
        return original(logits, labels)

    def make(number: int) -> nn.Module:
        students.append(Student())
        return students[-1]

    monkeypatch.setattr(module.functional, "cross_entropy", recording)
    targets = labelled.view_labels
    assert targets is not None
    train_networks(make, [0, 1], few.images, targets, SiameseAugmentation(()), TrainConfig(epochs=9, batch=4))
    assert len(seen) == 2 * 9 * 3  # networks, epochs, batches
    with torch.no_grad():
        for images, labels in seen:
            exact = (teacher.eval()(images) / 2.0).softmax(dim=1)
            if keep is None:
                assert torch.allclose(labels, exact, rtol=4 * HALF, atol=1e-6)
            else:
                kept = exact.topk(keep).indices
                assert torch.allclose(labels.gather(1, kept), exact.gather(1, kept), rtol=4 * HALF, atol=1e-6)
                assert torch.allclose(labels.sum(dim=1), torch.ones(len(labels)))

    def epoch(number: int) -> set[bytes]:
        return {image.numpy().tobytes() for images, _ in seen[3 * number : 3 * number + 3] for image in images}

    assert epoch(0) == epoch(7) == epoch(9)  # view 0 returns after seven epochs, and for the second network
    assert len({frozenset(epoch(number)) for number in range(7)}) == 7


def test_every_operation_has_equally_many_views_and_every_image_its_own_amounts() -> None:
    images, augment = torch.randn(1, 3, 8, 8).expand(4, -1, -1, -1), augmentation_for(("cat", "dog"))
    for number, operation in enumerate(2 * augment.operations):
        views = view_of(augment, 0, images, torch.arange(4), number)
        only = view_of(SiameseAugmentation((operation,)), 0, images, torch.arange(4), number)
        assert torch.equal(views, only)
        if operation in ("color", "scale", "rotate"):  # continuous amounts
            assert len({view.numpy().tobytes() for view in views}) == 4


@pytest.mark.parametrize(("classes", "keep", "size"), [(10, None, 60), (10, 4, 36), (300, 5, 60), (256, 5, 45)])
def test_the_labels_take_the_bytes_they_say(tmp_path: Path, classes: int, keep: int | None, size: int) -> None:
    """Three views: float16 probabilities, and one byte per index up to 256 classes, else two."""
    labels, _ = some_labels(classes, keep)
    assert labels.bytes_per_image == size
    checkpoint.save(tmp_path / "labels.safetensors", labels.arrays())
    assert (tmp_path / "labels.safetensors").stat().st_size < 6 * size + 600  # the header


@pytest.mark.parametrize("classes", [10, 300])
def test_the_largest_probabilities_are_kept_and_the_rest_is_spread_evenly(classes: int) -> None:
    labels, dense = some_labels(classes, keep=3)
    for number in range(3):
        rows = labels.labels(torch.tensor([5, 0]), number)
        for row, exact in zip(rows, dense[[5, 0], number], strict=True):
            kept = exact.argsort(descending=True)[:3]
            others = torch.ones(classes, dtype=torch.bool).index_fill(0, kept, False)
            assert torch.allclose(row[kept], exact[kept], rtol=4 * HALF)
            assert torch.allclose(row[others], (1 - exact[kept].sum()).expand(classes - 3) / (classes - 3), atol=2e-4)


def labelled_set(keep: int | None = None) -> DistilledSet:
    labels, _ = some_labels(10, keep)
    few = DistilledSet(
        torch.randn(6, 3, 8, 8),
        torch.arange(6),
        tuple(map(str, range(10))),
        Preprocessing(torch.zeros(3), torch.ones(3)),
        view_labels=labels,
    )
    return few


@pytest.mark.parametrize("keep", [None, 4])
@pytest.mark.parametrize("through", ["file", "hub"])
def test_a_stored_set_has_the_same_views_and_labels(tmp_path: Path, through: str, keep: int | None) -> None:
    made = labelled_set(keep)
    if through == "file":
        made.save(tmp_path / "set.safetensors")
        found = DistilledSet.load(tmp_path / "set.safetensors")
    else:
        export(made, tmp_path / "hub", "hub")
        assert "labels of augmented views" in (tmp_path / "hub" / "README.md").read_text()
        found = DistilledSet.from_pretrained(tmp_path / "hub")
    assert made.view_labels is not None and found.view_labels is not None
    for number in range(3):
        for mine, theirs in zip(
            made.view_labels.view(made.images, torch.arange(6), number),
            found.view_labels.view(found.images, torch.arange(6), number),
            strict=True,
        ):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"view_labels.probabilities": torch.full((6, 3, 10), 0.1)}, "must be float16"),
        ({"view_labels.probabilities": torch.full((6, 3, 10), 0.2).half()}, "sum to 1"),
        ({"view_labels.probabilities": torch.full((6, 3, 10), torch.nan).half()}, "sum to 1"),
        ({"view_labels.probabilities": torch.full((5, 3, 10), 0.1).half()}, "for 5 images and 10 classes"),
        ({"view_labels.probabilities": torch.full((6, 3, 9), 0.1).half()}, "of 10 classes, got 9"),
        ({"view_labels.indices": torch.zeros(6, 3, 10, dtype=torch.uint8)}, "distinct classes"),
        ({"view_labels.indices": torch.zeros(6, 3, 10, dtype=torch.int16)}, "must be torch.uint8"),
        ({"description": {}}, "cannot be read: 'augment'"),
        ({"description": {"augment": {"operations": ["blur"]}, "seed": 0, "n_classes": 10}}, "operations"),
        ({"description": {"augment": {"operations": [], "strength": 1}, "seed": 0, "n_classes": 10}}, "strength"),
    ],
)
def test_damaged_labels_of_views_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "set.safetensors"
    labelled_set().save(path)
    stored = checkpoint.load(path, "torch")
    meta = {**stored.meta, **({"view_labels": changes["description"]} if "description" in changes else {})}
    arrays = {**stored.arrays, **{name: each for name, each in changes.items() if name != "description"}}
    checkpoint.save(path, arrays, meta)
    with pytest.raises(InputError, match=message):
        DistilledSet.load(path)


def test_labels_of_views_belong_to_their_own_transforms(digits: data.ImageSet, teacher: nn.Module) -> None:
    config = EvaluateConfig(networks=1, epochs=2, width=8, labels="views")
    few = random_real(digits, 1)
    with pytest.raises(InputError, match="the set has no labels of views"):
        evaluate(few, digits, config)
    labelled = view_labels_from(few, digits, teacher=teacher, views=2)
    with pytest.raises(InputError, match=r"augment \('flip',\) with labels of views"):
        evaluate(labelled, digits, dataclasses.replace(config, augment=("flip",)))
    assert evaluate(labelled, digits, config) == evaluate(labelled, digits, config)


def test_a_resumed_evaluation_knows_the_labels_of_views(
    tmp_path: Path, digits: data.ImageSet, teacher: nn.Module
) -> None:
    config = EvaluateConfig(networks=1, epochs=1, width=8, labels="views")
    one, other = (view_labels_from(random_real(digits, 1), digits, teacher=teacher, views=2, seed=s) for s in (0, 1))
    evaluate(one, digits, config, tmp_path / "run")
    with pytest.raises(InputError, match="sha256="):
        evaluate(other, digits, config, tmp_path / "run")


def test_labels_of_views_stay_with_their_preprocessing(tmp_path: Path) -> None:
    made = labelled_set()
    made.save(tmp_path / "compact.safetensors", compact=True)
    assert DistilledSet.load(tmp_path / "compact.safetensors").view_labels is not None
    assert made.with_preprocessing(Preprocessing(torch.ones(3), torch.ones(3))).view_labels is None
    whitening = ZCA.fit(torch.rand(20, 3, 8, 8).numpy())
    whitened = dataclasses.replace(made, preprocessing=dataclasses.replace(made.preprocessing, zca=whitening))
    with pytest.raises(InputError, match="labels of views of whitened images in a compact file"):
        whitened.save(tmp_path / "whitened.safetensors", compact=True)
    assert not (tmp_path / "whitened.safetensors").exists()


@pytest.mark.parametrize(("name", "value"), [("views", 0), ("keep", 0), ("temperature", 0.0)])
def test_a_setting_out_of_range_is_named(digits: data.ImageSet, teacher: nn.Module, name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} must be .*, got {value}"):
        view_labels_from(random_real(digits, 1), digits, teacher=teacher, **{name: value})
