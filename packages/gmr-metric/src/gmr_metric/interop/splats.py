"""3-D Gaussian splats: scenes with fewer splats that look the same, by mixture reduction (extra ``splats``).

A splat is a Gaussian with an opacity and a colour that depends on the direction, in spherical harmonics (Kerbl et al.
2023). Not specified in the paper of this package; the choices below are those with the best rendered images in
benchmarks/splats.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np
from sextet_common.checks import Bounds, PositiveShare, check
from sextet_common.errors import InputError

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.interop import splat_files
from gmr_metric.reduction.api import reduce

if TYPE_CHECKING:
    from jaxtyping import Float, Integer

_SH_0 = 0.28209479177387814  # the spherical harmonic of degree 0
_LARGEST_LOG = 80.0  # of a scale, so that products of scales do not overflow
_FLOOR = 1e-7  # smallest scale relative to the largest one, where covariances are decomposed
_OPAQUE = 0.999  # largest opacity of a merged splat
_WIDENING = 0.4  # power of the excess over opacity one by which the area grows
_CONTRAST = 3.0  # sizes of a reduced splat that count as much as a difference of one between colours
_NEIGHBOURS = 10
_DAMPING = 0.75  # power of the weights by which groups are formed: lower ones favour groups of equal size
_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")  # of further columns


@dataclass(frozen=True, eq=False)
class Splats:
    """N splats as their files hold them, in float32 arrays.

    Parameters
    ----------
    positions
        Centres, shape (N, 3).
    rotations
        Quaternions w, x, y, z of any positive norm, shape (N, 4).
    log_scales
        Natural logarithms of the standard deviations along the rotated axes, shape (N, 3).
    logits
        Log odds of the opacities, shape (N,).
    harmonics
        Coefficients of the colours' spherical harmonics to degree 0, 1, 2 or 3, shape (N, 1, 4, 9 or 16, 3).
    extra
        Further columns by name, shape (N,); a merged splat has the mean of floats, and the heaviest one's integer.

    Examples
    --------
    >>> one = Splats.from_values(np.zeros((1, 3)), [np.eye(3)], [[2.0, 1.0, 0.5]], [0.5], np.zeros((1, 1, 3)))
    >>> one.covariances.diagonal(axis1=1, axis2=2).round(6).tolist(), one.opacities.tolist()
    ([[4.0, 1.0, 0.25]], [0.5])
    """

    positions: Float[np.ndarray, "splats 3"]
    rotations: Float[np.ndarray, "splats 4"]
    log_scales: Float[np.ndarray, "splats 3"]
    logits: Float[np.ndarray, " splats"]
    harmonics: Float[np.ndarray, "splats coefficients 3"]
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = np.shape(self.positions)[0] if np.ndim(self.positions) else 0
        shapes = {"positions": (n, 3), "rotations": (n, 4), "log_scales": (n, 3), "logits": (n,)}
        coefficients = np.shape(self.harmonics)[1] if np.ndim(self.harmonics) == 3 else 0
        if coefficients not in (1, 4, 9, 16):
            raise InputError(f"harmonics have shape {np.shape(self.harmonics)}", "(N, 1, 4, 9 or 16, 3)")
        for name, shape in {**shapes, "harmonics": (n, coefficients, 3)}.items():
            object.__setattr__(self, name, _floats(name, getattr(self, name), shape))
        if not n:
            raise InputError("there are no splats", "at least one")
        object.__setattr__(self, "extra", {name: _column(name, c, n) for name, c in self.extra.items()})
        if not (np.abs(self.log_scales) <= _LARGEST_LOG).all():
            raise InputError(
                f"a log scale is {self.log_scales.flat[np.abs(self.log_scales).argmax()]:g}",
                f"at most {_LARGEST_LOG:g} in size",
            )
        if not (np.abs(self.rotations).max(axis=1) > 0).all():
            raise InputError("a rotation is zero", "quaternions of positive norm")

    def __len__(self) -> int:
        return len(self.positions)

    @classmethod
    def from_values(
        cls,
        positions: Float[np.ndarray, "splats 3"],
        rotations: Float[np.ndarray, "splats 3 3"],
        scales: Float[np.ndarray, "splats 3"],
        opacities: Float[np.ndarray, " splats"],
        harmonics: Float[np.ndarray, "splats coefficients 3"],
    ) -> Splats:
        """Return splats of rotation matrices, standard deviations > 0 along their columns and opacities in (0, 1)."""
        values, odds = np.asarray(scales, dtype=float), np.asarray(opacities, dtype=float)
        if not (values > 0).all() or not ((odds > 0) & (odds < 1)).all():
            raise InputError("a scale or an opacity is out of range", "scales > 0 and opacities between 0 and 1")
        return cls(
            positions, _quaternions(np.asarray(rotations, dtype=float)), np.log(values), _log_odds(odds), harmonics
        )

    @property
    def opacities(self) -> Float[np.ndarray, " splats"]:
        """Opacities at the centres, in [0, 1]."""
        opacities: np.ndarray = np.exp(-np.logaddexp(0.0, -self.logits.astype(float)))
        return opacities

    @property
    def scales(self) -> Float[np.ndarray, "splats 3"]:
        """Standard deviations along the rotated axes."""
        scales: np.ndarray = np.exp(self.log_scales.astype(float))
        return scales

    @property
    def covariances(self) -> Float[np.ndarray, "splats 3 3"]:
        """Covariances; a scale counts at least 1e-7 of the splat's largest."""
        scales = self.scales
        factors = _matrices(self.rotations) * np.maximum(scales, _FLOOR * scales.max(axis=1, keepdims=True))[:, None]
        covariances: np.ndarray = np.matmul(factors, np.swapaxes(factors, 1, 2))
        return covariances

    @property
    def footprints(self) -> Float[np.ndarray, " splats"]:
        """Root mean square, over all directions, of the projections' areas, in units of 2 pi."""
        return _areas(self.scales)

    def to_mixture(self) -> GaussianMixture:
        """Return the field, the sum of opacity times exp(-d^2 / 2) over the splats, scaled to a density.

        The weights are the opacities times the square roots of the covariances' determinants.

        Examples
        --------
        >>> z = np.zeros((2, 3))
        >>> s = Splats.from_values(z, np.tile(np.eye(3), (2, 1, 1)), [[1, 1, 1], [2, 1, 1]], [0.5, 0.5], z[:, None])
        >>> s.to_mixture().weights.round(6).tolist()
        [0.333333, 0.666667]
        """
        logs = self.log_scales.astype(float).sum(axis=1) + np.log(_positive(self.opacities))
        return GaussianMixture(np.exp(logs - logs.max()), self.positions, self.covariances, normalize=True)

    def merged(self, assignment: Integer[np.ndarray, " splats"]) -> Splats:
        """Merge each group of splats into one; a splat that is alone does not change.

        ``assignment``, shape (N,), is each splat's group: whole numbers from 0 to L - 1, each at least once. Weights
        are opacity times footprint. Positions, colours and further columns are weighted means, covariances those of
        the group. The opacity preserves the sum of the weights; where it would exceed one, the two larger axes are
        widened, so that the area grows by the 0.4th power of the excess.
        """
        groups = _groups(assignment, len(self))
        n = int(groups.max()) + 1
        weights = _positive(self.opacities * self.footprints)
        total = np.bincount(groups, weights=weights, minlength=n)
        share = weights / total[groups]
        means = _means(self.positions, groups, share, n)
        offsets = self.positions - means[groups]
        spread = self.covariances + offsets[:, :, None] * offsets[:, None, :]
        scales, rotations = _axes(_means(spread, groups, share, n))
        opacities = total / _areas(scales)
        scales[:, 1:] *= np.maximum(opacities, 1.0)[:, None] ** (_WIDENING / 2)
        result = {
            "positions": means,
            "rotations": _quaternions(rotations),
            "log_scales": np.log(scales),
            "logits": _log_odds(np.clip(opacities, 1e-12, _OPAQUE)),
            "harmonics": _means(self.harmonics, groups, share, n),
        }
        order = np.lexsort((weights, groups))
        heaviest = order[np.flatnonzero(np.diff(groups[order], append=n))]
        alone = np.bincount(groups, minlength=n) == 1
        for name, array in result.items():
            array[alone] = getattr(self, name)[heaviest[alone]]
        extra = {name: column[heaviest] for name, column in self.extra.items()}
        for name, column in extra.items():
            if column.dtype.kind == "f":
                column[~alone] = _means(self.extra[name], groups, share, n)[~alone]
        return Splats(**result, extra=extra)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save as a binary .ply file in the layout of the original implementation, whole or not at all."""
        splat_files.write(
            path, self.positions, self.rotations, self.log_scales, self.logits, self.harmonics, self.extra
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Splats:
        """Load a .ply file of splats, ASCII or binary."""
        try:
            return cls(**splat_files.read(path))
        except InputError as error:
            if str(path) in error.given:
                raise
            raise InputError(f"{path}: {error.given}", error.expected) from error


def simplify(splats: Splats, keep: float) -> Splats:
    """Return fewer splats that look much the same.

    Neighbours of similar colour are merged by Salmond's criterion, the sum of squared deviations from the group's mean,
    in six dimensions: the position and the colour of degree 0. See :meth:`Splats.merged` for what a merge preserves.

    Parameters
    ----------
    keep
        The number of splats to keep, a whole number, or their share, a float above 0 and up to 1.

    Examples
    --------
    >>> x = np.column_stack([np.arange(4.0) // 2, np.arange(4.0) % 2 / 9, np.zeros(4)])
    >>> rotations, scales = np.tile(np.eye(3), (4, 1, 1)), np.full((4, 3), 0.1)
    >>> four = Splats.from_values(x, rotations, scales, np.full(4, 0.5), np.zeros((4, 1, 3)))
    >>> simplify(four, 0.5).positions.astype(float).round(3).tolist()
    [[0.0, 0.056, 0.0], [1.0, 0.056, 0.0]]
    """
    return levels_of_detail(splats, [keep])[0]


def levels_of_detail(splats: Splats, keeps: Sequence[float]) -> list[Splats]:
    """Return several levels, each as of :func:`simplify`, from one run: groups of a coarser level join finer ones."""
    n = len(splats)
    counts = [_count(keep, n) for keep in keeps]
    if not counts:
        raise InputError("there are no levels", "at least one number or share of splats to keep")
    coarsest = min(counts)
    if coarsest == n:
        return [splats for _ in counts]
    reduction = reduce(_coloured(splats, counts), coarsest, "salmond", neighbours=_NEIGHBOURS)
    cuts = {count: reduction.cut(count).assignment for count in counts if count < n}
    return [splats.merged(cuts[count]) if count < n else splats for count in counts]


def _coloured(splats: Splats, counts: Sequence[int]) -> GaussianMixture:
    """Return the splats as points in position and colour, both in units of a reduced splat's size."""
    shares = np.log(len(splats) / np.array(counts))
    size = np.median(splats.scales.max(axis=1)) * np.exp(0.5 * shares.mean())
    colours = _CONTRAST * _SH_0 * splats.harmonics[:, 0].astype(float)
    points = np.concatenate([splats.positions / size, colours], axis=1)
    weights = _positive(splats.opacities * splats.footprints) ** _DAMPING
    tiny = 1e-9 * (points.var(axis=0).mean() or 1.0)
    return GaussianMixture(weights, points, np.full(len(splats), tiny), normalize=True)


def _count(keep: float, n: int) -> int:
    if isinstance(keep, float | np.floating):
        check("keep", float(keep), PositiveShare)
        return max(1, round(float(keep) * n))
    check("keep", keep, Annotated[int, Bounds(1, n)])
    return int(keep)


def _floats(name: str, values: object, shape: tuple[int, ...]) -> np.ndarray:
    """Return a new float32 array, of finite numbers and a shape."""
    with np.errstate(over="ignore"):
        array = np.array(values, dtype=np.float32, order="C")
    if array.shape != shape:
        raise InputError(f"{name} must have shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise InputError(f"{name} of splat {row} must be finite, got {array[row].tolist()}")
    array.setflags(write=False)
    return array


def _column(name: str, values: np.ndarray, n: int) -> np.ndarray:
    column = np.array(values)
    if not name.isascii() or not name.isprintable() or " " in name:
        raise InputError(f"a column has the name {name!r}", "ASCII letters without spaces")
    if column.shape != (n,) or column.dtype.str[1:] not in _TYPES or not np.isfinite(column).all():
        expected = f"finite numbers of a type that .ply files have, {', '.join(_TYPES)}, shape ({n},)"
        raise InputError(f"column {name!r} of {column.dtype}, shape {column.shape}", expected)
    column.setflags(write=False)
    return column


def _groups(assignment: np.ndarray, n: int) -> np.ndarray:
    groups = np.asarray(assignment)
    if groups.shape != (n,) or groups.dtype.kind not in "iu":
        raise InputError(f"assignment of {groups.dtype}, shape {groups.shape}", f"whole numbers, shape ({n},)")
    if groups.min() < 0 or groups.max() >= n or not np.bincount(groups).all():
        raise InputError("groups of the assignment are missing", "0 to L - 1, each at least once")
    return groups


def _log_odds(shares: np.ndarray) -> np.ndarray:
    odds: np.ndarray = np.log(shares) - np.log1p(-shares)
    return odds


def _positive(weights: np.ndarray) -> np.ndarray:
    """Return weights none of which is zero, so that every splat has a share in its group."""
    positive: np.ndarray = np.maximum(weights, 1e-15 * weights.max())
    return positive


def _areas(scales: np.ndarray) -> np.ndarray:
    """Return the footprints of standard deviations (n, 3): the projection along a unit u has det^2 = u^T adj(P) u."""
    first, second, third = scales.T**2
    areas: np.ndarray = np.sqrt((first * second + first * third + second * third) / 3)
    return areas


def _means(values: np.ndarray, groups: np.ndarray, share: np.ndarray, n: int) -> np.ndarray:
    """Return the weighted means of the groups, shape (n, ...); the shares (N,) of each group sum to one."""
    columns = values.reshape(len(values), -1).T
    sums = [np.bincount(groups, weights=share * column, minlength=n) for column in columns]
    return np.stack(sums, axis=1).reshape(n, *values.shape[1:])


def _axes(covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return standard deviations, ascending, and the rotations (n, 3, 3) whose columns are their axes."""
    variances, axes = np.linalg.eigh(covariances)
    axes[:, :, 0] *= np.sign(np.linalg.det(axes))[:, None]
    scales = np.sqrt(np.maximum(variances, 0.0))
    return np.maximum(scales, _FLOOR * scales[:, -1:]), axes


def _matrices(quaternions: np.ndarray) -> np.ndarray:
    """Return rotation matrices (n, 3, 3) of quaternions w, x, y, z."""
    from scipy.spatial.transform import Rotation

    largest = np.abs(quaternions).max(axis=1, keepdims=True)  # the norm of tiny ones would underflow
    matrices: np.ndarray = Rotation.from_quat((quaternions / largest).astype(float)[:, [1, 2, 3, 0]]).as_matrix()
    return matrices


def _quaternions(matrices: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    quaternions: np.ndarray = Rotation.from_matrix(matrices).as_quat()[:, [3, 0, 1, 2]]
    return quaternions
