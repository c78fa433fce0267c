"""The distances of attention maps from real means: against loops over numbers, finite differences, and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from attention_matching.matching import blockwise, reference
from attention_matching.matching.attention import attention_distances, attention_means
from hypothesis import given, settings, strategies as st
from sextet_common.errors import InputError

Powers = tuple[int | None, int | None]
Pair = tuple[torch.Tensor | None, torch.Tensor | None]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def real_of(features: torch.Tensor, powers: Powers, n_classes: int) -> Pair:
    """Means of other images, as a step stores them."""
    others = draw(3 * n_classes, *features.shape[1:], seed=9)
    spatial, channel = attention_means(others, n_classes, *powers)
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    return None if spatial is None else spatial.to(dtype), None if channel is None else channel.to(dtype)


def unit(entries: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(entry**2 for entry in entries))
    return [entry / length if length else 0.0 for entry in entries]


def loops(
    features: np.ndarray, powers: Powers, real: tuple[np.ndarray | None, ...], weights: tuple[float, float]
) -> list[float]:
    """The definition with one number at a time."""
    n_classes = next(len(r) for r in real if r is not None)
    per_class, (_, channels, height, width) = len(features) // n_classes, features.shape
    cells = [(h, w) for h in range(height) for w in range(width)]
    result = []
    for label in range(n_classes):
        images = features[label * per_class : (label + 1) * per_class]
        total = 0.0
        for kind, (power, mean, weight) in enumerate(zip(powers, real, weights, strict=True)):
            if power is None or mean is None:
                continue
            units = []
            for f in images:
                if kind == 0:
                    sums = [sum(abs(float(f[c, h, w])) ** power for c in range(channels)) for h, w in cells]
                else:
                    sums = [sum(abs(float(f[c, h, w])) ** power for h, w in cells) for c in range(channels)]
                units.append(unit(sums))
            for column, expected in zip(zip(*units, strict=True), mean[label], strict=True):
                total += weight * (sum(column) / per_class - float(expected)) ** 2
        result.append(total)
    return result


@settings(deadline=None, max_examples=40)
@given(
    classes=st.integers(1, 3),
    per_class=st.integers(1, 4),
    sides=st.tuples(*[st.integers(1, 4)] * 3),
    powers=st.tuples(*[st.none() | st.integers(1, 7)] * 2).filter(any),
    weights=st.tuples(*[st.floats(0, 9)] * 2),
    backend=st.sampled_from(["auto", "reference"]),
)
def test_the_distances_are_the_formula_written_as_loops(
    classes: int,
    per_class: int,
    sides: tuple[int, int, int],
    powers: Powers,
    weights: tuple[float, float],
    backend: str,
) -> None:
    features = draw(classes * per_class, *sides)
    real = real_of(features, powers, classes)
    computed = attention_distances(features, real, classes, *powers, weights, backend)  # type: ignore[arg-type]
    as_arrays = tuple(None if r is None else r.numpy() for r in real)
    expected = loops(features.numpy(), powers, as_arrays, weights)
    np.testing.assert_allclose(computed.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("powers", [(1, None), (2, None), (3, 3), (4, 4), (None, 5), (6, 1), (None, 4)])
def test_gradients_and_their_gradients_are_those_of_finite_differences(powers: Powers) -> None:
    features = draw(4, 3, 2, 3).requires_grad_()
    real = real_of(features, powers, 2)

    def distances(x: torch.Tensor) -> torch.Tensor:
        return attention_distances(x, real, 2, *powers, (0.5, 3.0))

    assert torch.autograd.gradcheck(distances, features)
    assert torch.autograd.gradgradcheck(distances, features)


def gradients(
    features: torch.Tensor, real: Pair, n_classes: int, powers: Powers, backend: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances, and the gradient of a sum in which each class has another weight."""
    x = features.detach().requires_grad_()
    distances = attention_distances(x, real, n_classes, *powers, (2.0, 0.5), backend)  # type: ignore[arg-type]
    upstream = torch.linspace(0.5, 2, n_classes).to(distances.dtype)
    (gradient,) = torch.autograd.grad(distances, x, upstream)
    return distances.detach(), gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("powers", [(4, None), (4, 4), (1, 3), (32, 2)])
def test_lower_precision_is_computed_in_single(dtype: torch.dtype, powers: Powers) -> None:
    features = (8 * draw(6, 5, 3, 4)).to(dtype)  # whose powers are beyond float16's largest number
    real = real_of(features.double(), powers, 3)
    distances, gradient = gradients(features, (real[0], real[1]), 3, powers)
    exact, expected = gradients(features.double(), real, 3, powers, "reference")
    assert distances.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(distances.double(), exact, rtol=1e-5, atol=1e-6)
    digits = max(torch.finfo(dtype).eps, 2e-6)  # rounded to the type; float32's sums have a few units of error
    torch.testing.assert_close(gradient.double(), expected, rtol=digits, atol=digits * float(expected.abs().max()))


