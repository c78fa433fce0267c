"""Run commands and programs in forks of one process that has imported torch and the like, so that pages run faster.

An order is a line of JSON on standard input: a folder, a file for the output, and either a module with a function
``main`` and its arguments, or a program. The answer is the exit code. A fork does what a new interpreter would: it runs
in the folder, the program is its module ``__main__`` with warnings as errors, and functions of ``atexit`` are called.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

# Not our own packages: a program imports them itself, with warnings as errors.
PRELOAD = (
    "torch", "torch._dynamo", "torchvision", "safetensors.torch", "scipy.optimize", "scipy.stats", "sklearn.datasets",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "PIL.Image", "tyro", "gymnasium",
)  # fmt: skip
# A thread does not survive a fork; pyarrow's allocator starts one.
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
ONE_THREAD["JE_ARROW_MALLOC_CONF"] = "background_thread:false"


class Forks:
    """The process that forks, started at the first order."""

    def __init__(self, preload: Sequence[str] = PRELOAD) -> None:
        self.preload = preload
        self.server: subprocess.Popen[str] | None = None

    def run(self, folder: Path, **what: Any) -> tuple[int, str]:
        """Run ``module=`` with ``words=``, or ``program=``, in a folder; return the exit code and the output."""
        if self.server is None:
            pipe = subprocess.PIPE
            command = [sys.executable, str(Path(__file__).resolve()), *self.preload]
            self.server = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **ONE_THREAD}
            )
        assert self.server.stdin is not None and self.server.stdout is not None
        output = folder.with_name(f"{folder.name}.output")
        self.server.stdin.write(json.dumps({"folder": str(folder), "output": str(output), **what}) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        assert answer, "the process that forks has ended"
        return int(answer), output.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """End the process."""
        if self.server is not None:
            self.server.communicate(timeout=60)


def serve(preload: Sequence[str]) -> None:
    """Import some modules, then process orders until the input ends."""
    for name in preload:
        with contextlib.suppress(ImportError):
            import_module(name)
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a thread is running, which would not survive a fork")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            become(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(order: dict[str, Any]) -> None:
    """Run an order and exit."""
    os.chdir(order["folder"])
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream, ours in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(ours, stream)
    code = 0
    try:
        if "program" in order:
            run_program(order["program"])
        else:
            sys.argv = [order["module"], *order["words"]]
            code = import_module(order["module"]).main(order["words"])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the end of an interpreter does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def run_program(text: str) -> None:
    """Run a program as ``python -W error -c`` does."""
    sys.argv, sys.path[0], sys.warnoptions = ["-c"], "", ["error"]
    warnings.simplefilter("error")
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    exec(compile(text, "<string>", "exec"), module.__dict__)


if __name__ == "__main__":
    serve(sys.argv[1:])
