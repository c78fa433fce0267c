"""Predictions and scores of a trained network on a part of the data."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from sextet_common.networks import device_of
from torch import Tensor, nn

from subclass_kd.data import Part, SubclassSet
from subclass_kd.metrics import Scores, score

_BATCH = 512


def predict(network: nn.Module, part: Part, device: torch.device | None = None) -> Float[Tensor, "images outputs"]:
    """Return a network's logits on a part of the data, on the CPU; the network is left in evaluation mode."""
    network.eval()
    device = device or device_of(network)
    logits = []
    with torch.inference_mode():
        for start in range(0, len(part), _BATCH):
            rows = np.arange(start, min(start + _BATCH, len(part)))
            logits.append(network(part.batch(rows, device)).float().cpu())
    return torch.cat(logits).clone()  # a plain tensor, which autograd accepts


def evaluate(network: nn.Module, data: SubclassSet, part: Literal["train", "validation", "test"] = "test") -> Scores:
    """Score a network's class predictions on a part of the data; the network has one logit per subclass.

    Images without a label are left out.
    """
    images: Part = getattr(data, part)
    if not images.is_labelled.all():
        images = images.rows(np.flatnonzero(images.is_labelled))
    log_probs = data.hierarchy.class_log_probs(predict(network, images))
    return score(log_probs.exp(), torch.from_numpy(data.hierarchy.class_labels(images.labels)))
