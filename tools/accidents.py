"""Accidents that happen to a job: run it in a forked process in which a call to the file system fails or kills it.

Everything that the job imports is imported before the fork, so that an attempt takes milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import os
import random
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before NumPy is imported: threads do not survive a fork.
os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pyarrow's allocator starts a thread
os.environ["GMR_METRIC_NUMBA"] = "0"  # its compilation takes longer than the job

LIMIT = 120.0  # seconds after which a job is considered hung, even on a busy machine
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink")


@dataclasses.dataclass(frozen=True)
class Accident:
    """What happens to one attempt.

    Attributes
    ----------
    kind
        none, kill, interrupt, full, read-only or double.
    call
        It happens at this call that changes a file, counted from 1; 0 for no call.
    delay
        Or after this share of the time that an undisturbed attempt takes.
    signal
        What an interrupt sends.
    once
        A full disk that has space again for the next call.
    size
        No file may grow beyond so many bytes; -1 for no limit.
    free
        So many bytes are left on a small file system; -1 for no such thing.
    """

    kind: str = "none"
    call: int = 0
    delay: float = 0.0
    signal: int = signal.SIGINT
    once: bool = False
    size: int = -1
    free: int = -1

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "kind"}
        changed = [f"{k}={v:.4g}" for k, v in given.items() if v != Accident.__dataclass_fields__[k].default]
        return f"{self.kind}({', '.join(changed)})"


NO_ACCIDENT = Accident()


@dataclasses.dataclass
class Outcome:
    """How an attempt ended: the exit code (minus the signal's number), its words on stderr, and its process group."""

    code: int
    words: str
    group: int
    calls: int = 0


def draw(chance: random.Random, calls: int, small: bool) -> Accident:
    """Draw an accident for a job that makes so many calls; ``small``: on a small file system."""
    call = chance.randint(1, calls + 2)
    delay = chance.uniform(0, 1.2)
    kind = chance.choices(("kill", "interrupt", "full", "read-only", "double"), (40, 12, 24, 8, 16))[0]
    if kind in ("kill", "interrupt"):
        number = chance.choice((signal.SIGINT, signal.SIGTERM))
        timed = chance.random() < 0.3
        return Accident(kind, call=0 if timed else call, delay=delay if timed else 0.0, signal=number)
    if kind == "full":
        way = chance.choice(("call", "size", "free") if small else ("call", "size"))
        if way == "call":
            return Accident(kind, call=call, once=chance.random() < 0.3)
        amount = int(10 ** chance.uniform(1, 4))
        return Accident(kind, size=amount) if way == "size" else Accident(kind, free=amount)
    return Accident(kind, delay=chance.choice((0.0, delay)) if kind == "double" else 0.0)


class Attempt:
    """A job in a forked process, in its own process group."""

    def __init__(self, job: Callable[[], int], folder: Path, accident: Accident) -> None:
        _check_threads()
        self.began = time.monotonic()
        self._output, output = os.pipe()
        self._ready, ready = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = os.fork()
        if not self.process:
            _become(job, folder, accident, output, ready)
        os.close(output)
        os.close(ready)
        self._calls = b""

    def end(self, accident: Accident = NO_ACCIDENT, seconds: float = 0.0) -> Outcome:
        """Wait for the end; a timed accident to a job of so many seconds happens meanwhile."""
        if accident.kind in ("kill", "interrupt") and not accident.call:
            select.select([self._ready], [], [], LIMIT)  # the job begins
            if not self._wait(accident.delay * seconds):
                self.kill(signal.SIGKILL if accident.kind == "kill" else accident.signal)
        hung = not self._wait(LIMIT)
        if hung:
            self.kill(signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        words = _rest_of(self._output).decode("utf-8", "replace")
        told = _rest_of(self._ready)[1:]
        return Outcome(code, words + ("\nthe job hung" if hung else ""), self.process, int(told or 0))

    def kill(self, number: int) -> None:
        """Send a signal to the process group."""
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.killpg(self.process, number)

    def _wait(self, seconds: float) -> bool:
        """Wait for the end at most this long, without reaping the process."""
        until = time.monotonic() + seconds
        pause = 0.001
        while True:
            if os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(min(pause, max(until - time.monotonic(), 0)))
            pause = min(2 * pause, 0.02)


def _check_threads() -> None:
    """Refuse to fork with threads running; only the memory allocator of pyarrow knows how to survive that."""
    for thread in Path("/proc/self/task").iterdir():
        name = (thread / "comm").read_text().strip()
        if int(thread.name) != os.getpid() and name != "jemalloc_bg_thd":
            raise RuntimeError(f"the thread {name} is running, which would not survive a fork")


def _become(job: Callable[[], int], folder: Path, accident: Accident, output: int, ready: int) -> None:
    """Run the job with the accident in preparation, and exit."""
    code, counter = 1, _Counter(folder, accident)
    try:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDWR)
        for stream, ours in ((0, null), (1, null), (2, output)):
            os.dup2(ours, stream)
        os.chdir(folder)
        if accident.kind == "read-only" and os.getuid() == 0:
            _obey_modes()
        if accident.size >= 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (accident.size, resource.RLIM_INFINITY))
        counter.start()
        os.write(ready, b"r")
        code = job()
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    counter.stopped = True
    os.write(ready, str(counter.count).encode())
    os._exit(code)


