"""The kernels of distances in Triton's interpreter, against the plain formula in float64; see `interpreted_kernels`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from attention_matching.matching import fused
from attention_matching.matching.attention import attention_distances, attention_means
from sextet_common.errors import InputError

pytest.importorskip("triton")
from attention_matching.matching import kernels

if not kernels.INTERPRETED:  # as pytest finds this file when it looks for doctests
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)

Powers = tuple[int | None, int | None]
Pair = tuple[torch.Tensor | None, torch.Tensor | None]


@pytest.fixture(autouse=True)
def unwritten_is_nan() -> Iterator[None]:
    """Fill all new memory with NaN, so that a cell that no kernel writes is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def real_of(features: torch.Tensor, powers: Powers, n_classes: int) -> Pair:
    """Means of other images, as a step stores them."""
    return attention_means(draw(2 * n_classes, *features.shape[1:], seed=9), n_classes, *powers, "reference")


def gradients(
    features: torch.Tensor, real: Pair, n_classes: int, powers: Powers, backend: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances, and the gradient of a sum in which each class has another weight."""
    x = features.detach().requires_grad_()
    distances = attention_distances(x, real, n_classes, *powers, (2.0, 0.5), backend)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(distances, x, torch.linspace(0.5, 2, n_classes).to(distances.dtype))
    return distances.detach(), gradient


def compare(features: torch.Tensor, powers: Powers, n_classes: int) -> None:
    """Hold the kernels against the plain formula in float64."""
    real = real_of(features, powers, n_classes)
    ours, gradient = gradients(features, real, n_classes, powers, "triton")
    exact, expected = gradients(features.double(), real, n_classes, powers, "reference")
    assert ours.dtype == torch.float32 and gradient.dtype == features.dtype
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)
    digits = torch.finfo(features.dtype).eps  # the gradient is rounded to the features' type
    for image, of_image, right in zip(features.double(), gradient.double(), expected, strict=True):
        # The part of the gradient along the map cancels: of a single entry nothing is left but its rounding.
        cancelled = max(p or 0 for p in powers) / float(image.abs().max())
        atol = max(digits * float(right.abs().max()), 2e-6 * cancelled)
        torch.testing.assert_close(of_image, right, rtol=digits, atol=atol)


# One entry, rows or columns alone, fewer than a block, several tiles and chunks; one image per class and several.
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("shape", "n_classes", "powers"),
    [
        ((1, 1, 1, 1), 1, (4, 4)),
        ((3, 1, 7, 7), 3, (4, None)),
        ((4, 5, 1, 9), 2, (None, 4)),
        ((4, 33, 1, 1), 2, (1, 2)),
        ((6, 3, 4, 5), 2, (3, None)),
        ((2, 300, 4, 4), 2, (None, 6)),
        ((2, 130, 17, 17), 1, (2, 1)),
        ((1, 2, 65, 64), 1, (4, 2)),
    ],
)
def test_distances_and_gradients_are_the_references(
    shape: tuple[int, ...], n_classes: int, powers: Powers, last: bool
) -> None:
    features = draw(*shape)
    compare(features.contiguous(memory_format=torch.channels_last) if last else features, powers, n_classes)


@pytest.mark.parametrize("n_classes", [2, 6])
def test_maps_of_several_tiles_and_classes_of_several_blocks_of_images_are_the_same(
    n_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused._Maps, "tiles", lambda maps, n_images: fused._Tiles(min(n_images, 2), 16, 3))
    compare(draw(6, 3, 5, 7), (4, 2), n_classes)  # 35 positions, and blocks of two images for three


def test_tiles_cover_the_larger_map() -> None:
    maps = fused._Maps.empty(draw(2, 2, 65, 64), (4, 4))
    assert [maps.tiles(n) for n in (1, 2, 1000)] == [(1, 4096, 2), (2, 2048, 3), (64, 64, 65)]


@pytest.mark.parametrize("layout", ["some channels", "every other column", "transposed", "expanded"])
@pytest.mark.parametrize("n_classes", [1, 2])
def test_any_order_in_memory_is_read_right(layout: str, n_classes: int) -> None:
    features = draw(2, 5, 3, 7)
    arranged = {
        "some channels": torch.cat([features, features + 1], 1)[:, :5],
        "every other column": torch.stack([features, features + 1], -1).flatten(3)[..., ::2],
        "transposed": features.transpose(2, 3).contiguous().transpose(2, 3),
        "expanded": features[:1].expand_as(features),
    }
    compare(arranged[layout], (4, 2), n_classes)


@pytest.mark.parametrize("power", [1, 2, 3, 5, 8, 31, 32])
def test_every_power_is_right_for_both_maps(power: int) -> None:
    compare(draw(2, 3, 2, 3), (power, power), 2 - power % 2)


@pytest.mark.parametrize(("dtype", "last"), [(torch.float16, False), (torch.bfloat16, True)])
def test_half_precision_is_summed_in_single(dtype: torch.dtype, last: bool) -> None:
    features = (8 * draw(4, 5, 3, 7)).to(dtype)  # 32^4 is beyond float16
    features = features.contiguous(memory_format=torch.channels_last) if last else features
    compare(features, (4, 2), 2)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("power", [1, 3, 4])
def test_dead_images_and_entries_of_zero_and_ties_have_no_gradient(power: int, n_classes: int) -> None:
    features = torch.relu(draw(4, 5, 3, 4))
    features[1] = 0
    features[2] = 1
    compare(features[2:], (power, power), n_classes // 2)
    _, gradient = gradients(features, real_of(features, (power, power), n_classes), n_classes, (power, power), "triton")
    assert gradient.isfinite().all() and not gradient[features == 0].any() and gradient[0].any()
    same = torch.ones(4, 3, 2, 2)
    distances, gradient = gradients(same, attention_means(same, 2, 4, 4, "triton"), 2, (4, 4), "triton")
    assert not distances.any() and not gradient.any()


@pytest.mark.parametrize(("n_classes", "shape"), [(2, (4, 5, 3, 4)), (4, (4, 20, 15, 20))])
def test_huge_and_tiny_images_have_the_distances_of_their_scaled_maps(n_classes: int, shape: tuple[int, ...]) -> None:
    features = draw(*shape)
    scale = torch.tensor([2.0**-90, 1, 2.0**90, 2.0**33])[:, None, None, None]
    real = real_of(features, (4, 6), n_classes)
    found, gradient = gradients(features * scale, real, n_classes, (4, 6), "triton")
    expected, plain = gradients(features, real, n_classes, (4, 6), "triton")
    assert torch.equal(found, expected)
    torch.testing.assert_close(gradient * scale, plain, rtol=1e-6, atol=1e-6 * float(plain.abs().max()))


def test_what_is_not_finite_spoils_its_own_class_alone() -> None:
    for value in (math.nan, math.inf):
        features = draw(2, 3, 2, 4)
        features[0, 0, 0, 0] = value
        distances, gradient = gradients(features, real_of(features, (4, 4), 2), 2, (4, 4), "triton")
        assert distances[0].isnan() and distances[1].isfinite() and gradient[1].isfinite().all()


def test_a_second_backward_finds_everything_as_it_was_and_a_gradients_gradient_is_refused() -> None:
    x = draw(4, 3, 4, 5).requires_grad_()
    distances = attention_distances(x, real_of(x, (4, 4), 2), 2, backend="triton")
    first, second = (torch.autograd.grad(distances.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    with pytest.raises(InputError, match="differentiable only once; expected: backend 'reference'"):
        torch.autograd.grad(distances.sum(), x, create_graph=True)


def test_torch_compile_leaves_the_kernels_alone() -> None:
    features = draw(4, 3, 2, 4)
    real = real_of(features, (4, 4), 2)
    compiled = torch.compile(lambda x: attention_distances(x + 1, real, 2, backend="triton") * 2, backend="eager")
    traced, plain = features.clone().requires_grad_(), features.clone().requires_grad_()
    both = compiled(traced), attention_distances(plain + 1, real, 2, backend="reference") * 2
    for distances in both:
        distances.sum().backward()
    torch.testing.assert_close(*both)
    torch.testing.assert_close(traced.grad, plain.grad)
