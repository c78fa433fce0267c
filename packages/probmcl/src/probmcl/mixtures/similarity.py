"""The similarities of mixtures that a contrastive loss can use."""

from __future__ import annotations

import math
from typing import Literal

import torch
from gmr_metric.torch import log_inner_products, log_similarity_matrix
from jaxtyping import Float
from sextet_common.checks import check
from sextet_common.errors import InputError
from torch import Tensor

from probmcl.mixtures.parameters import MixtureParameters

Similarity = Literal["log_cosine", "cosine", "angular", "aligned"]
LOGARITHMIC = ("log_cosine", "aligned")

_SMALLEST_SINE = 1e-12  # squared: below it two mixtures count as equal, where the angle has no gradient


def mixture_similarity(
    mixtures: MixtureParameters,
    other: MixtureParameters | None = None,
    kind: Similarity = "log_cosine",
    *,
    per_dimension: bool = False,
    chunk_size: int | None = None,
) -> Float[Tensor, "batch others"]:
    """Compute the similarity of every mixture with every other in closed form, in float32 or float64.

    All kinds come from the inner product of densities, ``<p, q> = sum_kl pi_k rho_l N(mu_k; nu_l, S_k + T_l)``:

    - ``cosine``: ``c = <p, q> / (|p| |q|)``, in [0, 1]. Two Gaussians of deviation s whose means are r apart have
      exp(-r^2 / 4 s^2): in a hundred dimensions all but equal mixtures have 0, and no gradient.
    - ``log_cosine``: ``log c``, at most 0, whose gradient does not vanish.
    - ``angular``: ``1 - 2 arccos(c) / pi``, in [0, 1]: 1 minus gmr-metric's distance in units of a right angle.
    - ``aligned``: the log cosine if component k is compared only with component k, as for densities that never
      overlap across components. If component k is label k's, this compares what each label looks like. It takes
      batch * others * components evaluations instead of the square of the components.

    Of one batch with itself the result is symmetric, with a diagonal of exactly 1 (0 for the logarithms). ``other`` has
    the same dimensions and kind of covariance. ``per_dimension`` divides the logarithmic kinds by the number of
    dimensions, with which they grow. ``chunk_size`` is the number of pairs of components evaluated at once, see
    ``gmr_metric.torch``.

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
    check("kind", kind, Similarity)
    if per_dimension and kind not in LOGARITHMIC:
        raise InputError(f"per_dimension is given with {kind!r}", " or ".join(LOGARITHMIC))
    mixtures.check()
    if other is not None:
        other.check()
    with torch.autocast(mixtures.means.device.type, enabled=False):
        if kind == "aligned":
            log_cosine = _aligned(mixtures, other, chunk_size)
        else:
            both = (*_tensors(mixtures), *(() if other is None else _tensors(other)))
            log_cosine = log_similarity_matrix(*both, chunk_size=chunk_size)
        if kind == "cosine":
            return log_cosine.exp()
        if kind == "angular":
            return 1 - _angle(log_cosine) * (2 / math.pi)
        return log_cosine / mixtures.means.shape[2] if per_dimension else log_cosine


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
