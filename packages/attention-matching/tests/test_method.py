"""The pieces of the method against independent statements of the same thing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from attention_matching import (
    AttentionMatchingLoss,
    ConvNet,
    Features,
    SiameseAugmentation,
    augmentation_for,
    class_means,
    spatial_attention,
)
from attention_matching.augment import N_RANDOM, OPERATIONS
from attention_matching.networks import default_depth
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sextet_common.errors import InputError
from torch.nn import functional

FEATURES = npst.arrays(
    np.float64, npst.array_shapes(min_dims=4, max_dims=4, max_side=5), elements=st.floats(-8, 8, width=32)
)


@settings(deadline=None)
@given(FEATURES, st.sampled_from([1, 2, 3, 4, 5, 6]))
def test_the_attention_map_is_the_formula_written_as_loops(features: np.ndarray, power: int) -> None:
    batch, channels, height, width = features.shape
    expected = np.zeros((batch, height * width))
    for b in range(batch):
        for h in range(height):
            for w in range(width):
                expected[b, h * width + w] = sum(abs(features[b, c, h, w]) ** power for c in range(channels))
        norm = math.sqrt(sum(value**2 for value in expected[b]))
        expected[b] /= max(norm, 1e-12)
    maps = spatial_attention(torch.tensor(features), power)
    np.testing.assert_allclose(maps.numpy(), expected, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("power", [1, 2, 3, 4])
def test_the_attention_maps_gradient_is_that_of_finite_differences(power: int) -> None:
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: spatial_attention(x, power), features.requires_grad_())


def test_dead_features_have_a_map_and_a_gradient_of_zeros() -> None:
    features = torch.zeros(2, 3, 4, 4, requires_grad=True)
    maps = spatial_attention(features)
    maps.sum().backward()
    assert not maps.any() and features.grad is not None and not features.grad.any()


def test_half_precision_is_summed_in_single() -> None:
    features = torch.full((1, 128, 4, 4), 8.0, dtype=torch.float16)  # 128 * 8^4 is beyond float16's 65504
    torch.testing.assert_close(spatial_attention(features), torch.full((1, 16), 0.25))


def test_class_means_are_those_of_a_loop_over_labels() -> None:
    maps, labels = torch.randn(12, 7), torch.arange(3).repeat_interleave(4)
    expected = torch.stack([maps[labels == k].mean(dim=0) for k in range(3)])
    torch.testing.assert_close(class_means(maps, 3), expected)
    with pytest.raises(InputError, match="12 maps for 5 classes"):
        class_means(maps, 5)


def test_the_loss_is_the_papers_sum_over_classes_and_layers() -> None:
    real = Features(tuple(torch.randn(6, 4, s, s) for s in (8, 4, 2)), torch.randn(6, 9))
    synthetic = Features(tuple(torch.randn(4, 4, s, s) for s in (8, 4, 2)), torch.randn(4, 9))
    expected = []
    for k in range(2):
        t, s = slice(3 * k, 3 * k + 3), slice(2 * k, 2 * k + 2)
        total = 0.3 * functional.mse_loss(real.embedding[t].mean(0), synthetic.embedding[s].mean(0), reduction="sum")
        for layer in range(2):  # the last block is compared by its embedding alone
            maps = [
                torch.stack([a / a.norm() for a in f.abs().pow(4).sum(1).flatten(1)]).mean(0)
                for f in (real.maps[layer][t], synthetic.maps[layer][s])
            ]
            total = total + (maps[0] - maps[1]).pow(2).sum()
        expected.append(5.0 * total)
    torch.testing.assert_close(AttentionMatchingLoss(4, 0.3, 5.0)(real, synthetic, 2), torch.stack(expected))
    with pytest.raises(InputError, match="features of 3 and 2 blocks"):
        AttentionMatchingLoss()(real, Features(synthetic.maps[:2], synthetic.embedding), 2)


def test_a_loss_of_one_class_does_not_depend_on_the_others() -> None:
    real = Features((torch.randn(6, 4, 8, 8), torch.randn(6, 4, 4, 4)), torch.randn(6, 9))
    synthetic = Features((torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4)), torch.randn(2, 9))
    both = AttentionMatchingLoss()(real, synthetic, 2)
    first = AttentionMatchingLoss()(
        Features(tuple(m[:3] for m in real.maps), real.embedding[:3]),
        Features(tuple(m[:1] for m in synthetic.maps), synthetic.embedding[:1]),
        1,
    )
    torch.testing.assert_close(both[0], first[0])


@pytest.mark.parametrize("norm", ["instance", "batch", "group", "none"])
def test_the_network_computes_its_blocks_one_after_another(norm: str) -> None:
    network = ConvNet((3, 16, 12), 5, width=8, depth=2, norm=norm)
    images = torch.randn(4, 3, 16, 12)
    features = network.features(images)
    assert [tuple(m.shape) for m in features.maps] == [(4, 8, 16, 12), (4, 8, 8, 6)]
    torch.testing.assert_close(functional.avg_pool2d(features.maps[1], 2).flatten(1), features.embedding)
    torch.testing.assert_close(network(images), network.classifier(features.embedding))
    assert all((m >= 0).all() for m in features.maps)  # after the ReLU


def test_instance_norm_is_torchs_own_per_channel_and_image() -> None:
    network = ConvNet((1, 8, 8), 2, width=4, depth=1)
    images = torch.randn(3, 1, 8, 8)
    convolved = network.blocks[0][0](images)
    torch.testing.assert_close(network.features(images).maps[0], functional.instance_norm(convolved).relu())


def test_a_network_that_does_not_fit_the_images_is_refused() -> None:
    with pytest.raises(InputError, match="depth is 4 for 8x8 images"):
        ConvNet((1, 8, 8), 2, depth=4)
    with pytest.raises(InputError, match="norm is 'layer'; expected: instance or batch"):
        ConvNet((1, 8, 8), 2, norm="layer")
    assert [default_depth(side) for side in (2, 8, 16, 28, 32, 64, 128)] == [1, 2, 2, 3, 3, 4, 5]


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
    with pytest.raises(InputError, match="augmentation 'blur' is unknown"):
        SiameseAugmentation(("blur",))
    with pytest.raises(InputError, match="7 images for 2 transforms"):
        SiameseAugmentation()(torch.zeros(7, 1, 8, 8), torch.zeros(2, N_RANDOM))
    x = torch.rand(2, 1, 4, 4)
    assert SiameseAugmentation(())(x, torch.zeros(1, N_RANDOM)) is x
