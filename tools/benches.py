"""Summarise the benchmarks of all packages in two Markdown tables, read from their JSON reports.

``python tools/benches.py`` prints them; docs/benchmarks.md includes them when the site is built.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# What `nox -s bench` runs without arguments: suited to two cores, on data that ships with a dependency.
SCRIPTS: dict[str, tuple[str, ...]] = {
    "attention-matching": (
        "OMP_NUM_THREADS=1 bench_attention.py --device cpu",
        "OMP_NUM_THREADS=1 bench_labels.py",
        "bench_step.py",
    ),
    "d2m-generator": ("bench_accuracy.py", "bench_ablation.py"),
    "esac": ("bench_speed.py", "OMP_NUM_THREADS=1 bench_batch.py", "OMP_NUM_THREADS=1 bench_population.py"),
    "gmr-metric": (
        "bench_quality.py",
        "bench_speed.py",
        "bench_scale.py",
        "bench_diagonal.py",
        "bench_torch.py",
        "bench_applications.py",
    ),
    "probmcl": ("bench_similarity.py", "OMP_NUM_THREADS=1 bench_losses.py", "OMP_NUM_THREADS=1 bench_uncertainty.py"),
    "sextet-common": ("bench_common.py", "bench_data.py"),
    "subclass-kd": ("bench_cost.py", "bench_methods.py --only digits digits-scarce"),
}
Report = dict[str, Any]


def parsed(command: str) -> tuple[dict[str, str], str, list[str]]:
    """Split a command of SCRIPTS into environment variables, script and arguments.

    >>> parsed("OMP_NUM_THREADS=1 bench_speed.py --rounds 5")
    ({'OMP_NUM_THREADS': '1'}, 'bench_speed.py', ['--rounds', '5'])
    """
    words = command.split()
    named = list(itertools.takewhile(lambda word: "=" in word, words))
    script, *rest = words[len(named) :]
    return dict(word.split("=", 1) for word in named), script, rest


@dataclass(frozen=True)
class Row:
    """One comparison of a peer's figure with ours.

    Parameters
    ----------
    package
        The package.
    job
        What is measured.
    peer
        Name of the peer.
    report
        Name of the JSON file in the package's benchmarks/results.
    figures
        Returns the peer's figure and ours from a report.
    command
        Command that produces the report, to be run in the package's folder.
    """

    package: str
    job: str
    peer: str
    report: str
    figures: Callable[[Report], tuple[float, float]]
    command: str

    def read(self) -> Report:
        """Return the report."""
        path = ROOT / "packages" / self.package / "benchmarks" / "results" / f"{self.report}.json"
        report: Report = json.loads(path.read_text(encoding="utf-8"))
        return report


def step(report: Report) -> tuple[float, float]:
    """Return the median times of a step of attention-matching: the published loop's and ours."""
    seconds = report["seconds"]["paper"]
    return statistics.median(seconds["the published loop, stated again"]), statistics.median(seconds["as-asked"])


def maps(peer: str) -> Callable[[Report], tuple[float, float]]:
    """Return a reader of the times for both attention maps of the largest activation, both passes, in float32."""

    def find(report: Report) -> tuple[float, float]:
        case = {"maps": "both", "work": "forward and backward", "dtype": "float32", "order": "channels first"}
        (row,) = (r for r in report["rows"] if "128 x 32x32" in r["activation"] and case.items() <= r.items())
        return statistics.median(row["seconds"][peer]), statistics.median(row["seconds"]["ours"])

    return find


def similarity(report: Report) -> tuple[float, float]:
    """Return the times of broadcasting and ours for 128 isotropic mixtures, forward and backward."""
    seconds = {
        case["way"]: case["forward"] + case["backward"]
        for case in report["cases"]
        if (case["kind"], case["batch"], case["components"]) == ("isotropic", 128, 20)
    }
    return seconds["broadcasting"], seconds["ours"]


def percent(values: Iterable[float]) -> float:
    """Return the mean in percent."""
    return 100 * statistics.mean(values)


def scenes(name: str) -> Callable[[Report], float]:
    """Return a reader of a method's mean average precision on scenes, in percent, averaged over seeds."""
    return lambda report: percent(result["mean_ap"] for result in report["results"] if result["name"] == name)


