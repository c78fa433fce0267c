"""Let accidents happen to the common jobs, and count what goes wrong: tracebacks, wrong results, leftovers.

A combination is a job with one to four attempts, each with an accident: killed or interrupted at one of its calls that
change a file or at a random moment, started twice, on a full disk or in a folder that cannot be written. Between the
attempts files are damaged, settings change and runs become longer. A last attempt without an accident must end like a
run that was never disturbed, bit by bit, and every attempt without a traceback and with the right exit code.

Accidents at a call repeat exactly; those at a moment (about a third of the kills) depend on the machine's load.

    python tools/reliability.py [--count 1000] [--seed 0] [--only NUMBER] [--jobs NAME...] [--json FILE]
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import dataclasses
import fcntl
import functools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accidents
from accidents import NO_ACCIDENT, Accident, Attempt, Outcome
from common_jobs import JOBS, LOGS, STEPS, Job, Settings, content, write_data

PROBLEMS = ("tracebacks", "wrong results", "leftovers")
_CODES = {
    "none": {0},
    "kill": {0, -signal.SIGKILL},
    "interrupt": {0, 130, -signal.SIGTERM},
    "full": {0, 2},
    "read-only": {0, 2},
}
SHORTER = (4, 9)  # steps of the runs that become longer
KEPT = 2  # checkpoints in a run folder
_SMALL = 24 << 20  # bytes of the small file system


class Lab:
    """The folders of all combinations, and the undisturbed runs that they are compared with."""

    def __init__(self, base: Path) -> None:
        self.base, self.small = base, _mount_small(base / "small")
        self.data = base / "data"
        self.data.mkdir()
        write_data(self.data)

    @classmethod
    @contextlib.contextmanager
    def in_folder(cls, base: Path) -> Iterator[Lab]:
        """Yield a laboratory; at the end its small file system is gone."""
        lab = cls(base)
        try:
            yield lab
        finally:
            if lab.small:
                ctypes.CDLL(None).umount2(os.fsencode(lab.small), 2)

    @contextlib.contextmanager
    def folder(self, *, small: bool) -> Iterator[Path]:
        """Yield a new working folder with the jobs' data, and delete it."""
        place = Path(tempfile.mkdtemp(dir=self.small if small and self.small else self.base))
        for item in self.data.iterdir():
            (place / item.name).symlink_to(item)
        try:
            yield place
        finally:
            shutil.rmtree(place)

    @functools.cache  # noqa: B019
    def _prepare(self, job: Job) -> None:
        """Import what a job needs, here instead of in every attempt."""
        before = Path.cwd()
        with self.folder(small=False) as folder:
            os.chdir(folder)
            job.call.prepare()
            os.chdir(before)

    @functools.cache  # noqa: B019
    def undisturbed(self, job: Job, settings: Settings) -> tuple[dict[str, Any], int, float]:
        """Return the files of an undisturbed run, and how many calls and seconds it makes."""
        self._prepare(job)
        with self.folder(small=False) as folder:
            began = time.monotonic()
            outcome = Attempt(lambda: job.call(settings), folder, NO_ACCIDENT).end()
            seconds = time.monotonic() - began
            if outcome.code:
                raise RuntimeError(f"{job.name} fails without an accident: {outcome.words}")
            return files_of(folder / "out"), outcome.calls, seconds


