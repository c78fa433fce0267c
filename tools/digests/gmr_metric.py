"""Small seeded jobs of gmr-metric: every method, every metric, the filter, torch batches and conversions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gmr_metric as gm
import numpy as np

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "oggmr": [
        {"reference": "original"},
        {"reference": "current"},
        {"refine": "none"},
        {"refine": "none", "reference": "current", "neighbours": 4},
    ],
    "williams": [{"reference": "original"}, {"reference": "current"}],
    "runnalls": [{}, {"neighbours": 4}],
    "salmond": [{}, {"neighbours": 4}],
    "west": [{"dissimilarity": d, "weighting": w} for d in ("kl", "ise") for w in ("plain", "trace", "determinant")],
    "cowa": [{}, {"dissimilarity": "kl", "weighting": "determinant"}],
    "ctd": [{"cost": c, "regularization": r} for c in ("kl", "w2", "cs") for r in (0.0, 0.1)],
    "gmrc": [{}, {"refine": False}],
    "threshold": [{"gate": 1.0}],
    "prune": [{"threshold": 0.02}],
    "brute-force": [{}, {"metric": "ise"}],
}


def mixture(seed: int, n: int, d: int) -> gm.GaussianMixture:
    draw = np.random.default_rng(seed)
    root = draw.normal(size=(n, d, d))
    covariances = root @ root.swapaxes(1, 2) + 0.3 * np.eye(d)
    return gm.GaussianMixture(draw.random(n) + 0.1, 2 * draw.normal(size=(n, d)), covariances, normalize=True)


def arrays(found: gm.GaussianMixture) -> list[np.ndarray]:
    return [found.weights, found.means, found.covariances]


def reduction(found: gm.Reduction) -> dict[str, Any]:
    return {
        "mixture": arrays(found.mixture),
        "assignment": found.assignment,
        "distance": found.distance,
        "history": [list(step) for step in found.history],
    }


def reduced(method: str, d: int, n: int) -> list[Any]:
    results = []
    for options in OPTIONS[method]:
        results.append(reduction(gm.reduce(mixture(d, n, d), min(4, n), method, **options)))
    return results


def bisected() -> list[Any]:
    zero = mixture(9, 8, 2)
    weights = np.concatenate([zero.weights, [0.0]])
    means = np.concatenate([zero.means, [[1.0, 1.0]]])
    padded = gm.GaussianMixture(weights, means, np.concatenate([zero.covariances, [np.eye(2)]]), normalize=True)
    by_distance = gm.reduce(mixture(4, 20, 2), method="runnalls", max_distance=0.2)
    return [reduction(by_distance), reduction(gm.reduce(padded, 3, "runnalls")), reduction(gm.reduce(padded, 3))]


def each_refined() -> Any:
    return reduction(gm.reduce(mixture(5, 8, 2), 3, refine="each"))


def compared() -> dict[str, Any]:
    pairs = [(mixture(1, 5, d), mixture(2, 40, d)) for d in (1, 2, 4, 14)]
    pairs += [(f, f.affine(np.eye(f.dim), 1e-9)) for f in (mixture(3, 6, 2), mixture(3, 40, 3))]
    table = {m: [gm.distance(f, g, m) for f, g in pairs] for m in gm.available_metrics()}
    inner = [[gm.log_inner_product(f, g), gm.norm(f), gm.similarity(f, g)] for f, g in pairs]
    return {"distances": table, "inner": inner, "kl": list(gm.kl_divergence(*pairs[1], samples=500))}


def pairwise() -> dict[str, np.ndarray]:
    mixtures = [mixture(seed, 3 + seed, 2) for seed in range(6)] + [mixture(0, 3, 2)]
    return {m: gm.pairwise_distances(mixtures, m) for m in gm.available_metrics()}


def gradients() -> list[Any]:
    results = []
    for d in (1, 2, 4, 14):
        value, slopes = gm.log_inner_product_gradients(mixture(1, 5, d), mixture(2, 6, d))
        results.append([value, *slopes])
    return results


def filtered() -> list[Any]:
    from gmr_metric.filtering import GaussianSumFilter, Model

    noise = gm.GaussianMixture([0.9, 0.1], np.zeros((2, 1)), [[[1.0]], [[100.0]]])
    walk = Model([[1.0, 1.0], [0.0, 1.0]], 0.01 * np.eye(2))
    prior = gm.GaussianMixture([1.0], np.zeros((1, 2)), [np.eye(2)])
    linear = GaussianSumFilter(n_components=4).run(
        prior, [[1.1], [2.3], None, [30.0], [5.0]], walk, Model([[1.0, 0.0]], noise)
    )
    bearing = Model(
        lambda x: np.arctan2(x[:, 1:2], x[:, 0:1]),
        0.01 * np.eye(1),
        difference=lambda a, b: (a - b + np.pi) % (2 * np.pi) - np.pi,
    )
    turn = Model(lambda x: np.column_stack([np.sin(x[:, 0]), x[:, 1]]), 0.1 * np.eye(2))
    filter_ = GaussianSumFilter(n_components=3, alpha=0.5, beta=2.0, kappa=1.0)
    unscented = filter_.run(mixture(3, 3, 2), [[0.5], [-3.0], [3.1]], turn, bearing)
    return [[arrays(e.predicted), arrays(e.posterior), e.log_likelihood] for run in (linear, unscented) for e in run]


def batches() -> dict[str, Any]:
    import torch
    from gmr_metric.torch import log_inner_products, log_similarity_matrix, similarity_matrix

    draw = torch.Generator().manual_seed(0)
    results: dict[str, Any] = {}
    for kind in ("isotropic", "diagonal", "full"):
        for dtype in (torch.float32, torch.float64):
            logs = torch.randn(4, 3, generator=draw, dtype=dtype).requires_grad_()
            means = torch.randn(4, 3, 2, generator=draw, dtype=dtype).requires_grad_()
            scale = torch.rand(4, 3, 2, generator=draw, dtype=dtype) + 0.5
            covariances = {"isotropic": scale[..., 0], "diagonal": scale, "full": torch.diag_embed(scale) + 0.1}[kind]
            covariances = covariances.clone().requires_grad_()
            other = [logs.detach()[:2], means.detach()[:2] + 1, covariances.detach()[:2]]
            for chunk in (None, 10):
                batch = (logs, means, covariances)
                values = [
                    log_inner_products(*batch, chunk_size=chunk),
                    log_similarity_matrix(*batch, *other, chunk_size=chunk),
                    similarity_matrix(*batch, chunk_size=chunk),
                ]
                slopes = torch.autograd.grad(sum(value.sum() for value in values), batch)
                results[f"{kind} {dtype} {chunk}"] = [values, slopes]
    return results


def values() -> dict[str, Any]:
    from sklearn.mixture import GaussianMixture as Fitted

    f, g = mixture(1, 4, 3), mixture(2, 3, 3)
    points = np.random.default_rng(0).normal(size=(60, 3))
    models = [
        Fitted(3, covariance_type=kind, random_state=0).fit(points) for kind in ("full", "tied", "diag", "spherical")
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("f.json", "f.npz"):
            f.save(Path(folder) / name)
        files = [arrays(gm.GaussianMixture.load(Path(folder) / name)) for name in ("f.json", "f.npz")]
    return {
        "moments": [f.mean(), f.covariance(), f.cholesky, f.sample(20, seed=3)],
        "density": [f.logpdf(points), f.pdf(points)],
        "marginal": arrays(f.marginal([2, 0])),
        "conditional": arrays(f.condition([1], [0.3])),
        "affine": arrays(f.affine([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]], [1.0, 2.0])),
        "product": arrays(f.product(g)),
        "sklearn": [arrays(gm.GaussianMixture.from_sklearn(model)) for model in models],
        "back": [f.to_sklearn().score_samples(points), arrays(gm.GaussianMixture.from_torch(f.to_torch()))],
        "kde": [
            arrays(gm.GaussianMixture.from_kde(points, bandwidth))
            for bandwidth in ("scott", "silverman", 0.5, 0.2 * np.eye(3))
        ],
        "files": files,
        "merge": [arrays(gm.merge(f, 1, 3)), arrays(gm.merge_groups(f, np.array([0, 1, 0, 1])))],
        "refine": [
            arrays(gm.refine(f, gm.merge(f, 0, 1), objective=objective)) for objective in ("cauchy-schwarz", "ise")
        ],
    }


def jobs() -> dict[str, Callable[[], object]]:
    """Return the jobs by name."""
    named: dict[str, Callable[[], object]] = {
        f"{method}, {d}-D": partial(reduced, method, d, 7 if method == "brute-force" else 16)
        for method in OPTIONS
        for d in (1, 2, 4)
    }
    for method in ("oggmr", "runnalls", "salmond", "williams"):  # enough components for the compiled loops
        named[f"{method}, 40 components"] = partial(reduced, method, 3, 40)
    named |= {"oggmr, refined after each merge": each_refined, "reduce to a distance": bisected}
    named |= {"distances": compared, "pairwise distances": pairwise, "gradients": gradients}
    return named | {"filter": filtered, "torch batches": batches, "mixtures": values}
