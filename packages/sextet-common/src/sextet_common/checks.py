"""Bounds and choices as types, checked by one function; to a type checker ``Count`` is ``int``.

Annotate the fields of a configuration and call :func:`check_fields` in its ``__post_init__``. ``Count`` and ``Natural``
are whole numbers >= 1 and >= 0, ``Positive`` and ``NonNegative`` finite numbers > 0 and >= 0, and ``Share``,
``ShareBelowOne``, ``PositiveShare`` and ``OpenShare`` numbers in [0, 1], [0, 1), (0, 1] and (0, 1).

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
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sextet_common.errors import InputError


@dataclasses.dataclass(frozen=True)
class Bounds:
    """An interval of numbers; both ends belong to it unless they are said to be open."""

    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: Any) -> bool:
        above: bool = value > self.low if self.low_open else value >= self.low
        below: bool = value < self.high if self.high_open else value <= self.high
        return above and below

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f" {'>' if self.low_open else '>='} {self.low:g}"
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

Count = Annotated[int, Bounds(1)]
Natural = Annotated[int, Bounds(0)]
Positive = Annotated[float, Bounds(0, low_open=True)]
NonNegative = Annotated[float, Bounds(0)]
Share = Annotated[float, Bounds(0, 1)]
ShareBelowOne = Annotated[float, Bounds(0, 1, high_open=True)]
PositiveShare = Annotated[float, Bounds(0, 1, low_open=True)]
OpenShare = Annotated[float, Bounds(0, 1, low_open=True, high_open=True)]


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
    refusal = _refuse(name, value, kind)
    if refusal is not None:
        where, wrong, form = refusal
        raise InputError(f"{where} must be {form}, got {wrong!r}")


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


def _refuse(name: str, value: Any, kind: Any) -> tuple[str, Any, str] | None:
    """Return the name of what is refused, its value and the accepted form; None for an accepted value."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated and not any(isinstance(mark, Bounds) for mark in arguments[1:]):
        return _refuse(name, value, arguments[0])
    if origin in (Union, types.UnionType):
        refusals = [_refuse(name, value, member) for member in arguments]
        wrong = [refusal for refusal in refusals if refusal is not None]
        if len(wrong) < len(refusals):
            return None
        forms = " or ".join(dict.fromkeys(form for _, _, form in wrong if form != "None"))
        return next((refusal for refusal in wrong if refusal[0] != name), (name, value, forms))  # an element, or all
    if origin is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) == len(value):
            elements = (_refuse(f"{name}[{number}]", value[number], each) for number, each in enumerate(kinds))
            return next((refusal for refusal in elements if refusal is not None), None)
    rule = _rule(kind)
    return None if rule is None or rule[1](value) else (name, value, rule[0])


def _rule(kind: Any) -> tuple[str, Callable[[Any], bool]] | None:
    """Return an accepted form in words and its test; None for an annotation that is not checked."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated and (base := _rule(arguments[0])):
        form, accepts = base
        bounds = [mark for mark in arguments[1:] if isinstance(mark, Bounds)]
        return f"{form}{''.join(map(str, bounds))}", lambda value: accepts(value) and all(value in b for b in bounds)
    if origin is Literal:
        *most, last = (word if isinstance(word, str) else repr(word) for word in arguments)
        words = f"{', '.join(most)} or {last}" if most else last
        return words, lambda value: any(value == word and type(value) is type(word) for word in arguments)
    if origin is tuple:  # of another length, or none: the elements of any other are checked one by one
        items = [_rule(item) for item in arguments if item is not ...]
        each = f", each {items[0][0]}" if arguments[1:] == (...,) and items[0] else f" of {len(items)}"
        return None if None in items else (f"a tuple{each}", lambda value: False)
    return _RULES.get(kind)


_FINITE = Bounds(-math.inf, low_open=True, high_open=True)
_RULES: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    int: ("a whole number", lambda v: isinstance(v, Integral) and not isinstance(v, bool)),
    float: ("a number", lambda v: isinstance(v, Real) and not isinstance(v, bool) and v in _FINITE),
    bool: ("True or False", lambda v: isinstance(v, bool)),
    str: ("text", lambda v: isinstance(v, str)),
    type(None): ("None", lambda v: v is None),
}
