"""The Triton kernels: in the interpreter, through the compiler without a GPU, and on one where there is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")
from gmr_metric.batched import triton as torch_kernels  # noqa: E402
from gmr_metric.torch import log_inner_products, log_similarity_matrix  # noqa: E402

HERE = Path(__file__).resolve().parent


def test_everything_holds_in_the_interpreter() -> None:
    # Its own process: the interpreter must be chosen before the kernels are imported. Its arithmetic is NumPy's,
    # which warns of every overflow.
    words = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*words, str(HERE / "interpreted_torch_kernels.py")],
        cwd=HERE,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE) and "skipped" not in done.stdout


CONSTANTS = {"DIMS": 128, "DIAGONAL": True, "OWN": True, "BLOCK": 32, "ROWS": 16, "COLUMNS": 16, "WIDTH": 16}
NUMBERS = {"n_others", "K", "L", "first", "n_rows", "n_columns"}


@pytest.mark.skipif(
    tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3), reason="Triton 3.3 changed how one asks for this"
)
@pytest.mark.parametrize("name", ["inner_products", "pair_weights", "mean_gradients"])
@pytest.mark.parametrize("diagonal", [True, False])
def test_every_kernel_compiles_for_a_hopper_gpu(
    name: str, diagonal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(torch_kernels, name)
    constants = {
        (place,): {**CONSTANTS, "DIAGONAL": diagonal}[argument]
        for place, argument in enumerate(kernel.arg_names)
        if argument in CONSTANTS
    }
    types = {
        argument: "constexpr" if argument in CONSTANTS else "i32" if argument in NUMBERS else "*fp32"
        for argument in kernel.arg_names
    }
    source = ASTSource(kernel, types, constants, {})
    assembly = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "enable_fp_fusion": True}
    ).asm["ptx"]
    assert ".visible .entry" in assembly and "atom." not in assembly


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@cuda
@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("components", [1, 10, 20, 80])
def test_a_gpu_computes_what_the_cpu_does_without_waiting_and_twice_the_same(diagonal: bool, components: int) -> None:
    random = torch.Generator().manual_seed(0)
    shape = (24, components, 128) if diagonal else (24, components)
    batch = [
        torch.randn(24, components, generator=random).log_softmax(dim=1),
        0.3 * torch.randn(24, components, 128, generator=random),
        0.5 + torch.rand(shape, generator=random),
    ]
    expected, found = [], []
    for tensors, into in ((batch, expected), ([tensor.cuda() for tensor in batch], found), (None, None)):
        if tensors is None:
            tensors, into = [tensor.cuda() for tensor in batch], []
        leaves = [tensor.requires_grad_() for tensor in tensors]
        torch.cuda.set_sync_debug_mode("error" if leaves[0].is_cuda else "default")
        try:
            value = log_similarity_matrix(*leaves)
            into += [value.detach(), *torch.autograd.grad((value / 128).logsumexp(dim=1).sum(), leaves)]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for ours, again, theirs in zip(found, into, expected, strict=True):
        assert torch.equal(ours, again)
        torch.testing.assert_close(ours.cpu(), theirs, rtol=2e-3, atol=2e-5)


@cuda
def test_second_derivatives_exist_on_a_gpu_too() -> None:
    leaves = [torch.randn(3, 2).cuda(), torch.randn(3, 2, 4).cuda(), 1 + torch.rand(3, 2, 4).cuda()]
    leaves = [tensor.double().requires_grad_() for tensor in leaves]
    assert torch.autograd.gradgradcheck(lambda *t: log_inner_products(*t)[0, 1:], leaves)
