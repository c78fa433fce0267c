"""Accuracy from a distilled generator and from latents, compared with real images, the generator before, and ATOM.

Run it: ``python benchmarks/bench_accuracy.py``; about 20 minutes on one core for a seed. With
``--data npz-jpeg:FOLDER --plan cifar --seeds 1`` about 12 minutes. Finished parts are not repeated while their folders
in runs/ exist.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
from attention_matching import (
    Architecture,
    DistillConfig,
    DistilledSet,
    Distiller,
    EvaluateConfig,
    evaluate,
    random_real,
)
from d2m_generator import (
    D2M,
    ConditionalGAN,
    D2MConfig,
    Judge,
    LatentConfig,
    LatentDistiller,
    MatchingLoss,
    PoolConfig,
    PretrainConfig,
    load_generator,
    pretrain,
    synthesize,
)
from sextet_common.benchmarks import into_readme, machine, store
from sextet_common.data import ImageSet, load

HERE = Path(__file__).resolve().parent

IPC = (1, 10, 50)
CROSS_IPC = 10
METHODS = ("random real", "inverted real", "generator before", "D2M", "LatentSet", "ATOM")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Settings of the benchmark for one data set."""

    width: int
    """Width of the generator."""
    pretrain: PretrainConfig
    distill: D2MConfig
    atom: dict[int, DistillConfig]
    """Settings of the pixel distillation for each number of images."""
    latents: dict[int, LatentConfig]
    """Settings of the distillation into latents for each number of images."""
    epochs: dict[int, int]
    """Epochs of a network for each number of images per class."""
    judge: EvaluateConfig | None = None
    """Training of the classifier of the Fréchet distance."""
    network: int | None = None
    """Width of the networks that are trained on the images."""
    cross: tuple[Architecture, ...] = ()
    """Other architectures, with the first seed."""
    ipc: tuple[int, ...] = IPC
    """Numbers of images per class."""
    methods: tuple[str, ...] = METHODS
    """Columns of the table."""
    judged: bool = True
    """Measure the generators' images by a classifier."""
    cross_epochs: int = 60


PLANS = {
    "digits": Plan(
        16, PretrainConfig(steps=800), D2MConfig(loss=MatchingLoss(maps="both")),
        {ipc: DistillConfig(method="atom", ipc=ipc) for ipc in IPC},
        {ipc: LatentConfig(ipc=ipc, loss=MatchingLoss(maps="both")) for ipc in IPC}, {1: 150, 10: 150, 50: 60},
        cross=("convnet", "resnet18", "vgg11", "vit"),
    ),
    "cifar": Plan(
        16, PretrainConfig(steps=200, discriminator_width=32),
        D2MConfig(steps=100, real_batch=32, loss=MatchingLoss(maps="both"), pool=PoolConfig(width=32, untrained=1.0)),
        {10: DistillConfig(method="atom", ipc=10, steps=150, width=32)},
        {10: LatentConfig(ipc=10, steps=150, inversion_steps=150, real_batch=32, loss=MatchingLoss(maps="both"),
                          pool=PoolConfig(width=32, untrained=1.0))},
        {10: 60}, network=32, ipc=(10,), methods=("random real", "generator before", "D2M", "LatentSet", "ATOM"),
        judged=False,
    ),
}  # fmt: skip


def sets(
    data: ImageSet, plan: Plan, seed: int, work: Path
) -> tuple[dict[str, dict[int, DistilledSet]], dict[str, float], list[str]]:
    """Return one seed's sets of every method and size, the seconds of each job, and the quality of the generators."""
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

    gan = ConditionalGAN(10, data.image_shape, width=plan.width, seed=seed)
    training = dataclasses.replace(plan.pretrain, seed=seed)
    timed("pretrain", lambda: pretrain(gan, data, training, work / "gan"))
    before = load_generator(work / "gan")
    distilled = load_generator(work / "gan")
    timed("D2M", lambda: D2M(dataclasses.replace(plan.distill, seed=seed)).fit(distilled, data, work / "d2m"))
    quality: list[str] = []
    if plan.judged:
        judge = Judge(data, plan.judge, path=work / "judge.safetensors")
        quality = [str(judge(generator)) for generator in (before, distilled)]
    by_method: dict[str, dict[int, DistilledSet]] = {name: {} for name in plan.methods}
    for ipc in plan.ipc:
        by_method["random real"][ipc] = random_real(data, ipc, seed)
        by_method["generator before"][ipc] = synthesize(before, ipc, seed, data=data)
        by_method["D2M"][ipc] = timed(f"sample {ipc}", lambda ipc=ipc: synthesize(distilled, ipc, seed, data=data))
        if ipc in plan.latents:
            latents = dataclasses.replace(plan.latents[ipc], seed=seed)
            for name, config in (("LatentSet", latents), ("inverted real", dataclasses.replace(latents, steps=0))):
                if name not in plan.methods:
                    continue
                made = timed(
                    f"{name} {ipc}",
                    lambda ipc=ipc, name=name, config=config: LatentDistiller(config).fit(
                        load_generator(work / "gan"), data, work / f"{name} {ipc}"
                    ),
                )
                by_method[name][ipc] = synthesize(made, ipc, data=data)
        if ipc in plan.atom:
            config = dataclasses.replace(plan.atom[ipc], seed=seed)
            by_method["ATOM"][ipc] = timed(
                f"ATOM {ipc}", lambda ipc=ipc, config=config: Distiller(config).fit(data, work / f"atom-{ipc}")
            )
    return by_method, seconds, quality


