"""How good a distilled generator is on digits: against real images, itself before distillation, and ATOM.

Run it: ``python benchmarks/bench_digits.py``; about 20 minutes on one core. A part that is done is not run again while
its folder in runs/ is there.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import tyro
from attention_matching import DistillConfig, DistilledSet, Distiller, EvaluateConfig, evaluate, random_real
from attention_matching.networks import Architecture
from d2m_generator import (
    D2M,
    ConditionalGAN,
    D2MConfig,
    Judge,
    MatchingLoss,
    PretrainConfig,
    load_generator,
    pretrain,
    synthesize,
)
from measure import into_readme, machine, store
from sextet_common.data import ImageSet, load

IPC = (1, 10, 50)
CROSS: tuple[Architecture, ...] = ("convnet", "resnet18", "vgg11", "vit")
METHODS = ("random real", "generator before", "D2M", "ATOM")
EPOCHS = {1: 150, 10: 150, 50: 60}
CROSS_EPOCHS = 60
CONFIG = D2MConfig(steps=800, loss=MatchingLoss(maps="both"))


def sets(
    data: ImageSet, seed: int, work: Path
) -> tuple[dict[str, dict[int, DistilledSet]], dict[str, float], list[str]]:
    """Make one seed's sets of every method and size, and say how long they took and how good the generators are."""
    seconds: dict[str, float] = {}

    def timed(name: str, job: Any) -> Any:
        mark = work / f"{name}.seconds"
        began = time.perf_counter()
        result = job()
        if not mark.exists():
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(str(time.perf_counter() - began))
        seconds[name] = float(mark.read_text())
        return result

    gan = ConditionalGAN(10, data.image_shape, width=16, seed=seed)
    timed("pretrain", lambda: pretrain(gan, data, PretrainConfig(steps=800, seed=seed), work / "gan"))
    before = load_generator(work / "gan")
    distilled = load_generator(work / "gan")
    timed("D2M", lambda: D2M(dataclasses.replace(CONFIG, seed=seed)).fit(distilled, data, work / "d2m"))
    judge = Judge(data, path=work / "judge.safetensors")
    quality = [str(judge(generator)) for generator in (before, distilled)]
    found: dict[str, dict[int, DistilledSet]] = {name: {} for name in METHODS}
    for ipc in IPC:
        found["random real"][ipc] = random_real(data, ipc, seed)
        found["generator before"][ipc] = synthesize(before, ipc, seed, data=data)
        found["D2M"][ipc] = timed(f"sample {ipc}", lambda ipc=ipc: synthesize(distilled, ipc, seed, data=data))
        config = DistillConfig(method="atom", ipc=ipc, seed=seed)
        found["ATOM"][ipc] = timed(
            f"ATOM {ipc}", lambda ipc=ipc, config=config: Distiller(config).fit(data, work / f"atom-{ipc}")
        )
    return found, seconds, quality


def main(seeds: int = 3, networks: int = 2, cross_ipc: int = 10, work: Path = Path("runs/bench_digits")) -> None:
    """Measure.

    Parameters
    ----------
    seeds
        Generators, distillations and choices of images.
    networks
        Fresh networks for every set.
    cross_ipc
        Images per class of the comparison of architectures, on the first seed.
    work
        Where the run folders go.
    """
    torch.set_num_threads(1)  # networks this small gain nothing by a second one
    data = load("digits")
    accuracies: dict[str, dict[str, list[float]]] = {name: {str(ipc): [] for ipc in IPC} for name in METHODS}
    cross: dict[str, dict[str, list[float]]] = {name: {} for name in METHODS}
    times, qualities = [], []
    for seed in range(seeds):
        place = work / f"seed-{seed}"
        found, seconds, quality = sets(data, seed, place)
        times.append(seconds)
        qualities.append(quality)
        for name, each in found.items():
            for ipc, images in each.items():
                config = EvaluateConfig(networks=networks, epochs=EPOCHS[ipc], seed=seed)
                out = place / f"evaluate {name} {ipc}"
                accuracies[name][str(ipc)] += evaluate(images, data, config, out).accuracies
            if not seed:
                for architecture in CROSS:
                    chosen = EvaluateConfig(networks=1, epochs=CROSS_EPOCHS, architecture=architecture)
                    out = place / f"cross {name} {architecture}"
                    cross[name][architecture] = list(evaluate(each[cross_ipc], data, chosen, out).accuracies)
        print(f"seed {seed}: {quality[0]} | {quality[1]}", flush=True)
    report = {"accuracies": accuracies, "cross": cross, "cross_ipc": cross_ipc, "seconds": times, "quality": qualities}
    store("digits", report)
    write(report)


def write(report: dict[str, Any]) -> None:
    """Put the tables into the README."""
    lines = ["| images per class | " + " | ".join(METHODS) + " |", "|---" * 5 + "|"]
    lines += [f"| {n} | " + " | ".join(told(report["accuracies"][m][str(n)]) for m in METHODS) + " |" for n in IPC]
    lines += [
        "",
        f"Other networks on {report['cross_ipc']} images per class, {CROSS_EPOCHS} epochs, one network, first seed:",
        "",
    ]
    lines += ["| network | " + " | ".join(METHODS) + " |", "|---" * 5 + "|"]
    lines += [
        f"| {a} | " + " | ".join(f"{100 * report['cross'][m][a][0]:.1f} %" for m in METHODS) + " |" for a in CROSS
    ]
    seconds = {name: statistics.median(each[name] for each in report["seconds"]) for name in report["seconds"][0]}
    ratio = seconds["ATOM 50"] / seconds["sample 50"]
    lines += ["", "| job | median seconds |", "|---|---|"]
    lines += [f"| {name} | {value:.3g} |" for name, value in seconds.items()]
    lines += ["", f"From 10 to 50 images per class: sampling takes {1000 * seconds['sample 50']:.0f} ms, a new "
              f"distillation by ATOM {seconds['ATOM 50']:.0f} s, {ratio:.0f} times as long.", ""]  # fmt: skip
    before, after = report["quality"][0]
    lines += [f"First seed's generator before: {before}; after: {after}.", ""]
    lines += [f"`python benchmarks/bench_digits.py`, one thread, on {machine()}."]
    into_readme("bench_digits", "\n".join(lines))


def told(accuracies: list[float]) -> str:
    """Return mean and standard deviation in per cent."""
    shares = [100 * value for value in accuracies]
    return f"{statistics.mean(shares):.1f} ± {statistics.stdev(shares) if len(shares) > 1 else 0:.1f} %"


if __name__ == "__main__":
    tyro.cli(main)
