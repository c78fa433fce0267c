"""The Triton kernels in Triton's interpreter, on the CPU; `test_kernels` runs this file in a process of its own.

The interpreter takes the place of the compiler when the kernels are imported, so the variable TRITON_INTERPRET=1
must be set before: ``TRITON_INTERPRET=1 pytest tests/interpreted_kernels.py``.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_matching.matching import fused
from attention_matching.matching.attention import attention_maps, attention_means
from sextet_common.errors import InputError

pytest.importorskip("triton")
from attention_matching.matching import kernels

if not kernels.INTERPRETED:  # as pytest finds this file when it looks for doctests
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)

Powers = tuple[int | None, int | None]

# With 4096 entries at once: one entry, rows or columns alone, fewer than a block, several tiles and several chunks.
SHAPES = [(1, 1, 1, 1), (3, 1, 7, 7), (2, 5, 1, 9), (2, 33, 1, 1), (2, 3, 4, 5), (1, 300, 4, 4), (1, 130, 17, 17)]
POWERS: list[Powers] = [(4, None), (None, 4), (4, 4), (1, 2), (3, None), (None, 6), (2, 1)]


@pytest.fixture(autouse=True)
def unwritten_is_nan() -> Iterator[None]:
    """Fill all new memory with NaN, so that a cell that no kernel writes is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def layouts(features: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "contiguous": features.contiguous(),
        "channels last": features.contiguous(memory_format=torch.channels_last),
        "some channels": torch.cat([features, features + 1], 1)[:, : features.shape[1]],
        "every other column": torch.stack([features, features + 1], -1).flatten(3)[..., ::2],
        "transposed": features.transpose(2, 3).contiguous().transpose(2, 3),
        "expanded": features[:1].expand_as(features),
    }


def compare(features: torch.Tensor, powers: Powers, classes: int | None = None) -> None:
    """Hold the kernels' maps and gradients against the reference's in float64."""
    ours, exact = features.detach().requires_grad_(), features.detach().double().requires_grad_()
    both = []
    for x, backend in ((ours, "triton"), (exact, "reference")):
        maps = attention_maps(x, *powers, backend) if classes is None else attention_means(x, classes, *powers, backend)
        computed = torch.cat([m for m in maps if m is not None], dim=1)
        (computed * draw(*computed.shape, seed=1)).sum().backward()
        both.append(computed.detach())
    assert both[0].dtype == torch.float32
    torch.testing.assert_close(both[0].double(), both[1], rtol=1e-6, atol=1e-6)
    assert ours.grad is not None and exact.grad is not None
    assert ours.grad.dtype == features.dtype
    digits = torch.finfo(features.dtype).eps  # the gradient is rounded to the features' type
    for image, gradient, expected in zip(exact.detach(), ours.grad.double(), exact.grad, strict=True):
        # The part of the gradient along the map cancels: of a single entry nothing is left but its rounding.
        cancelled = max(p or 0 for p in powers) / float(image.abs().max())
        atol = max(digits * float(expected.abs().max()), 4e-7 * cancelled)  # a few units in float32's last place
        torch.testing.assert_close(gradient, expected, rtol=digits, atol=atol)


@pytest.mark.parametrize(
    ("shape", "powers", "last"),
    [(s, p, last) for (s, p), last in itertools.product(zip(SHAPES, POWERS, strict=True), (False, True))],
)
def test_maps_and_gradients_are_the_references(shape: tuple[int, ...], powers: Powers, last: bool) -> None:
    compare(layouts(draw(*shape))["channels last" if last else "contiguous"], powers)


@pytest.mark.parametrize("layout", ["some channels", "every other column", "transposed", "expanded"])
def test_any_order_in_memory_is_read_right(layout: str) -> None:
    compare(layouts(draw(2, 5, 3, 7))[layout], (4, 2))


def test_only_positions_that_lie_apart_are_copied() -> None:
    features = layouts(draw(2, 5, 3, 7))
    copied = {name for name, x in features.items() if fused._Matrices.of(x) is None}
    assert copied == {"transposed"}


@pytest.mark.parametrize(
    ("power", "last"), [(1, False), (2, True), (3, False), (4, True), (5, False), (6, True), (32, False)]
)
def test_every_power_is_right_for_both_maps(power: int, last: bool) -> None:
    features = layouts(draw(2, 3, 2, 3))["channels last" if last else "contiguous"]
    compare(features, (power, power))


@pytest.mark.parametrize(("dtype", "last"), [(torch.float16, False), (torch.bfloat16, True)])
def test_half_precision_is_summed_in_single(dtype: torch.dtype, last: bool) -> None:
    features = layouts(8 * draw(2, 5, 3, 7))["channels last" if last else "contiguous"]  # 32^4 is beyond float16
    compare(features.to(dtype), (4, 2))


