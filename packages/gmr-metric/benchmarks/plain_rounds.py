"""The baseline for many components: rounds of Runnalls' merges, with the neighbours searched anew in every round."""

from __future__ import annotations

import numpy as np
from gmr_metric import GaussianMixture, merge_groups
from scipy.spatial import cKDTree

NEIGHBOURS = 16
ROUND = 0.12  # share of the components that one round merges


def plain_rounds(mixture: GaussianMixture, n_components: int) -> GaussianMixture:
    """Merge the cheapest disjoint pairs of neighbours, whitened, one round after the other."""
    leader, now, root = np.arange(len(mixture)), mixture, np.linalg.cholesky(mixture.covariance())
    while (n := len(now)) > n_components:
        points = np.linalg.solve(root, now.means.T).T
        near = cKDTree(points).query(points, k=min(NEIGHBOURS + 1, n))[1]
        both = np.column_stack([np.repeat(np.arange(n), near.shape[1]), near.ravel()])
        couples = np.unique(np.sort(both[both[:, 0] != both[:, 1]], axis=1), axis=0)
        most, free, assignment = min(n - n_components, max(1, int(ROUND * n))), np.ones(n, dtype=bool), np.arange(n)
        for i, j in couples[np.argsort(runnalls_costs(now, *couples.T), kind="stable")].tolist():
            if free[i] and free[j]:
                free[i] = free[j] = False
                assignment[j] = i
                most -= 1
                if not most:
                    break
        assignment = np.unique(assignment, return_inverse=True)[1]
        leader, now = assignment[leader], merge_groups(now, assignment)
    return merge_groups(mixture, leader)


def runnalls_costs(mixture: GaussianMixture, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return Runnalls' bound for merging components i with components j, pair by pair."""
    costs = []
    logs = np.linalg.slogdet(mixture.covariances)[1]
    for start in range(0, len(i), 2**14):
        a, b = i[start : start + 2**14], j[start : start + 2**14]
        v, w = mixture.weights[a], mixture.weights[b]
        share = (w / (v + w))[:, None, None]
        e = mixture.means[a] - mixture.means[b]
        spread = share * (1 - share) * e[:, :, None] * e[:, None, :]
        joint = np.linalg.slogdet((1 - share) * mixture.covariances[a] + share * mixture.covariances[b] + spread)[1]
        costs.append(0.5 * ((v + w) * joint - v * logs[a] - w * logs[b]))
    return np.concatenate(costs)
