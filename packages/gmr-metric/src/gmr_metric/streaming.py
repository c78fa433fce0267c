"""Density estimate of an endless stream: a mixture of bounded size, with a bandwidth and forgetting.

After M. Kristan, A. Leonardis and D. Skocaj, "Multivariate online kernel density estimation with Gaussian kernels",
Pattern Recognition 44 (2011): groups of points are stored without the kernel, which is added when the density is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from sextet_common import checkpoint, files, npy
from sextet_common.checks import Count, NonNegative, Positive, check
from sextet_common.errors import STRUCTURE, InputError, reading

from gmr_metric.checks import as_floats, symmetric
from gmr_metric.density.bandwidth import FACTORS, Groups, covariance_of, left_out
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.api import reduce

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["StreamingDensity"]

_GONE = 1e-12  # share of the weight below which a forgotten group is dropped
STATES = (".npz", ".safetensors")  # of files of a state
_FORMAT = "gmr-metric stream"
_ANGLE = {"refine": "none", "reference": "current"}


class _State(NamedTuple):
    """Groups of absorbed points, and the points since."""

    weights: np.ndarray  # (K,), in points, as of the last absorbed one
    means: np.ndarray  # (K, d)
    scatters: np.ndarray  # covariances of the points of each group, (K, d, d)
    squares: float  # sum of the absorbed points' squared weights
    scores: np.ndarray  # log likelihood of each bandwidth
    buffer: np.ndarray  # (b, d)
    n_seen: int


class StreamingDensity:
    """A density estimate of points that keep arriving, in bounded memory.

    The points so far are summarised as at most ``n_components`` groups with a weight, mean and covariance each. Newer
    points wait in a buffer; when it is full, the union of the groups and of a kernel estimate of the buffer is reduced,
    by the angle, and the groups are merged accordingly. Merges preserve moments, so that the weighted mean and
    covariance of all points are kept exactly. The kernel belongs to no group: it is added once, on reading. The result
    does not depend on how the points are divided between calls of :meth:`update`.

    Parameters
    ----------
    n_components
        The largest number of components of :attr:`mixture`.
    forgetting
        The half-life of a point's weight, in points; None to weight all points equally.
    bandwidth
        ``predictive`` chooses the multiple of Scott's rule under which the buffered points, each left out in turn, have
        the largest likelihood. Otherwise as for :meth:`GaussianMixture.from_kde`: ``scott`` or ``silverman``, for the
        effective number of points; a factor of the points' standard deviations; or the kernel's covariance, shape
        (d, d).
    method, options
        A method of :func:`gmr_metric.reduce` and its options. Only its assignment is used, so that refinement has no
        effect on the groups. By default merges by the angle to the current mixture.
    buffer
        Number of points between reductions; by default twice ``n_components``.

    Examples
    --------
    >>> points = np.random.default_rng(0).normal(size=(5000, 1))
    >>> density = StreamingDensity(20)
    >>> for chunk in np.array_split(points, 7):
    ...     density.update(chunk)
    >>> density.n_seen, len(density.mixture), density.pdf([[0.0]]).round(1).tolist()
    (5000, 20, [0.4])
    """

    def __init__(
        self,
        n_components: int = 50,
        *,
        forgetting: float | None = None,
        bandwidth: str | float | Float[np.ndarray, "dim dim"] = "predictive",
        method: str = "oggmr",
        options: Mapping[str, Any] | None = None,
        buffer: int | None = None,
    ) -> None:
        check("n_components", n_components, Count)
        check("forgetting", forgetting, Positive | None)
        check("buffer", buffer, Count | None)
        self.n_components = int(n_components)
        self.forgetting = None if forgetting is None else float(forgetting)
        self.bandwidth = _bandwidth(bandwidth)
        self.method = method
        self.options = dict((_ANGLE if method == "oggmr" else {}) if options is None else options)
        unit = GaussianMixture(np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)))
        reduce(unit, 1, method, **self.options)  # refuses an unknown option
        self.buffer = 2 * self.n_components if buffer is None else int(buffer)
        self._state: _State | None = None
        self._mixture: GaussianMixture | None = None

    @property
    def n_seen(self) -> int:
        """The number of points so far."""
        return self._state.n_seen if self._state is not None else 0

    @property
    def n_effective(self) -> float:
        """Kish's effective number of points: the squared sum of their weights over the sum of the squares."""
        return _groups(self._state, self._decay).effective if self._state is not None else 0.0

    @property
    def mixture(self) -> GaussianMixture:
        """The density of the points so far, with at most ``n_components`` components; reading it changes nothing."""
        if self._mixture is None:
            if self._state is None or not self._state.n_seen:
                raise InputError("the stream has no points yet", "update(points) first")
            groups = _groups(self._state, self._decay)
            scores = self._scored(self._state, groups)
            kernel = self._kernel(groups, scores)
            if len(groups.shares) > self.n_components:
                groups = self._merged(groups, kernel)
            self._mixture = GaussianMixture(groups.shares, groups.means, groups.scatters + kernel, normalize=True)
        return self._mixture

    def update(self, points: Float[np.ndarray, "points dim"]) -> None:
        """Take in any number of points, shape (points, d), in their order; all of them or, on an error, none."""
        state = self._state
        rows = as_floats("points", points, (None, None if state is None else state.means.shape[1]))
        d = rows.shape[1]
        if not d:
            raise InputError(f"points have shape {rows.shape}", "(points, d) with d at least 1")
        if isinstance(self.bandwidth, np.ndarray) and len(self.bandwidth) != d:
            raise InputError(f"bandwidth has shape {self.bandwidth.shape}", f"({d}, {d}) like the points")
        if state is None:
            nothing = np.zeros((0, d))
            state = _State(np.zeros(0), nothing, np.zeros((0, d, d)), 0.0, np.zeros(len(FACTORS)), nothing, 0)
        start = 0
        while start < len(rows):
            taken = rows[start : start + self.buffer - len(state.buffer)]
            start += len(taken)
            state = state._replace(buffer=np.concatenate([state.buffer, taken]), n_seen=state.n_seen + len(taken))
            if len(state.buffer) == self.buffer:
                state = self._absorbed(state)
        self._state, self._mixture = state, None

    def logpdf(self, points: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        """Log density at points of shape (points, d)."""
        return self.mixture.logpdf(points)

    def pdf(self, points: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        """Density at points of shape (points, d)."""
        return self.mixture.pdf(points)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the settings and the state as .npz or .safetensors, whole or not at all.

        A loaded estimate continues with the same numbers as one that was never saved.
        """
        arrays: dict[str, Any] = {} if self._state is None else self._state._asdict()
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        if isinstance(self.bandwidth, np.ndarray):
            arrays["kernel"] = self.bandwidth
        settings = {name: getattr(self, name) for name in ("n_components", "forgetting", "method", "options", "buffer")}
        if "kernel" not in arrays:
            settings["bandwidth"] = self.bandwidth
        meta: dict[str, Any] = {"format": _FORMAT, "version": 1, "settings": json.dumps(settings)}
        if Path(path).suffix == ".npz":
            with files.replacing(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, **meta, **arrays)
        elif Path(path).suffix == ".safetensors":
            checkpoint.save(path, arrays, meta)
        else:
            raise InputError(f"{path} has an unknown suffix", " or ".join(STATES))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> StreamingDensity:
        """Load what :meth:`save` wrote."""
        with reading(path, "a .npz or .safetensors file of StreamingDensity.save", *STRUCTURE):
            table: Any
            if Path(path).suffix == ".npz":
                table = npy.read_npz(path, ("format", "version", "settings"), ("kernel", *_State._fields))
            else:
                saved = checkpoint.load(path)
                table = {**saved.arrays, **saved.meta}
            if str(table["format"]) != _FORMAT or int(table["version"]) != 1:
                raise InputError(
                    f"{path} is a {table['format']} of version {table['version']}", f"a {_FORMAT} of version 1"
                )
            settings = json.loads(str(table["settings"]))
            density = cls(**({"bandwidth": table["kernel"]} if "kernel" in table else {}), **settings)
            if "weights" in table:
                density._state = _checked_state(table, density.buffer)
        return density

    @property
    def _decay(self) -> float:
        """The factor of all earlier weights at each new point."""
        return 1.0 if self.forgetting is None else float(2.0 ** (-1 / self.forgetting))

    def _absorbed(self, state: _State) -> _State:
        """Return the state with the buffer merged into the groups."""
        decay = self._decay
        total = state.weights.sum() * decay ** len(state.buffer) + _ages(state.buffer, decay).sum()
        groups = _groups(state, decay)
        scores = self._scored(state, groups)
        kept = groups.shares > _GONE
        groups = groups._replace(shares=groups.shares[kept], means=groups.means[kept], scatters=groups.scatters[kept])
        if len(groups.shares) > self.n_components:
            groups = self._merged(groups, self._kernel(groups, scores))
        return state._replace(
            weights=groups.shares * total,
            means=groups.means,
            scatters=groups.scatters,
            squares=float(total**2 / groups.effective),
            scores=scores,
            buffer=state.buffer[:0],
        )

    def _merged(self, groups: Groups, kernel: np.ndarray) -> Groups:
        """Merge groups as the reduction of their smoothed mixture says."""
        smoothed = GaussianMixture(groups.shares, groups.means, groups.scatters + kernel, normalize=True)
        assignment = reduce(smoothed, self.n_components, self.method, **self.options).assignment
        shares = np.bincount(assignment, groups.shares)
        within = (groups.shares / shares[assignment])[:, None]
        means = np.zeros((len(shares), groups.means.shape[1]))
        np.add.at(means, assignment, within * groups.means)
        offsets = groups.means - means[assignment]
        scatters = np.zeros((len(shares), *groups.scatters.shape[1:]))
        spread = groups.scatters + offsets[:, :, None] * offsets[:, None, :]
        np.add.at(scatters, assignment, within[..., None] * spread)
        return Groups(shares, means, scatters, groups.effective)

    def _kernel(self, groups: Groups, scores: np.ndarray) -> np.ndarray:
        """Return the kernel's covariance."""
        if isinstance(self.bandwidth, np.ndarray):
            return self.bandwidth
        if isinstance(self.bandwidth, float):
            return self.bandwidth**2 * covariance_of(groups)
        d = groups.means.shape[1]
        factor = groups.effective ** (-1 / (d + 4))
        if self.bandwidth == "silverman":
            factor *= ((d + 2) / 4) ** (-1 / (d + 4))
        elif self.bandwidth == "predictive":
            factor *= float(FACTORS[int(scores.argmax())]) if scores.any() else 1.0
        kernel: np.ndarray = factor**2 * covariance_of(groups)
        return kernel

    def _scored(self, state: _State, groups: Groups) -> np.ndarray:
        """Add the buffered points' likelihoods under each bandwidth; older scores count in proportion to their age."""
        predictive = isinstance(self.bandwidth, str) and self.bandwidth == "predictive"
        if not predictive or len(groups.shares) < 2 or not len(state.buffer):
            return state.scores
        faded = state.scores * self._decay ** len(state.buffer) * (1 - len(state.buffer) / state.n_seen)
        scores: np.ndarray = faded + left_out(groups, len(state.buffer))
        return scores


def _ages(buffer: np.ndarray, decay: float) -> np.ndarray:
    """Return the weights of buffered points, the newest of weight one."""
    weights: np.ndarray = decay ** np.arange(len(buffer) - 1, -1, -1.0)
    return weights


def _groups(state: _State, decay: float) -> Groups:
    d = state.means.shape[1]
    fresh = _ages(state.buffer, decay)
    faded = decay ** len(fresh)
    weights = np.concatenate([state.weights * faded, fresh])
    total = weights.sum()
    squares = state.squares * faded**2 + (fresh**2).sum()
    return Groups(
        weights / total,
        np.concatenate([state.means, state.buffer]),
        np.concatenate([state.scatters, np.zeros((len(fresh), d, d))]),
        float(total**2 / squares),
    )


def _bandwidth(value: Any) -> str | float | np.ndarray:
    if isinstance(value, str):
        check("bandwidth", value, Literal["predictive", "scott", "silverman"])
        return value
    if np.ndim(value) == 0:
        check("bandwidth", value, Positive)
        return float(value)
    kernel: np.ndarray = symmetric("bandwidth", as_floats("bandwidth", value, (None, None))[None])[0]
    if np.linalg.eigvalsh(kernel)[0] <= 0:
        raise InputError("bandwidth is not positive definite", "the kernel's covariance, (d, d)")
    return kernel


def _checked_state(table: Mapping[str, Any], buffer: int) -> _State:
    """Return the state of a file, whose arrays must fit together."""
    means = as_floats("means", table["means"], (None, None))
    k, d = means.shape
    state = _State(
        as_floats("weights", table["weights"], (k,)),
        means,
        as_floats("scatters", table["scatters"], (k, d, d)),
        float(table["squares"]),
        as_floats("scores", table["scores"], (len(FACTORS),)),
        as_floats("buffer", table["buffer"], (None, d)),
        int(table["n_seen"]),
    )
    check("squares", state.squares, NonNegative)
    if (state.weights < 0).any() or not len(state.buffer) < buffer or state.n_seen < len(state.buffer):
        raise InputError("the state's weights or counts do not fit together", "a file of StreamingDensity.save")
    return state
