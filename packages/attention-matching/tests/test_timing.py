"""Timing: who is called how often, and what is refused. No test asks how fast."""

from __future__ import annotations

import pytest
from attention_matching import DistillConfig
from attention_matching.distillation.timing import in_turn, time_steps
from sextet_common import data
from sextet_common.errors import InputError


def test_contestants_run_in_turn_and_warm_ups_are_not_counted() -> None:
    called: list[str] = []
    timings = in_turn({name: lambda name=name: called.append(name) for name in "ab"}, rounds=3, warm_ups=1)
    assert called == ["a", "b"] * 4
    assert all(len(timing.seconds) == 3 and min(timing.seconds) >= 0 for timing in timings.values())


def test_steps_are_timed_beside_peers() -> None:
    calls: list[int] = []
    only = ("as-asked", "channels_last", "bfloat16")
    config = DistillConfig(width=8, real_batch=4)
    timings = time_steps(
        data.load("digits"), config, only=only, rounds=2, steps=2, peers={"peer": lambda: calls.append(1)}
    )
    assert list(timings) == ["peer", *only] and len(calls) == 4  # two warm-ups and two rounds
    assert all(timings[name].median > 0 for name in only)


def test_what_cannot_be_timed_is_refused() -> None:
    digits = data.load("digits")
    with pytest.raises(InputError, match=r"only must name variants \(as-asked, .*\), got 'turbo'"):
        time_steps(digits, only=("turbo",))
    with pytest.raises(InputError, match="rounds must be a whole number >= 1, got 0"):
        time_steps(digits, rounds=0)
