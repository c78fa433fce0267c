"""The likelihood of mixtures, and ProbMCL's loss: the likelihood with a contrastive term."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from sextet_common.checks import NonNegative, check
from sextet_common.errors import InputError
from torch import Tensor, nn

from probmcl.losses.contrastive import ProbabilisticContrastiveLoss
from probmcl.losses.reduction import Reduction, reduce
from probmcl.mixtures.parameters import MixtureParameters

LabelAware = Literal["none", "any", "each"]

_LEAST_VARIANCE = 1e-6  # keeps the division finite in dimensions where all points agree


class MixtureNLL(nn.Module):
    """The negative log likelihood of one point under each mixture, in nats.

    Parameters
    ----------
    per_dimension
        Divide by the number of dimensions, so that the weight of other terms means the same for any number.
    label_aware
        "none", or a second term for which component k is label k's. With r_k the share ``pi_k N_k / sum_l pi_l N_l``
        of component k in the density at the point: "any" asks that the point comes from a component of one of its
        labels, ``-log sum_k y_k r_k``; "each" asks for equal shares of all of its labels, ``-mean over them of
        log r_k``. The term is not divided by the dimensions; with `per_dimension` N_k enters it with the power
        1 / dimensions, since otherwise the weights would not matter. A row without labels has no such term; the
        components of unknown labels (negative) are left out of the shares, and soft labels weight them.

    References
    ----------
    The likelihood in the figure of arXiv 2401.01448 sees no labels. "any" is the term of KMCL, by the same authors,
    with normalised components. "each" is not in either paper.

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
        check("reduction", reduction, Reduction)
        check("label_aware", label_aware, LabelAware)
        self.reduction, self.per_dimension, self.label_aware = reduction, per_dimension, label_aware

    def forward(
        self,
        mixtures: MixtureParameters,
        targets: Float[Tensor, "batch dims"],
        labels: Shaped[Tensor, "batch labels"] | None = None,
    ) -> Tensor:
        """Compute the loss at one point for each mixture: a scalar, or shape (batch,) without reduction.

        A label-aware likelihood needs labels, one column a component.
        """
        with torch.autocast(mixtures.means.device.type, enabled=False):
            joint = mixtures.log_joint(targets)
            density = torch.logsumexp(joint, dim=1)
            loss = -density / mixtures.means.shape[2] if self.per_dimension else -density
            if self.label_aware != "none":
                if labels is None or labels.shape != joint.shape:
                    received = "no labels" if labels is None else f"labels of shape {tuple(labels.shape)}"
                    raise InputError(f"{received} for a label-aware likelihood", f"{tuple(joint.shape)}, as components")
                if self.per_dimension:  # densities differ by hundreds of nats, weights by a few
                    joint = mixtures.log_weights + (joint - mixtures.log_weights) / mixtures.means.shape[2]
                shares = joint.masked_fill(labels < 0, torch.finfo(joint.dtype).min).log_softmax(dim=1)
                loss = loss + self._label_term(shares, labels.to(joint.dtype).clamp(0.0, 1.0))
            return reduce(loss, self.reduction)

    def _label_term(self, log_shares: Tensor, values: Tensor) -> Tensor:
        """Compute the label-aware term from the log shares r_k and the values of the labels, in [0, 1]."""
        absent = values == 0
        if self.label_aware == "each":
            total = values.sum(dim=1)
            weighted = (values * log_shares.masked_fill(absent, 0.0)).sum(dim=1)
            return -(weighted / total.clamp(min=1e-30)).masked_fill(total == 0, 0.0)
        own = (log_shares + values.clamp(min=1e-30).log()).masked_fill(absent, torch.finfo(log_shares.dtype).min)
        return -torch.logsumexp(own, dim=1).masked_fill(absent.all(dim=1), 0.0)


class LossParts(NamedTuple):
    """ProbMCL's loss and its two terms: total = likelihood_weight * likelihood + weight * contrastive."""

    total: Float[Tensor, ""]
    likelihood: Float[Tensor, ""]
    contrastive: Float[Tensor, ""]


class ProbMCLLoss(nn.Module):
    """ProbMCL's loss: the likelihood of an image's other view, plus the weighted contrastive term.

    Parameters
    ----------
    contrastive, likelihood
        The two terms; by default `ProbabilisticContrastiveLoss` and `MixtureNLL` with their defaults.
    weight
        Lambda, which multiplies the contrastive term. Zero skips it.
    likelihood_weight
        Multiplies the likelihood. Zero skips it.
    detach_targets
        Let no gradient reach the points. Otherwise they learn too, and may collapse onto the means.
    standardise_targets
        Standardise every dimension of the points over the batch. Otherwise the likelihood is highest if the encoder
        maps all images to one point.

    References
    ----------
    arXiv 2401.01448. Not specified in the paper; we use the other view's projection as the point, detached and
    standardised.

    Examples
    --------
    >>> from probmcl import MixtureDensityHead
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
        likelihood_weight: float = 1.0,
        detach_targets: bool = True,
        standardise_targets: bool = True,
    ) -> None:
        super().__init__()
        check("weight", weight, NonNegative)
        check("likelihood_weight", likelihood_weight, NonNegative)
        if weight == 0 and likelihood_weight == 0:
            raise InputError("weight and likelihood_weight are 0", "one of them above 0")
        self.contrastive = contrastive or ProbabilisticContrastiveLoss()
        self.likelihood = likelihood or MixtureNLL()
        if "none" in (self.contrastive.reduction, self.likelihood.reduction):
            raise InputError("a term has the reduction 'none'", "mean or sum: the terms are added")
        self.weight, self.likelihood_weight = weight, likelihood_weight
        self.detach_targets, self.standardise_targets = detach_targets, standardise_targets

    def parts(
        self,
        mixtures: MixtureParameters,
        targets: Float[Tensor, "batch dims"],
        labels: Shaped[Tensor, "batch labels"] | None = None,
        **compared: Any,
    ) -> LossParts:
        """Compute the loss and its terms for both views of every image; a term of weight 0 is 0.

        The targets are the points at which the likelihood is evaluated: the projections of the other views. Further
        arguments (``pairs``, ``ref_emb``, ``ref_labels``, ``indices_tuple``, ``present``, ``self_index``) are those of
        `ProbabilisticContrastiveLoss`.
        """
        zero = mixtures.means.new_zeros(())
        likelihood = contrastive = zero
        if self.likelihood_weight > 0:
            likelihood = self.likelihood(mixtures, self._points(targets), labels)
        if self.weight > 0:
            contrastive = self.contrastive(mixtures, labels, **compared)
        total = self.likelihood_weight * likelihood + self.weight * contrastive
        return LossParts(total, likelihood, contrastive)

    def _points(self, targets: Tensor) -> Tensor:
        targets = targets.detach() if self.detach_targets else targets
        if self.standardise_targets:
            spread = targets.var(dim=0, correction=0, keepdim=True)
            targets = (targets - targets.mean(dim=0, keepdim=True)) * (spread + _LEAST_VARIANCE).rsqrt()
        return targets

    def forward(
        self,
        mixtures: MixtureParameters,
        targets: Float[Tensor, "batch dims"],
        labels: Shaped[Tensor, "batch labels"] | None = None,
        **compared: Any,
    ) -> Float[Tensor, ""]:
        """Compute the loss; parameters as in `parts`."""
        return self.parts(mixtures, targets, labels, **compared).total
