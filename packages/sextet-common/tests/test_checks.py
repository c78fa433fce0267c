from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from sextet_common import checks
from sextet_common.checks import Bounds, Count, Natural, OpenShare, Positive, PositiveShare, Share, ShareBelowOne
from sextet_common.errors import InputError

Method = Literal["adam", "sgd", "clipup"]


@dataclasses.dataclass(frozen=True)
class Settings:
    steps: Count = 1
    seed: Natural = 0
    lr: Positive = 1.0
    width: Count | None = None
    method: Method = "adam"
    hidden: tuple[Count, ...] = (64, 64)
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    out: Path = Path()
    nested: tuple[Path, ...] | None = None
    flag: bool = False

    def __post_init__(self) -> None:
        checks.check_fields(self)


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (Count, [1, 7, np.int64(3)], [0, -1, 1.0, True, "1", None, math.nan]),
        (Natural, [0, 5], [-1, 0.0, False]),
        (Positive, [1e-300, 1, np.float32(2), 10**400], [0, -1.0, math.inf, math.nan, True, "1"]),
        (checks.NonNegative, [0, 0.0, 3], [-1e-300, math.inf, math.nan]),
        (Share, [0, 0.5, 1], [-0.1, 1.1, math.nan]),
        (ShareBelowOne, [0, 0.999], [1, 1.0, -0.1]),
        (PositiveShare, [1, 1e-9], [0, 0.0, 1.1]),
        (OpenShare, [0.5], [0, 1]),
        (Method, ["adam", "clipup"], ["Adam", "", None, 1]),
        (Literal[1, 2], [1, 2], [3, True, 1.0]),
        (bool, [True, False], [0, 1, "yes"]),
        (str, ["", "a"], [1, None]),
        (Count | None, [None, 1], [0, "1"]),
        (Count | Literal["all"], [1, "all"], [0, "none"]),
        (tuple[Count, ...], [(), (1, 2), [3]], [(0,), (1, 0), "12", 1]),
        (tuple[Count, str], [(1, "a")], [(1,), (1, 2), (1, "a", 3)]),
        (Path, [Path(), 3], []),
        (Any, [3, None], []),
        (dict[str, int], [{}, 3], []),
    ],
)
def test_values_inside_are_accepted_and_values_outside_are_refused(
    kind: object, inside: list[object], outside: list[object]
) -> None:
    for value in inside:
        checks.check("x", value, kind)
    for value in outside:
        with pytest.raises(InputError, match=r"^x.* must be .*, got "):
            checks.check("x", value, kind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"lr": -1.0}, "lr must be a number > 0, got -1.0"),
        ({"lr": math.nan}, "lr must be a number > 0, got nan"),
        ({"seed": True}, "seed must be a whole number >= 0, got True"),
        ({"width": 0}, "width must be a whole number >= 1, got 0"),
        ({"method": "lion"}, "method must be adam, sgd or clipup, got 'lion'"),
        ({"hidden": (64, 0)}, "hidden[1] must be a whole number >= 1, got 0"),
        ({"hidden": 64}, "hidden must be a tuple, each a whole number >= 1, got 64"),
        ({"betas": (0.9, 1.0)}, "betas[1] must be a number in [0, 1), got 1.0"),
        ({"betas": (0.9,)}, "betas must be a tuple of 2, got (0.9,)"),
        ({"flag": 1}, "flag must be True or False, got 1"),
    ],
)
def test_the_error_names_the_field_the_bounds_and_the_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Settings(**change)
    assert str(error.value) == message


def test_a_union_says_every_accepted_form() -> None:
    with pytest.raises(InputError, match=r"^x must be a whole number >= 1 or all, got 'none'$"):
        checks.check("x", "none", Count | Literal["all"])


def test_an_element_of_an_optional_tuple_is_named() -> None:
    with pytest.raises(InputError, match=r"^x\[1\] must be a whole number >= 1, got 0$"):
        checks.check("x", (1, 0), tuple[Count, ...] | None)


def test_defaults_are_accepted_and_unchecked_annotations_stay_out_of_the_way() -> None:
    assert Settings(nested=(Path("a"),)).steps == 1


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (Bounds(2), " >= 2"),
        (Bounds(1, low_open=True), " > 1"),
        (Bounds(-1, 1), " in [-1, 1]"),
        (Bounds(0, 1, high_open=True), " in [0, 1)"),
        (Bounds(0, 1, low_open=True), " in (0, 1]"),
    ],
)
def test_bounds_read_as_mathematics(bounds: Bounds, words: str) -> None:
    assert str(bounds) == words


@dataclasses.dataclass(frozen=True)
class Loader:
    workers: checks.Running[Natural] = 0
    size: Count = 32


@dataclasses.dataclass(frozen=True)
class Marked:
    lr: Positive = 1.0
    steps: checks.Growing[Count] = 1
    width: checks.Running[Count | None] = None
    device: checks.Running[str] = "auto"
    loader: Loader | None = None
    other: checks.Running[Literal["a", "b"]] = "a"

    def __post_init__(self) -> None:
        checks.check_fields(self)


def test_marks_are_read_from_annotations_and_nested_dataclasses() -> None:
    assert checks.changeable(Marked) == {
        ("steps",): "growing",
        ("width",): "running",
        ("device",): "running",
        ("loader", "workers"): "running",
        ("other",): "running",
    }
    assert checks.changeable(Settings) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"width": 0}, "width must be a whole number >= 1, got 0"),
        ({"device": 1}, "device must be text, got 1"),
        ({"other": "c"}, "other must be a or b, got 'c'"),
    ],
)
def test_a_marked_field_is_checked_like_any_other(change: dict[str, Any], message: str) -> None:
    assert Marked(steps=3, width=2, device="cpu", other="b").width == 2
    with pytest.raises(InputError) as error:
        Marked(**change)
    assert str(error.value) == message
