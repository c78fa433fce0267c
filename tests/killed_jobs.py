"""Fork a command for every line of standard input, so that imports are done once however often the command is killed.

A line is an order in JSON: the command's module and arguments, the working folder, modules to import first, environment
variables, and optionally a file while whose writing the command dies. The answers are the child's process id and, once
it has ended, its exit code (minus the number of the signal that ended it).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

WRITES, WORDS = "writes.txt", "words.txt"


def serve() -> None:
    """Process orders until the input ends."""
    for line in sys.stdin:
        order = json.loads(line)
        for name in order["preload"]:
            import_module(name)
        command = import_module(f"{order['module']}.__main__").main
        if len(os.listdir("/proc/self/task")) > 1:
            raise RuntimeError("a thread is running, which would not survive a fork")
        child = os.fork()
        if not child:
            become(command, order)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(command: Callable[[Sequence[str]], int], order: dict[str, Any]) -> None:
    """Run the command in its own process group and exit."""
    os.setpgid(0, 0)
    os.chdir(order["folder"])
    os.environ.update(order["environ"])
    words = os.open(WORDS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream, ours in ((0, os.open(os.devnull, os.O_RDONLY)), (1, words), (2, words)):
        os.dup2(ours, stream)
    watch_writes(order["death"])
    code = 1
    try:
        code = command(order["words"])
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def watch_writes(death: dict[str, Any] | None) -> None:
    """Record every file that is renamed to its final name; kill the process group at the requested one.

    The death leaves what a SIGKILL during the writing leaves: part of the temporary file. With a share of 1 it happens
    right after the rename, before the command continues.
    """
    replace = os.replace

    def watched(source: str | Path, target: str | Path) -> None:
        name = os.path.relpath(target)
        share = None
        if death is not None and name == death["at"] and (not death["after"] or os.path.exists(death["after"])):
            share = float(death["share"])
        if share is None or share == 1:
            replace(source, target)
        else:
            os.truncate(source, int(share * os.path.getsize(source)))
        with open(WRITES, "a", encoding="utf-8") as file:
            file.write(f"{name}\n")
        if share is not None:
            os.killpg(0, signal.SIGKILL)

    os.replace = watched  # type: ignore[assignment]


if __name__ == "__main__":
    serve()
