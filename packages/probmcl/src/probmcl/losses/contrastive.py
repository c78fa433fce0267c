"""Contrastive losses for rows that carry several labels: of mixtures (ProbMCL) and of plain embeddings (SupCon).

Both are the same loss over different similarities. For an anchor i with positives A(i), similarities s and temperature
t,

    L_i = log sum_{n != i} exp(s_in / t)  -  mean over j in A(i) of s_ij / t

An anchor without positives has no loss: it is left out of the mean, and a batch of such anchors gives 0 with gradients
of 0. Nothing here waits for the device, so label values are not checked; shapes are.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from sextet_common.checks import Positive, PositiveShare, check
from sextet_common.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

from probmcl.losses.overlap import Overlap, label_overlap, reaches
from probmcl.losses.reduction import Reduction
from probmcl.mixtures.parameters import MixtureParameters
from probmcl.mixtures.similarity import Similarity, mixture_similarity

Weight = Literal["none", "overlap"]


class _ContrastiveLoss(nn.Module):
    """The loss over a table of similarities, with positives by label overlap."""

    def __init__(
        self, temperature: float, threshold: float, measure: Overlap, weight: Weight, reduction: Reduction
    ) -> None:
        super().__init__()
        check("temperature", temperature, Positive)
        check("threshold", threshold, PositiveShare)
        check("measure", measure, Overlap)
        check("weight", weight, Weight)
        check("reduction", reduction, Reduction)
        self.temperature, self.threshold = temperature, threshold
        self.measure, self.weight, self.reduction = measure, weight, reduction

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, threshold={self.threshold}, measure={self.measure}"

    def _reduced(
        self, similarity: Tensor, labels: Tensor, other_labels: Tensor | None, present: Tensor | None
    ) -> Tensor:
        """Compute the loss from similarities (batch, others), the labels of both and which others are present."""
        overlap = label_overlap(labels, other_labels, self.measure)
        if overlap.shape != similarity.shape:
            expected = f"as many as the rows that are compared, {tuple(similarity.shape)}"
            raise InputError(f"labels are given for {tuple(overlap.shape)} rows", expected)
        compared = torch.ones_like(overlap, dtype=torch.bool)
        if other_labels is None:
            compared.fill_diagonal_(False)
        if present is not None:
            compared &= present
        chosen = compared & reaches(overlap, self.threshold)
        share = overlap.masked_fill(~chosen, 0.0) if self.weight == "overlap" else chosen.float()
        total = share.sum(dim=1)
        valid = total > 0
        logits = similarity / self.temperature
        denominator = torch.logsumexp(logits.masked_fill(~compared, torch.finfo(logits.dtype).min), dim=1)
        numerator = (share * logits.masked_fill(~chosen, 0.0)).sum(dim=1) / total.clamp(min=1e-30)
        loss = (denominator - numerator).masked_fill(~valid, 0.0)
        if self.reduction == "none":
            return loss
        return loss.sum() / valid.sum().clamp(min=1) if self.reduction == "mean" else loss.sum()


class ProbabilisticContrastiveLoss(_ContrastiveLoss):
    """Draw together the mixtures of images whose label sets overlap, and push apart the others.

    Parameters
    ----------
    temperature
        Divides the similarities. They are logarithms by default, whose size grows with the dimensions.
    threshold
        Smallest overlap of a positive, in (0, 1].
    measure, similarity, per_dimension, chunk_size
        As in `label_overlap` and `mixture_similarity`.
    weight
        "none", all positives alike, or "overlap", a mean of the positives weighted by their overlap.
    reduction
        "mean" over the anchors that have positives, "sum", or "none".

    References
    ----------
    arXiv 2401.01448. Temperature and threshold are defaults to start from. Not specified in the paper: the log cosine,
    its division and the weights.

    Examples
    --------
    Two images with the same labels and one with others; equal mixtures give log(batch - 1):

    >>> labels = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    >>> mixtures = MixtureParameters(torch.zeros(3, 1), torch.zeros(3, 1, 2), torch.zeros(3, 1))
    >>> ProbabilisticContrastiveLoss()(mixtures, labels)
    tensor(0.6931)
    """

    def __init__(
        self,
        temperature: float = 0.2,
        threshold: float = 0.5,
        measure: Overlap = "jaccard",
        similarity: Similarity = "log_cosine",
        *,
        per_dimension: bool = False,
        weight: Weight = "none",
        reduction: Reduction = "mean",
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(temperature, threshold, measure, weight, reduction)
        check("similarity", similarity, Similarity)
        self.similarity, self.per_dimension, self.chunk_size = similarity, per_dimension, chunk_size

    def forward(
        self,
        mixtures: MixtureParameters,
        labels: Shaped[Tensor, "batch labels"],
        reference: MixtureParameters | None = None,
        reference_labels: Shaped[Tensor, "others labels"] | None = None,
    ) -> Tensor:
        """Compute the loss: a scalar, or shape (batch,) without reduction.

        Labels are zeros and ones. With two views of each image, both are rows of the batch. Anchors are compared with
        the rows of the reference, or else with the rest of their batch.
        """
        _check_references(reference, reference_labels)
        similarity = mixture_similarity(
            mixtures, reference, self.similarity, per_dimension=self.per_dimension, chunk_size=self.chunk_size
        )
        return self._reduced(similarity, labels, reference_labels, None)


class MultiLabelSupConLoss(_ContrastiveLoss):
    """The supervised contrastive loss for rows with several labels, on the cosine of plain embeddings.

    The temperature divides the cosines; the other parameters are those of `ProbabilisticContrastiveLoss`. The loss is
    the "out" form of arXiv 2004.11362, with the positives of arXiv 2401.01448.

    Examples
    --------
    >>> labels = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    >>> MultiLabelSupConLoss(temperature=0.5)(torch.eye(3), labels)
    tensor(0.6931)
    """

    def __init__(
        self,
        temperature: float = 0.1,
        threshold: float = 0.5,
        measure: Overlap = "jaccard",
        *,
        weight: Weight = "none",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(temperature, threshold, measure, weight, reduction)

    def forward(
        self,
        embeddings: Float[Tensor, "batch dims"],
        labels: Shaped[Tensor, "batch labels"],
        reference: Float[Tensor, "others dims"] | None = None,
        reference_labels: Shaped[Tensor, "others labels"] | None = None,
        *,
        present: Bool[Tensor, " others"] | None = None,
    ) -> Tensor:
        """Compute the loss: a scalar, or shape (batch,) without reduction.

        Embeddings of any length are normalised here, in float32 or wider. Labels are zeros and ones. Anchors are
        compared with the rows of the reference, such as those of a `MemoryQueue` that are filled (``present``), or else
        with the rest of their batch.
        """
        _check_references(reference, reference_labels)
        if embeddings.ndim != 2 or not embeddings.is_floating_point():
            raise InputError(f"embeddings are {embeddings.dtype} of shape {tuple(embeddings.shape)}", "(batch, dims)")
        if reference is not None and reference.shape[1:] != embeddings.shape[1:]:
            expected = f"(others, {embeddings.shape[1]}), as the embeddings"
            raise InputError(f"the references have shape {tuple(reference.shape)}", expected)
        if present is not None and (reference is None or present.shape != reference.shape[:1]):
            raise InputError(f"present has shape {tuple(present.shape)}", "one truth value for each reference")
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = _normalised(embeddings)
            similarity = rows @ (rows if reference is None else _normalised(reference).to(rows.dtype)).mT
            return self._reduced(similarity, labels, reference_labels, present)


def _check_references(reference: object, reference_labels: object) -> None:
    if (reference is None) != (reference_labels is None):
        raise InputError("only one of reference and reference_labels is given", "both of them or none")


def _normalised(embeddings: Tensor) -> Tensor:
    wide = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    return functional.normalize(wide, dim=1)
