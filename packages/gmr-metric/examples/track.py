"""Track a target with outliers among its measured positions: a Kalman filter and a Gaussian-sum filter.

Both know the same motion and the same variance of the measurements. The Gaussian-sum filter also knows that the
variance comes from a few outliers, and weights each measurement by its probability of being one. Run
``python examples/track.py``.
"""

from __future__ import annotations

import numpy as np
from gmr_metric import GaussianMixture, GaussianSumFilter
from gmr_metric.filtering import Model

STEPS, OUTLIERS = 200, 0.15
F = np.kron([[1.0, 1.0], [0.0, 1.0]], np.eye(2))  # the state is x, y and their velocities; a step lasts 1 s
Q = 0.02 * np.kron([[1 / 3, 1 / 2], [1 / 2, 1.0]], np.eye(2))  # white acceleration, in m^2/s^3
H = np.eye(2, 4)  # positions are measured with an error of 1 m or, 15 times in 100, of 20 m
noise = GaussianMixture([1 - OUTLIERS, OUTLIERS], np.zeros((2, 2)), [np.eye(2), 400 * np.eye(2)])
prior = GaussianMixture([1.0], np.zeros((1, 4)), [np.eye(4)])

draw = np.random.default_rng(7)
state = prior.sample(1, seed=7)[0]
truth = np.empty((STEPS, 4))
for step in range(STEPS):
    truth[step] = state = F @ state + draw.multivariate_normal(np.zeros(4), Q)
measurements = truth @ H.T + noise.sample(STEPS, seed=7)

tracker = GaussianSumFilter(n_components=8, method="runnalls")
for name, sensor in (("Kalman filter", Model(H, noise.covariance())), ("Gaussian-sum filter", Model(H, noise))):
    estimates = list(tracker.run(prior, measurements, Model(F, Q), sensor))
    means = np.array([estimate.posterior.mean() for estimate in estimates])
    rmse = np.sqrt(((means - truth)[:, :2] ** 2).sum(axis=1).mean())
    print(f"{name}: {rmse:.2f} m from the truth, log likelihood {sum(e.log_likelihood for e in estimates):.0f}")
