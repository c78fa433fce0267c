"""Discovered subclasses, where none are known: clusters of features within each class."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Integer
from sextet_common.checks import check
from sextet_common.errors import InputError
from sextet_common.seeding import derive

from subclass_kd.hierarchy import Hierarchy

Clustering = Literal["kmeans", "gmm", "spectral"]
Criterion = Literal["silhouette", "bic"]


_FEWEST = 20  # samples for a graph of nearest neighbours


@dataclass(frozen=True)
class Discovered:
    """Clusters as subclasses.

    Each sample's cluster is numbered class by class and by decreasing size. ``scores`` has the criterion by the number
    of clusters for each class; it is empty if that number was given.
    """

    subclass_labels: Int[np.ndarray, " samples"]
    hierarchy: Hierarchy
    scores: tuple[dict[int, float], ...]


@dataclass(frozen=True)
class LayerChoice:
    """The chosen layer, its clusters, and the agreement of every layer's clusters with those of the others."""

    layer: str
    discovered: Discovered
    agreement: dict[str, float]


def choose_layer(
    layers: Mapping[str, Float[np.ndarray, "samples features"]],
    labels: Integer[np.ndarray, " samples"],
    per_class: int | tuple[int, int] = (2, 6),
    method: Clustering = "spectral",
    *,
    criterion: Criterion = "silhouette",
    class_names: tuple[str, ...] | None = None,
    seed: int = 0,
) -> LayerChoice:
    """Discover subclasses in every layer's features, and choose the layer whose clusters the others confirm most.

    The agreement of two layers is the adjusted Rand index of their clusters, averaged over the classes; a layer's is
    the mean over all others. Clusters that come from the images are found by several layers; clusters of what a layer
    has left of them are not. ``layers`` is what `layer_features` returns; the other parameters are those of
    `discover_subclasses`.

    Examples
    --------
    >>> random, subclass = np.random.default_rng(0), np.arange(60) % 4
    >>> layers = {name: np.eye(4)[subclass] + 0.1 * random.normal(size=(60, 4)) for name in ("pixels", "8x8")}
    >>> choice = choose_layer({**layers, "last": random.normal(size=(60, 4))}, subclass // 2, per_class=2)
    >>> choice.layer, round(choice.agreement["last"], 1)
    ('pixels', 0.0)
    """
    from sklearn.metrics import adjusted_rand_score

    options: dict[str, Any] = {"criterion": criterion, "class_names": class_names, "seed": seed}
    found = {name: discover_subclasses(values, labels, per_class, method, **options) for name, values in layers.items()}
    if not found:
        raise InputError("no layer", "at least one")
    groups = [np.flatnonzero(np.asarray(labels) == label) for label in np.unique(labels)]

    def agreement(one: str, other: str) -> float:
        both = [found[name].subclass_labels for name in (one, other)]
        return float(np.mean([adjusted_rand_score(both[0][rows], both[1][rows]) for rows in groups]))

    agreements = {
        name: float(np.mean([agreement(name, other) for other in found if other != name] or [1.0])) for name in found
    }
    best = max(agreements, key=lambda name: agreements[name])
    return LayerChoice(best, found[best], agreements)


