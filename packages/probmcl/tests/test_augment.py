from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from probmcl import Augmentation, Config, MultiLabelSet, ProbMCL
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


def test_randaugment_draws_from_the_given_generator_alone() -> None:
    images = torch.rand(12, 3, 16, 16)
    augmentation = Augmentation(**NOTHING, randaugment=2)
    first = augmentation(images, draw(6))
    torch.rand(5)
    before = torch.random.get_rng_state()
    assert torch.equal(first, augmentation(images, draw(6))) and not torch.equal(first, augmentation(images, draw(7)))
    assert torch.equal(before, torch.random.get_rng_state())  # torch's own generator is as it was
    one = draw(6)
    assert torch.equal(augmentation.views(images, draw(6))[:12], augmentation(images, one))
    assert not torch.equal(first, augmentation(images, one))  # the second view is another draw
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


def test_every_image_has_randaugment_operations_of_its_own() -> None:
    images = torch.rand(1, 3, 16, 16).expand(40, -1, -1, -1)
    changed = Augmentation(**NOTHING, randaugment=1)(images, draw(8))
    different = {image.numpy().tobytes() for image in changed}
    # Fourteen operations, seven of them in two directions; one of them is the identity.
    assert 10 <= len(different) <= 21 and any(torch.equal(image, images[0]) for image in changed)


def test_magnitude_zero_has_no_geometry_and_thirty_changes_more() -> None:
    images = torch.rand(60, 3, 16, 16)
    weak, strong = (Augmentation(**NOTHING, randaugment=1, randaugment_magnitude=m)(images, draw(9)) for m in (1, 30))
    assert float((strong - images).abs().mean()) > 1.5 * float((weak - images).abs().mean()) > 0


def test_randaugment_takes_gray_images_and_leaves_features_alone() -> None:
    assert Augmentation(randaugment=3)(torch.rand(20, 1, 9, 9), draw()).shape == (20, 1, 9, 9)
    rows = torch.randn(3, 5)
    assert torch.equal(Augmentation(**NOTHING, randaugment=3)(rows, draw()), rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"randaugment": -1}, "randaugment must be a whole number >= 0, got -1"),
        ({"randaugment_magnitude": 31}, r"randaugment_magnitude must be a whole number in \[0, 30\], got 31"),
    ],
)
def test_randaugment_outside_its_bounds_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Augmentation(**options)


def test_a_run_with_randaugment_resumes_bit_identically_and_one_from_before_it_still_resumes(tmp_path: Path) -> None:
    inputs, labels = np.random.default_rng(0).random((32, 3, 8, 8)), np.eye(32, 3) + np.eye(32, 3, k=-3)
    data = MultiLabelSet.of((inputs, labels), None, (inputs[:9], labels[:9]))

    def train(out: Path, operations: int) -> torch.Tensor:
        config = Config(
            method="bce", epochs=1, classifier_epochs=2, batch_size=8, checkpoint_every=2, device="cpu",
            augmentation=Augmentation(randaugment=operations),
        )  # fmt: skip
        return ProbMCL("convnet", config=config, width=2).fit(data, out).predict_proba(data.test)

    whole = train(tmp_path / "a", 2)
    newest = max((tmp_path / "a" / "checkpoints").glob("step-*"))
    newest.unlink()  # as if it had been killed before
    (tmp_path / "a" / "model.safetensors").unlink()
    assert torch.equal(train(tmp_path / "a", 2), whole)

    before = train(tmp_path / "b", 0)
    assert not torch.equal(before, whole)
    path = tmp_path / "b" / "config.json"
    table = json.loads(path.read_text())
    for name in ("randaugment", "randaugment_magnitude"):
        del table["config"]["augmentation"][name]
    path.write_text(json.dumps(table))
    assert torch.equal(train(tmp_path / "b", 0), before)
    with pytest.raises(InputError, match="randaugment"):
        train(tmp_path / "b", 1)
