"""Time of training networks one by one compared with several at once, as evaluations train them.

    OMP_NUM_THREADS=1 python benchmarks/bench_evaluate.py                   # on this CPU
    python benchmarks/bench_evaluate.py --device-name cuda --longer 20 --out results/evaluate-cuda.json

All group sizes alternate within a round. Reported are the medians of the rounds in milliseconds per network and epoch:
of processor time on a CPU, so that other jobs do not count, and of wall-clock time elsewhere. Each row is a set of the
papers' sizes: 1 and 10 images of each of ten classes. Writes the JSON file and the README's table.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import tyro
from attention_matching import SiameseAugmentation, TrainConfig, build, train_networks
from sextet_common import device as devices, files
from sextet_common.benchmarks import into_readme

HERE = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Case:
    """One row: size of the set, number of networks and epochs."""

    name: str
    shape: tuple[int, int, int]
    images: int
    networks: int
    epochs: int


CASES = (
    Case("8x8, 10 images, ConvNet-2 of width 64", (1, 8, 8), 10, 10, 20),
    Case("8x8, 100 images, ConvNet-2 of width 64", (1, 8, 8), 100, 10, 5),
    Case("32x32, 10 images, ConvNet-3 of width 128", (3, 32, 32), 10, 5, 1),
    Case("32x32, 100 images, ConvNet-3 of width 128", (3, 32, 32), 100, 2, 1),
)
SIZES = (1, 2, 5, 10)


def measure(case: Case, together: int, device: torch.device) -> float:
    """Return milliseconds per network and epoch."""
    images = torch.randn(case.images, *case.shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(case.images) % 10
    config = TrainConfig(epochs=case.epochs, together=together, device=str(device))
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    began = clock()
    train_networks(
        lambda number: build("convnet", case.shape, 10),
        range(case.networks),
        images,
        labels,
        SiameseAugmentation(),
        config,
    )
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (clock() - began) / case.networks / case.epochs


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown: milliseconds per network and epoch, and the speed-up over one by one."""
    heads = ["one by one" if size == 1 else f"{size} at once" for size in SIZES]
    lines = ["| set | " + " | ".join(heads) + " |", "|" + " --- |" * (len(SIZES) + 1)]
    for row in rows:
        medians = row["milliseconds"]
        cells = [f"{medians[s]:.3g} ms ({medians[1] / medians[s]:.2f}x)" if s in medians else "" for s in SIZES]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    device_name: str = "auto",
    rounds: int = 5,
    longer: int = 1,
    out: Path = HERE / "results" / "evaluate.json",
    readme: bool = True,
) -> None:
    """Run the benchmark.

    Parameters
    ----------
    device_name
        auto, cpu, cuda, cuda:N or mps.
    rounds
        Rounds after one to warm up.
    longer
        Factor on the epochs: 20 on a GPU, so that fixed costs do not count.
    out
        The JSON file.
    readme
        Put the table into the README.
    """
    device = devices.pick(device_name)
    rows = []
    for base in CASES:
        case = dataclasses.replace(base, epochs=longer * base.epochs)
        sizes = [size for size in SIZES if size <= case.networks]
        times: dict[int, list[float]] = {size: [] for size in sizes}
        for number in range(rounds + 1):
            for size in sizes:
                taken = measure(case, size, device)
                if number:
                    times[size].append(taken)
        medians = {size: statistics.median(taken) for size, taken in times.items()}
        rows.append({**dataclasses.asdict(case), "milliseconds": medians, "rounds": times})
        print(table(rows).splitlines()[-1], flush=True)
    report = {"machine": devices.describe(), "device": str(device), "threads": torch.get_num_threads(), "rows": rows}
    files.write_text(out, json.dumps(report, indent=2) + "\n")
    if readme:
        into_readme(HERE.parent / "README.md", f"bench_evaluate {device.type}", table(rows))


if __name__ == "__main__":
    tyro.cli(main)
