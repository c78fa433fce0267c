"""What a generator is distilled with: embeddings and predictions of real and generated images, class by class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from attention_matching import FeatureNetwork, Features, attention_means, class_means
from jaxtyping import Float
from sextet_common.errors import InputError
from torch import Tensor
from torch.nn import functional

Maps = Literal["channel", "spatial", "both", "none"]
Prediction = Literal["kl", "mse", "none"]
Reduction = Literal["class", "sample"]


@dataclass(frozen=True)
class MatchingLoss:
    """Embedding matching plus prediction matching.

    For class k, with a the mean unit-length attention maps of the blocks below the last, e the mean embedding and o the
    mean logits of its images::

        L_k = sum_l |a_l(real) - a_l(made)|^2 + feature_weight |e(real) - e(made)|^2 / size(e)
              + prediction_weight KL( softmax(o(real) / T) || softmax(o(made) / T) )

    Parameters
    ----------
    maps
        Which attention maps: channel (the paper's), spatial, both or none.
    power
        Their exponent.
    feature_weight
        Of the embeddings' squared distance, over their size.
    prediction
        kl, mse (of the logits) or none.
    prediction_weight
        lambda.
    temperature
        Of the predictions.
    reduction
        Of kl: "class" compares the softmax of mean logits; "sample" pairs the images of a class, one by one.
    temperature_squared
        Multiply kl by T^2.

    Raises
    ------
    InputError
        For an option outside what is accepted.

    References
    ----------
    D2M, arXiv 2411.12841. Its settings were not at hand: T 4 is that of a public port, which has lambda 10; lambda 1,
    the power, the weight of the embeddings and their division by the size are *ours*.
    """

    maps: Maps = "channel"
    power: int = 4
    feature_weight: float = 1.0
    prediction: Prediction = "kl"
    prediction_weight: float = 1.0
    temperature: float = 4.0
    reduction: Reduction = "class"
    temperature_squared: bool = False

    def __post_init__(self) -> None:
        for name, known in (("maps", Maps), ("prediction", Prediction), ("reduction", Reduction)):
            if getattr(self, name) not in get_args(known):
                raise InputError(f"{name} is {getattr(self, name)!r}", ", ".join(get_args(known)))
        for name in ("feature_weight", "prediction_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}", "a number >= 0")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"the temperature is {self.temperature}", "a number > 0")

    def embeddings(self, real: Features, made: Features, n_classes: int) -> Float[Tensor, " classes"]:
        """Compute each class's embedding term.

        Parameters
        ----------
        real, made
            A network's features, class after class, equally many images of each class in each of the two.
        n_classes
            How many classes there are.

        Returns
        -------
        Tensor
            Shape (n_classes,).
        """
        powers = {"channel": (None, self.power), "spatial": (self.power, None), "both": (self.power,) * 2}
        means = [class_means(f.embedding.flatten(1).float(), n_classes) for f in (real, made)]
        total = self.feature_weight * (means[0] - means[1]).square().mean(dim=1)
        if self.maps == "none":
            return total
        for a, b in zip(real.maps[:-1], made.maps[:-1], strict=True):
            pairs = zip(*(attention_means(m.float(), n_classes, *powers[self.maps]) for m in (a, b)), strict=True)
            for one, other in pairs:
                if one is not None and other is not None:
                    total = total + (one - other).square().sum(dim=1)
        return total

    def predictions(
        self, real: Float[Tensor, "images classes"], made: Float[Tensor, "images classes"], n_classes: int
    ) -> Float[Tensor, " classes"]:
        """Compute each class's prediction term, without its weight.

        Parameters
        ----------
        real, made
            Logits, class after class, equally many images of each class.
        n_classes
            How many classes the images are of.

        Returns
        -------
        Tensor
            Shape (n_classes,).

        Raises
        ------
        InputError
            Where images are to be paired and there are not as many of both.
        """
        real, made = real.float(), made.float()
        if self.prediction == "mse":
            return (class_means(real, n_classes) - class_means(made, n_classes)).square().mean(dim=1)
        if self.reduction == "sample":
            if len(real) != len(made):
                raise InputError(f"{len(real)} real and {len(made)} made images to pair", "as many of both")
            return class_means(self._divergence(real, made)[:, None], n_classes)[:, 0]
        return self._divergence(class_means(real, n_classes), class_means(made, n_classes))

    def __call__(
        self, network: FeatureNetwork, real: Tensor, made: Tensor, n_classes: int
    ) -> Float[Tensor, " classes"]:
        """Compute each class's loss.

        Parameters
        ----------
        network
            The network that looks; gradients flow through it to `made` alone.
        real, made
            Its inputs, class after class, equally many of each class in each of the two.
        n_classes
            How many classes there are.

        Returns
        -------
        Tensor
            Shape (n_classes,).
        """
        with torch.no_grad():
            known = network.features(real)
        found = network.features(made)
        loss = self.embeddings(known, found, n_classes)
        if self.prediction == "none" or not self.prediction_weight:
            return loss
        with torch.no_grad():
            wanted = network.classifier(known.embedding)
        return loss + self.prediction_weight * self.predictions(wanted, network.classifier(found.embedding), n_classes)

    def _divergence(self, real: Tensor, made: Tensor) -> Tensor:
        logs = [functional.log_softmax(logits / self.temperature, dim=1) for logits in (made, real)]
        found = functional.kl_div(logs[0], logs[1], reduction="none", log_target=True).sum(dim=1)
        return found * self.temperature**2 if self.temperature_squared else found
