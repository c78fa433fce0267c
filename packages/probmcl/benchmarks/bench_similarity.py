"""Time and memory of the pairwise similarity of mixtures: this library, broadcasting and a literal loop.

    python benchmarks/bench_similarity.py                       # on the CPU; about 15 minutes
    python benchmarks/bench_similarity.py --quick               # the one comparison that matters; 3 minutes
    python benchmarks/bench_similarity.py --device-name cuda    # on a CUDA device

A job is the log cosine of every mixture of a batch with every other, forward, and the gradients of a contrastive loss
of it, backward. "Broadcasting" evaluates the formula in tensors of batch x batch x components x components x
dimensions; "loop" is two loops over mixtures with that formula inside; both differentiate by autograd. On CUDA "ours"
are the Triton kernels, and "blocks" is the CPU's algorithm. Every case runs in a separate process, and its peak is the
largest memory it held beyond what it began with (resident memory on a CPU, the allocator's on CUDA). Times are medians
of the rounds.
"""

from __future__ import annotations

import gc
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from gmr_metric.batched import pairs
from gmr_metric.torch import log_similarity_matrix
from sextet_common import figures
from sextet_common.benchmarks import into_readme, machine, store
from torch import Tensor

HERE = Path(__file__).resolve().parent

Kind = Literal["isotropic", "diagonal"]
Way = Literal["ours", "broadcasting", "loop", "blocks"]
CASE = (128, 20, 128)  # batch, components, dimensions
LARGE = (512, 80, 128)
LIMIT = 300  # seconds that a case may take


