"""What all contrastive losses share: positives by labels or as given, references, reduction and temperature."""

from __future__ import annotations

import math
import warnings
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Int, Shaped
from sextet_common.checks import Positive, PositiveShare, check
from sextet_common.errors import InputError
from torch import Tensor, nn

from probmcl.losses.comparison import Comparison, IndicesTuple, Pairing, from_indices, pairing
from probmcl.losses.overlap import Overlap, checked_class_weight, known_in_common, label_overlap, reaches
from probmcl.losses.reduction import Reduction
from probmcl.losses.shared_labels import per_label_shares
from probmcl.mixtures.parameters import MixtureParameters

Weight = Literal["none", "overlap"]
Positives = Literal["threshold", "per_label"]
Rows = Tensor | MixtureParameters

SMALLEST_TEMPERATURE = 0.01  # of a learned one, as in CLIP


class References(NamedTuple):
    """What the anchors are compared with; all None for the rest of their batch."""

    indices: IndicesTuple | None
    rows: Rows | None
    labels: Tensor | None


class ContrastiveLoss(nn.Module):
    """The loss over a table of similarities, with positives by label overlap, by label, or as given."""

    class_weight: Tensor | None

    def __init__(
        self,
        temperature: float,
        threshold: float,
        measure: Overlap,
        weight: Weight,
        reduction: Reduction,
        positives: Positives,
        class_weight: Tensor | None,
        learn_temperature: bool,
    ) -> None:
        super().__init__()
        check("temperature", temperature, Positive)
        check("threshold", threshold, PositiveShare)
        check("measure", measure, Overlap)
        check("weight", weight, Weight)
        check("reduction", reduction, Reduction)
        check("positives", positives, Positives)
        if positives == "per_label" and weight != "none":
            raise InputError(f"weight {weight!r} with positives per label", "weight 'none'")
        self.threshold, self.measure, self.weight = threshold, measure, weight
        self.reduction, self.positives, self.learn_temperature = reduction, positives, learn_temperature
        self.register_buffer("class_weight", checked_class_weight(class_weight), persistent=False)
        self._temperature = float(temperature)
        if learn_temperature:
            self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    @property
    def temperature(self) -> float:
        """What similarities are divided by; of a learned one the present value."""
        return math.exp(-float(self.log_scale.detach())) if self.learn_temperature else self._temperature

    def extra_repr(self) -> str:
        """Return what the module prints."""
        return f"temperature={self.temperature:g}, threshold={self.threshold}, measure={self.measure}"

    def forward(
        self,
        rows: Rows,
        labels: Shaped[Tensor, "batch labels"] | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Rows | None = None,
        ref_labels: Shaped[Tensor, "others labels"] | None = None,
        *,
        pairs: Shaped[Tensor, "batch others"] | None = None,
        present: Bool[Tensor, " others"] | None = None,
        self_index: Int[Tensor, " batch"] | None = None,
        reference: Rows | None = None,
        reference_labels: Shaped[Tensor, "others labels"] | None = None,
    ) -> Tensor:
        """Compute the loss: a scalar, or shape (batch,) without reduction.

        With two views of each image, both are rows of the batch. Labels may be soft, counts or unknown, see
        `probmcl.label_overlap`. Anchors are compared with the rest of their batch, or with the rows of ``ref_emb`` and
        their ``ref_labels``, such as those of a `MemoryQueue` that are filled (``present``).

        Parameters
        ----------
        indices_tuple, ref_emb, ref_labels
            As in pytorch-metric-learning: the pairs (anchors, positives, anchors, negatives) or triplets (anchors,
            positives, negatives) that are compared, in the place of the labels; and rows to compare with.
        pairs
            Positives in addition to those of the labels, or in their place without labels: truth values or weights. A
            pair with a negative value is not compared. A row without any known label is compared with all others if
            it has pairs.
        self_index
            Where the references contain the anchors: the place of each, or -1. An anchor is not compared with itself.
        reference, reference_labels
            Deprecated names of `ref_emb` and `ref_labels`.
        """
        given = _references(indices_tuple, ref_emb, ref_labels, reference, reference_labels)
        found, images = self._compare(rows, labels, given, pairs, present, self_index)
        loss, weight = found.losses()
        if self.reduction == "mean":
            return loss.sum() / weight.sum().clamp(min=1e-30)
        if self.reduction == "sum":
            return loss.sum()
        return loss if images is None else loss.new_zeros(_length(rows)).index_add(0, images, loss)

    def comparison(
        self,
        rows: Rows,
        labels: Shaped[Tensor, "batch labels"] | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Rows | None = None,
        ref_labels: Shaped[Tensor, "others labels"] | None = None,
        *,
        pairs: Shaped[Tensor, "batch others"] | None = None,
        present: Bool[Tensor, " others"] | None = None,
        self_index: Int[Tensor, " batch"] | None = None,
    ) -> Comparison:
        """Return what the loss is computed from, for diagnostics; parameters as in the loss."""
        given = _references(indices_tuple, ref_emb, ref_labels, None, None)
        return self._compare(rows, labels, given, pairs, present, self_index)[0]

    def _compare(
        self,
        rows: Rows,
        labels: Tensor | None,
        given: References,
        pairs: Tensor | None,
        present: Tensor | None,
        self_index: Tensor | None,
    ) -> tuple[Comparison, Tensor | None]:
        """Return the comparison, and the image of every anchor where anchors are not images."""
        self._check(rows, given.rows)
        if labels is None and given.indices is None and pairs is None:
            raise InputError("there are no labels", "labels, pairs or indices_tuple")
        if given.indices is not None and pairs is not None:
            raise InputError("both indices_tuple and pairs are given", "one of them")
        used = labels is not None and given.indices is None
        if (given.rows is None or used) and (given.rows is None) != (given.labels is None):
            raise InputError("only one of ref_emb and ref_labels is given", "both of them or none")
        others = None if given.rows is None else _length(given.rows)
        for name, table, count in (("labels", labels, _length(rows)), ("ref_labels", given.labels, others)):
            if table is not None and (table.ndim != 2 or len(table) != count):
                raise InputError(f"{name} have shape {tuple(table.shape)}", f"({count}, labels), as the rows")
        device = (rows if isinstance(rows, Tensor) else rows.means).device
        with torch.autocast(device.type, enabled=False):
            paired = pairing(_length(rows), others, device, pairs, present, self_index)
            return self._compared(rows, labels, given, paired)

    def _compared(
        self, rows: Rows, labels: Tensor | None, given: References, paired: Pairing
    ) -> tuple[Comparison, Tensor | None]:
        logits = self._similarity(rows, given.rows) * self._scale()
        if given.indices is not None:
            return from_indices(logits, given.indices, paired.itself), None
        compared, itself, pairs = paired
        if itself is not None:
            compared = compared & ~itself
        if labels is None:
            assert pairs is not None
            share = pairs * compared
        else:
            common = known_in_common(labels, given.labels)
            if common is not None:
                if pairs is not None:
                    unlabelled = (labels < 0).all(dim=1, keepdim=True) & (pairs > 0).any(dim=1, keepdim=True)
                    common = common | unlabelled | (pairs > 0)
                compared = compared & common
            share = self._shares(labels, given.labels, compared)
            if pairs is not None:
                share = torch.maximum(share, pairs * compared)
        share = share.to(logits.dtype)
        weight = share.sum(dim=1) if self.positives == "per_label" else logits.new_ones(len(logits))
        return Comparison(logits, compared, share, weight), None

    def _shares(self, labels: Tensor, other: Tensor | None, compared: Tensor) -> Tensor:
        """Compute the weight of every positive from the labels."""
        if self.positives == "threshold":
            overlap = label_overlap(labels, other, self.measure, class_weight=self.class_weight)
            chosen = reaches(overlap, self.threshold) & compared
            return overlap * chosen if self.weight == "overlap" else chosen.float()
        left = labels.float().clamp(0.0, 1.0)
        right = left if other is None else other.float().clamp(0.0, 1.0)
        if self.class_weight is not None:
            left = left * self.class_weight.to(left)
        return per_label_shares(left, right, compared.float()).mul_(compared)

    def _scale(self) -> Tensor | float:
        if not self.learn_temperature:
            return 1 / self._temperature
        with torch.no_grad():
            self.log_scale.clamp_(max=-math.log(SMALLEST_TEMPERATURE))
        return self.log_scale.exp()

    def _check(self, rows: Rows, other: Rows | None) -> None:
        raise NotImplementedError

    def _similarity(self, rows: Rows, other: Rows | None) -> Tensor:
        raise NotImplementedError


def _references(
    indices: IndicesTuple | Rows | None,
    ref_emb: Rows | Tensor | None,
    ref_labels: Tensor | None,
    reference: Rows | None,
    reference_labels: Tensor | None,
) -> References:
    """Sort out the references, of the present names and of those of the releases before."""
    if isinstance(indices, Tensor | MixtureParameters):  # (rows, labels, reference, reference_labels), by position
        reference_labels = cast(Tensor | None, ref_emb) if reference_labels is None else reference_labels
        reference, indices, ref_emb = indices, None, None
    if reference is not None or reference_labels is not None:
        message = "reference and reference_labels are deprecated; use ref_emb and ref_labels"
        warnings.warn(message, DeprecationWarning, stacklevel=4)
        ref_emb, ref_labels = reference, reference_labels
    return References(indices, ref_emb, ref_labels)


def _length(rows: Rows) -> int:
    return len(rows if isinstance(rows, Tensor) else rows.means)
