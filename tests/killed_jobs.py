"""Forks a command for every line on its standard input: its imports are paid for once, however often it is killed.

A line is an order as JSON: the command's module and words, the folder to work in, what else to import first,
environment variables, and perhaps a file at whose writing the command is to die. The answers are the child's process
number, then, when it has ended, its exit code (minus the number of the signal that ended it).
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
    """Take orders until there is no more."""
    for line in sys.stdin:
        order = json.loads(line)
        for name in order["preload"]:
            import_module(name)
        command = import_module(f"{order['module']}.__main__").main
        if len(os.listdir("/proc/self/task")) > 1:
            raise RuntimeError("a thread is running, and would not be there after a fork")
        child = os.fork()
        if not child:
            become(command, order)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(command: Callable[[Sequence[str]], int], order: dict[str, Any]) -> None:
    """Be the command, in a process group of its own, to the end."""
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
    """Note every file that is put in its place; die, with the whole group, at the one that was asked for.

    Such a death leaves what a SIGKILL during the writing leaves: a part of the temporary file. With a share of 1 it
    comes right after the file has been put in its place, before the command goes on.
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
