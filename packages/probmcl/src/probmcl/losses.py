"""The likelihood of a mixture, ProbMCL's loss, and the asymmetric loss of the second stage."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Shaped
from sextet_common.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

from probmcl.contrastive import ProbabilisticContrastiveLoss, Reduction
from probmcl.head import MixtureParameters

_LEAST_VARIANCE = 1e-6  # what a dimension in which all points agree is divided by

LabelReduction = Literal["mean", "batchmean", "sum", "none"]
LabelAware = Literal["none", "any", "each"]


class MixtureNLL(nn.Module):
    """The negative log likelihood of one point under each mixture.

    Parameters
    ----------
    reduction
        "mean" over the batch, "sum" or "none".
    per_dimension
        Divide by the number of dimensions: nats a dimension, so that the weight of other terms means the same in any.
    label_aware
        "none", or a second term for which component k is label k's. With r_k the share ``pi_k N_k / sum_l pi_l N_l``
        of component k in the density at the point: "any" asks the point to come from a component of one of its
        labels, ``-log sum_k y_k r_k``; "each" asks all of its labels to have equal shares, ``-mean over them of
        log r_k``. The term is whole, whatever the number of dimensions; with `per_dimension` N_k counts here with the
        power 1 / dimensions, or the weights would not matter. A row without labels has none.

    Raises
    ------
    InputError
        For an unknown reduction.

    References
    ----------
    The likelihood of arXiv 2401.01448's figure sees no labels. "any" is the term of KMCL, its neighbour by the same
    authors, with normalised components; "each" is *ours*.

    Examples
    --------
    >>> mixtures = MixtureParameters(torch.zeros(1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1))
    >>> MixtureNLL()(mixtures, torch.zeros(1, 1))  # log(2 pi) / 2
    tensor(0.9189)
    """

    def __init__(
        self, reduction: Reduction = "mean", *, per_dimension: bool = False, label_aware: LabelAware = "none"
    ) -> None:
        super().__init__()
        _known("reduction", reduction, Reduction)
        _known("label_aware", label_aware, LabelAware)
        self.reduction, self.per_dimension, self.label_aware = reduction, per_dimension, label_aware

    def forward(
        self,
        mixtures: MixtureParameters,
        targets: Float[Tensor, "batch dims"],
        labels: Shaped[Tensor, "batch labels"] | None = None,
    ) -> Tensor:
        """Compute the loss.

        Parameters
        ----------
        mixtures
            One a row.
        targets
            The points, shape (batch, dims).
        labels
            Zeros and ones, one column a component; for a label-aware likelihood.

        Returns
        -------
        Tensor
            In nats: a scalar, or shape (batch,) without reduction.

        Raises
        ------
        InputError
            Where the points or the labels do not fit the mixtures.
        """
        with torch.autocast(mixtures.means.device.type, enabled=False):
            joint = mixtures.log_joint(targets)
            density = torch.logsumexp(joint, dim=1)
            loss = -density / mixtures.means.shape[2] if self.per_dimension else -density
            if self.label_aware != "none":
                if labels is None or labels.shape != joint.shape:
                    given = "no labels" if labels is None else f"labels of shape {tuple(labels.shape)}"
                    raise InputError(f"{given} for a label-aware likelihood", f"{tuple(joint.shape)}, as components")
                if self.per_dimension:  # or the weights would not count: densities differ by hundreds of nats
                    joint = mixtures.log_weights + (joint - mixtures.log_weights) / mixtures.means.shape[2]
                loss = loss + self._labels_share(joint.log_softmax(dim=1), labels != 0)
            return _reduce(loss, self.reduction)

    def _labels_share(self, log_shares: Tensor, present: Tensor) -> Tensor:
        """Compute the second term from the logs of the components' shares and whether their labels are present."""
        if self.label_aware == "each":
            count = present.sum(dim=1).clamp(min=1)
            return -log_shares.masked_fill(~present, 0.0).sum(dim=1) / count
        own = log_shares.masked_fill(~present, torch.finfo(log_shares.dtype).min)
        return -torch.logsumexp(own, dim=1).masked_fill(~present.any(dim=1), 0.0)


