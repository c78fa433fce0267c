"""The words of a command line, with those of a `--config` file, parsed for a command by tyro."""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sextet_common import checks
from sextet_common.errors import STRUCTURE, InputError, reading
from sextet_common.options import REQUIRED, Option, help_page, marks_of, of_command
from sextet_common.text import terminal

# Keys of config.json that describe the run and are no options, whatever they are called.
_RECORDED = ("network", "generator", "objective", "options", "kind", "protocol")


def parse(program: str, command: Callable[..., Any], words: Sequence[str]) -> Callable[[], Any] | None:
    """Return the call that the words ask for; None after `--help`. ``program`` ends with the command's name."""
    made_for = getattr(command, "command_of", lambda _: command)
    words, file = _split_config(words)
    if file is not None:
        place = next((k for k, word in enumerate(words) if word.startswith("-")), len(words))
        words[place:place] = _words_of_file(file, program, list(of_command(made_for(words))), _flags(words))
    command = made_for(words)
    options, given = list(of_command(command)), _flags(words)
    unknown = given.difference(("-h", "--help"), *(option.flags for option in options))
    if unknown:
        raise _unknown(min(unknown), min(unknown), program, options)
    if given & {"-h", "--help"}:
        print(help_page(program, command, options), end="")
        return None
    needed = [o for o in options if o.default is REQUIRED and o.flags and given.isdisjoint(o.flags)]
    if needed:
        names = terminal(", ".join(f"--{option.name} {option.metavar}" for option in needed), 80)
        raise InputError(f"{program.split()[-1]} needs {names} (see {program} --help)")
    return _parsed(program, command, words, options)


def _split_config(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """Take ``--config FILE`` out of the words."""
    rest, file, waiting = list[str](), None, iter(words)
    for word in waiting:
        if word != "--config" and not word.startswith("--config="):
            rest.append(word)
            continue
        file = word.partition("=")[2] or next(waiting, "")
        if not file:
            raise InputError("--config needs a file", "a TOML file, a run folder or its config.json")
    return rest, Path(file).expanduser() if file else None


def _flags(words: Sequence[str]) -> set[str]:
    """Return the options among the words, such as ``--lr`` of ``--lr=0.1`` and ``-k`` of ``-k5``."""
    options = (word for word in words if re.match(r"-[^\d.]", word))
    return {word.partition("=")[0].replace("_", "-") if word.startswith("--") else word[:2] for word in options}


def _unknown(name: str, flag: str, program: str, options: Sequence[Option]) -> InputError:
    """Return the error about a name that is no option, with the nearest ones."""
    close = difflib.get_close_matches(flag, sorted(known for option in options for known in option.flags), 2)
    hint = f"; did you mean {' or '.join(close)}?" if close else f" (see {program} --help)"
    return InputError(f"{terminal(name, 40)} is not an option of {program.split()[-1]}{hint}")


def _parsed(
    program: str, command: Callable[..., Any], words: Sequence[str], options: Sequence[Option]
) -> Callable[[], Any]:
    """Let tyro parse the words; say what it complains about, in a box of many lines, in one sentence."""
    import tyro

    @functools.wraps(command)
    def call(*values: Any, **named: Any) -> Callable[[], Any]:
        return functools.partial(command, *values, **named)

    spread: Any = tyro.conf.OmitArgPrefixes
    complaint = io.StringIO()
    try:  # tyro draws its box for stdout: plain where that is no terminal
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(complaint):
            return tyro.cli(call, prog=program, args=words, config=(spread,))
    except SystemExit as stop:
        error: BaseException | None = stop
    while error is not None and not isinstance(error, InputError):  # of a dataclass that refused its values
        error = error.__context__
    title, *sections = re.split(r" -{3,} *", complaint.getvalue())
    sentence = " ".join((sections or [title])[0].split())
    for option in options:  # what follows is a complaint of Python that ends with the value
        sentence = re.sub(
            rf"^Error parsing (--{option.name}): [^'\"\[]*", rf"\1 must be {option.metavar}, got ", sentence
        )
    raise error or InputError(f"{terminal(sentence, 110)} (see {program} --help)")


def _words_of_file(file: Path, program: str, options: Sequence[Option], given: set[str]) -> Iterator[str]:
    """Yield the words that stand for the settings of a file, without those that the command line gives."""
    named = {option.name: option for option in options}
    nested = {".".join(option.path[-2:]).replace("_", "-"): option for option in options}
    table, is_run = _table(file)
    for keys, value in _leaves(table):
        if is_run and (keys[-1].endswith("sha256") or keys[0] in _RECORDED):
            continue
        name, key = ".".join(keys), keys[-1].replace("_", "-")
        option = nested.get(".".join(keys[-2:]).replace("_", "-")) or named.get(key)
        try:
            if option is None:
                raise _unknown(name, f"--{key}", program, options)
            if option.flags and given.isdisjoint(option.flags) and not (is_run and key == "out"):
                value = [value] if option.is_tuple and not isinstance(value, list) else value
                checks.check(name, value, option.kind)
                yield from _words(option, value)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None


def _words(option: Option, value: Any) -> list[str]:
    """Return the words of a command line that give an option this value."""
    import tyro

    if option.is_switch:
        return [f"--{option.name}" if value else f"--no-{option.name}"]
    if isinstance(value, list) and tyro.conf.UseAppendAction not in marks_of(option.kind):
        return [f"--{option.name}", *map(str, value)]
    return [f"--{option.name}={item}" for item in (value if isinstance(value, list) else [value])]


def _leaves(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the values of a table and of the tables in it, by their keys."""
    for key, value in table.items():
        yield from _leaves(value, (*above, key)) if isinstance(value, Mapping) else [((*above, key), value)]


def _table(file: Path) -> tuple[dict[str, Any], bool]:
    """Read a file of settings; whether it is a run's."""
    file = file / "config.json" if file.is_dir() else file
    with reading(file, "a TOML file of options, or the config.json of a run", *STRUCTURE):
        content = file.read_text(encoding="utf-8")
        is_run = file.suffix == ".json"
        return dict(json.loads(content)["config"]) if is_run else tomllib.loads(content), is_run