def learned(run: str) -> Callable[[Report], float]:
    """Return a reader of the interquartile mean over seeds of a run's final returns in esac."""

    def find(report: Report) -> float:
        returns = sorted(statistics.mean(seed["final"]) for seed in report["runs"][run])
        outer = len(returns) // 4
        return statistics.mean(returns[outer : len(returns) - outer])

    return find


def both(peer: Callable[[Report], float], ours: Callable[[Report], float]) -> Callable[[Report], tuple[float, float]]:
    """Return a reader of a peer's figure and ours."""
    return lambda report: (peer(report), ours(report))


SPEED = (
    Row("gmr-metric", "Runnalls' reduction of 2000 components to 20, between neighbours", "plain NumPy, all pairs",
        "speed", lambda r: (r["Runnalls, N 2000, d 4, L 20"]["plain NumPy"], r["Runnalls, N 2000, d 4, L 20"]["ours"]),
        "python benchmarks/bench_speed.py"),
    Row("gmr-metric", "threshold reduction of 2000 components to 20", "Stone Soup", "speed",
        lambda r: (r["N 2000, d 4, L 20"]["Stone Soup's reducer (gate 4, cap)"],
                   r["N 2000, d 4, L 20"]["ours, threshold (gate 4, cap)"]),
        "python benchmarks/bench_speed.py"),
    Row("gmr-metric", "MW2 distance of 200 and 60 components", "POT", "speed",
        lambda r: (r["MW2 distance, N 200 and 60, d 2"]["POT"], r["MW2 distance, N 200 and 60, d 2"]["ours"]),
        "python benchmarks/bench_speed.py"),
    Row("attention-matching", "a step of DataDAM, CIFAR's shapes", "the published loop, stated again", "step-cpu",
        step, "python benchmarks/bench_step.py"),
    Row("attention-matching", "both attention maps, forward and backward", "plain torch", "attention-cpu",
        maps("plain"), "OMP_NUM_THREADS=1 python benchmarks/bench_attention.py --device cpu"),
    Row("attention-matching", "the same by Triton", "torch.compile", "attention-cuda",
        maps("torch.compile"), 'python benchmarks/bench_attention.py --rounds 5 --only "128 x 32x32"'),
    Row("d2m-generator", "50 images per class where there were 10", "distilling again by ATOM", "digits",
        lambda r: tuple(statistics.median(s[f"{w} 50"] for s in r["seconds"]) for w in ("ATOM", "sample")),
        "python benchmarks/bench_accuracy.py"),
    Row("probmcl", "similarities of 128 mixtures and gradients", "broadcasting", "similarity",
        similarity, "python benchmarks/bench_similarity.py"),
    Row("probmcl", "the same by Triton", "broadcasting", "similarity-cuda",
        similarity, "python benchmarks/bench_similarity.py --device-name cuda"),
    Row("subclass-kd", "an epoch of SKD from cached logits", "conventional distillation, cached too", "cost",
        lambda r: tuple(r["cases"]["digits, student of width 16"][f"{w}, cached logits"]["ratio"]
                        for w in ("conventional KD", "SKD")),
        "python benchmarks/bench_cost.py"),
    Row("esac", "an update of soft actor-critic, one thread", "Stable-Baselines3", "speed",
        lambda r: (r["updates"]["Stable-Baselines3"], r["updates"]["esac"]), "python benchmarks/bench_speed.py"),
    Row("esac", "a step of HalfCheetah-v5 with its policy", "Stable-Baselines3's predict", "speed",
        lambda r: (1 / r["rates"]["peers"]["Stable-Baselines3's predict"], 1 / r["rates"]["numpy"]),
        "python benchmarks/bench_speed.py"),
    Row("sextet-common", "a checkpoint of 64 MB, written and on the disk", "torch.save and fsync", "common",
        lambda r: tuple(r["median_seconds"]["save 64 MB"][w] for w in ("torch.save + fsync", "checkpoint.save")),
        "python benchmarks/bench_common.py"),
)  # fmt: skip
"""Times. The table shows the peer's time divided by ours."""

