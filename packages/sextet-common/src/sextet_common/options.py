"""The options of a command, read from its signature.

A command is a typed function. Its parameters are options; those that are dataclasses are spread into one option per
field. Marks in the annotations say where `--help` lists an option: ``Advanced[Count]``, ``Annotated[str, Group("x")]``;
a `sextet_common.checks.Running` setting is listed under "running".
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sextet_common import checks
from sextet_common.text import SHORT, terminal

T = TypeVar("T")
REQUIRED = inspect.Parameter.empty
_NAMES = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", bool: "{True,False}"}
_LAST = ("running", "advanced")  # headings
_CONFIG_HELP = "Read options from a TOML file, or from a run folder or its config.json. Options given here win."


@dataclasses.dataclass(frozen=True)
class Group:
    """A mark in an annotation: the heading of `--help` under which an option is listed."""

    name: str


Advanced = Annotated[T, Group("advanced")]
"""An option that everyday use does not need: `--help` lists it last."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: where its value goes (``path``), what it accepts and how `--help` shows it."""

    path: tuple[str, ...]
    name: str
    kind: Any
    default: Any
    help: str
    group: str
    positional: bool

    @property
    def choices(self) -> tuple[Any, ...]:
        """The accepted words of a choice, also of one that may be None or in a tuple."""
        return tuple(word for part in parts(self.kind) if get_origin(part) is Literal for word in get_args(part))

    @property
    def metavar(self) -> str:
        """What stands for the value in `--help`."""
        return self.name.upper() if self.positional else _type_name(self.kind)

    def field(self, number: int) -> tuple[str, Any, Any]:
        """Return the field of the dataclass that tyro parses."""
        import tyro

        choices = f" One of: {', '.join(map(str, self.choices))}." if self.choices and "{" not in self.metavar else ""
        shown = " ".join(map(str, self.default)) if isinstance(self.default, tuple) else self.default
        hint = "" if shown in (None, "") else f"(default: {terminal(shown, SHORT)})"
        is_flag = bare(self.kind) is bool and self.default is not REQUIRED
        mark = tyro.conf.arg(
            name=self.name,
            metavar=None if is_flag else self.metavar,
            help=self.help + choices,
            help_behavior_hint="(required)" if self.default is REQUIRED else hint,
        )
        positional: Any = tyro.conf.Positional
        kind = positional[self.kind] if self.positional else self.kind
        if self.default is REQUIRED:
            return f"option_{number}", Annotated[kind, mark], dataclasses.field()
        return f"option_{number}", Annotated[kind, mark], dataclasses.field(default_factory=lambda: self.default)


def of_command(command: Callable[..., Any]) -> Iterator[Option]:
    """Yield the options of a command in the order of its signature."""
    hints, docs = get_type_hints(command, include_extras=True), _docs(command)
    for name, parameter in inspect.signature(command).parameters.items():
        positional = parameter.kind is parameter.POSITIONAL_ONLY
        yield from _expanded((name,), hints[name], parameter.default, docs.get(name, ""), "", positional)


def _expanded(
    path: tuple[str, ...], kind: Any, default: Any, doc: str, group: str, positional: bool = False
) -> Iterator[Option]:
    """Yield a parameter's option, or those of the fields of a dataclass."""
    import tyro

    base, marks = (get_args(kind)[0], get_args(kind)[1:]) if get_origin(kind) is Annotated else (kind, ())
    if isinstance(base, type) and dataclasses.is_dataclass(base):
        hints, docs = get_type_hints(base, include_extras=True), _docs(base)
        heading = group if path[-1] == "config" else path[-1].replace("_", " ")
        for field in dataclasses.fields(base):
            given = _default(field) if isinstance(default, type) or default is None else getattr(default, field.name)
            if field.init:
                yield from _expanded((*path, field.name), hints[field.name], given, docs.get(field.name, ""), heading)
        return
    named: list[Any] = [mark for mark in marks if isinstance(mark, type(tyro.conf.arg()))]
    name = next((mark.name for mark in named if mark.name), path[-1]).replace("_", "-")
    doc = next((mark.help for mark in named if mark.help), doc)
    running = any(isinstance(mark, checks.Setting) and mark.kind == "running" for mark in marks)
    group = next((mark.name for mark in marks if isinstance(mark, Group)), "running" if running else group)
    yield Option(path, name, kind, default, " ".join(doc.split()), group, positional)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def _docs(described: Any) -> dict[str, str]:
    """Return what the docstrings of a function or a class, bases included, say about parameters and fields."""
    import docstring_parser

    docs: dict[str, str] = {}
    for owner in reversed(described.__mro__[:-1]) if isinstance(described, type) else (described,):
        for entry in docstring_parser.parse_from_object(owner).params:
            docs |= dict.fromkeys(entry.arg_name.split(", "), entry.description or "")
    return docs


def heading(group: str) -> str:
    """Return the name of a group as a field of the dataclass that tyro parses."""
    return re.sub(r"\W", "_", group)


def dataclass_of(options: Iterable[Option]) -> type:
    """Return the dataclass that tyro parses: everyday options, and one nested dataclass per heading of the help."""
    import tyro

    groups: dict[str, list[tuple[str, Any, Any]]] = {"": []}
    for number, option in enumerate(options):
        groups.setdefault(option.group, []).append(option.field(number))
    config: Any = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help=_CONFIG_HELP, help_behavior_hint="")]
    fields = [*groups.pop(""), ("config", config, dataclasses.field(default=None))]
    for group in sorted(groups, key=lambda name: _LAST.index(name) + 1 if name in _LAST else 0):
        nested: Any = Annotated[
            dataclasses.make_dataclass("Nested", groups[group], kw_only=True), tyro.conf.arg(help="")
        ]
        fields.append((heading(group), nested, dataclasses.field()))
    return dataclasses.make_dataclass("Options", fields, kw_only=True)


def bare(kind: Any) -> Any:
    """Return an annotation without its marks."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def parts(kind: Any) -> Iterator[Any]:
    """Yield an annotation and everything it is made of."""
    yield kind
    for part in get_args(kind) if get_origin(kind) is not Literal else ():
        yield from parts(part)


def _type_name(kind: Any) -> str:
    kind = bare(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(_type_name(member) for member in arguments if member is not type(None)))
    if origin is Literal:
        words = ",".join(map(str, arguments))
        return f"{{{words}}}" if len(words) <= 36 else "NAME"
    if origin is tuple:
        return f"{_type_name(arguments[0])} ..." if arguments[1:] == (...,) else " ".join(map(_type_name, arguments))
    return _NAMES.get(kind, str(getattr(kind, "__name__", kind)).upper())
