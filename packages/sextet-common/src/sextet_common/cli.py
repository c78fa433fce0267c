"""Command lines: sub-commands from typed functions, one-line errors, exit codes.

Exit codes: 0 success, 1 a bug (with its traceback), 2 bad input (one line on stderr), 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import inspect
import itertools
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sextet_common import files, parsing
from sextet_common.errors import InputError
from sextet_common.text import terminal

OK, BAD_INPUT, INTERRUPTED = 0, 2, 130
Command = Callable[..., Any]
Commands = str | Mapping[str, Command]


def run(program: str, commands: Commands, arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run one command of a distribution's program and return the exit code.

    ``commands`` are typed functions whose parameters are the options (dataclasses are spread out) and whose docstrings
    are the help: by name, or the name of a module whose public functions they are (``map_`` becomes ``map``), which is
    imported only when one of them runs.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    summaries = _summaries(commands)
    if words == ["--version"]:
        print(f"{program} {metadata.version(program)}")
        return OK
    if not words or words[0] in ("--help", "-h"):
        print(_help(program, summaries))
        return OK
    try:
        with _one_line_warnings(program):
            _run(program, commands, summaries, *words)
    except InputError as error:
        print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def _run(program: str, commands: Commands, summaries: Mapping[str, str], name: str, *words: str) -> None:
    if name not in summaries:
        close = difflib.get_close_matches(name, summaries, 2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"one of {', '.join(summaries)}"
        raise InputError(f"{terminal(name, 40)!r} is not a command; {terminal(hint, 80)} (see {program} --help)")
    _refuse_locked(*words)
    if isinstance(commands, str):
        module, function = import_module(commands), name.replace("-", "_")
        command = getattr(module, function, None) or getattr(module, f"{function}_")
    else:
        command = commands[name]
    called = parsing.parse(f"{program} {name}", command, words)
    if called is not None:
        for extra in getattr(command, "needs", ()):
            require_extra(program, extra)
        printable: Any = _Printable(sys.stdout)
        with contextlib.redirect_stdout(printable):
            called()


def _refuse_locked(*words: str) -> None:
    """Refuse a run folder in which another job runs, before torch is imported."""
    out = next((folder for option, folder in itertools.pairwise(words) if option == "--out"), "")
    is_first = os.environ.get("RANK", "0") == "0"  # of the processes of torchrun, one locks the folder
    if is_first and Path(out, ".lock").exists() and not {"--help", "-h"} & {*words}:
        with contextlib.suppress(OSError):
            lock = files.lock(out)
            if lock is not None:
                lock.release()


def from_options(factory: Callable[[Sequence[str]], Command]) -> Command:
    """Mark a function that returns the command for the words given, where these decide about the defaults."""
    factory.command_of = factory  # type: ignore[attr-defined]
    return factory


def needs(*extras: str) -> Callable[[Command], Command]:
    """Mark a command that cannot work without extras of its package: this is said before the work begins."""

    def mark(command: Command) -> Command:
        command.needs = extras  # type: ignore[attr-defined]
        return command

    return mark


def require_extra(package: str, extra: str) -> None:
    """Refuse to go on if something that an extra of a package installs is missing."""
    for name in _required(package, extra):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            raise InputError(f"{name} is not installed", f"pip install '{package}[{extra}]'") from None


def _required(distribution: str, extra: str) -> Iterator[str]:
    """Yield what an extra installs, then what the extras of that install, as the metadata of installed packages say."""
    for requirement in metadata.requires(distribution) or ():
        line, _, marker = requirement.partition(";")
        elsewhere = "sys_platform" in marker and sys.platform not in marker
        if re.search(rf"extra == ['\"]{extra}['\"]", marker) and not elsewhere:
            name, _, rest = re.sub(r"[\s<>=!~].*", "", line.strip()).partition("[")
            yield name
            for inner in filter(None, rest.rstrip("]").split(",")):
                yield from _required(name, inner)


@contextlib.contextmanager
def _one_line_warnings(program: str) -> Iterator[None]:
    """Print each warning once, as one line without source code."""
    said, before = set[str](), warnings.formatwarning

    def line(message: Warning | str, *_: Any, **__: Any) -> str:
        sentence = f"{program}: warning: {terminal(' '.join(str(message).split()))}\n"
        if sentence in said:
            return ""
        said.add(sentence)
        return sentence

    warnings.formatwarning = line
    try:
        yield
    finally:
        warnings.formatwarning = before


class _Printable:
    """A stream that shows control characters as escapes, so that no name that a command prints acts on the terminal."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        self._stream.write(re.sub(r"[^\n\t]+", lambda run: terminal(run[0]), text))


def _help(program: str, summaries: Mapping[str, str]) -> str:
    width = max(map(len, summaries), default=0)
    lines = [f"  {name:{width}}  {summary}".rstrip() for name, summary in summaries.items()]
    head = [f"usage: {program} COMMAND [OPTIONS]", f"       {program} --version", "", "commands:"]
    return "\n".join([*head, *lines, "", f"`{program} COMMAND --help` lists the options of a command."])


def _summaries(commands: Commands) -> dict[str, str]:
    """Return the first lines of the commands' docstrings; a module of commands is read and not imported."""
    if not isinstance(commands, str):
        return {name: (inspect.getdoc(command) or "").partition("\n")[0] for name, command in commands.items()}
    spec = find_spec(commands)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module named {commands!r}", name=commands)
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    return {f.name.rstrip("_").replace("_", "-"): (ast.get_docstring(f) or "").partition("\n")[0] for f in functions}
