"""What a contrastive loss compares: anchors with other rows, which of them are positives, and the loss of both."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from sextet_common.errors import InputError
from torch import Tensor

IndicesTuple = tuple[Tensor, Tensor, Tensor] | tuple[Tensor, Tensor, Tensor, Tensor]


class Comparison(NamedTuple):
    """Anchors compared with other rows, from which a contrastive loss is computed.

    ``logits`` are similarities divided by the temperature, ``compared`` says which of them are in the softmax, and
    ``share`` is the weight of every positive, 0 for the other rows. ``weight`` is how much an anchor counts.
    """

    logits: Float[Tensor, "anchors others"]
    compared: Bool[Tensor, "anchors others"]
    share: Float[Tensor, "anchors others"]
    weight: Float[Tensor, " anchors"]

    def losses(self) -> tuple[Float[Tensor, " anchors"], Float[Tensor, " anchors"]]:
        """Compute the weighted loss of every anchor, and its weight; both are 0 without a positive."""
        total = self.share.sum(dim=1)
        valid = total > 0
        masked = self.logits.masked_fill(~self.compared, torch.finfo(self.logits.dtype).min)
        denominator = torch.logsumexp(masked, dim=1)
        with torch.autocast(self.logits.device.type, enabled=False):
            numerator = torch.einsum("ij,ij->i", self.share, self.logits) / total.clamp(min=1e-30)
        weight = self.weight * valid
        return weight * (denominator - numerator).masked_fill(~valid, 0.0), weight

    @torch.no_grad()
    def diagnostics(self) -> dict[str, Float[Tensor, ""]]:
        """Compute whether the loss can tell rows apart; all scalars on the device.

        ``logit_spread`` is the standard deviation of the compared logits, ``positive_probability`` the mean softmax
        probability of a positive and ``uniform_probability`` what it is if all logits are equal.
        ``uniform_contrastive`` is the loss in that case.
        """
        logits, compared = self.logits.detach().masked_fill(~self.compared, 0.0), self.compared
        pairs, count = compared.sum().clamp(min=1), compared.sum(dim=1)
        mean = logits.sum() / pairs
        spread = (((logits - mean).square() * compared).sum() / pairs).sqrt()
        positive = self.share > 0
        softmax = logits.masked_fill(~compared, torch.finfo(logits.dtype).min).softmax(dim=1)
        positives = positive.sum(dim=1)
        valid = positives > 0
        probability = (softmax * positive).sum(dim=1) / positives.clamp(min=1)
        weight = self.weight * valid
        return {
            "logit_spread": spread,
            "positive_probability": probability.sum() / valid.sum().clamp(min=1),
            "uniform_probability": (valid / count.clamp(min=1)).sum() / valid.sum().clamp(min=1),
            "uniform_contrastive": (weight * count.clamp(min=1).log()).sum() / weight.sum().clamp(min=1e-30),
        }


class Pairing(NamedTuple):
    """Which rows are compared at all, before their labels decide; for all losses alike."""

    compared: Bool[Tensor, "batch others"]
    """All but an anchor with itself, rows that are not present, and pairs that are given as unknown."""
    itself: Bool[Tensor, "batch others"] | None
    """Where an anchor meets itself."""
    pairs: Float[Tensor, "batch others"] | None
    """Weights of given positives, 0 elsewhere."""


def pairing(
    batch: int,
    others: int | None,
    device: torch.device,
    pairs: Shaped[Tensor, "batch others"] | None,
    present: Bool[Tensor, " others"] | None,
    self_index: Int[Tensor, " batch"] | None,
) -> Pairing:
    """Build what is compared in a batch of anchors with itself, or with a number of references."""
    shape = (batch, batch if others is None else others)
    compared = torch.ones(shape, dtype=torch.bool, device=device)
    itself = None
    if present is not None:
        if others is None or present.shape != (others,):
            raise InputError(f"present has shape {tuple(present.shape)}", "one truth value for each reference")
        compared &= present
    if others is None:
        if self_index is not None:
            raise InputError("self_index is given without references", "the place of every anchor in ref_emb")
        itself = torch.eye(batch, dtype=torch.bool, device=device)
    elif self_index is not None:
        if self_index.shape != (batch,) or self_index.is_floating_point():
            received = f"self_index is {self_index.dtype} of shape {tuple(self_index.shape)}"
            raise InputError(received, f"{batch} whole numbers, -1 for an anchor that is not among the references")
        itself = self_index[:, None] == torch.arange(others, device=device)
    weights = None
    if pairs is not None:
        if pairs.shape != shape:
            raise InputError(f"pairs have shape {tuple(pairs.shape)}", f"{shape}, a value for each pair of rows")
        if pairs.dtype != torch.bool:
            compared &= pairs >= 0
        weights = pairs.float().clamp(min=0.0)
    return Pairing(compared, itself, weights)


def from_indices(
    logits: Float[Tensor, "batch others"], indices: IndicesTuple, itself: Bool[Tensor, "batch others"] | None
) -> Comparison:
    """Compare the pairs (anchors, positives, anchors, negatives) or triplets of pytorch-metric-learning."""
    if len(indices) not in (3, 4) or any(index.ndim != 1 or index.is_floating_point() for index in indices):
        expected = "(anchors, positives, anchors, negatives) or (anchors, positives, negatives), whole numbers"
        raise InputError(f"indices_tuple has {len(indices)} tensors, of {[i.dtype for i in indices]}", expected)
    anchors, positives, others, negatives = indices if len(indices) == 4 else (*indices[:2], indices[0], indices[2])
    share = torch.zeros_like(logits, requires_grad=False)
    share[anchors, positives] = 1.0
    compared = share > 0
    compared[others, negatives] = True
    if itself is not None:
        compared, share = compared & ~itself, share.masked_fill(itself, 0.0)
    return Comparison(logits, compared, share, logits.new_ones(len(logits)))