class LossParts(NamedTuple):
    """ProbMCL's loss and its two terms: total = likelihood + weight * contrastive."""

    total: Float[Tensor, ""]
    likelihood: Float[Tensor, ""]
    contrastive: Float[Tensor, ""]


class ProbMCLLoss(nn.Module):
    """The loss of the first stage: the likelihood of an image's other view, and the contrastive term.

    Parameters
    ----------
    contrastive
        The contrastive term; `ProbabilisticContrastiveLoss` with its defaults where omitted.
    weight
        Lambda, which multiplies the contrastive term.
    likelihood
        The likelihood term; `MixtureNLL` with its defaults where omitted.
    detach_targets
        Take the points as given. Otherwise they learn too, and may run into the means.
    standardise_targets
        Bring every dimension of the batch's points to mean 0 and deviation 1. Otherwise the likelihood is highest where
        the encoder maps all images to one point.

    Raises
    ------
    InputError
        For a weight that is negative, or a term that does not reduce to a scalar.

    References
    ----------
    arXiv 2401.01448. That the point is the other view's projection, detached and standardised, is *ours*.

    Examples
    --------
    >>> from probmcl.head import MixtureDensityHead
    >>> head = MixtureDensityHead(in_features=6, n_components=3, dim=4, hidden=())
    >>> features = torch.randn(4, 6)  # two images, first views, then second views
    >>> labels = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1], [0, 1, 0]])
    >>> points = head.project(features)
    >>> loss = ProbMCLLoss(weight=0.3)
    >>> parts = loss.parts(head.mixture(points), points.roll(2, dims=0), labels)
    >>> bool(torch.isclose(parts.total, parts.likelihood + 0.3 * parts.contrastive))
    True
    """

    def __init__(
        self,
        contrastive: ProbabilisticContrastiveLoss | None = None,
        weight: float = 0.3,
        likelihood: MixtureNLL | None = None,
        *,
        detach_targets: bool = True,
        standardise_targets: bool = True,
    ) -> None:
        super().__init__()
        if not weight >= 0 or not math.isfinite(weight):
            raise InputError(f"the weight of the contrastive term is {weight}", "a number >= 0")
        self.contrastive = contrastive or ProbabilisticContrastiveLoss()
        self.likelihood = likelihood or MixtureNLL()
        if "none" in (self.contrastive.reduction, self.likelihood.reduction):
            raise InputError("a term has the reduction 'none'", "mean or sum: the terms are added")
        self.weight, self.detach_targets, self.standardise_targets = weight, detach_targets, standardise_targets

    def parts(
        self,
        mixtures: MixtureParameters,
        targets: Float[Tensor, "batch dims"],
        labels: Shaped[Tensor, "batch labels"],
    ) -> LossParts:
        """Compute the loss and its terms.

        Parameters
        ----------
        mixtures
            One a row, both views of every image.
        targets
            For every row the point whose likelihood is taken: the projection of the image's other view, (batch, dims).
        labels
            Zeros and ones, shape (batch, labels).

        Returns
        -------
        LossParts
            Three scalars.

        Raises
        ------
        InputError
            Where shapes do not fit.
        """
        targets = targets.detach() if self.detach_targets else targets
        if self.standardise_targets:
            spread = targets.var(dim=0, correction=0, keepdim=True)
            targets = (targets - targets.mean(dim=0, keepdim=True)) * (spread + _LEAST_VARIANCE).rsqrt()
        likelihood = self.likelihood(mixtures, targets, labels)
        contrastive = self.contrastive(mixtures, labels)
        return LossParts(likelihood + self.weight * contrastive, likelihood, contrastive)

    def forward(
        self,
        mixtures: MixtureParameters,
        targets: Float[Tensor, "batch dims"],
        labels: Shaped[Tensor, "batch labels"],
    ) -> Float[Tensor, ""]:
        """Compute the loss, parameters as in `parts`."""
        return self.parts(mixtures, targets, labels).total