@pytest.mark.parametrize(("shape", "classes"), [((6, 3, 2, 4), 2), ((3, 2, 1, 5), 1)])
def test_means_over_classes_and_their_gradients_are_the_references(shape: tuple[int, ...], classes: int) -> None:
    compare(draw(*shape), (4, 3), classes)


def test_means_over_more_images_and_entries_than_a_block_holds_are_torchs() -> None:
    units = draw(2 * 70, 70)
    torch.testing.assert_close(fused._means(units, 70), units.view(2, 70, 70).mean(dim=1))


def loops(features: np.ndarray, weights: np.ndarray, p: int, q: int) -> float:
    """A weighted sum of both maps, from their definition."""
    total = 0.0
    for image, row in zip(features, weights, strict=True):
        spatial = [sum(abs(x) ** p for x in image[:, h, w]) for h, w in np.ndindex(image.shape[1:])]
        channel = [sum(abs(x) ** q for x in plane.flat) for plane in image]
        entries = [a / math.hypot(*spatial) for a in spatial] + [a / math.hypot(*channel) for a in channel]
        total += float(np.dot(entries, row))
    return total


@pytest.mark.parametrize(("p", "q"), [(1, 1), (2, 3), (4, 4), (6, 1)])
def test_gradients_are_central_differences_of_the_definition(p: int, q: int) -> None:
    features, weights = draw(2, 2, 2, 3), draw(2, 8, seed=1).double()
    x = features.clone().requires_grad_()
    maps = torch.cat([m for m in attention_maps(x, p, q, "triton") if m is not None], dim=1)
    (maps * weights).sum().backward()
    exact, step = features.double().numpy(), 1e-6
    differences = np.zeros_like(exact)
    for place in np.ndindex(exact.shape):
        up, down = exact.copy(), exact.copy()
        up[place] += step
        down[place] -= step
        differences[place] = (loops(up, weights.numpy(), p, q) - loops(down, weights.numpy(), p, q)) / (2 * step)
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.double().numpy(), differences, rtol=0, atol=2e-6 * np.abs(differences).max())


@pytest.mark.parametrize(("power", "last"), [(1, False), (1, True), (3, True), (4, False)])
def test_dead_images_have_zeros_and_entries_of_zero_no_slope(power: int, last: bool) -> None:
    features = torch.relu(draw(3, 5, 3, 4))
    features[1] = 0
    x = layouts(features)["channels last" if last else "contiguous"].requires_grad_()
    maps = attention_maps(x, power, power, "triton")
    sum((m * draw(*m.shape, seed=1)).sum() for m in maps if m is not None).backward()
    assert all(m is not None and not m[1].any() and m.isfinite().all() for m in maps)
    assert x.grad is not None and x.grad.isfinite().all()
    assert not x.grad[x.detach() == 0].any() and x.grad[0].any()


@pytest.mark.parametrize(
    ("scale", "shape"),
    [(2.0**-96, (2, 5, 3, 4)), (2.0**-40, (1, 20, 15, 20)), (2.0**33, (2, 5, 3, 4)), (2.0**100, (1, 20, 15, 20))],
)
def test_the_maps_have_the_same_bits_at_any_scale_and_gradients_the_inverse_scale(
    scale: float, shape: tuple[int, ...]
) -> None:
    features = draw(*shape)
    scaled, plain = (features * scale).requires_grad_(), features.clone().requires_grad_()
    for x in (scaled, plain):
        maps = torch.cat([m for m in attention_maps(x, 4, 6, "triton") if m is not None], dim=1)
        (maps * draw(*maps.shape, seed=1)).sum().backward()
        x.maps = maps.detach()  # type: ignore[attr-defined]
    assert torch.equal(scaled.maps, plain.maps)  # type: ignore[attr-defined]
    assert scaled.grad is not None and plain.grad is not None
    # The smallest gradients of huge features are below float32's smallest number.
    torch.testing.assert_close(scaled.grad * scale, plain.grad, rtol=1e-6, atol=1e-6 * float(plain.grad.abs().max()))


def test_the_scale_of_one_image_is_no_matter_of_the_others() -> None:
    features = draw(3, 5, 3, 4)
    features[0] *= 1e20
    features[1] *= 1e-20
    compare(features, (4, 4))


def test_what_is_not_finite_spoils_its_own_image_alone() -> None:
    for value in (math.nan, math.inf):
        features = draw(2, 3, 2, 4)
        features[0, 0, 0, 0] = value
        for maps in attention_maps(features, 4, 4, "triton"):
            assert maps is not None and maps[0].isnan().any() and maps[1].isfinite().all()


