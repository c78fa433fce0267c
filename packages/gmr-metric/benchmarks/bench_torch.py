"""The log cosines of batches of mixtures in PyTorch, compared with the formula broadcast in PyTorch, on one core.

``python benchmarks/bench_torch.py`` prints a table and writes results/torch.json. A job is the log cosine of every
mixture of a batch with every other, and the gradients of a contrastive loss of it. "Plain" evaluates the formula in
tensors of batch x batch x components x components x dims, differentiated by autograd. Times are processor time: medians
of runs in turn (ours, plain, ours, ...). Errors are of the log cosine in nats, and of the gradients relative to their
largest entry of all, against the plain formula in float64.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from gmr_metric.batched import pairs
from gmr_metric.batched.batch import Batch
from gmr_metric.torch import log_similarity_matrix
from measure import one_core
from sextet_common.benchmarks import store
from torch import Tensor

HERE = Path(__file__).resolve().parent
SHAPES = [
    *[(2, 1, 2), (8, 3, 2), (8, 3, 16), (32, 1, 64), (32, 3, 8), (4, 40, 4), (2, 100, 3), (128, 1, 16)],
    *[(32, 10, 2), (128, 3, 2), (32, 10, 16), (64, 5, 32), (16, 20, 32), (128, 10, 1), (32, 5, 128)],
]
Step = Callable[[], object]


def plain(log_weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """Return the log cosines, all at once."""
    dims = means.shape[-1]
    squared = (means[:, None, :, None] - means[None, :, None, :]).square()
    total = variances[:, None, :, None] + variances[None, :, None, :]
    if variances.ndim == 2:
        kernel = squared.sum(dim=-1) / total + dims * total.log()
    else:
        kernel = (squared / total + total.log()).sum(dim=-1)
    weight = log_weights[:, None, :, None] + log_weights[None, :, None, :]
    inner = torch.logsumexp(weight - 0.5 * (kernel + dims * math.log(2 * math.pi)), dim=(2, 3))
    return inner - (inner.diagonal()[:, None] + inner.diagonal()) / 2


def draw(batch: int, components: int, dims: int, kind: str) -> Batch:
    """Return random mixtures that need gradients."""
    random = torch.Generator().manual_seed(0)
    shape = (batch, components, dims) if kind == "diagonal" else (batch, components)
    return Batch(
        torch.randn(batch, components, generator=random).log_softmax(dim=1).requires_grad_(),
        torch.randn(batch, components, dims, generator=random).requires_grad_(),
        (0.5 + torch.rand(shape, generator=random)).requires_grad_(),
    )


def both(function: Callable[..., Tensor], tensors: Batch) -> list[Tensor]:
    """Return the log cosines and the gradients of a contrastive loss of them."""
    value = function(*tensors)
    return [
        value.detach(),
        *torch.autograd.grad((value / tensors.means.shape[2] / 0.2).logsumexp(dim=1).mean(), tensors),
    ]


def processor_times(contestants: dict[str, Step], rounds: int) -> dict[str, float]:
    """Run all in turn, after one warm-up, each long enough to be timed; return median seconds of processor time."""
    repeats: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, work in contestants.items():
            start = time.process_time()
            for _ in range(repeats.get(name, 3)):
                work()
            each = (time.process_time() - start) / repeats.get(name, 3)
            if number:
                times[name].append(each)
            else:
                repeats[name] = max(1, min(50, int(0.006 / each)))
    return {name: statistics.median(taken) for name, taken in times.items()}


def measure(kind: str, shape: tuple[int, int, int], rounds: int) -> dict[str, object]:
    """Measure one job."""
    tensors = draw(*shape, kind)
    functions = {"ours": log_similarity_matrix, "plain": plain}

    def forward(function: Callable[..., Tensor]) -> Tensor:
        with torch.no_grad():
            return function(*tensors)

    ahead = processor_times({n: lambda f=f: forward(f) for n, f in functions.items()}, rounds)
    whole = processor_times({n: lambda f=f: both(f, tensors) for n, f in functions.items()}, rounds)
    wide = Batch(*(tensor.detach().double().requires_grad_() for tensor in tensors))
    exact = both(plain, wide)
    errors = {}
    for name, function in functions.items():
        value, *gradients = both(function, tensors)
        largest = max(float(e.abs().max()) for e in exact[1:])
        worst = max(float((g - e).abs().max()) for g, e in zip(gradients, exact[1:], strict=True)) / largest
        errors[name] = [float((value - exact[0]).abs().max()), worst]
    way = pairs._way(tensors, tensors, None)
    name = type(way).__name__.lower() if way is not None else "general"
    if isinstance(way, pairs.Blocks) and way.products is not None:
        name += f", products in {str(way.products).removeprefix('torch.')}"
    return {"kind": kind, "shape": shape, "way": name, "forward": ahead, "both": whole, "errors": errors}


def main() -> None:
    """Measure, print and store."""
    one_core()
    torch.set_num_threads(1)
    rounds = int(os.environ.get("ROUNDS", "25"))
    print(
        "| covariance | B | K | d | way | ours, ms: forward, with backward | plain / ours | errors of ours | of plain |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    jobs = []
    for kind in ("isotropic", "diagonal"):
        for shape in SHAPES:
            job = measure(kind, shape, rounds)
            jobs.append(job)
            size = " | ".join(map(str, shape))
            ours = [1e3 * job[part]["ours"] for part in ("forward", "both")]
            ratios = [job[part]["plain"] / job[part]["ours"] for part in ("forward", "both")]
            errors = [f"{a:.1e}, {b:.1e}" for a, b in (job["errors"]["ours"], job["errors"]["plain"])]
            times = f"{ours[0]:.3g}, {ours[1]:.3g} | {ratios[0]:.2f}, {ratios[1]:.2f}"
            print(f"| {kind} | {size} | {job['way']} | {times} | {errors[0]} | {errors[1]} |", flush=True)
    store(HERE, "torch", {"jobs": jobs})


if __name__ == "__main__":
    main()
