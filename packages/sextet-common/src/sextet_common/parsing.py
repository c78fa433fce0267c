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
    options = list(of_command(command))
    words, file = split_config(words)
    given = _flags(words)
    for flag in given - {"-h", "--help"}:
        _check_known(flag, flag, program, options)
    if given & {"-h", "--help"}:
        print(help_page(program, command, options), end="")
        return None
    if file is not None:
        place = next((k for k, word in enumerate(words) if word.startswith("-")), len(words))
        words[place:place] = _words_of_file(file, program, options, given)  # positional words stay first
    needed = [o for o in options if o.default is REQUIRED and not o.positional and _flags(words).isdisjoint(o.flags)]
    if needed:
        names = terminal(", ".join(f"--{option.name} {option.metavar}" for option in needed), 80)
        raise InputError(f"{program.split()[-1]} needs {names} (see {program} --help)")
    return _parsed(program, command, words, {f"--{option.name}": option.metavar for option in options})


def split_config(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """Take ``--config FILE`` out of the words."""
    rest, file, waiting = list[str](), None, iter(words)
    for word in waiting:
        if word == "--config" or word.startswith("--config="):
            value = word.partition("=")[2] or next(waiting, "")
            if not value:
                raise InputError("--config needs a file", "a TOML file, a run folder or its config.json")
            file = Path(value).expanduser()
        else:
            rest.append(word)
    return rest, file


def with_config(words: Sequence[str]) -> list[str]:
    """Put the words and numbers of the ``--config`` file before the other words, for `cli.from_options`."""
    words, file = split_config(words)
    table = _table(file)[0] if file is not None else {}
    plain = {f"--{key.replace('_', '-')}": str(v) for key, v in table.items() if isinstance(v, str | int | float)}
    return [*(word for pair in plain.items() for word in pair), *words]


def _flags(words: Sequence[str]) -> set[str]:
    """Return the options among the words, such as ``--lr`` of ``--lr=0.1`` and ``-k`` of ``-k5``."""
    options = (word for word in words if re.match(r"-[^\d.]", word))
    return {word.partition("=")[0].replace("_", "-") if word.startswith("--") else word[:2] for word in options}


def _check_known(name: str, flag: str, program: str, options: Sequence[Option]) -> None:
    """Refuse a name that is no option, with the nearest ones."""
    known = sorted(known for option in options for known in option.flags)
    if flag not in known and not flag.startswith("--tyro-"):
        close = difflib.get_close_matches(flag, known, 2)
        hint = f"; did you mean {' or '.join(close)}?" if close else f" (see {program} --help)"
        raise InputError(f"{terminal(name, 40)} is not an option of {program.split()[-1]}{hint}")


def _parsed(
    program: str, command: Callable[..., Any], words: Sequence[str], metavars: Mapping[str, str]
) -> Callable[[], Any] | None:
    """Let tyro parse the words; say what it complains about, in a box of many lines, in one sentence."""
    import tyro

    @functools.wraps(command)
    def call(*values: Any, **named: Any) -> Callable[[], Any]:
        return functools.partial(command, *values, **named)

    shown, complaint = io.StringIO(), io.StringIO()
    spread: Any = tyro.conf.OmitArgPrefixes
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(complaint):
            return tyro.cli(call, prog=program, args=words, config=(spread,))
    except SystemExit as stop:
        if not stop.code:  # a script of completions
            print(shown.getvalue(), end="")
            return None
        error: BaseException | None = stop
    while error is not None and not isinstance(error, InputError):  # of a dataclass that refused its values
        error = error.__context__
    title, *sections = re.split(r" -{3,} *", complaint.getvalue())
    sentence = " ".join((sections or [title])[0].split())
    about = re.match(r"Error parsing (--[\w-]+): [^'\"\[]*", sentence)
    if about:
        sentence = f"{about[1]} must be {metavars.get(about[1], '')}, got {sentence[about.end() :]}"
    raise error or InputError(f"{terminal(sentence, 110)} (see {program} --help)")


def _words_of_file(file: Path, program: str, options: Sequence[Option], given: set[str]) -> Iterator[str]:
    """Yield the words that stand for the settings of a file, without those that the command line gives."""
    named = {option.name: option for option in options}
    nested = {tuple(name.replace("_", "-") for name in option.path[-2:]): option for option in options}
    table, is_run = _table(file)
    for keys, value in _leaves(table):
        if is_run and (keys[-1].endswith("sha256") or keys[0] in _RECORDED):
            continue
        key, name = keys[-1].replace("_", "-"), ".".join(keys)
        option = nested.get(tuple(k.replace("_", "-") for k in keys[-2:])) or named.get(key)
        try:
            if option is None:
                _check_known(name, f"--{key}", program, options)
            elif not option.positional and not (is_run and key == "out") and given.isdisjoint(option.flags):
                checks.check(name, value, option.kind)
                yield from _words(option, value)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None


def _words(option: Option, value: Any) -> list[str]:
    """Return the words of a command line that give an option this value."""
    import tyro

    if option.is_flag:
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
