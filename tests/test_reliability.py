"""Every package's long job, killed ten times by SIGKILL at random moments, ends like an uninterrupted run.

A job is killed with its process group: five times from outside, at a moment relative to its metrics.jsonl, and five
times by itself while or right after it writes a file. The files that it resumes from and the files that it leaves are
compared bit by bit with those of an uninterrupted run; only seconds may differ. A failure shows the moments' seed;
SEXTET_KILLS repeats it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import random
import re
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common_jobs import LOGS, content, write_data

HERE = Path(__file__).resolve().parent
KILLS = 10
FIRST_CHECKPOINT = 3  # index of the moment while the first checkpoint is written
LIMIT = 900.0  # seconds after which a job is considered hung, even on a busy machine
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
ONE_THREAD["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pyarrow's allocator starts a thread
RUN, METRICS, CHECKPOINTS = Path("run"), Path("run/metrics.jsonl"), Path("run/checkpoints")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and looks into /proc"),
]


@dataclasses.dataclass(frozen=True)
class Job:
    """A command: its module, its arguments, and modules that it imports while it runs."""

    module: str
    words: str
    preload: tuple[str, ...] = ()


JOBS = {
    "attention-matching": Job(
        "attention_matching",
        "distill --out run --data npz:../images.npz --ipc 1 --steps 200 --width 8 --real-batch 8 --checkpoint-every 30"
        " --device cpu",
        ("matplotlib.figure", "matplotlib.backends.backend_agg"),
    ),
    "d2m-generator": Job(
        "d2m_generator",
        "pretrain --out run --data npz:../images.npz --steps 120 --width 4 --batch-size 8 --discriminator-width 4"
        " --checkpoint-every 20 --sample-every 40 --no-judged --device cpu",
        ("torch._dynamo",),
    ),
    "probmcl": Job(
        "probmcl",
        "train --out run --data npz:../features.npz --epochs 24 --classifier-epochs 24 --batch-size 16 --dim 8"
        " --hidden 16 --width 16 --checkpoint-every 36 --device cpu",
        ("torch._dynamo",),
    ),
    "subclass-kd": Job(
        "subclass_kd",
        "teacher --out run --data digits --epochs 30 --network convnet --width 2 --batch-size 256 --patience 29"
        " --views 3 --checkpoint-every 5 --device cpu",
        ("torch._dynamo", "torchmetrics", "sklearn.datasets", "matplotlib.figure"),
    ),
    "esac": Job(
        "esac",
        "train --out run --env Pendulum-v1 --steps 16000 --hidden 8 --population 2 --injected 1 --elite 0.5 --store all"
        " --sac-episodes 1 --updates-per-step 0.2 --start-steps 200 --batch-size 16 --eval-every 2000 --eval-episodes 1"
        " --checkpoint-every 2500 --workers 1 --final-episodes 1",
        ("torch._dynamo", "gymnasium.envs.classic_control"),
    ),
}  # fmt: skip


class Nursery:
    """A process that imports once and forks every attempt; a mark in the environment identifies its descendants."""

    def __init__(self) -> None:
        self.mark = f"SEXTET_NURSERY={secrets.token_hex(8)}"
        self.environ = {**os.environ, **ONE_THREAD, **dict([self.mark.split("=")])}
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "killed_jobs.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=self.environ,
        )  # fmt: skip
        self.child = 0

    def begin(
        self, job: Job, folder: Path, death: dict[str, Any] | None = None, environ: dict[str, str] | None = None
    ) -> None:
        """Start a job in a folder, optionally with the file that it dies while writing."""
        order = {
            "module": job.module, "words": job.words.split(), "preload": job.preload, "folder": str(folder),
            "death": death, "environ": environ or {},
        }  # fmt: skip
        assert self.server.stdin is not None
        folder.mkdir(exist_ok=True)
        self.server.stdin.write(json.dumps(order).encode() + b"\n")
        self.child = int(self._answer())

    def ended(self, seconds: float) -> int | None:
        """Wait at most this long for the job; return its exit code, or None if it is still running."""
        assert self.server.stdout is not None
        ready, _, _ = select.select([self.server.stdout], [], [], seconds)
        return int(self._answer()) if ready else None

    def end(self) -> int:
        """Wait for the job."""
        code = self.ended(LIMIT)
        if code is None:
            self.kill()
            self.ended(LIMIT)
            pytest.fail(f"the job was not done after {LIMIT:g} s")
        return code

    def kill(self) -> set[Path]:
        """Kill the job's process group; return its named shared memory."""
        blocks = set()
        self._signal(signal.SIGSTOP)  # so that nothing changes while we look
        for number in (self.child, *self.descendants()):
            with contextlib.suppress(OSError):
                maps = Path(f"/proc/{number}/maps").read_text(encoding="utf-8").splitlines()
                blocks |= {Path(line.split()[-1]) for line in maps if " /dev/shm/" in line}
        self._signal(signal.SIGKILL)
        return blocks

    def descendants(self) -> list[int]:
        """Return all living processes that inherited the mark, in any group, except the server."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                if self.mark.encode() in (folder / "environ").read_bytes() and int(folder.name) != self.server.pid:
                    found.append(int(folder.name))
        return found

    def close(self) -> None:
        """End the server."""
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait(LIMIT)
        self.server.stdout.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile, and `end` tells how
            os.killpg(self.child, number)

    def _answer(self) -> bytes:
        assert self.server.stdout is not None
        line: bytes = self.server.stdout.readline()
        assert line, "the process that forks jobs has ended"
        return line


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    seed = int(os.environ.get("SEXTET_KILLS") or secrets.randbelow(10**9))
    print(f"the moments of {request.node.name} are those of SEXTET_KILLS={seed}")
    return random.Random(seed)


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a job is killed: in the writing of a file, or from outside after a row of its metrics.

    Attributes
    ----------
    death
        For `killed_jobs`: the file ("at"), the file that must be there already ("after"), and the share of it that is
        written, 1 for right after.
    step
        The last row's step that is waited for; -1 for a job that has just begun to work.
    delay
        Seconds after that.
    """

    death: dict[str, Any] | None = None
    step: int = -1
    delay: float = 0.0


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run that was never killed."""

    folder: Path
    writes: list[str]
    seconds: float

    def moments(self, chance: random.Random) -> list[Moment]:
        """Draw ten moments in the job's order: before the first checkpoint, in its writing, between others, at the end.

        At the first one there is no checkpoint yet, and at the last four there is one that an earlier kill has left.
        """
        rows = steps_of(self.folder / METRICS)
        saved = [number for number, name in enumerate(self.writes) if Path(name).parent == CHECKPOINTS]
        steps = [int(re.sub(r"\D", "", Path(self.writes[number]).stem)) for number in saved]
        late = next(number for number, step in zip(saved, steps, strict=True) if step >= 0.7 * steps[-1])
        early = [-1, *(step for step in rows if step < steps[0])]
        middle = [step for step in rows if steps[0] <= step <= 0.5 * steps[-1]]
        assert len(middle) >= 3 and late < saved[-1] < len(self.writes) - 1, "too short a job"
        began, ended = (self.folder / name for name in ("run/config.json", self.writes[saved[-1]]))
        pause = (ended.stat().st_mtime - began.stat().st_mtime) / len(rows)

        def outside(step: int) -> Moment:
            return Moment(step=step, delay=chance.uniform(0, 0.8 * pause))

        def writing(number: int) -> Moment:
            before = [self.writes[other] for other in saved if other < number]
            share = chance.choice([chance.random(), chance.random(), 1])
            return Moment({"at": self.writes[number], "after": before[-1] if before else "", "share": share})

        return [
            writing(chance.randrange(saved[0])),
            *(outside(step) for step in sorted(chance.choices(early, k=2))),
            writing(saved[0]),
            *(outside(step) for step in sorted(chance.sample(middle, 3))),
            writing(chance.randrange(late, saved[-1])),
            writing(saved[-1]),
            writing(chance.randrange(saved[-1] + 1, len(self.writes))),
        ]


@pytest.mark.parametrize("package", JOBS)
def test_a_job_killed_ten_times_ends_like_an_uninterrupted_one(
    package: str, nursery: Nursery, chance: random.Random, tmp_path: Path
) -> None:
    job = JOBS[package]
    write_data(tmp_path)
    whole = undisturbed(nursery, job, tmp_path / "whole")
    folder, number, fresh, resumed = tmp_path / "killed-0", 0, 0, 0
    moments = whole.moments(chance)
    print(f"undisturbed {whole.seconds:.2f} s, {len(whole.writes)} files written")
    for attempt in range(4 * KILLS):
        moment = moments[number]
        before, had = stamp(folder), checkpoints(folder)
        nursery.begin(job, folder, moment.death)
        code, blocks = killed(nursery, folder, moment, before)
        print(f"{moment}: exit code {code}, checkpoints {len(had)} before, {len(checkpoints(folder))} after")
        context = f"attempt {attempt}, to be killed at {moment}: {words(folder)}"
        assert code in (0, -signal.SIGKILL), context
        assert eventually(lambda: not nursery.descendants()), context
        assert eventually(functools.partial(are_gone, blocks)), (context, blocks)
        if not code:  # finished before it was killed, on a busy machine: start another one
            assert_same(whole.folder, folder)
            folder, number = tmp_path / f"killed-{attempt + 1}", min(number, FIRST_CHECKPOINT)
            continue
        if moment.death and moment.death["share"] < 1:
            assert list(folder.rglob(".*.tmp")), context
        assert_all_whole(folder)
        fresh += not checkpoints(folder)
        resumed += bool(had) and stamp(folder) != before
        number += 1
        if number == KILLS:
            break
    assert number == KILLS
    assert fresh >= 1 and resumed >= 4  # on any machine: see Whole.moments
    run_cold(nursery, job, folder)
    assert_same(whole.folder, folder)


def test_a_reduction_killed_ten_times_leaves_no_partial_files_and_gives_the_same_bytes(
    nursery: Nursery, chance: random.Random, tmp_path: Path
) -> None:
    """gmr-metric has no job with checkpoints: `reduce` is killed, which starts again and writes 3 files."""
    job = Job(
        "gmr_metric",
        "reduce ../mixture.json -k 4 --out run/reduced.npz --trace run/trace.json --plot run/picture.png",
        ("scipy.optimize", "matplotlib.figure", "matplotlib.backends.backend_agg"),
    )
    environ = {"GMR_METRIC_NUMBA": "0"}  # numba's compilation would take longer than the job
    weights, points = np.full(60, 1 / 60), np.random.default_rng(0).normal(size=(60, 2))
    mixture = {"format": "gmr-metric mixture", "version": 1, "weights": weights.tolist(), "means": points.tolist(),
               "covariances": np.broadcast_to(0.1 * np.eye(2), (60, 2, 2)).tolist()}  # fmt: skip
    (tmp_path / "mixture.json").write_text(json.dumps(mixture))
    whole = undisturbed(nursery, job, tmp_path / "whole", environ)
    made = {path.name: path.read_bytes() for path in (whole.folder / RUN).iterdir()}
    assert sorted(made) == ["picture.png", "reduced.npz", "trace.json"]
    print(f"undisturbed {whole.seconds:.2f} s")
    folder, number = tmp_path / "killed", 0
    moments = [Moment(delay=chance.uniform(part, part + 1) / 7 * whole.seconds) for part in range(7)]
    moments += [Moment({"at": at, "after": "", "share": chance.random()}) for at in whole.writes]
    chance.shuffle(moments)
    for _ in range(4 * KILLS):
        moment = moments[number]
        nursery.begin(job, folder, moment.death, environ)
        code = nursery.end() if moment.death else nursery.ended(moment.delay)
        if code is None:
            nursery.kill()
            code = nursery.end()
        print(f"{moment}: exit code {code}")
        assert code in (0, -signal.SIGKILL), words(folder)
        found = {path.name: path.read_bytes() for path in (folder / RUN).glob("[!.]*")}
        assert found == {name: made[name] for name in found}
        if code:
            number += 1
        else:  # too late: kill earlier next time
            assert len(found) == len(made)
            moments[number] = dataclasses.replace(moment, delay=moment.delay * chance.random())
        for path in (folder / RUN).glob("[!.]*"):
            path.unlink()  # so that the next attempt writes its own
        if number == KILLS:
            break
    assert number == KILLS
    run_cold(nursery, job, folder, environ)
    assert {path.name: path.read_bytes() for path in (folder / RUN).iterdir()} == made


def are_gone(paths: set[Path]) -> bool:
    return not any(path.exists() for path in paths)


def undisturbed(nursery: Nursery, job: Job, folder: Path, environ: dict[str, str] | None = None) -> Whole:
    """Run a job to its end."""
    nursery.begin(job, folder, environ=environ)
    began = time.monotonic()  # without the imports
    assert nursery.end() == 0, words(folder)
    seconds = time.monotonic() - began
    writes = [name for name in (folder / "writes.txt").read_text().splitlines() if name.startswith(f"{RUN}/")]
    return Whole(folder, writes, seconds)


def killed(nursery: Nursery, folder: Path, moment: Moment, before: tuple[int, int] | None) -> tuple[int, set[Path]]:
    """Kill the job at a moment, or wait until it dies; return its exit code and its named shared memory."""
    if moment.death:
        return nursery.end(), set()
    until = time.monotonic() + LIMIT
    while stamp(folder) == before or max([-1, *steps_of(folder / METRICS)]) < moment.step:
        if (code := nursery.ended(0.005)) is not None:
            return code, set()
        if time.monotonic() > until:
            nursery.kill()
            nursery.end()
            pytest.fail(f"the job did not come to step {moment.step} in {LIMIT:g} s: {words(folder)}")
    if (code := nursery.ended(moment.delay)) is not None:
        return code, set()
    blocks = nursery.kill()
    return nursery.end(), blocks


def run_cold(nursery: Nursery, job: Job, folder: Path, environ: dict[str, str] | None = None) -> None:
    """Run the command once more to its end in a new process, as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", job.module, *job.words.split()],
        cwd=folder, env={**nursery.environ, **(environ or {})}, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert eventually(lambda: not nursery.descendants())


