"""Transport plans between mixtures, by POT's network simplex and by SciPy's linear programme."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from gmr_metric import distance, transport
from gmr_metric.distances import costs, transport as module


@pytest.mark.parametrize("solver", ["POT", "SciPy"])
@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_a_plan_has_the_mixtures_weights_and_costs_its_sum(
    make, solver: str, kind: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ot")
    if solver == "SciPy":
        monkeypatch.delitem(sys.modules, "ot")
    f, g = make(1, 20, 2).convert(kind).affine(scale), make(2, 30, 2).convert(kind).affine(scale)
    plan, cost = transport(f, g)
    np.testing.assert_allclose(plan.sum(axis=1), f.weights, atol=1e-14)
    np.testing.assert_allclose(plan.sum(axis=0), g.weights, atol=1e-14)
    assert plan.min() >= 0
    table = costs.squared_wasserstein(f, g)
    assert cost == pytest.approx((plan * table).sum(), rel=1e-12)
    assert distance(f, g, "mw2") == pytest.approx(math.sqrt(cost), rel=1e-12)


def test_both_solvers_find_the_same_cost(make, monkeypatch: pytest.MonkeyPatch) -> None:
    f, g = make(3, 40, 3), make(4, 50, 3)
    pytest.importorskip("ot")
    first = transport(f, g).cost
    monkeypatch.delitem(sys.modules, "ot")
    assert transport(f, g).cost == pytest.approx(first, rel=1e-9)


def test_an_inexact_plan_of_pots_is_not_used(make, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ot")
    f, g = make(3, 20, 3), make(4, 20, 3)
    before = transport(f, g).cost
    monkeypatch.setattr(module, "_ITERATIONS", 1)
    assert transport(f, g).cost == pytest.approx(before, rel=1e-9)
