"""Calibration of a trained classifier on validation data."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from probmcl.data.sets import Split
from probmcl.training.network import Network, infer


def calibrate(network: Network, split: Split, device: torch.device) -> tuple[float, float]:
    """Fit one scale and one shift of all logits to the labels of a split (Platt), and fold them into the classifier.

    Returns
    -------
    tuple of float
        The scale and the shift; 1 and 0 if the labels are all equal or no positive scale fits.
    """
    logits = infer(network, split, device, network.logits).double().flatten()
    labels = torch.from_numpy(np.array(split.labels)).double().flatten()
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    if not len(labels) or labels.min() == labels.max():
        return 1.0, 0.0
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(parameters[0] * logits + parameters[1], labels)
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    scale, shift = parameters.tolist()
    if not (math.isfinite(scale) and math.isfinite(shift) and scale > 0):
        return 1.0, 0.0
    with torch.no_grad():
        network.classifier.weight.mul_(scale)
        network.classifier.bias.mul_(scale).add_(shift)
    return scale, shift
