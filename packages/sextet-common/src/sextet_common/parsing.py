"""Command lines and files of settings, parsed for a command; complaints are one short line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import io
import json
import re
import shutil
import textwrap
import tomllib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from sextet_common import checks
from sextet_common.errors import STRUCTURE, InputError, reading
from sextet_common.options import REQUIRED, Option, bare, dataclass_of, heading, of_command, parts
from sextet_common.text import terminal

# Keys of config.json that describe the run and are no options, whatever they are called.
_RECORDED = ("network", "generator", "objective", "options", "kind", "protocol")


def parse(program: str, command: Callable[..., Any], words: Sequence[str]) -> Callable[[], Any] | None:
    """Return the call that the words ask for; None after `--help`. ``program`` ends with the command's name."""
    import tyro

    options = {option.name: option for option in of_command(command)}
    words, file = split_config(words)
    if file is not None:
        options |= {name: dataclasses.replace(options[name], default=v) for name, v in _settings(file, options).items()}
    _refuse_unknown(program, options, words)
    shown, complaint = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(complaint):
            parsed: Any = tyro.cli(
                dataclass_of(options.values()),
                prog=program,
                description=(inspect.getdoc(command) or "").partition("\n\nParameters\n")[0],
                args=words,
                config=(tyro.conf.OmitArgPrefixes,),
                use_underscores=False,
            )
    except SystemExit as stop:
        if stop.code in (None, 0):
            print(_wrapped(shown.getvalue()) if {"--help", "-h"} & {*words} else shown.getvalue(), end="")
            return None
        raise InputError(_explained(program, options, words, complaint.getvalue())) from None
    values: dict[tuple[str, ...], Any] = {}
    for number, option in enumerate(options.values()):
        holder = getattr(parsed, heading(option.group)) if option.group else parsed
        values[option.path] = getattr(holder, f"option_{number}")
    return _call(command, values)


def _wrapped(page: str) -> str:
    width = shutil.get_terminal_size().columns
    lines = (textwrap.fill(line, width, subsequent_indent="  ") for line in page.splitlines())
    return re.sub(r"[ \n]*\n\n", "\n\n", "\n".join(line.rstrip() for line in lines)).strip() + "\n"


