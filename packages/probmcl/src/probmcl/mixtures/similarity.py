"""The similarities of mixtures that a contrastive loss can use."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import torch
from gmr_metric.torch import log_inner_products, log_similarity_matrix
from jaxtyping import Float, Int
from sextet_common.checks import check
from sextet_common.errors import InputError
from torch import Tensor

from probmcl.mixtures.diagonal import diagonal_log_cosines
from probmcl.mixtures.parameters import MixtureParameters

MixtureSimilarity = Literal["mixture", "cosine", "angular", "aligned", "log_cosine"]
Similarity = Literal["label", "mixture", "cosine", "angular", "aligned", "log_cosine"]

_SMALLEST_SINE = 1e-12  # squared: below it two mixtures count as equal, where the angle has no gradient


def mixture_similarity(
    mixtures: MixtureParameters,
    other: MixtureParameters | None = None,
    kind: MixtureSimilarity = "mixture",
    *,
    per_dimension: bool = False,
    chunk_size: int | None = None,
) -> Float[Tensor, "batch others"]:
    """Compute the similarity of every mixture with every other in closed form, in float32 or float64.

    All kinds come from the inner product of densities, ``<p, q> = sum_kl pi_k rho_l N(mu_k; nu_l, S_k + T_l)``:

    - ``cosine``: ``c = <p, q> / (|p| |q|)``, in [0, 1]. Two Gaussians of deviation s whose means are r apart have
      exp(-r^2 / 4 s^2): in a hundred dimensions all but equal mixtures have 0, and no gradient.
    - ``mixture``: ``log c``, at most 0, whose gradient does not vanish; ``log_cosine`` is its deprecated name.
    - ``angular``: ``1 - 2 arccos(c) / pi``, in [0, 1]: 1 minus gmr-metric's distance in units of a right angle.
    - ``aligned``: the log cosine if component k is compared only with component k, as for densities that never
      overlap across components. If component k is label k's, this compares what each label looks like. It takes
      batch * others * components evaluations instead of the square of the components.

    Of one batch with itself the result is symmetric, with a diagonal of exactly 1 (0 for the logarithms). ``other`` has
    the same dimensions and kind of covariance. ``per_dimension`` divides log c by the number of dimensions, with which
    it grows, in all kinds: c becomes the geometric mean of what one dimension contributes, which has a gradient in any
    number of them. ``chunk_size`` is the number of pairs of components evaluated at once, see ``gmr_metric.torch``.

    References
    ----------
    The cosine of densities: arXiv 2306.07309. The full text of arXiv 2401.01448 was not available to us, so the
    default, the aligned kind and the division are our choice.

    Examples
    --------
    >>> mixtures = MixtureParameters(torch.zeros(2, 1), torch.tensor([[[0.0]], [[2.0]]]), torch.zeros(2, 1))
    >>> mixture_similarity(mixtures, kind="cosine")
    tensor([[1.0000, 0.3679],
            [0.3679, 1.0000]])
    """
    check("kind", kind, MixtureSimilarity)
    if kind == "log_cosine":
        warnings.warn("the similarity 'log_cosine' is deprecated; use 'mixture'", DeprecationWarning, stacklevel=2)
    mixtures.check()
    if other is not None:
        other.check()
    with torch.autocast(mixtures.means.device.type, enabled=False):
        if kind == "aligned":
            log_cosine = _aligned(mixtures, other, chunk_size)
        else:
            both = (*_tensors(mixtures), *(() if other is None else _tensors(other)))
            log_cosine = log_similarity_matrix(*both, chunk_size=chunk_size)
        if per_dimension:
            log_cosine = log_cosine / mixtures.means.shape[2]
        if kind == "cosine":
            return log_cosine.exp()
        if kind == "angular":
            return 1 - _angle(log_cosine) * (2 / math.pi)
        return log_cosine


def component_similarity(
    means: Float[Tensor, "rows dims"],
    log_std: Float[Tensor, " rows *dims"],
    other_means: Float[Tensor, "others dims"] | None = None,
    other_log_std: Float[Tensor, " others *dims"] | None = None,
    *,
    per_dimension: bool = True,
    chunk_size: int | None = None,
) -> Float[Tensor, "rows others"]:
    """Compute the log cosine of every Gaussian with every other, divided by the number of dimensions.

    Of two isotropic ones with deviations s and t in D dimensions it is
    ``log(2 s t / (s^2 + t^2)) / 2 - |m - n|^2 / (2 D (s^2 + t^2))``. With means of length sqrt(D) the last quotient is
    ``(1 - cos(m, n)) / (s^2 + t^2)``, in any number of dimensions. ``chunk_size`` is that of `mixture_similarity`.

    Examples
    --------
    >>> component_similarity(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.zeros(2))
    tensor([[ 0.0000, -0.5000],
            [-0.5000,  0.0000]])
    """
    with torch.autocast(means.device.type, enabled=False):
        both = [(means, log_std)]
        if other_means is not None and other_log_std is not None:
            both.append((other_means, other_log_std))
        tensors = [
            tensor
            for mean, std in both
            for tensor in (mean.new_zeros(len(mean), 1), mean[:, None], (2 * std).exp()[:, None])
        ]
        log_cosine = log_similarity_matrix(*tensors, chunk_size=chunk_size)
        return log_cosine / means.shape[1] if per_dimension else log_cosine


def anchored_similarity(
    mixtures: MixtureParameters,
    other: MixtureParameters,
    image: Int[Tensor, " rows"],
    label: Int[Tensor, " rows"],
    *,
    per_dimension: bool = True,
    chunk_size: int | None = None,
) -> Float[Tensor, "rows others"]:
    """Compute the `component_similarity` of component `label` of every `image` with that of all other mixtures.

    The labels are sorted: each group of equal ones is a product of matrices. With diagonal covariances nothing larger
    than ``chunk_size`` pairs of components is kept.
    """
    labels, group, sizes = torch.unique_consecutive(label, return_inverse=True, return_counts=True)
    if not len(labels):
        return mixtures.means.new_zeros(0, len(other.means))
    counts = sizes.tolist()
    with torch.autocast(mixtures.means.device.type, enabled=False):
        means, log_std = other.means[:, labels].transpose(0, 1), other.log_std[:, labels].transpose(0, 1)
        if other is mixtures:
            own_means, own_std = means[group, image], log_std[group, image]
        else:
            own_means, own_std = mixtures.means[image, label], mixtures.log_std[image, label]
        if mixtures.covariance == "isotropic":
            log_cosine = _isotropic(own_means, own_std, means, log_std, group, counts)
        else:
            log_cosine = diagonal_log_cosines(own_means, own_std, means, log_std, group, chunk_size)
        return log_cosine / means.shape[2] if per_dimension else log_cosine


def _isotropic(
    own_means: Tensor, own_std: Tensor, means: Tensor, log_std: Tensor, group: Tensor, counts: list[int]
) -> Tensor:
    """Compute log cosines of isotropic Gaussians with those of their group: (rows, ...) with (groups, others, ...)."""
    centre = means.detach().mean(dim=1, keepdim=True)  # small numbers lose fewer digits in the products
    left, right = own_means - centre[group, 0], means - centre
    inner = torch.cat([a @ b.mT for a, b in zip(left.split(counts), right, strict=True)])
    lengths = right.square().sum(dim=2).index_select(0, group)
    squared = left.square().sum(dim=1, keepdim=True) + lengths - 2 * inner
    squared = squared - squared.detach().clamp(max=0.0)  # rounding may fall below 0
    s, t = own_std[:, None], log_std.index_select(0, group)
    total = (2 * s).exp() + (2 * t).exp()
    return means.shape[2] / 2 * (math.log(2) + s + t - total.log()) - squared / (2 * total)


def _tensors(mixtures: MixtureParameters) -> tuple[Tensor, Tensor, Tensor]:
    return mixtures.log_weights, mixtures.means, mixtures.variances


def _aligned(f: MixtureParameters, g: MixtureParameters | None, chunk: int | None) -> Tensor:
    """Compute the log cosine of like components, each component a batch of single Gaussians."""
    if g is not None and g.means.shape[1] != f.means.shape[1]:
        counts = f"the mixtures have {f.means.shape[1]} and {g.means.shape[1]} components"
        raise InputError(counts, "equally many for the aligned similarity")
    inner = _aligned_inner(f, g, chunk)
    norms = inner.diagonal() if g is None else _aligned_own(f)
    other_norms = norms if g is None else _aligned_own(g)
    cosine = inner - (norms[:, None] + other_norms) / 2
    return cosine - cosine.detach().clamp(min=0.0)  # rounding may exceed 0; clamp(max=0) would cut the gradient


def _aligned_inner(f: MixtureParameters, g: MixtureParameters | None, chunk: int | None) -> Tensor:
    parts = []
    for component in range(f.means.shape[1]):
        one = slice(component, component + 1)
        singles = [tensor[:, one] for tensor in _tensors(f)]
        others = [] if g is None else [tensor[:, one] for tensor in _tensors(g)]
        parts.append(log_inner_products(*singles, *others, chunk_size=chunk))
    return torch.logsumexp(torch.stack(parts), dim=0)


def _aligned_own(f: MixtureParameters) -> Tensor:
    """Compute the log of each mixture's aligned inner product with itself: N(m; m, 2 S) does not depend on m."""
    dims = f.means.shape[2]
    log_scale = dims * f.log_std if f.covariance == "isotropic" else f.log_std.sum(dim=-1)
    return torch.logsumexp(2 * f.log_weights - log_scale - 0.5 * dims * math.log(4 * math.pi), dim=-1)


def _angle(log_cosine: Tensor) -> Tensor:
    """Compute arccos of a cosine from its logarithm, with a finite gradient: 0 where the mixtures are equal."""
    squared_sine = -torch.expm1(2 * log_cosine)
    differ = squared_sine > _SMALLEST_SINE
    sine = squared_sine.clamp(min=_SMALLEST_SINE).sqrt()
    return torch.where(differ, torch.atan2(sine, log_cosine.exp()), 0.0)
