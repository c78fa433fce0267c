"""The kinds of uncertainty, and those that the classifier's probabilities give."""

from __future__ import annotations

from typing import Literal, TypeGuard, get_args

import torch
from jaxtyping import Float
from sextet_common.checks import check
from sextet_common.errors import InputError
from torch import Tensor

from probmcl.mixtures.parameters import MixtureParameters
from probmcl.mixtures.uncertainty import mutual_information, uncertainty

OfProbabilities = Literal["entropy", "margin", "any_error"]
OfMixtures = Literal["mutual_information", "between", "within", "total"]
Kind = Literal["entropy", "margin", "any_error", "distance", "mutual_information", "between", "within", "total"]

DEFAULT: Kind = "any_error"
UNITS: dict[Kind, str] = {
    "entropy": "entropy of the labels, nats",
    "margin": "probability that the least sure label is wrong",
    "any_error": "probability that a label is wrong",
    "distance": "negative log density of the embedding, nats",
    "mutual_information": "of a point and its component, nats",
    "between": "variance between components",
    "within": "variance within components",
    "total": "variance of the mixture",
}


def needs_mixtures(kind: Kind) -> TypeGuard[OfMixtures]:
    """Return whether a kind is of a mixture."""
    return kind in get_args(OfMixtures)


def needs_probabilities(kind: Kind) -> TypeGuard[OfProbabilities]:
    """Return whether a kind is of the probabilities alone."""
    return kind in get_args(OfProbabilities)


def probability_uncertainty(
    probabilities: Float[Tensor, "rows labels"], kind: OfProbabilities = "any_error", *, per_label: bool = False
) -> Float[Tensor, " rows"] | Float[Tensor, "rows labels"]:
    """Compute the uncertainty of predictions from their probabilities alone, for any classifier.

    Labels are taken as independent given the image, and probabilities as calibrated. With p a label's probability and
    ``min(p, 1 - p)`` the probability that its prediction at 0.5 is wrong, the kinds are:

    - "entropy": the sum of the labels' entropies, in nats;
    - "margin": the largest ``min(p, 1 - p)``, that of the label nearest to the threshold 0.5;
    - "any_error": the probability that at least one label is wrong, ``1 - prod(max(p, 1 - p))``.

    ``per_label`` returns the value of every label: its entropy, or ``min(p, 1 - p)``.

    Examples
    --------
    >>> p = torch.tensor([[0.5, 0.9], [1.0, 0.0]])
    >>> for kind in ("entropy", "margin", "any_error"):
    ...     print(probability_uncertainty(p, kind))
    tensor([1.0182, 0.0000])
    tensor([0.5000, 0.0000])
    tensor([0.5500, 0.0000])
    """
    check("kind", kind, OfProbabilities)
    if probabilities.ndim != 2:
        raise InputError(f"probabilities have shape {tuple(probabilities.shape)}", "(rows, labels)")
    if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        raise InputError(
            "a probability is outside [0, 1] or NaN", "numbers in [0, 1]: logits must pass a sigmoid first"
        )
    if kind == "entropy":
        each: Tensor = torch.special.entr(probabilities) + torch.special.entr(1 - probabilities)
        return each if per_label else each.sum(dim=1)
    wrong = torch.minimum(probabilities, 1 - probabilities)
    if per_label:
        return wrong
    return wrong.amax(dim=1) if kind == "margin" else torch.expm1(torch.log1p(-wrong).sum(dim=1)).abs()


def mixture_uncertainty(mixtures: MixtureParameters, kind: OfMixtures) -> Float[Tensor, " batch"]:
    """Compute the uncertainty of mixtures: their `mutual_information`, or a part of their variance."""
    check("kind", kind, OfMixtures)
    if kind == "mutual_information":
        return mutual_information(mixtures)
    parts: Tensor = getattr(uncertainty(mixtures), kind)
    return parts