def stamp(folder: Path) -> tuple[int, int] | None:
    """Identify the version of metrics.jsonl, which every job rewrites when it starts."""
    with contextlib.suppress(FileNotFoundError):
        found = (folder / METRICS).stat()
        return found.st_ino, found.st_ctime_ns
    return None


def steps_of(path: Path) -> list[int]:
    """Return the steps of whole rows."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [int(json.loads(line)["step"]) for line in lines if line.endswith("\n")]


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / CHECKPOINTS).glob("step-*"))


def words(folder: Path) -> str:
    path = folder / "words.txt"
    return path.read_text(encoding="utf-8")[-3000:] if path.exists() else "no words"


def eventually(question: Callable[[], bool]) -> bool:
    """Wait until a condition holds that another process or the kernel brings about."""
    until = time.monotonic() + 60
    while not question() and time.monotonic() < until:
        time.sleep(0.05)
    return question()


def assert_same(whole: Path, other: Path) -> None:
    """Hold a run against one that was never killed: the same files, hidden ones too, of the same content.

    An old checkpoint may be too many: that of a kill between the last one's writing and the oldest one's deletion.
    """
    oldest = min(path.name for path in checkpoints(whole))
    for path in checkpoints(other):
        if path.name < oldest:
            path.unlink()
    names = [sorted(str(path.relative_to(folder)) for path in (folder / RUN).rglob("*")) for folder in (whole, other)]
    assert names[0] == names[1]
    for name in names[0]:
        if (whole / name).is_file() and Path(name) != RUN / ".lock":  # which names the process
            assert content(whole / name) == content(other / name), name


def assert_all_whole(folder: Path) -> None:
    """Read every file except temporary ones."""
    for path in (folder / RUN).rglob("*"):
        if path.is_file() and path.name not in LOGS and not path.name.startswith("."):
            content(path)