@dataclasses.dataclass
class Combination:
    """One job with its accidents; ``story`` is what happened, ``problems`` what should not have."""

    number: int
    seed: int
    lab: Lab
    problems: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    story: list[str] = dataclasses.field(default_factory=list)
    damaged: dict[Path, bytes | None] = dataclasses.field(default_factory=dict)

    def run(self, names: list[str]) -> None:
        """Draw everything and do it."""
        chance = random.Random(f"{self.seed} {self.number}")
        jobs = [JOBS[name] for name in names]
        self.job = chance.choices(jobs, [job.weight for job in jobs])[0]
        on_small = self.lab.small is not None and chance.random() < 0.25
        count = chance.randint(1, 4)
        with self.lab.folder(small=on_small) as self.folder:
            for settings in self._settings(chance, count):
                self._accident(chance, settings, on_small)
            self.story.append("the last attempt")
            self._last(Settings())

    def _settings(self, chance: random.Random, count: int) -> list[Settings]:
        if self.job.grows:
            steps = sorted(chance.choices((*SHORTER, STEPS), (1, 1, 3))[0] for _ in range(count))
            return [Settings(steps=number, threads=chance.randint(1, 3)) for number in steps]
        versions = self.job.name in ("checkpoint", "text", "folder")
        return [Settings(version=chance.randint(0, 2) if versions else 0) for _ in range(count)]

    def _accident(self, chance: random.Random, settings: Settings, on_small: bool) -> None:
        _, calls, seconds = self.lab.undisturbed(self.job, settings)
        accident = accidents.draw(chance, calls, on_small)
        self.story.append(f"{accident} with {settings}")
        if accident.kind == "double":
            first, second = (Attempt(self._call(settings), self.folder, NO_ACCIDENT) for _ in range(2))
            if accident.delay:
                time.sleep(accident.delay * seconds)
                first.kill(signal.SIGKILL)
            self._judge_double([first.end(), second.end()], killed=bool(accident.delay))
        else:
            self._attempt(settings, accident)
        if self.job.run and chance.random() < 0.4:
            self._damage(chance)

    def _call(self, settings: Settings) -> Callable[[], int]:
        return lambda: self.job.call(settings)

    def _attempt(self, settings: Settings, accident: Accident) -> Outcome:
        _, _, seconds = self.lab.undisturbed(self.job, settings)
        before = temporaries(self.folder)
        with _condition(self.folder, accident):
            outcome = Attempt(self._call(settings), self.folder, accident).end(accident, seconds)
        refused = outcome.code == 2 and self._may_refuse(outcome)
        if outcome.code not in _CODES[accident.kind] and not refused:
            self._wrong(f"{accident}: exit code {outcome.code}: {outcome.words[-500:]}")
        self._judge(outcome)
        if outcome.code not in (-signal.SIGKILL, -signal.SIGTERM) and accident.kind != "read-only":
            for path in temporaries(self.folder) - before:
                self.problems.append(("leftovers", f"{accident} left {path}"))
        return outcome

    def _judge_double(self, outcomes: list[Outcome], *, killed: bool) -> None:
        """Of two attempts at once, one does its work; the other may be told that the folder is in use."""
        codes = sorted(outcome.code for outcome in outcomes)
        allowed = [[0, 0], [0, 2]] if self.job.run else [[0, 0]]
        allowed += [[-signal.SIGKILL, code] for code in (0, 2)] if killed else []
        refused = all(outcome.code != 2 or self._may_refuse(outcome) for outcome in outcomes)
        if codes not in allowed and not (refused and 2 in codes):
            self._wrong(f"two at once: exit codes {codes}: {[outcome.words[-300:] for outcome in outcomes]}")
        for outcome in outcomes:
            self._judge(outcome)

    def _judge(self, outcome: Outcome) -> None:
        """Check what an attempt said and left behind."""
        self.story.append(f"  exit code {outcome.code} {outcome.words.strip()[-200:]}")
        if "Traceback" in outcome.words or "Exception ignored" in outcome.words:
            self.problems.append(("tracebacks", outcome.words[-3000:]))
        said = [line for line in outcome.words.splitlines() if "warning:" not in line]
        if outcome.code == 2 and len(said) != 1:
            self._wrong(f"{len(said)} lines instead of one: {said[-5:]}")
        if not _is_gone(outcome.group):
            self.problems.append(("leftovers", f"the processes {outcome.group} are left"))
        for path in self._visible():
            if path.name not in LOGS and path not in self._still_damaged():
                self._check_whole(path)

    def _check_whole(self, path: Path) -> None:
        try:
            found = content(path)
        except Exception as error:
            self._wrong(f"{path.relative_to(self.folder)} is not whole: {error!r}")
            return
        name = str(path.relative_to(self.folder / "out"))
        if self.job.name in ("checkpoint", "text", "folder"):
            versions = [self.lab.undisturbed(self.job, Settings(version=version))[0] for version in range(3)]
            if found not in [files.get(name) for files in versions]:
                self._wrong(f"{name} is of no version that was written")

    def _visible(self) -> list[Path]:
        return [p for p in (self.folder / "out").rglob("*") if p.is_file() and not _is_hidden(p, self.folder)]

    def _damage(self, chance: random.Random) -> None:
        run = self.folder / self.job.run
        before = {path: _bytes(path) for path in run.rglob("*")} if run.is_dir() else {}
        done = accidents.damage(chance, run)
        self.story.append(f"damage: {done}" if done else "nothing to damage")
        after = {path: _bytes(path) for path in run.rglob("*")} if run.is_dir() else {}
        self.damaged |= {path: after.get(path) for path in {*before, *after} if before.get(path) != after.get(path)}

    def _still_damaged(self) -> set[Path]:
        return {path for path, damaged in self.damaged.items() if _bytes(path) == damaged}

    def _may_refuse(self, outcome: Outcome) -> bool:
        """Return whether a refusal is right: the settings are damaged, or every checkpoint is."""
        damaged = self._still_damaged()
        if any(path.name == "config.json" for path in damaged) and "config.json" in outcome.words:
            return True
        left = set((self.folder / self.job.run / "checkpoints").glob("step-*.safetensors")) if self.job.run else set()
        return bool(left) and left <= damaged and "step-" in outcome.words

    def _last(self, settings: Settings) -> None:
        """Finish without an accident, after what the error advises, and compare with an undisturbed run."""
        outcome = self._attempt(settings, NO_ACCIDENT)
        if outcome.code == 2 and self._may_refuse(outcome):
            whole = "config.json" in outcome.words
            shutil.rmtree(self.folder / self.job.run / ("" if whole else "checkpoints"))
            self.story.append(f"deleted {'the run' if whole else 'its checkpoints'}")
            outcome = self._attempt(settings, NO_ACCIDENT)
        if outcome.code:
            return
        expected, found = self.lab.undisturbed(self.job, settings)[0], files_of(self.folder / "out")
        for files in (expected, found):
            _keep_newest_checkpoint(files)
        _drop_earlier_ends(found.get("run/metrics.jsonl"), expected.get("run/metrics.jsonl"))
        for name in sorted({*expected, *found}):
            if name not in found:
                self._wrong(f"{name} is missing")
            elif name not in expected:
                if not _is_free_lock(self.folder / "out" / name) and not self._is_set_aside(name):
                    self.problems.append(("leftovers", f"{name} is left"))
            elif found[name] != expected[name]:
                self._wrong(f"{name} differs from that of an undisturbed run")

    def _is_set_aside(self, name: str) -> bool:
        """Return whether a file is what we damaged, kept under the name that the warning gave until the next save."""
        return name.endswith(".damaged") and self.folder / "out" / name.removesuffix(".damaged") in self.damaged

    def _wrong(self, text: str) -> None:
        self.problems.append(("wrong results", text))