class AsymmetricLoss(nn.Module):
    """Binary cross-entropy that makes light of easy negatives, of which a multi-label image has most.

    With p the probability, and p_m = max(p - margin, 0)::

        L = - y (1 - p)^gamma_positive log p  -  (1 - y) p_m^gamma_negative log(1 - p_m)

    Parameters
    ----------
    gamma_positive, gamma_negative
        Focusing exponents. Both 0 with margin 0 is binary cross-entropy, both equal with margin 0 the focal loss.
    margin
        A negative with a probability below it counts nothing, in [0, 1).
    reduction
        "mean" over rows and labels, "batchmean" (sum over labels, mean over rows), "sum" or "none". The published
        code takes the sum.
    detach_weights
        Let no gradient pass through the focusing factors.

    Raises
    ------
    InputError
        For an option outside what is accepted.

    References
    ----------
    Asymmetric loss, arXiv 2009.14119; its gammas and margin here are those of that paper's multi-label script.

    Examples
    --------
    >>> AsymmetricLoss(reduction="none")(torch.tensor([[0.0, -5.0]]), torch.tensor([[1, 0]]))
    tensor([[0.6931, -0.0000]])
    """

    def __init__(
        self,
        gamma_positive: float = 0.0,
        gamma_negative: float = 4.0,
        margin: float = 0.05,
        reduction: LabelReduction = "mean",
        *,
        detach_weights: bool = False,
    ) -> None:
        super().__init__()
        for name, value in {"gamma_positive": gamma_positive, "gamma_negative": gamma_negative}.items():
            if not 0 <= value < math.inf:
                raise InputError(f"{name} is {value}", "a number >= 0")
        if not 0 <= margin < 1:
            raise InputError(f"margin is {margin}", "a number in [0, 1)")
        _known("reduction", reduction, LabelReduction)
        self.gamma_positive, self.gamma_negative, self.margin = gamma_positive, gamma_negative, margin
        self.reduction, self.detach_weights = reduction, detach_weights

    def forward(self, logits: Float[Tensor, "batch labels"], labels: Shaped[Tensor, "batch labels"]) -> Tensor:
        """Compute the loss, in float32 or wider.

        Parameters
        ----------
        logits
            Before the sigmoid, shape (batch, labels).
        labels
            Zeros and ones, of the same shape.

        Returns
        -------
        Tensor
            A scalar, or shape (batch, labels) without reduction.

        Raises
        ------
        InputError
            Where the shapes differ.
        """
        if logits.shape != labels.shape or logits.ndim != 2:
            given = f"logits and labels have shapes {tuple(logits.shape)} and {tuple(labels.shape)}"
            raise InputError(given, "(batch, labels) both")
        with torch.autocast(logits.device.type, enabled=False):
            x = logits if logits.dtype == torch.float64 else logits.float()
            y = labels.to(x.dtype)
            log_positive = functional.logsigmoid(x)
            if self.margin > 0:
                log_negative = (torch.sigmoid(-x) + self.margin).clamp(max=1.0).log()
            else:  # without a margin sigmoid(-x) underflows
                log_negative = functional.logsigmoid(-x)
            if self.gamma_positive > 0:
                log_positive = log_positive * self._factor(torch.sigmoid(-x), self.gamma_positive)
            if self.gamma_negative > 0:
                log_negative = log_negative * self._factor(torch.sigmoid(x) - self.margin, self.gamma_negative)
            return _reduce(-(y * log_positive + (1 - y) * log_negative), self.reduction)

    def _factor(self, base: Tensor, gamma: float) -> Tensor:
        """Compute base^gamma for what is above zero; the floor keeps the slope of a root finite."""
        factor = base.clamp(min=1e-12).pow(gamma)
        return factor.detach() if self.detach_weights else factor


def _known(name: str, chosen: str, accepted: object) -> None:
    if chosen not in get_args(accepted):
        raise InputError(f"{name} is {chosen!r}", " or ".join(get_args(accepted)))


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return loss.mean()
    if reduction == "none":
        return loss
    return loss.sum() / len(loss) if reduction == "batchmean" else loss.sum()
