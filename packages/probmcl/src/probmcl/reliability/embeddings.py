"""How far an image's embedding lies from those of the training images: a Gaussian for every label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gmr_metric import GaussianMixture
from jaxtyping import Float, Shaped
from sextet_common.errors import InputError
from sextet_common.seeding import generator

MOST_ROWS = 10_000  # training rows that the Gaussians are fitted to
MOST_DIMS = 4096  # of embeddings: a model keeps a square table of them


@dataclass(frozen=True, eq=False)
class LabelGaussians:
    """A mixture with one Gaussian for every label over embeddings; all have one covariance.

    A Gaussian's mean is that of the images with its label, its weight is their share. Images without a label have a
    Gaussian too. The covariance is that of the embeddings about their labels' means, shrunk towards a multiple of the
    identity (Ledoit and Wolf), so that few images suffice. Embeddings are scaled to length 1 first.

    References
    ----------
    One shared covariance: Lee et al., 2018, arXiv 1807.03888; length 1: Mueller and Hein, 2025, arXiv 2505.18032.
    The sum over the Gaussians instead of the nearest one is our choice.

    Examples
    --------
    >>> draw = np.random.default_rng(0)
    >>> labels = np.eye(2)[draw.integers(2, size=100)]
    >>> gaussians = LabelGaussians.fit(labels + 0.1 * draw.normal(size=(100, 2)), labels)
    >>> near, far = gaussians.distance(np.array([[1.0, 0.0], [-1.0, -1.0]]))
    >>> bool(near < far)
    True
    """

    whitening: Float[np.ndarray, "dims dims"]
    """Inverse Cholesky factor of the covariance: makes it the identity."""
    means: Float[np.ndarray, "gaussians dims"]
    """Means of the whitened embeddings."""
    weights: Float[np.ndarray, " gaussians"]

    def __post_init__(self) -> None:
        count, dims = len(self.weights), len(self.whitening)
        shapes = self.whitening.shape, self.means.shape, self.weights.shape
        if not count or shapes != ((dims, dims), (count, dims), (count,)):
            raise InputError(f"Gaussians of shapes {shapes}", "(dims, dims), (count, dims) and (count,)")

    @classmethod
    def fit(
        cls,
        embeddings: Float[np.ndarray, "rows dims"],
        labels: Shaped[np.ndarray, "rows labels"],
    ) -> LabelGaussians:
        """Fit to embeddings and their labels; entries other than 1 are not the label, rows of -1 are left out.

        Labels with one image or none have no Gaussian.
        """
        from sklearn.covariance import ledoit_wolf

        points, table = _normalised(embeddings), np.asarray(labels)
        if table.ndim != 2 or len(table) != len(points):
            raise InputError(f"labels of shape {table.shape} for {len(points)} embeddings", "(rows, labels)")
        groups = np.concatenate([table == 1, (table == 0).all(axis=1, keepdims=True)], axis=1)
        groups = groups[:, groups.sum(axis=0) >= 2]
        if not groups.shape[1]:
            raise InputError("no label has two images", "a label with at least two images")
        counts = groups.sum(axis=0)
        means = groups.T.astype(np.float64) @ points / counts[:, None]
        row, group = np.nonzero(groups)
        covariance, _ = ledoit_wolf(points[row] - means[group], assume_centered=True)
        # A floor for embeddings with constant dimensions, which shrinkage alone leaves singular if all are.
        covariance[np.diag_indices_from(covariance)] += 1e-6 * np.trace(covariance) / len(covariance) + 1e-12
        whitening = np.linalg.inv(np.linalg.cholesky(covariance))
        arrays = whitening, means @ whitening.T, counts / counts.sum()
        return cls(*(array.astype(np.float32) for array in arrays))  # as in files, so that loading changes nothing

    def distance(self, embeddings: Float[np.ndarray, "rows dims"]) -> Float[np.ndarray, " rows"]:
        """Compute the negative log density of embeddings, in nats, up to a constant: 0 at the mean of one Gaussian."""
        points = _normalised(embeddings)
        if points.shape[1] != len(self.whitening):
            raise InputError(f"embeddings of shape {points.shape}", f"(rows, {len(self.whitening)})")
        points = points @ self.whitening.T.astype(np.float64)
        mixture = GaussianMixture(self.weights, self.means, np.ones(len(self.weights)), normalize=True)
        highest = -0.5 * mixture.dim * np.log(2 * np.pi)
        result: np.ndarray = highest - mixture.logpdf(points)
        return result


def chosen_rows(labels: Shaped[np.ndarray, "rows labels"], seed: int) -> np.ndarray:
    """Return the labelled rows to fit to, all of them or a fixed draw of many; none if no label has two images."""
    groups = np.concatenate([labels == 1, (labels == 0).all(axis=1, keepdims=True)], axis=1)
    rows = np.flatnonzero(groups.any(axis=1))
    if len(rows) > MOST_ROWS:
        rows = np.sort(generator(seed, "rows of the Gaussians").permutation(rows)[:MOST_ROWS])
    return rows if (groups[rows].sum(axis=0) >= 2).any() else rows[:0]


def _normalised(embeddings: np.ndarray) -> np.ndarray:
    points = np.asarray(embeddings, dtype=np.float64)
    if points.ndim != 2 or not points.size or not np.isfinite(points).all():
        raise InputError(f"embeddings of shape {points.shape}", "finite numbers of shape (rows, dims)")
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    unit: np.ndarray = points / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
