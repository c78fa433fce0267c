"""The decoupled mode: which patches are chosen, where they lie, and what the composed set carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_matching import ComposeConfig, DistilledSet, EvaluateConfig, Preprocessing, compose_patches
from attention_matching.distillation import compose as module
from attention_matching.distillation.patches import Patches, best_patches, compose, draw_boxes
from sextet_common import data
from sextet_common.errors import InputError
from torch import nn
from torchvision.transforms.functional import resized_crop

AS_THEY_ARE = Preprocessing(torch.zeros(3), torch.ones(3))


class Brightness(nn.Module):
    """A teacher without weights: class 1 for bright images, class 0 for dark ones."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        bright = inputs.mean(dim=(1, 2, 3))
        return torch.stack([-8 * bright, 8 * bright], dim=1)


def random_images(n: int, height: int, width: int | None = None) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 3, height, width or height), dtype=np.uint8)


def two_classes(side: int, per_class: int = 6) -> data.ImageSet:
    images, labels = random_images(2 * per_class, side), np.arange(2 * per_class) % 2
    return data.ImageSet.of(images, labels, images[:4], labels[:4])


def enlarged(image: np.ndarray, box: list[int], height: int, width: int) -> torch.Tensor:
    """The region in another size, by torchvision."""
    return resized_crop(torch.from_numpy(image / 255).float(), *box, [height, width], antialias=True)


def test_crops_lie_inside_and_cover_the_shares_of_the_area() -> None:
    boxes = draw_boxes(3, torch.arange(500), crops=4, smallest=0.25, height=40, width=80)
    top, left, height, width = boxes.flatten(0, 1).unbind(1)
    assert bool((top >= 0).all() and (left >= 0).all())
    assert int((top + height).max()) == 40 and int((left + width).max()) == 80  # the borders are reached
    share = (height * width / 3200).numpy()
    assert share.min() > 0.24 and share.max() <= 1  # half a pixel of 20 is 2.5 %
    # Uniform in the area: quartiles of [0.25, 1], three standard errors of 2000 draws.
    assert np.quantile(share, [0.25, 0.5, 0.75]) == pytest.approx([0.4375, 0.625, 0.8125], abs=0.03)


def test_the_crops_of_an_image_depend_on_no_other_image() -> None:
    together = draw_boxes(0, torch.tensor([4, 9, 2]), 3, 0.08, 32, 32)
    assert torch.equal(draw_boxes(0, torch.tensor([9]), 3, 0.08, 32, 32)[0], together[1])
    assert not torch.equal(draw_boxes(1, torch.tensor([9]), 3, 0.08, 32, 32)[0], together[1])


@pytest.mark.parametrize("count", [3, 7, 40])
def test_the_best_crop_of_every_image_comes_before_the_second_best_of_any(count: int) -> None:
    images, rows = random_images(50, 12, 10), np.arange(1, 50, 3)
    boxes = draw_boxes(0, torch.from_numpy(rows), 3, 0.1, 12, 10)
    patches = best_patches(images, rows, boxes, count, lambda regions: regions.mean(dim=(1, 2, 3)))
    every = []
    for row, each in zip(rows, boxes.tolist(), strict=True):
        losses = [(float(enlarged(images[row], box, 12, 10).mean()), box) for box in each]
        every += [(rank, loss, int(row), box) for rank, (loss, box) in enumerate(sorted(losses))]
    expected = sorted(every)[:count]
    assert patches.rows.tolist() == [row for _, _, row, _ in expected]
    assert patches.boxes.tolist() == [box for *_, box in expected]
    np.testing.assert_allclose(patches.losses, [loss for _, loss, *_ in expected], atol=1e-6)


