"""Command lines: sub-commands from typed functions, one-line errors, exit codes.

Exit codes: 0 success, 1 a bug (with its traceback), 2 bad input (one line on stderr), 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sextet_common.errors import InputError

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
        from importlib.metadata import version

        print(f"{program} {version(program)}")
        return OK
    if not words or words[0] in ("--help", "-h"):
        print(_help(program, summaries))
        return OK
    name, *options = words
    try:
        if name not in summaries:
            close = difflib.get_close_matches(name, summaries, 1)
            hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(summaries)}"
            return _refuse(program, f"{name!r} is not a command; {hint}", f"{program} --help")
        command = commands[name] if isinstance(commands, Mapping) else _imported(commands, name)
        if hasattr(command, "command_of"):
            command = command.command_of(options)
        called = _parse(f"{program} {name}", command, options)
        if isinstance(called, int):
            return called
        called()
    except InputError as error:
        return _refuse(program, str(error))
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def from_options(factory: Callable[[Sequence[str]], Command]) -> Command:
    """Mark a function that returns the command for the options given, where these decide about the defaults.

    Its docstring is the summary in the program's help.
    """
    factory.command_of = factory  # type: ignore[attr-defined]
    return factory


def _parse(program: str, command: Command, options: Sequence[str]) -> Callable[[], Any] | int:
    """Return the call that the options ask for, or the exit code where there is nothing to call."""
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            called: Callable[[], Any] = tyro.cli(
                _deferred(command),
                prog=program,
                args=options,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
                use_underscores=False,
            )
    except SystemExit as stop:
        if stop.code in (None, 0):
            return OK
        return _refuse(program.partition(" ")[0], _in_one_line(complaint.getvalue()), f"{program} --help")
    return called


def _refuse(program: str, sentence: str, see: str = "") -> int:
    print(f"{program}: {' '.join(sentence.split())}{f' (see {see})' if see else ''}", file=sys.stderr)
    return BAD_INPUT


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


def _deferred(command: Command) -> Callable[..., Callable[[], Any]]:
    """Wrap a command so that parsing returns the call: only the parser's complaints are captured, not the command's."""

    @functools.wraps(command)
    def later(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return functools.partial(command, *args, **kwargs)

    return later


def _in_one_line(box: str) -> str:
    r"""Reduce the parser's framed message to its sentence.

    Examples
    --------
    >>> _in_one_line("╭─ Oops ─╮\n│ Missing value. │\n│ ────── │\n│ For full helptext, run x │\n╰────────╯")
    'Missing value.'
    """
    sentences = []
    for line in box.strip().splitlines()[1:]:  # the first line is the frame's or, without a frame, the title
        text = line.strip().strip("│|").strip()
        if text.startswith("╰") or not text.strip("─-"):
            continue  # the frame's last line, and rules
        if "helptext" in text:
            break  # what follows repeats the help
        sentences.append(text)
    # An InputError that a configuration raises comes with the parser's own name for that configuration, no option.
    text = re.sub(r"^Error parsing (?!-)\S+: ", "", " ".join(sentences))
    return text or "the command line cannot be read"
