"""The tables of the CIFAR-10 benchmark: its attribution of gains against models whose shares are known."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PLAIN, BEST = ("dm", "instance", "none"), ("atom", "batch", "zca")
SETTINGS = list(itertools.product(("dm", "atom"), ("instance", "batch"), ("none", "zca")))


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / "cifar_tables.py"
    if not path.exists():
        pytest.skip("the benchmarks are not part of the source distribution")
    spec = importlib.util.spec_from_file_location("cifar_tables", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["cifar_tables"] = module
    spec.loader.exec_module(module)
    return module


def test_independent_gains_are_attributed_to_their_factors(tables: ModuleType) -> None:
    gains = {"atom": 0.05, "batch": -0.02, "zca": 0.03}
    measured = {s: {0: [0.3 + sum(gains.get(value, 0.0) for value in s)]} for s in SETTINGS}
    shares = tables.shares(PLAIN, BEST)
    found = {factor: tables.estimate(weights, measured).value for factor, weights in shares.items()}
    assert found == pytest.approx({"attention": 0.05, "norm": -0.02, "whitening": 0.03})


def test_a_gain_that_needs_two_factors_is_shared_equally_and_shares_sum_to_the_gain(tables: ModuleType) -> None:
    together = {s: {0: [0.2 + 0.08 * (s[0] == "atom" and s[1] == "batch")]} for s in SETTINGS}
    shares = tables.shares(PLAIN, BEST)
    values = [tables.estimate(weights, together).value for weights in shares.values()]
    assert values == pytest.approx([0.04, 0.04, 0.0])
    draw = np.random.default_rng(0)
    anything = {s: {0: [float(draw.random())]} for s in SETTINGS}
    total = sum(tables.estimate(weights, anything).value for weights in shares.values())
    assert total == pytest.approx(anything[BEST][0][0] - anything[PLAIN][0][0])


def test_a_factor_that_does_not_change_has_no_share(tables: ModuleType) -> None:
    same = ("atom", "instance", "none")
    assert tables.shares(PLAIN, same) == {"attention": {same: Fraction(1), PLAIN: Fraction(-1)}}


def test_errors_are_those_over_seeds_and_of_one_seed_those_over_networks(tables: ModuleType) -> None:
    same = ("atom", "instance", "none")
    weights = {same: Fraction(1), PLAIN: Fraction(-1)}
    one = {same: {0: [0.30, 0.34, 0.32]}, PLAIN: {0: [0.20, 0.26]}}
    expected = np.sqrt(np.var([0.30, 0.34, 0.32], ddof=1) / 3 + np.var([0.20, 0.26], ddof=1) / 2)
    assert tables.estimate(weights, one).error == pytest.approx(expected)
    three = {same: {0: [0.3, 0.4], 1: [0.5], 2: [0.4], 7: [0.9]}, PLAIN: {0: [0.2], 1: [0.3], 2: [0.31]}}
    estimate = tables.estimate(weights, three)  # pairs of the same seed; seed 7 has none
    gains = [0.15, 0.2, 0.09]
    assert (estimate.value, estimate.error) == pytest.approx((np.mean(gains), np.std(gains, ddof=1) / 3**0.5))
    assert str(tables.estimate(weights, {same: {0: [0.3]}, PLAIN: {0: [0.2]}})) == "+10.0"
    assert tables.estimate(weights, {PLAIN: {0: [0.2]}}) is None


def test_the_table_has_the_gains_whose_settings_are_all_measured(tables: ModuleType) -> None:
    def row(method: str, norm: str, accuracy: float) -> object:
        fixed = {"pixels": "valid", "whitening": "none", "power": 4, "ipc": 1, "seed": 0, "steps": 9}
        return tables.Row(method=method, norm=norm, accuracies=[accuracy, accuracy], width=8, epochs=2, **fixed)

    rows = [row("dm", "instance", 0.2), row("datadam", "instance", 0.25), row("datadam", "batch", 0.3)]
    assert tables.attribution(rows[:1]) == ""
    (only,) = tables.attribution(rows).splitlines()[2:]  # DM with batch norm is missing
    assert only == "| 1 | valid | datadam, instance, none | instance, none | +5.0 ± 0.0 | +5.0 ± 0.0 |  |  |"
    lines = tables.attribution([*rows, row("dm", "batch", 0.22)]).splitlines()[2:]
    assert len(lines) == 3
    assert "| datadam, batch, none | instance, none | +10.0 ± 0.0 | +6.5 ± 0.0 | +3.5 ± 0.0 |  |" in lines[1]


def test_the_table_of_accuracies_has_a_line_for_each_setting_over_its_seeds(tables: ModuleType) -> None:
    fixed = {"norm": "instance", "whitening": "zca", "power": 4, "ipc": 1, "steps": 20, "width": 8, "epochs": 2}
    rows = [
        tables.Row("datadam", "free", seed=seed, accuracies=[0.1, 0.3], png_accuracies=[0.1], outside=0.5, **fixed)
        for seed in (0, 1)
    ]
    rows.append(tables.Row(tables.REAL, "valid", seed=0, accuracies=[0.125], **fixed))
    rows.append(dataclasses.replace(rows[0], pixels="valid", curve={"10": [0.25]}))
    real, free, valid = tables.table(rows).splitlines()[2:]
    assert real == "| 1 | instance | zca | random real |  | 1 | 12.5 ± 0.0 |  |  |  |"
    assert free == "| 1 | instance | zca | datadam | free | 2 | 20.0 ± 11.5 | 10.0 ± 0.0 | 50 | 1.00 |"
    assert "| datadam | valid | 1 |" in valid
    head, _, line = tables.curves(rows).splitlines()
    assert "| 10 steps | 20 steps |" in head and "| 25.0 ± 0.0 | 20.0 ± 14.1 |" in line
