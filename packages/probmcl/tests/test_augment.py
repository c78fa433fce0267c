from __future__ import annotations

import pytest
import torch
from probmcl import Augmentation
from sextet_common.errors import InputError

NOTHING = {"shift": 0, "scale": 0, "contrast": 0, "brightness": 0, "noise": 0, "dropout": 0}


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_is_done_where_nothing_is_asked() -> None:
    images, rows = torch.rand(3, 2, 6, 6), torch.randn(3, 5)
    assert torch.equal(Augmentation(**NOTHING)(images, draw()), images)
    assert torch.equal(Augmentation(**NOTHING)(rows, draw()), rows)


@pytest.mark.parametrize("name", ["shift", "scale", "contrast", "brightness", "noise", "cutout", "flip"])
def test_each_change_changes_images_and_keeps_them_in_range(name: str) -> None:
    images = torch.rand(8, 1, 12, 12)
    changed = Augmentation(**{**NOTHING, name: True if name == "flip" else 0.3})(images, draw())
    assert not torch.equal(changed, images) and 0 <= float(changed.min()) <= float(changed.max()) <= 1


def test_views_are_two_draws_from_one_generator() -> None:
    images = torch.rand(4, 1, 8, 8)
    views = Augmentation().views(images, draw(1))
    first, second = views.split(4)
    assert not torch.equal(first, second)
    assert torch.equal(views, Augmentation().views(images, draw(1)))
    one = draw(1)
    assert torch.equal(first, Augmentation()(images, one)) and torch.equal(second, Augmentation()(images, one))


def test_a_flip_mirrors_some_images_and_leaves_the_others() -> None:
    images = torch.rand(16, 1, 7, 7)
    changed = Augmentation(**NOTHING, flip=True)(images, draw(2))
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(changed, images, strict=True)]
    kept = [torch.allclose(a, b, atol=1e-5) for a, b in zip(changed, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True)) and 0 < sum(mirrored) < 16


def test_a_shift_moves_no_further_than_its_share() -> None:
    images = torch.zeros(200, 1, 20, 20)
    images[:, :, 10, 10] = 1
    moved = Augmentation(**{**NOTHING, "shift": 0.1})(images, draw(3))
    rows = (moved.sum(dim=(1, 3)) * torch.arange(20)).sum(dim=1) / moved.sum(dim=(1, 2, 3))
    assert 1.2 < float((rows - 10).abs().max()) <= 2.0 + 1e-4


def test_a_cutout_is_a_square_of_its_size_or_cut_by_the_edge() -> None:
    changed = Augmentation(**{**NOTHING, "cutout": 0.5})(torch.ones(64, 1, 8, 8), draw(4))
    blank = (changed == 0).sum(dim=(1, 2, 3))
    assert int(blank.max()) == 16 and int(blank.min()) >= 4


def test_features_are_dropped_at_their_rate() -> None:
    changed = Augmentation(**{**NOTHING, "dropout": 0.25})(torch.ones(200, 50), draw(5))
    assert float((changed == 0).float().mean()) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("name", ["shift", "noise", "cutout", "dropout"])
def test_a_share_outside_zero_to_one_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} must be a number in \[0, 1\], got 1.5"):
        Augmentation(**{name: 1.5})