def test_a_second_backward_finds_everything_as_it_was() -> None:
    features = draw(2, 3, 4, 5)
    x = features.clone().requires_grad_()
    spatial, channel = attention_maps(x, 4, 4, "triton")
    assert spatial is not None and channel is not None
    total = (spatial[:, 0] + channel[:, 0]).sum()
    (first,) = torch.autograd.grad(total, x, retain_graph=True)
    before = first.clone()
    (second,) = torch.autograd.grad(total, x, retain_graph=True)
    assert torch.equal(first, before) and torch.equal(first, second) and torch.equal(x.detach(), features)


def test_a_gradients_gradient_is_refused_instead_of_left_out() -> None:
    x = draw(1, 2, 2, 2).requires_grad_()
    spatial, _ = attention_maps(x, 4, None, "triton")
    assert spatial is not None
    with pytest.raises(InputError, match="differentiable only once; expected: backend 'reference'"):
        torch.autograd.grad(spatial[:, 0].sum(), x, create_graph=True)


def test_without_gradients_nothing_is_kept() -> None:
    with torch.no_grad():
        spatial, _ = attention_maps(draw(1, 2, 2, 2), 4, None, "triton")
    assert spatial is not None and spatial.grad_fn is None


def test_torch_compile_leaves_the_kernels_alone() -> None:
    features = draw(4, 3, 2, 4)
    compiled = torch.compile(lambda x: attention_means(x + 1, 2, backend="triton")[0] * 2, backend="eager")
    traced, plain = features.clone().requires_grad_(), features.clone().requires_grad_()
    expected = attention_means(plain + 1, 2, backend="reference")[0]
    assert expected is not None
    for means in (compiled(traced), expected * 2):
        means[:, 0].sum().backward()
    torch.testing.assert_close(traced.grad, plain.grad)


def test_the_benchmarks_contestants_for_a_gpu_compute_the_same_and_its_figures_are_those_of_the_medians(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = Path(__file__).parents[1] / "benchmarks" / "bench_attention.py"
    if not path.exists():
        pytest.skip("the benchmarks are not part of the source distribution")
    spec = importlib.util.spec_from_file_location("bench_attention", path)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_attention", bench)
    spec.loader.exec_module(bench)
    rows = []
    every = bench.jobs({"tiny": (1, 2, 2, 2)}, ("float32", "bfloat16"))
    monkeypatch.setattr(bench, "INNER", {"tiny": (2, 2, 2)})
    monkeypatch.setattr(bench, "CLASSES", 1)
    losses = bench.loss_jobs((1,), ("float32", "bfloat16"))
    assert len(set(every)) == 16 and len(set(losses)) == 4
    for job in [*every[2:4], *every[4:6], *every[-2:], *losses[1:3]]:  # each dtype, order, kind of maps and work
        features = bench.inputs(job, "cpu", 0)
        contestants = bench.gpu_contestants(job, features, "triton", compiler="eager")
        results = {name: call(0) for name, call in contestants.items()}
        assert torch.equal(results.pop("copy"), features[0])
        digits = 1e-5 if job.dtype == "float32" else 0.05  # plain sums bfloat16 in bfloat16
        if job.work != "forward and backward":  # whose weights are drawn anew
            for name in ("plain", "torch.compile"):
                for computed, expected in zip(results[name], results["ours"], strict=True):
                    torch.testing.assert_close(computed.float(), expected.float(), rtol=digits, atol=digits)
        seconds = {name: [0.5, 0.25, 1.0] for name in contestants}
        seconds["ours"] = [0.125, 0.125, 8.0]
        row = {**vars(job), "n_bytes": job.n_bytes, "seconds": seconds}
        figures = row["figures"] = bench.compared(row)
        moved = 8 * (4 if job.dtype == "float32" else 2)
        assert figures["copy_gb_per_s"] == pytest.approx(2 * moved / statistics.median([0.5, 0.25, 1.0]) / 1e9)
        assert figures["times_plain"] == figures["times_torch.compile"] == 4
        assert figures["share_of_copy"] == (2 if job.work == "forward" else 6)  # of 2 bytes in 4 times as long
        rows.append(row)
    assert len(bench.table(rows).splitlines()) == 2 + 8 and not bench.missed(rows)
    rows[0]["figures"]["times_plain"] = 2.5
    assert bench.missed(rows) == ["tiny, float32, channels first, both, forward: times plain 2.50, aim 3"]
    times = bench.in_turn({"a": iter(range(9)).__next__, "b": iter(range(9)).__next__}, rounds=5)
    assert times == {"a": [1, 2, 3, 4, 5], "b": [1, 2, 3, 4, 5]}
    assert bench.called(lambda number: None, 3, lambda: None)() >= 0
