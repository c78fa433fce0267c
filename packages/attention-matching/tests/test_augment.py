"""Siamese augmentation: every operation against an independent statement of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attention_matching import SiameseAugmentation, augmentation_for
from attention_matching.images.augment import N_RANDOM, OPERATIONS
from hypothesis import given, settings, strategies as st
from sextet_common.errors import InputError


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor([[*numbers, *[0.5] * (N_RANDOM - len(numbers))]])


def image(side: int = 8) -> torch.Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def only(operation: str, **strengths: float) -> SiameseAugmentation:
    return SiameseAugmentation((operation,), **strengths)


def test_crop_shifts_by_whole_pixels_and_fills_with_zeros() -> None:
    x = image()
    for right in (-1, 0, 1):
        for down in (-1, 0, 1):
            shifted = torch.zeros_like(x)
            rows, columns = (slice(max(0, -s), 8 - max(0, s)) for s in (down, right))
            source = x[..., max(0, down) : 8 + min(0, down), max(0, right) : 8 + min(0, right)]
            shifted[..., rows, columns] = source
            got = only("crop")(x, row(0, (right + 1.5) / 3, (down + 1.5) / 3))
            torch.testing.assert_close(got, shifted, atol=1e-5, rtol=0)


def test_cutout_blanks_one_square_wherever_its_centre_falls() -> None:
    x = torch.ones(1, 1, 8, 8)
    for u in np.linspace(0, 0.999, 9):
        for v in np.linspace(0, 0.999, 9):
            hole = 1 - only("cutout")(x, row(0, u, v))[0, 0]
            centre_x, centre_y = int(u * 9), int(v * 9)
            expected = torch.zeros(8, 8)
            expected[max(0, centre_y - 2) : centre_y + 2, max(0, centre_x - 2) : centre_x + 2] = 1
            assert torch.equal(hole, expected)


def test_flip_mirrors_with_its_probability() -> None:
    x = image()
    assert torch.equal(only("flip")(x, row(0, 0.49)), x.flip(3))
    assert torch.equal(only("flip")(x, row(0, 0.51)), x)


def test_a_quarter_turn_is_torchs_own_rotation() -> None:
    turned = only("rotate", rotate=90.0)(image(), row(0, 1.0))
    torch.testing.assert_close(turned, image().rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_scaling_by_one_changes_nothing_and_by_two_takes_every_other_point() -> None:
    x = torch.arange(8.0).repeat(8, 1)[None, None]
    torch.testing.assert_close(only("scale", scale=1.0)(x, row(0, 0.3, 0.9)), x)
    stretched = only("scale", scale=2.0)(x, row(0, 0.0, 1 / 3))  # factors 1/2 across, 1 down
    torch.testing.assert_close(stretched[0, 0, 0, 1:-1], (torch.arange(8.0) - 3.5)[1:-1] / 2 + 3.5)


def test_colour_is_brightness_then_saturation_then_contrast() -> None:
    x, u, v, w = image().double(), 0.9, 0.2, 0.7
    expected = x + (u - 0.5)
    grey = expected.mean(1, keepdim=True)
    expected = (expected - grey) * 2 * v + grey
    expected = (expected - expected.mean()) * (w + 0.5) + expected.mean()
    numbers = torch.tensor([[0, u, v, w]], dtype=torch.float64)
    torch.testing.assert_close(only("color")(x, numbers), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3))
def test_images_of_one_row_share_one_transform_whatever_stands_beside_them(seed: int, rows: int, share: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    numbers, images = torch.rand(rows, N_RANDOM, generator=draw), torch.rand(rows * share, 3, 8, 8, generator=draw)
    together = SiameseAugmentation()(images, numbers)
    for number in range(rows * share):
        alone = SiameseAugmentation()(images[number : number + 1], numbers[number // share][None])
        torch.testing.assert_close(together[number], alone[0], atol=1e-6, rtol=0)


def test_real_and_synthetic_images_are_transformed_alike() -> None:
    numbers = torch.rand(5, N_RANDOM)
    x = torch.rand(5, 1, 8, 8)
    real = SiameseAugmentation()(x.repeat_interleave(3, 0), numbers)
    torch.testing.assert_close(real[::3], SiameseAugmentation()(x, numbers))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradients_flow_through_every_operation(operation: str) -> None:
    x = image(5).double().requires_grad_()
    numbers = torch.tensor([[0.0, 0.3, 0.6, 0.4]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda images: only(operation)(images, numbers), x)


def test_digits_are_not_mirrored_and_unknown_operations_are_named() -> None:
    assert "flip" not in augmentation_for(tuple("0123456789")).operations
    assert "flip" not in augmentation_for(tuple(f"{k} - name" for k in range(10))).operations
    assert "flip" in augmentation_for(("cat", "dog")).operations
    assert augmentation_for(tuple("0123456789"), ("flip",)).operations == ("flip",)
    with pytest.raises(InputError, match=r"operations\[0\] must be color, .*, got 'blur'"):
        SiameseAugmentation(("blur",))
    with pytest.raises(InputError, match="must be a multiple of 2 transforms, got 7"):
        SiameseAugmentation()(torch.zeros(7, 1, 8, 8), torch.zeros(2, N_RANDOM))
    x = torch.rand(2, 1, 4, 4)
    assert SiameseAugmentation(())(x, torch.zeros(1, N_RANDOM)) is x


def test_all_operations_together_give_what_each_gives_alone() -> None:
    torch.manual_seed(0)
    augment, x, rows = SiameseAugmentation(), torch.rand(24, 3, 8, 8), torch.rand(24, N_RANDOM)
    rows[:, 0] = (torch.arange(24) % 6 + 0.5) / 6
    for number, operation in enumerate(OPERATIONS):
        mine = torch.arange(24) % 6 == number
        alone = only(operation)(x[mine], rows[mine])
        torch.testing.assert_close(augment(x, rows)[mine], alone)
        assert not torch.equal(alone, x[mine])
