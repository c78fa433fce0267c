"""The asymmetric loss of the second stage; without its asymmetry, binary cross-entropy."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from sextet_common.checks import NonNegative, ShareBelowOne, check
from sextet_common.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

from probmcl.losses.overlap import checked_class_weight, may_be_unknown
from probmcl.losses.reduction import LabelReduction, reduce, reduce_known


class AsymmetricLoss(nn.Module):
    """Binary cross-entropy that gives little weight to easy negatives, of which a multi-label image has most.

    With p the probability, and p_m = max(p - margin, 0)::

        L = - y (1 - p)^gamma_positive log p  -  (1 - y) p_m^gamma_negative log(1 - p_m)

    Labels y between 0 and 1 are soft, those above 1 are counts and mean 1, and negative ones are unknown: they have no
    loss and are left out of means, and so are rows without any known label.

    Parameters
    ----------
    gamma_positive, gamma_negative
        Focusing exponents. Both 0 with margin 0 is binary cross-entropy, both equal with margin 0 the focal loss.
    margin
        Negatives with a probability below it have no loss, in [0, 1).
    reduction
        "mean" over rows and labels, "batchmean" (sum over labels, mean over rows), "sum" or "none". The published
        code uses the sum.
    class_weight
        Multiplies the loss of each label; means still divide by the number of labels or rows.
    detach_weights
        Let no gradient pass through the focusing factors.

    References
    ----------
    Asymmetric loss, arXiv 2009.14119; the default gammas and margin are those of that paper's multi-label script.

    Examples
    --------
    >>> AsymmetricLoss(reduction="none")(torch.tensor([[0.0, -5.0]]), torch.tensor([[1, 0]]))
    tensor([[0.6931, -0.0000]])
    """

    class_weight: Tensor | None

    def __init__(
        self,
        gamma_positive: float = 0.0,
        gamma_negative: float = 4.0,
        margin: float = 0.05,
        reduction: LabelReduction = "mean",
        *,
        class_weight: Float[Tensor, " labels"] | None = None,
        detach_weights: bool = False,
    ) -> None:
        super().__init__()
        check("gamma_positive", gamma_positive, NonNegative)
        check("gamma_negative", gamma_negative, NonNegative)
        check("margin", margin, ShareBelowOne)
        check("reduction", reduction, LabelReduction)
        self.gamma_positive, self.gamma_negative, self.margin = gamma_positive, gamma_negative, margin
        self.reduction, self.detach_weights = reduction, detach_weights
        self.register_buffer("class_weight", checked_class_weight(class_weight), persistent=False)

    def forward(self, logits: Float[Tensor, "batch labels"], labels: Shaped[Tensor, "batch labels"]) -> Tensor:
        """Compute the loss in float32 or wider: a scalar, or shape (batch, labels) without reduction."""
        if logits.shape != labels.shape or logits.ndim != 2:
            shapes = f"logits and labels have shapes {tuple(logits.shape)} and {tuple(labels.shape)}"
            raise InputError(shapes, "(batch, labels) both")
        with torch.autocast(logits.device.type, enabled=False):
            x = logits if logits.dtype == torch.float64 else logits.float()
            known = labels >= 0 if may_be_unknown(labels) else None
            y = labels.to(x.dtype).clamp(0.0, 1.0)
            log_positive = functional.logsigmoid(x)
            if self.margin > 0:
                log_negative = (torch.sigmoid(-x) + self.margin).clamp(max=1.0).log()
            else:  # without a margin sigmoid(-x) underflows
                log_negative = functional.logsigmoid(-x)
            if self.gamma_positive > 0:
                log_positive = log_positive * self._factor(torch.sigmoid(-x), self.gamma_positive)
            if self.gamma_negative > 0:
                log_negative = log_negative * self._factor(torch.sigmoid(x) - self.margin, self.gamma_negative)
            loss = -(y * log_positive + (1 - y) * log_negative)
            if self.class_weight is not None:
                loss = loss * self.class_weight.to(loss)
            return reduce(loss, self.reduction) if known is None else reduce_known(loss, known, self.reduction)

    def _factor(self, base: Tensor, gamma: float) -> Tensor:
        """Compute max(base, 0)^gamma; the floor keeps the slope of a root finite."""
        factor = base.clamp(min=1e-12).pow(gamma)
        return factor.detach() if self.detach_weights else factor