def broadcasting(log_weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """Compute the log cosines, all at once."""
    inner = _inner(log_weights, means, variances, log_weights, means, variances)
    return inner - (inner.diagonal()[:, None] + inner.diagonal()) / 2


def loop(log_weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """Compute the log cosines, pair by pair of mixtures."""
    batch = range(len(means))
    one = [(log_weights[i : i + 1], means[i : i + 1], variances[i : i + 1]) for i in batch]
    inner = torch.stack([torch.stack([_inner(*one[i], *one[j])[0, 0] for j in batch]) for i in batch])
    return inner - (inner.diagonal()[:, None] + inner.diagonal()) / 2


def products(log_weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """Compute the log cosines on a GPU in the CPU's way: blocks, matrix products where isotropic, without kernels."""
    way = pairs.Blocks(2**26 if variances.ndim == 2 else 2**24, torch.float32)
    inner = pairs.InnerProducts.apply(way, None, False, log_weights, means, variances)
    return inner - (inner.diagonal()[:, None] + inner.diagonal()) / 2


def _inner(v: Tensor, m: Tensor, p: Tensor, w: Tensor, n: Tensor, q: Tensor) -> Tensor:
    dims = m.shape[-1]
    squared = (m[:, None, :, None] - n[None, :, None, :]).square()
    if p.ndim == 2:
        total = p[:, None, :, None] + q[None, :, None, :]
        kernel = squared.sum(dim=-1) / total + dims * total.log()
    else:
        total = p[:, None, :, None] + q[None, :, None, :]
        kernel = (squared / total + total.log()).sum(dim=-1)
    exponent = v[:, None, :, None] + w[None, :, None, :] - 0.5 * (kernel + dims * math.log(2 * math.pi))
    return torch.logsumexp(exponent, dim=(2, 3))


WAYS: dict[Way, Callable[..., Tensor]] = {
    "ours": log_similarity_matrix,
    "broadcasting": broadcasting,
    "loop": loop,
    "blocks": products,
}


def measure(way: Way, kind: Kind, batch: int, components: int, dims: int, device: str, rounds: int) -> dict[str, float]:
    """Measure one case in this process: seconds forward and backward, and the peak in bytes."""
    random = torch.Generator().manual_seed(0)
    shape = (batch, components, dims) if kind == "diagonal" else (batch, components)
    tensors = (
        torch.randn(batch, components, generator=random).log_softmax(dim=1),
        torch.randn(batch, components, dims, generator=random),
        0.5 + torch.rand(shape, generator=random),
    )
    leaves = [tensor.to(device).requires_grad_() for tensor in tensors]
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)

    def step() -> tuple[float, float]:
        wait()
        began = time.perf_counter()
        loss = (WAYS[way](*leaves) / dims / 0.2).logsumexp(dim=1).mean()
        wait()
        middle = time.perf_counter()
        torch.autograd.grad(loss, leaves)
        wait()
        return middle - began, time.perf_counter() - middle

    if device == "cuda":
        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        times = [step() for _ in range(rounds)]
        peak = torch.cuda.max_memory_allocated() - before
    else:
        WAYS[way](*(tensor[:2] for tensor in leaves))  # what is loaded at the first call is not the job's memory
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        before = _status("VmRSS")
        times = [step() for _ in range(rounds)]
        peak = _status("VmHWM") - before
    forward, backward = (statistics.median(part) for part in zip(*times, strict=True))
    return {"forward": forward, "backward": backward, "peak": peak}


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def main(
    quick: bool = False,
    device_name: Literal["cpu", "cuda"] = "cpu",
    rounds: int = 5,
    one: str = "",
) -> None:
    """Run the benchmark and put its table and picture into the README.

    Parameters
    ----------
    quick
        The first comparison alone; the README is left as it is.
    device_name
        Where.
    rounds
        Times that a case is run, but for the large one and the loop, which run once.
    one
        A case as JSON, to be measured in this process and printed: how the benchmark calls itself.
    """
    if one:
        print(json.dumps(measure(**json.loads(one))))
        return
    cases = _cases(quick, device_name, rounds)
    found = []
    for case in cases:
        found.append({**case, **_apart(case)})
        print(json.dumps(found[-1]), flush=True)
    where = "similarity" if device_name == "cpu" else "similarity-cuda"
    if quick:
        return
    store(HERE, where, {"cases": found})
    _show(where, found, machine())


def _show(where: str, found: list[dict[str, Any]], device: str) -> None:
    """Put a table of the cases into the README, and draw those of a CPU."""
    lines = [
        "| covariance | B | K | D | way | forward, ms | backward, ms | peak, GiB | time of ours x |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for size in ((16, 20, 128), (64, 20, 128), CASE, LARGE):
        for kind in ("isotropic", "diagonal"):
            rows = [c for c in found if (c["batch"], c["components"], c["dims"]) == size and c["kind"] == kind]
            lines += [_line(case, found) for case in sorted(rows, key=lambda c: c["way"] != "ours")]
    command = "python benchmarks/bench_similarity.py" + (" --device-name cuda" if where.endswith("cuda") else "")
    picture = "" if where.endswith("cuda") else f"\n\n![time and memory](benchmarks/results/{where}.png)"
    into_readme(
        HERE.parent / "README.md", f"bench_{where}", "\n".join(lines) + f"\n\n`{command}` on {device}.{picture}"
    )
    if picture:
        _draw(found, HERE / "results" / f"{where}.png")


def _cases(quick: bool, device: str, rounds: int) -> list[dict[str, Any]]:
    def case(way: Way, kind: Kind, size: tuple[int, int, int], times: int) -> dict[str, Any]:
        batch, components, dims = size
        whole = {"way": way, "kind": kind, "batch": batch, "components": components, "dims": dims}
        return {**whole, "device": device, "rounds": times}

    kinds: tuple[Kind, ...] = ("isotropic", "diagonal")
    both: tuple[Way, ...] = ("ours", "broadcasting")
    cases = [case(way, kind, CASE, rounds) for kind in kinds for way in both]
    if quick:
        return cases
    small: tuple[Way, ...] = ("ours", "loop") if device == "cuda" else ("loop",)
    cases += [case(way, kind, (16, 20, 128), rounds) for kind in kinds for way in small]
    cases += [case("ours", kind, LARGE, 1 if device == "cpu" else rounds) for kind in kinds]
    if device == "cuda":
        cases += [case("blocks", kind, size, rounds) for kind in kinds for size in (CASE, LARGE)]
        return cases + [case(way, kind, (64, 20, 128), rounds) for kind in kinds for way in both]
    sizes = [(b, 20, 128) for b in (16, 32, 64, 256)] + [(64, k, 128) for k in (5, 10, 40)]
    for kind in kinds:
        for size in sizes:
            cases += [case("ours", kind, size, 3)]
            if size[0] * size[1] <= 1280 or size == (64, 40, 128):
                cases += [case("broadcasting", kind, size, 3)]
    return cases


def _apart(case: dict[str, Any]) -> dict[str, float | str | None]:
    """Measure a case in a process of its own; what does not fit into the memory says so."""
    words = [sys.executable, __file__, "--one", json.dumps(case)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10 * LIMIT, check=True)
    except subprocess.CalledProcessError as error:
        told = error.stderr.strip().splitlines()[-1:] or [f"killed by signal {-error.returncode}"]
        return {"forward": None, "backward": None, "peak": None, "failed": told[0][:200]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _line(case: dict[str, Any], found: list[dict[str, Any]]) -> str:
    same = [
        other
        for other in found
        if other["way"] == "ours" and all(other[n] == case[n] for n in ("kind", "batch", "components", "dims"))
    ]
    size = f"{case['kind']} | {case['batch']} | {case['components']} | {case['dims']} | {case['way']}"
    if case["forward"] is None:
        return f"| {size} | does not fit | | | |"
    total, ours = (x["forward"] + x["backward"] for x in (case, same[0]))
    numbers = f"{1e3 * case['forward']:.3g} | {1e3 * case['backward']:.3g} | {case['peak'] / 2**30:.2f}"
    return f"| {size} | {numbers} | {total / ours:.1f} |"


def _draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory against the batch and the components."""
    with figures.figure_file(path, (8.0, 5.6), title="log cosine of B x B mixtures of K components, D = 128") as figure:
        axes = figure.subplots(2, 2, sharex="col", sharey="row")
        for column, (name, other, fixed) in enumerate((("batch", "components", 20), ("components", "batch", 64))):
            for place, (way, kind) in enumerate(
                (w, k) for k in ("isotropic", "diagonal") for w in ("ours", "broadcasting")
            ):
                rows = sorted(
                    (c for c in found if (c["way"], c["kind"], c[other], c["dims"]) == (way, kind, fixed, 128)
                     and c["forward"] is not None),
                    key=lambda c: c[name],
                )  # fmt: skip
                x = [c[name] for c in rows]
                style = {"color": figures.COLOURS[place // 2], "marker": "o", "markersize": 3.5,
                         "linestyle": "-" if way == "ours" else "--", "label": f"{kind}, {way}"}  # fmt: skip
                axes[0, column].plot(x, [c["forward"] + c["backward"] for c in rows], **style)
                axes[1, column].plot(x, [c["peak"] / 2**30 for c in rows], **style)
            axes[1, column].set_xlabel("B, K = 20" if name == "batch" else "K, B = 64")
        for axis in axes.flat:
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
        axes[0, 0].set_ylabel("forward + backward, s")
        axes[1, 0].set_ylabel("peak memory, GiB")
        axes[1, 0].legend(frameon=False, fontsize=8, loc="center right")


if __name__ == "__main__":
    tyro.cli(main)