def files_of(folder: Path) -> dict[str, Any]:
    """Return the content of all files, hidden ones too; a run's settings without those that may differ."""
    contents: dict[str, Any] = {}
    for path in folder.rglob("*"):
        if path.is_file() or path.is_symlink():
            name = str(path.relative_to(folder))
            contents[name] = content(path) if not _is_hidden(path, folder) else None
            if path.name == "config.json":
                contents[name] = {k: v for k, v in contents[name].items() if k != "earlier"}
                for changeable in ("threads",):
                    contents[name]["config"].pop(changeable, None)
    return contents


def _keep_newest_checkpoint(files: dict[str, Any]) -> None:
    """Forget the older ones: after an interruption they are of other steps, and a kill leaves one too many."""
    older = sorted(name for name in files if "/step-" in name and name.endswith(".safetensors"))[:-1]
    for name in older if len(older) <= KEPT else ():
        del files[name]


def _drop_earlier_ends(found: list[dict[str, Any]] | None, expected: list[dict[str, Any]] | None) -> None:
    """Delete the rows of last steps, logged whatever the cadence says, of a run that has become longer."""
    if found and expected:
        steps = {row["step"] for row in expected}
        found[:] = [row for row in found if row["step"] in steps or row["step"] not in SHORTER]


def temporaries(folder: Path) -> set[Path]:
    """Return the temporary files in a folder."""
    return {path for path in (folder / "out").rglob(".*") if path.name.endswith(".tmp")}


