"""Command lines: sub-commands from typed functions, one-line errors, exit codes.

Exit codes: 0 done, 1 a fault of ours (with its traceback), 2 input that cannot be used
(one line on stderr), 130 stopped by Ctrl-C after a checkpoint.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from sextet_common.errors import InputError

OK, BAD_INPUT, INTERRUPTED = 0, 2, 130


def run(
    program: str,
    commands: Mapping[str, Callable[..., Any]],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse the command line, run one sub-command and return the exit code.

    Parameters
    ----------
    program
        The distribution's name: the command's name, and whose version ``--version`` prints.
    commands
        The sub-commands: functions whose typed parameters are the options (dataclass
        parameters are spread out) and whose docstrings are the help.
    arguments
        The words after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code.

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
    import tyro

    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        print(f"{program} {version(program)}")
        return OK
    if not words:
        words = ["--help"]
    complaint = io.StringIO()
    options = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    try:
        with contextlib.redirect_stderr(complaint):
            called = tyro.extras.subcommand_cli_from_dict(
                {name: _deferred(command) for name, command in commands.items()},
                prog=program,
                args=words,
                config=options,
                use_underscores=False,
            )
    except SystemExit as stop:
        if stop.code in (None, 0):
            return OK
        print(f"{program}: {_in_one_line(complaint.getvalue())} (see {program} --help)", file=sys.stderr)
        return BAD_INPUT
    try:
        called()
    except InputError as error:
        print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return OK


def _deferred(command: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    """Wrap a command so that parsing returns the call instead of making it.

    The parser's complaints are captured; those of the command itself must not be.
    """
    import functools

    @functools.wraps(command)
    def later(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return functools.partial(command, *args, **kwargs)

    return later


def _in_one_line(box: str) -> str:
    r"""Reduce the parser's framed message to its sentence.

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