WORTH = (
    Row("gmr-metric", "angle to the original, median ratio over 137 reductions, lower is better", "Runnalls",
        "quality", lambda r: (r["shares"]["runnalls"]["ratio"], r["shares"]["oggmr"]["ratio"]),
        "python benchmarks/bench_quality.py"),
    Row("attention-matching", "CIFAR-10, 1 image per class, 1000 steps, test accuracy, %", "random real images",
        "cifar-paper-cpu",
        lambda r: tuple(percent(row["accuracies"]) for m in ("random real", "datadam") for row in r["rows"]
                        if (row["method"], row["pixels"], row["norm"]) == (m, "valid", "instance")),
        "python benchmarks/bench_cifar.py --data npz-jpeg:PATH/cifar10-jpeg --norms instance --whitenings zca "
        "--steps 1000 --networks 3 --epochs 300"),
    Row("d2m-generator", "digits, 10 images per class, test accuracy, %", "the generator before", "digits",
        lambda r: tuple(percent(r["accuracies"][w]["10"]) for w in ("generator before", "D2M")),
        "python benchmarks/bench_accuracy.py"),
    Row("d2m-generator", "digits, 10 images per class, test accuracy, %", "ATOM, ten distilled images", "digits",
        lambda r: tuple(percent(r["accuracies"][w]["10"]) for w in ("ATOM", "LatentSet")),
        "python benchmarks/bench_accuracy.py"),
    Row("probmcl", "scenes of digits, frozen encoder, mean average precision, %", "cosine contrast, overlap 0.5",
        "controls-scenes", both(scenes("cosine contrast, overlap 0.5, frozen"), scenes("ProbMCL, frozen")),
        "python benchmarks/bench_controls.py"),
    Row("probmcl", "scenes of digits, mean average precision, %", "asymmetric loss", "controls-scenes",
        both(scenes("asymmetric loss"), scenes("ProbMCL, joint")),
        "python benchmarks/bench_controls.py"),
    Row("subclass-kd", "even or odd digits, F1, %", "conventional distillation", "digits",
        lambda r: tuple(percent(s["f1"] for s in r["scores"][w]) for w in ("kd", "skd")),
        "python benchmarks/bench_methods.py --only digits"),
    Row("esac", "Swimmer-v5, 70 processor seconds, return: ESAC", "Stable-Baselines3's SAC", "learning",
        both(learned("Swimmer-v5 SB3 SAC"), learned("Swimmer-v5 ESAC")),
        "python benchmarks/bench_learning.py"),
    Row("esac", "Pendulum-v1, 40 processor seconds, return: ESAC", "evolution alone", "learning",
        both(learned("Pendulum-v1 ES"), learned("Pendulum-v1 ESAC")),
        "python benchmarks/bench_learning.py"),
)  # fmt: skip
"""Accuracies and returns, side by side."""


def formatted(figure: float) -> str:
    """Format a figure with at least three digits.

    >>> formatted(1473.2), formatted(2.9123)
    ('1,473', '2.91')
    """
    return f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3g}"


def machine_of(report: Report) -> str:
    """Describe the machine of a report."""
    machine = report["machine"]
    if isinstance(machine, str):  # reports of older versions
        return machine.replace("(R)", "").replace(" Processor", "")
    cpu = machine["cpu"].replace("(R)", "").replace(" Processor", "")
    return f"{machine['cores']} cores of {cpu}" if machine["gpu"] == "none" else str(machine["gpu"])


def table(rows: Iterable[Row], header: str, cells: Callable[[Row, Report], list[str]]) -> str:
    """Return numbered rows in Markdown, and below them the commands that reproduce them."""
    lines = [f"| | {header} |", "|" + "---|" * (header.count("|") + 2)]
    commands: dict[tuple[str, str], list[str]] = {}
    for number, row in enumerate(rows, start=1):
        report = row.read()
        content = [str(number), row.package, row.job, row.peer, *cells(row, report), machine_of(report)]
        lines.append("| " + " | ".join(content) + " |")
        commands.setdefault((row.package, row.command), []).append(str(number))
    lines.append("")
    lines += [f"- {', '.join(numbers)}: `{text}` in {name}" for (name, text), numbers in commands.items()]
    return "\n".join(lines)


def speed_table() -> str:
    """Return the table of speeds in Markdown."""

    def ratio(row: Row, report: Report) -> list[str]:
        theirs, ours = row.figures(report)
        return [formatted(theirs / ours)]

    return table(SPEED, "package | job | peer | times the peer's speed | machine", ratio)


def worth_table() -> str:
    """Return the table of accuracies in Markdown."""
    return table(
        WORTH,
        "package | what | peer | peer's | ours | machine",
        lambda row, report: [formatted(figure) for figure in row.figures(report)],
    )


if __name__ == "__main__":
    print(speed_table(), worth_table(), sep="\n\n")
