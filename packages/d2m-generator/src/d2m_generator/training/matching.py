"""The distillation loss: embedding and prediction matching of real and generated images, class by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from attention_matching import FeatureNetwork, Features, attention_means, class_means
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


@dataclass(frozen=True)
class MatchingLoss:
    """Embedding matching plus prediction matching.

    For class k, let a be the mean unit-length attention maps of all blocks but the last, e the mean embedding and o the
    mean logits of its images::

        L_k = sum_l |a_l(real) - a_l(generated)|^2 + feature_weight |e(real) - e(generated)|^2 / size(e)
              + prediction_weight KL( softmax(o(real) / T) || softmax(o(generated) / T) )

    Images are ordered by class, with the same number per class; real and generated images may differ in that number.

    Parameters
    ----------
    maps
        Attention maps: channel (as in the paper), spatial, both or none.
    power
        Exponent of the attention maps.
    feature_weight
        Weight of the squared distance of the embeddings.
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
    uses lambda = 10. We use lambda = 1, and our own choice of power, embedding weight and division by the size.
    """

    maps: Maps = "channel"
    power: Advanced[Count] = 4
    feature_weight: Advanced[NonNegative] = 1.0
    prediction: Prediction = "kl"
    prediction_weight: NonNegative = 1.0
    temperature: Positive = 4.0
    reduction: Advanced[Reduction] = "class"
    temperature_squared: Advanced[bool] = False

    def __post_init__(self) -> None:
        checks.check_fields(self)

    def embeddings(self, real: Features, generated: Features, n_classes: int) -> Float[Tensor, " classes"]:
        """Return the embedding term of each class for the features of one network."""
        powers = {"channel": (None, self.power), "spatial": (self.power, None), "both": (self.power,) * 2}
        means = [class_means(f.embedding.flatten(1).float(), n_classes) for f in (real, generated)]
        total = self.feature_weight * (means[0] - means[1]).square().mean(dim=1)
        if self.maps == "none":
            return total
        for a, b in zip(real.maps[:-1], generated.maps[:-1], strict=True):
            pairs = zip(*(attention_means(m.float(), n_classes, *powers[self.maps]) for m in (a, b)), strict=True)
            for one, other in pairs:
                if one is not None and other is not None:
                    total = total + (one - other).square().sum(dim=1)
        return total

    def predictions(
        self, real: Float[Tensor, "images classes"], generated: Float[Tensor, "images classes"], n_classes: int
    ) -> Float[Tensor, " classes"]:
        """Return the prediction term of each class for logits, without its weight."""
        real, generated = real.float(), generated.float()
        if self.prediction == "mse":
            return (class_means(real, n_classes) - class_means(generated, n_classes)).square().mean(dim=1)
        if self.reduction == "sample":
            if len(real) != len(generated):
                given = f"{len(real)} real and {len(generated)} generated images to pair"
                raise InputError(given, "equal numbers of both")
            return class_means(self._divergence(real, generated)[:, None], n_classes)[:, 0]
        return self._divergence(class_means(real, n_classes), class_means(generated, n_classes))

    def __call__(
        self, network: FeatureNetwork, real: Tensor, generated: Tensor, n_classes: int
    ) -> Float[Tensor, " classes"]:
        """Return the loss of each class for the inputs of a network; gradients flow to `generated` alone."""
        with torch.no_grad():
            real_features = network.features(real)
        features = network.features(generated)
        loss = self.embeddings(real_features, features, n_classes)
        if self.prediction == "none" or not self.prediction_weight:
            return loss
        with torch.no_grad():
            target = network.classifier(real_features.embedding)
        logits = network.classifier(features.embedding)
        return loss + self.prediction_weight * self.predictions(target, logits, n_classes)

    def _divergence(self, real: Tensor, generated: Tensor) -> Tensor:
        log_q, log_p = (functional.log_softmax(logits / self.temperature, dim=1) for logits in (generated, real))
        divergence = functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
        return divergence * self.temperature**2 if self.temperature_squared else divergence
