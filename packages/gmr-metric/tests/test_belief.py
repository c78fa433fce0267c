"""Belief propagation equals exact marginals on trees, and its own definition on a grid elsewhere."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from gmr_metric.__main__ import main
from gmr_metric.belief import (
    BeliefPropagation,
    Joint,
    Linear,
    Measurement,
    Model,
    Potential,
    Unary,
    read_graph,
    ring,
)
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.metrics import distance
from sextet_common.errors import InputError

EXACT = BeliefPropagation(n_components=None)
GRID = np.linspace(-14, 14, 561)
STEP = GRID[1] - GRID[0]


def single(draw: np.random.Generator, d: int) -> GaussianMixture:
    root = draw.normal(size=(d, d))
    return GaussianMixture([1.0], draw.normal(size=(1, d)), [root @ root.T + 0.3 * np.eye(d)])


def line(weights: Sequence[float], means: Sequence[float], deviations: Sequence[float]) -> GaussianMixture:
    return GaussianMixture(weights, np.array(means)[:, None], np.square(deviations)[:, None, None])


def quadratics(
    potentials: Sequence[Potential],
) -> list[list[tuple[float, dict[str, np.ndarray], np.ndarray, np.ndarray]]]:
    """Describe every component of every potential as (weight, {variable: matrix}, mean and covariance of the sum)."""
    described = []
    for p in potentials:
        if isinstance(p, Unary):
            terms, noise = {p.variable: np.eye(p.mixture.dim)}, p.mixture
            arrays = noise.weights, noise.means, noise.covariances
        elif isinstance(p, Measurement):
            weights, means, covariances = p.model.noise_arrays
            terms, arrays = {p.variable: p.model.function}, (weights, p.value - means, covariances)
        elif isinstance(p, Linear):
            terms, arrays = {p.target: np.eye(p.model.dim), p.source: -p.model.function}, p.model.noise_arrays
        else:
            whole = np.eye(p.mixture.dim)
            terms = {p.first: whole[:, : p.first_dim], p.second: whole[:, p.first_dim :]}
            arrays = p.mixture.weights, p.mixture.means, p.mixture.covariances
        described.append([(w, terms, m, c) for w, m, c in zip(*arrays, strict=True)])
    return described


def marginals(potentials: Sequence[Potential]) -> dict[str, GaussianMixture]:
    """Sum over all choices of one component per potential; each is one Gaussian of all variables."""
    dims: dict[str, int] = {}
    for p in potentials:
        dims |= p.dims
    starts = dict(zip(dims, np.cumsum([0, *dims.values()]), strict=False))
    total = sum(dims.values())
    logs, means, covariances = [], [], []
    for choice in itertools.product(*quadratics(potentials)):
        precision, vector, constant = np.zeros((total, total)), np.zeros(total), 0.0
        for weight, terms, mean, covariance in choice:
            effect = np.zeros((len(mean), total))
            for name, matrix in terms.items():
                effect[:, starts[name] : starts[name] + dims[name]] = matrix
            inverse = np.linalg.inv(covariance)
            precision += effect.T @ inverse @ effect
            vector += effect.T @ inverse @ mean
            constant += math.log(weight) - 0.5 * (mean @ inverse @ mean + np.linalg.slogdet(covariance)[1])
        covariances.append(np.linalg.inv(precision))
        means.append(covariances[-1] @ vector)
        logs.append(constant + 0.5 * vector @ means[-1] - 0.5 * np.linalg.slogdet(precision)[1])
    weights = np.exp(np.array(logs) - max(logs))
    joint = GaussianMixture(weights, means, covariances, normalize=True)
    return {name: joint.marginal(range(starts[name], starts[name] + dims[name])) for name in dims}


def assert_same_densities(beliefs: dict[str, GaussianMixture], exact: dict[str, GaussianMixture], rtol: float) -> None:
    assert list(beliefs) == list(exact)
    for name, expected in exact.items():
        points = expected.sample(50, seed=1)
        np.testing.assert_allclose(beliefs[name].logpdf(points), expected.logpdf(points), rtol=rtol, atol=rtol)


def tree(draw: np.random.Generator, make: Callable[[int], GaussianMixture]) -> list[Potential]:
    """Return a tree of five variables of one to three dimensions, in which one has no information of its own."""
    joint = make(5)
    return [
        Linear("a", "b", Model(draw.normal(size=(3, 2)), make(3))),
        Unary("a", make(2)),
        Measurement("b", Model(draw.normal(size=(1, 3)), make(1)), draw.normal(size=1)),
        Linear("c", "a", Model(draw.normal(size=(2, 2)), make(2))),
        Joint("d", "a", joint, 3),
        Linear("e", "b", Model(draw.normal(size=(3, 1)), make(3))),
        Measurement("e", Model(draw.normal(size=(2, 1)), make(2)), draw.normal(size=2)),
        Unary("d", make(3)),
    ]


def test_beliefs_of_gaussians_on_a_tree_are_those_of_the_joint_precision() -> None:
    for seed in range(5):
        draw = np.random.default_rng(seed)
        potentials = tree(draw, lambda d, draw=draw: single(draw, d))
        found = EXACT.run(potentials)
        assert (found.iterations, found.converged, found.history) == (1, True, ())
        exact = marginals(potentials)
        for name in exact:
            np.testing.assert_allclose(found[name].means, exact[name].means, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(found[name].covariances, exact[name].covariances, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tolerance", [None, 0])
def test_beliefs_of_mixtures_on_a_tree_are_exact_without_reduction(make, tolerance: float | None) -> None:
    draw = np.random.default_rng(3)
    seeds = itertools.count(10)
    potentials = tree(draw, lambda d: make(next(seeds), 2, d))
    found = BeliefPropagation(n_components=None, tolerance=tolerance).run(potentials)
    assert_same_densities(dict(found.mixtures), marginals(potentials), 1e-9)
    assert len(found["c"]) == 2 ** len(potentials)


@pytest.mark.parametrize("kind", ["diag", "spherical"])
def test_diagonal_and_spherical_potentials_are_those_of_the_same_full_ones(make, kind: str) -> None:
    prior, noise, joint = make(1, 2, 2).convert(kind), make(2, 2, 2).convert(kind), make(3, 2, 4).convert(kind)
    graphs = [
        [Unary("a", p), Linear("a", "b", Model([[1.0, 1.0], [0.0, 1.0]], n)), Joint("b", "c", j, 2)]
        for p, n, j in ((prior, noise, joint), [m.convert("full") for m in (prior, noise, joint)])
    ]
    assert_same_densities(dict(EXACT.run(graphs[0]).mixtures), marginals(graphs[1]), 1e-9)


def test_a_singular_noise_is_exact(make) -> None:
    motion = Model([[1.0, 1.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.5]])
    prior, sensor = single(np.random.default_rng(0), 2), Model([[1.0, 0.0]], [[0.1]])
    found = EXACT.run([Unary("a", prior), Linear("a", "b", motion), Measurement("b", sensor, [3.0])])
    nearly = Model(motion.function, motion.noise + 1e-9 * np.eye(2))
    expected = marginals([Unary("a", prior), Linear("a", "b", nearly), Measurement("b", sensor, [3.0])])
    assert_same_densities(dict(found.mixtures), expected, 1e-6)


def test_a_velocity_follows_from_positions_alone() -> None:
    """No potential of one variable is a density, nor is any message from the later times."""
    motion, sensor = Model([[1.0, 1.0], [0.0, 1.0]], 0.1 * np.eye(2)), Model([[1.0, 0.0]], [[0.2]])
    potentials: list[Potential] = [Linear(str(k), str(k + 1), motion) for k in range(5)]
    potentials += [Measurement(str(k), sensor, [0.5 * k * k]) for k in range(6)]
    assert_same_densities(dict(EXACT.run(potentials).mixtures), marginals(potentials), 1e-9)


# One dimension, on a grid: messages by sums.


def on_grid(potential: Linear | Joint) -> np.ndarray:
    """Return the potential at pairs of grid points, the first variable in rows."""
    x, y = np.meshgrid(GRID, GRID, indexing="ij")
    if isinstance(potential, Joint):
        return potential.mixture.pdf(np.column_stack([x.ravel(), y.ravel()])).reshape(x.shape)
    weights, means, covariances = potential.model.noise_arrays
    noise = GaussianMixture(weights, means, covariances)
    return noise.pdf((y - potential.model.function[0, 0] * x).reshape(-1, 1)).reshape(x.shape)


def grid_beliefs(
    unary: dict[str, GaussianMixture], pairs: Sequence[Linear | Joint], rounds: int
) -> dict[str, np.ndarray]:
    """Pass all messages at once, repeatedly."""
    tables = [on_grid(pair) for pair in pairs]
    own = {name: mixture.pdf(GRID[:, None]) for name, mixture in unary.items()}
    names = sorted({name for pair in pairs for name in pair.dims})
    messages = {(k, name): np.ones_like(GRID) for k, pair in enumerate(pairs) for name in pair.dims}

    def product(name: str, without: int | None = None) -> np.ndarray:
        values = own.get(name, np.ones_like(GRID))
        for (k, receiver), message in messages.items():
            if receiver == name and k != without:
                values = values * message
        return values

    for _ in range(rounds):
        latest = {}
        for k, pair in enumerate(pairs):
            first, second = pair.dims
            for receiver, message in ((second, product(first, k) @ tables[k]), (first, tables[k] @ product(second, k))):
                latest[k, receiver] = message / message.sum()
        messages = latest
    return {name: product(name) / product(name).sum() / STEP for name in names}


UNARY = {
    "a": line([0.6, 0.4], [-2.0, 1.5], [0.5, 0.8]),
    "b": line([0.5, 0.5], [-3.0, 3.0], [1.0, 1.5]),
    "d": line([1.0], [0.5], [2.0]),
}
NOISE = line([0.8, 0.2], [0.5, -1.0], [0.4, 1.2])
JOINT = Joint(
    "b", "d", GaussianMixture([0.5, 0.5], [[-1.0, 1], [2, 0]], [[[2.0, 1], [1, 2]], [[1.0, -0.5], [-0.5, 1.5]]])
)
PAIRS: list[Linear | Joint] = [Linear("a", "b", Model([[0.8]], NOISE)), Linear("c", "b", Model([[-1.1]], NOISE)), JOINT]


def test_a_tree_of_mixtures_agrees_with_sums_over_a_grid() -> None:
    expected = grid_beliefs(UNARY, PAIRS, 4)
    found = EXACT.run([*(Unary(*item) for item in UNARY.items()), *PAIRS])
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].pdf(GRID[:, None]), values, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_a_cycle_converges_to_the_fixed_point_on_a_grid(damping: float) -> None:
    pairs = [*PAIRS, Linear("a", "d", Model([[0.5]], [[1.5]]))]
    expected = grid_beliefs(UNARY, pairs, 60)
    method = BeliefPropagation(n_components=50, tolerance=1e-3, damping=damping, convergence=3e-3)
    found = method.run([*(Unary(*item) for item in UNARY.items()), *pairs])
    assert found.converged and len(found.history) == found.iterations > 1
    assert found.history[-1] <= 3e-3
    for name, values in expected.items():
        near = found[name].pdf(GRID[:, None])
        cosine = near @ values / np.linalg.norm(near) / np.linalg.norm(values)
        assert math.acos(min(1.0, cosine)) < 1e-2


def test_two_ranges_in_the_plane_agree_with_a_grid() -> None:
    axis = np.linspace(-5.5, 5.5, 37)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    anchor = GaussianMixture([1.0], [[-1.0, 0.0]], [0.3 * np.eye(2)])
    other = GaussianMixture([0.5, 0.5], [[1.0, 1.0], [2.0, -1.0]], [0.4 * np.eye(2)] * 2)
    offsets = [ring(2.0, 0.5), ring(1.5, 0.5)]
    graph = [
        Unary("anchor", anchor),
        Linear("anchor", "sensor", Model(np.eye(2), offsets[0])),
        Linear("other", "sensor", Model(np.eye(2), offsets[1])),
        Unary("other", other),
    ]
    found = EXACT.run(graph)
    differences = (points[None] - points[:, None]).reshape(-1, 2)
    tables = [offset.pdf(differences).reshape(len(points), -1) for offset in offsets]
    first, second = anchor.pdf(points) @ tables[0], other.pdf(points) @ tables[1]
    for name, values in (("sensor", first * second), ("other", other.pdf(points) * (tables[1] @ first))):
        expected = values / values.sum() / (axis[1] - axis[0]) ** 2
        np.testing.assert_allclose(found[name].pdf(points), expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize(("length", "deviation"), [(3.0, 0.5), (10.0, 0.2)])
def test_a_ring_has_the_length_and_the_deviation_that_were_given(dim: int, length: float, deviation: float) -> None:
    offsets = ring(length, deviation, dim)
    lengths = np.linalg.norm(offsets.sample(200_000), axis=1)
    assert lengths.mean() == pytest.approx(length, abs=0.1 * deviation)
    assert lengths.std() == pytest.approx(deviation, rel=0.2)
    np.testing.assert_allclose(offsets.mean(), 0, atol=0.02 * length)
    if dim == 2:  # even in all directions
        angles = np.linspace(0, 2 * np.pi, 500)
        around = offsets.pdf(length * np.column_stack([np.cos(angles), np.sin(angles)]))
        assert around.max() < 1.2 * around.min()


def test_the_reduction_of_a_product_stays_within_the_tolerance(make) -> None:
    first, second = make(1, 12, 2), make(2, 12, 2)
    exact = first.product(second)
    sizes = []
    for tolerance in (0.2, 0.05, 0.01):
        found = BeliefPropagation(n_components=None, tolerance=tolerance).run([Unary("a", first), Unary("a", second)])
        # Both factors are reduced too, by as much as the tolerance in their own norm.
        assert distance(exact, found["a"]) <= 3 * tolerance
        sizes.append(len(found["a"]))
    assert sizes == sorted(sizes)
    assert sizes[-1] < len(exact)


def test_weights_far_below_the_smallest_float_are_multiplied_as_logarithms() -> None:
    """Each of the two messages alone would leave the other's component a weight of exp(-5000)."""
    far = line([0.5, 0.5], [0.0, 100.0], [1.0, 1.0])
    sides = [Unary("a", line([1.0], [0.0], [1.0])), Unary("a", line([1.0], [100.0], [1.0]))]
    narrow = Linear("a", "b", Model([[1.0]], [[1e-4]]))
    found = EXACT.run([sides[0], narrow, Unary("b", far), sides[1]])
    exact = marginals([sides[0], narrow, Unary("b", far), sides[1]])
    np.testing.assert_allclose(found["b"].weights, exact["b"].weights, atol=1e-9)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: EXACT.run([]), "no potentials; expected: at least one"),
        (lambda: EXACT.run([Linear("a", "b", Model([[1.0]], [[1.0]]))]), "the belief of a is no density"),
        (lambda: EXACT.run([Unary("a", ring(1, 1)), Unary("a", UNARY["a"])]), "a has 2 dimensions in one potential, 1"),
        (lambda: Linear("a", "a", Model([[1.0]], [[1.0]])), "a relation of 'a' with itself"),
        (lambda: Linear("a", "b", Model(np.sin, [[1.0]])), "has a function; expected: a matrix"),
        (lambda: Joint("a", "b", ring(1, 1), 2), "first_dim is 2 of 2 dimensions"),
        (lambda: ring(1, 1, dim=4), "dim is 4; expected: 1, 2 or 3"),
        (lambda: ring(0, 1), "distance must be a number > 0, got 0"),
        (lambda: BeliefPropagation(damping=1), "damping must be a number in [0, 1), got 1"),
        (lambda: BeliefPropagation(method="best"), "method 'best' is unknown"),
        (lambda: Measurement("a", Model([[1.0]], [[1.0]]), [1, 2]), "a measurement must have shape (1,)"),
        (lambda: EXACT.run([Unary("a", many()), Unary("a", many())]), "a product of messages has 160000 components"),
        (
            lambda: EXACT.run([Linear("a", "b", Model([[1.0], [1.0]], np.zeros((2, 2)))), Unary("a", UNARY["a"])]),
            "no noise of full rank",
        ),
    ],
)
def test_bad_input_is_refused(work: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        work()


def many() -> GaussianMixture:
    return GaussianMixture(np.full(400, 1 / 400), np.zeros((400, 1)), np.ones((400, 1, 1)))


def test_a_partial_message_through_a_rectangular_matrix_is_refused() -> None:
    sensor = Measurement("a", Model([[1.0, 0.0]], [[1.0]]), [0.0])
    with pytest.raises(InputError, match="the message from a to b has no density; expected: a Unary potential of a"):
        EXACT.run([Linear("a", "b", Model([[1.0, 1.0]], [[1.0]])), sensor])


def test_a_graph_is_read_from_a_file_and_beliefs_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    UNARY["a"].save("a.json")
    noise = {"weights": [0.8, 0.2], "means": [[0.5], [-1.0]], "covariances": [[[0.16]], [[1.44]]]}
    joint = {name: getattr(JOINT.mixture, name).tolist() for name in ("weights", "means", "covariances")}
    entries = [
        {"unary": "a", "mixture": "a.json"},
        {"linear": ["a", "b"], "matrix": [[0.8]], "noise": noise},
        {"joint": ["b", "d"], "mixture": joint},
        {"measurement": "d", "matrix": [[2.0]], "noise": [[0.3]], "value": [1.0]},
        {"range": ["d", "e"], "distance": 2.0, "deviation": 0.3, "dim": 1},
        {"range": "e", "anchor": [0.5], "distance": 1.0, "deviation": 0.5},
    ]
    Path("graph.json").write_text(json.dumps({"potentials": entries}))
    assert main(["belief", "graph.json", "--out", "beliefs", "-k", "1000"]) == 0
    said = capsys.readouterr().out
    graph: list[Potential] = [
        Unary("a", UNARY["a"]),
        Linear("a", "b", Model([[0.8]], NOISE)),
        JOINT,
        Measurement("d", Model([[2.0]], [[0.3]]), [1.0]),
        Linear("d", "e", Model([[1.0]], ring(2.0, 0.3, 1))),
        Unary("e", line([0.5, 0.5], [-0.5, 1.5], [0.5, 0.5])),
    ]
    for name, exact in marginals(graph).items():
        found = GaussianMixture.load(f"beliefs/{name}.json")
        np.testing.assert_allclose(found.mean(), exact.mean(), rtol=1e-9)
        assert f"{name}: {len(found)} components, mean {exact.mean()[0]:.6g}\n" in said
    assert said.endswith("iterations: 1, converged; beliefs\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is no graph"),
        ('{"potentials": [{}]}', "potential 0: a potential has the kinds []"),
        ('{"potentials": [3]}', "potential 0"),
        ('{"potentials": [{"unary": "../x", "mixture": "m.json"}]}', "a variable is named '../x'"),
        ('{"potentials": [{"unary": "x", "mixture": "none.json"}]}', "none.json does not exist"),
        ('{"potentials": [{"unary": "x", "mixture": {"weights": [1]}}]}', "a mixture has weights"),
        ('{"potentials": [{"linear": ["x"], "matrix": [[1]], "noise": [[1]]}]}', "two variables"),
        ('{"potentials": [{"linear": ["x", "y"], "noise": [[1]]}]}', "potential 0"),
        ('{"potentials": [{"unary": "x", "mean": 3}]}', "unary has no 'mean'"),
        ('{"potentials": [{"range": ["x", "y"], "distance": -1, "deviation": 1}]}', "distance must be a number > 0"),
        ("{", "cannot be read"),
    ],
)
def test_a_damaged_graph_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text(content)
    with pytest.raises(InputError, match=re.escape(message)):
        read_graph(tmp_path / "g.json")
