"""The comparison of mixtures label by label: component k of an image with component k of the others.

Anchors are the components (i, k) of the labels that image i has. Each is compared with component k of all other images,
those with the label being positives: M times the batch similarities for M labels of all images together, grouped by
label, and nothing of the size of the batch squared times the labels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from sextet_common.errors import InputError
from torch import Tensor

from probmcl.losses.comparison import Comparison, Pairing
from probmcl.mixtures.parameters import MixtureParameters
from probmcl.mixtures.similarity import anchored_similarity


class Anchors(NamedTuple):
    """Components of a batch of mixtures, one a row, sorted by label."""

    image: Int[Tensor, " rows"]
    label: Int[Tensor, " rows"]


def anchors(labels: Shaped[Tensor, "batch labels"]) -> Anchors:
    """Return the components of the labels that are present; the number of rows is read from the device."""
    label, image = (labels > 0).mT.nonzero(as_tuple=True)
    return Anchors(image, label)


def compare_components(
    mixtures: MixtureParameters,
    labels: Shaped[Tensor, "batch labels"],
    reference: MixtureParameters | None,
    reference_labels: Shaped[Tensor, "others labels"] | None,
    paired: Pairing,
    scale: Tensor | float,
    per_dimension: bool,
    class_weight: Float[Tensor, " labels"] | None,
    chunk_size: int | None,
) -> tuple[Comparison, Int[Tensor, " rows"]]:
    """Compare every component of a present label with the same component of the other images.

    Returned with the image of every anchor. An image that does not know the label is not compared with unless it is a
    given pair, and is no anchor: an unlabelled image takes no part.
    """
    other, table = (mixtures, labels) if reference is None else (reference, reference_labels)
    assert table is not None
    for each, values in ((mixtures, labels), (other, table)):
        if values.shape != each.log_weights.shape:
            received = f"labels have shape {tuple(values.shape)}, for mixtures of shape {tuple(each.log_weights.shape)}"
            raise InputError(received, "one component for each label, or another similarity than 'label'")
    rows = anchors(labels)
    similarity = anchored_similarity(
        mixtures, other, rows.image, rows.label, per_dimension=per_dimension, chunk_size=chunk_size
    )
    value = table.mT[rows.label].to(similarity.dtype)  # of the anchor's label in every other image
    compared = paired.compared[rows.image] & (value >= 0)
    share = value.clamp(0.0, 1.0)
    own = labels[rows.image, rows.label].to(similarity.dtype).clamp(max=1.0)
    if paired.pairs is not None:
        pairs = paired.pairs[rows.image].to(share.dtype)
        share = torch.maximum(share, pairs)
        compared = compared | ((pairs > 0) & paired.compared[rows.image])
    if paired.itself is not None:
        compared = compared & ~paired.itself[rows.image]
    weight = own if class_weight is None else own * class_weight.to(own)[rows.label]
    return Comparison(similarity * scale, compared, share.masked_fill(~compared, 0.0), weight), rows.image
