"""The distillation loss: embedding and prediction matching of real and generated images, class by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from attention_matching import ConvNet, FeatureNetwork, Features, attention_means, balanced_attention_weight
from jaxtyping import Float
from sextet_common import checks
from sextet_common.checks import Count, NonNegative, Positive
from sextet_common.errors import InputError
from sextet_common.options import Advanced
from torch import Tensor
from torch.nn import functional

Maps = Literal["channel", "spatial", "both", "none"]
Prediction = Literal["kl", "mse", "none"]
Reduction = Literal["class", "sample"]


class Statistics(NamedTuple):
    """What is matched of some images, ordered by class, with equally many of each class.

    ``maps`` are the class means of attention maps, each (classes, size); ``embeddings`` (classes, images, size) and
    ``logits`` (classes, images, classes of the network) those of every image; ``spread`` (classes,) is the mean
    distance of two embeddings; ``feature_weight`` is the weight of the embeddings of this network.
    """

    maps: tuple[Tensor, ...]
    embeddings: Tensor
    logits: Tensor | None
    spread: Tensor | None
    feature_weight: float


@dataclass(frozen=True)
class MatchingLoss:
    """Embedding matching plus prediction matching.

    For class k, let a be the mean unit-length attention maps of all blocks but the last, e the mean embedding and o the
    mean logits of its images::

        L_k = sum_l |a_l(real) - a_l(generated)|^2 + feature_weight s |e(real) - e(generated)|^2
              + spread_weight D(real, generated)
              + prediction_weight KL( softmax(o(real) / T) || softmax(o(generated) / T) )

    D is the `energy_distance` of the embeddings, which compares their whole distribution. The scale s is that of
    `feature_scale`: with weight 1 maps and embeddings are balanced as in DataDAM for any width and depth of a ConvNet.

    Images are ordered by class, with the same number per class; real and generated images may differ in that number.

    Parameters
    ----------
    maps
        Attention maps: channel (as in the paper), spatial, both or none.
    power
        Exponent of the attention maps.
    feature_weight
        Weight of the squared distance of the embeddings, relative to DataDAM's.
    spread_weight
        Weight of the energy distance of the embeddings.
    prediction
        kl, mse (of the logits) or none.
    prediction_weight
        The paper's lambda.
    temperature
        T, the temperature of the predictions.
    reduction
        Of kl: "class" compares the softmax of mean logits, "sample" pairs the images of a class one by one.
    temperature_squared
        Multiply kl by T^2.

    References
    ----------
    D2M, arXiv 2411.12841. The paper's full text was not available to us. T = 4 is the value of a public port, which
    uses lambda = 10. We use lambda = 1, and power and balance of DataDAM (arXiv 2310.00093).
    """

    maps: Maps = "channel"
    power: Advanced[Count] = 4
    feature_weight: Advanced[NonNegative] = 1.0
    spread_weight: NonNegative = 0.0
    prediction: Prediction = "kl"
    prediction_weight: NonNegative = 1.0
    temperature: Positive = 4.0
    reduction: Advanced[Reduction] = "class"
    temperature_squared: Advanced[bool] = False

    def __post_init__(self) -> None:
        checks.check_fields(self)

    def statistics(self, network: FeatureNetwork, inputs: Tensor, n_classes: int) -> Statistics:
        """Return what is matched of the inputs of a network, ordered by class."""
        features = network.features(inputs)
        powers = {"channel": (None, self.power), "spatial": (self.power, None), "both": (self.power,) * 2}
        maps: list[Tensor] = []
        for block in features.maps[:-1] if self.maps != "none" else ():
            maps += [m for m in attention_means(block.float(), n_classes, *powers[self.maps]) if m is not None]
        predicts = self.prediction != "none" and self.prediction_weight > 0
        logits = network.classifier(features.embedding) if predicts else None
        weight = self.feature_weight * feature_scale(network, features)
        embeddings = features.embedding.flatten(1).float().unflatten(0, (n_classes, -1))
        return Statistics(
            tuple(maps),
            embeddings,
            None if logits is None else logits.float().unflatten(0, (n_classes, -1)),
            mean_distance(embeddings) if self.spread_weight else None,
            weight,
        )

    def compare(self, real: Statistics, generated: Statistics) -> Float[Tensor, " classes"]:
        """Return the loss of each class."""
        total = generated.feature_weight * (real.embeddings.mean(1) - generated.embeddings.mean(1)).square().sum(1)
        for one, other in zip(real.maps, generated.maps, strict=True):
            total = total + (one - other).square().sum(dim=1)
        if real.spread is not None and generated.spread is not None:
            distance = energy_distance(real.embeddings, generated.embeddings, real.spread, generated.spread)
            total = total + self.spread_weight * distance
        if real.logits is None or generated.logits is None:
            return total
        return total + self.prediction_weight * self._predictions(real.logits, generated.logits)

    def __call__(
        self, network: FeatureNetwork, real: Tensor, generated: Tensor, n_classes: int
    ) -> Float[Tensor, " classes"]:
        """Return the loss of each class for the inputs of a network; gradients flow to `generated` alone."""
        with torch.no_grad():
            target = self.statistics(network, real, n_classes)
        return self.compare(target, self.statistics(network, generated, n_classes))

    def _predictions(self, real: Tensor, generated: Tensor) -> Tensor:
        """Return the prediction term of each class for logits, (classes, images, classes)."""
        if self.prediction == "mse":
            return (real.mean(dim=1) - generated.mean(dim=1)).square().mean(dim=1)
        if self.reduction == "class":
            return self._divergence(real.mean(dim=1), generated.mean(dim=1))
        if real.shape != generated.shape:
            given = f"{real.shape[1]} real and {generated.shape[1]} generated images of a class to pair"
            raise InputError(given, "equal numbers of both")
        return self._divergence(real, generated).mean(dim=1)

    def _divergence(self, real: Tensor, generated: Tensor) -> Tensor:
        log_q, log_p = (functional.log_softmax(logits / self.temperature, dim=-1) for logits in (generated, real))
        divergence = functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
        return divergence * self.temperature**2 if self.temperature_squared else divergence


def feature_scale(network: FeatureNetwork, features: Features) -> float:
    """Return the weight of squared distances of embeddings that balances them with the attention maps as published.

    DataDAM's lambda is 0.01 (0.02 from 64 pixels) for its ConvNet; `balanced_attention_weight` has the rule for others.
    """
    sides = features.maps[0].shape[2:]
    published = 0.01 if min(sides) < 64 else 0.02
    if not isinstance(network, ConvNet):
        return published
    return published / balanced_attention_weight(sides, features.maps[-1].shape[1], len(features.maps))


def energy_distance(
    real: Float[Tensor, "classes n size"],
    generated: Float[Tensor, "classes m size"],
    real_spread: Float[Tensor, " classes"],
    generated_spread: Float[Tensor, " classes"],
) -> Float[Tensor, " classes"]:
    """Return the energy distance of each class over the mean distance of its real points; unbiased in both.

    ``2 E|x - y| - E|x - x'| - E|y - y'|``, zero for equal distributions only: the squared maximum mean discrepancy with
    the kernel -|x - y|, which has no bandwidth. The spreads are each side's `mean_distance`.

    References
    ----------
    Szekely, Rizzo: Energy statistics, J. Statist. Plann. Inference 143 (2013).

    Examples
    --------
    >>> points = torch.tensor([[[0.0], [1.0]]])
    >>> spread = mean_distance(points)
    >>> energy_distance(points, points + 3, spread, spread)
    tensor([4.])
    """
    between = torch.cdist(real, generated).mean(dim=(1, 2))
    return (2 * between - real_spread - generated_spread) / real_spread.clamp(min=1e-6)


def mean_distance(points: Float[Tensor, "classes n size"]) -> Float[Tensor, " classes"]:
    """Return the mean distance of two different points of each class; 0 of one point."""
    count = points.shape[1]
    # Not by a matrix product, which rounds: the distance of a point to itself has to be 0, without a gradient.
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.sum(dim=(1, 2)) / max(1, count * (count - 1))
