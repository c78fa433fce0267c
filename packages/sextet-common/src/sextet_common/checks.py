"""Bounds and choices as types, so that a field says what it accepts and one function checks it.

Annotate the fields of a configuration and call :func:`check_fields` in its ``__post_init__``; check the argument of a
function with :func:`check`. To a type checker ``Count`` is ``int`` and ``Positive`` is ``float``.

Examples
--------
>>> import dataclasses
>>> from typing import Literal
>>> @dataclasses.dataclass(frozen=True)
... class Settings:
...     steps: Count = 100
...     lr: Positive = 1e-3
...     width: Count | None = None
...     method: Literal["adam", "sgd"] = "adam"
...
...     def __post_init__(self) -> None:
...         check_fields(self)
>>> Settings(lr=0)
Traceback (most recent call last):
sextet_common.errors.InputError: lr must be a number > 0, got 0
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sextet_common.errors import InputError


@dataclasses.dataclass(frozen=True)
class Bounds:
    """An interval of numbers; both ends belong to it unless they are said to be open."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: Any) -> bool:
        above: bool = value > self.low if self.low_open else value >= self.low
        below: bool = value < self.high if self.high_open else value <= self.high
        return above and below

    def __str__(self) -> str:
        if math.isinf(self.high):
            return "" if math.isinf(self.low) else f" {'>' if self.low_open else '>='} {self.low:g}"
        if math.isinf(self.low):
            return f" {'<' if self.high_open else '<='} {self.high:g}"
        return f" in {'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A mark in an annotation: how a setting may differ when a run is resumed; see `Running` and `Growing`."""

    kind: Literal["running", "growing"]


T = TypeVar("T")
Running = Annotated[T, Setting("running")]
"""A setting that changes no result, such as the device or the number of workers: it may differ on resuming a run."""
Growing = Annotated[T, Setting("growing")]
"""A length in a run's steps: a larger value continues the run. Not for one that a schedule depends on."""

_FINITE = Bounds(low_open=True, high_open=True)

Count = Annotated[int, Bounds(1)]
"""A whole number >= 1."""
Natural = Annotated[int, Bounds(0)]
"""A whole number >= 0, such as a seed."""
Positive = Annotated[float, Bounds(0, low_open=True)]
"""A finite number > 0, such as a learning rate."""
NonNegative = Annotated[float, Bounds(0)]
"""A finite number >= 0, such as a weight."""
Share = Annotated[float, Bounds(0, 1)]
"""A number in [0, 1]."""
ShareBelowOne = Annotated[float, Bounds(0, 1, high_open=True)]
"""A number in [0, 1), such as a momentum."""
PositiveShare = Annotated[float, Bounds(0, 1, low_open=True)]
"""A number in (0, 1]."""
OpenShare = Annotated[float, Bounds(0, 1, low_open=True, high_open=True)]
"""A number in (0, 1)."""


def check(name: str, value: object, kind: Any) -> None:
    """Refuse a value that its annotation does not accept.

    ``int``, ``float``, ``bool``, ``str``, ``Literal``, ``None``, tuples, unions of these and ``Annotated`` with
    :class:`Bounds` are checked; any other annotation accepts everything. Numbers must be finite and may be NumPy's;
    a bool is not a number.

    Examples
    --------
    >>> check("ipc", 10, Count)
    >>> check("ratios", (0.5, 1.5), tuple[Share, ...])
    Traceback (most recent call last):
    sextet_common.errors.InputError: ratios[1] must be a number in [0, 1], got 1.5
    """
    place = _refused(value, kind)
    if place is not None:
        where, wrong, expected = place
        raise InputError(f"{name}{where} must be {expected}, got {wrong!r}")


def check_fields(config: Any) -> None:
    """Check every field of a dataclass instance against its annotation; see :func:`check`."""
    cls: Any = type(config)
    for name, kind in _hints(cls).items():
        check(name, getattr(config, name), kind)


def changeable(cls: type) -> dict[tuple[str, ...], str]:
    """Return "running" or "growing" for each marked field of a dataclass, by its name after those it is nested in."""
    marks: dict[tuple[str, ...], str] = {}
    for name, kind in _hints(cls).items():
        for part in (kind, *get_args(kind)):  # a nested dataclass, or the members of a union
            for mark in getattr(part, "__metadata__", ()):
                if isinstance(mark, Setting):
                    marks[(name,)] = mark.kind
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                marks |= {(name, *rest): mark for rest, mark in changeable(part).items()}
    return marks


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _refused(value: object, kind: Any) -> tuple[str, object, str] | None:
    """Return where, what and the accepted form for a value that is refused, None for one that is accepted."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated and not any(isinstance(mark, Bounds) for mark in arguments[1:]):
        return _refused(value, arguments[0])
    if origin in (Union, types.UnionType):
        refusals = [_refused(value, member) for member in arguments]
        if None in refusals:
            return None
        named = [r for member, r in zip(arguments, refusals, strict=True) if r is not None and member is not type(None)]
        deepest = max(named, key=lambda refusal: len(refusal[0]))
        return deepest if deepest[0] else ("", value, " or ".join(dict.fromkeys(r[2] for r in named)))
    if origin is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
        if len(kinds) == len(value):
            for index, (item, item_kind) in enumerate(zip(value, kinds, strict=True)):
                refusal = _refused(item, item_kind)
                if refusal is not None:
                    return f"[{index}]{refusal[0]}", *refusal[1:]
            return None
    expected = _expected(kind)
    return None if expected is None or _accepts(value, kind) else ("", value, expected)


def _accepts(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if origin is Annotated:
        base, *marks = get_args(kind)
        return _accepts(value, base) and all(value in mark for mark in marks if isinstance(mark, Bounds))
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in get_args(kind))
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, Integral)
    if kind is float:
        return isinstance(value, Real) and value in _FINITE
    if kind is str:
        return isinstance(value, str)
    return kind is type(None) and value is None


def _expected(kind: Any) -> str | None:
    """Return the accepted form in words, None for an annotation that is not checked."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        base = _expected(arguments[0])
        return None if base is None else base + "".join(str(m) for m in arguments[1:] if isinstance(m, Bounds))
    if origin is Literal:
        *most, last = (word if isinstance(word, str) else repr(word) for word in arguments)
        return f"{', '.join(most)} or {last}" if most else last
    if origin is tuple:
        items = [_expected(argument) for argument in arguments if argument is not ...]
        if None in items:
            return None
        return f"a tuple, each {items[0]}" if arguments[1:] == (...,) else f"a tuple of {len(items)}"
    return {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}.get(kind)
