"""The mixture density head: from an encoder's features to a Gaussian mixture for every image.

The head computes mixtures in float32 even under autocast: half precision cannot represent their tails.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from jaxtyping import Float
from sextet_common.checks import Count, Positive, check
from torch import Tensor, nn
from torch.nn import functional

from probmcl.mixtures.parameters import Covariance, MixtureParameters

MeanShape = Literal["vector", "scalar"]
StdActivation = Literal["elu", "softplus", "exp"]

_LARGEST_LOG_STD = 10.0  # exp(10) = 22026 keeps `exp` from overflowing and is far above any sensible deviation


class MixtureDensityHead(nn.Module):
    """Map features to mixtures: a trunk of linear layers, then linear layers for weights, means and deviations.

    The trunk's last layer has `dim` outputs: the projection of an image, a point in the space of the mixtures, at which
    the likelihood is evaluated.

    Parameters
    ----------
    n_components
        Components of each mixture: in the paper one for every label, component k being label k's.
    covariance
        "isotropic", one deviation a component, or "diagonal", one a component and dimension.
    hidden
        Widths of the trunk before its last layer.
    mean
        "vector", a mean of `dim` numbers a component, or "scalar", one number for all dimensions.
    positive
        Function that makes deviations positive: 1 + elu, softplus or exp.
    normalise
        Scale every component's mean to the length sqrt(dim), so that similarities of mixtures do not depend on the
        number of dimensions; scalar means stay as they are. Not specified in the paper; without it the contrastive
        term hardly learns.
    min_std
        Smallest deviation. A head that sees the point at which its likelihood is evaluated could shrink its deviations
        to nothing; this floor prevents that.

    References
    ----------
    The figure of arXiv 2401.01448: Linear(2048), Linear(128), then linear layers with softmax for the weights and ELU
    for the deviations. Not specified in the paper: ELU goes down to -1, so we add 1 and the floor; the ReLU between the
    linear layers; the choice of covariance.

    Examples
    --------
    >>> head = MixtureDensityHead(in_features=64, n_components=10, dim=16, hidden=(32,))
    >>> mixture = head(torch.randn(4, 64))
    >>> mixture.means.shape, mixture.log_std.shape
    (torch.Size([4, 10, 16]), torch.Size([4, 10]))
    """

    def __init__(
        self,
        in_features: int,
        n_components: int,
        dim: int,
        covariance: Covariance = "isotropic",
        *,
        hidden: tuple[int, ...] = (2048,),
        mean: MeanShape = "vector",
        positive: StdActivation = "elu",
        normalise: bool = True,
        min_std: float = 0.1,
    ) -> None:
        super().__init__()
        for name, width in {"in_features": in_features, "n_components": n_components, "dim": dim}.items():
            check(name, width, Count)
        check("hidden", hidden, tuple[Count, ...])
        check("covariance", covariance, Covariance)
        check("mean", mean, MeanShape)
        check("positive", positive, StdActivation)
        check("normalise", normalise, bool)
        check("min_std", min_std, Positive)
        self.n_components, self.dim, self.covariance, self.min_std = n_components, dim, covariance, min_std
        self.mean, self.positive = mean, positive
        self.normalise = normalise and mean == "vector"
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((in_features, *hidden, dim)):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
        self.trunk = nn.Sequential(*layers[:-1])
        self.weights_of = nn.Linear(dim, n_components)
        self.means_of = nn.Linear(dim, n_components * (dim if mean == "vector" else 1))
        self.deviations_of = nn.Linear(dim, n_components * (dim if covariance == "diagonal" else 1))

    def project(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch dims"]:
        """Map features to points in the space of the mixtures, float32 or wider."""
        projected: Tensor = self.trunk(features)
        return projected if projected.dtype == torch.float64 else projected.float()

    def mixture(self, projection: Float[Tensor, "batch dims"]) -> MixtureParameters:
        """Map the points that `project` returned to mixtures, outside autocast."""
        with torch.autocast(projection.device.type, enabled=False):
            hidden = functional.relu(projection)
            log_weights = functional.log_softmax(self.weights_of(hidden), dim=-1)
            means = self.means_of(hidden).unflatten(-1, (self.n_components, -1))
            if self.normalise:
                means = functional.normalize(means, dim=-1) * math.sqrt(self.dim)
            raw = self.deviations_of(hidden)
            if self.covariance == "diagonal":
                raw = raw.unflatten(-1, (self.n_components, -1))
            if self.positive == "exp":
                std = raw.clamp(max=_LARGEST_LOG_STD).exp()
            else:
                std = functional.softplus(raw) if self.positive == "softplus" else 1 + functional.elu(raw)
            return MixtureParameters(log_weights, means.expand(-1, -1, self.dim), (std + self.min_std).log())

    def forward(self, features: Float[Tensor, "batch features"]) -> MixtureParameters:
        """Map features to mixtures."""
        return self.mixture(self.project(features))