def _is_gone(group: int, seconds: float = 30.0) -> bool:
    """Return whether a process group ends; what cleans up after a killed process takes a moment."""
    until = time.monotonic() + seconds
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(group, 0)
            if time.monotonic() > until:
                os.killpg(group, signal.SIGKILL)
                return False
            time.sleep(0.01)
    return True


def _is_hidden(path: Path, above: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(above).parts) or path.name.endswith(".damaged")


def _is_free_lock(path: Path) -> bool:
    """Return whether a file is a lock that nobody holds: the next job takes it."""
    if not path.name.endswith(".lock"):
        return False
    with open(path, "rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _bytes(path: Path) -> bytes | None:
    if path.is_symlink():
        return b"a link"
    return path.read_bytes() if path.is_file() else None


@contextlib.contextmanager
def _condition(folder: Path, accident: Accident) -> Iterator[None]:
    """Fill the disk, or take away the right to write, for one attempt."""
    filler = folder.parent / "filler"
    if accident.free >= 0:
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free - accident.free, 1))
    places = [p for p in (folder, *folder.rglob("*")) if not p.is_symlink()] if accident.kind == "read-only" else []
    modes = {place: place.stat().st_mode for place in places}
    for place, mode in modes.items():
        place.chmod(mode & ~0o222)
    try:
        yield
    finally:
        filler.unlink(missing_ok=True)
        for place, mode in modes.items():
            place.chmod(mode)


def _mount_small(place: Path) -> Path | None:
    """Mount a small file system that only this process and its children see; None where that is not allowed."""
    if not sys.platform.startswith("linux") or os.getuid():
        return None
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    private, new_namespace = 0x44000, 0x20000  # MS_REC | MS_PRIVATE, CLONE_NEWNS
    if libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, private, None):
        return None
    if libc.mount(b"none", os.fsencode(place), b"tmpfs", 0, f"size={_SMALL},mode=755".encode()):
        return None
    return place


def report(combinations: list[Combination], seconds: float) -> tuple[dict[str, Any], str]:
    """Return the counts as JSON, and as one line of Markdown."""
    counts = {kind: sum(any(k == kind for k, _ in c.problems) for c in combinations) for kind in PROBLEMS}
    jobs = collections.Counter(c.job.name for c in combinations)
    attempts = collections.Counter(line.split("(")[0] for c in combinations for line in c.story if " with Sett" in line)
    attempts["damage"] = sum(line.startswith("damage: ") for c in combinations for line in c.story)
    table = {"combinations": len(combinations), **counts, "accidents": attempts, "jobs": jobs, "seconds": seconds}
    numbers = ", ".join(f"{count} {name}" for name, count in counts.items())
    return table, f"**{len(combinations)} combinations** with {sum(attempts.values())} accidents: {numbers}."


def main(words: list[str] | None = None) -> int:
    """Try combinations; return 1 if one of them shows a problem."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="combinations")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other combinations")
    parser.add_argument("--only", type=int, help="repeat the combination of this number and tell its story")
    parser.add_argument("--jobs", nargs="+", choices=sorted(JOBS), default=sorted(JOBS), help="by default all")
    parser.add_argument("--json", type=Path, help="file for the counts")
    given = parser.parse_args(words)
    began, combinations = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="reliability-") as base, Lab.in_folder(Path(base)) as lab:
        for number in range(given.count) if given.only is None else [given.only]:
            combination = Combination(number, given.seed, lab)
            combination.run(given.jobs)
            combinations.append(combination)
            if len(combinations) % 50 == 0:
                print(f"{len(combinations)} of {given.count} combinations", file=sys.stderr)
            if combination.problems or given.only is not None:
                repeat = f"--seed {given.seed} --only {number}"
                repeat += "" if len(given.jobs) == len(JOBS) else f" --jobs {' '.join(given.jobs)}"
                print(f"combination {number}, {combination.job.name}: repeat with {repeat}")
                print(*combination.story, *(f"{kind.upper()}: {text}" for kind, text in combination.problems), sep="\n")
    table, line = report(combinations, round(time.monotonic() - began, 1))
    if given.json:
        given.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(line)
    return int(any(table[kind] for kind in PROBLEMS))


if __name__ == "__main__":
    sys.exit(main())