def split_config(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """Take ``--config FILE`` out of the words."""
    rest, file, waiting = [], None, iter(words)
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
    plain = {k: v for k, v in _table(file)[0].items() if isinstance(v, str | int | float)} if file is not None else {}
    return [*(word for key, value in plain.items() for word in (f"--{key.replace('_', '-')}", str(value))), *words]


def _call(command: Callable[..., Any], values: Mapping[tuple[str, ...], Any]) -> Callable[[], Any]:
    hints = get_type_hints(command)
    positional, named = [], {}
    for name, parameter in inspect.signature(command).parameters.items():
        value = _built((name,), hints[name], values)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(value)
        else:
            named[name] = value
    return lambda: command(*positional, **named)


def _built(path: tuple[str, ...], kind: Any, values: Mapping[tuple[str, ...], Any]) -> Any:
    if path in values:
        return values[path]
    hints = get_type_hints(kind)
    return kind(**{f.name: _built((*path, f.name), hints[f.name], values) for f in dataclasses.fields(kind) if f.init})


def _refuse_unknown(program: str, options: Mapping[str, Option], words: Sequence[str]) -> None:
    known = {f"--{name}" for name in options} | {
        f"--no-{n}" for n, option in options.items() if bare(option.kind) is bool
    }
    known |= {
        alias
        for option in options.values()
        for mark in parts(option.kind)
        for alias in getattr(mark, "aliases", None) or ()
    }
    for word in words:
        flag = word.partition("=")[0].replace("_", "-")
        if re.match(r"-[^\d.]", flag) and flag not in known | {"--help", "-h", "--config"} and "tyro" not in flag:
            if flag[:2] in known and flag[1] != "-":
                continue  # -k5
            close = difflib.get_close_matches(flag, sorted(known), 2)
            hint = f"; did you mean {' or '.join(close)}?" if close else f" (see {program} --help)"
            raise InputError(f"{terminal(flag, 40)} is not an option of {program.split()[-1]}{hint}")


def _explained(program: str, options: Mapping[str, Option], words: Sequence[str], complaint: str) -> str:
    """Say in one sentence what the parser complains about, whose box is long."""
    command = program.split()[-1]
    given = {word.partition("=")[0].replace("_", "-").replace("--no-", "--") for word in words}
    lines = [line.strip(" │|") for line in complaint.partition("For full helptext")[0].splitlines()]
    box = " ".join(line for line in lines if line.strip("─-╭╮╰╯")).strip()
    if "Missing from" in box or "required" in box:
        required = [option for option in options.values() if option.default is REQUIRED]
        missing = [f"--{o.name} {o.metavar}" for o in required if not o.positional and f"--{o.name}" not in given]
        missing = missing or [o.metavar for o in required if o.positional]
        return f"{command} needs {terminal(', '.join(missing), 80)} (see {program} --help)"
    stray = re.search(r"Unrecognized options: (.*)", box)
    if stray:
        return f"{terminal(stray[1], 60)!r} is more than {command} takes (see {program} --help)"
    for flag in re.findall(r"--[\w-]+", box):
        option = options.get(flag[2:])
        if option is not None:
            return _refused_value(flag, option, [*_values(flag, words)])
    return terminal(box, 140) or "the command line cannot be read"


def _refused_value(flag: str, option: Option, values: Sequence[str]) -> str:
    got = f", got {terminal(' '.join(values), 40)!r}" if values else ""
    if option.choices:
        listed = [str(word) for word in option.choices]
        return f"{flag} must be {', '.join(listed[:8])}{' ...' if len(listed) > 8 else ''}{got}"
    if len(values) == 1 and get_origin(bare(option.kind)) is not tuple:
        try:
            checks.check(flag, terminal(values[0], 40), option.kind)
        except InputError as error:
            return str(error)
    return f"{flag} needs {option.metavar}{got}"


def _values(flag: str, words: Sequence[str]) -> Iterator[str]:
    """Yield the words that were given to an option."""
    last = max((k for k, word in enumerate(words) if word.partition("=")[0].replace("_", "-") == flag), default=None)
    if last is not None:
        yield from [words[last].partition("=")[2]] if "=" in words[last] else ()
        for word in words[last + 1 :]:
            if word.startswith("--"):
                break
            yield word


def _settings(file: Path, options: Mapping[str, Option]) -> dict[str, Any]:
    """Read the values of options from a file, by name."""
    table, is_run = _table(file)
    values: dict[str, Any] = {}
    for keys, value in _leaves(table):
        if is_run and (keys[-1].endswith("sha256") or keys[0] in _RECORDED):
            continue
        option = _named(keys, options)
        if option is None:
            close = difflib.get_close_matches(keys[-1].replace("_", "-"), options, 1)
            expected = f"did you mean {close[0]}?" if close else "the options that --help lists"
            raise InputError(f"{file}: {terminal('.'.join(keys), 60)} is not an option of this command", expected)
        if option.positional or (is_run and option.name == "out"):
            continue
        try:
            values[option.name] = _converted(".".join(keys), value, option.kind)
            checks.check(".".join(keys), values[option.name], option.kind)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
    return values


def _table(file: Path) -> tuple[dict[str, Any], bool]:
    """Read a file of settings; whether it is a run's."""
    file = file / "config.json" if file.is_dir() else file
    with reading(file, "a TOML file of options, or the config.json of a run", *STRUCTURE):
        content = file.read_text(encoding="utf-8")
        is_run = file.suffix == ".json"
        return dict(json.loads(content)["config"]) if is_run else tomllib.loads(content), is_run


def _leaves(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the values of a table and of the tables in it, by their keys."""
    for key, value in table.items():
        inside = isinstance(value, Mapping) and key not in _RECORDED
        yield from _leaves(value, (*above, key)) if inside else [((*above, key), value)]


def _named(keys: tuple[str, ...], options: Mapping[str, Option]) -> Option | None:
    """Return the option of a key within its tables: by the fields that hold it, else by its name."""
    fields = tuple(key.replace("-", "_") for key in keys)
    nested = [option for option in options.values() if len(keys) > 1 and option.path[-len(keys) :] == fields]
    return nested[0] if nested else options.get(keys[-1].replace("_", "-"))


def _converted(name: str, value: Any, kind: Any) -> Any:
    """Convert a value of TOML or JSON to what an annotation asks for, where that is another type."""
    kind = bare(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        tried = [] if value is None else [_converted(name, value, a) for a in arguments if a is not type(None)]
        return next((new for new in tried if type(new) is not type(value)), value)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else [*arguments, *[Any] * len(value)]
        return tuple(_converted(name, item, item_kind) for item, item_kind in zip(value, kinds, strict=False))
    if kind is Path:
        if not isinstance(value, str):
            raise InputError(f"{name} must be a path, got {value!r}")
        return Path(value)
    return float(value) if kind is float and type(value) is int else value
