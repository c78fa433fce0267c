"""Everything that needs a CUDA device, in order of worth, in the minutes that one is at hand.

    python benchmarks/on_gpu.py --minutes 12 --data npz-jpeg:PATH/cifar10-jpeg
    python benchmarks/on_gpu.py --dry-run          # its logic on a CPU, with tiny settings

First the tests that need CUDA, then the time of a step under each setting, the loss of attention maps and the maps
alone, and last distilled sets of CIFAR-10, 1, 10 and 50 images per class, with their accuracies. Every result is saved
in OUT/results.json as soon as it is known. When the minutes are over the script stops; the same command resumes, also
in the middle of a distillation, and repeats what failed. Needs no network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import re
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import bench_attention
import bench_cifar
import tyro
from attention_matching import DistillConfig, EvaluateConfig, Preprocessing
from attention_matching.distillation.config import PixelRange
from attention_matching.distillation.timing import time_steps
from attention_matching.kinds import Method, Whitening
from bench_step import random_images
from cifar_tables import Row, table
from sextet_common import device, files
from sextet_common.data import ImageSet, load
from sextet_common.errors import InputError

HERE = Path(__file__).resolve().parent
STEP_AIM = 0.025  # seconds of a step with one image per class, width 128
Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure, and how much of it."""

    device: Literal["cuda", "cpu"] = "cuda"
    tests: tuple[str, ...] = (
        "tests/test_kernels.py",
        "tests/test_step.py",
        "-k",
        "bits or cuda or gpu and 128 and (float32-first or bfloat16-last)",
    )
    """Arguments of pytest: of the tests that need CUDA those of the papers' shapes, which compile in minutes."""
    all_tests: tuple[str, ...] = ("tests",)
    """Arguments of pytest at the end."""
    variants: tuple[str, ...] = ("as-asked", "bfloat16+cuda_graph", "cuda_graph", "bfloat16")
    rounds: int = 7
    losses: tuple[int, ...] = (1, 10, 50)
    """Images per class of the rows of the loss."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    activations: tuple[str, ...] = ("ConvNet-3, 128 x 32x32",)
    """Whose maps alone are timed."""
    width: int = 128
    steps: int = 8000
    networks: int = 5
    epochs: int = 1000
    methods: tuple[Method, ...] = ("datadam", "dm", "atom")
    sets: tuple[tuple[int, int], ...] = ((1, 0), (10, 0), (1, 1), (1, 2), (50, 0), (10, 1), (10, 2), (50, 1), (50, 2))
    """Images per class and seed."""


TINY = Plan(
    device="cpu",
    tests=("tests/test_keyed.py", "--collect-only"),
    all_tests=("tests/test_keyed.py", "--collect-only"),
    variants=("as-asked",),
    rounds=1,
    losses=(1,),
    dtypes=("float32",),
    activations=(),
    width=4,
    steps=3,
    networks=2,
    epochs=1,
    methods=("dm",),
    sets=((1, 0),),
)
"""The plan of a dry run."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """One result."""

    name: str
    run: Callable[[], Result]
    seconds: float
    """It is not begun with less time left."""
    limit: float = math.inf
    """It is stopped after so many seconds, so that the others have their turn."""


class Results:
    """The results by name, in a JSON file that is written anew with every one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        saved = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"machine": device.describe()}
        self._content: dict[str, Any] = {"pieces": {}, **saved}

    def __getitem__(self, name: str) -> Result:
        result: Result = self._content["pieces"].get(name, {})
        return result

    def is_done(self, name: str) -> bool:
        """Whether a piece has a result without an error."""
        return bool(self[name]) and "error" not in self[name]

    def add(self, name: str, result: Result) -> None:
        """Add or replace one and save."""
        self._content["pieces"][name] = result
        files.write_text(self.path, json.dumps(self._content, indent=1) + "\n")

    def starting(self, prefix: str) -> list[Result]:
        """Return the complete results whose names start so."""
        return [
            result for name, result in self._content["pieces"].items() if name.startswith(prefix) and self.is_done(name)
        ]


class OutOfTime(Exception):
    """The minutes are over."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Interrupt the block after so many seconds as Ctrl-C would: a run saves its step. Then raise OutOfTime."""
    over = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal over
        over = True
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    except KeyboardInterrupt:
        if over:
            raise OutOfTime from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_pieces(pieces: Sequence[Piece], results: Results, ends: float) -> None:
    """Run what has no result yet, until the time ``ends`` of `time.monotonic`; an error is a result too."""
    for piece in pieces:
        left = ends - time.monotonic()
        if results.is_done(piece.name) or left < piece.seconds:
            continue
        began = time.monotonic()
        try:
            with deadline(min(left, piece.limit)):
                result = piece.run()
        except OutOfTime:
            if left <= piece.limit:
                print(f"{piece.name}: out of time", flush=True)
                return
            result = {"error": f"stopped after {piece.limit:g} s"}
        except Exception:
            result = {"error": traceback.format_exc()[-4000:]}
        results.add(piece.name, {**result, "took": round(time.monotonic() - began, 1)})
        print(f"{piece.name}: {result.get('summary', 'failed')}", flush=True)