def _obey_modes() -> None:
    """Give up the capabilities by which root writes where modes forbid it."""
    libc, header, sets = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
        sets[0] &= ~0b110  # the effective CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        libc.capset(header, sets)


class _Counter:
    """Counts this process's calls that change files below a folder, and makes the accident happen at one of them."""

    def __init__(self, folder: Path, accident: Accident) -> None:
        self.folder, self.accident = f"{folder}{os.sep}", accident
        self.count, self.stopped = 0, False

    def start(self) -> None:
        fsync = os.fsync

        def watched(file: Any) -> None:
            self._hear_call("os.fsync")
            fsync(file)

        os.fsync = watched
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.stopped or not (event in _CHANGES or (event == "open" and arguments[2] & _WRITES)):
            return
        if isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path.startswith(self.folder):
                self._hear_call(event, path)

    def _hear_call(self, event: str, path: str | None = None) -> None:
        self.count += 1
        accident = self.accident
        if not accident.call or self.count < accident.call:
            return
        if accident.kind == "kill" and self.count == accident.call:
            os.killpg(0, signal.SIGKILL)
        if accident.kind == "interrupt" and self.count == accident.call:
            os.kill(os.getpid(), accident.signal)
        needs_space = event not in ("os.remove", "os.rmdir", "os.truncate")
        if accident.kind == "full" and needs_space and (self.count == accident.call or not accident.once):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _rest_of(pipe: int) -> bytes:
    """Read what is in a pipe, without waiting for other processes that hold its end, and close it."""
    os.set_blocking(pipe, False)
    content = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(pipe, 1 << 16):
            content += part
    os.close(pipe)
    return content


# ---------------------------------------------------------------------------------------------------------------------
# Damage to the files that an attempt left. Each returns what was done, or nothing if there was nothing to damage.


def damage(chance: random.Random, run: Path) -> str:
    """Damage one file of a run folder."""
    newest = max((p for p in (run / "checkpoints").glob("step-*.safetensors") if p.is_file()), default=None)
    metrics = run / "metrics.jsonl"
    if newest is not None and chance.random() < 0.6:
        return f"{_damage_checkpoint(chance, newest)} {newest.name}"
    if metrics.exists() and chance.random() < 0.8:
        garbage = chance.choice((b'{"step": 3, "lo', b"\0" * 50, b"no JSON\n", b"\xff\xfe\n", b"\n\n", b'"words"\n'))
        with open(metrics, "ab") as file:
            file.write(garbage)
        return f"appended {garbage!r} to metrics.jsonl"
    if (run / "checkpoints").is_dir():
        link = run / "checkpoints" / "step-00000099.safetensors"
        if not link.is_symlink():
            link.symlink_to("nowhere")
            return f"{link.name} is a link to nothing"
    if (run / "config.json").exists():
        content = (run / "config.json").read_bytes()
        (run / "config.json").write_bytes(content[: len(content) * chance.randrange(100) // 100])
        return "truncated config.json"
    return ""


def _damage_checkpoint(chance: random.Random, path: Path) -> str:
    way = chance.choice(("truncated", "flipped a byte of", "emptied", "deleted", "appended to"))
    content = bytearray(path.read_bytes())
    if way == "deleted":
        path.unlink()
        return way
    if way == "truncated":
        content = content[: len(content) * chance.randrange(100) // 100]
    elif way == "flipped a byte of" and content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif way == "emptied":
        content = bytearray()
    elif way == "appended to":
        content += b"more"
    path.write_bytes(content)
    return way
