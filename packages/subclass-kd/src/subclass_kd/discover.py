"""Subclasses where none are known: clusters of features within each class."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Integer
from sextet_common.errors import InputError
from sextet_common.seeding import derive

from subclass_kd.hierarchy import Hierarchy

Clustering = Literal["kmeans", "gmm"]
Criterion = Literal["silhouette", "bic"]


@dataclass(frozen=True)
class Discovered:
    """Clusters as subclasses.

    Parameters
    ----------
    subclass_labels
        Each sample's cluster, numbered class after class, shape (samples,).
    hierarchy
        The clusters' classes.
    scores
        For each class the criterion of each order that was tried; empty where the order was given.
    """

    subclass_labels: Int[np.ndarray, " samples"]
    hierarchy: Hierarchy
    scores: tuple[dict[int, float], ...]


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
    """Cluster each class's features, such as a teacher's, into subclasses.

    Parameters
    ----------
    features
        Shape (samples, features). They are standardised first.
    labels
        The classes, whole numbers from 0, shape (samples,).
    per_class
        How many subclasses a class has; or the least and the most, of which the criterion chooses for each class.
    method
        "kmeans" or "gmm" (Gaussian mixtures of diagonal covariance), scikit-learn's.
    criterion
        "silhouette" (highest), or for gmm "bic" (lowest).
    class_names
        Names of the classes; their numbers where not given.
    seed
        Of the clustering.

    Returns
    -------
    Discovered
        Labels and hierarchy.

    Raises
    ------
    InputError
        Where shapes do not fit, a class has fewer samples than subclasses, or an option is outside what is accepted.

    References
    ----------
    *Ours*: arXiv 2207.08063 has subclasses that are known.

    Examples
    --------
    >>> x = np.array([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]])
    >>> discover_subclasses(x, np.array([0, 0, 0, 0, 1, 1]), per_class=2).hierarchy.class_of.tolist()
    [0, 0, 1, 1]
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if x.ndim != 2 or y.shape != x.shape[:1] or y.dtype.kind not in "iu" or not len(y) or y.min() < 0:
        given = f"features of shape {x.shape}, labels {y.dtype} of shape {y.shape}"
        raise InputError(given, "(samples, features) and whole numbers from 0, (samples,)")
    if not np.isfinite(x).all():
        raise InputError("a feature is not finite", "finite numbers")
    for name, chosen, known in (("method", method, Clustering), ("criterion", criterion, Criterion)):
        if chosen not in get_args(known):
            raise InputError(f"{name} is {chosen!r}", " or ".join(get_args(known)))
    if criterion == "bic" and method != "gmm":
        raise InputError("the criterion bic with kmeans", "silhouette, or the method gmm")
    least, most = per_class if isinstance(per_class, tuple) else (per_class, per_class)
    if not 1 <= least <= most or (least == 1 and most > 1 and criterion == "silhouette"):
        raise InputError(f"per_class is {per_class}", "a whole number >= 1, or (least, most) from 2 (from 1 with bic)")
    n_classes = len(class_names) if class_names else int(y.max()) + 1
    names = class_names or tuple(map(str, range(n_classes)))
    if y.max() >= n_classes:
        raise InputError(f"a label is {int(y.max())}", f"0 to {n_classes - 1}")
    scale = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1)
    found = np.zeros(len(y), dtype=np.int64)
    class_of: list[int] = []
    scores = []
    for label in range(n_classes):
        rows = np.flatnonzero(y == label)
        if len(rows) < max(least, 1):
            raise InputError(f"class {names[label]!r} has {len(rows)} samples", f"{least} at least, one a subclass")
        clusters, tried = _clusters(
            x[rows], least, min(most, len(rows)), method, criterion, derive(seed, label) % 2**32
        )
        found[rows] = clusters + len(class_of)
        class_of += [label] * (int(clusters.max()) + 1)
        scores.append(tried)
    order = [class_of[:number].count(label) for number, label in enumerate(class_of)]
    subclasses = tuple(f"{names[label]} {number}" for label, number in zip(class_of, order, strict=True))
    return Discovered(found, Hierarchy(np.array(class_of), subclasses, names), tuple(scores))


def _clusters(
    x: np.ndarray, least: int, most: int, method: Clustering, criterion: Criterion, seed: int
) -> tuple[np.ndarray, dict[int, float]]:
    """Cluster one class, in the order that the criterion prefers; clusters are numbered by their size."""
    from sklearn.metrics import silhouette_score

    scores: dict[int, float] = {}
    labels: dict[int, np.ndarray] = {}
    for count in range(least, most + 1):
        model = _model(method, count, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of too few distinct points, and of unfinished rounds
            labels[count] = np.asarray(model.fit_predict(x))
        if least == most:
            break
        if criterion == "bic":
            scores[count] = float(model.bic(x))
        else:
            several = 2 <= len(np.unique(labels[count])) < len(x)
            scores[count] = float(silhouette_score(x, labels[count])) if several else -1.0
    sign = 1 if criterion == "bic" else -1
    best = min(scores, key=lambda count: sign * scores[count]) if scores else least
    _, inverse, counts = np.unique(labels[best], return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return rank[inverse], scores


def _model(method: Clustering, count: int, seed: int) -> Any:
    if method == "kmeans":
        from sklearn.cluster import KMeans

        return KMeans(count, n_init=10, random_state=seed)
    from sklearn.mixture import GaussianMixture

    return GaussianMixture(count, covariance_type="diag", n_init=3, reg_covar=1e-4, random_state=seed)
