"""The losses against the papers' sums, written as loops over classes, blocks and images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attention_matching.matching.losses import (
    AttentionMatchingLoss,
    DistributionMatchingLoss,
    Loss,
    distance_of,
    make_loss,
)
from attention_matching.networks.base import Features
from attention_matching.networks.convnet import ConvNet
from hypothesis import given, settings, strategies as st
from sextet_common.errors import InputError
from torch.nn import functional


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(classes: int, images: int, seed: int) -> Features:
    count = classes * images
    sides = ((5, 8, 6), (4, 4, 3), (3, 2, 1))
    maps = tuple(draw(count, c, h, w, seed=seed + n) for n, (c, h, w) in enumerate(sides))
    return Features(maps, draw(count, 9, seed=seed + 10))


def mean_map(block: np.ndarray, power: int, axes: tuple[int, ...]) -> np.ndarray:
    total = np.zeros(1)
    for image in block:
        sums = (np.abs(image) ** power).sum(axis=axes).ravel()
        total = total + sums / np.sqrt((sums**2).sum())
    return total / len(block)


@settings(deadline=None, max_examples=30)
@given(
    classes=st.integers(1, 3),
    real_images=st.integers(1, 4),
    synthetic_images=st.integers(1, 3),
    kinds=st.sampled_from([(True, False), (False, True), (True, True)]),
    power=st.integers(1, 4),
    channel_power=st.none() | st.integers(1, 4),
    weights=st.tuples(*[st.floats(0, 10)] * 4),
)
def test_the_loss_is_the_papers_sum_over_classes_blocks_and_kinds_of_maps(
    classes: int,
    real_images: int,
    synthetic_images: int,
    kinds: tuple[bool, bool],
    power: int,
    channel_power: int | None,
    weights: tuple[float, float, float, float],
) -> None:
    spatial, channel = kinds
    feature_weight, scale, spatial_weight, channel_weight = weights
    real, synthetic = features(classes, real_images, 1), features(classes, synthetic_images, 2)
    expected = []
    for k in range(classes):
        t, s = (slice(n * k, n * k + n) for n in (real_images, synthetic_images))
        total = feature_weight * ((real.embedding[t].mean(0) - synthetic.embedding[s].mean(0)) ** 2).sum().item()
        for a, b in zip(real.maps[:2], synthetic.maps[:2], strict=True):  # the last block's maps have no part in it
            pair = a[t].numpy(), b[s].numpy()
            if spatial:
                difference = np.subtract(*(mean_map(x, power, (0,)) for x in pair))
                total += spatial_weight * (difference**2).sum()
            if channel:
                difference = np.subtract(*(mean_map(x, channel_power or power, (1, 2)) for x in pair))
                total += channel_weight * (difference**2).sum()
        expected.append(scale * total)
    loss = AttentionMatchingLoss(
        spatial=spatial,
        channel=channel,
        power=power,
        channel_power=channel_power,
        feature_weight=feature_weight,
        scale=scale,
        spatial_weight=spatial_weight,
        channel_weight=channel_weight,
    )
    np.testing.assert_allclose(loss(real, synthetic, classes).numpy(), expected, rtol=1e-9, atol=1e-12)


def test_datadams_loss_is_the_published_formula_with_torchs_own_normalisation() -> None:
    real, synthetic = features(2, 4, 1), features(2, 3, 2)

    def attention(block: torch.Tensor) -> torch.Tensor:
        return (
            functional.normalize(block.abs().pow(4).sum(1).flatten(1), dim=1).view(2, -1, block[0, 0].numel()).mean(1)
        )

    def embedding(found: Features) -> torch.Tensor:
        return found.embedding.view(2, -1, 9).mean(1)

    mse = 0.01 * (embedding(real) - embedding(synthetic)).square().sum(1)
    for a, b in zip(real.maps[:-1], synthetic.maps[:-1], strict=True):
        mse = mse + (attention(a) - attention(b)).square().sum(1)
    torch.testing.assert_close(make_loss("datadam")(real, synthetic, 2), 100 * mse)
    torch.testing.assert_close(AttentionMatchingLoss()(real, synthetic, 2), 100 * mse)


def test_atom_adds_the_channel_maps_to_datadam_and_dm_has_the_features_alone() -> None:
    real, synthetic = features(2, 4, 1), features(2, 3, 2)
    datadam, atom, dm = (make_loss(m, power=2, feature_weight=0.5, scale=3.0) for m in ("datadam", "atom", "dm"))
    channel = AttentionMatchingLoss(spatial=False, channel=True, power=2, feature_weight=0.0, scale=3.0)
    both = datadam(real, synthetic, 2) + channel(real, synthetic, 2)
    torch.testing.assert_close(atom(real, synthetic, 2), both)
    alone = AttentionMatchingLoss(power=2, feature_weight=0.0, scale=3.0)(real, synthetic, 2)
    torch.testing.assert_close(datadam(real, synthetic, 2) - alone, 0.5 * dm(real, synthetic, 2))
    assert [make_loss(m).scale for m in ("datadam", "atom", "dm")] == [100.0, 100.0, 1.0]


@pytest.mark.parametrize("loss", [make_loss("datadam"), make_loss("atom"), make_loss("dm")])
def test_statistics_of_parts_are_those_of_the_whole(loss: AttentionMatchingLoss | DistributionMatchingLoss) -> None:
    whole = features(1, 6, 1)
    parts = [Features(tuple(m[at : at + 2] for m in whole.maps), whole.embedding[at : at + 2]) for at in (0, 2, 4)]
    found = [torch.stack(terms).mean(0) for terms in zip(*(loss.statistics(part, 1) for part in parts), strict=True)]
    torch.testing.assert_close(tuple(found), loss.statistics(whole, 1))


@pytest.mark.parametrize("loss", [make_loss("datadam"), make_loss("atom"), make_loss("dm")])
def test_a_loss_of_one_class_does_not_depend_on_the_others(
    loss: AttentionMatchingLoss | DistributionMatchingLoss,
) -> None:
    real, synthetic = features(2, 3, 1), features(2, 1, 2)
    first = [Features(tuple(m[:n] for m in f.maps), f.embedding[:n]) for f, n in ((real, 3), (synthetic, 1))]
    torch.testing.assert_close(loss(real, synthetic, 2)[0], loss(*first, 1)[0])


class Doubled(AttentionMatchingLoss):
    """A user-defined loss with no distance of its own."""

    def compare(self, real: tuple[torch.Tensor, ...], synthetic: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return 2 * super().compare(real, synthetic)


class OwnDistance(Doubled):
    def distance(self, features: Features, real: tuple[torch.Tensor, ...], n_classes: int) -> torch.Tensor:
        return torch.full((n_classes,), 7.0)


class TwoMethods:
    """The least that a loss needs."""

    def statistics(self, features: Features, n_classes: int) -> tuple[torch.Tensor, ...]:
        return (features.embedding.view(n_classes, -1, 9).mean(1),)

    def compare(self, real: tuple[torch.Tensor, ...], synthetic: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return (real[0] - synthetic[0]).abs().sum(1)


@pytest.mark.parametrize("loss", [make_loss("datadam"), make_loss("atom"), make_loss("dm"), Doubled(), TwoMethods()])
def test_the_distance_to_real_statistics_is_the_comparison(loss: Loss) -> None:
    real, synthetic = loss.statistics(features(2, 3, 1), 2), features(2, 2, 2)
    expected = loss.compare(real, loss.statistics(synthetic, 2))
    torch.testing.assert_close(distance_of(loss)(synthetic, real, 2), expected)


def test_the_distance_has_the_comparisons_gradients_for_every_block_and_for_real_statistics_too() -> None:
    loss = AttentionMatchingLoss(channel=True, channel_power=2, spatial_weight=0.5, channel_weight=3.0)
    real = loss.statistics(features(2, 3, 1), 2)
    found = []
    for constant in (True, False):
        synthetic = features(2, 2, 2)
        inputs = [*synthetic.maps[:-1], synthetic.embedding]
        terms = tuple(term.clone() for term in real)
        for tensor in inputs if constant else [*inputs, *terms]:
            tensor.requires_grad_()
        loss.distance(synthetic, terms, 2).sum().backward()
        found.append([tensor.grad for tensor in inputs])
        assert constant or all(term.grad is not None for term in terms)
    torch.testing.assert_close(*found)


def test_a_losses_own_distance_takes_precedence() -> None:
    assert distance_of(OwnDistance())(features(2, 1, 1), (), 2).tolist() == [7.0, 7.0]


def test_gradients_reach_the_synthetic_images_and_vanish_where_both_are_the_same() -> None:
    network = ConvNet((1, 8, 8), 2, width=4, depth=2).double().requires_grad_(False)
    images = draw(2, 1, 8, 8).requires_grad_()
    loss = make_loss("atom")
    same = network.features(images.detach())
    loss(same, network.features(images), 2).sum().backward()
    assert images.grad is not None and float(images.grad.abs().max()) < 1e-12
    other = network.features(draw(4, 1, 8, 8, seed=1))
    assert torch.autograd.gradcheck(lambda x: loss(other, network.features(x), 2), images)


def test_half_precision_features_have_statistics_in_single() -> None:
    whole = features(2, 2, 1)
    half = Features(tuple(m.bfloat16() for m in whole.maps), whole.embedding.bfloat16())
    for found, expected in zip(
        make_loss("atom").statistics(half, 2), make_loss("atom").statistics(whole, 2), strict=True
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.02)  # bfloat16 has 8 digits


def test_a_network_of_one_block_is_compared_by_its_features_alone() -> None:
    real, synthetic = (Features(f.maps[:1], f.embedding) for f in (features(2, 2, 1), features(2, 2, 2)))
    expected = 100 * 0.01 * DistributionMatchingLoss()(real, synthetic, 2)
    torch.testing.assert_close(make_loss("atom")(real, synthetic, 2), expected)


def test_what_cannot_be_compared_is_refused() -> None:
    real = features(2, 2, 1)
    with pytest.raises(InputError, match=r"real and synthetic statistics must have equal shapes, got \[.*\] and \["):
        AttentionMatchingLoss()(real, Features(real.maps[1:], real.embedding), 2)
    statistics = AttentionMatchingLoss().statistics(real, 2)
    for wrong in (statistics[1:], (*statistics[:-1], statistics[-1][:, :1]), (statistics[-1], *statistics[1:])):
        with pytest.raises(InputError, match=r"real .* shape"):
            AttentionMatchingLoss().distance(real, wrong, 2)
    with pytest.raises(InputError, match="equally many of each of n_classes = 3, got 4"):
        make_loss("dm")(real, real, 3)
    with pytest.raises(InputError, match="spatial or channel must be True, got False for both"):
        AttentionMatchingLoss(spatial=False)
    with pytest.raises(InputError, match=r"power must be a whole number in \[1, 32\], got 0"):
        AttentionMatchingLoss(power=0)
    for name in ("feature_weight", "scale", "spatial_weight"):
        for value in (-1.0, float("inf"), float("nan")):
            with pytest.raises(InputError, match=f"{name} must be a number >= 0, got {value}"):
                AttentionMatchingLoss(**{name: value})
    with pytest.raises(InputError, match="method must be datadam, atom or dm, got 'dc'"):
        make_loss("dc")  # type: ignore[arg-type]