def discover_subclasses(
    features: Float[np.ndarray, "samples features"],
    labels: Integer[np.ndarray, " samples"],
    per_class: int | tuple[int, int] = (2, 6),
    method: Clustering = "kmeans",
    *,
    criterion: Criterion = "silhouette",
    class_names: tuple[str, ...] | None = None,
    seed: int = 0,
) -> Discovered:
    """Cluster each class's features, such as a teacher's, into subclasses. Not part of arXiv 2207.08063.

    Features are standardised before clustering. Labels are whole numbers from 0, which name the classes by default.

    Parameters
    ----------
    per_class
        Number of subclasses per class, or its bounds (least, most), between which the criterion chooses for each class.
    method
        "kmeans", "gmm" (Gaussian mixture with diagonal covariances) or "spectral" (of the graph of ten nearest
        neighbours; a class of fewer than 20 samples is clustered by k-means), from scikit-learn.
    criterion
        "silhouette" (highest), or "bic" (lowest) with gmm.

    Examples
    --------
    >>> x = np.array([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]])
    >>> discover_subclasses(x, np.array([0, 0, 0, 0, 1, 1]), per_class=2).hierarchy.class_of.tolist()
    [0, 0, 1, 1]
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(labels)
    least, most = per_class if isinstance(per_class, tuple) else (per_class, per_class)
    _check(x, y, (least, most), method, criterion)
    n_classes = len(class_names) if class_names else int(y.max()) + 1
    names = class_names or tuple(map(str, range(n_classes)))
    if y.max() >= n_classes:
        raise InputError(f"label {int(y.max())}", f"0 to {n_classes - 1}")
    scale = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1)
    subclass_labels = np.zeros(len(y), dtype=np.int64)
    class_of: list[int] = []
    subclass_names: list[str] = []
    scores = []
    for label, name in enumerate(names):
        rows = np.flatnonzero(y == label)
        if len(rows) < least:
            raise InputError(f"class {name!r} has {len(rows)} samples", f"at least {least}, one per subclass")
        counts = range(least, min(most, len(rows)) + 1)
        clusters, tried = _cluster(x[rows], counts, method, criterion, derive(seed, label) % 2**32)
        subclass_labels[rows] = clusters + len(class_of)
        count = int(clusters.max()) + 1
        class_of += [label] * count
        subclass_names += [f"{name} {number}" for number in range(count)]
        scores.append(tried)
    return Discovered(subclass_labels, Hierarchy(np.array(class_of), tuple(subclass_names), names), tuple(scores))


def _check(x: np.ndarray, y: np.ndarray, per_class: tuple[int, int], method: Clustering, criterion: Criterion) -> None:
    if x.ndim != 2 or y.shape != x.shape[:1] or y.dtype.kind not in "iu" or not len(y) or y.min() < 0:
        given = f"features of shape {x.shape}, labels of dtype {y.dtype} and shape {y.shape}"
        raise InputError(given, "(samples, features), and whole numbers from 0 of shape (samples,)")
    if not np.isfinite(x).all():
        raise InputError("the features contain NaN or infinity", "finite numbers")
    check("method", method, Clustering)
    check("criterion", criterion, Criterion)
    if criterion == "bic" and method != "gmm":
        raise InputError(f"criterion 'bic' with method {method!r}", "silhouette, or the method gmm")
    least, most = per_class
    if not 1 <= least <= most or (least == 1 and most > 1 and criterion == "silhouette"):
        given = f"per_class is {least if least == most else per_class}"
        raise InputError(given, "a whole number >= 1, or (least, most) from 2 (from 1 with bic)")


def _cluster(
    x: np.ndarray, counts: range, method: Clustering, criterion: Criterion, seed: int
) -> tuple[np.ndarray, dict[int, float]]:
    """Cluster one class into the number of clusters with the best score; clusters are numbered by decreasing size."""
    scores: dict[int, float] = {}
    labels: dict[int, np.ndarray] = {}
    for count in counts:
        model = _model("kmeans" if method == "spectral" and len(x) < _FEWEST else method, count, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about too few distinct points and unfinished iterations
            labels[count] = np.asarray(model.fit_predict(x))
        if len(counts) > 1:
            scores[count] = -float(model.bic(x)) if criterion == "bic" else _silhouette(x, labels[count])
    best = max(scores, key=lambda count: scores[count]) if scores else counts[0]
    if criterion == "bic":
        scores = {count: -value for count, value in scores.items()}
    _, inverse, sizes = np.unique(labels[best], return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return rank[inverse], scores


def _silhouette(x: np.ndarray, labels: np.ndarray) -> float:
    """Return the silhouette score, -1 where it is undefined."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(x, labels)) if 2 <= len(np.unique(labels)) < len(x) else -1.0


def _model(method: Clustering, count: int, seed: int) -> Any:
    if method == "kmeans":
        from sklearn.cluster import KMeans

        return KMeans(count, n_init=10, random_state=seed)
    if method == "spectral":
        from sklearn.cluster import SpectralClustering

        return SpectralClustering(
            count, affinity="nearest_neighbors", n_neighbors=10, assign_labels="cluster_qr", random_state=seed
        )
    from sklearn.mixture import GaussianMixture

    return GaussianMixture(count, covariance_type="diag", n_init=3, reg_covar=1e-4, random_state=seed)
