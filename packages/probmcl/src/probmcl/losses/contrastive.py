"""Contrastive losses for rows that carry several labels: of mixtures (ProbMCL) and of plain embeddings (SupCon).

Both are the same loss over different similarities. For an anchor i with positives A(i), similarities s and temperature
t,

    L_i = log sum_{n != i} exp(s_in / t)  -  mean over j in A(i) of s_ij / t

An anchor without positives has no loss: it is left out of the mean, and a batch of such anchors gives 0 with gradients
of 0. Only the similarity "label" makes the host wait for the device, for the number of labels of each kind; label
values are not checked, shapes are.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Float
from sextet_common.checks import check
from sextet_common.errors import InputError
from torch import Tensor
from torch.nn import functional

from probmcl.losses.comparison import Comparison, Pairing
from probmcl.losses.components import compare_components
from probmcl.losses.overlap import Overlap
from probmcl.losses.pairwise import ContrastiveLoss, Positives, References, Rows, Weight
from probmcl.losses.reduction import Reduction
from probmcl.mixtures.parameters import MixtureParameters
from probmcl.mixtures.similarity import Similarity, mixture_similarity

_TEMPERATURES = {"label": 0.2, "mixture": 0.05, "aligned": 0.05, "cosine": 0.05, "angular": 0.1}
_UNDIVIDED_TEMPERATURE = 0.2
_LEAST_LOGARITHM = -1e30


class ProbabilisticContrastiveLoss(ContrastiveLoss):
    """Draw together mixtures whose labels agree, and push apart the others.

    Parameters
    ----------
    temperature
        Divides the similarities; by default 0.2 for "label" and without `per_dimension`, 0.1 for
        "angular", otherwise 0.05.
    threshold, measure
        Smallest overlap of a positive, in (0, 1], and the overlap, as in `label_overlap`.
    similarity
        "label" compares component k of an image that has label k with component k of the other images; positives are
        those that have the label. Only present labels cost anything, and the threshold does not matter; the mixtures
        have one component for each label. The others compare whole mixtures, see `mixture_similarity`.
    per_dimension
        Divide the logarithms by the number of dimensions. With means of length sqrt(dim), as `MixtureDensityHead` gives
        with ``normalise=True``, a logarithm of the similarity of two components of deviation s is then
        ``-(1 - cos) / (2 s^2)`` in any number of dimensions, so that with s = 1 and the temperature 0.2 the loss has
        the logits of a contrast of cosines at 0.4.
    weight
        "none", all positives alike, or "overlap", a mean of the positives weighted by their overlap.
    reduction
        "mean" over the anchors that have positives, "sum", or "none": the sum of each image's anchors.
    positives
        "threshold", or "per_label": the rows that share a label, an anchor once for each of its labels (MulSupCon).
    class_weight
        A weight for each label: of the label's anchors with "label" and "per_label", otherwise in the overlap.
    learn_temperature
        Make log(1 / temperature), `log_scale`, a parameter, as in CLIP; the temperature stays at 0.01 or more.
    chunk_size
        As in `mixture_similarity`.

    References
    ----------
    arXiv 2401.01448. The threshold is a default to start from. Not specified in the paper: the comparison by label, the
    log cosine, its division, the temperatures and the weights.

    Examples
    --------
    Two images with the same labels and one with another; equal mixtures give log(batch - 1):

    >>> labels = torch.tensor([[1, 0], [1, 0], [0, 1]])
    >>> mixtures = MixtureParameters(torch.zeros(3, 2), torch.zeros(3, 2, 2), torch.zeros(3, 2))
    >>> ProbabilisticContrastiveLoss()(mixtures, labels)
    tensor(0.6931)
    """

    def __init__(
        self,
        temperature: float | None = None,
        threshold: float = 0.5,
        measure: Overlap = "jaccard",
        similarity: Similarity = "label",
        *,
        per_dimension: bool = True,
        weight: Weight = "none",
        reduction: Reduction = "mean",
        positives: Positives = "threshold",
        class_weight: Float[Tensor, " labels"] | None = None,
        learn_temperature: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        check("similarity", similarity, Similarity)
        if temperature is None:
            kind = "mixture" if similarity == "log_cosine" else similarity
            temperature = _TEMPERATURES[kind] if per_dimension else _UNDIVIDED_TEMPERATURE
        super().__init__(temperature, threshold, measure, weight, reduction, positives, class_weight, learn_temperature)
        self.similarity, self.per_dimension, self.chunk_size = similarity, per_dimension, chunk_size

    def _check(self, rows: Rows, other: Rows | None) -> None:
        for each in (rows, other):
            if each is not None:
                if not isinstance(each, MixtureParameters):
                    raise InputError(f"rows are a {type(each).__name__}", "MixtureParameters")
                each.check()

    def _similarity(self, rows: Rows, other: Rows | None) -> Tensor:
        similarity = mixture_similarity(
            cast(MixtureParameters, rows),
            cast(MixtureParameters | None, other),
            cast("Literal['mixture']", self.similarity),
            per_dimension=self.per_dimension,
            chunk_size=self.chunk_size,
        )
        return similarity.clamp(min=_LEAST_LOGARITHM)  # a mixture without weight has -inf, which 0 must not multiply

    def _compared(
        self, rows: Rows, labels: Tensor | None, given: References, paired: Pairing
    ) -> tuple[Comparison, Tensor | None]:
        if self.similarity != "label":
            return super()._compared(rows, labels, given, paired)
        if labels is None or given.indices is not None:
            received = "no labels" if labels is None else "an indices_tuple"
            raise InputError(f"{received} with the similarity 'label'", "labels, or the similarity 'mixture'")
        return compare_components(
            cast(MixtureParameters, rows),
            labels,
            cast(MixtureParameters | None, given.rows),
            given.labels,
            paired,
            self._scale(),
            self.per_dimension,
            self.class_weight,
            self.chunk_size,
        )


class MultiLabelSupConLoss(ContrastiveLoss):
    """The supervised contrastive loss for rows with several labels, on the cosine of plain embeddings.

    The temperature divides the cosines of embeddings, which may have any length; the other parameters are those of
    `ProbabilisticContrastiveLoss`. The loss is the "out" form of arXiv 2004.11362, with the positives of arXiv
    2401.01448, or per label those of MulSupCon.

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
        positives: Positives = "threshold",
        class_weight: Float[Tensor, " labels"] | None = None,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__(temperature, threshold, measure, weight, reduction, positives, class_weight, learn_temperature)

    def _check(self, rows: Rows, other: Rows | None) -> None:
        if not isinstance(rows, Tensor) or rows.ndim != 2 or not rows.is_floating_point():
            kind = f"{rows.dtype} of shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
            raise InputError(f"embeddings are {kind}", "(batch, dims)")
        if other is not None and (not isinstance(other, Tensor) or other.shape[1:] != rows.shape[1:]):
            kind = f"have shape {tuple(other.shape)}" if isinstance(other, Tensor) else f"are {type(other).__name__}"
            raise InputError(f"the references {kind}", f"(others, {rows.shape[1]}), as the embeddings")

    def _similarity(self, rows: Rows, other: Rows | None) -> Tensor:
        left = _normalised(cast(Tensor, rows))
        return left @ (left if other is None else _normalised(cast(Tensor, other)).to(left.dtype)).mT


def _normalised(rows: Tensor) -> Tensor:
    return functional.normalize(rows if rows.dtype == torch.float64 else rows.float(), dim=1)
