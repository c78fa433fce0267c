"""The methods of a model that say how far to trust its predictions."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import overload

import numpy as np
import torch
from jaxtyping import Bool, Float
from sextet_common.checks import check
from sextet_common.errors import InputError
from torch import Tensor

from probmcl.data.sets import Inputs, Split
from probmcl.mixtures.parameters import MixtureParameters
from probmcl.mixtures.uncertainty import Uncertainty, uncertainty
from probmcl.reliability import kinds
from probmcl.reliability.conformal import ConformalSets, Guarantee
from probmcl.reliability.kinds import Kind
from probmcl.reliability.saved import Reliability


class UncertaintyMixin(ABC):
    """Uncertainties and sets of labels from a model's probabilities, embeddings and mixtures."""

    reliability: Reliability

    @abstractmethod
    def predict_proba(self, inputs: Inputs) -> Float[Tensor, "rows labels"]:
        """Predict the probability of every label."""

    @abstractmethod
    def embed(self, inputs: Inputs) -> Float[Tensor, "rows features"]:
        """Compute the encoder's features."""

    @abstractmethod
    def mixtures(self, inputs: Inputs) -> MixtureParameters:
        """Compute the images' mixtures."""

    def variances(self, inputs: Inputs) -> Uncertainty:
        """Compute the variance between and within the components of the images' mixtures; inputs as in `mixtures`."""
        return uncertainty(self.mixtures(inputs))

    @overload
    def uncertainty(self, inputs: Inputs) -> Uncertainty: ...
    @overload
    def uncertainty(self, inputs: Inputs, kind: Kind) -> Float[Tensor, " rows"]: ...
    def uncertainty(self, inputs: Inputs, kind: Kind | None = None) -> Float[Tensor, " rows"] | Uncertainty:
        """Compute how uncertain the predictions are, higher for less certain ones; inputs as in `predict_proba`.

        "entropy", "margin" and "any_error" come from the classifier's probabilities, see `probability_uncertainty`.
        "distance" is that of the encoder's features to those of the training images, see `LabelGaussians`.
        "mutual_information", "between", "within" and "total" come from the mixtures, see `mutual_information` and
        `Uncertainty`; a model without mixtures is refused.

        Without a kind, which is deprecated, the result is that of `variances`.
        """
        if kind is None:
            hint = f"use variances(...), or a kind: a later release takes kind={kinds.DEFAULT!r}"
            warnings.warn(f"uncertainty(...) without a kind is deprecated; {hint}", DeprecationWarning, stacklevel=2)
            return self.variances(inputs)
        check("kind", kind, Kind)
        if kinds.needs_mixtures(kind):
            return kinds.mixture_uncertainty(self.mixtures(inputs), kind)
        if kinds.needs_probabilities(kind):
            return kinds.probability_uncertainty(self.predict_proba(inputs), kind)
        if self.reliability.gaussians is None:
            raise InputError("the model has no Gaussians of its training images", "fit_distance(training data) first")
        return torch.from_numpy(self.reliability.gaussians.distance(self.embed(inputs).numpy())).float()

    def conformal(self, data: Split, level: float = 0.9, guarantee: Guarantee = "recall") -> ConformalSets:
        """Choose sets of labels with a guaranteed coverage on labelled images, for `predict_sets`.

        ``data`` are images that the model was not trained on, such as the validation part; the guarantees are those of
        `ConformalSets`. The thresholds are saved with the model.
        """
        sets = ConformalSets.fit(self.predict_proba(data), np.array(data.labels), level, guarantee)
        self.reliability = Reliability(self.reliability.gaussians, sets)
        return sets

    def predict_sets(self, inputs: Inputs) -> Bool[Tensor, "rows labels"]:
        """Predict sets of labels with the coverage that `conformal` was asked for; inputs as in `predict_proba`."""
        if self.reliability.sets is None:
            raise InputError("the model has no thresholds for sets of labels", "conformal(calibration data) first")
        return self.reliability.sets.predict(self.predict_proba(inputs))
