"""Speed of attention maps and their loss: ours compared with plain torch, torch.compile and a copy of the memory.

    python benchmarks/bench_attention.py                            # on a CUDA device; about 15 minutes
    python benchmarks/bench_attention.py --only 8x8                 # a part of it
    OMP_NUM_THREADS=1 python benchmarks/bench_attention.py --device cpu

Each row is one activation of the papers' networks. All contestants alternate within a round (A B C, A B C, ...);
reported are medians of the rounds. "Plain" is the published implementation: abs, pow, sum, torch's normalize. The rows
of the loss compute a step's distances of ten classes from stored real means, and their gradient.

On CUDA a contestant is recorded into a CUDA graph, many calls over inputs that together exceed the cache, so that the
time is that of the device and not of the interpreter; the time of plain calls is also in the JSON file. The share of
the copy counts the bytes that the job must move: one read of the activation forward, and one more read and write
backward; a copy reads and writes. On the CPU ours is plain torch in cache-sized blocks; torch.compile takes part in the
rows of the loss where there is a C++ compiler; the time is the processor's, which other programs disturb little.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from attention_matching.matching.attention import Backend, attention_distances, attention_maps
from sextet_common import files
from sextet_common.benchmarks import into_readme
from sextet_common.device import describe
from sextet_common.errors import InputError
from torch import Tensor
from torch.nn import functional

Shape = tuple[int, int, int, int]
Maps = Callable[[Tensor, bool], tuple[Tensor, ...]]
Loss = Callable[[Tensor, tuple[Tensor, ...]], Tensor]
Work = Callable[[int], object]  # one call, on the input of this number

HERE = Path(__file__).resolve().parent
POWER = 4
CLASSES = 10
CACHE = 256 * 2**20  # bytes that no GPU's cache holds
ACTIVATIONS: dict[str, Shape] = {
    "ConvNet-3 and ResNet-18, 128 x 16x16": (640, 128, 16, 16),
    "ConvNet-3, 128 x 32x32": (640, 128, 32, 32),
    "ConvNet-3, 128 x 8x8": (640, 128, 8, 8),
    "ConvNet-4, 128 x 64x64": (640, 128, 64, 64),
    "ConvNet-5, 128 x 128x128": (160, 128, 128, 128),
    "ResNet-18, 64 x 32x32": (640, 64, 32, 32),
    "ResNet-18, 256 x 8x8": (640, 256, 8, 8),
    "ResNet-18, 512 x 4x4": (640, 512, 4, 4),
}
INNER: dict[str, tuple[int, int, int]] = {
    "ConvNet-3, 128 x 32x32": (128, 32, 32),
    "ConvNet-3, 128 x 16x16": (128, 16, 16),
}
"""The blocks whose maps are matched at CIFAR-10's size."""
SMALL: dict[str, Shape] = {
    "ConvNet-3, 128 x 32x32": (100, 128, 32, 32),
    "ConvNet-3, 128 x 16x16": (100, 128, 16, 16),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One row: the activation, and what is computed from it."""

    activation: str
    shape: Shape
    dtype: Literal["float32", "bfloat16"]
    order: Literal["channels first", "channels last"]
    maps: Literal["spatial", "both"]
    work: Literal["forward", "forward and backward", "loss and gradient"]

    @property
    def n_bytes(self) -> int:
        """Bytes that must be read and written, except the maps themselves."""
        numbers = self.shape[0] * self.shape[1] * self.shape[2] * self.shape[3]
        return numbers * getattr(torch, self.dtype).itemsize * (1 if self.work == "forward" else 3)


def jobs(activations: dict[str, Shape], dtypes: tuple[Literal["float32", "bfloat16"], ...]) -> list[Job]:
    """Return all rows."""
    return [
        Job(activation, shape, dtype, order, maps, work)
        for activation, shape in activations.items()
        for dtype in dtypes
        for order in ("channels first", "channels last")
        for maps in ("spatial", "both")
        for work in ("forward", "forward and backward")
    ]


def loss_jobs(
    ipcs: tuple[int, ...],
    dtypes: tuple[Literal["float32", "bfloat16"], ...],
    orders: tuple[Literal["channels first", "channels last"], ...] = ("channels first",),
) -> list[Job]:
    """Return the rows of the whole loss, for so many synthetic images per class."""
    return [
        Job(activation, (CLASSES * ipc, *shape), dtype, order, maps, "loss and gradient")
        for ipc in ipcs
        for activation, shape in INNER.items()
        for dtype in dtypes
        for order in orders
        for maps in ("spatial", "both")
    ]


def plain(features: Tensor, both: bool) -> tuple[Tensor, ...]:
    """Compute the maps as the published code does, in the precision of the features."""
    powers = features.abs().pow(POWER)
    spatial = functional.normalize(powers.sum(dim=1).flatten(1), dim=1)
    return (spatial, functional.normalize(powers.sum(dim=(2, 3)), dim=1)) if both else (spatial,)


def multiplied(features: Tensor, both: bool) -> tuple[Tensor, ...]:
    """Compute the maps with multiplications instead of pow."""
    squares = features * features
    powers = squares * squares
    spatial = functional.normalize(powers.sum(dim=1).flatten(1), dim=1)
    return (spatial, functional.normalize(powers.sum(dim=(2, 3)), dim=1)) if both else (spatial,)


def plain_loss(features: Tensor, real: tuple[Tensor, ...]) -> Tensor:
    """Compute the distances as the published code does."""
    maps = plain(features, len(real) > 1)
    means = [m.view(len(real[0]), -1, m.shape[1]).mean(dim=1) for m in maps]
    distances = [(a - b).square().sum(dim=1) for a, b in zip(real, means, strict=True)]
    return torch.stack(distances).sum(dim=0)


def ours(backend: Backend) -> Maps:
    """Return this package's maps, by backend."""
    return lambda features, both: tuple(
        m for m in attention_maps(features, POWER, POWER if both else None, backend) if m is not None
    )


def our_loss(backend: Backend) -> Loss:
    """Return this package's distances, by backend."""

    def loss(features: Tensor, real: tuple[Tensor, ...]) -> Tensor:
        pair = (real[0], real[1] if len(real) > 1 else None)
        powers = (POWER, POWER if len(real) > 1 else None)
        return attention_distances(features, pair, len(real[0]), *powers, backend=backend)

    return loss


def inputs(job: Job, device: str, least_bytes: int) -> list[Tensor]:
    """Draw activations after a ReLU, as many as hold ``least_bytes`` together."""
    draw = torch.Generator(device).manual_seed(0)
    order = torch.channels_last if job.order == "channels last" else torch.contiguous_format
    count = max(1, -(-least_bytes // (job.n_bytes // (1 if job.work == "forward" else 3))))
    dtype: torch.dtype = getattr(torch, job.dtype)
    drawn = [torch.randn(job.shape, generator=draw, device=device).relu_().to(dtype) for _ in range(count)]
    return [x.contiguous(memory_format=order).requires_grad_(job.work != "forward") for x in drawn]


def work(job: Job, maps: Maps, loss: Loss, features: list[Tensor]) -> Work:
    """Return one contestant's call: the maps, the maps and their gradient, or the loss and its gradient."""
    both = job.maps == "both"
    if job.work == "forward":

        def forward(number: int) -> object:
            with torch.no_grad():
                return maps(features[number % len(features)], both)

        return forward
    draw = torch.Generator(features[0].device).manual_seed(1)
    sizes = (job.shape[2] * job.shape[3], job.shape[1])[: 2 if both else 1]
    if job.work == "loss and gradient":
        real = tuple(torch.rand(CLASSES, n, generator=draw, device=features[0].device) / n**0.5 for n in sizes)

        def loss_and_gradient(number: int) -> object:
            x = features[number % len(features)]
            losses = loss(x, real)
            return losses, *torch.autograd.grad(losses.sum(), x)

        return loss_and_gradient
    with torch.no_grad():
        weights = [torch.rand_like(m) for m in maps(features[0], both)]

    def backward(number: int) -> object:
        x = features[number % len(features)]
        return torch.autograd.grad(maps(x, both), x, weights)

    return backward


def copying(features: list[Tensor]) -> Work:
    """Return the call of the baseline: a copy of one input."""
    target = torch.empty_like(features[0], requires_grad=False)
    return lambda number: target.copy_(features[number % len(features)].detach())


def gpu_contestants(job: Job, features: list[Tensor], backend: Backend, compiler: str = "inductor") -> dict[str, Work]:
    """Return the call of each contestant on a GPU."""
    torch.compiler.reset()  # otherwise the ninth job would run uncompiled
    compiled = [torch.compile(function, backend=compiler, dynamic=False) for function in (plain, plain_loss)]
    return {
        "copy": copying(features),
        "plain": work(job, plain, plain_loss, features),
        "torch.compile": work(job, *compiled, features),
        "ours": work(job, ours(backend), our_loss(backend), features),
    }


def in_turn(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Time all contestants alternately, and return the seconds of all rounds after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, timed in contestants.items():
            seconds = timed()
            if number:
                times[name].append(seconds)
    return times


def called(
    call: Work, repeats: int, synchronise: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """Return a function that measures the seconds per call of many calls from Python."""

    def timed() -> float:
        synchronise()
        began = clock()
        for number in range(repeats):
            call(number)
        synchronise()
        return (clock() - began) / repeats

    return timed


def recorded(call: Work, repeats: int, pool: Any) -> Callable[[], float]:
    """Return a function that measures the seconds per call of many calls replayed from a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiled and tuned before it is recorded
        for number in range(3):
            call(number)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        for number in range(repeats):
            call(number)

    def timed() -> float:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        graph.replay()
        ended.record()
        torch.cuda.synchronize()
        return began.elapsed_time(ended) / 1000 / repeats

    return timed


def on_gpu(job: Job, rounds: int) -> dict[str, Any]:
    """Measure one row on a GPU."""
    features = inputs(job, "cuda", CACHE)
    contestants = gpu_contestants(job, features, "triton")
    repeats = max(len(features), 4, min(50, round(8e9 / job.n_bytes)))
    pool = torch.cuda.graph_pool_handle()  # the graphs may share memory: their results are not read
    graphs = {name: recorded(call, repeats, pool) for name, call in contestants.items()}
    calls = {name: called(call, repeats, torch.cuda.synchronize) for name, call in contestants.items()}
    return {"seconds": in_turn(graphs, rounds), "seconds_called": in_turn(calls, rounds)}


def on_cpu(job: Job, rounds: int) -> dict[str, Any]:
    """Measure one row on the CPU."""
    features = inputs(job, "cpu", 0)
    calls = {
        "plain": work(job, plain, plain_loss, features),
        "ours": work(job, ours("auto"), our_loss("auto"), features),
    }
    if job.work != "loss and gradient":
        calls["multiplied"] = work(job, multiplied, plain_loss, features)
    elif shutil.which("g++"):
        torch.compiler.reset()
        calls["torch.compile"] = work(job, plain, torch.compile(plain_loss, dynamic=False), features)
    timed = {name: called(call, 1, lambda: None, time.process_time) for name, call in calls.items()}
    return {"seconds": in_turn(timed, rounds)}


def compared(row: dict[str, Any]) -> dict[str, float]:
    """Return a row's figures: our microseconds, our share of the copy's bandwidth, and our speed-ups."""
    medians = {name: statistics.median(taken) for name, taken in row["seconds"].items()}
    figures = {"microseconds": 1e6 * medians["ours"]}
    if "copy" in medians:
        copied = 2 * row["n_bytes"] / (1 if row["work"] == "forward" else 3)
        figures["copy_gb_per_s"] = copied / medians["copy"] / 1e9
        figures["share_of_copy"] = row["n_bytes"] / medians["ours"] / 1e9 / figures["copy_gb_per_s"]
    for name in ("plain", "multiplied", "torch.compile"):
        if name in medians:
            figures[f"times_{name}"] = medians[name] / medians["ours"]
    return figures


HEADS = {
    "share_of_copy": ("share of a copy's bandwidth", "{:.0%}"),
    "times_plain": ("over abs, pow, sum, normalize", "{:.1f}x"),
    "times_multiplied": ("over multiplications for pow", "{:.1f}x"),
    "times_torch.compile": ("over torch.compile", "{:.2f}x"),
}
"""Column head and format of each figure."""


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    names = [name for name in HEADS if any(name in row["figures"] for row in rows)]
    heads = ["images x activation", "numbers, in memory", "maps", "work", "ours", *(HEADS[name][0] for name in names)]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row in rows:
        taken = row["figures"]["microseconds"]
        cells = [
            f"{row['shape'][0]} x {row['activation']}",
            f"{row['dtype']}, {row['order']}",
            row["maps"],
            row["work"],
            f"{taken:.0f} us" if taken < 1000 else f"{taken / 1000:.1f} ms",
            *(HEADS[name][1].format(row["figures"][name]) if name in row["figures"] else "" for name in names),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows that miss an aim.

    Of maps: 0.7 of the copy's bandwidth, 3 times plain torch's speed, torch.compile's. Of the loss: 1.5 times
    torch.compile's.
    """
    of_maps = {"share_of_copy": 0.7, "times_plain": 3.0, "times_torch.compile": 1.0}
    return [
        f"{row['activation']}, {row['dtype']}, {row['order']}, {row['maps']}, {row['work']}: "
        f"{name.replace('_', ' ')} {row['figures'][name]:.2f}, aim {aim:g}"
        for row in rows
        for name, aim in ({"times_torch.compile": 1.5} if row["work"] == "loss and gradient" else of_maps).items()
        if name in row["figures"] and row["figures"][name] < aim
    ]


def main(
    device: Literal["cuda", "cpu"] = "cuda",
    rounds: int = 7,
    only: str = "",
    out: Path | None = None,
    readme: bool = True,
) -> None:
    """Run the benchmark.

    Parameters
    ----------
    device
        cuda, or cpu for the reference alone.
    rounds
        Rounds after one to warm up, 5 or more.
    only
        Measure the activations whose name holds this.
    out
        The JSON file; results/attention-DEVICE.json by default.
    readme
        Put the table into the README.
    """
    if rounds < 5:
        raise InputError(f"rounds is {rounds}", "5 or more, for a median")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("this machine has no CUDA device", "one, or --device cpu for the reference alone")
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16") if device == "cuda" else ("float32",)
    chosen = {n: s for n, s in (ACTIVATIONS if device == "cuda" else SMALL).items() if only in n}
    if not chosen:
        raise InputError(f"no activation's name holds {only!r}", "; ".join(ACTIVATIONS))
    rows: list[dict[str, Any]] = []
    losses = loss_jobs((1, 10, 50) if device == "cuda" else (1,), dtypes)
    for job in [*jobs(chosen, dtypes), *(job for job in losses if only in job.activation)]:
        row = {**dataclasses.asdict(job), "n_bytes": job.n_bytes}
        row |= on_gpu(job, rounds) if device == "cuda" else on_cpu(job, rounds)
        row["figures"] = compared(row)
        rows.append(row)
        print(table(rows).splitlines()[-1], flush=True)
    print(table(rows))
    if device == "cuda":
        print("\n".join(["", f"{len(missed(rows))} aims missed:", *missed(rows)]))
    report = {"machine": describe(), "threads": torch.get_num_threads(), "power": POWER, "rows": rows}
    out = out or HERE / "results" / f"attention-{device}.json"
    files.write_text(out, json.dumps(report, indent=1) + "\n")
    if readme:
        into_readme(HERE.parent / "README.md", f"bench_attention {device}", table(rows))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
