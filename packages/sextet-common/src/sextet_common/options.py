"""The options of a command, read from its signature, and the page that `--help` prints about them.

A command is a typed function. Its parameters are options; those that are dataclasses are spread into one option per
field. Marks in the annotations say where `--help` lists an option: ``Advanced[Count]``, ``Annotated[str, Group("x")]``;
a `sextet_common.checks.Running` setting is listed under "running".
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sextet_common import checks
from sextet_common.text import SHORT, terminal

T = TypeVar("T")
REQUIRED = inspect.Parameter.empty
_TYPE_NAMES = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", bool: "{True,False}"}
_PLACES = {"": 0, "running": 2, "advanced": 3}  # of the headings in the help; any other is at 1
_CONFIG_HELP = "Read options from a TOML file, or from a run folder or its config.json. Options given here win."


@dataclasses.dataclass(frozen=True)
class Group:
    """A mark in an annotation: the heading of `--help` under which an option is listed."""

    name: str


Advanced = Annotated[T, Group("advanced")]
"""An option that everyday use does not need: `--help` lists it last."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: the ways to write it (``flags``; a positional one has none), and where its value goes (``path``)."""

    name: str
    flags: tuple[str, ...]
    path: tuple[str, ...]
    kind: Any
    default: Any
    doc: str
    group: str

    @property
    def metavar(self) -> str:
        """What stands for the value in `--help`."""
        return _type_name(self.kind) if self.flags else self.name.upper()

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value."""
        return f"--no-{self.name}" in self.flags

    @property
    def is_tuple(self) -> bool:
        """Whether it takes several values."""
        return get_origin(_bare(self.kind)) is tuple

    @property
    def help(self) -> str:
        """Its documentation, its choices where the metavar has no room for them, and its default."""
        choices = [str(word) for part in _parts(self.kind) if get_origin(part) is Literal for word in get_args(part)]
        listed = f"One of: {', '.join(choices)}." if choices and "{" not in self.metavar else ""
        shown = " ".join(map(str, self.default)) if isinstance(self.default, tuple) else self.default
        default = "(required)" if shown is REQUIRED else f"(default: {terminal(shown, SHORT)})"
        return " ".join(filter(None, (self.doc, listed, "" if shown in (None, "") else default)))


def of_command(owner: Any, given: Any = None, above: tuple[str, ...] = (), group: str = "") -> Iterator[Option]:
    """Yield the options of a command, or of a dataclass within it whose defaults are those of ``given``."""
    import tyro

    hints, docs, fields = get_type_hints(owner, include_extras=True), _docs(owner), _fields(owner)
    for field, parameter in inspect.signature(owner).parameters.items():
        kind, path = hints[field], (*above, field)
        default = fields.get(field, parameter.default) if given is None else getattr(given, field)
        if dataclasses.is_dataclass(_bare(kind)):
            heading = group if field == "config" else field.replace("_", " ")
            yield from of_command(_bare(kind), None if default is REQUIRED else default, path, heading)
            continue
        marks = marks_of(kind)
        said: Any = next((mark for mark in marks if isinstance(mark, type(tyro.conf.arg()))), tyro.conf.arg())
        name = (said.name or field).replace("_", "-")
        flags = (*(said.aliases or ()), f"--{name}")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            flags = ()
        elif _bare(kind) is bool and default is not REQUIRED:
            flags = (*flags, f"--no-{name}")
        heading = "running" if checks.Setting("running") in marks else group
        heading = next((mark.name for mark in marks if isinstance(mark, Group)), heading)
        yield Option(name, flags, path, kind, default, " ".join((said.help or docs.get(field, "")).split()), heading)


def help_page(program: str, command: Callable[..., Any], options: Sequence[Option]) -> str:
    """Return what `--help` prints: everyday options first, then one section per heading."""
    usage = " ".join([program, "[OPTIONS]", *(option.metavar for option in options if not option.flags)])
    about = (inspect.getdoc(command) or "").partition("\n\nParameters\n")[0]
    page = argparse.ArgumentParser(usage=usage, description=about.replace("%", "%%"))
    for group in sorted({option.group: None for option in options}, key=lambda name: _PLACES.get(name, 1)):
        section = page.add_argument_group(f"{group} options") if group else page
        for option in options:
            if option.group == group:
                shape: dict[str, Any] = {"action": "store_true"} if option.is_switch else {"metavar": option.metavar}
                section.add_argument(*option.flags or [option.name], help=option.help.replace("%", "%%"), **shape)
    page.add_argument("--config", metavar="FILE", help=_CONFIG_HELP)
    return page.format_help()


def marks_of(kind: Any) -> list[Any]:
    """Return the marks in an annotation."""
    return [mark for part in _parts(kind) for mark in getattr(part, "__metadata__", ())]


def _fields(owner: Any) -> dict[str, Any]:
    """Return the defaults of a dataclass's fields that a factory makes."""
    fields = dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ()
    return {f.name: f.default_factory() for f in fields if f.default_factory is not dataclasses.MISSING}


def _docs(described: Any) -> dict[str, str]:
    """Return what the docstrings of a function or a class, bases included, say about parameters and fields."""
    import docstring_parser

    docs: dict[str, str] = {}
    for owner in reversed(described.__mro__[:-1]) if isinstance(described, type) else (described,):
        for entry in docstring_parser.parse_from_object(owner).params:
            docs |= dict.fromkeys(entry.arg_name.split(", "), entry.description or "")
    return docs


def _bare(kind: Any) -> Any:
    """Return an annotation without its marks."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _parts(kind: Any) -> Iterator[Any]:
    """Yield an annotation and everything it is made of."""
    yield kind
    for part in get_args(kind) if get_origin(kind) is not Literal else ():
        yield from _parts(part)


def _type_name(kind: Any) -> str:
    kind = _bare(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(_type_name(member) for member in arguments if member is not type(None)))
    if origin is Literal:
        words = ",".join(map(str, arguments))
        return f"{{{words}}}" if len(words) <= 36 else "NAME"
    if origin is tuple:
        return f"{_type_name(arguments[0])} ..." if arguments[1:] == (...,) else " ".join(map(_type_name, arguments))
    return _TYPE_NAMES.get(kind, str(getattr(kind, "__name__", kind)).upper())
