"""Attention maps by plain torch against loops over numbers, finite differences and the published formula."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from attention_matching.matching import blockwise, reference
from attention_matching.matching.attention import (
    attention_maps,
    attention_means,
    channel_attention,
    class_means,
    spatial_attention,
)
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as npst
from sextet_common.errors import InputError
from torch.nn import functional

FEATURES = npst.arrays(
    np.float64, npst.array_shapes(min_dims=4, max_dims=4, max_side=5), elements=st.floats(-8, 8, width=32)
)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def unit(entries: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(entry**2 for entry in entries))
    return [entry / length if length else 0.0 for entry in entries]


def loops(features: np.ndarray, spatial_power: int, channel_power: int) -> tuple[np.ndarray, np.ndarray]:
    """The definition with one number at a time; each image is first divided by its largest, which changes no map."""
    batch, channels, height, width = features.shape
    spatial, channel = [], []
    for b in range(batch):
        largest = max(abs(float(x)) for x in features[b].flat) or 1.0
        f = [[[float(x) / largest for x in row] for row in plane] for plane in features[b]]
        cells = [(h, w) for h in range(height) for w in range(width)]
        spatial.append(unit([sum(abs(f[c][h][w]) ** spatial_power for c in range(channels)) for h, w in cells]))
        channel.append(unit([sum(abs(f[c][h][w]) ** channel_power for h, w in cells) for c in range(channels)]))
    return np.array(spatial), np.array(channel)


@settings(deadline=None)
@given(FEATURES, st.integers(1, 7), st.integers(1, 7))
def test_both_maps_are_the_formula_written_as_loops(features: np.ndarray, p: int, q: int) -> None:
    spatial, channel = attention_maps(torch.tensor(features), p, q)
    for maps, expected in zip((spatial, channel), loops(features, p, q), strict=True):
        assert maps is not None
        # Entries that are 1e-200 of the largest may be 0: their squares are below the smallest number.
        np.testing.assert_allclose(maps.numpy(), expected, rtol=1e-9, atol=1e-150)


def published(features: torch.Tensor, power: int) -> torch.Tensor:
    return functional.normalize(features.abs().pow(power).sum(dim=1).flatten(1), dim=1)


@pytest.mark.parametrize("power", [1, 2, 3, 4, 8])
def test_in_the_usual_range_the_map_and_its_gradient_are_those_of_the_published_formula(power: int) -> None:
    ours, theirs = (draw(3, 4, 5, 6).requires_grad_() for _ in range(2))
    weights = draw(3, 30, seed=1)
    maps = spatial_attention(ours, power)
    torch.testing.assert_close(maps, published(theirs, power))
    (maps * weights).sum().backward()
    (published(theirs, power) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_every_whole_power_is_numpys() -> None:
    x = draw(50).numpy()
    for power in range(1, 33):
        found = reference.absolute_power(torch.tensor(x), power).numpy()
        np.testing.assert_allclose(found, np.abs(x) ** power, rtol=1e-13)  # 32 roundings of 1e-16 at most


@pytest.mark.parametrize(("p", "q"), [(1, None), (2, None), (3, 3), (4, 4), (None, 5), (6, 1), (None, 4)])
def test_gradients_and_their_gradients_are_those_of_finite_differences(p: int | None, q: int | None) -> None:
    features = draw(2, 3, 2, 3).requires_grad_()

    def maps(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(m for m in attention_maps(x, p, q) if m is not None)

    assert torch.autograd.gradcheck(maps, features)
    assert torch.autograd.gradgradcheck(maps, features)


def test_gradients_of_scaled_features_have_gradients_too() -> None:
    features = (1e-200 * draw(1, 3, 2, 2)).requires_grad_()  # the fourth power is out of float64's range
    with torch.no_grad():
        assert not reference.absolute_power(features, 4).any()
    plain = (features.detach() * 1e200).requires_grad_()
    weights = draw(1, 4, seed=1)
    for x, scale in ((features, 1e200), (plain, 1.0)):
        (first,) = torch.autograd.grad((spatial_attention(x) * weights).sum(), x, create_graph=True)
        ((first / scale).square().sum()).backward()
    assert features.grad is not None and plain.grad is not None
    torch.testing.assert_close(features.grad / 1e200, plain.grad)


def test_dead_features_have_a_map_and_a_gradient_of_zeros_and_do_not_touch_their_neighbours() -> None:
    features = draw(3, 4, 3, 3, dtype=torch.float32)
    features[1] = 0
    features.requires_grad_()
    maps = attention_maps(features)
    sum((m * draw(*m.shape, seed=1)).sum() for m in maps if m is not None).backward()
    assert features.grad is not None and features.grad.isfinite().all()
    assert not features.grad[1].any() and features.grad[0].any() and features.grad[2].any()
    for map_ in maps:
        assert map_ is not None
        torch.testing.assert_close(map_.norm(dim=1), torch.tensor([1.0, 0.0, 1.0]))


@pytest.mark.parametrize("power", [1, 3, 4, 32])
@pytest.mark.parametrize("scale", [2.0**-96, 2.0**-40, 2.0**33, 2.0**100])
def test_the_maps_have_the_same_bits_at_any_scale_and_gradients_the_inverse_scale(scale: float, power: int) -> None:
    features = draw(4, 3, 5, 2, dtype=torch.float32)
    features[2] *= 1e-3
    scaled, plain = (features * scale).requires_grad_(), features.clone().requires_grad_()
    for x in (scaled, plain):
        spatial, channel = attention_maps(x, power, power)
        assert spatial is not None and channel is not None
        (spatial[:, 0].sum() + channel[:, 0].sum()).backward()
        x.maps = torch.cat([spatial, channel], dim=1).detach()  # type: ignore[attr-defined]
    assert torch.equal(scaled.maps, plain.maps)  # type: ignore[attr-defined]
    assert scaled.grad is not None and plain.grad is not None
    # The gradients' smallest may be below float32's smallest, where they are huge features'.
    torch.testing.assert_close(scaled.grad * scale, plain.grad, rtol=1e-6, atol=1e-6 * float(plain.grad.abs().max()))


def test_an_images_map_has_the_same_bits_whatever_stands_beside_it() -> None:
    features = draw(5, 4, 3, 3, dtype=torch.float32)
    beside = features.clone()
    beside[0] *= 1e20
    beside[1] = 0
    for map_, alone in zip(attention_maps(beside), attention_maps(features[2:]), strict=True):
        assert map_ is not None and alone is not None and torch.equal(map_[2:], alone)


def test_what_is_not_finite_spoils_its_own_image_alone() -> None:
    for value in (math.nan, math.inf):
        features = draw(2, 3, 2, 2, dtype=torch.float32)
        features[0, 0, 0, 0] = value
        maps = spatial_attention(features)
        assert maps[0].isnan().any() and maps[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype: torch.dtype) -> None:
    features = torch.full((1, 128, 4, 4), 8.0, dtype=dtype)  # 128 * 8^4 is beyond float16's 65504
    torch.testing.assert_close(spatial_attention(features), torch.full((1, 16), 0.25))
    exact, half = draw(2, 3, 4, 5).to(dtype).double().requires_grad_(), None
    half = exact.detach().to(dtype).requires_grad_()
    weights = draw(2, 20, seed=1)
    for x in (exact, half):
        (spatial_attention(x) * weights.to(x.dtype)).sum().backward()
    assert exact.grad is not None and half.grad is not None and half.grad.dtype == dtype
    # The weights and the gradient are rounded to 8 or 11 digits.
    torch.testing.assert_close(half.grad.double(), exact.grad, rtol=0, atol=0.02 * float(exact.grad.abs().max()))


def layouts(features: torch.Tensor) -> dict[str, torch.Tensor]:
    wide = features.repeat_interleave(2, 3)
    return {
        "channels last": features.contiguous(memory_format=torch.channels_last),
        "every other column": wide[..., ::2],
        "transposed": features.transpose(2, 3).contiguous().transpose(2, 3),
        "some channels": torch.cat([features, features], 1)[:, : features.shape[1]],
    }


@pytest.mark.parametrize("layout", ["channels last", "every other column", "transposed", "some channels"])
def test_blocks_of_any_size_and_any_order_in_memory_give_the_same(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features = draw(7, 4, 3, 5, dtype=torch.float32)
    features[3] *= 1e-20
    whole = features.clone().requires_grad_()
    part = layouts(features)[layout].detach().requires_grad_()
    weights = draw(7, 19, seed=1, dtype=torch.float32)
    for x, block in ((whole, 10**6), (part, 2 * 60)):
        monkeypatch.setattr(blockwise, "BLOCK", block)
        spatial, channel = attention_maps(x, 4, 3)
        assert spatial is not None and channel is not None
        found = torch.cat([spatial, channel], dim=1)
        (found * weights).sum().backward()
        x.maps = found.detach()  # type: ignore[attr-defined]
    torch.testing.assert_close(part.maps, whole.maps)  # type: ignore[attr-defined]
    assert part.grad is not None and whole.grad is not None
    for of_part, of_whole in zip(part.grad, whole.grad, strict=True):  # image 3 has gradients of 1e20
        torch.testing.assert_close(of_part, of_whole, rtol=0, atol=1e-6 * float(of_whole.abs().max()))


def test_what_torch_compile_traces_gives_the_same() -> None:
    features = draw(4, 3, 5, 2, dtype=torch.float32)
    features[1] = 0
    features[2] *= 1e-20
    compiled = torch.compile(lambda x: attention_means(x, 2), backend="eager", fullgraph=True)
    traced, plain = features.clone().requires_grad_(), features.clone().requires_grad_()
    for x, means in ((traced, compiled(traced)), (plain, attention_means(plain, 2))):
        spatial, channel = means
        (spatial[:, 0].sum() + channel[:, 1].sum()).backward()
        x.means = torch.cat([spatial, channel], dim=1).detach()  # type: ignore[attr-defined]
    torch.testing.assert_close(traced.means, plain.means)  # type: ignore[attr-defined]
    torch.testing.assert_close(traced.grad, plain.grad)


def test_one_call_for_both_maps_gives_what_two_calls_give() -> None:
    features = draw(3, 4, 5, 2)
    spatial, channel = attention_maps(features, 4, 2)
    assert spatial is not None and channel is not None
    assert torch.equal(spatial, spatial_attention(features, 4))
    assert torch.equal(channel, channel_attention(features, 2))
    assert attention_maps(features, None, 2)[0] is None and attention_maps(features, 4, None)[1] is None


def test_class_means_are_those_of_a_loop_over_labels() -> None:
    maps, labels = draw(12, 7), torch.arange(3).repeat_interleave(4)
    expected = torch.stack([maps[labels == k].mean(dim=0) for k in range(3)])
    torch.testing.assert_close(class_means(maps, 3), expected)
    features = draw(6, 4, 2, 3)
    for mean, map_ in zip(attention_means(features, 3), attention_maps(features), strict=True):
        assert mean is not None and map_ is not None
        torch.testing.assert_close(mean, torch.stack([map_[2 * k : 2 * k + 2].mean(dim=0) for k in range(3)]))
    with pytest.raises(InputError, match="images must be equally many of each of n_classes = 5, got 12"):
        class_means(maps, 5)
    with pytest.raises(InputError, match="equally many of each of n_classes = 4, got 6"):
        attention_means(features, 4)


def test_what_has_no_map_is_refused_with_its_reason() -> None:
    features = torch.ones(2, 3, 4, 4)
    for wrong in (features[0], features[:0], features[:, :0]):
        with pytest.raises(InputError, match=r"features must be non-empty, of shape \(batch, channels, .*, got"):
            spatial_attention(wrong)
    with pytest.raises(InputError, match=r"features must be floating-point numbers, got torch\.int64"):
        spatial_attention(features.long())
    for power in (0, -1, 33, 2.5, 2.0, True):
        with pytest.raises(InputError, match=r"channel_power must be a whole number in \[1, 32\], got"):
            channel_attention(features, power)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="got None for both"):
        attention_maps(features, None, None)
    with pytest.raises(InputError, match="backend must be auto, reference, triton, got 'cuda'"):
        attention_maps(features, backend="cuda")  # type: ignore[arg-type]


def test_the_kernels_say_why_they_cannot_run() -> None:
    pytest.importorskip("triton")
    with pytest.raises(InputError, match=r"the features are torch.float64, not float32, bfloat16 or float16"):
        spatial_attention(torch.ones(1, 1, 1, 1).double(), backend="triton")
    with pytest.raises(InputError, match="the features are on cpu, not on a CUDA device"):
        spatial_attention(torch.ones(1, 1, 1, 1), backend="triton")


def test_everything_but_the_kernels_works_without_triton() -> None:
    script = (
        "import sys; sys.modules['triton'] = None\n"  # what makes `import triton` fail
        "import torch, attention_matching\n"
        "print(attention_matching.spatial_attention(torch.ones(1, 1, 1, 4)).tolist())\n"
        "assert 'attention_matching.matching.kernels' not in sys.modules\n"
        "try:\n"
        "    attention_matching.spatial_attention(torch.ones(1, 1, 1, 1), backend='triton')\n"
        "except ValueError as error:\n"
        "    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    maps, error = done.stdout.splitlines()
    assert maps == "[[0.5, 0.5, 0.5, 0.5]]", done.stderr
    assert "'triton' cannot run: Triton cannot be imported" in error and "expected: auto, or reference" in error
