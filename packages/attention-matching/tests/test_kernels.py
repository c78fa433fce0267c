"""The Triton kernels: in the interpreter, through the compiler without a GPU, and on one where there is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attention_matching.matching.attention import attention_distances, attention_maps, attention_means

triton = pytest.importorskip("triton")
from attention_matching.matching import distance_kernels, kernels  # noqa: E402

HERE = Path(__file__).resolve().parent


def test_everything_holds_in_the_interpreter() -> None:
    # Its own process: the interpreter must be chosen before the kernels are imported. Its arithmetic is NumPy's,
    # which warns of every overflow.
    words = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*words, *(str(HERE / f"interpreted_{name}.py") for name in ("kernels", "distances"))],
        cwd=HERE,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE) and "skipped" not in done.stdout


NUMBERS = {"n_rows", "n_columns", "n_chunks", "n_tiles", "n_images", "size", "map_tiles"}
ALIGNED = {"n_rows", "n_columns", "size", "stride_image", "stride_row", "result_stride_image", "result_stride_row"}
POWERS = {"COLUMN_POWER": 4, "ROW_POWER": 4}
PARTS = {**POWERS, "stride_column": 1, "CHUNK": 128, "BLOCK": 16, "TILE": 256}
SLOPES = {"stride_column": 1, "result_stride_column": 1, "TILE": 256, "PARTS": 4, "ENTRIES": 4096}
# Compile-time constants, and how many of the largest tensor's numbers a program loads at once.
KERNELS: dict[str, tuple[dict[str, int], int]] = {
    "sum_parts": ({**PARTS, "WHOLE": False, "AHEAD": 1}, 4096),
    "sum_parts whole": ({**PARTS, "WHOLE": True, "AHEAD": 3}, 4096),
    "finish_maps": (PARTS, 4096),
    "finish_and_compare": ({**PARTS, "MAP_TILE": 1024}, 4096),
    "mean_maps": ({"IMAGES": 64, "TILE": 64}, 4096),
    "compare_maps": ({**POWERS, "IMAGES": 16, "TILE": 256}, 4096),
    "multiply_maps": ({**POWERS, "IMAGES": 16, "TILE": 256}, 4096),
    "feature_gradients": ({**POWERS, **SLOPES}, 4096),
}


@pytest.mark.skipif(
    tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3), reason="Triton 3.3 changed how one asks for this"
)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "fp32") for name in KERNELS), *((name, "bf16") for name in ("sum_parts", "feature_gradients"))],
)
def test_every_kernel_compiles_for_a_hopper_gpu_and_moves_sixteen_bytes_at_a_time(
    name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module = kernels if hasattr(kernels, name.split()[0]) else distance_kernels
    kernel = getattr(module, name.split()[0])
    kernel = getattr(kernel, "fn", kernel) if "parts" in name or "feature" in name else kernel
    constants, held = KERNELS[name]
    types, aligned = {}, {}
    for place, argument in enumerate(kernel.arg_names):
        number = argument in NUMBERS or "stride" in argument
        types[argument] = "i32" if number else f"*{dtype}" if argument in ("f", "result") else "*fp32"
        types[argument] = "fp32" if "weight" in argument else types[argument]
        if argument in constants:
            types[argument] = "constexpr"
        elif (
            types[argument].startswith("*") or argument in ALIGNED
        ):  # as for 128 channels at 32 x 32 positions, in either order
            aligned[place,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, types, {(kernel.arg_names.index(n),): v for n, v in constants.items()}, aligned)
    options = {"num_warps": 4, "num_stages": constants.get("AHEAD", 2), "enable_fp_fusion": True}
    assembly = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    wide = re.findall(r"ld\.global\S*v4\.b32|cp\.async\.cg\.shared\.global.*0x10", assembly)
    width = 2 if dtype == "bf16" and "f" in kernel.arg_names else 4
    assert len(wide) >= held * width / (128 * 16)
    assert not re.search(r"\b(atom|red)\.", assembly)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"]
)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (6, 3, 5, 7), (4, 130, 17, 19), (20, 128, 32, 32), (6, 512, 4, 4)], ids=str
)
def test_on_a_gpu_the_kernels_are_the_reference(shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> None:
    features = draw(*shape).to("cuda", dtype)
    features[0] *= 2.0**-10 if dtype == torch.float16 else 2.0**-60  # whose powers leave float32's range
    features = features.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    n_classes = 2 if shape[0] > 1 else 1
    for powers in ((4, None), (None, 4), (4, 4), (1, 3)):
        ours, exact = features.detach().requires_grad_(), features.detach().double().requires_grad_()
        both = []
        for x in (ours, exact):
            maps = [m for m in (*attention_maps(x, *powers), *attention_means(x, n_classes, *powers)) if m is not None]
            sum((m * draw(*m.shape).to(m)).sum() for m in maps).backward()
            both.append(maps)
        for found, expected in zip(*both, strict=True):
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
        assert ours.grad is not None and exact.grad is not None
        digits = torch.finfo(dtype).eps
        for image, gradient, expected in zip(exact.detach(), ours.grad.double(), exact.grad, strict=True):
            cancelled = max(p or 0 for p in powers) / float(image.abs().max())
            atol = max(digits * float(expected.abs().max()), 2e-6 * cancelled)
            torch.testing.assert_close(gradient, expected, rtol=digits, atol=atol)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"]
)
@pytest.mark.parametrize(
    ("shape", "n_classes"),
    [((1, 1, 1, 1), 1), ((6, 3, 5, 7), 2), ((2, 130, 65, 64), 2), ((20, 128, 32, 32), 2), ((10, 128, 16, 16), 10)],
    ids=str,
)
def test_on_a_gpu_the_distances_are_the_reference(
    shape: tuple[int, ...], n_classes: int, dtype: torch.dtype, last: bool
) -> None:
    features = draw(*shape).to("cuda", dtype)
    features[0] *= 2.0**-10 if dtype == torch.float16 else 2.0**-60  # whose powers leave float32's range
    features = features.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    others = (draw(*shape) + 1).cuda()
    for powers in ((4, None), (None, 4), (4, 4), (1, 3)):
        real = attention_means(others, n_classes, *powers)
        both = []
        for x in (features.detach().requires_grad_(), features.detach().double().requires_grad_()):
            distances = attention_distances(x, real, n_classes, *powers, (100.0, 0.5))
            upstream = torch.linspace(0.5, 2, n_classes).to(distances)
            both.append((distances.detach(), torch.autograd.grad(distances, x, upstream)[0]))
        (ours, gradients), (exact, expected) = both
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)
        digits = torch.finfo(dtype).eps
        for image, gradient, right in zip(features.double(), gradients.double(), expected, strict=True):
            cancelled = 100 * max(p or 0 for p in powers) / float(image.abs().max())
            atol = max(digits * float(right.abs().max()), 2e-6 * cancelled)
            torch.testing.assert_close(gradient, right, rtol=digits, atol=atol)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_two_runs_give_the_same_bits_and_a_graph_can_hold_them() -> None:
    features = draw(20, 128, 32, 32).cuda().requires_grad_()
    real = {n: attention_means((draw(20, 128, 32, 32) + 1).cuda(), n) for n in (2, 20)}

    def run() -> list[torch.Tensor]:
        spatial, channel = attention_means(features, 2)
        assert spatial is not None and channel is not None
        (gradient,) = torch.autograd.grad(spatial[:, 0].sum() + channel[:, 0].sum(), features)
        results = [spatial.detach(), channel.detach(), gradient]
        for n_classes in (2, 20):  # several images of a class, and one
            distances = attention_distances(features, real[n_classes], n_classes)
            results += [distances.detach(), *torch.autograd.grad(distances.sum(), features)]
        return results

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        first = run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = run()
    graph.replay()
    torch.cuda.synchronize()
    for others in (run(), recorded):
        assert all(torch.equal(a, b) for a, b in zip(first, others, strict=True))
