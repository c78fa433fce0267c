"""Soft labels that are learned for the images: those from which real images' labels are best predicted.

Label distillation (arXiv 2006.08572) learns labels for fixed images; with kernel ridge regression on the features of
networks, as in KIP (arXiv 2011.00050), the predictions are linear in the labels and the best labels solve one system.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Float
from sextet_common import data as image_data, device as devices, seeding
from sextet_common.checks import Count, NonNegative, Positive, check
from torch import Tensor
from torch.nn import functional

from attention_matching.evaluation.config import EvaluateConfig
from attention_matching.images.distilled import DistilledSet, check_same_form
from attention_matching.images.inputs import RealInputs
from attention_matching.networks.base import FeatureNetwork

_BATCH = 256  # images that pass through a network at once
_STEPS, _TOLERANCE = 10_000, 1e-9  # of the descent on the simplex

Square = Float[Tensor, "n n"]
Labels = Float[Tensor, "n classes"]


def learned_labels_from(
    training: DistilledSet,
    data: image_data.Source,
    config: EvaluateConfig | None = None,
    *,
    networks: int = 8,
    images: int = 5000,
    ridge: float = 1e-3,
    pull: float = 0.3,
    teacher: FeatureNetwork | None = None,
) -> DistilledSet:
    """Return the set with learned soft labels; train on them with ``labels="soft"``.

    Random ``networks`` of the ``config`` embed the set and up to ``images`` random training images each, or a
    ``teacher`` does. Kernel ridge regression predicts the latter's labels from the set's, which are the probabilities
    that minimise the mean squared error of these predictions.

    Not specified in the papers; we subtract the set's mean from the features, scale ``ridge`` by the mean squared norm
    of the set's features, and add a squared distance to the hard labels, weighted by ``pull`` times the mean curvature.

    Examples
    --------
    >>> from attention_matching.images.select import random_real
    >>> from sextet_common.data import load
    >>> digits = load("digits")
    >>> learned = learned_labels_from(random_real(digits, 1), digits, EvaluateConfig(width=8), networks=2)
    >>> tuple(learned.soft_labels.shape), bool((learned.soft_labels >= 0).all())
    ((10, 10), True)
    """
    check("networks", networks, Count)
    check("images", images, Count)
    check("ridge", ridge, Positive)
    check("pull", pull, NonNegative)
    config, data = config or EvaluateConfig(), image_data.load(data)
    check_same_form(training, data)
    device = devices.pick(config.device)
    count, classes = len(training), len(training.classes)
    curvature = torch.zeros(count, count, dtype=torch.float64)
    slope = torch.zeros(count, classes, dtype=torch.float64)
    for number in range(1 if teacher is not None else networks):
        with seeding.torch_seed(config.seed, "learned labels", number):
            network = teacher or config.network(data.image_shape, data.n_classes)
        drawn = seeding.generator(config.seed, "learned labels", number)
        rows = np.sort(drawn.permutation(len(data.train_labels))[:images])
        real = RealInputs(data.train_images, training.preprocessing, rows, device)
        targets = functional.one_hot(torch.tensor(data.train_labels[rows]), classes).double()
        mode = network.training
        network.train(teacher is None)  # batch normalisation of random networks needs the batch's statistics
        points = _embedded(network.to(device), training.images.to(device))
        centre = points.mean(dim=0)
        solver = _solver(points - centre, ridge)
        for inputs, labels in zip(real.split(_BATCH), targets.split(_BATCH), strict=True):
            linear = (_embedded(network, inputs) - centre) @ solver  # predictions are linear in the set's labels
            curvature += linear.T @ linear / len(rows)
            slope += linear.T @ (labels - 1 / classes) / len(rows)
        network.train(mode)
    hard = functional.one_hot(training.labels, classes).double()
    weight = pull * curvature.diagonal().mean()
    curvature += weight * torch.eye(count, dtype=torch.float64)
    # Predictions are of labels minus 1 / classes: rows of the set and of the real images sum to the same.
    slope += weight * (hard - 1 / classes) + curvature.sum(dim=1, keepdim=True) / classes
    meta = {**training.meta, "soft_labels": {"by": "learning", "ridge": ridge, "pull": pull}}
    return dataclasses.replace(training, soft_labels=minimise(curvature, slope, hard).float(), meta=meta)


def _embedded(network: FeatureNetwork, inputs: Tensor) -> Tensor:
    """Return the embeddings of images, in double precision on the CPU."""
    with torch.no_grad():
        return torch.cat([network.features(part).embedding.double().cpu() for part in inputs.split(_BATCH)])


def _solver(points: Float[Tensor, "n size"], ridge: float) -> Float[Tensor, "size n"]:
    """Return the map from a point to the weights of the labels in its prediction by kernel ridge regression."""
    kernel = points @ points.T
    kernel += ridge * kernel.diagonal().mean() * torch.eye(len(points), dtype=points.dtype)
    solved: Tensor = torch.linalg.solve(kernel, points)
    return solved.T


def project(rows: Labels) -> Labels:
    """Project rows onto the simplex: the nearest non-negative rows of sum 1.

    Source: Held, Wolfe and Crowder (1974); Duchi et al. (ICML 2008), figure 1.

    Examples
    --------
    >>> project(torch.tensor([[0.5, 0.9], [-3.0, 0.0]]))
    tensor([[0.3000, 0.7000],
            [0.0000, 1.0000]])
    """
    ordered = rows.sort(dim=1, descending=True).values
    excess = ordered.cumsum(dim=1) - 1
    counts = torch.arange(1, rows.shape[1] + 1, dtype=rows.dtype)
    support = (ordered * counts > excess).sum(dim=1, keepdim=True)
    return (rows - excess.gather(1, support - 1) / support).clamp(min=0)


def minimise(curvature: Square, slope: Labels, start: Labels) -> Labels:
    """Minimise ``tr(Y' curvature Y) / 2 - tr(Y' slope)`` over matrices Y with rows on the simplex.

    Accelerated projected gradient (FISTA, Beck and Teboulle 2009) with a step that is safe for the largest curvature.
    """
    step = 1 / torch.linalg.eigvalsh(curvature)[-1]
    rows = ahead = project(start)
    momentum = 1.0
    for _ in range(_STEPS):
        new = project(ahead - step * (curvature @ ahead - slope))
        next_momentum = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + (momentum - 1) / next_momentum * (new - rows)
        change = float((new - rows).abs().max())
        rows, momentum = new, next_momentum
        if change < _TOLERANCE:
            break
    return rows
