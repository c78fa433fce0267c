"""Command lines: sub-commands from typed functions, one-line errors, exit codes.

Exit codes: 0 success, 1 a bug (with its traceback), 2 bad input (one line on stderr), 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import inspect
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from sextet_common import parsing
from sextet_common.errors import InputError
from sextet_common.text import terminal

OK, BAD_INPUT, INTERRUPTED = 0, 2, 130
Command = Callable[..., Any]


def run(program: str, commands: str | Mapping[str, Command], arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run one command and return the exit code.

    Parameters
    ----------
    program
        The name of the distribution, which is also the name of the command; ``--version`` prints its version.
    commands
        The commands: functions whose typed parameters are the options (dataclass parameters are spread out) and whose
        docstrings are the help. Either by name, or the name of a module whose public functions they are: ``map_``
        becomes ``map``, ``two_words`` becomes ``two-words``. Such a module is imported only when one of its commands
        runs, so that ``--help`` is fast.
    arguments
        The words after the program's name; those of the process by default.

    Examples
    --------
    >>> def greet(name: str, times: int = 1) -> None:
    ...     \"\"\"Say hello.\"\"\"
    ...     print("hello " * times + name)
    >>> run("sextet-common", {"greet": greet}, ["greet", "--name", "you", "--times", "2"])
    hello hello you
    0
    >>> run("sextet-common", {"greet": greet}, ["greet", "--name", "you", "--times", "two"])
    2
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    summaries = (
        _summaries_in_source(commands)
        if isinstance(commands, str)
        else {name: _summary(inspect.getdoc(command)) for name, command in commands.items()}
    )
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


def _run(
    program: str, commands: str | Mapping[str, Command], summaries: Mapping[str, str], name: str, *words: str
) -> None:
    if name not in summaries:
        close = difflib.get_close_matches(name, summaries, 2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"one of {', '.join(summaries)}"
        raise InputError(f"{terminal(name, 40)!r} is not a command; {terminal(hint, 80)} (see {program} --help)")
    command = commands[name] if isinstance(commands, Mapping) else _imported(commands, name)
    extras = getattr(command, "needs", ())
    if hasattr(command, "command_of"):
        command = command.command_of(parsing.with_config(words))
    called = parsing.parse(f"{program} {name}", command, words)
    if called is not None:
        for extra in extras:
            require_extra(program, extra)
        with contextlib.redirect_stdout(_Printable(sys.stdout)):
            called()


def from_options(factory: Callable[[Sequence[str]], Command]) -> Command:
    """Mark a function that returns the command for the options given, where these decide about the defaults.

    Its docstring is the summary in the program's help.
    """
    factory.command_of = factory  # type: ignore[attr-defined]
    return factory


def needs(*extras: str) -> Callable[[Command], Command]:
    """Mark a command that cannot work without extras of its package: this is said before the work begins."""

    def mark(command: Command) -> Command:
        command.needs = extras  # type: ignore[attr-defined]
        return command

    return mark


def require_extra(package: str, extra: str) -> None:
    """Refuse to go on if something that an extra of a package installs is missing.

    Examples
    --------
    >>> require_extra("sextet-common", "figures")
    """
    missing = _missing(package, extra)
    if missing:
        raise InputError(f"{missing} is not installed", f"pip install '{package}[{extra}]'")


def _missing(distribution: str, extra: str) -> str | None:
    """Return the first distribution of an extra that is not installed, as the metadata of installed packages say."""
    for requirement in metadata.requires(distribution) or ():
        line, _, marker = requirement.partition(";")
        elsewhere = "sys_platform" in marker and sys.platform not in marker
        name, _, rest = re.sub(r"[\s<>=!~].*", "", line.strip()).partition("[")
        if elsewhere or not re.search(rf"extra == ['\"]{extra}['\"]", marker):
            continue
        try:
            metadata.version(name)
            missing = next((m for inner in rest.rstrip("]").split(",") if inner and (m := _missing(name, inner))), None)
        except metadata.PackageNotFoundError:
            missing = name
        if missing:
            return missing
    return None


@contextlib.contextmanager
def _one_line_warnings(program: str) -> Iterator[None]:
    """Print each warning once, as one line without source code."""
    said, before = set[str](), warnings.formatwarning

    def line(message: Warning | str, *_: Any, **__: Any) -> str:
        sentence = f"{program}: warning: {terminal(' '.join(str(message).split()))}\n"
        known = sentence in said
        said.add(sentence)
        return "" if known else sentence

    warnings.formatwarning = line
    try:
        yield
    finally:
        warnings.formatwarning = before


class _Printable(io.TextIOBase):
    """A stream that shows control characters as escapes, so that no name that a command prints acts on the terminal."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write("\n".join("\t".join(map(terminal, line.split("\t"))) for line in text.split("\n")))

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()


def _help(program: str, summaries: Mapping[str, str]) -> str:
    width = max(map(len, summaries), default=0)
    lines = [f"  {name:{width}}  {summary}".rstrip() for name, summary in summaries.items()]
    head = [f"usage: {program} COMMAND [OPTIONS]", f"       {program} --version", "", "commands:"]
    return "\n".join([*head, *lines, "", f"`{program} COMMAND --help` lists the options of a command."])


def _summary(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]


def _summaries_in_source(module: str) -> dict[str, str]:
    """Return the public functions of a module, as commands with their summaries, without importing it."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module named {module!r}", name=module)
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    return {_command_name(f.name): _summary(ast.get_docstring(f)) for f in functions}


def _command_name(function: str) -> str:
    return function.rstrip("_").replace("_", "-")


def _imported(module: str, name: str) -> Command:
    members = vars(import_module(module)).items()
    (command,) = (value for key, value in members if not key.startswith("_") and _command_name(key) == name)
    return command  # type: ignore[no-any-return]