@pytest.mark.parametrize(("height", "width", "side"), [(9, 11, 2), (8, 8, 3), (6, 6, 1)])
def test_every_cell_of_an_image_is_its_region_reduced(height: int, width: int, side: int) -> None:
    images, ipc = random_images(5, height, width), 2
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(5, (ipc * side**2,), generator=generator)
    boxes = draw_boxes(0, torch.arange(len(rows)), 1, 0.3, height, width)[:, 0]
    composed = compose(images, Patches(rows, boxes, torch.zeros(len(rows))), side)
    assert composed.shape == (ipc, 3, height, width)
    heights, widths = ([len(part) for part in np.array_split(np.arange(n), side)] for n in (height, width))
    for number in range(ipc):
        rebuilt = []
        for i in range(side):
            cells = []
            for j in range(side):
                k = (i * side + j) * ipc + number
                cells.append(enlarged(images[int(rows[k])], boxes[k].tolist(), heights[i], widths[j]))
            rebuilt.append(torch.cat(cells, dim=2))
        expected = (torch.cat(rebuilt, dim=1) * 255).numpy()
        assert np.abs(composed[number] - expected).max() <= 0.5 + 1e-3  # rounded to bytes


@pytest.mark.parametrize("side", [64, 224])
def test_a_module_of_the_user_chooses_patches_of_large_images_on_disk(side: int, tmp_path: Path) -> None:
    images = two_classes(side)
    mapped = np.memmap(tmp_path / "images", dtype=np.uint8, mode="w+", shape=images.train_images.shape)
    mapped[:] = images.train_images
    on_disk = data.ImageSet.of(mapped, images.train_labels, images.test_images, images.test_labels)
    config = ComposeConfig(ipc=1, side=2, crops=2, views=2)
    made, again = (
        compose_patches(each, config, teacher=Brightness(), preprocessing=AS_THEY_ARE) for each in (images, on_disk)
    )
    assert torch.equal(made.images, again.images) and made.images.shape == (2, 3, side, side)
    assert made.meta["side"] == 2 and made.meta["teacher"] == "Brightness"
    bytes_of = made.pixels() * 255
    assert np.abs(bytes_of - bytes_of.round()).max() < 1e-3  # so PNG files lose nothing
    assert torch.allclose(made.soft_labels, Brightness()(made.images).softmax(dim=1))
    assert made.view_labels is not None and made.view_labels.views == 2
    # The teacher prefers the bright crops of class 1 and the dark ones of class 0 (all are near 0.5: noise).
    assert made.images[0].mean() < made.images[1].mean()


def test_a_composition_that_is_stopped_resumes_with_the_same_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, brief = two_classes(16), EvaluateConfig(epochs=1, width=4)
    config = ComposeConfig(ipc=2, side=2, crops=3, views=2)
    whole = compose_patches(images, config, tmp_path / "whole", teacher_config=brief)
    calls: list[int] = []

    def stopping(self: Any, number: int) -> Any:
        calls.append(number)
        if calls == [0, 1]:
            raise KeyboardInterrupt
        return step(self, number)

    step = module._Composition.step
    monkeypatch.setattr(module._Composition, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        compose_patches(images, config, tmp_path / "stopped", teacher_config=brief)
    resumed = compose_patches(images, config, tmp_path / "stopped", teacher_config=brief)
    assert calls == [0, 1, 1]
    files = [tmp_path / name / "distilled.safetensors" for name in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert torch.equal(DistilledSet.from_pretrained(tmp_path / "stopped").images, whole.images)
    assert torch.equal(resumed.soft_labels, whole.soft_labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ipc": 8}, r"8 images of 2 x 2 patches from 30 crops of class '0'; expected: fewer images per class"),
        ({"side": 17}, "side must be at most 16, the images' pixels, got 17"),
    ],
)
def test_what_cannot_be_composed_is_refused_before_the_teacher_is_trained(
    changes: dict[str, int], message: str, tmp_path: Path
) -> None:
    config = ComposeConfig(**{"ipc": 1, "side": 2, **changes})
    with pytest.raises(InputError, match=message):
        compose_patches(two_classes(16), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_is_refused() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    with pytest.raises(InputError, match=r"the teacher gives \(\d+, 5\) numbers, .* expected: finite logits of shape"):
        compose_patches(two_classes(16), ComposeConfig(ipc=1), teacher=teacher)