def main(
    plan: str = "digits",
    data: str | None = None,
    seeds: int = 3,
    networks: int = 2,
    work: Path | None = None,
    cross: bool = False,
) -> None:
    """Run the benchmark.

    Parameters
    ----------
    plan
        digits or cifar.
    data
        The images, as for the command; by default those of the plan.
    seeds
        Number of seeds of generators, distillations and image selections.
    networks
        Fresh networks per set.
    work
        Folder of the run folders; runs/bench_PLAN by default.
    cross
        Also train other architectures, with the first seed.
    """
    torch.set_num_threads(1)  # networks this small gain nothing by a second one
    chosen = PLANS[plan]
    work = work or Path("runs") / f"bench_{plan}"
    images = load(data or plan)
    accuracies: dict[str, dict[str, list[float]]] = {name: {} for name in chosen.methods}
    others: dict[str, dict[str, list[float]]] = {}
    times, qualities = [], []
    for seed in range(seeds):
        place = work / f"seed-{seed}"
        by_method, seconds, quality = sets(images, chosen, seed, place)
        times.append(seconds)
        qualities.append(quality)
        print(f"seed {seed}: {' | '.join(quality)}", flush=True)
        for name, by_ipc in by_method.items():
            for ipc, distilled in by_ipc.items():
                config = EvaluateConfig(networks=networks, epochs=chosen.epochs[ipc], seed=seed, width=chosen.network)
                accuracy = evaluate(distilled, images, config, place / f"evaluate {name} {ipc}").accuracies
                accuracies[name].setdefault(str(ipc), []).extend(accuracy)
                print(f"seed {seed}, {name}, {ipc} per class: {percent(accuracy)}", flush=True)
            if cross and not seed and CROSS_IPC in by_ipc:
                others[name] = architectures(by_ipc[CROSS_IPC], images, chosen, place / f"cross {name}")
    report = {"accuracies": accuracies, "cross": others, "seconds": times, "quality": qualities}
    store(HERE, plan, report)
    write(report, plan)


def architectures(distilled: DistilledSet, images: ImageSet, plan: Plan, out: Path) -> dict[str, list[float]]:
    """Return the accuracies of one network of each other architecture."""
    result = {}
    for architecture in plan.cross:
        config = EvaluateConfig(networks=1, epochs=plan.cross_epochs, architecture=architecture)
        result[architecture] = list(evaluate(distilled, images, config, out / architecture).accuracies)
    return result


def write(report: dict[str, Any], plan: str) -> None:
    """Write the tables into the README."""
    chosen = PLANS[plan]
    lines = ["| images per class | " + " | ".join(chosen.methods) + " |", "|---" * (len(chosen.methods) + 1) + "|"]
    for ipc in chosen.ipc:
        row = [report["accuracies"].get(method, {}).get(str(ipc)) for method in chosen.methods]
        lines.append(f"| {ipc} | " + " | ".join(percent(values) if values else "not run" for values in row) + " |")
    if report["cross"]:
        lines += [
            "",
            f"Other networks on {CROSS_IPC} images per class, {chosen.cross_epochs} epochs, one network, first seed:",
            "",
            "| network | " + " | ".join(report["cross"]) + " |",
            "|---" * (len(report["cross"]) + 1) + "|",
        ]
        lines += [
            f"| {a} | " + " | ".join(f"{100 * report['cross'][m][a][0]:.1f} %" for m in report["cross"]) + " |"
            for a in chosen.cross
        ]
    seconds = {name: statistics.median(each[name] for each in report["seconds"]) for name in report["seconds"][0]}
    largest = max(chosen.atom)
    ratio = seconds[f"ATOM {largest}"] / seconds[f"sample {largest}"]
    lines += ["", "| job | median seconds |", "|---|---|"]
    lines += [f"| {name} | {value:{'.0f' if value >= 100 else '.3g'}} |" for name, value in seconds.items()]
    lines += [
        "",
        f"{largest} images per class of the distilled generator take {1000 * seconds[f'sample {largest}']:.0f} ms, a "
        f"new distillation by ATOM {seconds[f'ATOM {largest}']:.0f} s, {ratio:.0f} times as long.",
        "",
    ]
    if report["quality"][0]:
        before, after = report["quality"][0]
        lines += [f"First seed's generator before: {before}; after: {after}.", ""]
    command = "" if plan == "digits" else f" --plan {plan} --data npz-jpeg:FOLDER"
    command += f" --seeds {len(report['seconds'])}"
    lines += [f"`python benchmarks/bench_accuracy.py{command}`, one thread, on {machine()}."]
    into_readme(HERE.parent / "README.md", f"bench_{plan}", "\n".join(lines))


def percent(accuracies: Sequence[float]) -> str:
    """Return mean and standard deviation in per cent."""
    shares = [100 * value for value in accuracies]
    return f"{statistics.mean(shares):.1f} ± {statistics.stdev(shares) if len(shares) > 1 else 0:.1f} %"


if __name__ == "__main__":
    tyro.cli(main)