@pytest.mark.parametrize("block", [60, 120, 10**6])
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "every other column", "transposed"])
def test_blocks_of_any_size_and_any_order_in_memory_give_the_same(
    block: int, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "BLOCK", block)
    features = draw(6, 4, 3, 5, dtype=torch.float32)
    arranged = {
        "contiguous": features,
        "channels last": features.contiguous(memory_format=torch.channels_last),
        "every other column": features.repeat_interleave(2, 3)[..., ::2],
        "transposed": features.transpose(2, 3).contiguous().transpose(2, 3),
    }[layout]
    real = real_of(features, (4, 3), 2)
    for found, expected in zip(
        gradients(arranged, real, 2, (4, 3)), gradients(features, real, 2, (4, 3), "reference"), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("power", [1, 3, 4, 32])
def test_huge_tiny_and_dead_images_have_the_distance_of_their_scaled_maps(power: int) -> None:
    features = draw(6, 4, 3, 5, dtype=torch.float32)
    features[3] = 0
    scale = torch.tensor([2.0**-90, 1, 2.0**90, 1, 1, 2.0**33])[:, None, None, None]
    real = real_of(features, (power, power), 2)
    distances, gradient = gradients(features * scale, real, 2, (power, power))
    expected, plain = gradients(features, real, 2, (power, power))
    torch.testing.assert_close(distances, expected, rtol=1e-6, atol=0)
    assert not gradient[3].any() and gradient.isfinite().all()
    torch.testing.assert_close(gradient * scale, plain, rtol=1e-5, atol=1e-6 * float(plain.abs().max()))


def test_a_value_that_is_not_finite_spoils_its_own_class_alone() -> None:
    for value in (math.nan, math.inf):
        features = draw(4, 3, 2, 2, dtype=torch.float32)
        features[0, 0, 0, 0] = value
        distances, gradient = gradients(features, real_of(features, (4, 4), 2), 2, (4, 4))
        assert distances[0].isnan() and distances[1].isfinite() and gradient[2:].isfinite().all()


def test_equal_images_and_means_have_no_distance_and_no_gradient() -> None:
    features = torch.ones(4, 3, 2, 2)
    distances, gradient = gradients(features, attention_means(features, 2), 2, (4, 4))
    assert not distances.any() and not gradient.any()


def test_what_torch_compile_traces_gives_the_same() -> None:
    features = draw(4, 3, 5, 2, dtype=torch.float32)
    real = real_of(features, (4, 4), 2)
    compiled = torch.compile(lambda x: attention_distances(x, real, 2), backend="eager", fullgraph=True)
    traced, plain = features.clone().requires_grad_(), features.clone().requires_grad_()
    both = compiled(traced), attention_distances(plain, real, 2)
    for distances in both:
        distances.sum().backward()
    torch.testing.assert_close(*both)
    torch.testing.assert_close(traced.grad, plain.grad)


def test_a_second_backward_finds_everything_as_it_was() -> None:
    features = draw(2, 3, 4, 5, dtype=torch.float32).requires_grad_()
    distances = attention_distances(features, real_of(features, (4, 4), 2), 2)
    first, second = (torch.autograd.grad(distances.sum(), features, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_the_plain_formula_agrees_where_no_graph_is_kept() -> None:
    features = draw(4, 3, 2, 3)
    real = real_of(features, (4, 4), 2)
    with torch.no_grad():
        found = attention_distances(features, real, 2, weights=(2.0, 0.0))
    torch.testing.assert_close(found, reference.distances(features, (4, 4), real, (2.0, 0.0), 2))


def test_means_of_another_shape_are_refused() -> None:
    features = draw(4, 3, 2, 2)
    spatial, channel = attention_means(features, 2)
    for real in ((spatial, None), (channel, spatial), (None, channel)):
        with pytest.raises(InputError, match=r"real must hold (spatial|channel) means of shape \(2, \d\), got"):
            attention_distances(features, real, 2)
    with pytest.raises(InputError, match=r"real must hold channel means of shape None, got \(2, 3\)"):
        attention_distances(features, (spatial, channel), 2, channel_power=None)
    with pytest.raises(InputError, match="equally many of each of n_classes = 3, got 4"):
        attention_distances(features, (spatial, channel), 3)