def tests(*arguments: str) -> Result:
    """Run tests in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    last = ([line for line in done.stdout.splitlines() if re.search(r"\d+ \w+.* in ", line)] or [""])[-1]
    result = {"summary": last, "output": (done.stdout + done.stderr)[-4000:]}
    return result if done.returncode == 0 else {"error": result["output"], **result}


def step(plan: Plan, variant: str) -> Result:
    """Time a step with one image per class under one setting."""
    config = DistillConfig(ipc=1, width=plan.width, whitening="none", real_batch=64, device=plan.device)
    config = config if plan.device == "cuda" else dataclasses.replace(config, real_batch=2)
    count = 20 if plan.device == "cuda" else 1
    timing = time_steps(random_images(), config, only=(variant,), rounds=plan.rounds, steps=count)[variant]
    aim = f", aim {1e3 * STEP_AIM:.0f} ms"
    return {"variant": variant, "seconds": timing.seconds, "summary": f"{1e3 * timing.median:.2f} ms{aim}"}


def attention(plan: Plan, job: bench_attention.Job) -> Result:
    """Measure one row of the benchmark of attention."""
    measure = bench_attention.on_gpu if plan.device == "cuda" else bench_attention.on_cpu
    row: Result = {**dataclasses.asdict(job), "n_bytes": job.n_bytes, **measure(job, plan.rounds)}
    row["figures"] = bench_attention.compared(row)
    return {**row, "summary": ", ".join(f"{name} {figure:.3g}" for name, figure in row["figures"].items())}


def sets(
    plan: Plan,
    images: ImageSet,
    preprocessing: Callable[[], Preprocessing],
    out: Path,
    results: Results,
    ipc: int,
    seed: int,
) -> Result:
    """Distill and evaluate the sets of one seed, with the setting of the fastest step measured."""
    how = fastest(results)
    shared: dict[str, Any] = {"ipc": ipc, "seed": seed, "steps": plan.steps, "width": plan.width, "device": plan.device}
    shared |= {"precision": "bfloat16" if "bfloat16" in how else "float32", "cuda_graph": "cuda_graph" in how}
    shared |= {"whitening": "none" if preprocessing().zca is None else "zca", "norm": "instance"}
    training = EvaluateConfig(plan.networks, plan.epochs, width=plan.width, seed=seed, device=plan.device)
    folder = out / f"ipc{ipc}-seed{seed}"
    kinds = [(method, pixels) for method in plan.methods for pixels in get_args(PixelRange)]
    configs = [DistillConfig(method=method, pixels=pixels, **shared) for method, pixels in kinds]
    bench_cifar.Group(images, preprocessing, configs, training, folder).measure(())
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    accuracies = {f"{row['method']} {row['pixels']}": 100 * statistics.fmean(row["accuracies"]) for row in rows}
    return {"rows": rows, "summary": ", ".join(f"{name} {figure:.1f} %" for name, figure in accuracies.items())}


def fastest(results: Results) -> str:
    """Return the setting of the fastest step measured."""
    timings = {each["variant"]: statistics.median(each["seconds"]) for each in results.starting("step")}
    return min(timings, key=timings.__getitem__, default="as-asked")


def all_pieces(plan: Plan, data: str, results: Results, out: Path) -> list[Piece]:
    """Return the pieces in order of worth."""
    jobs = bench_attention.loss_jobs(plan.losses, plan.dtypes)
    jobs += bench_attention.jobs({name: bench_attention.ACTIVATIONS[name] for name in plan.activations}, plan.dtypes)
    pieces = [Piece("tests", functools.partial(tests, *plan.tests), 60, limit=240)]
    pieces += [Piece(f"step {variant}", functools.partial(step, plan, variant), 20) for variant in plan.variants]
    for job in jobs:
        name = f"attention {job.work}, {job.shape[0]} x {job.activation}, {job.dtype}, {job.order}, {job.maps}"
        pieces.append(Piece(name, functools.partial(attention, plan, job), 10))
    names = {each: "sets ipc {}, seed {}".format(*each) for each in plan.sets}
    if data and not all(map(results.is_done, names.values())):
        images = load(data)  # now, so that a wrong path is refused at once
        whitening: Whitening = "zca" if plan.device == "cuda" else "none"
        preprocessing = functools.cache(functools.partial(Preprocessing.fit, images, whitening))
        distill = functools.partial(sets, plan, images, preprocessing, out, results)
        pieces += [Piece(name, functools.partial(distill, *each), 30) for each, name in names.items()]
    pieces.append(Piece("all tests", functools.partial(tests, *plan.all_tests), 300))
    return pieces if plan.device == "cuda" else [dataclasses.replace(piece, seconds=0.1) for piece in pieces]


def main(minutes: float = 12.0, data: str = "", out: Path = Path("runs/on-gpu"), dry_run: bool = False) -> None:
    """Measure.

    Parameters
    ----------
    minutes
        Time to use, of this call alone.
    data
        CIFAR-10: npz-jpeg:PREFIX for the shared data; without it no set is distilled.
    out
        Folder of the results and runs.
    dry_run
        Tiny settings on the CPU; data is by default digits.
    """
    ends = time.monotonic() + 60 * minutes
    if not 0 < minutes < float("inf"):
        raise InputError(f"minutes is {minutes}", "a number > 0")
    plan = TINY if dry_run else Plan()
    if plan.device == "cuda" and device.pick("auto").type != "cuda":
        raise InputError("this machine has no CUDA device", "one, or --dry-run for the logic alone")
    results = Results(out / "results.json")
    run_pieces(all_pieces(plan, data or ("digits" if dry_run else ""), results, out), results, ends)
    rows = results.starting("attention")
    if rows:
        print(bench_attention.table(rows))
    distilled = [Row(**row) for each in results.starting("sets") for row in each["rows"]]
    if distilled:
        print(table(distilled))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
